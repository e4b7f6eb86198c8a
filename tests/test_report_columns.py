"""What a report keeps of the tables and of the journal of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

from tests.helpers.synthetic_run import SyntheticRun, grid_graph
from zemosaic.photometry.pairfit.measurement import Rejected
from zemosaic.pipeline.records import decode_measurements
from zemosaic.pipeline.tables import parse_unit, write_table
from zemosaic.report.build import load_run
from zemosaic.report.columns import read_columns
from zemosaic.runtime import journal
from zemosaic.runtime.events import JobEnded


def test_columns_are_those_of_astropy(tmp_path: Path) -> None:
    """All bits, types and units, beside names with any characters; absent columns are left out."""
    names = ['a "b" c', "two\nlines", "# no comment", "", "tile é"]
    numbers = np.array([np.nan, 0.1 + 0.2, -2.5e-300, 1.7976931348623157e308, 3.0])
    columns = {"tile": np.arange(5), "file": names, "offset": numbers, "suspect": numbers > 1}
    table = Table(columns)
    table["offset"].unit = parse_unit("adu")
    path = tmp_path / "corrections.ecsv"
    write_table(table, path)
    read = read_columns(path, ("tile", "offset", "suspect", "curve_xx"))
    assert read.colnames == ["tile", "offset", "suspect"]
    for name in read.colnames:
        assert read[name].tolist() == table[name].tolist() or name == "offset"
        assert (read[name].dtype, read[name].unit) == (table[name].dtype, table[name].unit)
    np.testing.assert_array_equal(read["offset"], table["offset"])


def test_a_table_may_have_no_rows(tmp_path: Path) -> None:
    """The columns of a run without pairs are empty and have their types."""
    path = tmp_path / "pairs.ecsv"
    write_table(Table({"pair": np.zeros(0, int), "residual": np.zeros(0)}), path)
    read = read_columns(path, ("residual", "pair"))
    assert [(name, read[name].tolist()) for name in read.colnames] == [
        ("pair", []),
        ("residual", []),
    ]


def test_a_report_keeps_what_it_shows_of_a_journal(tmp_path: Path) -> None:
    """Its columns have the numbers, names and residuals of all jobs, which are read again alike."""
    SyntheticRun(tmp_path, grid_graph(9, 20)).write()
    (whole,), run = journal.read(tmp_path), load_run(tmp_path)[0]
    ends = [event for event in whole.events if isinstance(event, JobEnded)]
    assert list(run.jobs) == ends
    for name in ("stage", "outcome", "index", "pid", "started_ns", "ended_ns"):
        assert getattr(run.jobs, name).tolist() == [getattr(event, name) for event in ends]
    prepared = [event for event in ends if event.stage == "tiles"]
    for tile, event in zip(run.tiles, prepared, strict=True):
        assert tile.placement is not None
        assert tile.placement.channels == len(event.result["sky"])
        for name in ("x0", "y0", "centre", "jacobian", "shape", "scale", "thumb", "origin"):
            assert getattr(tile.placement, name) == event.result[name]
        assert np.array_equal(run.tiles.corners()[tile.index], tile.corners())
    measured = {event.index: event for event in ends if event.stage == "pairs"}
    for pair in run.pairs:
        (residual,) = pair.residuals
        if (error := measured[pair.index].error) is not None:
            assert (pair.outcome, pair.reason) == ("crashed", str(error))
            continue
        (line,) = decode_measurements(measured[pair.index].result)
        if isinstance(line, Rejected):
            assert (pair.outcome, pair.reason) == ("rejected", line.reason)
            assert np.isnan(residual.level_err)
        else:
            assert residual.level_err == line.level_err
            assert residual.before == abs(line.y - line.x) / line.rms


def test_columns_of_a_journal_are_its_events(tmp_path: Path) -> None:
    """Counts, saved results and unfinished jobs are the same by events and by columns."""
    SyntheticRun(tmp_path, grid_graph(9, 20)).write(until=17)
    (whole,), (columns,) = journal.read(tmp_path), journal.read_columns(tmp_path)
    ends = [event for event in whole.events if isinstance(event, JobEnded)]
    others = [event for event in whole.events if not isinstance(event, JobEnded)]
    assert [columns.jobs.read(number) for number in range(len(columns.jobs))] == ends
    assert columns.events == others
    assert list(journal.read_events(tmp_path, columns.place)) == whole.events
    assert columns.unfinished() == whole.unfinished()
    for stage in ("scan", "tiles", "pairs"):
        own = [event for event in ends if event.stage == stage]
        assert columns.jobs.done[stage] == max(event.done for event in own)
        assert columns.jobs.saved[stage] == sum(bool(event.key) for event in own)
    saved = {event.key: event.result for event in ends if event.key}
    assert dict(journal.results(tmp_path)) == saved
