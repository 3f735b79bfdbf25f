"""The numbers that the exporter shows, read from the database: they survive restarts and agree with the tables.

All of a scrape are of one moment: one transaction, of one snapshot. What a finished run counted is read once, because
it never changes; so a scrape costs the same after a thousand nights as after one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from time import monotonic

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.errors import ServerUnreachableError
from core.settings import Settings
from services.metrics_backups import BackupMetrics, backup_metrics
from services.metrics_batches import BatchCounts, BatchHistory
from services.metrics_night import NightMetrics, night_metrics
from services.metrics_outbox import OutboxMetrics, outbox_metrics
from services.metrics_prices import PriceMetrics, price_metrics
from services.metrics_runs import RunMetrics, run_metrics
from services.metrics_server import ServerMetrics, server_metrics
from services.reconciler import put_back
from services.scaling_inputs import desired_workers

# An answer that takes longer is no answer: a scrape must not pile up on a database in trouble.
_STATEMENT_TIMEOUT = text("SET LOCAL statement_timeout = '5s'")
_PATIENCE_SECONDS = 2.0
_SIZE_SECONDS = 60.0

_LAST_TICK = text("SELECT last_run_at FROM beat_ticks WHERE name = 'tick'")
# It looks at every file of the database, of which there are thousands.
_SIZE = text("SELECT pg_database_size(current_database())")


@dataclass(frozen=True, slots=True)
class DatabaseMetrics:
    """One reading. `last_tick` is None before the first; `put_back`: batches by cause; `size`: bytes.

    `desired_workers`: by group, empty before the first tick.
    """

    runs: RunMetrics
    night: NightMetrics
    batches: BatchCounts
    put_back: dict[str, int]
    prices: PriceMetrics
    outbox: list[OutboxMetrics]
    backups: BackupMetrics
    server: ServerMetrics
    size: int
    last_tick: datetime | None
    desired_workers: dict[str, int]


class DatabaseReader:
    """Reads them; made once a process, because it remembers what never changes. Threads may share it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._history = BatchHistory()
        self._size: tuple[float, int] | None = None
        self._one_at_a_time = Lock()

    def read(self, now: datetime) -> DatabaseMetrics:
        """Read them all in one transaction.

        Raises:
            ServerUnreachableError: another reading has been waiting for the database for seconds.
            sqlalchemy.exc.SQLAlchemyError: the database is away, too slow, or not migrated.
        """
        if not self._one_at_a_time.acquire(timeout=_PATIENCE_SECONDS):
            raise ServerUnreachableError("the database has not answered the scrape before")
        try:
            with Session(self._engine) as session, session.begin():
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                session.execute(_STATEMENT_TIMEOUT)
                return self._read(session, now)
        finally:
            self._one_at_a_time.release()

    def _read(self, session: Session, now: datetime) -> DatabaseMetrics:
        return DatabaseMetrics(
            runs=run_metrics(session, now=now),
            night=night_metrics(session, now=now, settings=self._settings),
            batches=self._history.read(session),
            put_back=put_back(session),
            prices=price_metrics(session, self._settings),
            outbox=outbox_metrics(session, self._settings),
            backups=backup_metrics(session, self._settings),
            server=server_metrics(session),
            size=self._database_size(session),
            last_tick=session.execute(_LAST_TICK).scalar_one_or_none(),
            desired_workers=desired_workers(session),
        )

    def _database_size(self, session: Session) -> int:
        if self._size is None or monotonic() - self._size[0] > _SIZE_SECONDS:
            self._size = monotonic(), session.execute(_SIZE).scalar_one()
        return self._size[1]
