"""Problems of a run, as its report lists them: each rule yields one kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..observe.autopsy_text import describe_job, resume_command
from ..observe.progress import FAILED_OUTCOMES, job_name
from ..runtime.events import Note
from .data import RunData

MAX_LISTED = 50  # problems in the list; the tables have all tiles and pairs
MAX_CHI = 5  # standard errors beyond which two tiles disagree; red in the map
MAX_STAR_CHI = 4  # standard errors beyond which the gains of overlap and stars disagree
DISAGREEING = 0.1  # fraction of pairs beyond which the model is doubtful


@dataclass(frozen=True)
class Problem:
    """One line about a failure, or about a result to inspect if it is a mere warning."""

    text: str
    warning: bool = False


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if it is not 1."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def find_problems(run: RunData) -> list[Problem]:
    """Return the problems of a run, failures first, at most `MAX_LISTED` of them."""
    problems = list(chain.from_iterable(rule(run) for rule in RULES))
    omitted = len(problems) - MAX_LISTED
    if omitted > 0:
        problems[MAX_LISTED:] = [Problem(f"and {omitted} more", warning=True)]
    return problems


def _errors(run: RunData) -> Iterator[Problem]:
    for event in run.autopsy.record.events:
        if isinstance(event, Note) and event.level >= logging.ERROR:
            yield Problem(event.message)


def _failed_tiles(run: RunData) -> Iterator[Problem]:
    yield from map(Problem, run.tiles.failed.values())


def _failed_pairs(run: RunData) -> Iterator[Problem]:
    for row in np.flatnonzero(np.isin(run.pairs.outcome, FAILED_OUTCOMES)).tolist():
        pair = run.pairs[row]
        names = {"name_i": run.tiles.names[pair.i], "name_j": run.tiles.names[pair.j]}
        yield Problem(f"{job_name('pairs', pair.index, names)}: {pair.reason}")


def _unfinished_jobs(run: RunData) -> Iterator[Problem]:
    for job in run.autopsy.running_jobs:
        yield Problem(f"in progress at the end: {describe_job(job)}")


def _suspect_tiles(run: RunData) -> Iterator[Problem]:
    for index in np.flatnonzero(run.tiles.suspect).tolist():
        name = run.tiles.names[index]
        yield Problem(f"{name}: its pairs contradict the others, or its WCS is wrong; inspect it")


def _resume(run: RunData) -> Iterator[Problem]:
    if run.autopsy.state in ("died", "failed", "interrupted"):
        yield Problem(f"To resume the run: {resume_command(run.autopsy)}", warning=True)


def _disagreeing_pairs(run: RunData) -> Iterator[Problem]:
    pairs, suspect = run.pairs, run.tiles.suspect
    trusted = ~(suspect[pairs.i] | suspect[pairs.j])
    disagreeing = int(np.count_nonzero((pairs.max_chi > MAX_CHI) & trusted))
    if disagreeing > DISAGREEING * len(run.pairs):
        yield Problem(
            f"{count(disagreeing, 'pair')} of {len(run.pairs)} still disagree by more than "
            f"{MAX_CHI} standard errors: seams may be visible there, and another --model may "
            "work better",
            warning=True,
        )


def _disagreeing_stars(run: RunData) -> Iterator[Problem]:
    apart = {row.pair for row in run.star_gains if abs(row.chi) > MAX_STAR_CHI}
    if apart:
        pairs = len({row.pair for row in run.star_gains})
        yield Problem(
            f"The gains of {count(len(apart), 'pair')} of {pairs} by their stars differ from those "
            f"by their overlaps by more than {MAX_STAR_CHI} errors: saturated stars or a faulty "
            "flat may bend either; compare both in the table below",
            warning=True,
        )


def _isolated_tiles(run: RunData) -> Iterator[Problem]:
    for index in np.flatnonzero(run.tiles.pairs == 0).tolist() if run.solved else ():
        if index not in run.tiles.failed:
            name = run.tiles.names[index]
            yield Problem(f"{name}: isolated, matched to no other tile", warning=True)


def _separate_groups(run: RunData) -> Iterator[Problem]:
    groups = sum(size > 1 for size in run.groups)
    if run.solved and groups > 1:
        yield Problem(
            f"The tiles form {groups} separate groups, whose relative levels are unknown",
            warning=True,
        )


#: In the order of the list.
RULES: tuple[Callable[[RunData], Iterator[Problem]], ...] = (
    _errors,
    _failed_tiles,
    _failed_pairs,
    _unfinished_jobs,
    _suspect_tiles,
    _resume,
    _disagreeing_pairs,
    _disagreeing_stars,
    _isolated_tiles,
    _separate_groups,
)
