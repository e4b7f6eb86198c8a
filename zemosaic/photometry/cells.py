"""The common cells of a pair: as vectors for the fit, and as the scene that both tiles share."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from zemosaic.photometry.regression import combined, robust_scale, solved

SAMPLE = 2_000  # cells for medians, about
CLUSTER = 8  # cells: errors are taken to be independent from one 8 x 8 patch to the next
STANDS_OUT = 12.0  # both tiles' robust deviations together: a cell with a star in it
DETAIL_SIZES = (3, 9, 27)  # cells
# Noise of the details between those sizes, and of the largest, in units of a cell's: for cells
# whose neighbours share 0.3 of their noise, as the sampling kernel makes them.
DETAIL_NOISE = (0.95, 0.43, 0.17, 0.06)


class Cells:
    """The common valid cells of one channel of a pair, as vectors."""

    def __init__(
        self,
        x_plane: np.ndarray,
        y_plane: np.ndarray,
        x_var: np.ndarray,
        y_var: np.ndarray,
        x0: int,
        y0: int,
    ) -> None:
        self.valid = np.isfinite(x_plane) & np.isfinite(y_plane)
        self.x, self.y, self.vx, self.vy = (
            plane[self.valid].astype(np.float64) for plane in (x_plane, y_plane, x_var, y_var)
        )
        rows, columns = np.nonzero(self.valid)
        self.u, self.v = columns + x0, rows + y0
        self.sample = slice(None, None, max(1, len(self.x) // SAMPLE))

    def flattened(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y less a plane through each: gradients hide stars and mimic slopes."""
        basis = np.stack([np.ones_like(self.x), self.u - self.u.mean(), self.v - self.v.mean()])
        some = basis[:, self.sample]
        normal = np.einsum("in,jn->ij", some, some)
        return tuple(
            z - combined(solved(normal, np.einsum("in,n->i", some, z[self.sample])), basis)
            for z in (self.x, self.y)
        )

    def bright(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cells in or beside one that stands out in both flattened tiles together."""
        both = sum((z - np.median(z[self.sample])) / robust_scale(z[self.sample]) for z in (x, y))
        mask = np.zeros(self.valid.shape, dtype=bool)
        mask[self.valid] = both > STANDS_OUT
        for axis in (0, 1):
            for shift in (1, -1):
                mask |= np.roll(mask, shift, axis)
        return mask[self.valid]

    def patches(self) -> np.ndarray:
        """Number of the CLUSTER x CLUSTER patch of the grid in which each cell lies."""
        row, column = self.v // CLUSTER, self.u // CLUSTER
        return (row - row.min()) * (np.ptp(column) + 1) + column - column.min()

    def scene(self, slope: float, level: float) -> Scene:
        """The common scene in ADU of tile j: the mean whose noise the residual does not share."""
        scene = np.full(self.valid.shape, np.nan)
        both = self.vy + slope**2 * self.vx
        scene[self.valid] = (
            slope * self.x * self.vy + slope**2 * (self.y - level) * self.vx
        ) / both
        noise = float(np.sqrt(np.median((slope**2 * self.vx * self.vy / both)[self.sample])))
        return Scene(scene, self.valid, noise)


class Scene:
    """The common scene of a pair, as an image with NaN where cells are missing."""

    def __init__(self, image: np.ndarray, valid: np.ndarray, noise: float) -> None:
        self.image, self.valid, self.noise = image, valid, noise

    def denoised(self) -> np.ndarray:
        """The scene without what may be noise, as an image.

        Details of each size are cut where they stay below three times their noise, as in
        wavelet denoising (Donoho and Johnstone 1994, Biometrika 81, 425), and the largest
        structure is kept about a plane. The noise that is left is independent of the residual,
        so any function of it is an instrument that bends nothing; cells that hold noise alone
        would only dilute it.
        """
        weight = self.valid.astype(np.float64)
        filled = np.where(self.valid, self.image, 0.0)
        layers = [filled]
        for size in DETAIL_SIZES:
            share = np.maximum(uniform_filter(weight, size, mode="constant"), 1e-9)
            layers.append(uniform_filter(filled, size, mode="constant") / share)
        rows, columns = np.nonzero(self.valid)
        basis = np.stack([np.ones(len(rows)), columns - columns.mean(), rows - rows.mean()])
        coarse = layers[-1][self.valid]
        plane = combined(
            solved(np.einsum("in,jn->ij", basis, basis), np.einsum("in,n->i", basis, coarse)),
            basis,
        )
        kept = plane + _cut(coarse - plane, DETAIL_NOISE[-1] * self.noise)
        for fine, rough, share in zip(layers, layers[1:], DETAIL_NOISE, strict=False):
            kept += _cut((fine - rough)[self.valid], share * self.noise)
        image = np.full(self.valid.shape, np.nan)
        image[self.valid] = kept
        return image


def scene_terms(image: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
    """Gradient and Laplacian of a denoised scene at the valid cells.

    A cell without all four neighbours has zeros: it takes no part in these terms. Of a noisy
    scene the Laplacian would be noise, and take the light of stars for its own.
    """
    padded = np.pad(image, 1, constant_values=np.nan)
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    low, high = padded[:-2, 1:-1], padded[2:, 1:-1]
    laplacian = left + right + low + high - 4 * image
    whole = np.isfinite(laplacian)
    return [
        np.where(whole, term, 0.0)[valid]
        for term in ((right - left) / 2, (high - low) / 2, laplacian)
    ]


def _cut(detail: np.ndarray, noise: float) -> np.ndarray:
    """Details shrunk to 0 at three times their noise, and little changed far above it."""
    square = np.maximum(detail**2, 1e-300)
    return detail * np.maximum(0.0, 1 - 9 * noise**2 / square)
