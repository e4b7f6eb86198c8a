"""The context of a run: its settings, its folders, and the runtime that its stages share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.events import Note, StageEnded, StageStarted
from ..runtime.inflight import Inflight
from ..runtime.observers import FanOut
from ..runtime.pool import Pool
from ..runtime.scheduler import Clock, Job, run
from ..runtime.stage_heartbeat import beat
from ..settings import Settings
from .preview_files import PreviewFiles


@dataclass(frozen=True)
class RunContext:
    """Settings, folders and runtime of one run.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    pool : Pool
        Pool of the workers.
    observers : FanOut
        Observers of the run.
    clock : Clock
        Clock of the scheduler.
    inflight : Inflight or None
        Table of running jobs.
    previews : PreviewFiles
        Files of the previews.
    cached_results : Mapping
        Results of earlier runs by cache key.
    run_folder : pathlib.Path or None
        Folder of the thumbnails; None if the run is not kept.
    """

    settings: Settings
    pool: Pool
    observers: FanOut
    clock: Clock
    inflight: Inflight | None
    previews: PreviewFiles
    cached_results: Mapping[str, Any]
    run_folder: Path | None

    @contextmanager
    def stage(self, name: str, total: int = 0, has_jobs: bool = False) -> Iterator[dict[str, Any]]:
        """Report the start and the end of a stage; one without jobs has heartbeats of its own.

        Yields
        ------
        dict
            Attributes of the run, to be filled in by the stage.
        """
        self.observers.dispatch(StageStarted(stage=name, time_ns=time.time_ns(), total=total))
        if self.inflight is not None:
            self.inflight.write_progress(name, 0, total)
        attributes: dict[str, Any] = {}
        watch = (
            nullcontext()
            if has_jobs or self.run_folder is None
            else beat(self.observers, name, self.settings.heartbeat, self.run_folder)
        )
        with watch:
            yield attributes
        ended = StageEnded(stage=name, time_ns=time.time_ns(), attributes=attributes)
        self.observers.dispatch(ended)

    def run_jobs(
        self,
        stage: str,
        jobs: Iterable[Job],
        total: int,
        timeout: float,
        *,
        pool: Pool | None = None,
        **options: Any,
    ) -> list[Any]:
        """Run the jobs of a stage; see `zemosaic.runtime.scheduler.run` for the options.

        Returns
        -------
        list of Outcome
            In the order of the jobs; with the option `keep`, its results.
        """
        with self.stage(stage, total, has_jobs=True):
            return run(
                jobs,
                total,
                pool or self.pool,
                self.observers,
                stage=stage,
                timeout=timeout,
                heartbeat=self.settings.heartbeat,
                clock=self.clock,
                inflight=self.inflight,
                **options,
            )

    def note(self, level: int, message: str) -> None:
        """Send a line for people to the observers; `level` as in `logging`."""
        self.observers.dispatch(Note(level=level, message=message))
