"""Tables of the report: stages, slowest pairs, stacks, corrections, settings."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from ..observe.autopsy_text import describe_job
from ..observe.progress import stage_title
from ..runtime.events import JobEnded
from ..text import two_digits, with_error
from .alerts import alert_job
from .data import PairData, RunData, StarComparison, job_outcome, job_seconds
from .markup import escape, folded, table
from .problems import MAX_LISTED, count
from .rows import TileTable
from .selection import MAX_ROWS

MAX_SLOWEST = 10
MAX_STACKS = 10


def time_tables(run: RunData) -> Iterator[str]:
    """Yield the seconds of each stage, and the slowest pairs."""
    if run.stages:
        names = {times.stage for times in run.stages}
        rows = [
            (stage_title(times.stage), times.end - times.start)
            for times in run.stages
            if times.stage != "prepare" or "scan" not in names  # which is a part of it
        ]
        yield "<h3>Stages</h3>" + table(("stage", "seconds"), rows, {1: ".2f"})
    pairs = np.flatnonzero(run.jobs.stage == "pairs")
    if len(pairs):
        order = np.argsort(-run.jobs.seconds[pairs], kind="stable")[:MAX_SLOWEST]
        slowest = [run.jobs[number] for number in pairs[order].tolist()]
        yield f"<h3>The {len(slowest)} slowest pairs</h3>" + table(
            ("pair", "tile", "and tile", "seconds", "longest step", "outcome"),
            [_job_row(job) for job in slowest],
            {0: "d", 3: ".3f"},
        )


def _job_row(job: JobEnded) -> tuple[object, ...]:
    names = [job.attributes.get(name, "") for name in ("name_i", "name_j")]
    return job.index, *names, job_seconds(job), _longest_step(job), job_outcome(job)


def _longest_step(job: JobEnded) -> str:
    if not job.step_times:
        return ""
    name, seconds = max(job.step_times.items(), key=lambda item: item[1])
    return f"{name}, {seconds:.3f} s"


def stack_dumps(run: RunData) -> Iterator[str]:
    """Yield the stacks of alerts, each once, and of the jobs in progress at the end."""
    seen: set[str] = set()
    for alert in run.alerts:
        if alert.stack and alert.stack not in seen and len(seen) < MAX_STACKS:
            seen.add(alert.stack)
            _, name = alert_job(alert)
            yield _stack(f"{name}, after {run.elapsed(alert.time_ns):.0f} s", alert.stack)
    for job in run.autopsy.running_jobs:
        if job.stack and job.stack not in seen:
            yield _stack(describe_job(job), job.stack)


def _stack(title: str, stack: str) -> str:
    return folded(f"Stack of {title}", f"<pre>{escape(stack)}</pre>")


def corrections_table(run: RunData) -> str:
    """Return the gains and offsets of the tiles, or of the worst of many, folded away."""
    channels = run.channel_names
    tiles = [run.tiles[index] for index in _most_doubtful(run.tiles)]
    rows = [
        (
            tile.index, tile.name, name, with_error(gain, gain_err), with_error(offset, offset_err),
            tile.pairs,
        )
        for tile in tiles
        for name, gain, gain_err, offset, offset_err in zip(
            channels, tile.gain, tile.gain_err, tile.offset, tile.offset_err, strict=False
        )
    ]  # fmt: skip
    head = ("tile", "file", "channel", "gain", run.in_unit("offset"), "pairs")
    formats = {0: "d", 3: "", 4: "", 5: "d"}
    if len(tiles) == len(run.tiles):
        return folded("Table of all gains and offsets", table(head, rows, formats))
    rest = f"<p>and {len(run.tiles) - len(tiles)} more, in corrections.ecsv</p>"
    title = "Table of gains and offsets, suspect tiles and the least certain gains first"
    return folded(title, table(head, rows, formats) + rest)


def _most_doubtful(tiles: TileTable) -> list[int]:
    """Return suspect tiles, then those with the largest errors of gains; a few tiles in order."""
    if len(tiles) <= MAX_ROWS:
        return list(range(len(tiles)))
    gain, gain_err = (tiles.corrections[name] for name in ("gain", "gain_err"))
    error = np.divide(gain_err, gain, out=np.zeros_like(gain), where=gain != 0)
    largest = np.where(np.isfinite(error), error, -np.inf).max(axis=1, initial=0.0)
    return np.lexsort([-largest, ~tiles.suspect])[:MAX_ROWS].tolist()


def pairs_table(run: RunData) -> Iterator[str]:
    """Yield the steps of the pairs before and after correction, largest first, folded away."""
    before, after = (run.pairs.largest(name) for name in ("before", "after"))
    step = np.where(np.isfinite(after), after, before)
    measured = np.flatnonzero(np.isfinite(before))
    if not len(measured):
        return
    order = np.argsort(-step[measured], kind="stable")[:MAX_LISTED]
    worst = [run.pairs[number] for number in measured[order].tolist()]
    rows = [
        (
            pair.index, run.tiles.names[pair.i], run.tiles.names[pair.j],
            *(_largest(pair.finite(name)) for name in ("before", "after")),
            _residual(pair), two_digits(pair.max_chi),
        )
        for pair in worst
    ]  # fmt: skip
    head = (
        "pair", "tile", "and tile", "step before, × noise", "after, × noise",
        run.in_unit("residual"), "in errors",
    )  # fmt: skip
    body = table(head, rows, {0: "d", 3: "", 4: "", 5: "", 6: ""})
    if len(measured) > MAX_LISTED:
        body += f"<p>and {len(measured) - MAX_LISTED} more, in pairs.ecsv</p>"
    yield folded("Table of the pairs, largest step first", body)


def _largest(values: list[float]) -> str:
    return two_digits(max(values, default=math.nan))


def _residual(pair: PairData) -> str:
    """Return the largest residual level of a pair and its error."""
    solved = [residual for residual in pair.residuals if math.isfinite(residual.residual)]
    if not solved:
        return "unknown"
    largest = max(solved, key=lambda residual: abs(residual.residual))
    chi = largest.level_chi
    return with_error(largest.residual, largest.residual / chi if chi else math.nan)


def unmeasured_tables(run: RunData) -> Iterator[str]:
    """Yield the pairs without a measured gain and the rejected pairs, folded away."""
    no_gain = np.flatnonzero(run.pairs.measured & ~run.pairs.gain_measured)
    if len(no_gain):
        yield _pairs_table(
            run,
            no_gain,
            "without a measurable gain: too little contrast in the overlap, which yields only a "
            "level",
            "gain not measurable",
        )
    rejected = np.flatnonzero(run.pairs.outcome == "rejected")
    if len(rejected):
        yield _pairs_table(run, rejected, "that could not be measured at all", "")


def _pairs_table(run: RunData, rows_of_pairs: np.ndarray, title: str, reason: str) -> str:
    pairs = [run.pairs[number] for number in rows_of_pairs[:MAX_LISTED].tolist()]
    rows = [
        (pair.index, run.tiles.names[pair.i], run.tiles.names[pair.j], pair.reason or reason)
        for pair in pairs
    ]
    body = table(("pair", "tile", "and tile", "reason"), rows, {0: "d"})
    if len(rows_of_pairs) > MAX_LISTED:
        body += f"<p>and {len(rows_of_pairs) - MAX_LISTED} more, in pairs.ecsv</p>"
    return folded(f"{count(len(rows_of_pairs), 'pair')} {title}", body)


def star_table(run: RunData) -> Iterator[str]:
    """Yield both gains of the pairs with stars, the largest differences first, folded away."""
    if not run.star_gains:
        return
    worst = sorted(run.star_gains, key=_difference, reverse=True)
    rows = [
        (
            row.pair, run.tiles.names[row.i], run.tiles.names[row.j],
            run.channel_names[row.channel],
            with_error(row.gain, row.gain_err), with_error(row.star_gain, row.star_gain_err),
            row.stars, row.chi,
        )
        for row in worst[:MAX_LISTED]
    ]  # fmt: skip
    head = (
        "pair", "tile", "and tile", "channel", "gain by the overlap", "gain by the stars", "stars",
        "difference in errors",
    )  # fmt: skip
    formats = {0: "d", 4: "", 5: "", 6: "d", 7: "+.1f"}
    body = table(head, rows, formats)
    if len(worst) > MAX_LISTED:
        body += f"<p>and {len(worst) - MAX_LISTED} more, in pairs.ecsv</p>"
    title = "Gains of the pairs by their overlaps and by their stars, most different first"
    yield folded(title, body)


def _difference(star: StarComparison) -> float:
    return 0.0 if math.isnan(star.chi) else abs(star.chi)


def settings_table(run: RunData) -> str:
    """Return the settings and versions of the run."""
    about, started = run.autopsy.record.about, time.localtime(run.autopsy.started_ns / 1e9)
    rows: list[tuple[str, object]] = [
        ("started", time.strftime("%Y-%m-%d %H:%M:%S %z", started)),
        ("folder", about.get("cwd", "")),
        *((name, about.get(name, "")) for name in ("host", "version", "python", "pool")),
    ]
    for name, value in about.get("settings", {}).items():
        rows.append((name.replace("_", " "), "none" if value is None else value))
    return table(("setting", "value"), rows, {})
