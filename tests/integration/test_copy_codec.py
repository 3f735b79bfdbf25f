"""The binary codec against psycopg's own encoding, and against the server itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Float8, Int2, Int4, Int8

from models.copy_codec import DATE, FLOAT8, HEADER, INT2, INT4, INT8, TRAILER, Column, RowFormat

FORMAT = RowFormat(
    (
        Column("small", INT2),
        Column("day", DATE),
        Column("number", INT4),
        Column("big", INT8),
        Column("real", FLOAT8),
        Column("ids", INT4, is_array=True),
        Column("amounts", INT8, is_array=True),
    )
)
EPOCH = date(2000, 1, 1)
INT8S = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.tuples(
        st.integers(-(2**15), 2**15 - 1),
        st.integers(0, 40_000),
        st.integers(-(2**31), 2**31 - 1),
        INT8S,
        st.floats(allow_nan=False),
        st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        st.lists(INT8S, max_size=4),
    ),
    max_size=12,
)
Row = tuple[int, int, int, int, float, list[int], list[int]]


@pytest.fixture(scope="module")
def connection(servers: object) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session with a table of FORMAT's columns."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:  # type: ignore[attr-defined]
        connection.execute(
            "CREATE TEMP TABLE codec (n serial, small int2, day date, number int4, big int8, real float8,"
            " ids int4[], amounts int8[])"
        )
        yield connection


def encode(rows: Sequence[Row]) -> bytes:
    """The rows one by one: each may have a layout of its own."""
    blocks = []
    for small, day, number, big, real, ids, amounts in rows:
        values = {
            "small": np.array([small]),
            "day": np.array([day]),
            "number": np.array([number]),
            "big": np.array([big]),
            "real": np.array([real]),
            "ids": np.array([ids], dtype=np.int32).reshape(1, -1),
            "amounts": np.array([amounts], dtype=np.int64).reshape(1, -1),
        }
        blocks.append(bytes(FORMAT.encode(values)))
    return b"".join(blocks)


def psycopg_encodes(row: Row) -> bytes:
    """What psycopg writes for the row in a binary COPY."""
    small, day, number, big, real, ids, amounts = row
    transformer = Transformer()
    values = [
        Int2(small), EPOCH + timedelta(days=day), Int4(number), Int8(big), Float8(real),
        [Int4(x) for x in ids], [Int8(x) for x in amounts],
    ]  # fmt: skip
    result = len(values).to_bytes(2, "big")
    for value in values:
        data = bytes(transformer.get_dumper(value, PyFormat.BINARY).dump(value) or b"")
        result += len(data).to_bytes(4, "big") + data
    return result


@given(ROWS.filter(lambda rows: all(row[5] and row[6] for row in rows)))
def test_it_writes_what_psycopg_writes(rows: list[Row]) -> None:
    assert encode(rows) == b"".join(psycopg_encodes(row) for row in rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ROWS)
def test_the_server_takes_and_gives_back_every_value(
    connection: psycopg.Connection[tuple[object, ...]], rows: list[Row]
) -> None:
    names = ", ".join(column.name for column in FORMAT.columns)
    connection.execute("TRUNCATE codec")
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY codec ({names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.write(HEADER)
            copy.write(encode(rows))
            copy.write(TRAILER)
        stored = cursor.execute(f"SELECT {names} FROM codec ORDER BY n".encode()).fetchall()
        expected = [(row[0], EPOCH + timedelta(days=row[1]), *row[2:]) for row in rows]
        assert stored == expected
        with cursor.copy(f"COPY (SELECT {names} FROM codec ORDER BY n) TO STDOUT (FORMAT BINARY)".encode()) as copy:
            groups = FORMAT.decode(copy)
    found: dict[int, Row] = {}
    for group in groups:
        columns = [group.values[column.name].tolist() for column in FORMAT.columns]
        found |= dict(zip(group.rows.tolist(), zip(*columns, strict=True), strict=True))
    assert [found[n] for n in range(len(rows))] == rows


def test_null_and_irregular_arrays_are_told_apart(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("TRUNCATE codec")
    connection.execute(
        "INSERT INTO codec (small, day, number, big, real, ids, amounts) VALUES"
        " (1, '2024-01-01', 1, 1, 1, '{1,2}', '{1}'), (2, '2024-01-01', 2, 2, 2, '{1,NULL}', '{2}'),"
        " (3, '2024-01-01', 3, 3, 3, '{{1,2}}', '{3}'), (4, '2024-01-01', NULL, 4, 4, '{4,4}', '{4}'),"
        " (5, '2024-01-01', 5, 5, 5, '[0:1]={1,2}', '{5}'), (6, '2024-01-01', 6, 6, 6, '{6,6}', '{6}')"
    )
    names = ", ".join(column.name for column in FORMAT.columns)
    query = f"COPY (SELECT {names} FROM codec ORDER BY n) TO STDOUT (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        groups = FORMAT.decode(copy)
    kind = {
        int(small): ("opaque" if "ids" in group.opaque else "null" if "number" not in group.values else "plain")
        for group in groups
        for small in group.values["small"]
    }
    assert kind == {1: "plain", 2: "opaque", 3: "opaque", 4: "null", 5: "plain", 6: "plain"}


@pytest.mark.parametrize("damage", [b"", HEADER, HEADER + b"\x00", b"PGCOPY" + bytes(13) + TRAILER])
def test_a_stream_that_is_cut_off_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="not a complete binary COPY"):
        FORMAT.decode([damage])


def test_rows_of_other_columns_are_refused() -> None:
    row = bytes(RowFormat((Column("a", INT8),)).encode({"a": np.arange(1)}))
    with pytest.raises(ValueError, match="1 fields, expected 7"):
        FORMAT.decode([HEADER + row, TRAILER])
    two = RowFormat((Column("a", INT8), Column("b", INT8)))
    with pytest.raises(ValueError, match="4 bytes, expected 8"):
        two.decode(
            [
                HEADER
                + bytes(
                    RowFormat((Column("a", INT8), Column("b", INT4))).encode({"a": np.arange(1), "b": np.arange(1)})
                ),
                TRAILER,
            ]
        )
