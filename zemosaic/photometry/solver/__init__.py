"""Solve for gains, offsets and planes of all tiles from the fits of their pairs."""
