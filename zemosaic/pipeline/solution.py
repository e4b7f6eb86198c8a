"""What the phase gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..photometry.solver.plane_test import PLANE_CHI2, PLANE_RATIO
from ..photometry.solver.solve import Solution
from ..settings import Settings
from .records import PairRecord


@dataclass(frozen=True, eq=False)
class PhaseSolution(Solution):
    """A `Solution`, and what became of every tile and pair.

    Parameters
    ----------
    settings : Settings
        As asked for.
    names : tuple of str
        Base name of each tile.
    failed : dict
        Why a tile could not be used (or not be written corrected), by its index.
    records : tuple of PairRecord
        All pairs, in order.
    candidates : int
        Overlapping pairs before pruning.
    """

    settings: Settings
    names: tuple[str, ...]
    failed: dict[int, str]
    records: tuple[PairRecord, ...]
    candidates: int

    @property
    def groups(self) -> int:
        """Connected components, tiles that stand alone included."""
        return len(np.unique(self.component[self.component[:, 0] >= 0, 0]))

    @property
    def loose_gains(self) -> int:
        """Tiles in a component whose gain, in any channel, is not tied to most of it."""
        loose = np.isnan(self.gain_err) & (self.pairs > 0)
        return int(loose.any(axis=1).sum())

    @property
    def suspects(self) -> list[int]:
        """Tiles most of whose pairs contradict the others, in any channel."""
        return [int(index) for index in np.flatnonzero(self.suspect.any(axis=1))]

    def why_suspect(self, tile: int) -> str:
        """What is wrong with a suspect, in a few words."""
        shift = np.nan_to_num(self.shift[tile]).max()
        if self.misplaced[tile].any():
            # What is beyond half a cell is told too small.
            return f"lies at least {int(shift)} pixels from where its WCS says"
        return "most of its pairs contradict the others"

    def model_line(self) -> str:
        """Which model the groups of tiles got, and why, in a few words."""
        if self.settings.model != "auto":
            return self.settings.model
        lines = []
        for name, planes in (("gain+offset", False), ("gain+plane", True)):
            chosen = (self.planes == planes) & (self.pairs > 0)
            if chosen.any():
                chi2 = self.plane_chi2[chosen]
                known = chi2[np.isfinite(chi2)]
                why = "too few pairs to tell"
                if len(known):
                    why = f"the pairs' planes have chi² {np.median(known):.1f}, 1.4 is chance"
                    ratio = np.nan_to_num(self.plane_ratio[chosen]).max()
                    if planes and np.median(known) <= PLANE_CHI2 and ratio > PLANE_RATIO:
                        why += f", but agree among each other {ratio:.0f} times better than that"
                groups = len(np.unique(self.component[chosen]))
                where = f" in {groups} group{'s' if groups != 1 else ''}"
                lines.append(f"{name}{where} ({why})")
        return "; ".join(lines) or "none"

    @property
    def rms(self) -> float:
        """Root mean square of the level residuals of all pairs in ADU; 0 without pairs."""
        known = self.residual[np.isfinite(self.residual)]
        return float(np.sqrt(np.mean(known**2))) if len(known) else 0.0
