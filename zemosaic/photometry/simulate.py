"""Tiles with known truth: stars and nebulosity seen through a gain, an offset and a seeing.

The scene is fixed on the sky and sampled by every tile through its own WCS, so that two tiles
see the same sky and nothing is resampled. The truth is given the way it is asked for: the
`gain` and `offset` of ``corrected = gain * data + offset`` that bring a tile back to the scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.wcs import WCS, Sip
from scipy.spatial import cKDTree
from scipy.special import erf

from ..errors import UserError
from .solver.solve import Solution
from .tiles.sky import pixel_scale, unit_vectors

SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))
MARGIN = 8  # nodes of the nebulosity beyond each side of a tile
COLOURS = (1.0, 0.8, 0.6)  # the sky's level in R, G and B, relative to `sky`


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is simulated.

    Parameters
    ----------
    tiles : int
        Number of tiles, laid out on a grid as square as it can be.
    shape : tuple of int
        Height and width of a tile in pixels.
    overlap : float
        Overlap of neighbours on the grid, as a fraction of a side.
    rotation : float
        Largest rotation of a tile in degrees, either way.
    gains : tuple of float
        Range of the factors that the tiles' data are multiplied by.
    offset : float
        Largest offset of a tile's data in ADU, either way.
    sky : float
        Sky level in ADU.
    stars : float
        Stars per square pixel of the sky; their fluxes follow a power law.
    nebula : float
        Peak of the nebulosity in ADU.
    fwhm, seeing : float
        Mean FWHM of a star in pixels, and the largest relative deviation of a tile from it.
    electrons, read_noise : float
        Electrons per ADU for Poisson noise and read noise in ADU; 0 electrons: no noise at all.
    gradient, trail, border, bad, sip, rgb : bool
        A sky gradient of up to 60 ADU on each tile, a satellite trail on every third tile,
        ragged NaN borders, a cloud over the second tile, SIP distortion, three colours with
        gains of their own.
    islands : int
        Number of separate groups of tiles; 1 is one connected mosaic.
    centre : tuple of float
        Right ascension and declination of the centre in degrees.
    scale : float
        Side of a pixel in degrees.
    seed : int
        Everything follows from it.
    """

    tiles: int = 12
    shape: tuple[int, int] = (360, 480)
    overlap: float = 0.25
    rotation: float = 3.0
    gains: tuple[float, float] = (0.85, 1.15)
    offset: float = 200.0
    sky: float = 1000.0
    stars: float = 1.5e-3
    nebula: float = 400.0
    fwhm: float = 3.5
    seeing: float = 0.1
    electrons: float = 10.0
    read_noise: float = 5.0
    gradient: bool = False
    trail: bool = False
    border: bool = False
    bad: bool = False
    sip: bool = False
    rgb: bool = False
    islands: int = 1
    centre: tuple[float, float] = (192.72, 41.12)
    scale: float = 6.6e-4
    seed: int = 1

    def __post_init__(self) -> None:
        if self.tiles < 1 or min(self.shape) < 16:
            raise UserError("a scene needs at least 1 tile of at least 16 x 16 pixels")
        for name in ("rotation", "seeing", "fwhm"):
            if not np.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}; give a number")
        if not 1 <= self.islands <= self.tiles:
            raise UserError(f"{self.islands} islands cannot be made of {self.tiles} tiles")
        if not 0.0 <= self.overlap < 1.0:
            raise UserError(f"overlap is {self.overlap}; give a fraction from 0 to below 1")


@dataclass(frozen=True, eq=False)
class SimulatedTile:
    """One tile and its truth.

    Parameters
    ----------
    name : str
        A file name.
    data : ndarray
        ``(H, W)`` or ``(3, H, W)`` float32 in ADU.
    wcs : astropy.wcs.WCS
        Celestial, perhaps with SIP.
    gain, offset : ndarray
        ``(C,)`` true correction: ``gain * data + offset`` is the scene.
    fwhm : float
        Of its stars, in pixels.
    """

    name: str
    data: np.ndarray
    wcs: WCS
    gain: np.ndarray
    offset: np.ndarray
    fwhm: float


def simulate(scene: Scene) -> Iterator[SimulatedTile]:
    """Make the tiles of a scene, one after the other."""
    frames = list(_layout(scene))
    catalogue = _Catalogue(scene, frames)
    for index, wcs in enumerate(frames):
        # Each tile has random numbers of its own: the first ten of 100 tiles are those of 10.
        rng = np.random.default_rng([scene.seed, 1, index])
        yield _observe(scene, index, wcs, catalogue, rng)


def _layout(scene: Scene) -> Iterator[WCS]:
    rng = np.random.default_rng([scene.seed, 2])
    h, w = scene.shape
    per_island = -(-scene.tiles // scene.islands)
    columns = int(np.ceil(np.sqrt(per_island * h / w)))
    step = np.array([w, h]) * (1 - scene.overlap)
    island_step = 1.5 * (columns + 1) * w
    for index in range(scene.tiles):
        island, place = divmod(index, per_island)
        row, column = divmod(place, columns)
        # The scatter stays below a quarter of the overlap, so that neighbours still meet.
        jitter = rng.uniform(-0.25, 0.25, 2) * scene.overlap * np.array([w, h])
        centre = (np.array([column, row]) - (columns - 1) / 2) * step + jitter
        centre[0] += (island - (scene.islands - 1) / 2) * island_step
        yield _frame(scene, centre, np.deg2rad(rng.uniform(-1, 1) * scene.rotation))


def _frame(scene: Scene, centre: np.ndarray, angle: float) -> WCS:
    """WCS of a tile whose middle lies `centre` pixels from the middle of the mosaic."""
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.crval, plane.wcs.crpix = scene.centre, [1.0, 1.0]
    plane.wcs.cdelt = [-scene.scale, scene.scale]
    wcs = WCS(naxis=2)
    suffix = "-SIP" if scene.sip else ""
    wcs.wcs.ctype = ["RA---TAN" + suffix, "DEC--TAN" + suffix]
    wcs.wcs.crval = plane.wcs_pix2world([centre], 0)[0]
    wcs.wcs.crpix = [(scene.shape[1] + 1) / 2, (scene.shape[0] + 1) / 2]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = np.diag([-scene.scale, scene.scale]) @ turn
    if scene.sip:
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], a[1, 1], b[0, 2], b[1, 1] = 2.6e-6, -1.2e-6, 6.7e-7, 2.1e-6
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


class _Catalogue:
    """Stars and clouds of the sky, where the tiles look."""

    def __init__(self, scene: Scene, frames: list[WCS]) -> None:
        rng = np.random.default_rng([scene.seed, 3])
        h, w = scene.shape
        sky = np.concatenate(
            [f.all_pix2world(rng.uniform(-0.05, 1.05, (4000, 2)) * [w, h], 0) for f in frames]
        )
        units = unit_vectors(np.deg2rad(sky))
        # Points in the tiles, thinned where tiles overlap so that the density is even.
        self._pixel = np.deg2rad(scene.scale)
        near = cKDTree(units)
        around = near.query_ball_point(units, 0.1 * min(h, w) * self._pixel, return_length=True)
        alone = np.pi * (0.1 * min(h, w)) ** 2 * 4000 / (1.21 * h * w)
        units = units[rng.uniform(size=len(units)) < alone / np.maximum(around, alone)]
        wanted = rng.poisson(scene.stars * h * w * 1.21 * len(units) / 4000)
        chosen = units[rng.integers(len(units), size=wanted)]
        self.units = chosen + rng.normal(scale=0.01 * min(h, w) * self._pixel, size=chosen.shape)
        self.units /= np.linalg.norm(self.units, axis=1, keepdims=True)
        # N(> F) ~ F^-1.2, as star counts near the galactic plane; no peak above 3e4 ADU.
        self.flux = np.minimum(800.0 * rng.uniform(size=wanted) ** (-1 / 1.2), 4e5)
        self.colour = rng.uniform(0.6, 1.4, size=(3 if scene.rgb else 1, wanted))
        if not scene.rgb:
            self.colour[:] = 1.0
        self.tree = cKDTree(self.units)
        clouds = max(3, len(frames))
        self.clouds = units[rng.integers(len(units), size=clouds)]
        self.cloud_size = rng.uniform(0.1, 0.5, clouds) * max(h, w) * self._pixel
        self.cloud_peak = rng.uniform(0.2, 1.0, clouds) * scene.nebula
        self.cloud_colour = rng.uniform(0.5, 1.5, size=(3 if scene.rgb else 1, clouds))

    def nebula(self, units: np.ndarray) -> np.ndarray:
        """Nebulosity ``(C, N)`` in ADU in some directions ``(N, 3)``."""
        middle = units.mean(axis=0)
        reach = np.linalg.norm(units - middle, axis=1).max()
        near = np.linalg.norm(self.clouds - middle, axis=1) < reach + 7 * self.cloud_size
        distance = 2 - 2 * units @ self.clouds[near].T
        light = np.exp(-distance / (2 * self.cloud_size[near] ** 2)) * self.cloud_peak[near]
        return self.cloud_colour[:, near] @ light.T


def _observe(
    scene: Scene, index: int, wcs: WCS, catalogue: _Catalogue, rng: np.random.Generator
) -> SimulatedTile:
    h, w = scene.shape
    channels = 3 if scene.rgb else 1
    fwhm = scene.fwhm * (1 + scene.seeing * rng.uniform(-1, 1))
    sky = scene.sky * (np.array(COLOURS) if scene.rgb else np.ones(1))
    image = np.repeat(sky[:, None], h * w, axis=1).reshape(channels, h, w)
    image += _smooth(scene, wcs, catalogue)
    _add_stars(image, scene, wcs, catalogue, fwhm)
    if scene.gradient:
        y, x = np.mgrid[-0.5 : 0.5 : h * 1j, -0.5 : 0.5 : w * 1j]
        image += rng.uniform(-30, 30) * x + rng.uniform(-30, 30) * y
    if scene.trail and index % 3 == 0:
        _add_trail(image, np.random.default_rng([scene.seed, 5, index]))
    if scene.bad and index == 1:
        _add_cloud(image)
    factor = rng.uniform(*scene.gains, size=channels)
    added = rng.uniform(-scene.offset, scene.offset, size=channels)
    image *= factor[:, None, None]
    if scene.electrons > 0:
        sigma = np.maximum(image, 0)
        sigma /= scene.electrons
        sigma += scene.read_noise**2
        np.sqrt(sigma, out=sigma)
        noise = np.random.default_rng([scene.seed, 4, index])
        sigma *= noise.standard_normal(image.shape, dtype=np.float32)
        image += sigma
    image += added[:, None, None]
    data = image.astype(np.float32)
    if scene.border:
        _tear_border(data, rng)
    name = f"tile_{index:04d}.fits"
    # Past the factor f and the offset b, the scene is (data - b) / f.
    return SimulatedTile(
        name, data if scene.rgb else data[0], wcs, 1 / factor, -added / factor, fwhm
    )


def _smooth(scene: Scene, wcs: WCS, catalogue: _Catalogue) -> np.ndarray:
    """Nebulosity of a tile; smooth, so computed on every fourth pixel or so and interpolated."""
    from scipy.ndimage import spline_filter

    h, w = scene.shape
    step = 4 * max(1, max(h, w) // 960)  # clouds are no smaller than a tenth of a side
    # A spline forgets its ends over a few nodes.
    y, x = (np.arange(-MARGIN, n / step + MARGIN) * step for n in (h, w))
    nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    units = unit_vectors(np.deg2rad(wcs.all_pix2world(nodes, 0)))
    coarse = catalogue.nebula(units).reshape(-1, len(y), len(x))
    light = []
    for plane in coarse:
        columns = _spline_between(spline_filter(plane, order=3), h, step)
        light.append(_spline_between(columns.T, w, step).T)
    return np.stack(light)


def _spline_between(nodes: np.ndarray, pixels: int, step: int) -> np.ndarray:
    """Pixels along the first axis of a cubic spline with coefficients every `step` pixels."""
    t = np.arange(step)[:, np.newaxis] / step
    weights = (
        (1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6,
    )  # fmt: skip
    count = -(-pixels // step)
    values = np.zeros((count, step, nodes.shape[1]))
    for k, weight in enumerate(weights, MARGIN - 1):
        values += nodes[k : k + count, np.newaxis] * weight
    return values.reshape(count * step, -1)[:pixels]


def _add_stars(
    image: np.ndarray, scene: Scene, wcs: WCS, catalogue: _Catalogue, fwhm: float
) -> None:
    """Add the stars in and near a tile: Gaussians integrated over each pixel."""
    h, w = scene.shape
    middle = unit_vectors(np.deg2rad(wcs.all_pix2world([[(w - 1) / 2, (h - 1) / 2]], 0)))[0]
    reach = (np.hypot(h, w) / 2 + 40) * np.deg2rad(pixel_scale(wcs, scene.shape))
    found = np.array(sorted(catalogue.tree.query_ball_point(middle, reach)), dtype=int)
    if not len(found):
        return
    units = catalogue.units[found]
    radec = np.rad2deg(
        np.stack([np.arctan2(units[:, 1], units[:, 0]), np.arcsin(units[:, 2])], axis=1)
    )
    xy = wcs.all_world2pix(radec, 0, tolerance=1e-6, maxiter=60)
    # Bright stars are cut where they fall below a thousandth of an ADU.
    sigma = fwhm * SIGMA_PER_FWHM
    flux = catalogue.flux[found]
    peak = flux / (2 * np.pi * sigma**2)
    radius = np.ceil(sigma * np.sqrt(2 * np.log(np.maximum(peak / 1e-3, 2)))).astype(int)
    for (x, y), f, r, colour in zip(xy, flux, radius, catalogue.colour[:, found].T, strict=True):
        x0, x1 = max(int(x) - r, 0), min(int(x) + r + 1, w)
        y0, y1 = max(int(y) - r, 0), min(int(y) + r + 1, h)
        if x0 >= x1 or y0 >= y1:
            continue
        across = _pixel_integral(np.arange(x0, x1 + 1) - 0.5 - x, sigma)
        along = _pixel_integral(np.arange(y0, y1 + 1) - 0.5 - y, sigma)
        image[:, y0:y1, x0:x1] += (f * colour)[:, None, None] * np.outer(along, across)


def _pixel_integral(edges: np.ndarray, sigma: float) -> np.ndarray:
    return np.diff(erf(edges / (np.sqrt(2) * sigma))) / 2


def _add_cloud(image: np.ndarray) -> None:
    """A cloud takes up to 60 % of the light from one side on, and glows."""
    h, w = image.shape[1:]
    y, x = np.mgrid[:h, :w]
    depth = 1 / (1 + np.exp((x - 0.5 * w + 0.2 * y) / (0.15 * w)))
    image *= 1 - 0.6 * depth
    image += 300.0 * depth**2


def _add_trail(image: np.ndarray, rng: np.random.Generator) -> None:
    h, w = image.shape[1:]
    y, x = np.mgrid[:h, :w]
    angle, where = rng.uniform(0, np.pi), rng.uniform(0.3, 0.7, 2) * [w, h]
    distance = (x - where[0]) * np.sin(angle) - (y - where[1]) * np.cos(angle)
    image += 400.0 * np.exp(-0.5 * (distance / 2.0) ** 2)


def _tear_border(data: np.ndarray, rng: np.random.Generator) -> None:
    """NaN borders of up to a tenth of each side, slanted as stacked frames leave them."""
    h, w = data.shape[1:]
    y, x = np.mgrid[:h, :w]
    depth = rng.uniform(0.01, 0.1, 4)
    slant = rng.uniform(-0.03, 0.03, 4)
    sides: tuple[tuple[np.ndarray, np.ndarray, int, int, Literal[0, 1]], ...] = (
        (x, y, w, h, 0),
        (x, y, w, h, 1),
        (y, x, h, w, 0),
        (y, x, h, w, 1),
    )
    for k, (a, b, n, m, far) in enumerate(sides):
        edge = n * np.maximum(depth[k] + slant[k] * b / m, 0)
        data[:, (n - 1 - a if far else a) < edge] = np.nan


def compare(
    solution: Solution, gain: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bring the truth to the gauge of a solution, so that both can be compared.

    A solution is free up to one factor and one level per component and channel; the truth's are
    chosen to match it best.

    Parameters
    ----------
    solution : Solution
        As solved.
    gain, offset : ndarray
        ``(T, C)`` true gains and offsets (ADU).

    Returns
    -------
    gain, offset : ndarray
        ``(T, C)`` in the solution's gauge.
    """
    gain, offset = gain.copy(), offset.copy()
    for c in range(gain.shape[1]):
        for label in np.unique(solution.component[:, c]):
            inside = solution.component[:, c] == label
            factor = np.exp(np.mean(np.log(solution.gain[inside, c] / gain[inside, c])))
            gain[inside, c] *= factor
            offset[inside, c] *= factor
            offset[inside, c] += np.mean(solution.offset[inside, c] - offset[inside, c])
    return gain, offset
