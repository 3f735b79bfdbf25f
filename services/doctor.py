"""The doctor: everything that can be looked at from here, each thing with its remedy. It changes nothing.

Guarantees: whatever does not answer is one finding, and the rest is examined all the same. No finding shows a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from redis import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.errors import NightshiftError, ServerUnreachableError
from core.log import mask_secrets
from core.settings import PREFIX, Settings
from services.cache_server import cache_url
from services.doctor_database import DATABASE, examine_database, plain_connection
from services.doctor_findings import Finding, Group, Severity
from services.doctor_machine import MACHINE, Clock, examine_clocks, examine_disks
from services.doctor_programs import examine_programs
from services.doctor_redis import BROKER, CACHE, examine_broker, examine_cache
from services.doctor_schema import SCHEMA, examine_revision, examine_tables, is_current
from services.doctor_settings import SETTINGS, examine_settings
from services.doctor_stack import (
    STACK,
    WORKERS,
    WorkerOptions,
    examine_alerts,
    examine_backups,
    examine_beat,
    examine_connections,
    examine_workers,
)
from services.queue_state import redis_client
from services.worker_registry import clock_of

Tell = Callable[[str, int, int], None]


@dataclass(slots=True)
class Patient:
    """What is examined.

    Attributes:
        ask_workers: the workers that answer, asked once.
        expected: the options that each of them should have.
        clock: this machine's, without NIGHTSHIFT_CLOCK_OFFSET.
        stopped: nothing runs but what the doctor started to have something to examine: no worker and no beat.
    """

    settings: Settings
    engine: Engine
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    ask_workers: Callable[[], Sequence[WorkerOptions]]
    expected: Mapping[str, Any]
    clock: Clock
    stopped: bool = False


def examine(patient: Patient, *, now: datetime, tell: Tell = lambda *_: None) -> list[Finding]:
    """All findings, group by group. `tell` hears which group is next, and how many of how many are done."""
    found: list[Finding] = []
    with ExitStack() as open_servers:
        visit = _Visit(patient, now, open_servers)
        for done, (group, check) in enumerate(visit.checks):
            tell(group.name, done, len(visit.checks))
            found += _whatever_happens(group, check)
    return found


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without an error, 1 with one, 3 if a server is out of reach."""
    found = list(findings)
    if any(finding.unreachable for finding in found):
        return ServerUnreachableError.exit_code
    return NightshiftError.exit_code if any(finding.severity is Severity.ERROR for finding in found) else 0


class _Visit:
    """One examination. A check that depends on what another found asks what that left here."""

    def __init__(self, patient: Patient, now: datetime, open_servers: ExitStack) -> None:
        self._patient, self._now, self._open = patient, now, open_servers
        self._clocks: dict[str, Clock] = {}
        self._readable = self._broker = False
        self._workers: Sequence[WorkerOptions] = ()
        self.checks: tuple[tuple[Group, Callable[[], Iterator[Finding]]], ...] = (
            (SETTINGS, lambda: examine_settings(patient.settings)),
            (MACHINE, lambda: examine_disks(patient.settings)),
            (DATABASE, self._database),
            (BROKER, self._redis),
            (CACHE, self._cache),
            (MACHINE, lambda: examine_clocks(patient.clock, self._clocks, patient.settings)),
            (SCHEMA, self._schema),
            (WORKERS, self._ask_workers),
            (STACK, self._stack),
        )

    def _database(self) -> Iterator[Finding]:
        connection = self._open.enter_context(plain_connection(self._patient.database_url))

        def ask() -> datetime:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            if row is None or not isinstance(row[0], datetime):
                raise TypeError("PostgreSQL told no time")
            return row[0]

        self._clocks["PostgreSQL"] = ask
        yield from examine_database(connection)
        yield from examine_programs(connection, self._patient.database_url, self._patient.settings)

    def _redis(self) -> Iterator[Finding]:
        # Its own block: that is where a refusal becomes one of ours.
        with redis_client(self._patient.redis_url) as probe:
            probe.ping()
        client = self._open.enter_context(redis_client(self._patient.redis_url))
        self._broker = True
        self._clocks["Redis"] = lambda: datetime.fromtimestamp(clock_of(client), self._now.tzinfo)
        yield from examine_broker(client)

    def _cache(self) -> Iterator[Finding]:
        settings = self._patient.settings
        if settings.cache_url is not None:
            with redis_client(cache_url(settings, self._patient.redis_url)) as client:
                yield from examine_cache(client)

    def _schema(self) -> Iterator[Finding]:
        if "PostgreSQL" in self._clocks:
            revision = examine_revision(self._patient.engine)
            yield revision
            self._readable = is_current(revision)
        if self._readable:
            yield from examine_tables(self._patient.engine, now=self._now)

    def _ask_workers(self) -> Iterator[Finding]:
        if self._patient.stopped:
            yield WORKERS.warning("queues", "nothing runs in this home", "start `nightshift up`")
        elif self._broker:
            self._workers = self._patient.ask_workers()
            yield from examine_workers(self._workers, self._patient.expected)

    def _stack(self) -> Iterator[Finding]:
        if not self._readable:
            return
        patient = self._patient
        yield from examine_connections(patient.engine, self._workers)
        if not patient.stopped:
            yield examine_beat(patient.engine, patient.settings, now=self._now)
        yield from examine_alerts(patient.engine)
        yield from examine_backups(patient.engine, patient.settings, now=self._now)


def _whatever_happens(group: Group, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    name = "REDIS_URL" if group is BROKER else "CACHE_URL" if group is CACHE else "DATABASE_URL"
    try:
        yield from check()
    except ServerUnreachableError as error:
        yield group.unreachable("answer", str(error), f"start the server, or correct {PREFIX}{name}")
    except (SQLAlchemyError, psycopg.Error, RedisError) as error:
        # SQLAlchemy's own message quotes the statement.
        cause = getattr(error, "orig", None) or error
        yield group.error("check", f"not examined: {_line(cause)}", "is this role allowed to look?")
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide the others
        yield group.error("check", f"not examined: {type(error).__name__}: {_line(error)}", "report this as a fault")


def _line(error: BaseException) -> str:
    return mask_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])
