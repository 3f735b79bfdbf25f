"""The peers' Celery app and its tasks: a user's night, a hundred users' night, and nothing at all.

Everything that keeps work from being lost is as in Nightshift's app: late acknowledgement, rejection when a worker is
lost, time limits, timeouts of connections. What would slow down many small messages is not: a process takes some ahead
instead of one, and no events are sent for Flower, which together makes 1.6 times as many empty tasks a second; and
Nightshift's door, which checks every message that arrives, stays away.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Any

import kombu
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks.peers.nights import Night, advance_user, advance_users, load_night
from benchmarks.peers.orm import make_peer_engine
from core.errors import UsageError
from core.settings import Settings, get_settings
from workers.celery_settings import celery_settings, transport_options

QUEUE = "peers"
KEY_PREFIX = "peers:"
NOTHING, USER, USERS = "peers.nothing", "peers.user", "peers.users"
# The schemas with the tables of the two peers.
SCHEMAS = {USER: "peer_user", USERS: "peer_users"}
# Enough to keep a process busy, too few for one worker to take all messages of a hundred users each.
_PREFETCH = 8


def make_peers_app(settings: Settings, redis_url: str) -> Celery:
    """An app on the broker at `redis_url`, with the peers' tasks; it connects when used."""
    app = Celery("peers", set_as_current=False)
    app.conf.update(celery_settings(settings, redis_url) | _own_settings(settings))
    for name, function in ((NOTHING, do_nothing), (USER, do_user), (USERS, do_users)):
        app.task(function, name=name)
    app.finalize()
    return app


def _own_settings(settings: Settings) -> dict[str, Any]:
    return {
        "broker_transport_options": transport_options(settings) | {"global_keyprefix": KEY_PREFIX},
        "task_queues": [kombu.Queue(QUEUE, routing_key=QUEUE)],
        "task_default_queue": QUEUE,
        "task_routes": {},
        "beat_schedule": {},
        "worker_prefetch_multiplier": _PREFETCH,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
    }


def do_nothing(number: int) -> None:
    """What is left of a task when it has nothing to do."""


def do_user(user_id: int, day: str) -> None:
    """The night of one user, in a transaction of its own."""
    with Session(_engine(USER)) as session, session.begin():
        advance_user(session, _night(day), user_id)


def do_users(first_user: int, last_user: int, day: str) -> None:
    """The night of some users, in one transaction."""
    with Session(_engine(USERS)) as session, session.begin():
        advance_users(session, _night(day), first_user, last_user)


@lru_cache
def _engine(task: str) -> Engine:
    # Made when first asked for, by a task: after the fork, and once in each process.
    url = get_settings().database_url
    if url is None:
        raise UsageError("the peers' workers need NIGHTSHIFT_DATABASE_URL: `nightshift bench peers` starts them")
    return make_peer_engine(url.get_secret_value(), SCHEMAS[task])


@lru_cache(maxsize=2)
def _night(day: str) -> Night:
    with Session(_engine(USER)) as session:
        return load_night(session, date.fromisoformat(day), get_settings().max_stale_days)
