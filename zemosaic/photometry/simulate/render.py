"""Rendering of the tiles of a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from .defects import add_cloud, add_gradient, add_lamp, add_surface, add_trail, tear_border
from .instrument import Instrument, make_instrument, own_flat
from .layout import layout_tiles
from .light import add_stars, render_nebula
from .scene import RandomStream, Scene
from .sky import Clouds, Stars, make_sky

#: Sky level in R, G and B, relative to `Scene.sky`.
SKY_COLOUR = (1.0, 0.8, 0.6)
#: One tile in so many has a satellite trail.
TRAIL_INTERVAL = 3
#: The tile with the cloud.
CLOUDY_TILE = 1


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
        ``(C,)`` true correction: ``(gain * (data - glow) + offset) / flat - sky`` is the scene.
    fwhm : float
        FWHM of its stars in pixels.
    flat, glow : ndarray
        ``(H, W)`` float64 illumination, and glow in ADU of the data; ``()`` if they are 1 and 0.
    sky : float
        Light in ADU by which the sky of this tile is brighter.
    """

    name: str
    data: np.ndarray
    wcs: WCS
    gain: np.ndarray
    offset: np.ndarray
    fwhm: float
    flat: np.ndarray
    glow: np.ndarray
    sky: float


def simulate(scene: Scene) -> Iterator[SimulatedTile]:
    """Yield the tiles of a scene, one after the other."""
    frames = list(layout_tiles(scene))
    stars, clouds = make_sky(scene, frames)
    instrument = make_instrument(scene)
    for index, wcs in enumerate(frames):
        yield _render_tile(scene, index, wcs, stars, clouds, instrument)


def _render_tile(
    scene: Scene, index: int, wcs: WCS, stars: Stars, clouds: Clouds, instrument: Instrument
) -> SimulatedTile:
    # Each tile has its own random numbers: the first ten of 100 tiles are those of 10.
    rng = scene.random(RandomStream.TILE, index)
    fwhm = scene.fwhm * (1 + scene.seeing * rng.uniform(-1, 1))
    image = _sky_image(scene)
    image += render_nebula(scene.shape, wcs, clouds)
    add_stars(image, wcs, stars, fwhm)
    if scene.gradient:
        add_gradient(image, rng, scene.gradient)
    sky = scene.sky_scatter * scene.random(RandomStream.SURFACE, index, 2).normal()
    image += sky
    _add_own_light(image, scene, index)
    if scene.trail and index % TRAIL_INTERVAL == 0:
        add_trail(image, scene.random(RandomStream.TRAIL, index))
    if scene.bad and index == CLOUDY_TILE:
        add_cloud(image)
    factor = rng.uniform(*scene.gains, size=scene.channels)
    bias = rng.uniform(-scene.offset, scene.offset, size=scene.channels)
    flat = instrument.flat * own_flat(scene, index)
    image *= flat
    image *= factor[:, None, None]
    image += instrument.glow
    if scene.electrons > 0:
        _add_noise(image, scene, scene.random(RandomStream.NOISE, index))
    image += bias[:, None, None]
    data = np.minimum(image, scene.saturation).astype(np.float32)
    if scene.border:
        tear_border(data, rng, scene.blank)
    return SimulatedTile(
        name=f"tile_{index:04d}.fits",
        data=data if scene.rgb else data[0],
        wcs=wcs,
        # data = factor * flat * (scene + sky) + glow + bias
        gain=1 / factor,
        offset=-bias / factor,
        fwhm=fwhm,
        flat=flat,
        glow=instrument.glow,
        sky=sky,
    )


def _add_own_light(image: np.ndarray, scene: Scene, index: int) -> None:
    """Add the surface of second order and the lamp of one tile to its image ``(C, H, W)``."""
    if scene.quadratic:
        add_surface(image, scene.random(RandomStream.SURFACE, index, 0), scene.quadratic)
    if scene.lamp:
        add_lamp(image, scene.random(RandomStream.SURFACE, index, 1), scene.lamp)


def _sky_image(scene: Scene) -> np.ndarray:
    """Return an image ``(C, H, W)`` of constant sky."""
    height, width = scene.shape
    sky = scene.sky * (np.array(SKY_COLOUR) if scene.rgb else np.ones(1))
    return np.repeat(sky[:, None], height * width, axis=1).reshape(-1, height, width)


def _add_noise(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Add Poisson noise, in the Gaussian approximation, and read noise to an image."""
    noise = np.maximum(image, 0)
    noise /= scene.electrons
    noise += scene.read_noise**2
    np.sqrt(noise, out=noise)
    noise *= rng.standard_normal(image.shape, dtype=np.float32)
    image += noise
