"""Previews: tiles resampled onto one coarse grid.

Pixels are averaged in bins (`binning`), the bins are sampled at the cells of the grid
(`resampling`), and the cells are summarized in blocks of 4 x 4 (`block_summary`).
"""
