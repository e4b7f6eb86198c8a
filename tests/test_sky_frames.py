"""Tiles in any celestial frame: their positions become ICRS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, BarycentricMeanEcliptic, FK4NoETerms, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from tests.helpers.tiles import simulated
from zemosaic import TileError, calibrate, open_tile, tile_from_array
from zemosaic.photometry.mosaic import write_mosaic
from zemosaic.photometry.preview.grid import make_grid, pixel_nodes, tile_box
from zemosaic.photometry.solver.solve import Correction
from zemosaic.photometry.tiles.sky import pixel_to_sky, sky_to_pixel

CENTRE = SkyCoord(150.0, 20.0, unit="deg")
FRAMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ICRS": ("icrs", {"RADESYS": "ICRS"}),
    "no RADESYS": ("icrs", {}),
    "Galactic": ("galactic", {}),
    "Galactic with RADESYS": ("galactic", {"RADESYS": "FK5", "EQUINOX": 2000.0}),
    "supergalactic": ("supergalactic", {}),
    "ecliptic": ("barycentricmeanecliptic", {}),
    "ecliptic with RADESYS": ("barycentricmeanecliptic", {"RADESYS": "FK5", "EQUINOX": 2000.0}),
    "ecliptic of B1950": (BarycentricMeanEcliptic(equinox="B1950"), {"EQUINOX": 1950.0}),
    "B1950": (FK4(equinox="B1950"), {"RADESYS": "FK4", "EQUINOX": 1950.0}),
    "B1900": (FK4(equinox="B1900"), {"EQUINOX": 1900.0}),
    "B1950 without E-terms": (FK4NoETerms(equinox="B1950"), {"RADESYS": "FK4-NO-E"}),
    "J1975": (FK5(equinox="J1975"), {"RADESYS": "FK5", "EQUINOX": 1975.0}),
    "J2016.5": (FK5(equinox="J2016.5"), {"EQUINOX": 2016.5}),
    "J2000": (FK5(equinox="J2000"), {"RADESYS": "FK5"}),
    "lower case": ("icrs", {"RADESYS": "icrs"}),
    "J2000 by its equinox": (FK5(equinox="J2000"), {"RADESYS": "J2000"}),
    "B1950 by its equinox": (FK4(equinox="B1950"), {"RADESYS": "B1950"}),
}
TYPES = {"galactic": "G", "supergalactic": "S", "barycentricmeanecliptic": "E"}


def header(name: str, scale: float = 0.1 / 3600, centre: SkyCoord = CENTRE) -> fits.Header:
    """Return the header of an image of 60 x 40 pixels about a position, in a frame."""
    frame, cards = FRAMES[name]
    position = centre.transform_to(frame).spherical
    kind = TYPES.get(getattr(frame, "name", frame))
    types = (f"{kind}LON-TAN", f"{kind}LAT-TAN") if kind else ("RA---TAN", "DEC--TAN")
    result = fits.Header(cards)
    result.update(
        CTYPE1=types[0], CTYPE2=types[1], CRPIX1=30.5, CRPIX2=20.5, CDELT1=-scale, CDELT2=scale,
        CRVAL1=position.lon.deg, CRVAL2=position.lat.deg,
    )  # fmt: skip
    return result


@pytest.mark.parametrize("name", FRAMES)
def test_positions_are_icrs(name: str, tmp_path: Path) -> None:
    """To a thousandth of a pixel of 0.1", for a file and an array, as astropy converts them."""
    path = tmp_path / "a.fits"
    fits.writeto(path, np.ones((40, 60), "f4"), header(name))
    for tile in (open_tile(path), tile_from_array(np.ones((40, 60)), WCS(header(name)))):
        radec = pixel_to_sky(tile.wcs, np.array([[29.5, 19.5]]))
        found = SkyCoord(*radec[0], unit="deg")
        assert found.separation(CENTRE).arcsec < 1e-4
        centre = SkyCoord(*tile.corners.T, unit="deg").cartesian.mean()
        assert SkyCoord(centre).separation(CENTRE).arcsec < 1e-3
        xy = np.array([[0.0, 0.0], [59.0, 0.0], [20.0, 35.0]])
        np.testing.assert_allclose(
            sky_to_pixel(tile.wcs, pixel_to_sky(tile.wcs, xy)), xy, atol=1e-3
        )


def test_the_difference_between_j2000_and_icrs_is_ignored_where_it_is_small() -> None:
    """Ordinary tiles keep their bits: 20 mas are less than a fiftieth of a pixel of 2"."""
    tiles = [
        tile_from_array(np.ones((40, 60)), WCS(header(name, scale=2 / 3600, centre=CENTRE)))
        for name in ("J2000", "ICRS")
    ]
    xy = np.array([[29.5, 19.5]])
    fk5, _ = (tile.wcs.all_pix2world(xy, 0) for tile in tiles)
    np.testing.assert_array_equal(pixel_to_sky(tiles[0].wcs, xy), fk5)


def test_the_grid_maps_to_the_pixels_of_any_frame() -> None:
    """Cells have the same place in the same pixels, whatever the frame of the tile."""
    pixels = np.ones((40, 60))
    icrs = tile_from_array(pixels, WCS(header("ICRS", scale=1e-4)))
    grid = make_grid([icrs], 1)
    box = tile_box(icrs, grid)
    for name in ("Galactic", "B1950"):
        tile = tile_from_array(pixels, WCS(header(name, scale=1e-4)))
        own_box = tile_box(tile, grid)
        sky = grid.wcs.wcs_pix2world([[own_box.x0, own_box.y0]], 0)
        x, y = pixel_nodes(tile, grid, own_box)[:, 0, 0]
        expected = tile.wcs.world_to_pixel(SkyCoord(*sky[0], unit="deg"))
        np.testing.assert_allclose((x, y), expected, atol=1e-4)
    assert pixel_nodes(icrs, grid, box).shape[0] == 2


def in_frame(wcs: WCS, frame: Any, ctype: list[str], **attributes: Any) -> WCS:
    """Return a WCS of the same pixels in another frame; exact to first order about its centre."""
    new = WCS(naxis=2)
    new.wcs.ctype = ctype
    for name, value in attributes.items():
        setattr(new.wcs, name, value)
    new.wcs.crpix = wcs.wcs.crpix
    x, y = np.asarray(wcs.wcs.crpix) - 1
    moved = wcs.pixel_to_world([x, x + 1, x], [y, y, y + 1]).transform_to(frame).spherical
    centre = moved[0]
    new.wcs.crval = centre.lon.deg, centre.lat.deg
    east = (moved[1:].lon - centre.lon).wrap_at("180d").deg * np.cos(centre.lat.rad)
    new.wcs.cd = np.stack([east, (moved[1:].lat - centre.lat).deg])
    new.wcs.set()
    return new


def test_a_mosaic_of_several_frames_is_one() -> None:
    """Each tile of a mosaic in its own frame gets the correction it has if all are in ICRS."""
    frames = [
        ("galactic", ["GLON-TAN", "GLAT-TAN"], {}),
        (FK4(equinox="B1950"), ["RA---TAN", "DEC--TAN"], {"radesys": "FK4", "equinox": 1950.0}),
        (FK5(equinox="J1975"), ["RA---TAN", "DEC--TAN"], {"radesys": "FK5", "equinox": 1975.0}),
        ("barycentricmeanecliptic", ["ELON-TAN", "ELAT-TAN"], {}),
    ]
    tiles = simulated()
    expected = calibrate([(tile.data, tile.wcs) for tile in tiles], pool="serial")
    other = [
        (tile.data, in_frame(tile.wcs, frame, ctype, **attributes))
        for tile, (frame, ctype, attributes) in zip(tiles, frames, strict=True)
    ]
    solution = calibrate(other, pool="serial")
    assert solution.groups == 1
    assert (solution.pairs == expected.pairs).all()
    np.testing.assert_allclose(solution.gain, expected.gain, rtol=2e-3)
    truth = np.array([tile.gain for tile in tiles])
    np.testing.assert_allclose(
        solution.gain / np.exp(np.log(solution.gain).mean()),
        truth / np.exp(np.log(truth).mean()),
        rtol=1e-2,
    )


def test_a_coadd_of_several_frames_is_in_icrs(tmp_path: Path) -> None:
    """Tiles of one sky in different frames lie on top of each other."""
    data = np.random.default_rng(1).normal(100, 10, (40, 60)).astype("f4")
    unit = Correction(np.ones(1), np.zeros(1))
    names = ("Galactic", "ecliptic", "B1950")
    tiles = [(tile_from_array(data, WCS(header(name, scale=1e-4))), unit) for name in names]
    write_mosaic(tiles, tmp_path / "m.fits")
    result = fits.getheader(tmp_path / "m.fits")
    assert (result["CTYPE1"], result["RADESYS"]) == ("RA---TAN", "ICRS")
    centre = WCS(result).pixel_to_world(result["NAXIS1"] / 2 - 0.5, result["NAXIS2"] / 2 - 0.5)
    assert centre.separation(CENTRE).deg < 2e-4
    assert max(result["NAXIS1"], result["NAXIS2"]) < 100


@pytest.mark.parametrize(
    ("ctype", "radesys", "frame"),
    [(["HPLN-TAN", "HPLT-TAN"], "", "HPLN"), (["RA---TAN", "DEC--TAN"], "GAPPT", "GAPPT")],
)
def test_an_unknown_frame_is_not_mixed_with_others(
    ctype: list[str], radesys: str, frame: str
) -> None:
    """Tiles of one unknown frame can be matched; one among others of ICRS is left out."""
    tiles = [(tile.data, tile.wcs.deepcopy()) for tile in simulated()]
    for _, wcs in tiles[:1]:
        wcs.wcs.ctype, wcs.wcs.radesys = ctype, radesys
        wcs.wcs.set()
    mixed = calibrate(tiles, pool="serial")
    assert mixed.failed == {
        0: f"tile 0: its coordinates are {frame}, those of most tiles ICRS, and neither can be "
        "converted; leave it out"
    }
    for _, wcs in tiles[1:]:
        wcs.wcs.ctype, wcs.wcs.radesys = ctype, radesys
        wcs.wcs.set()
    alike = calibrate(tiles, pool="serial")
    assert not alike.failed
    assert alike.groups == 1
    pair = [(tile_from_array(*tiles[0]), Correction(np.ones(1), np.zeros(1)))]
    with pytest.raises(TileError, match=f"a mosaic cannot have the coordinates {frame}"):
        write_mosaic(pair, Path("unused.fits"))
