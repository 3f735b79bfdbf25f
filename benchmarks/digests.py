"""What digest mails that go out cost a night: nights alone and nights beside mails, in turn on the same stack.

By the real way: from the outbox through the workers for notifications to a mail server, with everybody's figures and
picture, and without the limit that spreads mails over minutes. A night beside them begins when the first are out, and
leaves as many new ones behind, which is part of what it costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from benchmarks.figures import spread
from benchmarks.mail_server import MailServer, mail_server
from benchmarks.nights import Watched, run_night, watched_stack
from benchmarks.site import bench_site, prepare, tidy
from core.database import session_scope
from core.errors import NightshiftError, UsageError
from core.queues import Queue
from core.settings import Settings
from models.partitions import day_partition
from schedules.beat import DELIVER, schedules
from services.notify_digests import plan_digests
from workers.app import make_app

MAX_NIGHTS = 100
_FIRST_MAILS = 10
_POLL_SECONDS = 0.05
_LONGEST_SILENCE = 120.0


@dataclass(slots=True)
class _Measured:
    """Seconds of the nights, mails that went out while those beside mails ran, and how fast the others did."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    mails_beside: int = 0
    mails_a_second: list[float] = field(default_factory=list)


def measure_digests(
    *,
    users: int,
    nights: int,
    digests: int,
    workers: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run `nights` nights of `users` users alone, and as many while `digests` mails go out, in turn.

    Raises:
        UsageError: numbers out of range, or aiosmtpd is not installed.
        NightshiftError: a night did not end well, or the mails did not arrive.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    if not _FIRST_MAILS < digests <= users:
        raise UsageError(f"digests must be {_FIRST_MAILS + 1} to {users}, as many as there are users, not {digests}")
    with mail_server() as server:
        changes = {
            "smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_tls": "none", "smtp_from": "bench@example.org",
            "smtp_user": "", "smtp_password": None, "notify_urls": None, "notify_limit": "10000000/minute",
            "notify_user_limit": "1000/day", "notify_secret": SecretStr("bench"), "public_url": "http://127.0.0.1",
        }  # fmt: skip
        with bench_site(settings.model_copy(update=changes), workers) as site:
            tell(f"seeding {users:,} users …")
            first = prepare(site, users=users, nights=2 * nights + 1)
            with site.engine.begin() as connection:
                connection.execute(_ADDRESSES, {"digests": digests})
            tidy(site.engine, "users")
            with watched_stack(site) as watched:
                found = _measure(watched, server, first, nights, digests, tell)
    return {
        "users": users,
        "nights": nights,
        "digests": digests,
        "alone_seconds": spread(found.alone),
        "beside_seconds": spread(found.beside),
        # Each to the one next to it: what else the machine does changes from minute to minute.
        "ratio": spread((beside / alone for alone, beside in zip(found.alone, found.beside, strict=True)), 3),
        "mails": server.taken(),
        "mails_beside_nights": found.mails_beside,
        "mails_a_second": spread(found.mails_a_second, 1),
    }


def _measure(
    watched: Watched, server: MailServer, first: date, nights: int, digests: int, tell: Callable[[str], None]
) -> _Measured:
    found = _Measured()
    engine = watched.site.engine
    for number in range(2 * nights + 1):
        day = first + timedelta(days=number)
        # alone, beside, beside, alone, …: so that neither always comes behind a rest.
        alone = number % 4 < 2
        tidy(engine, "runs, batches, outbox, users")
        if alone:
            seconds = run_night(watched, day).total
            if number:
                found.alone.append(seconds)
        else:
            with _mails_going_out(watched, server, digests) as drained:
                before = server.taken()
                seconds = run_night(watched, day).total
                found.mails_beside += server.taken() - before
                found.beside.append(seconds)
                found.mails_a_second.append(drained())
        kind = "to warm up" if number == 0 else "alone" if alone else f"beside {digests:,} mails"
        tell(f"night {number} {kind}: {seconds:.2f} s")
        tidy(engine, day_partition(day).name)
    return found


@contextmanager
def _mails_going_out(watched: Watched, server: MailServer, digests: int) -> Iterator[Callable[[], float]]:
    """Digests of the newest night go out while the block runs; yields what waits for the rest: mails a second.

    Enters the block when the first have arrived. Those that the night in the block plans are forgotten after it.
    """
    engine, settings = watched.site.engine, watched.site.settings
    with session_scope(engine) as session:
        session.execute(_WANTED, {"wanted": True})
        planned = plan_digests(session, session.execute(_NEWEST).scalar_one(), settings=settings)
    if planned != digests:
        raise NightshiftError(f"{planned} digests were planned, not {digests}")
    tidy(engine, "users, outbox")
    until = server.taken() + digests

    def drained() -> float:
        _wait_for(server, server.taken() + 1)
        before, began = server.taken(), time.perf_counter()
        _wait_for(server, until)
        return (until - before) / (time.perf_counter() - began)

    with _beat(watched):
        _wait_for(server, until - digests + _FIRST_MAILS)
        yield drained
        with engine.begin() as connection:
            connection.execute(_WANTED, {"wanted": False})
            connection.execute(text("DELETE FROM outbox"))
    if server.taken() < until:
        raise NightshiftError(f"{until - server.taken()} of {digests} mails did not arrive")


def _wait_for(server: MailServer, count: int) -> None:
    taken, since = server.taken(), time.monotonic()
    while taken < count:
        time.sleep(_POLL_SECONDS)
        if server.taken() > taken:
            taken, since = server.taken(), time.monotonic()
        elif time.monotonic() - since > _LONGEST_SILENCE:
            raise NightshiftError(f"no mail arrived for {_LONGEST_SILENCE:.0f} s: {count - taken} are missing")


@contextmanager
def _beat(watched: Watched) -> Iterator[None]:
    """Have the workers for notifications look into the outbox, as often as beat does, while the block runs."""
    stop = threading.Event()
    site = watched.site
    (every,) = (each.every.total_seconds() for each in schedules(site.settings) if each.task == DELIVER)
    with make_app(site.settings, site.urls.redis_url) as app:

        def beat() -> None:
            while True:
                app.send_task(DELIVER, queue=Queue.NOTIFICATIONS.value, expires=every)
                if stop.wait(every):
                    return

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


_ADDRESSES = text("UPDATE users SET email = 'user-' || id || '@example.org' WHERE id <= :digests")
_WANTED = text("UPDATE users SET notify = :wanted WHERE email IS NOT NULL")
_NEWEST = text("SELECT id FROM runs WHERE kind = 'nightly' ORDER BY day DESC LIMIT 1")
