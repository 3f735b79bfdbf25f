"""What is wrong, by the same rules as the alerts of compose/prometheus, with figures and the page that says what to do.

A pure function of one reading, so it needs neither Prometheus nor the exporter. It has no memory: what an alert waits
for (`for: 1m`) it says at once. Names, severities and limits are those of the alerts; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.queues import Queue
from services.metrics_night import WINDOWS
from services.observed import Observed
from services.wording import counted, span

PAGE, WARNING = "page", "warning"
RUNBOOKS = "docs/runbooks"

# One late night of a thousand is what the error budget allows.
_BUDGET = 0.001
_WINDOW_NAMES = {"1d": "day", "7d": "7 days", "30d": "30 days"}
_STILL = timedelta(minutes=1)
_KIND_OF_QUEUE = {Queue.SIMULATIONS: "nightly", Queue.REPROCESS: "reprocess"}

Find = Callable[[Observed, float], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong. `name` is the alert's, `severity` page or warning, `detail` one line with figures."""

    name: str
    severity: str
    detail: str
    runbook: str


@dataclass(frozen=True, slots=True)
class Check:
    """How one alert's condition is found.

    `limit`: the number in its rule, where that is compared to something or added to what is; None where there is none.
    """

    name: str
    severity: str
    limit: float | None
    find: Find


def find_problems(observed: Observed) -> list[Problem]:
    """Everything that is wrong, pages first, and causes before what follows from them."""
    found = [
        Problem(check.name, check.severity, detail, f"{RUNBOOKS}/{check.name}.md")
        for check in CHECKS
        for detail in check.find(observed, check.limit or 0.0)
    ]
    return sorted(found, key=lambda problem: problem.severity != PAGE)


def _redis_away(seen: Observed, _: float) -> Iterator[str]:
    if seen.redis_error is not None:
        yield f"{seen.redis_error}: no message reaches a worker"


def _redis_memory(seen: Observed, limit: float) -> Iterator[str]:
    if seen.broker is not None and seen.broker.server.limit:
        server = seen.broker.server
        if server.used / server.limit > limit:
            yield f"Redis uses {server.used / server.limit:.0%} of {server.limit / 2**20:,.0f} MiB"


def _exporter_absent(seen: Observed, _: float) -> Iterator[str]:
    if seen.broker is not None and seen.broker.registry is None:
        yield "no exporter has asked the workers for 30 s: no alert can fire"


def _slow(seen: Observed, limit: float) -> Iterator[str]:
    if seen.database.slow > limit:
        slow = counted(seen.database.slow, "statement has", "statements have")
        yield f"{slow} run for over 5 s, the longest for {span(seen.database.longest)}"


def _connections(seen: Observed, limit: float) -> Iterator[str]:
    used = sum(seen.database.connections.values())
    if used > limit * seen.database.limit:
        yield f"{used} of {seen.database.limit} connections of the database are in use"


def _disk(seen: Observed, limit: float) -> Iterator[str]:
    if seen.disk_used > limit:
        yield f"{seen.disk_used:.0%} of the disk below the home is in use"


def _without_worker(seen: Observed, _: float) -> Iterator[str]:
    if seen.served is None:
        return
    unserved = [queue for queue in Queue if not seen.served.get(queue)]
    if unserved:
        waiting = sum(seen.broker.waiting.get(queue, 0) for queue in unserved) if seen.broker else None
        whom = "no worker answers" if len(unserved) == len(Queue) else f"nobody serves {', '.join(unserved)}"
        yield whom if waiting is None else f"{whom}; {counted(waiting, 'message waits', 'messages wait')}"


def _worker_lost(seen: Observed, limit: float) -> Iterator[str]:
    if seen.broker is not None and (workers := seen.broker.registry) is not None and workers.lost > limit:
        groups = counted(workers.lost, "group of workers has", "groups of workers have")
        yield f"{groups} not answered for 30 s and did not say goodbye"


def _beat(seen: Observed, limit: float) -> Iterator[str]:
    if seen.last_tick is None:
        yield "no tick has ever been worked on"
    elif (age := (seen.now - seen.last_tick).total_seconds()) > limit:
        yield f"the last tick was worked on {span(age)} ago"


def _queue_long(seen: Observed, limit: float) -> Iterator[str]:
    for queue, length in (seen.broker.waiting if seen.broker is not None else {}).items():
        progress = seen.runs.progress.get(_KIND_OF_QUEUE.get(Queue(queue), ""))
        # Long, and yet it gets shorter: that is a night at work.
        if length > limit and (progress is None or seen.now - progress > _STILL):
            yield f"{length:,} messages wait in {queue}, and it gets no shorter"


def _unacked(seen: Observed, _: float) -> Iterator[str]:
    for queue, age in (seen.broker.oldest_taken if seen.broker is not None else {}).items():
        if age > seen.visibility_timeout:
            yield f"a message of {queue} has been in a worker's hands for {span(age)}"


def _put_back(seen: Observed, limit: float) -> Iterator[str]:
    for cause, moment in seen.put_back.items():
        if (age := (seen.now - moment).total_seconds()) < limit:
            yield f"batches that were {cause} were put back {span(age)} ago"


def _outbox(seen: Observed, limit: float) -> Iterator[str]:
    for kind in seen.outbox:
        if kind.kind != "digest" and kind.age is not None and kind.age > limit:
            what = (f"notification of kind {kind.kind} is", f"notifications of kind {kind.kind} are")
            yield f"{counted(kind.pending, *what)} not sent, the oldest for {span(kind.age)}"


def _not_started(seen: Observed, limit: float) -> Iterator[str]:
    if not seen.night.waiting and (seen.night.start_delay or 0) > limit:
        yield f"a night fell due {span(seen.night.start_delay or 0)} ago and has not started"


def _waits(seen: Observed, limit: float) -> Iterator[str]:
    if seen.night.waiting and (seen.night.start_delay or 0) > limit:
        yield f"a night fell due {span(seen.night.start_delay or 0)} ago and waits for its closes"


def _stalled(seen: Observed, limit: float) -> Iterator[str]:
    for kind, moment in seen.runs.progress.items():
        if (age := (seen.now - moment).total_seconds()) > limit:
            yield f"no batch of a running {kind} run has ended for {span(age)}"


def _ends_late(seen: Observed, _: float) -> Iterator[str]:
    night = seen.night.night
    if night is None or not night.running:
        return
    end = max(night.estimated_end or seen.now, seen.now)
    if end > night.deadline:
        late = span((end - night.deadline).total_seconds())
        yield f"the night ends {late} after its deadline, {night.deadline:%H:%M:%S} UTC"


def _too_long(seen: Observed, limit: float) -> Iterator[str]:
    night = seen.night.night
    if night is not None and night.running and (night.seconds or 0) > limit:
        yield f"the night has been running for {span(night.seconds or 0)}"


def _failures(seen: Observed, limit: float) -> Iterator[str]:
    night = seen.night.night
    if night is not None and night.users and night.failed / night.users > limit:
        yield f"{night.failed:,} of the night's {night.users:,} users ({night.failed / night.users:.1%}) failed"


def _quarantined(seen: Observed, limit: float) -> Iterator[str]:
    if seen.runs.quarantined > limit:
        users = counted(seen.runs.quarantined, "user is", "users are")
        yield f"{users} in quarantine, whole or with some of their simulations"


def _missed(seen: Observed, limit: float) -> Iterator[str]:
    moment = seen.night.missed_at
    if moment is not None and (age := (seen.now - moment).total_seconds()) < limit:
        yield f"a night was given up {span(age)} ago: it was further back than NIGHTSHIFT_CATCH_UP_DAYS"


def _burn(seen: Observed, limit: float, *windows: str) -> Iterator[str]:
    late = {window: seen.night.due.get(window, 0) - seen.night.in_time.get(window, 0) for window in WINDOWS}
    if all(late[window] > limit * _BUDGET * seen.night.due.get(window, 0) for window in windows):
        nights = counted(late[windows[0]], "was", "were")
        yield f"of the nights of the last {_WINDOW_NAMES[windows[0]]} {nights} late"


def _burns_fast(seen: Observed, limit: float) -> Iterator[str]:
    yield from _burn(seen, limit, "1d", "7d")


def _burns_slowly(seen: Observed, limit: float) -> Iterator[str]:
    yield from _burn(seen, limit, "30d", "7d")


def _price_stale(seen: Observed, limit: float) -> Iterator[str]:
    for window in seen.prices.windows:
        if window.source in seen.prices.enabled and window.newest_done is not None:
            age = (seen.now - window.newest_done).total_seconds()
            if age > limit:
                yield f"the newest prices of {window.source} are {span(age)} old"


def _provider(seen: Observed, limit: float) -> Iterator[str]:
    failing = seen.prices.alerts.get("prices_failed", 0)
    if failing > limit:
        sources = counted(failing, "source of prices", "sources of prices")
        yield f"{sources} did not deliver the newest windows"


def _backup_old(seen: Observed, grace: float) -> Iterator[str]:
    interval = seen.backups.interval
    if interval is None:
        return
    if seen.backups.newest is None:
        yield "there is no backup"
    elif (age := _age(seen, seen.backups.newest)) > interval + grace:
        yield f"the newest backup is {span(age)} old; one is due every {span(interval)}"


def _backup_unverified(seen: Observed, grace: float) -> Iterator[str]:
    interval = seen.backups.interval
    if seen.backups.damaged:
        damaged = counted(seen.backups.damaged, "backup that is kept", "backups that are kept")
        yield f"{damaged} did not stand verification"
    elif interval is None:
        return
    elif seen.backups.proven is None:
        yield "no backup was ever restored and found equal"
    elif (age := _age(seen, seen.backups.proven)) > interval + grace:
        yield f"the newest backup that was restored and found equal is {span(age)} old"


def _age(seen: Observed, moment: datetime) -> float:
    return (seen.now - moment).total_seconds()


CHECKS: tuple[Check, ...] = (
    Check("NightshiftRedisAway", PAGE, None, _redis_away),
    Check("NightshiftExporterAbsent", PAGE, None, _exporter_absent),
    Check("NightshiftQueueWithoutWorker", PAGE, None, _without_worker),
    Check("NightshiftBeatSilent", PAGE, 90, _beat),
    Check("NightshiftNightNotStarted", PAGE, 600, _not_started),
    Check("NightshiftNightStalled", PAGE, 300, _stalled),
    Check("NightshiftNightEndsLate", PAGE, None, _ends_late),
    Check("NightshiftNightFailuresMany", PAGE, 0.05, _failures),
    Check("NightshiftDayMissed", PAGE, 86_400, _missed),
    Check("NightshiftErrorBudgetFastBurn", PAGE, 14.4, _burns_fast),
    Check("NightshiftBackupOld", PAGE, 3_600, _backup_old),
    Check("NightshiftDatabaseSlow", WARNING, 0, _slow),
    Check("NightshiftDatabaseConnectionsHigh", WARNING, 0.8, _connections),
    Check("NightshiftRedisMemoryHigh", WARNING, 0.8, _redis_memory),
    Check("NightshiftDiskFull", WARNING, 0.85, _disk),
    Check("NightshiftWorkerLost", WARNING, 0, _worker_lost),
    Check("NightshiftQueueLong", WARNING, 100, _queue_long),
    Check("NightshiftUnackedStale", WARNING, None, _unacked),
    Check("NightshiftMessagesPutBack", WARNING, 300, _put_back),
    Check("NightshiftNightWaitsForCloses", WARNING, 600, _waits),
    Check("NightshiftNightTooLong", WARNING, 300, _too_long),
    Check("NightshiftNightFailures", WARNING, 0.01, _failures),
    Check("NightshiftUsersQuarantined", WARNING, 0, _quarantined),
    Check("NightshiftErrorBudgetSlowBurn", WARNING, 1, _burns_slowly),
    Check("NightshiftPriceProviderFailing", WARNING, 0, _provider),
    Check("NightshiftPriceStale", WARNING, 600, _price_stale),
    Check("NightshiftOutboxStale", WARNING, 60, _outbox),
    Check("NightshiftBackupUnverified", WARNING, 7_200, _backup_unverified),
)
"""The condition of every alert but NightshiftDatabaseAway: without the database there is no reading."""
