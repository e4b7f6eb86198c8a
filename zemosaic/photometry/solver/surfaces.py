"""The smooth surface of each tile: polynomials of up to fourth order on the sky.

They are given about the centre of the tile (or of the first of several with one level) in units of
half a typical tile: a class of terms then has one typical size. Terms of even order have a mean of
0 over a tile.
"""

from __future__ import annotations

import numpy as np

from .channel import TileFrame

ORDERS = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4])  # of each term
#: Powers of x and y, in a tile's pixels from its centre, of each term of a correction's surface.
SURFACE_POWERS = {
    "slope_x": (1, 0), "slope_y": (0, 1),
    "curve_xx": (2, 0), "curve_xy": (1, 1), "curve_yy": (0, 2),
    "cubic_xxx": (3, 0), "cubic_xxy": (2, 1), "cubic_xyy": (1, 2), "cubic_yyy": (0, 3),
    "quartic_xxxx": (4, 0), "quartic_xxxy": (3, 1), "quartic_xxyy": (2, 2), "quartic_xyyy": (1, 3),
    "quartic_yyyy": (0, 4),
}  # fmt: skip
PIXEL_POWERS = np.array([(0, 0), *SURFACE_POWERS.values()])
SAMPLES = 5  # along each axis: enough for the fourth order


def surface_basis(place: np.ndarray, chosen: np.ndarray = ORDERS > 0) -> np.ndarray:
    """Return the `chosen` terms ``(..., K)`` at places ``(..., 2)`` in units of half a tile."""
    powers = PIXEL_POWERS[1:][chosen]
    along = [_polynomials(place[..., axis], powers.max(initial=0)) for axis in (0, 1)]
    terms = np.empty((len(powers), *place.shape[:-1]))
    for term, (power_u, power_v) in zip(terms, powers.tolist(), strict=True):
        np.multiply(along[0][power_u], along[1][power_v], out=term)
    return np.moveaxis(terms, 0, -1)


def _polynomials(place: np.ndarray, degree: int) -> list[np.ndarray | float]:
    """Return multiples of the Legendre polynomials of degrees 0 to `degree` along an axis."""
    square = place * place
    values = [
        1.0, place, square - 1 / 3, place * (square - 0.6),
        square * square - 6 / 7 * square + 3 / 35,
    ]  # fmt: skip
    return values[: degree + 1]


def half_tile(frame: TileFrame, used: np.ndarray) -> float:
    """Return half the side of a typical tile in cells; `used` ``(n,)`` are its indices."""
    area = np.abs(np.linalg.det(frame.jacobian[used])) * frame.shape[used].prod(axis=1)
    return float(np.sqrt(np.median(area))) / 2


def pixel_polynomials(
    coefficients: np.ndarray, frame: TileFrame, origin: np.ndarray, unit: float
) -> np.ndarray:
    """Convert surfaces to polynomials of the pixels of each tile about its centre.

    Parameters
    ----------
    coefficients : ndarray
        ``(T, K)`` in ADU.
    frame : TileFrame
        Positions of the tiles.
    origin : ndarray
        ``(T, 2)`` position in cells about which each surface is given.
    unit : float
        Half a typical tile in cells.

    Returns
    -------
    ndarray
        ``(T, 15)`` in ADU per pixel to the powers of `PIXEL_POWERS`.
    """
    # Exact, because both bases span the same polynomials.
    axis = np.linspace(-1, 1, SAMPLES)
    node = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    to_polynomial = np.linalg.pinv(np.prod(node[:, None] ** PIXEL_POWERS, axis=-1))
    half = np.maximum(frame.shape[:, None, ::-1] / 2, 1)
    cells = np.einsum("tab,tnb->tna", frame.jacobian, node * half)
    place = (cells + (frame.centre - origin)[:, None]) / unit
    values = np.einsum("tnk,tk->tn", surface_basis(place), coefficients)
    return (values @ to_polynomial.T) / np.prod(half**PIXEL_POWERS, axis=-1)
