"""The result of a calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..photometry.pairfit.measurement import PATCH_NUMBERS, PATCH_WEIGHT, PairMeasurement
from ..photometry.solver.solve import Solution
from ..photometry.tiles.tile import Tile
from ..settings import Settings
from ..text import two_digits
from .packed_measurements import stack_heads
from .records import PairRecord
from .same_sky import SkyCheck

if TYPE_CHECKING:
    from astropy.table import QTable

# Typical difference of the gains of a pair, and in standard errors, from which on a model that
# holds the gains does not fit.
HELD_GAIN_DIFFERENCE, HELD_GAIN_CHI = 0.02, 5.0


@dataclass(frozen=True, eq=False, repr=False)
class PhaseSolution(Solution):
    """A `Solution` with the outcome of every tile and pair.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    names : tuple of str
        Base name of each tile.
    failed : dict
        Reason why a tile could not be used, or not be written corrected, by its index.
    records : tuple of PairRecord
        All pairs, in order.
    candidates : int
        Number of overlapping pairs before pruning.
    tiles : dict
        The tiles with readable headers, by index.
    sky_check : SkyCheck
        Overlaps that do not show the same sky.
    unit : str
        Unit of the levels: the BUNIT that all tiles share, "adu" if they have none, and empty if
        they have different ones.
    no_mosaic : str
        Why the mosaic is not written; empty if it is, or none was asked for.
    """

    settings: Settings
    names: tuple[str, ...]
    failed: dict[int, str]
    records: tuple[PairRecord, ...]
    candidates: int
    tiles: dict[int, Tile] = field(default_factory=dict)
    sky_check: SkyCheck = field(default_factory=SkyCheck)
    unit: str = "adu"
    no_mosaic: str = ""

    @property
    def groups(self) -> int:
        """Number of connected components, including tiles without any measured pair."""
        return len(np.unique(self.component[self.component[:, 0] >= 0, 0]))

    @property
    def untied_gains(self) -> int:
        """Number of tiles with a gain, in any channel, not tied to most others."""
        untied = np.isnan(self.gain_err) & (self.pairs > 0)
        return int(untied.any(axis=1).sum())

    @property
    def suspects(self) -> list[int]:
        """Indices of the tiles that most of their pairs contradict, in any channel."""
        return [int(index) for index in np.flatnonzero(self.suspect.any(axis=1))]

    @property
    def rms(self) -> float:
        """Root mean square of the level residuals of all pairs in ADU; 0 without pairs."""
        residual = self.residual[np.isfinite(self.residual)]
        return float(np.sqrt(np.mean(residual**2))) if len(residual) else 0.0

    @property
    def seam_errors(self) -> tuple[float, float]:
        """Median and largest standard error of a seam in ADU; 0 without pairs."""
        errors = self.seam_err[np.isfinite(self.seam_err)]
        return (float(np.median(errors)), float(errors.max())) if len(errors) else (0.0, 0.0)

    @cached_property
    def heads(self) -> np.ndarray:
        """Numbers of the measurements ``(P, C)`` besides tuples, see `stack_heads`."""
        return stack_heads([record.measurements for record in self.records], self.gain.shape[1])

    def to_table(self) -> QTable:
        """Return the corrections, a row per tile and channel, as a table with units.

        The columns are as in ``corrections.ecsv``.
        """
        from .tables import corrections_table, quantity_table

        return quantity_table(corrections_table(self, self.settings))

    def to_pairs_table(self) -> QTable:
        """Return the pairs, a row per pair and channel, as a table with units.

        The columns are as in ``pairs.ecsv``.
        """
        from .tables import pairs_table, quantity_table

        return quantity_table(pairs_table(self, self.settings))

    def correct(self, tile: Any) -> Any:
        """Return a corrected tile in memory.

        Parameters
        ----------
        tile : int, str, path-like or object
            Its index, its name or path, or the object given to `calibrate`.

        Returns
        -------
        CCDData, NDData, ImageHDU, Quantity or ndarray
            The kind of object given; `astropy.nddata.CCDData` for an index, a name, a
            path, a `Tile` or a tuple. float32; NaN where a pixel is missing or bad. The
            uncertainty of an NDData is scaled with its pixels.

        Raises
        ------
        UserError
            There is no such tile, or it has no correction.
        """
        from .corrected import corrected_tile

        return corrected_tile(self, tile)

    def plot_sky(self, axes: Any = None) -> Any:
        """Draw the tiles and their pairs on the sky by matplotlib (extra ``plot``).

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            Axes of astropy with a celestial WCS (``projection=wcs``); by default new ones.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.

        Raises
        ------
        UserError
            matplotlib is not installed, or no tile has a place on the sky.
        """
        from .sky_map import plot_sky

        return plot_sky(self, axes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def headline(self) -> str:
        """Return the numbers of tiles, groups and pairs in one line."""
        tiles, groups = len(self.names), self.groups
        usable = tiles - int(np.isnan(self.gain).any(axis=1).sum())
        measured = sum(record.outcome == "measured" for record in self.records)
        return (
            f"{usable} of {tiles} tiles in {groups} group{'s' if groups != 1 else ''}, "
            f"{measured} of {len(self.records)} pairs measured"
        )

    def _repr_html_(self) -> str:
        """Return groups, suspects, corrections, and the seams before and after, for a notebook."""
        from .solution_html import solution_html

        return solution_html(self)

    def why_suspect(self, tile: int) -> str:
        """Return the reason why a tile is suspect, in a few words."""
        if tile in self.sky_check.tiles:
            return self.sky_check.tiles[tile]
        if self.misplaced[tile].any():
            # The measured shift is too small beyond half a cell.
            shift = np.nan_to_num(self.shift[tile]).max()
            return f"lies at least {int(shift)} pixels from where its WCS says"
        return "most of its pairs contradict the others"

    def warnings(self) -> Iterator[str]:
        """Yield a line for each kind of tile that could not be matched to the others."""
        tied = np.isfinite(self.gain_err) | np.isfinite(self.offset_err)
        unmatched = ~((self.pairs > 0) | tied).any(axis=1) & ~np.isnan(self.gain).any(axis=1)
        for index in np.flatnonzero(unmatched):
            yield (
                f"{self.names[index]}: no overlap with another tile could be measured; "
                "it keeps gain 1 and offset 0"
            )
        if self.sky_check.unclear:
            yield (
                f"{self.sky_check.unclear} overlaps do not show the same sky, by a fault of either "
                "tile (WCS, orientation, clouds, trails); their gains are not used"
            )
        groups = self.groups - int(unmatched.sum())
        if groups > 1:
            yield f"the tiles form {groups} separate groups, whose relative levels are unknown"
        if difference := self._held_gain_difference():
            yield (
                f"the gains of the tiles differ by a factor of {1 + difference:.3g} (median of the "
                f"pairs), and the model {self.settings.model} holds them at 1; choose gain+offset"
            )
        if untied := self.untied_gains:
            yield (
                f"no pair ties the gains of {untied} tiles to those of most others (too little "
                "contrast in their overlaps); their levels are matched, and their mean gain is 1"
            )

    def _held_gain_difference(self) -> float:
        """Return the typical relative difference of gains that the model holds; 0 if it is small.

        It is the median over the pairs that show a gain.
        """
        lines = self.heads[self.heads["free_gain_err"] > 0]
        if not len(lines):
            return 0.0
        log_gain = np.abs(np.log(lines["free_gain"]))
        chi = log_gain * (lines["free_gain"] / lines["free_gain_err"])
        typical = float(np.median(log_gain))
        clear = typical > HELD_GAIN_DIFFERENCE and np.median(chi) > HELD_GAIN_CHI
        return float(np.expm1(typical)) if clear else 0.0

    def model_line(self) -> str:
        """Return the terms that the overlaps show, and their typical sizes, in one line."""
        model = self.settings.model
        if not self.spreads:
            return model
        measured = np.isfinite(self.heads["rms"]).any()
        return f"{model}: {', '.join(self._sizes()) if measured else 'no overlap measured'}"

    def _sizes(self) -> Iterator[str]:
        """Yield the typical size of each class of terms, the largest of all channels."""
        unit = f" {self.unit}" if self.unit else ""
        gain = max(spreads.gain for spreads in self.spreads) ** 0.5
        if gain > 0:
            # Both slopes of the trend are per half tile.
            drift = 2 * (2 * max(spreads.trend for spreads in self.spreads)) ** 0.5
            drifts = f" and drift by {two_digits(100 * drift)} % a tile" if drift > 0 else ""
            yield f"gains scatter {two_digits(100 * gain)} %{drifts}"
        skies = max(spreads.own_bias for spreads in self.spreads) ** 0.5
        if skies > 0:
            yield f"light of the sky scatters {two_digits(skies)}{unit}"
        surfaces = np.sqrt(np.max([spreads.surface for spreads in self.spreads], axis=0))
        names = "gradients of {} a tile", "second order {}", "third order {}", "fourth order {}"
        found = [
            name.format(f"{two_digits(size)}{unit}")
            for name, size in zip(names, surfaces, strict=True)
            if size > 0
        ]
        yield from found or [
            "overlaps too small to tell gradients" if self._is_small() else "no gradients"
        ]

    def _is_small(self) -> bool:
        """Whether no overlap has more than one patch, and any has one."""
        is_any = False
        for line in chain.from_iterable(record.measurements for record in self.records):
            if isinstance(line, PairMeasurement):
                weights = line.patches[PATCH_WEIGHT::PATCH_NUMBERS]
                patches = sum(weight > 0 for weight in weights)
                if patches > 1:
                    return False
                is_any |= patches == 1
        return is_any
