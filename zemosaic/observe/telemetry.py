"""Spans and span events of a run, through the OpenTelemetry API alone.

The parent process makes all spans, from the times that workers report; so the death of a
worker loses no span, and there is no SDK in the workers. Without an SDK in the process the
API's spans record nothing, and this observer then does next to nothing.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from .._version import __version__
from ..runtime.events import (
    Event,
    Heartbeat,
    JobEnded,
    JobError,
    Observer,
    RunEnded,
    RunStarted,
    SlowJob,
    StageEnded,
    StageStarted,
)
from .attributes import LONGEST, Names, sendable, sent_text, valid

PHASE = "phase5_intertile"
PAIR = "phase5_intertile.pair"
TILE = "phase5_intertile.tile"
HEARTBEAT = "phase5_intertile.heartbeat"
SLOW_PAIR = "phase5_intertile.slow_pair"

#: Stages with a span of their own. Pairs are children of the phase, so "pairs" has none.
STAGE_SPANS = ("prepare", "overlap", "solve", "apply")


# Of the heartbeats of one silence these many are all recorded, then every second, and so on up
# to every 32nd (and the last): a day of silence makes some five hundred.
BEATS = 60
SPARSEST = 32
STACKS = 32  # of slow pairs, and of a silence; more would tell nothing new


_RUN = Names("zemosaic.")
_TILES = TILE, Names("zemosaic.tile."), Names("zemosaic.tile.stage.")
# Names of the spans of jobs, of their attributes and of those of their parts.
_OF_STAGE = {
    "pairs": (PAIR, Names("zemosaic.pair."), Names("zemosaic.pair.stage.")), "tiles": _TILES,
}  # fmt: skip


class Live(Protocol):
    """Shows a span that has not ended; both methods return at once, or nearly."""

    def show(self, span: Span) -> None:
        """Show the span as it stands, now and from time to time."""

    def stop(self) -> None:
        """Show it no more: what is under way arrives before this returns, or never."""


@runtime_checkable
class Direct(Protocol):
    """What a tracer may do besides, for spans by the thousand."""

    def ended(
        self,
        name: str,
        parent: Span,
        keys: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        starts: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        """Make spans that have ended well; times are nanoseconds since the epoch.

        A column holds the values of an attribute, one for each span and all of one type.
        """

    def hurry(self) -> None:
        """Send what waits for more to go with."""


class Telemetry(Observer):
    """Makes one `phase5_intertile` trace of a run.

    Parameters
    ----------
    tracer : opentelemetry.trace.Tracer, optional
        By default one of the provider that the application has set; none is ever set here. One
        that is `Direct` as well is spared the making of spans of many jobs step by step.
    live : Live, optional
        Shows the phase span while it lasts; a span is otherwise seen when it has ended.
    markers : bool
        Make a short child span of every heartbeat, for backends that cannot take a span twice.
    host : str, optional
        Where the jobs ran; by default on this machine.
    """

    def __init__(
        self,
        tracer: Tracer | None = None,
        live: Live | None = None,
        markers: bool = False,
        host: str = "",
    ) -> None:
        self._tracer = tracer or trace.get_tracer("zemosaic", __version__)
        self._direct: Direct | None = tracer if isinstance(tracer, Direct) else None
        self._live = live
        self._markers = markers
        self._host = sent_text(host or platform.node())
        self._phase: Span | None = None
        self._phase_context: context.Context | None = None
        self._stage: Span | None = None
        self._counts: dict[str, int] = {}
        self._slow = 0
        self._stack = ""  # of the last heartbeat: told again only when it has changed
        self._beats = self._recorded = self._dumped = 0  # of this silence
        self._left_out: Heartbeat | None = None
        self._slowest = (0, 0)  # nanoseconds and index of a pair
        self._silent = False
        #: The trace's id as 32 hexadecimal digits; empty where nothing is recorded.
        self.trace_id = ""

    @property
    def find(self) -> str:
        """What to look at first in the trace: the heartbeats, else the slowest pair."""
        if self._silent:
            return HEARTBEAT
        return f"zemosaic.pair.index={self._slowest[1]}" if self._slowest[1] else ""

    def run_started(self, event: RunStarted) -> None:
        """Start the phase span under the caller's current span."""
        self._counts = {"failed": 0, "rejected": 0}
        self._stage = None
        self._slow, self._stack = 0, ""
        self._end_silence()
        self._phase = self._tracer.start_span(PHASE, start_time=event.time_ns)
        if not self._phase.is_recording():
            self._phase = None
            return
        self.trace_id = trace.format_trace_id(self._phase.get_span_context().trace_id)
        self._phase_context = trace.set_span_in_context(self._phase)
        self._phase.set_attribute("zemosaic.run.id", event.run_id)
        self._phase.set_attribute("zemosaic.run.state", "running")
        self._set(event.attributes)
        self._show()

    def stage_started(self, event: StageStarted) -> None:
        """Start the stage's span, if it has one."""
        if self._phase is None or event.stage not in STAGE_SPANS:
            return
        self._stage = self._tracer.start_span(
            f"{PHASE}.{event.stage}", context=self._phase_context, start_time=event.time_ns
        )

    def stage_ended(self, event: StageEnded) -> None:
        """End the stage's span; its attributes are the phase's."""
        self._set(event.attributes)
        if self._stage is not None and event.stage in STAGE_SPANS:
            self._stage.end(end_time=event.time_ns)
            self._stage = None
        if self._direct is not None:
            self._direct.hurry()

    def handle_batch(self, events: Sequence[Event]) -> None:
        """Also make the spans of jobs that ended alike together, and count pairs once for all."""
        for alike, group in groupby(events, self._alike):
            some: list[Any] = list(group)
            if not alike or len(some) == 1 or not self._jobs_ended(some):
                super().handle_batch(some)
        pairs = (e for e in reversed(events) if isinstance(e, JobEnded) and e.stage == "pairs")
        if self._phase is not None and (last := next(pairs, None)) is not None:
            self._phase.set_attribute("zemosaic.pairs.done", last.done)

    def _alike(self, event: Event) -> tuple[Any, ...]:
        """What spans that are made together have in common; empty for what is told by itself."""
        if self._direct is None or self._phase is None or not isinstance(event, JobEnded):
            return ()
        if event.error is not None or event.stage not in _OF_STAGE:
            return ()
        return (
            event.stage,
            event.outcome,
            (*event.attributes,),
            (*event.step_times,),
            bool(event.pid),
        )

    def _jobs_ended(self, events: Sequence[JobEnded]) -> bool:
        """Make the spans of jobs that ended well and alike, column by column; whether it could."""
        first, count = events[0], len(events)
        name, names, parts = _OF_STAGE[first.stage]
        keys = [names[key] for key in first.attributes]
        columns: list[Sequence[Any]] = [*zip(*[e.attributes.values() for e in events], strict=True)]
        if names["index"] not in keys:
            keys.append(names["index"])
            columns.append([event.index for event in events])
        keys += [names["outcome"], names["queue_time"], *(parts[key] for key in first.step_times)]
        columns += [
            [first.outcome] * count,
            [max(0, e.started_ns - e.submitted_ns) / 1e9 for e in events],
            *zip(*[e.step_times.values() for e in events], strict=True),
        ]
        if self._direct is None or len({*keys}) < len(keys) or not all(map(sendable, columns)):
            return False
        keys.append("host.name")
        columns.append([self._host] * count)
        if first.pid:
            keys.append("process.pid")
            columns.append([event.pid for event in events])
        if self._beats:
            self._end_silence()
        self._count(events)
        self._direct.ended(
            name, self._parent(first), tuple(keys), columns,
            [event.started_ns for event in events], [event.ended_ns for event in events],
        )  # fmt: skip
        return True

    def _parent(self, event: JobEnded) -> Span:
        assert self._phase is not None
        return self._phase if event.stage == "pairs" else self._stage or self._phase

    def _count(self, events: Sequence[JobEnded]) -> None:
        for event in events:
            if event.stage != "pairs":
                return
            if event.outcome != "measured":
                self._counts["rejected" if event.outcome == "rejected" else "failed"] += 1
            took = event.ended_ns - event.started_ns
            if took > self._slowest[0]:
                self._slowest = took, event.index

    def job_ended(self, event: JobEnded) -> None:
        """Make the span of a tile or a pair, in the times of its worker."""
        if self._phase is None:
            return
        if self._beats:
            self._end_silence()
        if event.stage == "apply":
            self._tell_of_file(event)
            return
        # One job reads the header of a tile, a later one its pixels: the span is that of the
        # later one, unless the tile fails before.
        if event.stage == "scan" and event.outcome == "measured":
            return
        name, names, parts = _OF_STAGE.get(event.stage, _TILES)
        self._count([event])
        attributes = valid(event.attributes, names)
        attributes.setdefault(names["index"], event.index)
        attributes[names["outcome"]] = event.outcome
        attributes[names["queue_time"]] = max(0, event.started_ns - event.submitted_ns) / 1e9
        attributes.update(valid(event.step_times, parts))
        attributes["host.name"] = self._host
        if event.pid:
            attributes["process.pid"] = event.pid
        parent = self._parent(event)
        if self._direct is not None and event.error is None:
            columns = [(value,) for value in attributes.values()]
            self._direct.ended(
                name, parent, (*attributes,), columns, (event.started_ns,), (event.ended_ns,)
            )
            return
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(parent),
            attributes=attributes,
            start_time=event.started_ns,
        )
        if event.error is not None:
            _fail(span, event.error, event.ended_ns)
        span.end(end_time=event.ended_ns)

    def _tell_of_file(self, event: JobEnded) -> None:
        """Files written have no spans of their own, but no failure is silent."""
        if event.error is not None and self._stage is not None:
            known = {"exception.type": event.error.type, "exception.message": str(event.error)}
            self._stage.add_event("exception", valid(known), timestamp=event.ended_ns)

    def heartbeat(self, event: Heartbeat) -> None:
        """Record a heartbeat, if it is not one too many, and show the phase."""
        self._silent = True
        self._beats += 1
        if self._beats % min(2 ** (self._recorded // BEATS), SPARSEST):
            self._left_out = event
        else:
            self._left_out = None
            self._recorded += 1
            self._record_beat(event)
        self._show()

    def _record_beat(self, event: Heartbeat) -> None:
        attributes: dict[str, Any] = {
            "zemosaic.stage": event.stage,
            "zemosaic.pairs.done": event.done,
            "zemosaic.pairs.total": event.total,
            "zemosaic.pairs.pending": event.pending,
            "zemosaic.pairs.pending_indices": event.pending_indices,
            "zemosaic.pairs.running_indices": event.running_indices,
            "zemosaic.pairs.running_time": event.running_time,
            "zemosaic.pairs.running_stages": event.running_steps,
            "zemosaic.pairs.last_completed_index": event.last_completed_index,
            "zemosaic.idle_time": event.idle_time,
        }
        if event.stack != self._stack and self._dumped < STACKS:
            attributes["code.stacktrace"] = self._stack = event.stack
            self._dumped += 1
        self._event(HEARTBEAT, event.time_ns, attributes)
        if self._markers and self._phase is not None:
            start = event.time_ns - int(1e9 * event.idle_time)
            self._tracer.start_span(
                HEARTBEAT,
                context=self._phase_context,
                attributes=valid(attributes),
                start_time=start,
            ).end(end_time=event.time_ns)

    def _end_silence(self) -> None:
        """Record the newest heartbeat, if it was left out, and start anew."""
        if self._left_out is not None:
            self._record_beat(self._left_out)
        self._left_out = None
        self._beats = self._recorded = self._dumped = 0

    def _show(self) -> None:
        if self._live is not None and self._phase is not None:
            self._live.show(self._phase)

    def slow_job(self, event: SlowJob) -> None:
        """Record a slow pair (or tile)."""
        prefix = "zemosaic.pair." if event.stage == "pairs" else "zemosaic.tile."
        attributes = {prefix + "index": event.index, "zemosaic.stage": event.stage}
        attributes |= {prefix + key: value for key, value in event.attributes.items()}
        attributes[prefix + "running_time"] = event.running_time
        attributes[prefix + "running_stage"] = event.step or None
        self._slow += 1
        if event.stack and self._slow <= STACKS:
            attributes["code.stacktrace"] = event.stack
        self._event(SLOW_PAIR, event.time_ns, attributes)

    def run_ended(self, event: RunEnded) -> None:
        """End the phase span, and a stage's that is still open."""
        if self._phase is None:
            return
        self._end_silence()
        if self._live is not None:
            self._live.stop()
        self._set(event.attributes)
        self._phase.set_attribute("zemosaic.run.state", event.state)
        for outcome, count in self._counts.items():
            self._phase.set_attribute(f"zemosaic.pairs.{outcome}", count)
        for span in (self._stage, self._phase):
            if span is None:
                continue
            if event.error is not None:
                span.set_attribute("error.type", event.error.type)
                span.set_status(Status(StatusCode.ERROR, sent_text(event.error.message)))
            span.end(end_time=event.time_ns)

    def _event(self, name: str, time_ns: int, attributes: Mapping[str, Any]) -> None:
        """The one place where span events are made: they are on their way to be logs."""
        if self._phase is not None:
            self._phase.add_event(name, valid(attributes), timestamp=time_ns)

    def _set(self, attributes: Mapping[str, Any]) -> None:
        if self._phase is not None:
            self._phase.set_attributes(valid(attributes, _RUN))


def _fail(span: Span, error: JobError, time_ns: int) -> None:
    span.set_attribute("error.type", error.type)
    span.set_status(Status(StatusCode.ERROR, sent_text(str(error))))
    exception = {"exception.type": error.type, "exception.message": error.message}
    if error.traceback:
        exception["exception.stacktrace"] = error.traceback[-LONGEST:]
    span.add_event("exception", valid(exception), timestamp=time_ns)
