"""The graph of overlapping footprints."""
