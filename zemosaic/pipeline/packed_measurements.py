"""The measurements of a pair as bytes, which workers send and the journal keeps.

As objects they have six kilobytes a pair, and a large mosaic has half a million pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..photometry.pairfit.measurement import Measurement, PairMeasurement, Rejected
from ..photometry.solver.channel_pairs import MeasuredPairs
from .field_packer import FieldPacker

_packer = FieldPacker(PairMeasurement)
#: The scalar fields of a `PairMeasurement`, for numpy.
HEAD_TYPE = np.dtype(_packer.head_type)
#: All fields.
ROW_TYPE = np.dtype(_packer.row_type)
_SUMMARY = ("gain", "offset", "rms")


class PackedMeasurements(Sequence[Measurement]):
    """One measurement per channel, an object only when it is asked for.

    Parameters
    ----------
    entries : tuple of bytes or str
        Packed numbers without the zeros at their end (of patches missing in a small overlap), or
        the reason of a rejection.
    """

    __slots__ = ("entries",)

    def __init__(self, entries: tuple[bytes | str, ...]) -> None:
        self.entries = entries

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> PackedMeasurements:
        """Pack measurements, or return them if they are packed."""
        if isinstance(measurements, PackedMeasurements):
            return measurements
        return cls(
            tuple(
                line.reason if isinstance(line, Rejected) else _short(_packer.pack(line))
                for line in measurements
            )
        )

    @property
    def state(self) -> str:
        """Return "measured", or "rejected" if no channel is."""
        return "measured" if any(isinstance(e, bytes) for e in self.entries) else "rejected"

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, channel: Any) -> Any:
        if isinstance(channel, slice):
            return tuple(map(_unpack, self.entries[channel]))
        return _unpack(self.entries[channel])

    def __iter__(self) -> Iterator[Measurement]:
        return map(_unpack, self.entries)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedMeasurements):
            return self.entries == other.entries
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return repr(tuple(self))


def _unpack(entry: bytes | str) -> Measurement:
    return Rejected(entry) if isinstance(entry, str) else _packer.unpack(_whole(entry))


def _short(packed: bytes) -> bytes:
    return packed.rstrip(b"\0").ljust(_packer.head_size, b"\0")


def _whole(entry: bytes) -> bytes:
    return entry.ljust(_packer.size, b"\0")


def encode_measurements(measurements: Iterable[Measurement]) -> list[Any]:
    """Return the journal's form of a pair: per channel a reason, or the packed numbers in a list.

    See Also
    --------
    decode_measurements : The inverse, to the last bit.
    """
    entries = PackedMeasurements.of(measurements).entries
    return [entry if isinstance(entry, str) else [_whole(entry).hex()] for entry in entries]


def decode_measurements(entries: list[Any]) -> PackedMeasurements:
    """Return the measurements of a pair from their form in the journal.

    Raises
    ------
    ValueError
        Another layout wrote them.
    """
    packed = [entry if isinstance(entry, str) else bytes.fromhex(entry[0]) for entry in entries]
    for entry in packed:
        if isinstance(entry, bytes):
            _packer.check(len(entry))
    return PackedMeasurements(tuple(e if isinstance(e, str) else _short(e) for e in packed))


def measurement_heads(entries: list[Any]) -> list[bytes | None]:
    """Return the first numbers of a pair in the journal, as `HEAD_TYPE`; None if rejected.

    Raises
    ------
    ValueError, TypeError
        Another version wrote them.
    """
    heads = []
    for entry in entries:
        if not isinstance(entry, str):
            _packer.check(len(entry[0]) // 2)
        heads.append(
            None if isinstance(entry, str) else bytes.fromhex(entry[0][: 2 * _packer.head_size])
        )
    return heads


def stack_heads(pairs: Sequence[Iterable[Measurement]], channels: int) -> np.ndarray:
    """Return the first numbers of all pairs, ``(P, C)`` of `HEAD_TYPE`.

    They are NaN, 0 and false in channels without a measurement.
    """
    missing = np.zeros(1, HEAD_TYPE)
    for name in HEAD_TYPE.names or ():
        if HEAD_TYPE[name].kind == "f":
            missing[name] = np.nan
    none, rows = missing.tobytes(), bytearray()
    for pair in pairs:
        for entry in PackedMeasurements.of(pair).entries:
            rows += none if isinstance(entry, str) else entry[: _packer.head_size]
    return np.frombuffer(bytes(rows), HEAD_TYPE).reshape(len(pairs), channels)


def stack_measured(pairs: Sequence[Iterable[Measurement]], channel: int) -> MeasuredPairs:
    """Return all numbers of the pairs measured in a channel."""
    entries = [PackedMeasurements.of(pair).entries[channel] for pair in pairs]
    measured = np.fromiter((isinstance(entry, bytes) for entry in entries), bool, len(entries))
    rows = b"".join(_whole(entry) for entry in entries if isinstance(entry, bytes))
    return MeasuredPairs(measured, np.frombuffer(rows, ROW_TYPE))


def measured_heads(measurements: Iterable[Measurement]) -> list[dict[str, Any]]:
    """Return the first numbers of each measured channel, by the fields of `PairMeasurement`."""
    entries = PackedMeasurements.of(measurements).entries
    return [_packer.head(entry) for entry in entries if isinstance(entry, bytes)]


def summarize_pair(measurements: Iterable[Measurement]) -> tuple[str, dict[str, Any]]:
    """Return the outcome of a pair and its span attributes, with one value per measured channel."""
    entries = PackedMeasurements.of(measurements).entries
    reasons = sorted({entry for entry in entries if isinstance(entry, str)})
    attributes: dict[str, Any] = {"reason": "; ".join(reasons)} if reasons else {}
    measured = measured_heads(measurements)
    if not measured:
        return "rejected", attributes
    attributes["cells"] = max(head["cells"] for head in measured)
    for name in _SUMMARY:
        values = [head[name] for head in measured]
        attributes[name] = values if len(entries) > 1 else values[0]
    return "measured", attributes
