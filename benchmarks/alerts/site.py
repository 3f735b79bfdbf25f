"""Where alerts are provoked: servers, a stack, Prometheus and Alertmanager of its own, thirty times as fast.

One factor, `FASTER`, divides every `for` and every threshold in seconds of the rules; the settings that shorten
Nightshift's own times go with it. Nights fall due every thirty seconds, so there is always a next one.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import TypeVar

import httpx
import psycopg
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.alerts.stubs import CODE, SYMBOL, Stub
from benchmarks.market import write_market
from benchmarks.site import ASSETS
from core.clock import utc_now
from core.database import make_engine, session_scope
from core.errors import NightshiftError
from core.settings import Settings, get_settings
from models.migrate import migrate
from schedules.calendar import due_at
from services.following import Wanted, follow
from services.prices import import_closes
from services.seeding import seed
from workers.embedded import EmbeddedServers, ServerUrls
from workers.monitoring import Monitoring, Pace
from workers.ports import choose_port
from workers.stack import Stack

FASTER = 30.0
INTERVAL_SECONDS = 1
NIGHT_EVERY = timedelta(seconds=30)
USERS = 150
DAYS = 120
_PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.1
_HOME_MIB = 512
# A crash of a server is not one of the machine; and few connections are soon used up.
_POSTGRES = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "max_connections": "60"}
# A trigger that is there from the start, and does nothing until it is told to: to make one would wait for a night. An
# error of the system, not of a user, fails a batch and blames nobody.
_IN_THE_WAY = """
    CREATE TABLE in_the_way (refused_users int, seconds float);
    INSERT INTO in_the_way VALUES (0, 0);
    CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE told in_the_way;
    BEGIN
        SELECT * INTO told FROM in_the_way;
        IF told.seconds > 0 THEN PERFORM pg_sleep(told.seconds); END IF;
        IF NEW.user_id <= told.refused_users THEN RAISE EXCEPTION 'refused' USING ERRCODE = '42501'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER in_the_way BEFORE INSERT ON portfolio_days FOR EACH ROW EXECUTE FUNCTION in_the_way()
"""
_SHORT = {
    "tick_seconds": 0.5, "overdue_seconds": 20.0, "visibility_timeout": 15,
    "soft_time_limit": 10, "hard_time_limit": 14,
    "night_deadline_minutes": 0.5, "dev_night_every": NIGHT_EVERY, "batch_users": 1, "workers": 2, "catch_up_days": 14,
    "price_sources": "binance", "price_window_seconds": 10, "price_fill_days": 0, "notify_retry_seconds": 1.0,
    "database_url": None, "redis_url": None, "cache_url": None, "log_format": "json", "log_level": "info",
    "prometheus_port": 0, "alertmanager_port": 0, "keep_days": 36_500,
    # Nobody is to be quarantined because his worker was killed a few times.
    "max_attempts": 20,
}  # fmt: skip

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(slots=True)
class Site:
    """Everything that a scenario may break, and `cleanup` for what it leaves.

    `last_day`: the day whose closes are not imported, but in `last_closes`.
    """

    settings: Settings
    servers: EmbeddedServers
    urls: ServerUrls
    engine: Engine
    stack: Stack
    monitoring: Monitoring
    provider: Stub
    receiver: Stub
    last_day: date
    last_closes: Path
    own_disk: bool
    cleanup: ExitStack

    def now(self) -> datetime:
        """The time that the stack's clocks show."""
        return _wall() + self.settings.clock_offset

    def restart(self, **changes: object) -> None:
        """Stop the stack, and start it with other settings; the exporter keeps its address."""
        self.stack.stop()
        self.settings = self.settings.model_copy(update=changes)
        self.stack = Stack(self.settings, self.urls, workers=self.settings.workers, flower=False)
        self.stack.start()

    def execute(self, statement: str, **values: object) -> None:
        """One statement, committed."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def scalar(self, statement: str, **values: object) -> object:
        """The first column of the first row; None if there is none."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).scalar()

    def connect(self, name: str) -> psycopg.Connection[tuple[object, ...]]:
        """A session of somebody else's, which no limit of ours ends."""
        return psycopg.connect(self.urls.database_url, application_name=name, autocommit=True)

    def firing(self) -> dict[str, str]:
        """The alerts that Alertmanager has, by name: active, or suppressed by one that says more."""
        found: dict[str, str] = {}
        answer = httpx.get(f"{self.monitoring.addresses['alertmanager']}/api/v2/alerts", timeout=5)
        for alert in answer.raise_for_status().json():
            name, state = alert["labels"]["alertname"], alert["status"]["state"]
            found[name] = "active" if "active" in {state, found.get(name)} else state
        return found

    def night_at_work(self) -> None:
        """Wait until a batch of a night is in a worker's hands."""
        wait_for(lambda: self.scalar("SELECT 1 FROM batches WHERE status = 'running'"), "a night at work")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = _PATIENCE_SECONDS) -> T:
    """The first truthy result of `condition`; while the database is away there is none.

    Raises:
        NightshiftError: there was none within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(SQLAlchemyError):
            if result := condition():
                return result
        if time.monotonic() > deadline:
            raise NightshiftError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


@contextmanager
def alert_site(settings: Settings, tell: Tell) -> Iterator[Site]:
    """Everything up for the length of the block, in a temporary home.

    Raises:
        NightshiftError: something did not start.
    """
    with ExitStack() as held:
        directory = held.enter_context(
            tempfile.TemporaryDirectory(prefix="nightshift-alerts-", ignore_cleanup_errors=True)
        )
        home = Path(directory) / "home"
        home.mkdir()
        own_disk = held.enter_context(_disk_of_its_own(home))
        servers = held.enter_context(EmbeddedServers(Path(directory) / "servers", postgres_settings=_POSTGRES))
        urls = servers.start()
        engine = make_engine(urls.database_url, application="nightshift-bench")
        held.callback(engine.dispose)
        first, last_closes = _fill(engine, Path(directory))
        provider, receiver = (held.enter_context(Stub()) for _ in range(2))
        changes = {
            "home": home,
            "clock_offset": datetime.combine(first + timedelta(days=1), time_of_day(12), UTC) - _wall(),
            "exporter_port": choose_port("127.0.0.1", 0, "NIGHTSHIFT_EXPORTER_PORT"),
            "binance_url": f"http://{provider.address}",
            "notify_urls": SecretStr(f"json://{receiver.address}/"),
        }
        settings = settings.model_copy(update=_SHORT | changes)
        with session_scope(engine) as session:
            follow(session, "binance", [Wanted(SYMBOL, CODE)], now=_wall() + settings.clock_offset)
        tell("starting the stack, Prometheus and Alertmanager …")
        port = settings.exporter_port
        pace = Pace(INTERVAL_SECONDS, FASTER, {"group_wait": "1s", "group_interval": "1s", "resolve_timeout": "10s"})
        site = Site(
            settings,
            servers,
            urls,
            engine,
            Stack(settings, urls, workers=settings.workers, flower=False),
            Monitoring(settings, f"127.0.0.1:{port}", pace=pace),
            provider,
            receiver,
            first + timedelta(days=DAYS - 1),
            last_closes,
            own_disk,
            held,
        )
        # Not as a context: a scenario may have put another in its place.
        held.callback(lambda: site.stack.stop())  # noqa: PLW0108 - the one that is there then
        site.stack.start()
        held.enter_context(site.monitoring)
        yield site


def to_the_calendar(site: Site, day: date) -> None:
    """Have nights fall due by the calendar from now on; that of `day` does so now, and those before are long due."""
    due = due_at(day, site.settings.nightly_at)
    site.restart(dev_night_every=None, clock_offset=due - _wall())


def _wall() -> datetime:
    return utc_now() - get_settings().clock_offset


def _fill(engine: Engine, directory: Path) -> tuple[date, Path]:
    """Tables, closes of all days but the last one, users; the first night's day and the file of the last closes."""
    migrate(engine)
    everything = directory / "market.csv"
    first = write_market(everything, DAYS, ASSETS)
    head, *lines = everything.read_text("ascii").splitlines()
    last_day = f",{first + timedelta(days=DAYS - 1)},"
    before, last = directory / "before.csv", directory / "last.csv"
    for path, chosen in (
        (before, [line for line in lines if last_day not in line]),
        (last, [line for line in lines if last_day in line]),
    ):
        path.write_text("\n".join([head, *chosen, ""]), encoding="ascii")
    with session_scope(engine) as session:
        import_closes(session, before, now=utc_now(), strict=True)
    seed(engine, users=USERS, start=first)
    with engine.begin() as connection:
        connection.exec_driver_sql(_IN_THE_WAY)
    return first, last


@contextmanager
def _disk_of_its_own(home: Path) -> Iterator[bool]:
    """A small file system for the stack's home, where that is allowed: the disk of the machine must not be filled."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_HOME_MIB}m,mode=755", "tmpfs", str(home)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(home)], capture_output=True, check=False)  # noqa: S603, S607
