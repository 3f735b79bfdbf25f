"""Columns out of PostgreSQL: a query gathers each column of many rows into one array, and numpy reads it where it lies.

A COPY OUT of rows costs the server a message, and the client a call and an object, for each of them: gathered into
groups of rows whose arrays are equally long, the same values cost both together half. In a group an array column of n
rows becomes one array of n by its length.

    SELECT cardinality(ids), array_agg(cash), array_agg(ids) FROM … GROUP BY 1

Format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format) and `array_send`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.copy_codec import HEADER, TRAILER, Column

Message = bytes | memoryview

_ARRAY_HEAD = struct.Struct(">iii")
_SIZE = struct.Struct(">i")
_FIELDS = struct.Struct(">h")


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """n gathered rows whose arrays are equally long.

    Attributes:
        keys: what they were grouped by.
        values: native-endian arrays by column: (n,) of a scalar, (n, length) of an array.
    """

    keys: tuple[int, ...]
    values: dict[str, NDArray[Any]]


def gathered(columns: Sequence[Column], prefix: str = "") -> str:
    """The select list that gathers `columns`; `prefix` qualifies them."""
    return ", ".join(f"array_agg({prefix}{column.name})" for column in columns)


def read_groups(messages: Sequence[Message], columns: Sequence[Column], keys: int = 0) -> list[ColumnGroup]:
    """The groups of a whole COPY OUT of `keys` integers and then `gathered(columns)`; those without a row are left out.

    Args:
        messages: as they come from the server: the header before the first row, one row a message, the trailer last.

    Raises:
        ValueError: the stream is no such COPY, a value or an element of an array is NULL, or arrays of a group have
            several dimensions.
    """
    groups = []
    for row in copy_rows(messages):
        fields = row_fields(row)
        if len(fields) != keys + len(columns):
            raise ValueError(f"a row has {len(fields)} fields, expected {keys + len(columns)}")
        if any(fields[keys:]):
            values = {column.name: _array(column, field) for column, field in zip(columns, fields[keys:], strict=True)}
            groups.append(ColumnGroup(tuple(int.from_bytes(key, "big", signed=True) for key in fields[:keys]), values))
    return groups


def copy_rows(messages: Sequence[Message]) -> list[memoryview]:
    """The rows of a whole COPY OUT in binary format, without header and trailer.

    Raises:
        ValueError: it is not whole.
    """
    if not messages or messages[0][: len(HEADER)] != HEADER or messages[-1][-len(TRAILER) :] != TRAILER:
        raise ValueError("not a complete binary COPY stream")
    parts = [memoryview(message) for message in messages]
    # The header comes with the first row, or alone where there is none; the trailer may come alone.
    parts[0] = parts[0][len(HEADER) :]
    parts[-1] = parts[-1][: -len(TRAILER)]
    return [part for part in parts if part]


def row_fields(row: memoryview) -> list[memoryview]:
    """The fields of one row; NULL is empty."""
    (count,), position = _FIELDS.unpack_from(row, 0), _FIELDS.size
    fields = []
    for _ in range(count):
        (size,), position = _SIZE.unpack_from(row, position), position + _SIZE.size
        fields.append(row[position : position + max(size, 0)])
        position += max(size, 0)
    if position != len(row):
        raise ValueError("a row is longer than its fields: not one row a message")
    return fields


def _array(column: Column, field: memoryview) -> NDArray[Any]:
    if len(field) < _ARRAY_HEAD.size:
        raise ValueError(f"column {column.name}: no array")
    dimensions, nulls, oid = _ARRAY_HEAD.unpack_from(field, 0)
    if oid != column.type.oid:
        raise ValueError(f"column {column.name}: elements of another type than expected")
    if nulls or dimensions != 1 + column.is_array:
        raise ValueError(f"column {column.name}: NULL, or arrays of several dimensions")
    bounds = struct.unpack_from(f">{2 * dimensions}i", field, _ARRAY_HEAD.size)
    items = np.frombuffer(field, dtype=column.type.item, offset=_ARRAY_HEAD.size + 8 * dimensions)
    return items["value"].astype(np.dtype(column.type.wire).newbyteorder("=")).reshape(bounds[::2])
