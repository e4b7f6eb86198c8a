"""The choice of kernels in tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from zemosaic.photometry import _kernels


@contextmanager
def use_kernels(implementation: ModuleType) -> Iterator[None]:
    """Use the kernels of `_kernels.compiled` or `_kernels.reference` for a while."""
    _kernels.select(implementation)
    try:
        yield
    finally:
        _kernels.select(_kernels.DEFAULT)
