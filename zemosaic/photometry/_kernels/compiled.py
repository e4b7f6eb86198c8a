"""The compiled kernels, where they were built (see `_fused.c`).

A function that has a kernel asks for it here and does the same in numpy where there is none; the
two differ in the last bits.
"""

from __future__ import annotations

from types import ModuleType

fused: ModuleType | None
try:
    from . import _fused as fused  # type: ignore[attr-defined,no-redef]
except ImportError:  # there was no compiler
    fused = None
