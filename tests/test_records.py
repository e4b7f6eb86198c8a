"""The journal's form of tiles and pairs, and the keys under which they are reused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tiles import simulated
from zemosaic import Settings, calibrate, open_tile
from zemosaic.photometry.pairfit.measurement import PairMeasurement, Rejected
from zemosaic.photometry.preview.grid import make_grid
from zemosaic.photometry.preview.preview import Preview
from zemosaic.pipeline import tasks
from zemosaic.pipeline.field_packer import FieldPacker, layout_digest
from zemosaic.pipeline.records import (
    PreparedTile,
    decode_measurements,
    encode_measurements,
    encode_tile,
    restore_tile,
)
from zemosaic.runtime.events import JobEnded
from zemosaic.runtime.journal import Journal
from zemosaic.runtime.observers import Observer

any_float = st.floats(allow_nan=True, allow_infinity=True)
VALUES = {
    "float": any_float,
    "int": st.integers(0, 2**62),
    "bool": st.booleans(),
    "tuple[float, float]": st.tuples(any_float, any_float),
    "tuple[float, float, float]": st.tuples(any_float, any_float, any_float),
    "Annotated[tuple[float, ...], 7]": st.tuples(*(any_float,) * 7),
    "Annotated[tuple[float, ...], 176]": st.tuples(*(any_float,) * 11).map(lambda one: one * 16),
}
any_measurement = st.builds(
    PairMeasurement, **{f.name: VALUES[str(f.type)] for f in fields(PairMeasurement)}
)


def bits(value: Any) -> Any:
    """Return a value that is equal for the same type and bits, NaN included."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    return type(value), value


def assert_same_bits(first: PairMeasurement, second: PairMeasurement) -> None:
    for field in fields(PairMeasurement):
        assert bits(getattr(first, field.name)) == bits(getattr(second, field.name)), field.name


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(any_measurement | st.builds(Rejected, st.text()), max_size=3))
def test_measurements_keep_their_bits(measurements: list[Any]) -> None:
    """Decoding restores every field with its type and bits, and the reasons of rejections."""
    decoded = decode_measurements(encode_measurements(tuple(measurements)))
    assert len(decoded) == len(measurements)
    for restored, measurement in zip(decoded, measurements, strict=True):
        assert type(restored) is type(measurement)
        if isinstance(measurement, Rejected):
            assert restored == measurement
        else:
            assert_same_bits(restored, measurement)


def test_a_field_without_a_fixed_size_is_refused() -> None:
    """A dataclass that the packer cannot represent fails at import, naming the field."""

    @dataclass
    class Named:
        name: str

    @dataclass
    class Listed:
        values: tuple[float, ...]

    with pytest.raises(TypeError, match=r"Named\.name"):
        FieldPacker(Named)
    with pytest.raises(TypeError, match=r"Listed\.values"):
        FieldPacker(Listed)


def test_the_layout_changes_with_names_types_and_order() -> None:
    """Any change of a field gives another digest; an equal dataclass gives the same."""
    layout = [("gain", float), ("cells", int)]
    digest = layout_digest(make_dataclass("Kept", layout))
    assert layout_digest(make_dataclass("Kept", layout)) == digest
    for other in (
        [("slope", float), ("cells", int)],
        [("gain", float), ("cells", float)],
        [("cells", int), ("gain", float)],
        [*layout, ("shift", float)],
    ):
        assert layout_digest(make_dataclass("Kept", other)) != digest


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedTile:
    """A prepared tile with a thumbnail; its preview is tile.preview in `tmp_path`."""
    (tile, *_) = (open_tile(path) for path in write(tmp_path))
    return tasks.prepare(tile, 1, make_grid([tile]), tmp_path / "tile.preview", 4)


def write(folder: Path) -> Iterator[Path]:
    from astropy.io import fits

    for tile in simulated():
        path = folder / tile.name
        fits.PrimaryHDU(tile.data, tile.wcs.to_header(relax=True)).writeto(path)
        yield path


def test_a_prepared_tile_is_restored(prepared: PreparedTile, tmp_path: Path) -> None:
    """Through the journal every field keeps its value and type; the arrays stay on disk."""
    recorder = Journal(tmp_path, {})
    recorder.write({"kind": "tile", "tile": encode_tile(prepared)})
    recorder.close()
    (line,) = [entry for entry in map(orjson.loads, journal_lines(tmp_path)) if "tile" in entry]
    restored = restore_tile(line["tile"], tmp_path / "tile.preview")
    assert restored is not None
    for field in fields(PreparedTile):
        value, expected = getattr(restored, field.name), getattr(prepared, field.name)
        if field.name == "preview":
            assert_same_previews(value, expected)
        elif field.name == "thumbnail":
            np.testing.assert_array_equal(value, expected)
        else:
            assert (type(value), value) == (type(expected), expected), field.name


def assert_same_previews(preview: Preview, expected: Preview) -> None:
    for field in fields(Preview):
        value, wanted = getattr(preview, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(value, wanted)
        assert type(value) is type(wanted)
    assert preview.values.size == 0


def journal_lines(folder: Path) -> list[bytes]:
    return [line for line in (folder / "journal.jsonl").read_bytes().splitlines() if line.strip()]


def test_a_preview_that_is_lost_or_altered_is_not_restored(
    prepared: PreparedTile, tmp_path: Path
) -> None:
    """A missing, truncated or altered file, or a missing entry, gives None."""
    path, entry = tmp_path / "tile.preview", encode_tile(prepared)
    whole = path.read_bytes()
    assert restore_tile(None, path) is None
    assert restore_tile(entry, tmp_path / "missing.preview") is None
    half = len(whole) // 2
    for damaged in (whole[:half], whole[:half] + bytes(len(whole) - half)):
        path.write_bytes(damaged)
        assert restore_tile(entry, path) is None


class Results(Observer):
    """Collects the results that a journal would keep, and counts the jobs of each stage."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.jobs: dict[str, int] = {}

    def job_ended(self, event: JobEnded) -> None:
        self.jobs[event.stage] = self.jobs.get(event.stage, 0) + 1
        if event.key:
            self.results[event.key] = event.result


@pytest.mark.parametrize("kept", [PairMeasurement, PreparedTile, Preview])
def test_results_of_another_layout_are_not_reused(
    kept: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a field of a journalled dataclass changes, earlier results are measured again."""
    paths = list(write(tmp_path))
    options: Any = {"pool": "serial", "folder": tmp_path / "run"}
    earlier, same, changed = Results(), Results(), Results()
    calibrate(paths, Settings(), observers=[earlier], **options)
    options["cached_results"] = earlier.results
    calibrate(paths, Settings(), observers=[same], **options)
    assert "pairs" not in same.jobs
    layout = [(field.name, field.type) for field in fields(kept)]
    layout[0] = (layout[0][0] + "_renamed", layout[0][1])
    other = make_dataclass(kept.__name__, layout)
    monkeypatch.setattr(
        tasks, "JOURNALLED", tuple(other if k is kept else k for k in tasks.JOURNALLED)
    )
    calibrate(paths, Settings(), observers=[changed], **options)
    assert changed.jobs["pairs"] == earlier.jobs["pairs"] == 6
    assert not changed.results.keys() & earlier.results.keys()


def test_a_measurement_of_another_layout_is_refused() -> None:
    """A text of another length raises a ValueError, which readers of old journals handle."""
    with pytest.raises(ValueError, match="200 bytes where"):
        decode_measurements([[bytes(200).hex()]])
