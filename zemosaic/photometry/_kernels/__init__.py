"""The inner loops of the photometry: compiled, or in numpy if the package has no compiled kernels.

Each kernel has two implementations with the same signature. `reference`, in numpy, defines what it
computes and runs everywhere; `compiled` calls C. Their results differ in the last bits only. Call a
kernel as ``_kernels.name(...)``, so that `select` has an effect.
"""

from __future__ import annotations

from types import ModuleType

from . import reference
from .reference import (
    block_weights,
    design_matrix,
    factorize_fronts,
    fit_irls,
    gather_blocks,
    gather_cells,
    initial_slope,
    invert_fronts,
    normal_blocks,
    overlap_areas,
    pair_residuals,
    sample_linear,
    sample_spline,
    sky_planes,
    solve_fronts,
    summarize_bands,
    summarize_fit,
    tile_levels,
)

__all__ = [
    "COMPILED",
    "DEFAULT",
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
    "reference",
    "sample_linear",
    "sample_spline",
    "select",
    "sky_planes",
    "solve_fronts",
    "summarize_bands",
    "summarize_fit",
    "tile_levels",
]

#: The implementation in use unless another is selected.
DEFAULT: ModuleType
try:
    from . import compiled
except ImportError:  # built without a compiler
    DEFAULT = reference
else:
    DEFAULT = compiled

#: Whether the package has compiled kernels.
COMPILED = DEFAULT is not reference


def select(implementation: ModuleType) -> None:
    """Use the kernels of `compiled` or `reference` from now on, in all threads of this process."""
    for name in reference.__all__:
        globals()[name] = getattr(implementation, name)


select(DEFAULT)
