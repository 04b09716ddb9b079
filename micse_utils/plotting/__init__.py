"""The figures of the notebooks.

Colour-blind safe, titled, legible at half width; a module for each kind of page.
"""
