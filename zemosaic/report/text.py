"""Headline, key figures and χ² of a run in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..observe.progress import FAILED_OUTCOMES, stage_title
from ..text import two_digits
from .data import IN_PROGRESS, RunData, finite_median
from .problems import count, find_problems

MAX_CHI = 6  # standard errors; the solver, too, gives such a pair no weight
MANY_OUTLIERS = 0.1  # fraction of pairs beyond which errors are unreliable
OUTCOMES = {
    "rejected": "rejected",
    "failed": "failed",
    "timeout": "timed out",
    "crashed": "worker died",
    IN_PROGRESS: "in progress when the run died",
}
ENDINGS = {"died": "The run died", "interrupted": "The run was interrupted"}


def headline(run: RunData) -> str:
    """Return the state or result of the run in one sentence."""
    autopsy = run.autopsy
    seconds = _seconds_text(run.elapsed(autopsy.last_ns))
    if autopsy.state == "running":
        return _progress_headline(run, seconds)
    if autopsy.state == "finished":
        return _result_headline(run, seconds)
    stage = f" while {stage_title(autopsy.stage)}" if autopsy.stage else ""
    cause = autopsy.cause.removeprefix("NoSolution: ").removeprefix("UserError: ")
    reason = f": {cause}" if cause and autopsy.state != "interrupted" else ""
    return f"{ENDINGS.get(autopsy.state, 'The run failed')} after {seconds}{stage}{reason}"


def _progress_headline(run: RunData, seconds: str) -> str:
    stage = run.autopsy.stage
    done, total = run.autopsy.job_counts(stage)
    title = f", {stage_title(stage)}" if stage else ""
    return f"The run is in progress{title}" + (
        f": {done} of {total} done after {seconds}" if total else ""
    )


def _result_headline(run: RunData, seconds: str) -> str:
    if not run.matched:
        reason = "no pair could be measured" if run.pairs else "no two tiles overlap"
        return f"Nothing to match: {reason}, so all tiles stay unchanged ({seconds})"
    if not run.solved:
        return f"Finished in {seconds}, but its tables are missing"
    usable = len(run.tiles) - len(run.tiles.failed)
    isolated = sum(size == 1 for size in run.groups)
    groups = f"in {count(len(run.groups) - isolated, 'group')}"
    if isolated:
        groups += f" and {isolated} isolated"
    failed = sum(map(run.pairs.count, FAILED_OUTCOMES))
    failures = f", but {count(failed, 'pair')} failed" if failed else ""
    return f"{usable} of {count(len(run.tiles), 'tile')} matched {groups}, in {seconds}{failures}"


def verdict_class(run: RunData) -> str:
    """Return the CSS class of the headline: "good", "warning" or "bad"."""
    if run.autopsy.state == "running":
        return "warning"
    if not run.solved or not run.matched:
        return "bad"
    return "warning" if find_problems(run) else "good"


@dataclass(frozen=True)
class KeyFigure:
    """A figure in large type and its label."""

    value: str
    label: str


def key_figures(run: RunData) -> Iterator[KeyFigure]:
    """Yield the key figures: usable tiles, measured pairs, groups, and the step at a seam."""
    usable = len(run.tiles) - len(run.tiles.failed)
    yield KeyFigure(f"{usable} of {len(run.tiles)}", "usable tiles")
    yield _pair_figure(run)
    yield KeyFigure(str(len(run.groups)), _groups_label(run))
    before = finite_median(run.finite_residuals("before"))
    after = finite_median(run.finite_residuals("after"))
    if math.isfinite(after):
        yield KeyFigure(
            f"{two_digits(before)} → {two_digits(after)}",
            "typical step at a seam, before → after, in units of the cell noise",
        )
    elif math.isfinite(before):
        yield KeyFigure(
            two_digits(before), "typical step at a seam, before, in units of the cell noise"
        )


def _pair_figure(run: RunData) -> KeyFigure:
    outcomes = Counter(run.pairs.outcome.tolist())
    total = max(run.autopsy.job_counts("pairs")[1], len(run.pairs))
    unmeasured = [f"{outcomes[name]} {label}" for name, label in OUTCOMES.items() if outcomes[name]]
    if total > len(run.pairs):
        unmeasured.append(f"{total - len(run.pairs)} never measured")
    details = f" ({', '.join(unmeasured)})" if unmeasured else ""
    return KeyFigure(f"{outcomes['measured']} of {total}", f"pairs measured{details}")


def _groups_label(run: RunData) -> str:
    single = len(run.groups) == 1
    if not run.solved:
        return f"group{'' if single else 's'} of tiles connected by pairs"
    if single:
        return "group: all tiles are matched to one another"
    return "groups of tiles, each matched within itself"


@dataclass
class _ChiSquare:
    """χ² of the residuals of levels or gains, with its degrees of freedom, and outliers."""

    chi2: float = 0.0
    dof: int = 0
    pairs: int = 0
    outliers: int = 0

    def add_channel(self, run: RunData, channel: int, name: str) -> None:
        """Add a channel; each tile has one free parameter, and each group of tiles a gauge."""
        residuals = run.pairs.residuals[name]
        if channel >= residuals.shape[1]:
            return
        chi = residuals[:, channel]
        inlier = np.abs(chi) <= MAX_CHI
        tiles = np.unique([run.pairs.i[inlier], run.pairs.j[inlier]])
        groups = np.unique(run.tiles.component[tiles])
        finite, inliers = (int(np.count_nonzero(some)) for some in (np.isfinite(chi), inlier))
        self.chi2 += math.fsum(np.square(chi[inlier]))
        self.dof += inliers - len(tiles) + len(groups)
        self.pairs += finite
        self.outliers += finite - inliers

    def sentence(self, title: str) -> str:
        """Return χ² per degree of freedom and its meaning for the errors."""
        excluded = ""
        if self.outliers:
            excluded = (
                f", excluding {self.outliers} of {self.pairs}, more than {MAX_CHI} errors off"
            )
        return (
            f"{title}: χ² = {self.chi2:,.0f} for {self.dof} degrees of freedom, χ²/dof = "
            f"{self.chi2 / self.dof:.2f}{excluded}: {self._verdict()}."
        )

    def _verdict(self) -> str:
        ratio = self.chi2 / self.dof
        # Four standard deviations of χ²/dof, plus a fifth: no error is known more precisely.
        tolerance = 4 * math.sqrt(2 / self.dof) + 0.2
        if self.outliers / self.pairs > MANY_OUTLIERS:
            return "too many pairs contradict one another for the errors to be reliable"
        if ratio > 1 + tolerance:
            return (
                f"pairs contradict one another by {math.sqrt(ratio):.1f} times their errors, so "
                "multiply the errors of gains and offsets by that factor"
            )
        if ratio < 1 - min(tolerance, 0.7):
            return "pairs agree better than their errors predict, so the errors are conservative"
        return "pairs agree as well as their errors predict"


def chi_square_sentences(run: RunData) -> list[str]:
    """Return sentences on the χ² of the levels and of the gains, if they have any."""
    sentences = []
    for name, title in (("level_chi", "Levels"), ("gain_chi", "Gains")):
        total = _ChiSquare()
        for channel in range(run.n_channels):
            total.add_channel(run, channel, name)
        if total.dof > 0:
            sentences.append(total.sentence(title))
    return sentences


def _seconds_text(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
