"""Tiles: images with a WCS, from FITS files or arrays."""
