"""What an operator's question is answered from: the same figures as the exporter's, read at once and without it.

One transaction of the database; Redis and the disk besides. Redis may be away: then its part is missing and the reason
is there. The sums over all batches that ever ended are left out, because they cost a look at all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import ServerUnreachableError
from core.settings import Settings
from services.metrics_backups import BackupMetrics, backup_metrics
from services.metrics_night import NightMetrics, night_metrics
from services.metrics_outbox import OutboxMetrics, outbox_metrics
from services.metrics_prices import PriceMetrics, price_metrics
from services.metrics_redis import RedisServer, oldest_unacked, redis_server
from services.metrics_runs import RunMetrics, run_metrics
from services.metrics_server import ServerMetrics, server_metrics
from services.queue_state import queue_lengths, redis_client, unacked
from services.worker_registry import WorkersState, workers_state

_TICK = text("SELECT last_run_at, coalesce(last_error, last_result) AS result FROM beat_ticks WHERE name = 'tick'")
_PUT_BACK = text("SELECT name, last_run_at FROM beat_ticks WHERE starts_with(name, 'put_back:')")


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What Redis says. By queue: messages that wait, that a worker has taken, and how long ago the oldest of these.

    `registry`: who answered the exporter lately; None if no exporter has asked for half a minute.
    """

    waiting: dict[str, int]
    taken: dict[str, int]
    oldest_taken: dict[str, float]
    server: RedisServer
    registry: WorkersState | None


@dataclass(frozen=True, slots=True)
class Observed:
    """One reading.

    Attributes:
        served: how many groups of workers answered just now, by queue; None: Redis is away, and nobody could.
        broker: None if Redis is away; then `redis_error` says why, in one line.
        put_back: when the reconciler last put batches back, by cause.
        disk_used: the share of the disk below the home that is in use, 0 to 1.
        visibility_timeout: seconds.
    """

    now: datetime
    night: NightMetrics
    runs: RunMetrics
    prices: PriceMetrics
    outbox: list[OutboxMetrics]
    backups: BackupMetrics
    database: ServerMetrics
    put_back: dict[str, datetime]
    last_tick: datetime | None
    last_tick_result: str | None
    broker: BrokerState | None
    redis_error: str | None
    served: Mapping[str, int] | None
    disk_used: float
    visibility_timeout: float


def observe(
    session: Session, redis_url: str, served: Mapping[str, int] | None, *, now: datetime, settings: Settings
) -> Observed:
    """Read it all; `served` is what workers said of themselves."""
    broker, error = _broker(redis_url)
    tick = session.execute(_TICK).one_or_none()
    return Observed(
        now=now,
        night=night_metrics(session, now=now, settings=settings),
        runs=run_metrics(session, now=now),
        prices=price_metrics(session, settings),
        outbox=outbox_metrics(session, settings),
        backups=backup_metrics(session, settings),
        database=server_metrics(session),
        put_back={row.name.partition(":")[2]: row.last_run_at for row in session.execute(_PUT_BACK)},
        last_tick=tick.last_run_at if tick else None,
        last_tick_result=tick.result if tick else None,
        broker=broker,
        redis_error=error,
        served=None if broker is None else served,
        disk_used=_disk_used(settings.nightshift_home()),
        visibility_timeout=settings.visibility_timeout,
    )


def _broker(redis_url: str) -> tuple[BrokerState | None, str | None]:
    try:
        with redis_client(redis_url) as client:
            return (
                BrokerState(
                    waiting={str(queue): length for queue, length in queue_lengths(client).items()},
                    taken={str(queue): length for queue, length in unacked(client).items()},
                    oldest_taken={str(queue): age for queue, age in oldest_unacked(client).items()},
                    server=redis_server(client),
                    registry=workers_state(client),
                ),
                None,
            )
    except ServerUnreachableError as error:
        return None, str(error)


def _disk_used(home: Path) -> float:
    """Of the disk where the home is, or will be."""
    while not home.exists():
        home = home.parent
    usage = shutil.disk_usage(home)
    return 1 - usage.free / usage.total
