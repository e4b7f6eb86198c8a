"""How true the corrections are on real frames, of which the answers are known from elsewhere.

    ZEMOSAIC_SHARED_DATA=FOLDER python -m benchmarks.real_frames

Gains are compared with the fluxes of stars and of a nebula, in per cent. "Unseen" is the rms
difference of corrected tiles, in units of its noise, in the squares of a checkerboard that the
corrections were not solved on.
"""

from __future__ import annotations

import time

import numpy as np

from tests.helpers.real_frames import (
    FLUX,
    M94,
    NGC7023,
    VISTA,
    crops,
    frames,
    gain_ratio_errors,
    gain_ratios,
    gain_times_flux,
    solve,
    star_fluxes,
    unseen_difference,
)
from zemosaic.photometry.tiles.tile import Tile

CROPS = {"whole": (1, 1), "halves": (2, 1), "upright halves": (1, 2), "quarters": (2, 2)}
VISTA_MODELS = ("auto", "gain+offset", "gain+plane")


def print_nights(title: str, folder: str, tiles: list[Tile], model: str = "auto") -> None:
    """Print by how many per cent the gains of nights differ from the fluxes, with their errors."""
    solution = solve(tiles, model)
    first, *others = FLUX[folder]
    for night in others:
        off = gain_ratios(solution, first, night) / FLUX[folder][night] - 1
        error = gain_ratio_errors(solution, first, night)
        values = "  ".join(f"{a:+6.2f} ± {b:5.2f}" for a, b in 100 * np.stack([off, error]).T)
        print(f"{title:24} {night:6} {values}")


def print_stars(folder: str, tiles: list[Tile]) -> None:
    """Print by how many per cent our own photometry differs from the fluxes, with its errors."""
    fluxes, errors = star_fluxes(tiles)
    for (night, flux), error in zip(fluxes.items(), errors, strict=True):
        first = FLUX[folder][next(iter(fluxes))]
        off = flux * first / FLUX[folder][night] - 1
        values = "  ".join(f"{a:+6.2f} ± {b:5.2f}" for a, b in 100 * np.stack([off, error]).T)
        print(f"{folder + ', stars':24} {night:6} {values}")


def main() -> None:
    """Print all judgements."""
    start = time.perf_counter()
    tiles = {folder: frames(folder) for folder in FLUX}
    for folder, whole in tiles.items():
        print_stars(folder, whole)
    for title, shape in CROPS.items():
        print_nights(f"M94, {title}", M94, [c for tile in tiles[M94] for c in crops(tile, *shape)])
    print_nights("NGC 7023", NGC7023, tiles[NGC7023])
    for model in VISTA_MODELS:
        product = gain_times_flux(solve(tiles[VISTA], model), VISTA)
        print(
            f"VISTA, {model:17} rms {100 * np.log(product).std():.2f} %, "
            f"from {product.min():.3f} to {product.max():.3f}"
        )
    for folder, whole in tiles.items():
        values = {model: unseen_difference(whole, model) for model in ("offset", "auto")}
        print(f"{folder:24} unseen ", *(f"{model} {v:.4f}" for model, v in values.items()))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
