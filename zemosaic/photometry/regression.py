"""The algebra of a pair's fit: weighted products, small systems, and errors from patches.

Written for vectors of one or two thousand elements, where starting a function of numpy costs as
much as what it does; `numpy.median` takes longer to start than to end, for one.
"""

from __future__ import annotations

import numpy as np

PIECE = 1_800  # elements of one matrix product


def median(z: np.ndarray) -> float:
    """Median of a vector without NaN."""
    half = len(z) // 2
    ranked = np.partition(z, half)
    return float(ranked[half] if len(z) % 2 else (ranked[half] + ranked[:half].max()) / 2)


def robust_scale(u: np.ndarray) -> float:
    """Robust standard deviation of residuals; 1 where most of them are 0."""
    return median(np.abs(u)) / 0.6745 or 1.0


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a small system whose empty columns (a scene without structure) get zeros."""
    scale = np.sqrt(np.abs(matrix.diagonal()))
    scale[scale == 0] = 1.0
    scaled = matrix / (scale[:, None] * scale)
    scaled.flat[:: len(scale) + 1] += 1e-12
    return (np.linalg.solve(scaled, (right.T / scale).T).T / scale).T


def combined(coefficients: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of the first columns ``(K, N)`` with these coefficients."""
    return np.einsum("k,kn->n", coefficients, columns[: len(coefficients)])


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product without BLAS and its threads (see `products`)."""
    return float(np.einsum("i,i->", a, b))


def products(columns: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted scalar products ``(K, K)`` of the rows of a ``(K, N)`` array."""
    # In pieces too small for BLAS to use threads: those would fight with the other workers
    # for the processors, and the last bits of a sum could depend on their number.
    weighted, total = columns * w, 0.0
    for k in range(0, len(w), PIECE):
        total = total + weighted[:, k : k + PIECE] @ columns[:, k : k + PIECE].T
    return np.asarray(total)


def planes_through(z: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Coefficients ``(3, K)`` of the planes in 1, u and v that come nearest to each of K rows."""
    basis = np.stack([np.ones_like(u), u, v])
    return solved(np.einsum("in,jn->ij", basis, basis), np.einsum("in,kn->ik", basis, z))


def line(gram: np.ndarray, count: int, slope: float | None) -> tuple[float, np.ndarray]:
    """Slope and coefficients of the first `count` terms; a slope that is given is kept.

    `gram` holds the products of x, y, the instrument for x, and the terms, in this order.
    """
    k = 3 + count
    if slope is not None:
        return slope, solved(gram[3:k, 3:k], gram[3:k, 1] - slope * gram[3:k, 0])
    matrix = gram[2:k, 2:k].copy()
    matrix[:, 0] = gram[2:k, 0]
    solution = solved(matrix, gram[2:k, 1])
    return float(solution[0]), solution[1:]


def unexplained(gram: np.ndarray, slope: float, coefficients: np.ndarray) -> float:
    """Weighted sum of the squares that a line leaves."""
    whole = np.concatenate([[-slope, 1.0, 0.0], -coefficients])
    return float(whole @ gram[: len(whole), : len(whole)] @ whole)


class Errors:
    """Standard errors from sums over patches: right whatever the noise is within a patch.

    The sandwich estimator of Liang and Zeger (1986, Biometrika 73, 13): neighbouring cells
    share pixels and star edges, so their errors are not independent; those of patches are.
    The sum of each patch is enlarged by its leverage, since it draws the fit to itself (as in
    MacKinnon and White 1985, J. Econometrics 29, 305), and all by what the biweight's slope
    takes from the information (Huber 1981, Robust Statistics, section 7.6).
    """

    def __init__(self, patch: np.ndarray, w: np.ndarray, bent: np.ndarray, scale: float) -> None:
        self._patch, self._w, self._sigma = patch, w, scale
        t = np.minimum(bent * bent, 1)
        kept = 1 - t
        self._bread = max(1.0, dot(kept, kept) / dot(kept, 1 - 5 * t))

    def _sums(self, weighted: np.ndarray, z: np.ndarray, rest: np.ndarray) -> np.ndarray:
        sums = np.bincount(self._patch, weights=weighted * rest)
        share = np.bincount(self._patch, weights=weighted * z)
        return sums / np.maximum(1 - share / max(share.sum(), 1e-300), 0.1)

    def of(
        self, z: np.ndarray, rest: np.ndarray, noise: float = 0.0, seen: np.ndarray | None = None
    ) -> float:
        """Error of the coefficient of z, whose spread holds that much noise.

        Where z is the instrument for a noisier variable, `seen` is that: what it does not show
        of z (a hot pixel of the other tile) tells nothing of the coefficient.
        """
        weighted = self._w * z
        size = dot(weighted, z) - noise
        information = size if seen is None else dot(weighted, seen) - noise
        if not min(size, information) > 0:
            return float("inf")
        sums = self._sums(weighted, z, rest)
        # A few patches tell too little, so it is never less than for independent cells.
        variance = max(dot(sums, sums), self._sigma**2 * size) / information**2
        return self._bread * float(np.sqrt(variance))

    def of_two(
        self, z: np.ndarray, other: np.ndarray, rest: np.ndarray
    ) -> tuple[float, float, float]:
        """Covariance (first, mixed, second) of the coefficients of two terms."""
        one, two = self._w * z, self._w * other
        mixed = dot(one, other)
        information = np.array([[dot(one, z), mixed], [mixed, dot(two, other)]])
        if not information[0, 0] * information[1, 1] > mixed**2:
            return float("inf"), 0.0, float("inf")
        sums = np.stack([self._sums(one, z, rest), self._sums(two, other, rest)])
        inverse = np.linalg.inv(information) * self._bread
        covariance = inverse @ np.einsum("ip,jp->ij", sums, sums) @ inverse
        covariance += self._sigma**2 * inverse / self._bread
        return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])
