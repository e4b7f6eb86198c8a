"""Match the tiles in a folder, and write the tables and one corrected tile.

Usage: python examples/files.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from zemosaic import calibrate


def main(folder: Path) -> None:
    """Calibrate all FITS files of a folder."""
    tiles = sorted(folder.glob("*.fits"))
    solution = calibrate(tiles, progress=True)
    print(solution)

    table = solution.to_table()
    print(table["file", "channel", "gain", "gain_err", "offset", "offset_err"])
    table.write(folder / "corrections.ecsv", overwrite=True)

    image = solution.correct(tiles[0])  # an astropy.nddata.CCDData
    image.write(folder / "corrected.fit", format="fits", overwrite=True)


if __name__ == "__main__":  # workers are processes, which import this file
    main(Path(sys.argv[1]))
