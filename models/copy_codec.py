"""PostgreSQL's binary COPY format to and from numpy, without Python work per value.

Rows whose arrays have equal lengths have equal bytes everywhere but in their values, so one structured dtype describes
them all. Decoding groups the rows by layout: take the first row's layout, compare every other row's structural bytes
with it, keep those that agree, and go on with the rest. A batch of simulations with 2 to 8 assets makes seven groups.

Format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format) and each type's `send` function; a COPY
OUT sends one CopyData message a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

Layout = tuple[int, ...]
"""For each column: `NULL`, or the number of elements (a scalar's is 1), or below `OPAQUE` for what is not read."""

NULL = -1
OPAQUE = -2
"""`OPAQUE - n` marks n bytes that are no plain array: NULL elements or several dimensions."""

_ARRAY_HEAD = [("ndim", ">i4"), ("flags", ">i4"), ("oid", ">i4"), ("dim", ">i4"), ("lower", ">i4")]
_EMPTY_HEAD = _ARRAY_HEAD[:3]
_ARRAY_HEAD_BYTES = 20


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A PostgreSQL type of fixed width: its OID and its big-endian numpy type."""

    oid: int
    wire: str

    @property
    def width(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.wire).itemsize


INT2 = ColumnType(21, ">i2")
INT4 = ColumnType(23, ">i4")
INT8 = ColumnType(20, ">i8")
FLOAT8 = ColumnType(701, ">f8")
DATE = ColumnType(1082, ">i4")
"""Days since 2000-01-01."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a COPY: a scalar, or a one-dimensional array without NULL elements."""

    name: str
    type: ColumnType
    is_array: bool = False


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Decoded rows of one layout.

    Attributes:
        rows: intp (g,), their positions in the stream.
        values: native-endian arrays by column: (g,) of a scalar, (g, length) of an array; absent where NULL or opaque.
        opaque: columns that held something other than a plain array.
    """

    rows: NDArray[np.intp]
    values: dict[str, NDArray[Any]]
    opaque: frozenset[str]


class RowFormat:
    """The columns of one COPY, in order."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)

    def encode(self, values: Mapping[str, NDArray[Any]]) -> memoryview:
        """Rows as bytes, without header and trailer.

        Args:
            values: for each column (n,) of a scalar or (n, length) of an array; all n equal. Integers and floats are
                cast to the column's type; a value that does not fit it must not be passed.
        """
        layout = tuple(values[c.name].shape[1] if c.is_array else 1 for c in self.columns)
        # Repeating the template's bytes is a memcpy; assigning it as a record goes field by field.
        blank = bytearray(_template(self.columns, layout).tobytes() * len(values[self.columns[0].name]))
        rows = np.frombuffer(blank, dtype=_dtype(self.columns, layout))
        for column, length in zip(self.columns, layout, strict=True):
            if not column.is_array:
                rows[column.name] = values[column.name]
            elif length:
                rows[column.name]["items"]["value"][...] = values[column.name]
        return memoryview(blank)

    def decode(self, messages: Iterable[bytes | bytearray | memoryview]) -> list[RowGroup]:
        """The rows of a whole COPY OUT, grouped by layout.

        Args:
            messages: as they come from the server: the header before the first row, one row a message, the trailer
                last.

        Raises:
            ValueError: the stream is not a binary COPY of these columns.
        """
        rows = _rows_of(list(messages))
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        groups: list[RowGroup] = []
        for length in np.flatnonzero(np.bincount(lengths)).tolist():
            where = np.flatnonzero(lengths == length)
            block = np.frombuffer(b"".join([rows[index] for index in where.tolist()]), dtype=np.uint8)
            block = block.reshape(len(where), length)
            while len(where):
                layout = self._layout_of(block[0].tobytes())
                same = self._matches(block, layout)
                if same.all():
                    groups.append(self._group(where, block, layout))
                    break
                groups.append(self._group(where[same], block[same], layout))
                where, block = where[~same], block[~same]
        return groups

    def _layout_of(self, row: bytes) -> Layout:
        """The layout of one row."""
        if _int(row, 0, 2) != len(self.columns):
            raise ValueError(f"a row has {_int(row, 0, 2)} fields, expected {len(self.columns)}")
        layout, position = [], 2
        for column in self.columns:
            size = _int(row, position, 4)
            position += 4
            layout.append(_elements(column, row, position, size))
            position += max(size, 0)
        if position != len(row):
            raise ValueError("a row is longer than its fields: not one row a message")
        return tuple(layout)

    def _matches(self, block: NDArray[np.uint8], layout: Layout) -> NDArray[np.bool_]:
        """bool (g,), rows of `block` (g, length) that have `layout`; the first one does."""
        count, length = block.shape
        if min(layout) <= OPAQUE:
            # Rare, and nothing tells a plain array of the same size apart: such rows stand alone.
            return np.asarray(np.arange(count) == 0, dtype=np.bool_)
        same = np.ones(count, dtype=np.bool_)
        for offset, expected in _discriminants(self.columns, layout):
            # Compared as they lie, without swapping bytes.
            found: NDArray[np.int32] = np.ndarray((count,), np.int32, block.data, offset, (length,))
            same &= found == expected
        return same

    def _group(self, rows: NDArray[np.intp], block: NDArray[np.uint8], layout: Layout) -> RowGroup:
        records = block.view(_dtype(self.columns, layout))[:, 0]
        values: dict[str, NDArray[Any]] = {}
        opaque = set()
        for column, length in zip(self.columns, layout, strict=True):
            native = np.dtype(column.type.wire).newbyteorder("=")
            if length <= OPAQUE:
                opaque.add(column.name)
            elif length == NULL:
                continue
            elif not column.is_array:
                values[column.name] = records[column.name].astype(native)
            elif length == 0:
                values[column.name] = np.zeros((len(rows), 0), dtype=native)
            else:
                values[column.name] = records[column.name]["items"]["value"].astype(native)
        return RowGroup(rows, values, frozenset(opaque))


def _int(data: bytes, position: int, size: int) -> int:
    return int.from_bytes(data[position : position + size], "big", signed=True)


def _elements(column: Column, row: bytes, position: int, size: int) -> int:
    if size < 0:
        return NULL
    if not column.is_array:
        if size != column.type.width:
            raise ValueError(f"column {column.name}: {size} bytes, expected {column.type.width}")
        return 1
    dimensions, flags = _int(row, position, 4), _int(row, position + 4, 4)
    if _int(row, position + 8, 4) != column.type.oid:
        raise ValueError(f"column {column.name}: elements of another type than expected")
    if dimensions == 0:
        return 0
    if dimensions == 1 and flags == 0:
        return _int(row, position + 12, 4)
    return OPAQUE - size


@lru_cache(maxsize=512)
def _dtype(columns: tuple[Column, ...], layout: Layout) -> np.dtype[np.void]:
    fields: list[Any] = [("fields", ">i2")]
    for column, length in zip(columns, layout, strict=True):
        fields.append((f"{column.name} size", ">i4"))
        if length <= OPAQUE:
            fields.append((column.name, f"V{OPAQUE - length}"))
        elif length == NULL:
            continue
        elif not column.is_array:
            fields.append((column.name, column.type.wire))
        elif length == 0:
            fields.append((column.name, _EMPTY_HEAD))
        else:
            items = ("items", [("size", ">i4"), ("value", column.type.wire)], (length,))
            fields.append((column.name, [*_ARRAY_HEAD, items]))
    return np.dtype(fields)


@lru_cache(maxsize=512)
def _template(columns: tuple[Column, ...], layout: Layout) -> NDArray[np.void]:
    """A row of `layout` whose values are 0."""
    row = np.zeros(1, dtype=_dtype(columns, layout))
    row["fields"] = len(columns)
    for column, length in zip(columns, layout, strict=True):
        size, width = f"{column.name} size", column.type.width
        if length <= OPAQUE:
            row[size] = OPAQUE - length
        elif length == NULL or not column.is_array:
            row[size] = NULL if length == NULL else width
        elif length == 0:
            row[size] = np.dtype(_EMPTY_HEAD).itemsize
            row[column.name]["oid"] = column.type.oid
        else:
            row[size] = _ARRAY_HEAD_BYTES + length * (4 + width)
            array = row[column.name]
            array["ndim"], array["oid"], array["dim"], array["lower"] = 1, column.type.oid, length, 1
            array["items"]["size"] = width
    return row[0:1]


@lru_cache(maxsize=512)
def _discriminants(columns: tuple[Column, ...], layout: Layout) -> list[tuple[int, np.int32]]:
    """Offsets of what tells rows of one length apart, and the int32 found there as it lies in memory.

    Each field's size, and of an array the number of dimensions and whether it has NULL elements: together with the size
    they fix its length.
    """
    dtype, template = _dtype(columns, layout), _template(columns, layout).tobytes()
    offsets = []
    for column, length in zip(columns, layout, strict=True):
        offsets.append(_offset(dtype, f"{column.name} size"))
        if column.is_array and length != NULL:
            start = _offset(dtype, column.name)
            offsets += [start, start + 4]
    return [(offset, np.frombuffer(template, np.int32, 1, offset)[0]) for offset in offsets]


def _offset(dtype: np.dtype[np.void], field: str) -> int:
    fields = dtype.fields
    assert fields is not None  # noqa: S101 - it is a structured type
    return int(fields[field][1])


def _rows_of(messages: list[bytes | bytearray | memoryview]) -> list[bytes | bytearray | memoryview]:
    """The messages that are rows, without header and trailer."""
    if not messages or bytes(messages[0][: len(HEADER)]) != HEADER or bytes(messages[-1][-2:]) != TRAILER:
        raise ValueError("not a complete binary COPY stream")
    messages[0] = messages[0][len(HEADER) :]
    messages[-1] = messages[-1][: -len(TRAILER)]
    # The header comes with the first row, or alone where there is none; the trailer may come alone.
    return [message for message in messages[:1] if message] + messages[1:-1] + [m for m in messages[1:][-1:] if m]
