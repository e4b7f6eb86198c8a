"""The factor of a sparse symmetric system, front by front, with dense linear algebra.

scipy.linalg is not used: the threads of its OpenBLAS and of numpy's would compete.
"""

from __future__ import annotations

import numpy as np

from ..fronts import FrontField, Fronts


def factorize_fronts(
    fronts: Fronts, diagonal: np.ndarray, blocks: np.ndarray, panels: np.ndarray,
    updates: np.ndarray,
) -> bool:  # fmt: skip
    """Factorize ``diag(diagonal) + Σ blocks = Uᵀ U``.

    Parameters
    ----------
    fronts : Fronts
        The structure.
    diagonal : ndarray
        ``(N,)``.
    blocks : ndarray
        ``(P, m, m)`` symmetric.
    panels : ndarray
        Gets the factor.
    updates : ndarray
        Scratch space for the updates of all fronts.

    Returns
    -------
    bool
        Whether the matrix is positive definite.
    """
    for front in range(len(fronts.table) - 1):
        panel, columns = fronts.panel(front, panels), fronts.columns_of(front)
        (own, size), chosen = (len(panel), len(columns)), fronts.blocks_of(front)
        matrix = _assemble(fronts.place[chosen], blocks[chosen], size)
        matrix[np.arange(own), np.arange(own)] += diagonal[columns[:own]]
        for child in fronts.children_of(front):
            place = fronts.above_of(child)
            matrix[place[:, None], place] += fronts.update(child, updates)
        if own:
            try:
                lower = np.linalg.cholesky(matrix[:own, :own])
            except np.linalg.LinAlgError:
                return False
            if not np.isfinite(lower.diagonal()).all():
                return False
            panel[:, :own] = lower.T
            panel[:, own:] = _solve_lower(lower, matrix[:own, own:])
        coupling = panel[:, own:]
        fronts.update(front, updates)[:] = matrix[own:, own:] - coupling.T @ coupling
    return True


def solve_fronts(fronts: Fronts, panels: np.ndarray, solution: np.ndarray) -> None:
    """Solve ``Uᵀ U x = b`` for right-hand sides ``(N, k)``, in place."""
    number = len(fronts.table) - 1
    for front in range(number):
        upper, coupling, own, rest = _parts(fronts, panels, front)
        if len(own):
            part = _solve_lower(upper.T, solution[own])
            solution[own] = part
            solution[rest] -= coupling.T @ part
    for front in range(number - 1, -1, -1):
        upper, coupling, own, rest = _parts(fronts, panels, front)
        if len(own):
            part = solution[own] - coupling @ solution[rest]
            solution[own] = np.linalg.solve(upper, part)


def invert_fronts(
    fronts: Fronts, panels: np.ndarray, updates: np.ndarray, diagonal: np.ndarray,
    blocks: np.ndarray,
) -> None:  # fmt: skip
    """Compute the inverse within all fronts.

    In the columns of a front ``U = (U₁ C)``, and the inverse Z of the remaining columns is known::

        Y = U₁⁻¹ C      Z₁₂ = - Y Z₂₂      Z₁₁ = U₁⁻¹ U₁⁻ᵀ - Z₁₂ Yᵀ

    Parameters
    ----------
    fronts : Fronts
        The structure.
    panels : ndarray
        The factor.
    updates : ndarray
        Inverses ``Z₂₂`` in the places of the updates; scratch space.
    diagonal : ndarray
        Gets the diagonal ``(N,)`` of the inverse.
    blocks : ndarray
        Gets the inverse ``(P, m, m)`` at the columns of each block, 0 where there is none.
    """
    for front in range(len(fronts.table) - 2, -1, -1):
        upper, coupling, own, _ = _parts(fronts, panels, front)
        outer = fronts.update(front, updates)
        size = len(own) + len(outer)
        inverse = np.empty((size, size))
        root = upper
        if len(own):
            root = np.linalg.inv(upper)
        ratio = root @ coupling
        across = -ratio @ outer
        inverse[: len(own), : len(own)] = root @ root.T - across @ ratio.T
        inverse[: len(own), len(own) :], inverse[len(own) :, : len(own)] = across, across.T
        inverse[len(own) :, len(own) :] = outer
        for child in fronts.children_of(front):
            place = fronts.above_of(child)
            fronts.update(child, updates)[:] = inverse[place[:, None], place]
        diagonal[own] = inverse.diagonal()[: len(own)]
        chosen = fronts.blocks_of(front)
        place = fronts.place[chosen]
        blocks[chosen] = np.pad(inverse, (0, 1))[place[:, :, None], place[:, None, :]]


def _solve_lower(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a lower triangular system, reversed to an upper one.

    numpy has no solver for triangular systems. Its general one does not pivot an upper triangular
    matrix; pivots would cost the covariances a digit.
    """
    return np.asarray(np.linalg.solve(lower[::-1, ::-1], right[::-1])[::-1])


def _parts(
    fronts: Fronts, panels: np.ndarray, front: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return U₁ and C of a front, its own columns, and the others."""
    panel, columns = fronts.panel(front, panels), fronts.columns_of(front)
    own = int(fronts.table[front, FrontField.OWN])
    return panel[:, :own], panel[:, own:], columns[:own], columns[own:]


def _assemble(place: np.ndarray, blocks: np.ndarray, size: int) -> np.ndarray:
    """Return the sum ``(size, size)`` of blocks at rows and columns ``(P, m)``, -1 for none."""
    place = np.where(place < 0, size, place)
    flat = (place[:, :, None] * (size + 1) + place[:, None, :]).ravel()
    total = np.bincount(flat, blocks.ravel(), (size + 1) ** 2)
    return np.array(total.reshape(size + 1, size + 1)[:size, :size], dtype=float)
