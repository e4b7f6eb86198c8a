"""Illumination and glow in words, for the summary and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..photometry.cosine_series import CosineSeries
from ..photometry.illumination import Illumination


def describe_illuminations(lights: Sequence[Illumination], unit: str) -> Iterator[tuple[str, str]]:
    """Yield ``("illumination" or "glow", sentence)`` for each of the instruments.

    Parameters
    ----------
    lights : sequence of Illumination
        One for each instrument.
    unit : str
        Unit of the levels; empty if the tiles have different ones.
    """
    for light in lights:
        of_name = f" of {light.name}" if len(lights) > 1 and light.name else ""
        shared = f"shared by {len(light.tiles)} tiles{of_name}"
        parts = [_corners(light)] if light.log_flat.any() else []
        if light.fine is not None and light.fine.kind == "log_flat":
            parts.append(_structure(light.fine.series))
        if parts:
            yield "illumination", ", ".join([*parts, shared])
        if light.has_glow:
            ranges, errors = zip(*map(light.glow_range, range(len(light.glow))), strict=True)
            values = ", ".join(f"{value:.3g}" for value in ranges)
            in_unit = f" {unit}" if unit else ""
            yield "glow", f"up to {values}{in_unit} (± {max(errors):.2g}), {shared}"


def _corners(light: Illumination) -> str:
    """Return the light missing in the corners, in the order of the channels."""
    losses, errors = zip(*map(light.corner_loss, range(len(light.log_flat))), strict=True)
    error = 100 * max(errors)
    digits = 1 if error >= 0.05 else 2
    sign = 1 if sum(losses) >= 0 else -1
    values = ", ".join(f"{100 * sign * loss:.{digits}f}" for loss in losses)
    kind = "less" if sign > 0 else "more"
    return f"{values} % {kind} light in the corners (± {error:.{digits}f})"


def _structure(fine: CosineSeries) -> str:
    """Return the size of the finer structure, in the order of the channels."""
    values = ", ".join(f"{100 * value:.2g}" for value in fine.rms)
    return f"structure of {values} % (rms)"
