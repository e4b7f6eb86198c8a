"""The version of the package, and whether its compiled kernels are installed."""

from __future__ import annotations

__version__ = "0.2.1"


def has_compiled_kernels() -> bool:
    """Return whether the compiled kernels are used; without them numpy does the same work."""
    from .photometry._kernels import compiled

    return compiled.fused is not None
