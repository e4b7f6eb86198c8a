"""The inner loops, compiled or in numpy."""

from .compiled import fused

#: Whether the kernels were compiled when the package was built.
COMPILED = fused is not None
