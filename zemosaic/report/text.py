"""The words and tables of the run page; also read by the console's ``--json``."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

from ..observe.autopsy_text import describe_job, resume_command
from ..runtime.events import JobEnded
from .charts import TITLES, channel_names, culprit, job_name
from .data import UNDER_WAY, Story, outcome, typical

Table = Callable[..., str]
NAMED = 50  # tiles or pairs of one kind that are named; the tables have them all
SLOWEST = 10
OFF = 6  # standard errors: such a pair has lost its say in the solution, too
MANY_OFF = 0.1  # of the pairs
APART = 5  # standard errors: drawn in red in the map
LOST = ("failed", "timeout", "crashed")
WORDS = {"failed": "failed", "timeout": "given up after the time-out", "crashed": "worker died",
         UNDER_WAY: "under way when the run died"}  # fmt: skip


def headline(story: Story) -> str:
    """How the run ended, in one sentence."""
    found = story.found
    seconds = _seconds((found.last_ns - found.started_ns) / 1e9)
    at = f" while {TITLES.get(found.stage, found.stage)}" if found.stage else ""
    if found.state == "running":
        done, total = found.job_counts(found.stage)
        return f"The run goes on{at}" + (f": {done} of {total} done, {seconds}" if total else "")
    if found.state != "finished":
        how = {"died": "The run died", "interrupted": "The run was interrupted"}
        cause = found.cause.removeprefix("NoSolution: ").removeprefix("UserError: ")
        why = f": {cause}" if cause and found.state != "interrupted" else ""
        return f"{how.get(found.state, 'The run failed')} after {seconds}{at}{why}"
    usable = [tile for tile in story.tiles if not tile.failed]
    if not story.matched:
        why = "no pair could be measured" if story.pairs else "no two tiles overlap"
        return f"Nothing to match: {why}, and every tile stays as it is ({seconds})"
    if not story.solved:
        return f"Finished in {seconds}, but its tables are not there"
    lost = sum(pair.outcome in LOST for pair in story.pairs)
    but = f", but {_count(lost, 'pair')} failed" if lost else ""
    groups = story.groups
    alone = sum(len(group) == 1 for group in groups)
    parts = f"in {_count(len(groups) - alone, 'group')}"
    if alone:
        parts += f" and {alone} left alone"
    return f"{len(usable)} of {_count(len(story.tiles), 'tile')} matched {parts}, in {seconds}{but}"


def outcome_class(story: Story) -> str:
    """ "good", "meh" or "bad": the mark beside the headline."""
    if story.found.state == "running":
        return "meh"
    if not story.solved or not story.matched:
        return "bad"
    return "meh" if troubles(story) else "good"


def cards(story: Story) -> list[tuple[str, str]]:
    """Numbers in large, and what they are."""
    outcomes = Counter(pair.outcome for pair in story.pairs)
    total = max(story.found.job_counts("pairs")[1], len(story.pairs))
    used = sum(not tile.failed for tile in story.tiles)
    before = typical(x for pair in story.pairs for x in pair.before)
    after = typical(x for pair in story.pairs for x in pair.after)
    rest = [f"{outcomes[kind]} {WORDS.get(kind, kind)}" for kind in ("rejected", *LOST, UNDER_WAY)
            if outcomes[kind]]  # fmt: skip
    if total > len(story.pairs):
        rest.append(f"{total - len(story.pairs)} never measured")
    found = [
        (f"{used} of {len(story.tiles)}", "tiles could be used"),
        (f"{outcomes['measured']} of {total}",
         "pairs measured" + (f" ({', '.join(rest)})" if rest else "")),
        (str(len(story.groups)), _groups_words(story)),
    ]  # fmt: skip
    if math.isfinite(before):
        arrow = f" → {after:.2g}" if math.isfinite(after) else ""
        what = "typical step at a seam, " + ("before → after" if arrow else "before")
        found.append((f"{before:.2g}{arrow}", f"{what}, in units of the noise of a cell"))
    return found


def _groups_words(story: Story) -> str:
    one = len(story.groups) == 1
    if not story.solved:
        return "group of tiles tied by pairs" if one else "groups of tiles tied by pairs"
    if one:
        return "group: all tiles are matched to one another"
    return "groups of tiles, each matched in itself"


def troubles(story: Story) -> list[tuple[str, str]]:
    """What failed or looks wrong, and why, by name; the kind is "" or, if mild, "meh"."""
    lines = [("", tile.failed) for tile in story.tiles if tile.failed]
    names = {tile.index: tile.name for tile in story.tiles}
    for pair in story.pairs:
        if pair.outcome in LOST:
            known = {"name_i": names[pair.i], "name_j": names[pair.j]}
            lines.append(("", f"{job_name('pairs', pair.index, known)}: {pair.reason}"))
    lines += [
        ("", f"under way at the end: {describe_job(stuck)}") for stuck in story.found.running_jobs
    ]
    lines += [
        (
            "",
            f"{tile.name}: its pairs contradict the others, or it lies elsewhere than its WCS "
            "says; look at it",
        )
        for tile in story.tiles
        if tile.suspect
    ]
    if story.found.state in ("died", "failed", "interrupted"):
        lines.append(("meh", f"To go on where it ended: {resume_command(story.found)}"))
    bad = {tile.index for tile in story.tiles if tile.suspect}
    apart = sum(p.worst > APART and not {p.i, p.j} & bad for p in story.pairs)
    if apart > MANY_OFF * len(story.pairs):
        count = f"{_count(apart, 'pair')} of {len(story.pairs)}"
        lines.append(("meh", f"{count} still disagree by more than {APART} standard errors: a seam "
                             "may be seen there, and another --model may do better"))  # fmt: skip
    lines += [
        ("meh", f"{tile.name}: stands alone, matched to no other tile")
        for tile in story.tiles
        if story.solved and not tile.failed and not tile.pairs
    ]
    groups = sum(len(group) > 1 for group in story.groups)
    if story.solved and groups > 1:
        lines.append(("meh", f"The tiles form {groups} groups; how the levels of two groups relate "
                             "is not known"))  # fmt: skip
    more = len(lines) - NAMED
    return lines[:NAMED] + ([("meh", f"and {more} more")] if more > 0 else [])


def jobs_table(story: Story, table: Table) -> Iterable[str]:
    """Seconds of each stage, and the slowest pairs."""
    if story.stages:
        parts = {name for name, *_ in story.stages}
        rows = [(TITLES.get(name, name), end - start) for name, start, end in story.stages
                if name != "prepare" or "scan" not in parts]  # fmt: skip
        yield "<h3>Stages</h3>" + table(("stage", "seconds"), rows, {1: ".2f"})
    pairs = [job for job in story.jobs if job.stage == "pairs"]
    if pairs:
        slowest = sorted(pairs, key=_duration, reverse=True)[:SLOWEST]
        head = ("pair", "tile", "and tile", "seconds", "longest part", "outcome")
        named = [
            (j.index, *(j.attributes.get(name, "") for name in ("name_i", "name_j")),
             _duration(j), _longest(j), outcome(j))
            for j in slowest
        ]  # fmt: skip
        yield f"<h3>The {len(slowest)} slowest pairs</h3>" + table(head, named, {0: "d", 3: ".3f"})


def stacks_seen(story: Story) -> Iterable[tuple[str, str]]:
    """Stacks that heartbeats and slow jobs brought, each once, and of what was under way."""
    seen: set[str] = set()
    for event in story.marks:
        if not event.stack or event.stack in seen or len(seen) >= SLOWEST:
            continue
        seen.add(event.stack)
        name = job_name(event.stage, *culprit(event))
        yield f"Stack of {name}, after {story.since(event.time_ns):.0f} s", event.stack
    for stuck in story.found.running_jobs:
        if stuck.stack and stuck.stack not in seen:
            yield f"Stack of {describe_job(stuck)}", stuck.stack


def tiles_table(story: Story, table: Table) -> Iterable[str]:
    """Every tile's numbers, folded away."""
    channels = channel_names(story.channels)
    rows = [
        (tile.index, tile.name, name, tile.gain[c], tile.gain_err[c], tile.offset[c],
         tile.offset_err[c], tile.pairs)
        for tile in story.tiles
        for c, name in enumerate(channels[: len(tile.gain)])
    ]  # fmt: skip
    head = ("tile", "file", "channel", "gain", "±", "offset, ADU", "±", "pairs")
    numbers = {0: "d", 3: ".5f", 4: ".5f", 5: ".3f", 6: ".3f", 7: "d"}
    yield (
        "<details><summary>All gains and offsets as a table</summary>"
        + table(head, rows, numbers)
        + "</details>"
    )


def unmeasurable_table(story: Story, table: Table) -> Iterable[str]:
    """Pairs whose gain or anything could not be measured, folded away."""
    names = {tile.index: tile.name for tile in story.tiles}
    level = [p for p in story.pairs if p.outcome == "measured" and not p.gain_measured]
    none = [p for p in story.pairs if p.outcome == "rejected"]
    for pairs, head, why in (
        (level, "whose gain was not measurable: too little contrast in the overlap, so that it "
                "gives the level alone", "gain not measurable"),
        (none, "that could not be measured at all", ""),
    ):  # fmt: skip
        if not pairs:
            continue
        rows = [(p.index, names[p.i], names[p.j], p.reason or why)
                for p in islice(pairs, NAMED)]  # fmt: skip
        more = f"<p>and {len(pairs) - NAMED} more, in pairs.ecsv</p>" if len(pairs) > NAMED else ""
        yield (
            f"<details><summary>{_count(len(pairs), 'pair')} {head}</summary>"
            + table(("pair", "tile", "and tile", "reason"), rows, {0: "d"})
            + f"{more}</details>"
        )


def chi_words(story: Story) -> list[str]:
    """χ² of levels and gains, in words that say whether the errors can be believed."""
    lines = []
    for name, what in (("level_chi", "Levels"), ("gain_chi", "Gains")):
        squares, freedoms, pairs, off = 0.0, 0, 0, 0
        for c in range(story.channels):
            known = [(p, x) for p in story.pairs
                     for x in getattr(p, name)[c : c + 1] if math.isfinite(x)]  # fmt: skip
            kept = [(p, x) for p, x in known if abs(x) <= OFF]
            tiles = {k for p, _ in kept for k in (p.i, p.j)}
            groups = {story.tiles[k].component for k in tiles}
            squares += sum(x * x for _, x in kept)
            freedoms += len(kept) - len(tiles) + len(groups)
            pairs, off = pairs + len(known), off + len(known) - len(kept)
        if freedoms > 0:
            ratio = squares / freedoms
            without = f", {off} of {pairs} left out, more than {OFF} errors off" if off else ""
            lines.append(
                f"{what}: χ² = {squares:,.0f} for {freedoms} degrees of freedom, χ²/dof = "
                f"{ratio:.2f}{without}: {_verdict(ratio, freedoms, off / pairs)}."
            )
    return lines


def _verdict(ratio: float, freedoms: int, off: float) -> str:
    # Four standard deviations of χ²/dof; and a fifth, since no error is known better.
    expected = 4 * math.sqrt(2 / freedoms) + 0.2
    if off > MANY_OFF:
        return "too many pairs contradict one another for the errors to be believed"
    if ratio > 1 + expected:
        return (
            f"pairs contradict one another by {math.sqrt(ratio):.1f} times what their errors "
            "allow, so take the errors of gains and offsets to be larger by as much"
        )
    if ratio < 1 - min(expected, 0.7):
        return "pairs agree better than their errors predict, so the errors are on the safe side"
    return "pairs agree as well as their errors predict"


def settings_table(story: Story, table: Table) -> Iterable[str]:
    """Settings and versions."""
    about, found = story.found.record.about, story.found
    begun = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(found.started_ns / 1e9))
    rows: list[tuple[str, object]] = [("begun", begun), ("folder", about.get("cwd", ""))]
    rows += [(name, about.get(name, "")) for name in ("host", "version", "python", "pool")]
    rows += [(name.replace("_", " "), "none" if value is None else value)
             for name, value in about.get("settings", {}).items()]  # fmt: skip
    yield table(("setting", "value"), rows, {})


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _duration(job: JobEnded) -> float:
    return (job.ended_ns - job.started_ns) / 1e9


def _longest(job: JobEnded) -> str:
    if not job.step_times:
        return ""
    name = max(job.step_times, key=lambda part: job.step_times[part])
    return f"{name}, {job.step_times[name]:.3f} s"
