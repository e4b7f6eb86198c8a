"""What a report keeps of the tables and of the journal of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

from tests.helpers.synthetic_run import SyntheticRun, grid_graph
from zemosaic.observe.autopsy import examine
from zemosaic.pipeline.tables import parse_unit, write_table
from zemosaic.report.columns import read_columns
from zemosaic.report.shorten import PairLine, shorten
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
    """Pairs keep the fields of their residuals, tiles their places; an autopsy no result."""
    SyntheticRun(tmp_path, grid_graph(9, 20)).write()
    (whole,), (short,) = journal.read(tmp_path), journal.read(tmp_path, shorten)
    ends = [event for event in short.events if isinstance(event, JobEnded)]
    pairs = [event.result for event in ends if event.stage == "pairs" and event.result]
    assert len(short.events) == len(whole.events)
    assert {type(line) for lines in pairs for line in lines} == {PairLine, type(None)}
    assert sum(event.result.scale > 0 for event in ends if event.stage == "tiles") == 9
    examined = [
        e for e in examine(tmp_path, journal.drop_result).record.events if isinstance(e, JobEnded)
    ]
    assert {event.result for event in examined} == {None}
    assert [e.key for e in examined] == [e.key for e in whole.events if isinstance(e, JobEnded)]
