"""Rows into PostgreSQL in the binary COPY format, without Python work per value.

Rows whose arrays have equal lengths have equal bytes everywhere but in their values, so one structured dtype describes
them all: a template is repeated, and the values are assigned column by column.

Format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format) and each type's `receive` function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

Layout = tuple[int, ...]
"""For each column its number of elements; a scalar's is 1."""

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

    @property
    def item(self) -> np.dtype[np.void]:
        """How it lies in an array: its size, then its value."""
        return _item(self.wire)


INT2 = ColumnType(21, ">i2")
INT4 = ColumnType(23, ">i4")
INT8 = ColumnType(20, ">i8")
FLOAT8 = ColumnType(701, ">f8")
DATE = ColumnType(1082, ">i4")
"""Days since 2000-01-01."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a scalar, or a one-dimensional array without NULL elements."""

    name: str
    type: ColumnType
    is_array: bool = False


class RowFormat:
    """The columns of one COPY, in order."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)

    @property
    def names(self) -> str:
        """The columns as a list for SQL."""
        return ", ".join(column.name for column in self.columns)

    def encode(self, values: Mapping[str, NDArray[Any]]) -> memoryview:
        """Rows as bytes, without header and trailer.

        Args:
            values: for each column (n,) of a scalar or (n, length) of an array; all n equal. Integers and floats are
                cast to the column's type; a value that does not fit it must not be passed.
        """
        layout = tuple(values[c.name].shape[1] if c.is_array else 1 for c in self.columns)
        # Repeating the template's bytes is a memcpy; assigning it as a record goes field by field.
        blank = bytearray(_template(self.columns, layout) * len(values[self.columns[0].name]))
        rows = np.frombuffer(blank, dtype=_dtype(self.columns, layout))
        for column, length in zip(self.columns, layout, strict=True):
            if not column.is_array:
                rows[column.name] = values[column.name]
            elif length:
                rows[column.name]["items"]["value"][...] = values[column.name]
        return memoryview(blank)


@lru_cache(maxsize=16)
def _item(wire: str) -> np.dtype[np.void]:
    return np.dtype([("size", ">i4"), ("value", wire)])


@lru_cache(maxsize=512)
def _dtype(columns: tuple[Column, ...], layout: Layout) -> np.dtype[np.void]:
    fields: list[Any] = [("fields", ">i2")]
    for column, length in zip(columns, layout, strict=True):
        fields.append((f"{column.name} size", ">i4"))
        if not column.is_array:
            fields.append((column.name, column.type.wire))
        elif length == 0:
            fields.append((column.name, _EMPTY_HEAD))
        else:
            fields.append((column.name, [*_ARRAY_HEAD, ("items", column.type.item, (length,))]))
    return np.dtype(fields)


@lru_cache(maxsize=512)
def _template(columns: tuple[Column, ...], layout: Layout) -> bytes:
    """A row of `layout` whose values are 0."""
    row = np.zeros(1, dtype=_dtype(columns, layout))
    row["fields"] = len(columns)
    for column, length in zip(columns, layout, strict=True):
        size, width = f"{column.name} size", column.type.width
        if not column.is_array:
            row[size] = width
        elif length == 0:
            row[size] = np.dtype(_EMPTY_HEAD).itemsize
            row[column.name]["oid"] = column.type.oid
        else:
            row[size] = _ARRAY_HEAD_BYTES + length * (4 + width)
            array = row[column.name]
            array["ndim"], array["oid"], array["dim"], array["lower"] = 1, column.type.oid, length, 1
            array["items"]["size"] = width
    return row.tobytes()
