"""Rows in and gathered columns out, against psycopg's own encoding and against the server itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Float8, Int2, Int4, Int8

from models.column_reader import gathered, read_groups
from models.copy_codec import DATE, FLOAT8, HEADER, INT2, INT4, INT8, TRAILER, Column, RowFormat
from services.copying import copy_out

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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_the_server_takes_every_value_and_gives_it_back_gathered(
    connection: psycopg.Connection[tuple[object, ...]], rows: list[Row]
) -> None:
    connection.execute("TRUNCATE codec")
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY codec ({FORMAT.names}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.write(HEADER)
            copy.write(encode(rows))
            copy.write(TRAILER)
        stored = cursor.execute(f"SELECT {FORMAT.names} FROM codec ORDER BY n".encode()).fetchall()
    expected = [(row[0], EPOCH + timedelta(days=row[1]), *row[2:]) for row in rows]
    assert stored == expected
    # PostgreSQL gathers no empty arrays; of ours none is.
    full = [row for row in rows if row[5] and row[6]]
    found = [
        row
        for group in gather(connection, "cardinality(ids) > 0 AND cardinality(amounts) > 0")
        for row in zip(*(group[column.name].tolist() for column in FORMAT.columns), strict=True)
    ]
    assert sorted(found) == sorted(full)


def gather(connection: psycopg.Connection[tuple[object, ...]], where: str) -> list[dict[str, NDArray[Any]]]:
    query = (
        f"SELECT cardinality(ids), cardinality(amounts), {gathered(FORMAT.columns)}"
        f" FROM codec WHERE {where} GROUP BY 1, 2"
    )
    groups = read_groups(copy_out(connection, query), FORMAT.columns, keys=2)
    for group in groups:
        assert group.keys == (group.values["ids"].shape[1], group.values["amounts"].shape[1])
    return [group.values for group in groups]


def test_null_and_irregular_arrays_are_refused(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("TRUNCATE codec")
    connection.execute(
        "INSERT INTO codec (small, day, number, big, real, ids, amounts) VALUES"
        " (1, '2024-01-01', 1, 1, 1, '{1,2}', '{1}'), (2, '2024-01-01', 2, 2, 2, '{1,NULL}', '{2}'),"
        " (3, '2024-01-01', 3, 3, 3, '{{1,2}}', '{3}'), (4, '2024-01-01', NULL, 4, 4, '{4,4}', '{4}')"
    )
    assert [group["ids"].tolist() for group in gather(connection, "small = 1")] == [[[1, 2]]]
    for small in (2, 3, 4):
        with pytest.raises(ValueError, match="NULL, or arrays of several dimensions"):
            gather(connection, f"small = {small}")
    assert gather(connection, "false") == []


@pytest.mark.parametrize("damage", [b"", HEADER, HEADER + b"\x00", b"PGCOPY" + bytes(13) + TRAILER])
def test_a_stream_that_is_cut_off_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="not a complete binary COPY"):
        read_groups([damage], FORMAT.columns)


def test_columns_of_other_types_are_refused(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    messages = copy_out(connection, "SELECT array_agg(n) FROM generate_series(1::bigint, 3) AS n")
    assert read_groups(messages, [Column("n", INT8)])[0].values["n"].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="another type than expected"):
        read_groups(messages, [Column("n", INT4)])
    with pytest.raises(ValueError, match="1 fields, expected 2"):
        read_groups(messages, [Column("n", INT8), Column("m", INT8)])
