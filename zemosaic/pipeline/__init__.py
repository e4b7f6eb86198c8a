"""The calibration: its stages, the tasks of its workers, and its results."""

from __future__ import annotations

#: Modules that worker processes import before their first task.
PRELOAD = (f"{__name__}.calibrate",)
