"""The kernels in numpy, a module for each group of source files in C."""

from __future__ import annotations

from .bands import summarize_bands
from .blocks import block_weights, gather_blocks, gather_cells
from .fronts import factorize_fronts, invert_fronts, solve_fronts
from .irls import fit_irls
from .linear import sample_linear
from .pairs import normal_blocks, pair_residuals, tile_levels
from .resampling import sample_spline
from .scene import design_matrix, sky_planes
from .slope import initial_slope
from .spherical import overlap_areas
from .summary import summarize_fit

__all__ = [
    "block_weights",
    "design_matrix",
    "factorize_fronts",
    "fit_irls",
    "gather_blocks",
    "gather_cells",
    "initial_slope",
    "invert_fronts",
    "normal_blocks",
    "overlap_areas",
    "pair_residuals",
    "sample_linear",
    "sample_spline",
    "sky_planes",
    "solve_fronts",
    "summarize_bands",
    "summarize_fit",
    "tile_levels",
]
