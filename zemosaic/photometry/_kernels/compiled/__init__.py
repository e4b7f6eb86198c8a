"""The kernels in C: allocate their outputs and work arrays, and call them.

Importing this package raises ImportError if it was built without a compiler. `reference` documents
the functions.
"""

from .fits import (
    block_weights,
    design_matrix,
    fit_irls,
    initial_slope,
    sky_planes,
    summarize_bands,
    summarize_fit,
)
from .fronts import factorize_fronts, invert_fronts, solve_fronts
from .pairs import normal_blocks, pair_residuals, tile_levels
from .previews import gather_blocks, gather_cells, overlap_areas, sample_linear, sample_spline

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
