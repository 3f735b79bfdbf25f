"""What the commands share: the servers they work with, days, data on stdout, notes and progress on stderr."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from sqlalchemy import Engine

    from core.settings import Settings
    from workers.embedded import ServerUrls

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

_WIDTH_OF_A_PIPE = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one command, and the settings it reads; `engine` is disposed when the command ends."""

    settings: Settings
    urls: ServerUrls
    engine: Engine


@contextmanager
def connected(
    settings: Settings | None = None, *, migrate_own: bool = False, check_schema: bool = True
) -> Iterator[Servers]:
    """The servers of the settings, or of the stack in the home, or embedded ones for the length of the block.

    Args:
        settings: those of this process unless given.
        migrate_own: give an embedded database that was never migrated its tables, and say so.
        check_schema: refuse a database of another version.

    Raises:
        UsageError: the database's URL is not one.
        ServerUnreachableError: PostgreSQL does not answer.
        DatabaseVersionError: the database is empty, older or newer.
    """
    from core.database import check_database
    from core.settings import get_settings
    from workers.embedded import servers_for

    settings = settings or get_settings()
    quiet_logging(settings)
    with servers_for(settings) as urls:
        engine = open_engine(urls.database_url)
        try:
            check_database(engine)
            if migrate_own and settings.database_url is None:
                migrate_fresh(engine)
            if check_schema:
                from models import revisions

                revisions.check_schema(engine)
            yield Servers(settings, urls, engine)
        finally:
            engine.dispose()


def quiet_logging(settings: Settings) -> None:
    """Log warnings and errors only, unless a level is set: what a command has to say, it says itself."""
    from core.log import configure_logging

    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings if chosen else settings.model_copy(update={"log_level": "warning"}))


def open_engine(url: str) -> Engine:
    """`core.database.make_engine` of the command line; UsageError if `url` is no PostgreSQL URL."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from core.database import make_engine, sqlalchemy_url

    wrong = UsageError("NIGHTSHIFT_DATABASE_URL is not a URL like postgresql://user:password@host:5432/nightshift")
    if not sqlalchemy_url(url).startswith("postgresql"):
        raise wrong
    try:
        return make_engine(url, application="nightshift-cli")
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
        raise wrong from None


def migrate_fresh(engine: Engine) -> None:
    """Migrate a database that never was, and say so; leave any other alone."""
    from models.migrate import migrate
    from models.revisions import current_revision

    with engine.connect() as connection:
        fresh = current_revision(connection) is None
    if fresh:
        note(f"the embedded database is new: made its tables (revision {migrate(engine)[1]})")


def check_redis(url: str) -> None:
    """Raise ServerUnreachableError, in one line, unless Redis answers; UsageError if `url` is no Redis URL."""
    from services.queue_state import redis_client

    try:
        with redis_client(url) as client:
            client.ping()
    except ValueError:
        raise UsageError("NIGHTSHIFT_REDIS_URL is not a URL like redis://host:6379/0") from None


def answering_workers(servers: Servers) -> list[str]:
    """Names of the Celery workers that answer a ping within a second; none where this command owns the servers."""
    if servers.urls.owned:
        return []
    from workers.app import make_app
    from workers.health import worker_names

    with make_app(servers.settings, servers.urls.redis_url) as app:
        return worker_names(app)


def asker() -> str:
    """Who asks, for the records: the name of the process's user; his number where nobody gave him a name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # As in a container that runs as a number of the cluster's choice.
        name = f"uid {os.getuid()}"
    return name.encode("utf-8", "replace").decode()


def parse_day(text: str | None, option: str) -> date | None:
    """The day written as YYYY-MM-DD, None for None; UsageError for anything else."""
    if text is None:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a date has no zone
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a day: write YYYY-MM-DD") from None
    if day.isoformat() != text:
        raise UsageError(f"{option}: {text!r} is not a day: write YYYY-MM-DD")
    return day


def note(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def console() -> Console:
    """The terminal, or the pipe, behind stdout. Whoever reads a pipe wants whole cells."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)


def print_json(document: Any) -> None:
    """One JSON document on stdout: dates as ISO 8601, amounts as exact strings."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str | None = None,
    spare: Sequence[str] = (),
    empty: str | None = None,
) -> None:
    """A table on stdout, readable at any width. Columns whose name ends in `>` are aligned right.

    Args:
        columns: their names.
        rows: cells are text, never markup.
        title: above it.
        spare: columns that a narrow terminal does without, the first of them first; a note says which.
        empty: said instead, on stderr, where there are no rows.
    """
    from scripts.tables import print_rows

    if empty is not None and not rows:
        note(empty)
        return
    left_out = print_rows(console(), columns, rows, title=title, spare=spare)
    if left_out:
        note(f"left out for width: {', '.join(left_out)} (a wider terminal or --json shows them)")


def cell(value: Any) -> str:
    """A value as people read it."""
    from scripts.tables import cell as written

    return written(value)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal; the same object without a picture where it is not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        yield bar


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM unwinds the block like Ctrl-C, so that servers and workers are stopped in order."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def stay() -> None:
    """Return at Ctrl-C or, inside `interruptible`, at SIGTERM."""
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        note("stopping …")
