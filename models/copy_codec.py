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
        rows = np.empty(len(values[self.columns[0].name]), dtype=_dtype(self.columns, layout))
        rows[...] = _template(self.columns, layout)
        for column in self.columns:
            target = rows[column.name]["items"]["value"] if column.is_array and values[column.name].shape[1] else None
            if not column.is_array:
                rows[column.name] = values[column.name]
            elif target is not None:
                target[...] = values[column.name]
        return memoryview(rows.view(np.uint8).data) if len(rows) else memoryview(b"")

    def decode(self, messages: Iterable[bytes | bytearray | memoryview]) -> list[RowGroup]:
        """The rows of a whole COPY OUT, grouped by layout.

        Args:
            messages: what `psycopg.Copy` yields: the header before the first row, one row a message, the trailer last.

        Raises:
            ValueError: the stream is not a binary COPY of these columns.
        """
        parts = list(messages)
        data = np.frombuffer(b"".join(parts), dtype=np.uint8)
        if data[: len(HEADER)].tobytes() != HEADER or data[-2:].tobytes() != TRAILER:
            raise ValueError("not a complete binary COPY stream")
        lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        lengths[0] -= len(HEADER)
        lengths[-1] -= len(TRAILER)
        starts = len(HEADER) + np.cumsum(lengths) - lengths
        kept = lengths > 0
        starts, lengths = starts[kept], lengths[kept]
        groups: list[RowGroup] = []
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            block = data[starts[rows][:, None] + np.arange(length)]
            while len(rows):
                layout = self._layout_of(block[0].tobytes())
                same = self._matches(block, layout)
                same[0] = True
                groups.append(self._group(rows[same], block[same], layout))
                rows, block = rows[~same], block[~same]
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
        """bool (g,), rows of `block` (g, length) whose structural bytes are those of `layout`."""
        template = np.frombuffer(_template(self.columns, layout).tobytes(), dtype=np.uint8)
        where = _structural_bytes(self.columns, layout)
        return np.asarray((block[:, where] == template[where]).all(axis=1))

    def _group(self, rows: NDArray[np.intp], block: NDArray[np.uint8], layout: Layout) -> RowGroup:
        records = np.ascontiguousarray(block).view(_dtype(self.columns, layout))[:, 0]
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
    if dimensions == 1 and flags == 0 and _int(row, position + 16, 4) == 1:
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
def _structural_bytes(columns: tuple[Column, ...], layout: Layout) -> NDArray[np.intp]:
    """Positions of the bytes that are the same in every row of `layout`."""
    marks = np.ones(_dtype(columns, layout).itemsize, dtype=np.bool_)
    values = marks.view(_dtype(columns, layout))
    for column, length in zip(columns, layout, strict=True):
        if length == NULL:
            continue
        if length <= OPAQUE or not column.is_array:
            values[column.name] = np.zeros(1, dtype=values[column.name].dtype)
        elif length:
            values[column.name]["items"]["value"] = 0
    return np.flatnonzero(marks)
