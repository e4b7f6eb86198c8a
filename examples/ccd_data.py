"""Match frames that are in memory as CCDData, and coadd them by reproject.

Usage: python examples/ccd_data.py
"""

from __future__ import annotations

import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty
from reproject import reproject_interp
from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd

from zemosaic import calibrate
from zemosaic.photometry.simulate import Scene, simulate


def frames() -> list[CCDData]:
    """Simulate frames with a mask, errors, a unit and a WCS."""
    return [
        CCDData(
            tile.data,
            unit="adu",
            wcs=tile.wcs,
            mask=np.isnan(tile.data),
            uncertainty=StdDevUncertainty(np.sqrt(np.abs(tile.data) + 25.0)),
        )
        for tile in simulate(Scene(tiles=6, shape=(240, 320)))
    ]


def main() -> None:
    """Calibrate the frames and coadd them before and after."""
    tiles = frames()
    solution = calibrate(tiles, pool="threads")
    corrected = [solution.correct(tile) for tile in tiles]
    wcs, shape = find_optimal_celestial_wcs([(tile.data, tile.wcs) for tile in tiles])
    for name, images in (("before", tiles), ("after", corrected)):
        coadd, _ = reproject_and_coadd(
            [(image.data, image.wcs) for image in images],
            wcs,
            shape_out=shape,
            reproject_function=reproject_interp,
        )
        median = np.nanmedian(coadd)
        scatter = 1.4826 * np.nanmedian(np.abs(coadd - median))
        print(f"{name}: sky {median:.1f} ADU, scatter {scatter:.1f} ADU")


if __name__ == "__main__":
    main()
