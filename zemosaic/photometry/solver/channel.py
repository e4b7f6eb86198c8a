"""Measurements -> one gain, offset and, where needed, plane per tile and channel.

``corrected = gain * data + offset + slope_x * (x - x0) + slope_y * (y - y0)`` shall agree in
every overlap. For a pair with the line y = a·x + b measured at the pivot p:

    log g_i - log g_j       = log a                          (gains first)
    P_i(p) - P_j(p)         = g_j·y - g_i·x                  (then levels, at the pivots)
    grad P_i - grad P_j     = g_j·grad y - g_i·grad x        (and slopes, in the plane models)

Without planes both are solved together after that, since levels measured at bright and at dark
pivots tell of the gains as well; each kind counts as much as its own loops close. P_k is the
offset, or offset and plane, of tile k. Each is a difference of potentials on the graph of
overlaps: weighted least squares, sparse, per connected component, with the weights of pairs that
disagree with all others taken away (`zemosaic.photometry.solver.potentials`). What the
differences leave free is set by the gauge: geometric-mean gain 1 and the median sky level kept, or
an anchor tile with gain 1 and offset 0; the mean slope is 0, of all tiles but those with a cloud's,
so no global plane is invented.

In the model "auto" the planes of the pairs decide, per channel and component: if they are
larger than their errors allow, tiles have gradients of their own and get planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ..overlap.graph import component_labels
from ..pairfit.measure import Measurement, PairMeasurement
from .plane_test import (
    FEWEST_PAIRS,
    PLANE_CHI2,
    PLANE_RATIO,
    medians,
    plane_chi2,
    plane_ratio,
    without_common_slope,
)
from .potentials import affine_potentials, potentials, vector_potentials
from .robust_lsq import LEAST_WEIGHT, robust_weights
from .tile_shifts import MISPLACED, tile_shifts

MIN_RELATIVE_ERROR = 1e-6  # of a pair's gain: float32 previews know no more
MIN_LEVEL_ERROR = 1e-3  # ADU, likewise
TOGETHER = 40  # rounds of gains and levels together, at most
STEADY = 1e-11  # change of any log-gain that ends them
FAR_STEP = 1.0  # change of a log-gain that tells that they lead nowhere
# Tiles up to which that is done: twice the unknowns take several times as long, and so large a
# mosaic has enough pairs.
MANY_TILES = 5_000
DOUBT = 1e3  # by which the errors of pairs grow that are not believed
SUSPECT_CHI = 6.0  # robust standard deviations: where a pair has lost its say
# What of a `PairMeasurement` is used: name, type, shape.
_COLUMNS = [
    *((name, float, ()) for name in ("gain", "gain_err", "gain_measured", "x", "y", "level_err")),
    *((name, float, ()) for name in ("plane_gain", "plane_gain_err", "u", "v")),
    *(("x_tilt", float, (2,)), ("y_tilt", float, (2,)), ("tilt_cov", float, (3,))),
    *(("shift", float, (2,)), ("shift_err", float, (2,))),
]


@dataclass(frozen=True, eq=False)
class TileFrame:
    """Where tiles lie on the shared grid, for planes.

    Parameters
    ----------
    centre : ndarray
        ``(T, 2)`` float64: the tile's centre in cells of the grid.
    jacobian : ndarray
        ``(T, 2, 2)`` float64: change of the grid position (cells) with the tile's pixel x, y.
    """

    centre: np.ndarray
    jacobian: np.ndarray


class ChannelSolver:
    """One channel's pairs, as arrays."""

    def __init__(
        self,
        i: np.ndarray,
        j: np.ndarray,
        measurements: Sequence[Measurement],
        sky: np.ndarray,
        model: str,
        anchor: int | None,
        frame: TileFrame | None,
        repetition: np.ndarray,
    ) -> None:
        self.tiles, self.pairs = len(sky), len(measurements)
        self.good = np.array([isinstance(m, PairMeasurement) for m in measurements], dtype=bool)
        lines = [m for m in measurements if isinstance(m, PairMeasurement)]
        self.i, self.j = np.asarray(i)[self.good], np.asarray(j)[self.good]
        self.sky, self.model, self.anchor, self.frame = sky, model, anchor, frame
        self.component = component_labels(self.tiles, self.i, self.j)

        fields = attrgetter(*(name for name, *_ in _COLUMNS))
        column = np.fromiter((fields(m) for m in lines), np.dtype(_COLUMNS), len(lines))
        wider = np.sqrt(repetition[self.good])
        self.x, self.y, self.level_err = column["x"], column["y"], column["level_err"] * wider
        self.pivot = np.stack([column["u"], column["v"]], axis=1)
        self.x_tilt, self.y_tilt = column["x_tilt"], column["y_tilt"]
        cov = column["tilt_cov"][:, [0, 1, 1, 2]].reshape(-1, 2, 2)
        self.tilt_cov = cov * wider[:, None, None] ** 2
        self.plain = np.where(column["gain_measured"] > 0, column["gain"], np.nan)
        self.plain_err, self.with_plane_err = (
            column[name] * wider for name in ("gain_err", "plane_gain_err")
        )
        self.with_plane = column["plane_gain"]
        self.telling = np.ones(len(lines), dtype=bool)  # pairs whose gain is believed
        self.shift = np.full((self.tiles, 2), np.nan)
        if self.tiles <= MANY_TILES:
            self.shift = tile_shifts(
                self.tiles, self.i, self.j, column["shift"], column["shift_err"]
            )
        self.misplaced = np.hypot(*self.shift.T) > MISPLACED

    def solve(self) -> dict[str, np.ndarray]:
        """The fields of a `Solution` for this channel, by name.

        A tile whose gain is tied to the others by suspects alone is better off without: solved
        once more, its gain is unknown and not whatever is wrong with them.
        """
        found = self._solved()
        used = np.isfinite(found["gain_residual"][self.good])
        # Levels whose gains nothing compares contradict each other by nobody's fault.
        compared = found["gain_group"][self.i] == found["gain_group"][self.j]
        suspect = self._suspects(np.where(compared, found["chi"][self.good], 0.0))
        if self.model.startswith("offset") or not suspect.any():
            return found
        hanging = self._hanging(used, found["gain_group"], suspect)
        bad = (hanging[self.i] & suspect[self.j]) | (suspect[self.i] & hanging[self.j])
        if not bad.any():
            return found
        self.telling[bad] = False
        # Of levels they still tell, where nobody else does.
        self.level_err[bad] *= DOUBT
        self.tilt_cov[bad] *= DOUBT**2
        before, found = found, self._solved()
        found["suspect"] |= before["suspect"] & ~hanging
        found["chi"][np.flatnonzero(self.good)[bad]] *= DOUBT
        return found

    def _solved(self) -> dict[str, np.ndarray]:
        chi2, ratio = self._plane_evidence()
        planes = self._has_planes(chi2, ratio)
        ends = planes[self.i]
        log_gain, log_var, log_residual, log_chi, group = self._gains(ends)
        gain = np.exp(log_gain)
        offset, level_var = np.zeros(self.tiles), np.zeros(self.tiles)
        slope = np.zeros((self.tiles, 2))
        residual, chi = gain[self.j] * self.y - gain[self.i] * self.x, np.zeros(len(self.i))
        if self.model != "gain":
            reference = self._reference_levels()
            doubt = np.fmax(log_chi / SUSPECT_CHI, 1.0)
            level, level_var, slope, residual, chi = self._levels(gain, reference, planes, doubt)
            suspect = self._suspects(np.fmax(chi, log_chi))
            free = ~planes & self._tied(group) & ~suspect
            if not self.model.startswith("offset") and self.tiles <= MANY_TILES and free.any():
                plain, some = ~planes, ~planes[self.i]
                both, var = self._together(log_gain, level, reference, some, free, suspect)
                moved = np.abs(both[:, 0] - log_gain) / np.sqrt(np.fmax(log_var, 1e-12))
                # Levels that contradict the gains have nothing to tell of them.
                if moved[free].max() <= SUSPECT_CHI:
                    log_gain[plain], level[plain] = both[plain].T
                    log_var[free], level_var[plain] = var[free, 0], var[plain, 1]
                    gain = np.exp(log_gain)
                    residual[some] = self._differences(gain, level, reference)[1][some]
            offset = self._gauged(level - gain * reference, gain)
            # A gain's error moves the offset by the level at which the tile was measured.
            level_var = level_var + np.nan_to_num(log_var) * (gain * reference) ** 2
        count = np.bincount(np.r_[self.i, self.j], minlength=self.tiles)
        nothing = count == 0
        gain[nothing], offset[nothing], slope[nothing] = 1.0, 0.0, 0.0
        held = self.model.startswith("offset")
        gain_err = np.where(self._tied(group), gain * np.sqrt(log_var), np.nan)
        if held:
            gain_err[:] = 0.0
        offset_err = np.sqrt(level_var)
        offset_err[nothing], gain_err[nothing] = np.nan, np.nan
        return {
            "gain": gain,
            "gain_err": gain_err,
            "offset": offset,
            "offset_err": offset_err,
            "slope_x": slope[:, 0],
            "slope_y": slope[:, 1],
            "component": self.component,
            "gain_group": self.component if held else group,
            "pairs": count,
            "planes": planes & ~nothing,
            "residual": self._per_pair(-residual),
            "gain_residual": self._per_pair(log_residual),
            "chi": self._per_pair(np.fmax(chi, log_chi)),
            "suspect": self._suspects(np.fmax(chi, log_chi)) | self.misplaced,
            "plane_chi2": chi2,
            "plane_ratio": ratio,
            **self._places(),
        }

    def _places(self) -> dict[str, np.ndarray]:
        """How far tiles lie from where they should, in pixels, and whether that is too far."""
        pixels = np.full(self.tiles, np.nan)
        if self.frame is not None:
            jacobian = np.where(np.isnan(self.shift[:, :1, None]), np.eye(2), self.frame.jacobian)
            pixels = np.hypot(*(np.linalg.pinv(jacobian) @ self.shift[..., None])[..., 0].T)
        return {"shift": pixels, "misplaced": self.misplaced}

    def _per_pair(self, values: np.ndarray) -> np.ndarray:
        whole = np.full(self.pairs, np.nan)
        whole[self.good] = values
        return whole

    def _plane_evidence(self) -> tuple[np.ndarray, np.ndarray]:
        """What the pairs' planes say of tiles having planes, by tile; see `plane_chi2`."""
        # With the pair's own gain: a wrong gain would make a plane of any slope of the scene.
        a = np.where(np.isfinite(self.with_plane), self.with_plane, self.plain)
        measured = np.isfinite(a)
        a = np.where(measured, a, 1.0)
        tilt = self.y_tilt - a[:, None] * self.x_tilt
        known = np.isfinite(self.tilt_cov).all(axis=(1, 2))
        i, j, tilt, cov = self.i[known], self.j[known], tilt[known], self.tilt_cov[known]
        chi2 = plane_chi2(self.component, i, tilt, cov)
        if self.model != "auto" or self.frame is None or self.tiles > MANY_TILES:
            return chi2, np.full(self.tiles, np.nan)
        # In the unit of all tiles, about: planes are added after gains.
        log_gain, *_ = potentials(
            self.tiles, self.i[measured], self.j[measured], np.log(a[measured]),
            np.ones(np.count_nonzero(measured)), rounds=1,
        )  # fmt: skip
        unit = np.exp(log_gain[j])[:, None]
        return chi2, plane_ratio(self.component, i, j, tilt * unit, cov * unit[..., None] ** 2)

    def _has_planes(self, chi2: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        if self.frame is None:
            return np.zeros(self.tiles, dtype=bool)
        if self.model == "auto":
            return (np.nan_to_num(chi2) > PLANE_CHI2) | (np.nan_to_num(ratio) > PLANE_RATIO)
        return np.full(self.tiles, self.model.endswith("plane"))

    def _gains(self, ends: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log-gains, their variances, residuals of the pairs, and groups that gains join."""
        a = np.where(ends, self.with_plane, self.plain)
        err = np.where(ends, self.with_plane_err, self.plain_err)
        known = np.isfinite(a) & np.isfinite(err) & self.telling
        relative = np.maximum(err[known] / a[known], MIN_RELATIVE_ERROR)
        residual, chi = np.full((2, len(a)), np.nan)
        # Tiles joined by pairs without a measured gain alone keep their groups' mean gain at 1.
        log_gain, log_var, residual[known] = potentials(
            self.tiles, self.i[known], self.j[known], np.log(a[known]), relative**-2.0, self.anchor
        )
        chi[known] = np.abs(residual[known]) / relative
        group = component_labels(self.tiles, self.i[known], self.j[known])
        return log_gain, log_var, residual, chi, group

    def _tied(self, group: np.ndarray) -> np.ndarray:
        """Whether a tile's gain is tied to the anchor's, or to most of its component."""
        size = np.bincount(group)[group]
        chosen = np.zeros(self.component.max(initial=-1) + 1, dtype=int)
        order = np.lexsort((group, -size))[::-1]  # the largest group last, of several the first
        chosen[self.component[order]] = group[order]
        if self.anchor is not None:
            chosen[self.component[self.anchor]] = group[self.anchor]
        return (group == chosen[self.component]) & (size > 1)

    def _hanging(self, used: np.ndarray, group: np.ndarray, suspect: np.ndarray) -> np.ndarray:
        """Tiles whose gains the pairs in use tie to most others, but not without the suspects."""
        left = used & ~(suspect[self.i] | suspect[self.j])
        without = component_labels(self.tiles, self.i[left], self.j[left])
        # A wrong gain makes a suspect of a good tile as well; a bad one has other neighbours.
        to_good = np.zeros(self.tiles, dtype=bool)
        to_good[self.i[used & ~suspect[self.j]]] = to_good[self.j[used & ~suspect[self.i]]] = True
        return self._tied(group) & ~self._tied(without) & ~(suspect & to_good)

    def _reference_levels(self) -> np.ndarray:
        """Mean pivot of each tile over its pairs, its sky level where it has none; ADU."""
        ends, levels = np.r_[self.i, self.j], np.r_[self.x, self.y]
        count = np.bincount(ends, minlength=self.tiles)
        total = np.bincount(ends, weights=levels, minlength=self.tiles)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan_to_num(self.sky))

    def _levels(
        self, gain: np.ndarray, reference: np.ndarray, planes: np.ndarray, doubt: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Levels at each tile's reference level and centre, and slopes; given the gains.

        Levels are solved at each tile's own reference level, which makes them almost
        independent of the gains. Errors of pairs whose gains are in `doubt` are so many times as
        large.
        """
        i, j = self.i, self.j
        difference = gain[j] * (self.y - reference[j]) - gain[i] * (self.x - reference[i])
        error = np.maximum(gain[j] * self.level_err * doubt, MIN_LEVEL_ERROR)
        level, variance, residual = potentials(
            self.tiles, i, j, difference, error**-2.0, self.anchor
        )
        slope, chi = np.zeros((self.tiles, 2)), np.abs(residual) / error
        if not planes.any() or self.frame is None:
            return level, variance, slope, residual, chi
        # Tiles and pairs of the components with planes, once more and with them.
        some = planes[i]
        tilt = gain[j, None] * self.y_tilt - gain[i, None] * self.x_tilt
        full, full_variance, full_residual, full_chi = vector_potentials(
            self.tiles,
            i[some],
            j[some],
            difference[some],
            error[some],
            tilt[some],
            (gain[j] * doubt)[some, None, None] ** 2 * self.tilt_cov[some],
            self.pivot[some],
            self.frame.centre,
            self.anchor,
        )
        free = self.component != (-1 if self.anchor is None else self.component[self.anchor])
        full[free] = without_common_slope(self.component, full, self.frame.centre)[free]
        level = np.where(planes, full[:, 0], level)
        variance = np.where(planes, full_variance, variance)
        residual[some], chi[some] = full_residual, full_chi
        # From ADU per cell of the grid to ADU per pixel of the tile.
        slope = np.einsum("tg,tgp->tp", full[:, 1:], self.frame.jacobian)
        return level, variance, np.where(planes[:, None], slope, 0.0), residual, chi

    def _differences(
        self, gain: np.ndarray, level: np.ndarray, reference: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How far above its tile's reference each end was measured; what that leaves, in ADU."""
        i, j = self.i, self.j
        lever = np.stack([gain[i] * (self.x - reference[i]), gain[j] * (self.y - reference[j])])
        return lever.T, lever[1] - lever[0] - (level[i] - level[j])

    def _together(
        self,
        log_gain: np.ndarray,
        level: np.ndarray,
        reference: np.ndarray,
        some: np.ndarray,
        free: np.ndarray,
        suspect: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-gains and levels ``(T, 2)`` of the components without planes; their variances.

        NaN where gains and levels contradict each other so much that the rounds lead nowhere.
        Pairs are weighed anew from where the separate solutions left them; those of suspects have
        no say, and suspects keep their gains. Both kinds of errors are enlarged to what their own
        loops say of them: a gradient that is not modelled spoils levels alone, and must not bend
        the gains.
        """
        i, j = self.i[some], self.j[some]
        known = (np.isfinite(self.plain) & np.isfinite(self.plain_err) & self.telling)[some]
        good = ~(suspect[i] | suspect[j])
        a = np.where(known, self.plain[some], np.exp(log_gain[i] - log_gain[j]))
        relative = np.where(known, np.maximum(self.plain_err[some] / a, MIN_RELATIVE_ERROR), np.inf)
        both, steady = np.stack([log_gain, level], axis=1), False
        for turn in range(TOGETHER):
            last = steady or turn == TOGETHER - 1
            log_gain, level = both.T
            gain = np.exp(log_gain)
            lever, rest = (part[some] for part in self._differences(gain, level, reference))
            # In the unit between both tiles', which is the same from either side.
            unit = np.sqrt(gain[i] * gain[j])
            error = np.maximum(unit * self.level_err[some] / np.sqrt(a), unit * MIN_LEVEL_ERROR)
            ratio = np.log(a) - (log_gain[i] - log_gain[j])
            of_gain, of_level = np.abs(ratio / relative), np.abs(rest / error)
            trust = good * robust_weights(of_level)[0]
            trust[known] *= robust_weights(of_gain[known])[0]
            trust = np.sqrt(np.maximum(trust, LEAST_WEIGHT))
            both, variance = affine_potentials(
                self.tiles,
                i,
                j,
                ratio,
                relative * robust_weights(of_gain[known & good])[1] / trust,
                lever[:, 1] - lever[:, 0],
                error * robust_weights(of_level[good])[1] / trust,
                # The unit goes with the gains as well, so that a factor of all changes nothing.
                lever + np.array([0.5, -0.5]) * rest[:, None],
                free,
                self.anchor,
                errors=last,
            )
            step = float(np.abs(both[:, 0]).max())
            if not step < FAR_STEP:
                nothing = np.full(both.shape, np.nan)
                return nothing, nothing
            steady = step < STEADY
            both[:, 0] += log_gain
            if last:
                break
        return both, variance

    def _suspects(self, chi: np.ndarray) -> np.ndarray:
        """Tiles whose median chi stands out from that of all pairs.

        A bad tile makes its neighbours look bad: the worst of each neighbourhood is taken, and
        the others are judged anew without its pairs.
        """
        suspect = np.zeros(self.tiles, dtype=bool)
        limit = SUSPECT_CHI * max(1.0, float(np.nanmedian(chi)) / 0.6745) if len(chi) else 0.0
        i, j = self.i, self.j
        while len(chi):
            median, count = medians(np.r_[i, j], np.r_[chi, chi], self.tiles)
            high = np.where((count >= FEWEST_PAIRS - 1) & (median > limit), median, 0.0)
            around = np.zeros(self.tiles)
            np.maximum.at(around, i, high[j])
            np.maximum.at(around, j, high[i])
            worst = (high > 0) & (high >= around)
            if not worst.any():
                break
            suspect |= worst
            left = ~(worst[i] | worst[j])
            i, j, chi = i[left], j[left], chi[left]
        return suspect

    def _gauged(self, offset: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Shift the offsets of each component: anchor 0, or the median sky level kept."""
        groups = self.component.max(initial=-1) + 1
        before, _ = medians(self.component, self.sky, groups)
        after, _ = medians(self.component, gain * self.sky + offset, groups)
        shift = np.nan_to_num(before - after)
        if self.anchor is not None:
            shift[self.component[self.anchor]] = -offset[self.anchor]
        return offset + shift[self.component]
