"""The settings of a run: immutable, and validated when they are created."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

from .errors import UserError
from .photometry.tiles.file_options import FileOptions

LONGEST_TIMEOUT = 1e7  # seconds: more is beyond the timers of some systems
SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT = 0.01, 86400.0
GAIN_SOURCES = ("pixels", "stars")
MODELS = ("auto", "gain+offset", "gain+plane", "gain+surface", "offset", "offset+plane", "gain")


@dataclass(frozen=True, kw_only=True)
class Settings(FileOptions):
    """Options of the calibration, in addition to `FileOptions`.

    Parameters
    ----------
    model : {"auto", "gain+offset", "gain+plane", "gain+surface", "offset", "offset+plane", "gain"}
        Terms that may be solved for in each tile and channel. "auto" allows all, and an
        illumination and a glow of each instrument, as large as the overlaps show.
    anchor : int, str or None
        The tile that keeps gain 1 and offset 0: index of its file in the input, or the
        file, or one of its images (``"a.fits[SCI,2]"``). It is the first tile of a file
        with several. All other tiles of its component are matched to it. None keeps the
        geometric mean of the gains and the median sky level of each component.
    gain_from : {"pixels", "stars"}
        The source of the gain of a pair: all pixels of the overlap, or the fluxes of stars alone.
    stars : bool
        Whether the stars are measured also if the gains come from the pixels, to compare them.
        Needs photutils, and as much time as the rest of the run.
    neighbours : int
        Pairs measured per tile, strongest first; 0 measures all.
    min_overlap : float
        Smallest overlap to measure, as a fraction of the smaller footprint.
    block : int
        Side of a preview cell in pixels of the median tile; 0 chooses automatically.
    workers : int
        Jobs to run at the same time; 0 uses every processor available to this process.
    pair_timeout, tile_timeout : float
        Seconds after which a stuck job is abandoned; 0 waits for ever.
    heartbeat : float
        Seconds without a finished job before a heartbeat, and between heartbeats.

    Raises
    ------
    UserError
        A value is invalid; the message names it in one line.
    """

    model: str = "auto"
    gain_from: str = "pixels"
    stars: bool = False
    anchor: int | str | None = None
    neighbours: int = 8
    min_overlap: float = 0.01
    block: int = 0
    workers: int = 0
    pair_timeout: float = 300.0
    tile_timeout: float = 300.0
    heartbeat: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("model", self.model, MODELS)
        _check_choice("gain_from", self.gain_from, GAIN_SOURCES)
        self._check_stars()
        for name in ("neighbours", "block", "workers", "pair_timeout", "tile_timeout"):
            _check_not_negative(name, getattr(self, name))
        if not 0.0 <= self.min_overlap < 1.0:
            raise UserError(
                f"min_overlap is {self.min_overlap}; give a fraction from 0 up to, not including, 1"
            )
        for name in ("pair_timeout", "tile_timeout"):
            if getattr(self, name) > LONGEST_TIMEOUT:
                raise UserError(f"{name} is {getattr(self, name)}; give 0 to wait for ever")
        if not SHORTEST_HEARTBEAT <= self.heartbeat <= LONGEST_HEARTBEAT:
            raise UserError(
                f"heartbeat is {self.heartbeat}; give {SHORTEST_HEARTBEAT} to "
                f"{LONGEST_HEARTBEAT:.0f} seconds"
            )

    @property
    def needs_stars(self) -> bool:
        """Whether the stars of the tiles are measured."""
        return self.stars or self.gain_from == "stars"

    def _check_stars(self) -> None:
        if self.gain_from == "stars" and self.model.startswith("offset"):
            raise UserError(
                f"gain_from is 'stars', and the model {self.model} has no gains; choose gain+offset"
            )
        if self.needs_stars and find_spec("photutils") is None:
            raise UserError(
                "photutils, which measures the stars, is not installed: "
                "pip install 'zemosaic[stars]'"
            )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name} is {value}; give 0 or a positive number")
