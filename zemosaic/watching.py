"""The watch of our own stages, for a loop that somebody else owns."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .observe.endpoint import DEFAULT_ENDPOINT, live_mode, traces_endpoint, without_credentials
from .observe.ids import Ids
from .observe.run_recorder import Telemetry
from .reporting import CallbackReporter
from .runtime import stacks
from .runtime.events import JobError, RunEnded, RunStarted, StageEnded, StageStarted
from .runtime.inflight import Inflight
from .runtime.kept_folder import KeptFolder, keep_folder
from .runtime.loop_watch import STAGE, LoopWatch
from .runtime.observers import FanOut, Observer
from .runtime.run_folder import RunFolder

if TYPE_CHECKING:
    from .observe.tracing import Tracing

#: How open spans are shown by a provider without snapshots.
_APPLICATION_LIVE = {"auto": "marker", "snapshot": "marker", "marker": "marker", "off": "off"}
ROWS = 64  # running futures in the table of running jobs


@contextmanager
def watch(
    name: str,
    total: int | None = None,
    progress: Callable[..., Any] | None = None,
    logger: logging.Logger | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    prefix: str | None = None,
    heartbeat: float = 10.0,
    observers: Sequence[Observer] = (),
    otlp: str | None = None,
    live: str = "auto",
) -> Iterator[LoopWatch]:
    """Watch a loop over futures; its results and their order are the owner's.

    ::

        with zemosaic.watch("phase5_intertile", progress=callback, logger=logger) as watcher:
            for future in watcher.as_completed(future_map):
                ...

    The phase has a span, and so has each future. While none ends, heartbeats name the pending
    futures, running ones first, with the stack of the oldest, if a thread of this process runs it.
    They come from a thread of the watch, also while the body of the loop is stuck.

    Parameters
    ----------
    name : str
        Name of the phase.
    total : int, optional
        Number of futures, if more will follow.
    progress : callable, optional
        Called with ``(name, done, total)`` for each ended future and with
        ``(line, None, level)`` for each log line. Its exceptions are ignored.
    logger : logging.Logger, optional
        Receives the log lines.
    folder : path-like, optional
        Run folder for ``zemosaic status`` and ``zemosaic autopsy``. By default a folder in the
        temporary directory, which the first log line names, and which is removed unless the loop
        raises or the process dies.
    prefix : str, optional
        Start of each log line; by default the name in brackets and a space.
    heartbeat : float
        Seconds without an end before a heartbeat, and between two.
    observers : sequence of Observer
        Receive all events, in addition to the trace.
    otlp : str, optional
        OTLP endpoint of a collector for the trace, metrics and log records; empty for the default
        one. By default the spans go to the tracer provider set by the application. The end
        waits for the collector for at most five seconds.
    live : {"auto", "snapshot", "marker", "off"}
        How the phase and long-running futures are seen before they end, as by
        ``zemosaic intertile --live``. Snapshots need `otlp`; "auto" makes markers without it.

    Raises
    ------
    UserError
        The endpoint, a variable of its environment or `live` has no valid value.

    Yields
    ------
    LoopWatch
        Its `as_completed` takes futures of any executor or of Dask, and their labels.
    """
    reporter = _LoopReporter(name, progress, logger, f"[{name}] " if prefix is None else prefix)
    with ExitStack() as stack:
        if live not in _APPLICATION_LIVE:
            raise UserError(f"live is {live!r}; choose from {', '.join(_APPLICATION_LIVE)}")
        endpoint = "" if otlp is None else traces_endpoint(otlp or DEFAULT_ENDPOINT)
        ids = Ids()
        shown = live_mode(live, endpoint) if endpoint else _APPLICATION_LIVE[live]
        facts = ids.facts(without_credentials(endpoint), shown)
        about = {"loop": name, "settings": {}, "trace": facts}
        kept = stack.enter_context(keep_folder(folder, about, reporter.log))
        journals = kept.journals if kept else []
        telemetry = stack.enter_context(
            _trace(name, kept, endpoint, ids, facts, heartbeat, reporter)
        )
        fan_out = FanOut([*journals, reporter, telemetry, *observers])
        inflight = stack.enter_context(_inflight(kept, reporter))
        watcher = LoopWatch(fan_out, total or 0, heartbeat, inflight, progress=reporter.progress)
        reporter.labels = watcher.label
        stack.enter_context(_run(fan_out, watcher, total or 0))
        yield watcher


def watched(
    iterable: Iterable[Any],
    name: str,
    total: int | None = None,
    progress: Callable[..., Any] | None = None,
    logger: logging.Logger | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Yield the items of an iterable, and watch the loop that works on them.

    Each item runs from the moment it is yielded until the loop asks for the next; heartbeats have
    its number, or the item itself if it is a string or an integer, and the stack of the loop.

    Parameters
    ----------
    iterable : iterable
        The items of the loop.
    name, total, progress, logger, options
        As for `watch`; the total is ``len(iterable)``, if it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with watch(name, total, progress, logger, **options) as watcher:
        yield from watcher.items(iterable)


class _LoopReporter(CallbackReporter):
    """Also reports the progress of the loop."""

    def __init__(
        self,
        name: str,
        callback: Callable[..., Any] | None,
        logger: logging.Logger | None,
        prefix: str,
    ) -> None:
        super().__init__(logger, callback, prefix)
        self._name = name

    def progress(self, done: int, total: int) -> None:
        """Report the number of ended futures."""
        self.call_back(self._name, done, total)


@contextmanager
def _trace(
    name: str,
    kept: KeptFolder | None,
    endpoint: str,
    ids: Ids,
    facts: Mapping[str, Any],
    heartbeat: float,
    reporter: CallbackReporter,
) -> Iterator[Telemetry]:
    """Yield the observer that makes the spans, and wait for their delivery."""
    tracing = _open_tracing(kept, endpoint, ids, reporter) if endpoint else None
    if kept is None or tracing is None:
        yield Telemetry(name=name, markers=facts["live"] != "off")
        return
    from .observe.run_trace import make_telemetry, recorded_deliveries

    def on_loss(problem: str) -> None:
        reporter.log(logging.WARNING, problem)

    with recorded_deliveries(tracing, kept.journals, on_loss):
        yield make_telemetry(tracing, facts, heartbeat, name=name)


def _open_tracing(
    kept: KeptFolder | None, endpoint: str, ids: Ids, reporter: CallbackReporter
) -> Tracing | None:
    """Return the trace of the run folder; None if it cannot be written."""
    # The SDK, which an application with a provider of its own does not need from here.
    from .observe.tracing import Tracing

    reason = "no run folder"
    if kept is not None:
        try:
            return Tracing(RunFolder(kept.path).trace, endpoint, ids, other_signals=True)
        except OSError as error:
            reason = error.strerror or str(error)
    reporter.log(logging.WARNING, f"no spans are sent to the collector ({reason})")
    return None


@contextmanager
def _inflight(kept: KeptFolder | None, reporter: CallbackReporter) -> Iterator[Inflight | None]:
    """Yield the table of running jobs in the run folder; None without one."""
    if kept is None:
        yield None
        return
    try:
        table = Inflight(kept.path, ROWS, 0.0)
    except OSError as error:
        reporter.log(logging.WARNING, f"{kept.path}: no table of running jobs ({error.strerror})")
        yield None
        return
    stacks.dump_on_fault(kept.path)
    state = "failed"
    try:
        yield table
        state = "finished"
    finally:
        table.close(state)
        stacks.close()


@contextmanager
def _run(observers: FanOut, watcher: LoopWatch, total: int) -> Iterator[None]:
    """Report the start and the end of the run, and watch in between."""
    observers.dispatch(
        RunStarted(run_id=uuid.uuid4().hex, time_ns=time.time_ns()),
        StageStarted(stage=STAGE, time_ns=time.time_ns(), total=total),
    )
    watcher.start()
    state, failure = "finished", None
    try:
        yield
    except GeneratorExit:  # a break in a watched loop
        raise
    except BaseException as error:
        failure = JobError.of(error)
        state = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
        raise
    finally:
        watcher.stop()
        now = time.time_ns()
        observers.dispatch(
            StageEnded(stage=STAGE, time_ns=now),
            RunEnded(state=state, time_ns=now, error=failure),
        )
