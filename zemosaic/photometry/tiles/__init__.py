"""Tiles: images with a celestial WCS, read from FITS files or given as arrays."""
