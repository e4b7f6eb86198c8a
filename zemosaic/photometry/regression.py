"""The algebra of a pair's fit: weighted products, small systems, and errors from patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

PIECE = 1_800  # cells of one matrix product


class Gram:
    """Weighted scalar products of x, y, the instrument and the nuisance terms."""

    ROWS = ("x", "y", "along")

    def __init__(
        self,
        w: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        along: np.ndarray,
        terms: np.ndarray,
        prior: Mapping[int, float] | None = None,
    ) -> None:
        columns = np.stack([x, y, along, *terms])
        # In pieces too small for BLAS to use threads: those would fight with the other workers
        # for the processors, and the last bits of a sum could depend on their number.
        pieces = range(0, columns.shape[1], PIECE)
        self._products = sum(
            (columns[:, k : k + PIECE] * w[k : k + PIECE]) @ columns[:, k : k + PIECE].T
            for k in pieces
        )
        for k, information in (prior or {}).items():
            self._products[3 + k, 3 + k] += information

    def line(self, count: int, slope: float | None) -> tuple[float, np.ndarray]:
        """Slope and coefficients of the first `count` terms; a slope that is given is kept."""
        g, k = self._products, list(range(3, 3 + count))
        if slope is not None:
            return slope, solved(g[np.ix_(k, k)], g[k, 1] - slope * g[k, 0])
        solution = solved(g[np.ix_([2, *k], [0, *k])], g[[2, *k], 1])
        return float(solution[0]), solution[1:]

    def left(self, count: int, slope: float | None) -> float:
        """Weighted sum of squares that the line with `count` terms leaves."""
        a, coefficients = self.line(count, slope)
        whole = np.concatenate([[-a, 1.0, 0.0], -coefficients])
        g = self._products[: 3 + count, : 3 + count]
        return float(whole @ g @ whole)

    def projected(self, name: str, terms: Sequence[int]) -> np.ndarray:
        """Coefficients of some terms, by number, that come nearest to x, y or along."""
        g, k = self._products, [3 + term for term in terms]
        return solved(g[np.ix_(k, k)], g[k, self.ROWS.index(name)])

    def tilt(self, name: str) -> tuple[float, float]:
        """Slopes of a plane through x or y, where terms 0, 4 and 5 are one, u and v."""
        _, u, v = self.projected(name, (0, 4, 5))
        return float(u), float(v)


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
        t = np.minimum(bent**2, 1)
        self._bread = max(1.0, float(((1 - t) ** 2).sum() / ((1 - t) * (1 - 5 * t)).sum()))

    def _sums(self, z: np.ndarray, rest: np.ndarray) -> np.ndarray:
        sums = np.bincount(self._patch, weights=self._w * z * rest)
        share = np.bincount(self._patch, weights=self._w * z * z)
        return sums / np.maximum(1 - share / max(share.sum(), 1e-300), 0.1)

    def of(
        self, z: np.ndarray, rest: np.ndarray, noise: float = 0.0, seen: np.ndarray | None = None
    ) -> float:
        """Error of the coefficient of z, whose spread holds that much noise.

        Where z stands for a noisier variable, `seen` is that: what it does not show of z (a hot
        pixel of the other tile) tells nothing of the coefficient.
        """
        information = dot(self._w * z, z) - noise
        if seen is not None:
            information = min(information, dot(self._w * z, seen))
        if not information > 0:
            return float("inf")
        sums = self._sums(z, rest)
        # A few patches tell too little, so it is never less than for independent cells.
        variance = max(dot(sums, sums) / information**2, self._sigma**2 / information)
        return self._bread * float(np.sqrt(variance))

    def of_two(
        self, z: np.ndarray, other: np.ndarray, rest: np.ndarray
    ) -> tuple[float, float, float]:
        """Covariance (first, mixed, second) of the coefficients of two terms."""
        mixed = dot(self._w * z, other)
        information = np.array([[dot(self._w * z, z), mixed], [mixed, dot(self._w * other, other)]])
        if not np.linalg.det(information) > 0:
            return float("inf"), 0.0, float("inf")
        sums = np.stack([self._sums(z, rest), self._sums(other, rest)])
        inverse = np.linalg.inv(information) * self._bread
        covariance = inverse @ np.einsum("ip,jp->ij", sums, sums) @ inverse
        covariance += self._sigma**2 * inverse / self._bread
        return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])


def solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a small system whose empty columns (a scene without structure) get zeros."""
    scale = np.sqrt(np.abs(matrix.diagonal()))
    scale[scale == 0] = 1.0
    scaled = matrix / np.outer(scale, scale)
    scaled[np.diag_indices(len(scale))] += 1e-12
    return np.linalg.solve(scaled, right / scale) / scale


def combined(coefficients: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Sum of the first terms with these coefficients."""
    return np.einsum("k,kn->n", coefficients, terms[: len(coefficients)])


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product without BLAS and its threads (see `Gram`)."""
    return float(np.einsum("i,i->", a, b))


def robust_scale(u: np.ndarray) -> float:
    """Robust standard deviation of residuals; 1 where most of them are 0."""
    return float(np.median(np.abs(u))) / 0.6745 or 1.0
