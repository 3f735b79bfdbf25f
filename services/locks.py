"""PostgreSQL advisory locks, by purpose. The upper bits name the purpose, so that keys of two purposes never meet.

- A **batch** lock is held by a session: it is the lease of whoever works on the batch. It is taken before the attempt
  is counted, survives the claim's commit, and dies with the worker's connection.
- A **granule** lock covers 256 users within one transaction. Nightly batches of different users share granules and
  must not wait for each other, so they lock in shared mode; whoever replaces days locks exclusively.
- The **planning**, **tick**, **prices**, **relay** and **backup** locks make those single-file; relay's for ad-hoc work
  alone.
"""

from __future__ import annotations

import psycopg

_PURPOSE = 56
_BATCH, _GRANULE, _SINGLE = (purpose << _PURPOSE for purpose in (1, 2, 3))
PLANNING_LOCK = _SINGLE | 1
TICK_LOCK = _SINGLE | 2
PRICES_LOCK = _SINGLE | 3
RELAY_LOCK = _SINGLE | 4
LEADERBOARD_LOCK = _SINGLE | 5
BACKUP_LOCK = _SINGLE | 6
GRANULE_USERS = 256

Connection = psycopg.Connection[tuple[object, ...]]


# A worker that is stopped between two transactions holds its lease too: until it gives it back, its session may be idle
# no longer than inside of a transaction. Afterwards it may wait in the pool.
_LOCK_BATCH = """
SELECT pg_try_advisory_lock(%s),
    set_config('idle_session_timeout', current_setting('idle_in_transaction_session_timeout'), false)
"""
_UNLOCK_BATCH = "SELECT pg_advisory_unlock(%s), set_config('idle_session_timeout', '0', false)"


def try_lock_batch(connection: Connection, batch_id: int) -> bool:
    """Take the lease of a batch for this session, or say at once that somebody else has it."""
    row = connection.execute(_LOCK_BATCH, (_BATCH | batch_id,)).fetchone()
    return row is not None and row[0] is True


def unlock_batch(connection: Connection, batch_id: int) -> None:
    """Give the lease back; the connection may then serve another batch."""
    connection.execute(_UNLOCK_BATCH, (_BATCH | batch_id,))


# Which users exist takes a scan of them: longer than to lock a few granules in which there is nobody.
_MANY_GRANULES = 64
_ALL_GRANULES = "SELECT generate_series(%(first)s::bigint, %(last)s::bigint) AS granule"
_GRANULES_IN_USE = (
    "SELECT DISTINCT id / %(size)s AS granule FROM users WHERE id >= %(lo)s AND id < %(hi)s ORDER BY granule OFFSET 0"
)


def lock_granules(connection: Connection, user_lo: int, user_hi: int, *, exclusive: bool) -> None:
    """Lock the granules of the users `[user_lo, user_hi)`, in ascending order, until the transaction ends.

    The order is what keeps two overlapping batches from a deadlock. Where ids are sparse, only existing users are
    looked at: such a range can span more granules than there are locks.
    """
    function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    first, last = user_lo // GRANULE_USERS, (user_hi - 1) // GRANULE_USERS
    granules = _ALL_GRANULES if last - first < _MANY_GRANULES else _GRANULES_IN_USE
    values = {
        "purpose": _GRANULE, "first": first, "last": last, "lo": user_lo, "hi": user_hi, "size": GRANULE_USERS
    }  # fmt: skip
    # Two constants each; the values are bound.
    connection.execute(f"SELECT {function}(%(purpose)s::bigint | granule) FROM ({granules}) AS granules", values)  # noqa: S608


_GRANULES_OF_RUN = (
    "SELECT DISTINCT user_id / %(size)s AS granule FROM run_simulations"
    " WHERE run_id = %(run)s AND user_id >= %(lo)s AND user_id < %(hi)s ORDER BY granule OFFSET 0"
)


def lock_granules_of_run(connection: Connection, run_id: int, user_lo: int, user_hi: int) -> None:
    """Lock, exclusively and as `lock_granules` does, the granules of those of the users that are in a run's scope."""
    values = {"purpose": _GRANULE, "run": run_id, "lo": user_lo, "hi": user_hi, "size": GRANULE_USERS}
    connection.execute(
        f"SELECT pg_advisory_xact_lock(%(purpose)s::bigint | granule) FROM ({_GRANULES_OF_RUN}) AS granules",  # noqa: S608
        values,
    )


HELD_BATCHES = f"""
SELECT ((classid::bigint << 32) | objid::bigint) - {_BATCH} AS batch_id
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND classid::bigint >> 24 = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - our own constant
"""SQL: ids of the batches whose lease somebody holds. A bigint key shows in pg_locks as two halves with objsubid 1."""
