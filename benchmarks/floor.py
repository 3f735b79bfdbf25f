"""The floor of a night: the same bytes out of and into PostgreSQL by as many processes, and nothing else.

Each process has a connection of its own and takes every n-th batch. For each it does in one transaction what a worker
does there: the two queries of the batch's state, the two COPYs of its rows into tables with the same keys, the commit.
Nothing is decoded, computed or encoded; the rows to write are those of the night, fetched beforehand.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

import psycopg
from sqlalchemy import Engine, text

from core.errors import NightshiftError
from models.column_reader import copy_rows
from models.copy_codec import RowFormat
from models.partitions import day_partition, month_partition
from models.portfolio_rows import PORTFOLIO_FORMAT, TRADE_FORMAT
from services.copying import copy_in, copy_out
from services.locks import Connection
from services.portfolio_io import GATHER_BY_HASH, frame_queries
from workers.memory import keep_freed_memory

_ROWS, _TRADES = "floor_portfolio_days", "floor_trades"
_PATIENCE = 600.0

Users = tuple[int, int]
"""[lo, hi)"""


@dataclass(frozen=True, slots=True)
class Floor:
    """How long the bytes alone take, and how many they are."""

    seconds: float
    bytes_read: int
    bytes_written: int


def measure_floor(engine: Engine, database_url: str, *, run_id: int, day: date, processes: int) -> Floor:
    """The floor of the run of one night, that of `day`.

    Raises:
        NightshiftError: a process failed.
    """
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT user_lo, user_hi FROM batches WHERE run_id = :run"), {"run": run_id})
        batches = sorted((row.user_lo, row.user_hi) for row in rows)
    spawn = multiprocessing.get_context("spawn")
    together, moved = spawn.Barrier(processes + 1), spawn.SimpleQueue()
    movers = [
        spawn.Process(target=_move, args=(database_url, batches[index::processes], day, together, moved), daemon=True)
        for index in range(processes)
    ]
    with _tables(engine, day):
        try:
            for mover in movers:
                mover.start()
            together.wait(_PATIENCE)
            began = time.perf_counter()
            together.wait(_PATIENCE)
            seconds = time.perf_counter() - began
            counts = [moved.get() for _ in movers]
            return Floor(seconds, sum(read for read, _ in counts), sum(written for _, written in counts))
        except threading.BrokenBarrierError:
            raise NightshiftError("a process that measures the floor failed: its error is above") from None
        finally:
            for mover in movers:
                mover.join(1)
                mover.kill()


@contextmanager
def _tables(engine: Engine, day: date) -> Iterator[None]:
    """Tables like the partitions of a night, attached to nothing."""
    partitions = (replace(day_partition(day), name=_ROWS), replace(month_partition("trades", day), name=_TRADES))
    drop = f"DROP TABLE IF EXISTS {_ROWS}, {_TRADES}"
    with engine.begin() as connection:
        connection.exec_driver_sql(drop)
        for partition in partitions:
            *make, _attach = partition.statements()
            for statement in make:
                connection.exec_driver_sql(statement)
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(drop)


def _move(
    database_url: str, batches: Sequence[Users], day: date, together: Barrier, moved: SimpleQueue[tuple[int, int]]
) -> None:
    """One process: fetch what is to be written, and when all are ready move the bytes of each batch."""
    keep_freed_memory()
    try:
        with psycopg.connect(database_url, autocommit=True) as connection:
            rows = [_fetch(connection, users, day) for users in batches]
            trades = [_fetch_trades(connection, users, day) for users in batches]
            together.wait(_PATIENCE)
            read = sum(map(_move_batch, [connection] * len(batches), batches, [day] * len(batches), rows, trades))
            together.wait(_PATIENCE)
        moved.put((read, sum(map(len, rows)) + sum(map(len, trades))))
    except BaseException:
        # Whatever ended it, the others would wait for it.
        together.abort()
        raise


def _fetch(connection: Connection, users: Users, day: date) -> bytes:
    return _rows_of(connection, "portfolio_days", PORTFOLIO_FORMAT, users, day, "user_id, simulation_id")


def _fetch_trades(connection: Connection, users: Users, day: date) -> bytes:
    return _rows_of(connection, "trades", TRADE_FORMAT, users, day, "user_id, simulation_id, asset_id")


def _rows_of(connection: Connection, table: str, row_format: RowFormat, users: Users, day: date, key: str) -> bytes:
    query = (
        f"SELECT {row_format.names} FROM {table}"  # noqa: S608 - names of ours, integers and a date
        f" WHERE day = '{day}' AND user_id >= {users[0]} AND user_id < {users[1]} ORDER BY {key}"
    )
    return b"".join(copy_rows(copy_out(connection, query)))


def _move_batch(connection: Connection, users: Users, day: date, rows: bytes, trades: bytes) -> int:
    """Read and write what a worker does for a batch; the bytes read."""
    with connection.transaction():
        connection.execute(GATHER_BY_HASH)
        queries = frame_queries(users, day - timedelta(days=1), day)
        read = sum(len(message) for query in queries for message in copy_out(connection, query))
        copy_in(connection, _ROWS, PORTFOLIO_FORMAT.names, [rows])
        if trades:
            copy_in(connection, _TRADES, TRADE_FORMAT.names, [trades])
    return read
