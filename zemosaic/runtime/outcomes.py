"""The outcomes of the jobs of a stage, and the event that reports each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .clock import Clock
from .events import JobEnded, JobError
from .inflight import Row
from .submission import Batch, Job
from .worker import TaskResult

Summarize = Callable[[Any], tuple[str, Mapping[str, Any]]]
Serialize = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """The end of a job: `state` is "measured", "failed", "timeout" or "crashed"."""

    job: Job
    state: str
    value: Any = None
    error: JobError | None = None


class OutcomeLog:
    """Counts and keeps the outcomes of a stage.

    Parameters
    ----------
    stage : str
        Name of the stage.
    total, done : int
        All jobs of the stage, and the ones done by earlier runs.
    clock : Clock
        Source of the end of jobs without a result of a worker.
    summarize : callable
        Maps a job's value to its outcome and attributes for observers.
    serialize : callable
        Maps the value of a job with a key to lists, numbers and strings.
    keep : callable
        Maps an outcome to the value to keep.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        done: int,
        clock: Clock,
        summarize: Summarize,
        serialize: Serialize,
        keep: Callable[[Outcome], Any] = lambda outcome: outcome,
    ) -> None:
        self.stage, self.total, self.done = stage, total, done
        self.last_index = 0
        self._clock = clock
        self._summarize, self._serialize, self._keep = summarize, serialize, keep
        self._kept: dict[int, Any] = {}

    @property
    def pending(self) -> int:
        """Number of unfinished jobs."""
        return self.total - self.done

    def record(
        self,
        batch: Batch,
        outcome: Outcome,
        source: TaskResult | Row | None,
        shift_ns: int = 0,
    ) -> JobEnded:
        """Keep an outcome and return its event.

        Parameters
        ----------
        batch : Batch
            The batch in which the job was submitted.
        outcome : Outcome
            The outcome.
        source : TaskResult, Row or None
            The worker's result, or the last row of a dead or abandoned worker.
        shift_ns : int
            Added to the times of the source to have them on the clock of the run.
        """
        job = outcome.job
        self._kept[job.index] = self._keep(outcome)
        self.done += 1
        self.last_index = job.index
        state, attributes = outcome.state, dict(job.attributes)
        if outcome.state == "measured":
            state, summary = self._summarize(outcome.value)
            attributes.update(summary)
        result = source if isinstance(source, TaskResult) else None
        now_ns = self._clock.time_ns()
        ended_ns = result.ended_ns + shift_ns if result else now_ns
        started_ns = source.started_ns + shift_ns if source else batch.running_since_ns or now_ns
        # No span may leave its parent, whatever the clock of another machine shows.
        ended_ns = min(max(ended_ns, batch.submitted_ns), now_ns)
        reusable = job.key and outcome.state == "measured"
        return JobEnded(
            stage=self.stage,
            index=job.index,
            done=self.done,
            total=self.total,
            outcome=state,
            attributes=attributes,
            submitted_ns=batch.submitted_ns,
            started_ns=min(max(started_ns, batch.submitted_ns), ended_ns),
            ended_ns=ended_ns,
            pid=source.pid if source else 0,
            error=outcome.error,
            step_times=result.step_times if result else {},
            key=job.key if reusable else "",
            result=self._serialize(outcome.value) if reusable else None,
            host=batch.host.name,
            clock_offset=batch.host.offset_ns / 1e9,
        )

    def in_order(self) -> list[Any]:
        """Return the kept values of all outcomes in the order of the jobs."""
        return [self._kept[index] for index in sorted(self._kept)]
