"""One seed from start to end: a stack of its own, nights under faults, healing, waiting, checks."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos.again import Again, Orders, given, make_wrong
from benchmarks.chaos.checks import ATTEMPTS_ALONE, Verdict, check
from benchmarks.chaos.faults import STRIKES
from benchmarks.chaos.installed import installed
from benchmarks.chaos.logs import read_logs
from benchmarks.chaos.proxy import EventLoop, Proxy
from benchmarks.chaos.schedule import HARMLESS, POISON, Fault, Kind, schedule
from benchmarks.chaos.site import POLL_SECONDS, GaveUpError, Site, wait_for
from benchmarks.chaos.world import CHAOS, NOW, World, make_world, run_undisturbed
from core.clock import utc_now
from core.database import session_scope
from core.settings import Settings
from services.planning import plan_night
from workers.embedded import EmbeddedServers, ServerUrls
from workers.stack import Stack

BOUND_SECONDS = 60.0
"""After the last fault was taken back, every night has ended within this time; so has the recovery from each fault."""
_PATIENCE_SECONDS = 30.0
# Two pool processes, twice each while a fault is held.
_BROKEN_ATTEMPTS = 4
# A server's crash is not a machine's: what was written is there.
_POSTGRES = {"fsync": "off", "shared_buffers": "64MB"}
# Each as in production in proportion to the others, and all of them short.
_SHORT = {
    "tick_seconds": 1.0, "overdue_seconds": 3.0, "soft_time_limit": 2, "hard_time_limit": 6, "visibility_timeout": 8,
    "max_attempts": ATTEMPTS_ALONE, "workers": 2, "flower_port": 0, "exporter_port": 0,
    "log_level": "info", "log_format": "json", "database_url": None, "redis_url": None, "dev_night_every": None,
}  # fmt: skip


@dataclass(slots=True)
class Struck:
    """What a fault did. Seconds since the nights began; None: it did not happen.

    Attributes:
        at_s: when it struck.
        lasted_s: how long it was held, until whatever it broke was given back.
        recovered_s: from then to the next batch that was done, or the component's answer, or the quarantine.
    """

    kind: str
    target: str = ""
    at_s: float | None = None
    lasted_s: float | None = None
    recovered_s: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Report:
    """What one seed came to."""

    seed: int
    nights: int
    users: int
    faults: list[Struck]
    again: Orders
    verdict: Verdict
    ended: bool
    seconds: float
    finished_s: float
    publications: int
    needless_duplicates: int
    logs: str | None = None
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return not self.failures

    @property
    def replay(self) -> str:
        """The command that does it again."""
        return f"nightshift chaos --seed {self.seed} --nights {self.nights} --users {self.users}"

    def as_json(self) -> dict[str, Any]:
        """One flat document."""
        document: dict[str, Any] = asdict(self)
        verdict: dict[str, Any] = document.pop("verdict")
        verdict.pop("failures")
        verdict |= {"ok": self.ok, "replay": self.replay, "bound_s": BOUND_SECONDS}
        return document | verdict


def run_seed(
    seed: int,
    *,
    nights: int,
    users: int,
    settings: Settings,
    logs: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run `nights` nights of `users` users under the faults of `seed`, and check what came out.

    The logs of all processes are kept in a directory below `logs`; without it, in a temporary one if a check fails.

    Raises:
        UsageError: more nights than the samples have, or too few users.
        NightshiftError: the servers or the stack did not start.
    """
    began = time.perf_counter()
    faults = schedule(seed, nights=nights)
    with tempfile.TemporaryDirectory(prefix="nightshift-chaos-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        with _site(seed, nights, users, home, settings, faults, tell) as (site, orders):
            with given(site, orders, lambda share: _wait_progress(site, share)) as again:
                struck = _nights_under(site, faults, tell)
            ended = _healed(site)
            _record_poison(site, faults, struck)
            struck.sort(key=lambda record: record.at_s or 0.0)
            finished_s = site.elapsed()
            said = read_logs(home / "log")
            verdict = check(site.world, said, divisions=_divisions(faults, site.world.batch_users))
            publications = _publications(site.world)
        report = Report(
            seed, nights, users, struck, again, verdict, ended, 0.0, round(finished_s, 2), publications, said.needless
        )
        report.failures = [*_failures(report), *verdict.failures]
        if logs is not None or not report.ok:
            report.logs = _keep(home / "log", logs, seed)
    report.seconds = round(time.perf_counter() - began, 2)
    return report


def _keep(source: Path, logs: Path | None, seed: int) -> str:
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    directory = tempfile.mkdtemp(prefix=f"nightshift-chaos-seed-{seed}-", dir=logs)
    shutil.copytree(source, directory, dirs_exist_ok=True)
    return directory


@contextmanager
def _site(
    seed: int,
    nights: int,
    users: int,
    home: Path,
    settings: Settings,
    faults: Sequence[Fault],
    tell: Callable[[str], None],
) -> Iterator[tuple[Site, Sequence[Again]]]:
    """Everything up, the truth known, the first night planned; and what is to be done again meanwhile."""
    with ExitStack() as stack_of:
        servers = stack_of.enter_context(EmbeddedServers(home, postgres_settings=_POSTGRES))
        urls = servers.start()
        world = make_world(urls.database_url, seed_number=seed, users=users, nights=nights, faults=faults)
        stack_of.callback(world.close)
        offset = NOW - (utc_now() - settings.clock_offset)
        changes = {"home": home, "clock_offset": offset, "batch_users": world.batch_users, "catch_up_days": nights}
        settings = settings.model_copy(update=_SHORT | changes)
        run_undisturbed(world, settings)
        orders = make_wrong(world, seed, users)
        tell(f"seed {seed}: {nights} nights of {users:,} users without faults are done; now with {len(faults)} faults")
        loop = stack_of.enter_context(EventLoop())
        proxied, proxies = _proxied(loop, ServerUrls(world.url(CHAOS), urls.redis_url))
        for proxy in proxies.values():
            stack_of.callback(proxy.close)
        moments = stack_of.enter_context(installed(home / "chaos"))
        kinds = {fault.kind for fault in faults}
        stack = Stack(
            settings,
            proxied,
            workers=settings.workers,
            flower=Kind.KILL_FLOWER in kinds,
            exporter=Kind.KILL_EXPORTER in kinds,
        )
        with session_scope(world.engine(CHAOS)) as session:
            # Beat plans the others: without a first one it would begin with the newest day.
            plan_night(session, day=world.days[0], now=NOW, settings=settings, requested_by="chaos")
        stack_of.enter_context(stack)
        yield Site(settings, world, servers, urls.redis_url, proxies, moments, stack), orders


def _proxied(loop: EventLoop, urls: ServerUrls) -> tuple[ServerUrls, dict[str, Proxy]]:
    changed, proxies = {}, {}
    for name, url in (("postgres", urls.database_url), ("redis", urls.redis_url)):
        parsed = make_url(url)
        proxies[name] = Proxy(loop, int(parsed.port or 0))
        changed[name] = parsed.set(port=proxies[name].port).render_as_string(hide_password=False)
    return ServerUrls(changed["postgres"], changed["redis"]), proxies


def _nights_under(site: Site, faults: Sequence[Fault], tell: Callable[[str], None]) -> list[Struck]:
    """Strike at each fault's share of the work, and wait until every fault is over; what was struck."""
    struck: list[Struck] = []
    threads: list[Thread] = []
    for fault in faults:
        record = Struck(fault.kind.value)
        struck.append(record)
        if fault.kind in POISON:
            continue
        _wait_progress(site, fault.at)
        thread = Thread(target=_strike, args=(site, fault, record, tell), name=fault.kind.value, daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    return struck


def _healed(site: Site) -> bool:
    """Take the faults away and wait; whether the nights, and what was done again, ended."""
    site.heal()
    try:
        wait_for(site.finished, BOUND_SECONDS)
    except GaveUpError:
        return False
    return True


def _wait_progress(site: Site, share: float) -> None:
    """Return when so much is done, or when nothing was done for long: then the next fault comes all the same."""
    best, since = -1.0, time.monotonic()
    while time.monotonic() - since < _PATIENCE_SECONDS:
        with suppress(SQLAlchemyError):
            done, finished = site.progress()
            if done >= share or finished:
                return
            if done > best:
                best, since = done, time.monotonic()
        time.sleep(POLL_SECONDS)


def _strike(site: Site, fault: Fault, record: Struck, tell: Callable[[str], None]) -> None:
    def hit(target: str) -> None:
        record.target, record.at_s = target, round(site.elapsed(), 2)
        tell(f"{record.at_s:6.2f} s  {record.kind}: {target}")

    try:
        recovered = STRIKES[fault.kind](site, fault, hit)
        over, since = site.elapsed(), site.now()
        record.lasted_s = round(over - (record.at_s or over), 2)
        wait_for(lambda: recovered(since), BOUND_SECONDS)
        record.recovered_s = round(site.elapsed() - over, 2)
    except GaveUpError:
        record.error = "no recovery" if record.at_s is not None else "it never struck"
    except Exception as error:  # noqa: BLE001 - a fault that cannot be done is reported, and fails the run
        record.error = f"{type(error).__name__}: {error}".splitlines()[0]


def _record_poison(site: Site, faults: Sequence[Fault], struck: Sequence[Struck]) -> None:
    query = text(
        "SELECT r.started_at, q.created_at FROM runs r"
        " LEFT JOIN quarantine q ON q.run_id = r.id AND q.user_id = :user WHERE r.day = :day AND r.kind = 'nightly'"
    )
    users = {id(user.fault): user for user in site.world.poison}
    for fault, record in zip(faults, struck, strict=True):
        user = users.get(id(fault))
        if user is None:
            continue
        record.target = f"user {user.user_id} in the night of {user.day}"
        with site.world.engine(CHAOS).connect() as connection:
            row = connection.execute(query, {"user": user.user_id, "day": user.day}).first()
        if row is not None and row.started_at is not None:
            record.at_s = round(max(site.seconds_of(row.started_at), 0.0), 2)
        if row is not None and row.created_at is not None:
            record.lasted_s = 0.0
            record.recovered_s = round((row.created_at - row.started_at).total_seconds(), 2)


def _divisions(faults: Sequence[Fault], batch_users: int) -> int:
    """How many batches may be divided: one a level for each poisonous user, and those that lost their workers twice."""
    levels = math.ceil(math.log2(batch_users))
    return sum(levels if fault.kind in POISON else _BROKEN_ATTEMPTS * (fault.kind not in HARMLESS) for fault in faults)


def _publications(world: World) -> int:
    with world.engine(CHAOS).connect() as connection:
        return int(connection.execute(text("SELECT coalesce(sum(publications), 0) FROM batches")).scalar_one())


def _failures(report: Report) -> Iterator[str]:
    for record in report.faults:
        if record.error is not None or record.recovered_s is None:
            yield f"recovery: {record.kind} {record.target}: {record.error or 'no recovery'}"
    for error in report.again.errors:
        yield f"again: {error}"
    if not report.ended:
        yield f"bound: the nights did not end within {BOUND_SECONDS:.0f} s of the last fault"
