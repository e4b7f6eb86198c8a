"""Pack the numbers of a dataclass into text and back, derived from its fields."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from itertools import chain
from operator import attrgetter, itemgetter
from struct import Struct
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

_FORMATS = {float: "d", int: "q", bool: "?"}
_NUMPY_FORMATS = {"d": "<f8", "q": "<i8", "?": "?"}

Record = TypeVar("Record")


class FieldPacker(Generic[Record]):
    """Packs records of one dataclass to bytes, and restores them bit for bit.

    The journal has them as hexadecimal text: writing decimal numbers takes ten times as long, and
    would take most of the time of a pair's line.

    Parameters
    ----------
    record_type : type
        A dataclass with at least two fields of type ``float``, ``int`` or ``bool``, at least two
        tuples of a fixed number of these, and no others. A long tuple of N numbers is declared as
        ``Annotated[tuple[float, ...], N]``.

    Raises
    ------
    TypeError
        A field has another type.
    """

    def __init__(self, record_type: type[Record]) -> None:
        formats = _field_formats(record_type)
        vectors = [name for name, (_, is_tuple) in formats.items() if is_tuple]
        scalars = [name for name in formats if name not in vectors]
        places: dict[str, int | slice] = {name: place for place, name in enumerate(scalars)}
        end = len(scalars)
        for name in vectors:
            start, end = end, end + len(formats[name][0])
            places[name] = slice(start, end)
        self._record_type = record_type
        self._struct = Struct("<" + "".join(formats[name][0] for name in (*scalars, *vectors)))
        self._head = [(name, formats[name][0]) for name in scalars]
        self._tuples = [(name, formats[name][0]) for name in vectors]
        self._head_names = scalars
        self._head_struct = Struct("<" + "".join(code for _, code in self._head))
        self.head_size = self._head_struct.size
        self.size = self._struct.size
        self._scalars, self._vectors = attrgetter(*scalars), attrgetter(*vectors)
        self._in_field_order = itemgetter(*(places[name] for name in formats))

    def pack(self, record: Record) -> bytes:
        """Return the numbers of a record."""
        flat = chain(self._scalars(record), chain.from_iterable(self._vectors(record)))
        return self._struct.pack(*flat)

    @property
    def head_type(self) -> list[tuple[str, str]]:
        """The scalars of a record, which come first, as the fields of a numpy dtype."""
        return [(name, _NUMPY_FORMATS[code]) for name, code in self._head]

    @property
    def row_type(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """All numbers of a record as the fields of a numpy dtype, tuples as arrays of floats."""
        numbers = [(name, kind, ()) for name, kind in self.head_type]
        return numbers + [(name, "<f8", (len(codes),)) for name, codes in self._tuples]

    def check(self, size: int) -> None:
        """Raise ValueError if records have not this number of bytes: another layout has it."""
        if size != self._struct.size:
            raise ValueError(f"{size} bytes where {self._struct.size} are expected")

    def head(self, packed: bytes) -> dict[str, Any]:
        """Return the scalars of a record by name."""
        values = self._head_struct.unpack_from(packed)
        return dict(zip(self._head_names, values, strict=True))

    def unpack(self, packed: bytes) -> Record:
        """Return the record from which `pack` made the bytes."""
        flat = self._struct.unpack(packed)
        return self._record_type(*self._in_field_order(flat))


def layout_digest(*record_types: type) -> str:
    """Return a digest of the names and types of all fields of these dataclasses."""
    layout = [[(field.name, str(field.type)) for field in fields(kind)] for kind in record_types]
    return hashlib.sha256(repr(layout).encode()).hexdigest()


def _field_formats(record_type: type) -> dict[str, tuple[str, bool]]:
    """Return the struct format of each field, and whether the field is a tuple."""
    hints = get_type_hints(record_type, include_extras=True)
    formats = {}
    for field in fields(record_type):
        kind = hints[field.name]
        is_tuple = get_origin(kind) in (tuple, Annotated)
        try:
            codes = [_FORMATS[number] for number in (_elements(kind) if is_tuple else (kind,))]
        except KeyError:
            raise TypeError(
                f"{record_type.__name__}.{field.name} is a {kind}; give a number or a tuple of them"
            ) from None
        formats[field.name] = "".join(codes), is_tuple
    return formats


def _elements(kind: Any) -> tuple[Any, ...]:
    """Return the types of the elements of a tuple."""
    if get_origin(kind) is tuple:
        return get_args(kind)
    repeated, length = get_args(kind)
    return get_args(repeated)[:1] * length
