"""The order in which jobs are submitted, and the size of their batches."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator

from .submission import Job

BATCH_SECONDS = 0.06  # work in a batch: messages cost little beside it, and it ends soon
SHORTEST = 1e-6  # seconds assumed for a job below the resolution of the clock


class Batcher:
    """Chooses the jobs of the next batch.

    Jobs shorter than `BATCH_SECONDS` are submitted several at a time. Their typical
    duration is a running mean over the last two full batches. Jobs whose batch failed without
    them go first, each alone.

    Parameters
    ----------
    jobs : iterable of Job
        Consumed only as batches or indices are asked for.
    max_batch : int
        Largest batch accepted by the pool.
    """

    def __init__(self, jobs: Iterable[Job], max_batch: int) -> None:
        self._jobs = iter(jobs)
        self._max_batch = max_batch
        self._ahead: deque[Job] = deque()  # taken from `_jobs` for their indices
        self._alone: deque[Job] = deque()
        self._durations: list[float] = []
        self._typical_duration = math.inf  # unknown: the first batches hold one job each

    def next_jobs(self, share: int) -> list[Job]:
        """Return the jobs of the next batch; none if all have been submitted.

        Parameters
        ----------
        share : int
            Largest batch that leaves jobs for the other workers.
        """
        if self._alone:
            return [self._alone.popleft()]
        fitting = BATCH_SECONDS / max(self._typical_duration, SHORTEST)
        size = int(max(1, min(self._max_batch, fitting, share)))
        jobs = [self._ahead.popleft() for _ in range(min(size, len(self._ahead)))]
        return jobs + list(itertools.islice(self._jobs, size - len(jobs)))

    def add_alone(self, jobs: Iterable[Job]) -> None:
        """Queue jobs to be submitted again, before all others and each in a batch of its own."""
        self._alone.extend(jobs)

    def add_duration(self, seconds: float) -> None:
        """Update the typical duration with the one of a successful job."""
        self._durations.append(seconds)
        recent = min(len(self._durations), 2 * self._max_batch)
        if recent == 1:
            self._typical_duration = seconds
        else:
            self._typical_duration += (seconds - self._typical_duration) / recent

    def median_duration(self) -> float:
        """Return the median duration of all successful jobs in seconds; 0 without any."""
        return statistics.median(self._durations) if self._durations else 0.0

    def first_indices(self, count: int) -> list[int]:
        """Return the indices of the next jobs: at least `count`, if there are as many."""
        self._ahead.extend(itertools.islice(self._jobs, max(0, count - len(self._ahead))))
        return [job.index for job in (*self._alone, *self._ahead)]

    def take_all(self) -> Iterator[Job]:
        """Yield and remove all jobs not submitted yet."""
        for queue in (self._alone, self._ahead):
            while queue:
                yield queue.popleft()
        yield from self._jobs
