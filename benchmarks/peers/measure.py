"""What Nightshift is compared with: two peers and the ceiling of Celery, on the same machine, data and servers.

The peers advance the first users of the same seeded database through the same nights, the first of which only warms up,
and in the end their rows and trades must be Nightshift's. Behind each night of Nightshift come the peers' and the empty
tasks, and each ratio is one of neighbours, because a machine differs from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import text

from benchmarks.figures import Spread, spread
from benchmarks.night import MAX_NIGHTS
from benchmarks.nights import run_nights, watched_stack
from benchmarks.peers.pool import Pool
from benchmarks.peers.tables import NIGHTSHIFT, check_same, digest_of_users, make_peer_tables
from benchmarks.peers.tasks import NOTHING, SCHEMAS, USER, USERS
from benchmarks.site import Site, bench_site, prepare, tidy
from core.errors import NightshiftError, UsageError
from core.settings import Settings

TASK_USERS = 100
# So that what is faster takes about as long: some seconds, of which a poll is a small part.
_MORE_USERS, _MORE_TASKS = 10, 2

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Peers:
    """Where the peers work, and how many users each of them advances."""

    site: Site
    pool: Pool
    users: int
    users_by_100: int
    tell: Tell


@dataclass(frozen=True, slots=True)
class _Round:
    """What one night showed, each a number in a second: users, and tasks."""

    nightshift: float
    per_user: float
    per_100_users: float
    empty: float


def measure_peers(
    *, users: int, peer_users: int, nights: int, workers: int, settings: Settings, tell: Tell = lambda _: None
) -> dict[str, Any]:
    """Nightshift's users per second on `users` users, the peers' on the first `peer_users` of them, and their ratios.

    The peer that takes a hundred users at a time advances ten times as many; all users, where there are fewer.

    Returns:
        Plain values; what is measured in each night as {"min", "median", "max"}.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well, or a peer computed something else than Nightshift.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=nights + 1)
        days = [first + timedelta(days=offset) for offset in range(nights + 1)]
        for schema in SCHEMAS.values():
            make_peer_tables(site.urls.database_url, schema, days)
        with watched_stack(site) as watched, Pool(site.settings, site.urls) as pool:
            peers = _Peers(site, pool, min(peer_users, users), min(peer_users * _MORE_USERS, users), tell)
            rounds = [
                _Round(
                    night.users / night.total,
                    _peer_night(peers, USER, peers.users, 1, night.day),
                    _peer_night(peers, USERS, peers.users_by_100, TASK_USERS, night.day),
                    _empty_tasks(peers),
                )
                for night in run_nights(watched, days, tell)
            ]
        digest = _check_same(peers, days[-1])
    counts = {"users": users, "peer_users": peers.users, "peer_users_by_100": peers.users_by_100}
    return counts | {"nights": nights, "workers": workers} | _figures(rounds[1:]) | digest


def _figures(rounds: Sequence[_Round]) -> dict[str, Spread]:
    return {
        "nightshift_users_per_second": spread((each.nightshift for each in rounds), 0),
        "task_per_user_users_per_second": spread((each.per_user for each in rounds), 1),
        "task_per_100_users_users_per_second": spread((each.per_100_users for each in rounds), 1),
        "empty_tasks_per_second": spread((each.empty for each in rounds), 1),
        "ratio_to_task_per_user": spread((each.nightshift / each.per_user for each in rounds), 2),
        "ratio_to_task_per_100_users": spread((each.nightshift / each.per_100_users for each in rounds), 2),
        "ratio_to_empty_tasks": spread((each.nightshift / each.empty for each in rounds), 2),
    }


def _peer_night(peers: _Peers, task: str, users: int, at_once: int, day: date) -> float:
    """Run one night of one peer; its users per second."""
    rows = text(f"SELECT count(*) FROM {SCHEMAS[task]}.portfolio_days WHERE day = :day")  # noqa: S608 - a name of ours

    def complete() -> bool:
        with peers.site.engine.connect() as connection:
            return bool(connection.scalar(rows, {"day": day}) == users)

    seconds = peers.pool.run(task, _calls(task, users, at_once, day), complete)
    tidy(peers.site.engine, f"{SCHEMAS[task]}.portfolio_days, {SCHEMAS[task]}.trades")
    peers.tell(f"  {'a task a user' if at_once == 1 else f'{at_once} a task'}: {users:,} users in {seconds:.2f} s")
    return users / seconds


def _calls(task: str, users: int, at_once: int, day: date) -> Iterable[Mapping[str, Any]]:
    if task == USER:
        return [{"user_id": user, "day": day.isoformat()} for user in range(1, users + 1)]
    return [
        {"first_user": first, "last_user": min(first + at_once - 1, users), "day": day.isoformat()}
        for first in range(1, users + 1, at_once)
    ]


def _empty_tasks(peers: _Peers) -> float:
    """How many tasks a second Celery runs that do nothing: whatever a task is for, no more of them can be done."""
    count = peers.users * _MORE_TASKS
    seconds = peers.pool.run(NOTHING, [{"number": number} for number in range(count)], lambda: True)
    peers.tell(f"  {count:,} empty tasks in {seconds:.2f} s")
    return count / seconds


def _check_same(peers: _Peers, day: date) -> dict[str, Any]:
    """Compare all rows and trades, and the digests of the last day: of the users that all three have advanced."""
    url = peers.site.urls.database_url
    for task, users in ((USER, peers.users), (USERS, peers.users_by_100)):
        check_same(url, SCHEMAS[task], users)
    schemas = (NIGHTSHIFT, *SCHEMAS.values())
    digests = {schema: digest_of_users(url, schema, peers.users, day) for schema in schemas}
    if len(set(digests.values())) != 1:
        raise NightshiftError(f"the digests of {day} differ: {digests}")
    return {"digests_equal": True, "digest": digests[NIGHTSHIFT]}
