"""The figures of the notebooks: colour-blind safe, titled, legible at half width."""
