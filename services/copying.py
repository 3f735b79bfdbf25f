"""COPY over the connection of a batch: rows out as messages, blocks of rows in.

psycopg's own `Copy` awaits every row through Python; a worker has nothing else to do meanwhile, so it asks libpq
directly and blocks there. Of a COPY OUT, libpq hands over one message a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus

from models.copy_codec import HEADER, TRAILER
from services.locks import Connection

_END_OF_COPY = -1


def copy_out(connection: Connection, query: str) -> list[memoryview]:
    """The messages of `COPY (query) TO STDOUT (FORMAT BINARY)`; within a transaction of the caller's.

    Raises:
        psycopg.Error: as any other statement.
    """
    libpq = connection.pgconn
    started = libpq.exec_(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode())
    if started.status != ExecStatus.COPY_OUT:
        raise errors.error_from_result(started)
    messages: list[memoryview] = []
    receive, keep = libpq.get_copy_data, messages.append
    size, message = receive(0)
    while size > 0:
        keep(message)
        size, message = receive(0)
    if size != _END_OF_COPY:
        raise psycopg.OperationalError(libpq.get_error_message())
    failed = None
    while (ended := libpq.get_result()) is not None:
        if ended.status == ExecStatus.FATAL_ERROR:
            failed = ended
    if failed is not None:
        raise errors.error_from_result(failed)
    return messages


def copy_in(connection: Connection, table: str, columns: str, blocks: Iterable[memoryview | bytes]) -> None:
    """Append blocks of encoded rows to `table`."""
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.write(HEADER)
        for block in blocks:
            copy.write(block)
        copy.write(TRAILER)
