"""Draw the tiles and their seams on the sky (extra ``plot``).

Usage: python examples/sky_map.py FOLDER MAP.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from zemosaic import calibrate


def main(folder: Path, picture: Path) -> None:
    """Calibrate all FITS files of a folder and save a map."""
    solution = calibrate(sorted(folder.glob("*.fits")))
    axes = solution.plot_sky()
    axes.set_title("Seams after correction", pad=30)
    axes.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
