"""The compiled kernels, or None where the package was built without a compiler.

A function that has a kernel calls it here and computes the same in numpy where there is none. The
results differ in their last bits.
"""

from __future__ import annotations

from types import ModuleType

fused: ModuleType | None
try:
    from . import _fused as fused  # type: ignore[attr-defined,no-redef]
except ImportError:  # there was no compiler
    fused = None
