"""Compare the calibration with other programs that match tiles, on the same tiles.

    python benchmarks/peers.py [--quick] [--tiles N] [--shape HxW] [--vignetting FRACTION]
                               [--rounds N] [--folder DIR] [--json FILE] [--mosaic]

Each program runs as a command, from start to end, and ours directly before each of them; the ratio
of wall times is that of these two runs. A program that is not installed is skipped with one line.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Modules that a peer does not need are imported in functions, because its imports count.
from harness import Failed, Load, TileSet, Watched, load_line, run_watched, size, write_set

if TYPE_CHECKING:
    import numpy as np

    from zemosaic.photometry.simulate import Scene
    from zemosaic.photometry.solver.solve import Correction
    from zemosaic.pipeline.solution import PhaseSolution

MONTAGE = ("mImgtbl", "mMakeHdr", "mProjExec", "mOverlaps", "mDiffFitExec", "mBgModel")


@dataclass(frozen=True, eq=False)
class Answer:
    """Corrections of monochrome tiles in the form of accuracy.py: arrays ``(T, 1)``."""

    gain: np.ndarray
    offset: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    component: np.ndarray

    def correction(self, tile: int) -> Correction:
        """Return the correction of one tile."""
        from zemosaic.photometry.solver.solve import Correction

        terms = (self.gain, self.offset, self.slope_x, self.slope_y)
        return Correction(*(values[tile] for values in terms))


@dataclass(frozen=True)
class Run:
    """A run of a program: its name and setting, its cost, and its corrections if it has any."""

    name: str
    took: Watched
    answer: Answer | PhaseSolution | None


class Absent(Exception):  # noqa: N818 - not an error
    """A program is not installed; the message says which."""


def answer(
    offset: Any, gain: Any = 1.0, slope_x: Any = 0.0, slope_y: Any = 0.0, tiles: int = 0
) -> Answer:
    """Return an answer; a scalar applies to all tiles."""
    import numpy as np

    tiles = tiles or len(offset)
    columns = [
        np.broadcast_to(np.asarray(a, dtype=float), tiles)[:, None].copy()
        for a in (gain, offset, slope_x, slope_y)
    ]
    return Answer(*columns, np.zeros((tiles, 1), dtype=int))


def ours(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run the command line of this project, which writes tables and a trace.

    The corrections are those of the same calibration as a function.
    """
    start = [sys.executable, "-c", "from zemosaic.cli import main; main()", "intertile"]
    took = run_watched([[*start, "-o", "run", *tiles.files]], scratch)
    yield Run("zemosaic", took, _calibrated(tiles.files))


def our_mosaic(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run the command line with a mosaic, whose stage alone counts; the memory is of all stages."""
    start = [sys.executable, "-c", "from zemosaic.cli import main; main()", "intertile"]
    options = ["-o", "run", "--mosaic", "m.fits", "--no-report", "--quiet", "--json"]
    took = run_watched([[*start, *options, *tiles.files]], scratch)
    facts = json.loads((scratch / "0.log").read_text().splitlines()[-1])
    yield Run("zemosaic, mosaic alone", Watched(facts["seconds"]["mosaic"], took.peak), None)


@cache
def _calibrated(files: tuple[str, ...]) -> PhaseSolution:
    from zemosaic import calibrate

    return calibrate(files, observers=[])


def montage(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run Montage up to the corrections: one projection, then levels and then planes."""
    for program in MONTAGE:
        if shutil.which(program) is None:
            raise Absent(f"{program} of Montage is not installed")
    raw = str(Path(tiles.files[0]).parent)
    for name in ("projected", "level", "plane"):
        (scratch / name).mkdir()
    projected = run_watched(
        [
            ["mImgtbl", raw, "raw.tbl"],
            ["mMakeHdr", "raw.tbl", "template.hdr"],
            ["mProjExec", "-p", raw, "raw.tbl", "template.hdr", "projected", "stats.tbl"],
            ["mImgtbl", "projected", "projected.tbl"],
            ["mOverlaps", "projected.tbl", "overlaps.tbl"],
        ],
        scratch,
    )
    for kind, level in (("level", ["-l"]), ("plane", [])):
        fits, out = f"{kind}-fits.tbl", f"{kind}.tbl"
        difference = ["-p", "projected", "overlaps.tbl", "template.hdr", kind, fits]
        fitted = run_watched(
            [
                ["mDiffFitExec", *level, *difference],
                ["mBgModel", *level, "projected.tbl", fits, out],
            ],
            scratch,
        )
        took = Watched(projected.seconds + fitted.seconds, max(projected.peak, fitted.peak))
        yield Run(f"Montage, {kind}", took, _of_montage(tiles, scratch, out))


def _of_montage(tiles: TileSet, scratch: Path, table_name: str) -> Answer:
    """Return Montage's planes, converted from pixels of the mosaic to pixels of the tiles."""
    import numpy as np
    from astropy.table import Table

    images = Table.read(scratch / "projected.tbl", format="ascii.ipac")
    corrections = Table.read(scratch / table_name, format="ascii.ipac")
    by_number = {int(row["id"]): (row["a"], row["b"], row["c"]) for row in corrections}
    planes = {Path(row["fname"]).name: by_number.get(int(row["cntr"]), (0, 0, 0)) for row in images}
    rows = []
    for path in tiles.files:
        name = Path(path).name
        plane = next(plane for file, plane in planes.items() if file.endswith(name))
        projected = next((scratch / "projected").glob(f"*{name}"))
        rows.append(_plane_in_tile(path, projected, plane))
    offset, slope_x, slope_y = np.array(rows).T
    return answer(offset, 1.0, slope_x, slope_y)


def _plane_in_tile(
    path: str, projected: Path, plane: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return offset and slopes that Montage adds to a tile, in pixels of the tile."""
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS

    a, b, c = plane
    header = fits.getheader(path)
    mosaic = WCS(fits.getheader(projected))
    middle = np.array([header["NAXIS1"] - 1, header["NAXIS2"] - 1]) / 2
    far = middle * 0.9
    points = middle + np.array([[0, 0], [far[0], 0], [-far[0], 0], [0, far[1]], [0, -far[1]]])
    positions = mosaic.wcs_world2pix(WCS(header).wcs_pix2world(points, 0), 1) - mosaic.wcs.crpix
    # Montage subtracts its planes.
    levels = -(positions @ [a, b] + c)
    slopes = (levels[1] - levels[2]) / (2 * far[0]), (levels[3] - levels[4]) / (2 * far[1])
    return levels[0], *slopes


def swarp(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run SWarp, which matches nothing: the cost of resampling and coadding alone."""
    program = shutil.which("SWarp") or shutil.which("swarp")
    if program is None:
        raise Absent("SWarp is not installed")
    options = ["-SUBTRACT_BACK", "N", "-COMBINE_TYPE", "AVERAGE", "-WRITE_XML", "N",
               "-VERBOSE_TYPE", "QUIET"]  # fmt: skip
    yield Run("SWarp, coadd alone", run_watched([[program, *tiles.files, *options]], scratch), None)


def by_reproject(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run reproject_and_coadd(match_background=True) with reproject_interp."""
    yield from _in_python("reproject", "reproject, match_background", tiles, scratch)


def by_reproject_coadd(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run reproject_and_coadd() with reproject_interp, and write its mosaic."""
    command = [sys.executable, __file__, "--answer", "coadd", *tiles.files]
    yield Run("reproject, coadd alone", run_watched([command], scratch), None)


def by_skymatch(tiles: TileSet, scratch: Path) -> Iterator[Run]:
    """Run skymatch of stcal with the settings of its pipeline."""
    yield from _in_python("stcal", "skymatch (stcal)", tiles, scratch)


def _in_python(package: str, name: str, tiles: TileSet, scratch: Path) -> Iterator[Run]:
    if importlib.util.find_spec(package) is None:
        raise Absent(f"{package} is not installed")
    command = [sys.executable, __file__, "--answer", package, *tiles.files]
    took = run_watched([command], scratch)
    yield Run(name, took, answer(json.loads((scratch / "answer.json").read_text())))


def answer_of_reproject(files: Sequence[str]) -> list[float]:
    """Return the offsets that reproject adds to the tiles; its coadd is discarded."""
    from reproject import reproject_interp
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd

    # It does not return its offsets, so they are recorded in its solver.
    module = sys.modules[reproject_and_coadd.__module__]
    solver, subtracted = module.solve_corrections_sgd, []

    def recording(*args: Any, **options: Any) -> Any:
        corrections = solver(*args, **options)
        subtracted.append(corrections.copy())
        return corrections

    module.solve_corrections_sgd = recording
    wcs, shape = find_optimal_celestial_wcs(list(files))
    reproject_and_coadd(
        list(files), wcs, shape_out=shape, hdu_in=0,
        reproject_function=reproject_interp, match_background=True,
    )  # fmt: skip
    return [-float(value) for value in subtracted[0]]


def coadd_of_reproject(files: Sequence[str]) -> list[float]:
    """Write the coadd of reproject, which changes nothing."""
    from astropy.io import fits
    from reproject import reproject_interp
    from reproject.mosaicking import find_optimal_celestial_wcs, reproject_and_coadd

    wcs, shape = find_optimal_celestial_wcs(list(files))
    coadd, _ = reproject_and_coadd(
        list(files), wcs, shape_out=shape, hdu_in=0, reproject_function=reproject_interp
    )
    fits.writeto("coadd.fits", coadd.astype("float32"), wcs.to_header())
    return [0.0 for _ in files]


def answer_of_stcal(files: Sequence[str]) -> list[float]:
    """Return the offsets that skymatch would add to the tiles."""
    import numpy as np
    from astropy.io import fits
    from astropy.wcs import WCS
    from stcal.skymatch.skyimage import SkyImage
    from stcal.skymatch.skymatch import skymatch
    from stcal.skymatch.skystatistics import SkyStats

    statistics_ = SkyStats(skystat="mode", nclip=5, lsig=4.0, usig=4.0, binwidth=0.1)

    def image(path: str, number: int) -> SkyImage:
        with fits.open(path, memmap=False) as hdus:
            data, wcs = np.asarray(hdus[0].data, dtype=np.float32), WCS(hdus[0].header)

        def forward(x: Any, y: Any, with_bounding_box: bool = False) -> Any:
            return wcs.all_pix2world(x, y, 0)

        def inverse(ra: Any, dec: Any, with_bounding_box: bool = False) -> Any:
            return wcs.all_world2pix(ra, dec, 0)

        return SkyImage(data, np.isfinite(data), forward, inverse, statistics_, sky_id=str(number))

    images = [image(path, number) for number, path in enumerate(files)]
    skymatch(images, skymethod="match", match_down=True, subtract=False)
    return [-float(sky_image.sky) for sky_image in images]


ANSWERS: dict[str, Callable[[Sequence[str]], list[float]]] = {
    "reproject": answer_of_reproject,
    "coadd": coadd_of_reproject,
    "stcal": answer_of_stcal,
}
Program = Callable[[TileSet, Path], Iterator[Run]]
PEERS: tuple[Program, ...] = (swarp, by_skymatch, montage, by_reproject)
COADDS: tuple[Program, ...] = (swarp, by_reproject_coadd)


def errors(scene: Scene, answers: Sequence[Answer | PhaseSolution]) -> list[dict[str, float]]:
    """Return the errors of gains and levels, and what is left, as defined in accuracy.py."""
    import numpy as np
    from errors import deviations, free_planes, without_planes
    from seams import pixel_noise, remains

    from zemosaic.photometry.simulate import simulate

    simulated = list(simulate(scene))
    everything = np.ones(len(simulated), dtype=bool)
    rows = []
    for answer_, left in zip(answers, remains(scene, answers), strict=True):
        found = deviations(simulated, answer_, everything)
        found = without_planes(found, free_planes(scene), simulated)
        row = {
            "gain_percent": 100 * float(np.sqrt(np.mean(found["gain"] ** 2))),
            "level_sigma": float(found["level"].std()) / pixel_noise(scene),
        }
        rows.append({**row, **left})
    return rows


def compete(
    tiles: TileSet, rounds: int, mine_: Program = ours, peers: Sequence[Program] = PEERS
) -> tuple[list[Run], dict[str, list[float]], list[str]]:
    """Run all programs alternately; return runs, ratios to ours, and lines about skipped ones."""
    runs: list[Run] = []
    ratios: dict[str, list[float]] = {}
    skipped: dict[str, None] = {}
    for _ in range(rounds):
        for peer in peers:
            for mine in _once(mine_, tiles):
                runs.append(mine)
            try:
                for other in _once(peer, tiles):
                    runs.append(other)
                    ratios.setdefault(other.name, []).append(other.took.seconds / mine.took.seconds)
            except (Absent, Failed) as reason:
                skipped[f"{peer.__name__.removeprefix('by_')}: skipped, {reason}"] = None
    return runs, ratios, list(skipped)


def _once(program: Program, tiles: TileSet) -> list[Run]:
    with tempfile.TemporaryDirectory(dir=tiles.folder) as scratch:
        runs = []
        for run in program(tiles, Path(scratch)):
            runs.append(run)
            print(f"  {run.name}: {run.took.seconds:.1f} s", file=sys.stderr, flush=True)
        return runs


def summary(
    all_runs: Sequence[Run], ratios: dict[str, list[float]], scene: Scene
) -> list[dict[str, Any]]:
    """Return one row for each program, and one for no correction."""
    rows = costs(all_runs, ratios)
    answers = {run.name: run.answer for run in all_runs if run.answer is not None}
    rows.append({"name": "no correction"})
    answers["no correction"] = answer(0.0, tiles=scene.tiles)
    judged = dict(zip(answers, errors(scene, list(answers.values())), strict=True))
    for row in rows:
        if row["name"] in judged:
            row.update(judged[row["name"]])
            row["solves_gain"] = bool((answers[row["name"]].gain != 1).any())
    return rows


def costs(all_runs: Sequence[Run], ratios: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return one row for each program with its time and its memory."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(run.name for run in all_runs):
        runs = [run for run in all_runs if run.name == name]
        row: dict[str, Any] = {
            "name": name,
            "seconds": [run.took.seconds for run in runs],
            "peak_bytes": max(run.took.peak for run in runs),
            "ratio": statistics.median(ratios[name]) if name in ratios else 1.0,
        }
        rows.append(row)
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print(
        "\n| program | wall s | times ours | peak memory MiB | gain error % | level σ | within σ "
        "| shape σ |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        cost = "– | – | –"
        if "seconds" in row:
            cost = (
                f"{statistics.median(row['seconds']):.1f} | {row['ratio']:.1f} "
                f"| {row['peak_bytes'] / 2**20:.0f}"
            )
        figures = "– | – | – | –"
        if "within_sigma" in row:
            gain = f"{row['gain_percent']:.3f}"
            gain = gain if row["solves_gain"] else f"not solved ({row['gain_percent']:.1f})"
            level, within, shape = (row[f"{key}_sigma"] for key in ("level", "within", "shape"))
            figures = f"{gain} | {level:.4f} | {within:.4f} | {shape:.3f}"
        print(f"| {row['name']} | {cost} | {figures} |")


def main() -> None:
    """Print a table in Markdown, and write all figures as JSON if requested."""
    if sys.argv[1:2] == ["--answer"]:  # the process of a peer written in Python
        Path("answer.json").write_text(json.dumps(ANSWERS[sys.argv[2]](sys.argv[3:])))
        return
    from zemosaic.photometry.simulate import Scene

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16 tiles of 512x512")
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--shape", type=size, default=(1080, 1920), metavar="HxW")
    parser.add_argument(
        "--vignetting", type=float, default=0.0, help="fraction of light lost in all corners"
    )
    parser.add_argument("--rounds", type=int, default=1, help="number of runs of each program")
    parser.add_argument("--folder", type=Path, help="keep the tiles in this folder")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--mosaic", action="store_true", help="compare the coadds alone")
    options = parser.parse_args()
    count, shape = (16, (512, 512)) if options.quick else (options.tiles, options.shape)
    scene = Scene(tiles=count, shape=shape, overlap=0.3, vignetting=options.vignetting)
    with tempfile.TemporaryDirectory(prefix="zemosaic-peers-") as temporary:
        tiles = write_set(scene, (options.folder or Path(temporary)).resolve())
        list(map(Path.read_bytes, map(Path, tiles.files)))  # so that all programs read from memory
        load = Load()
        programs = (our_mosaic, COADDS) if options.mosaic else (ours, PEERS)
        runs, ratios, skipped = compete(tiles, options.rounds, *programs)
        machine = load.report()
        rows = costs(runs, ratios) if options.mosaic else summary(runs, ratios, scene)
    print_table(rows)
    print(f"\n{count} tiles of {shape[0]} × {shape[1]}. {load_line(machine)}")
    for line in skipped:
        print(line)
    if options.json:
        results = {"tiles": count, "shape": shape, "rows": rows, "skipped": skipped}
        options.json.write_text(json.dumps({**results, "machine": machine}, indent=1))


if __name__ == "__main__":
    main()
