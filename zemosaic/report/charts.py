"""What the charts of the run page draw, in plain lists and numbers that fit into JSON.

Drawing is done in the page itself (``page/page.js``) by plotly.js: the numbers are a tenth of
what figures made of them would be, and no Python of Plotly is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..runtime.events import Heartbeat, JobEnded, SlowJob
from ..runtime.stacks import innermost
from .data import UNDER_WAY, PairStory, Story, TileStory, outcome, typical

TITLES = {
    "scan": "reading headers",
    "prepare": "preparing tiles",
    "tiles": "making previews",
    "overlap": "finding overlaps",
    "pairs": "measuring pairs",
    "solve": "solving",
    "apply": "writing corrected tiles",
}
COLOURS = ("red", "green", "blue")
DIGITS = 6  # of a number: more than a chart can show
MARKS = 500  # heartbeats and slow jobs that are drawn: a night's stall has thousands


def chart_data(story: Story) -> dict[str, Any]:
    """All that the charts draw."""
    lanes, rows = worker_lanes(story.jobs)
    stages = sorted({job.stage for job in story.jobs}, key=list(TITLES).index)
    place = {(pair.i, pair.j): number for number, pair in enumerate(story.pairs)}
    group = {t.index: k for k, tiles in enumerate(story.groups) for t in tiles}
    heavy = _weights(story.pairs)
    return _plain(
        {
            "channels": channel_names(story.channels),
            "tiles": [_tile(tile, group.get(tile.index, -1)) for tile in story.tiles],
            "pairs": [_pair(p, w) for p, w in zip(story.pairs, heavy, strict=True)],
            "stages": [TITLES[stage] for stage in stages],
            "pairStage": stages.index("pairs") if "pairs" in stages else -1,
            "lanes": lanes,
            "jobs": [
                _job(story, job, row, stages, place)
                for job, row in zip(story.jobs, rows, strict=True)
            ],
            "marks": _marks(story, lanes, rows),
            "seconds": story.since(story.found.last_ns),
            "levelChi": [x for p in story.pairs for x in p.level_chi if math.isfinite(x)],
            "gainChi": [x for p in story.pairs for x in p.gain_chi if math.isfinite(x)],
        }
    )


def channel_names(count: int) -> list[str]:
    """What the colour planes are called: three are red, green and blue."""
    return list(COLOURS) if count == 3 else [f"channel {c}" for c in range(count)]


def _tile(tile: TileStory, group: int) -> dict[str, Any]:
    names = ("index", "name", "failed", "pairs", "suspect", "gain", "gain_err", "offset",
             "offset_err")  # fmt: skip
    known = {name: getattr(tile, name) for name in names}
    return {**known, "group": group, "corners": tile.footprint()}


def _pair(pair: PairStory, weight: int) -> dict[str, Any]:
    return {
        **{name: getattr(pair, name) for name in ("index", "i", "j", "outcome", "seconds")},
        "reason": pair.reason or ("" if pair.gain_measured else "gain not measurable here"),
        "before": typical(pair.before),
        "after": typical(pair.after),
        "residual": max((x for x in pair.residual if math.isfinite(x)), key=abs, default=math.nan),
        "chi": pair.worst,
        "weight": weight,
    }


def _weights(pairs: list[PairStory]) -> list[int]:
    """Which third of the measured pairs each belongs to by its weight: 0 light to 2 heavy."""
    errors = [typical(pair.level_err) for pair in pairs]
    ranked = sorted(e for e in errors if math.isfinite(e))
    if not ranked:
        return [0] * len(pairs)
    third, two_thirds = ranked[len(ranked) // 3], ranked[2 * len(ranked) // 3]
    return [2 if e < third else 1 if e < two_thirds else 0 for e in errors]


def worker_lanes(jobs: list[JobEnded]) -> tuple[list[str], list[int]]:
    """Names of lanes, one or, for threads, some of each process, and the lane of every job."""
    free: dict[int, list[tuple[int, int]]] = {}  # of each process: lane, and when it is free
    names: list[str] = []
    rows = [0] * len(jobs)
    for number in sorted(range(len(jobs)), key=lambda n: jobs[n].started_ns):
        job = jobs[number]
        lanes = free.setdefault(job.pid, [])
        for k, (lane, until) in enumerate(lanes):
            if until <= job.started_ns:
                lanes[k] = (lane, job.ended_ns)
                rows[number] = lane
                break
        else:
            rows[number] = len(names)
            lanes.append((len(names), job.ended_ns))
            names.append(f"worker {len(names) + 1}")
    return names, rows


def _job(
    story: Story, job: JobEnded, row: int, stages: list[str], place: dict[tuple[int, int], int]
) -> list[Any]:
    known = job.attributes
    what = known.get("index")
    if job.stage == "pairs":
        what = place.get((known.get("tile_i", -1), known.get("tile_j", -1)))
    lost = job.outcome not in ("measured", "rejected")
    why = ("under way when the run died" if outcome(job) == UNDER_WAY
           else f"{job.outcome}: {job.error}" if lost else "")  # fmt: skip
    times = (story.since(job.started_ns), story.since(job.ended_ns))
    return [row, stages.index(job.stage), job.index, *times, why, what]


def _marks(story: Story, lanes: list[str], rows: list[int]) -> list[dict[str, Any]]:
    where = {(job.stage, job.index): row for job, row in zip(story.jobs, rows, strict=True)}
    marks = []
    for event in story.marks[:MARKS]:
        index, _ = culprit(event)
        marks.append(
            {
                "kind": "slow" if isinstance(event, SlowJob) else "heartbeat",
                "time": story.since(event.time_ns),
                "lane": where.get((event.stage, index), len(lanes) - 1),
                "text": mark_text(event),
            }
        )
    return marks


def culprit(event: Heartbeat | SlowJob) -> tuple[int, Mapping[str, Any]]:
    """Index and attributes of the job that is slow, or has run longest; 0 where there is none."""
    if isinstance(event, SlowJob):
        return event.index, event.attributes
    return next(iter(event.running_indices), 0), next(iter(event.running_attributes), {})


def mark_text(event: Heartbeat | SlowJob) -> str:
    """A heartbeat or a slow job in some lines."""
    if isinstance(event, SlowJob):
        name = job_name(event.stage, event.index, event.attributes)
        lines = [f"{name} has been running for {event.running_time:.0f} s"]
    else:
        title = TITLES.get(event.stage, event.stage)
        lines = [
            f"nothing has ended for {event.idle_time:.0f} s",
            f"{title}: {event.done} of {event.total} done",
        ]
        running = zip(
            event.running_indices, event.running_attributes, event.running_time, strict=True
        )
        lines += [f"{job_name(event.stage, k, a)}: {s:.0f} s" for k, a, s in running]
    where = innermost(event.stack)
    return "\n".join([*lines, *([f"at {where}"] if where else [])])


def job_name(stage: str, index: int, known: Mapping[str, Any]) -> str:
    """What a person calls a job."""
    if stage == "pairs":
        return f"pair {index} ({known.get('name_i')}, {known.get('name_j')})"
    return str(known.get("name", f"{TITLES.get(stage, stage)} {index}"))


def _plain(value: Any) -> Any:
    """Numbers short, and what is not known as null: JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
