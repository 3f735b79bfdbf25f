"""How the PostgreSQL server is doing: connections, statements that take long, sessions that wait."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

STATES = ("active", "idle", "idle in transaction", "idle in transaction (aborted)")
"""A session's states; anything else counts as `other`."""

# Of another user's sessions an ordinary user is not told the state.
_CONNECTIONS = text(
    """
    SELECT CASE WHEN state = ANY(:states) THEN state ELSE 'other' END AS state, count(*) AS connections
    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1
    """
)
_LIMIT = text(
    "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0)"
)
_STATEMENTS = text(
    """
    SELECT count(*) FILTER (WHERE clock_timestamp() - query_start > interval '5 seconds') AS slow,
        coalesce(extract(epoch FROM max(clock_timestamp() - query_start))::float, 0) AS longest,
        count(*) FILTER (WHERE wait_event_type = 'Lock') AS waiting
    FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND backend_type = 'client backend'
      AND pid <> pg_backend_pid()
    """
)


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """`connections` by state, of all databases; `limit`: how many ordinary users may have.

    Of our database: `slow` statements have run for over 5 s, the `longest` for so many seconds; `waiting`: for a lock.
    """

    connections: dict[str, int]
    limit: int
    slow: int
    longest: float
    waiting: int


def server_metrics(session: Session) -> ServerMetrics:
    """Ask the server about itself."""
    found = {row.state: row.connections for row in session.execute(_CONNECTIONS, {"states": list(STATES)})}
    statements = session.execute(_STATEMENTS).one()
    return ServerMetrics(
        connections={state: found.get(state, 0) for state in (*STATES, "other")},
        limit=session.execute(_LIMIT).scalar_one(),
        slow=statements.slow,
        longest=statements.longest,
        waiting=statements.waiting,
    )
