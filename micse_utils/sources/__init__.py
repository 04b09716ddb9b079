"""Where models and data come from: a folder, the hub, or a pinned package."""
