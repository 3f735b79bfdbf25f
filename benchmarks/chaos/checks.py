"""What must hold after healing, asked of the tables alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, text

from benchmarks.chaos.logs import Said
from benchmarks.chaos.world import CHAOS, REFERENCE, PoisonUser, World
from services.digest import digest_of_day
from services.poison import REASON_WORKER_LOST

ATTEMPTS_ALONE = 2

_KEYS = "SELECT day, simulation_id, count(*) FROM portfolio_days GROUP BY day, simulation_id"
_TRADES = """
    SELECT day, count(*), sum(hashtextextended(t::text, 0)::numeric)::text FROM trades t GROUP BY day ORDER BY day
"""
_LEADERS = "SELECT day, rank, user_id, simulation_id, equity, return_ppm FROM leaderboard_entries ORDER BY day, rank"
_RUNS = "SELECT * FROM runs ORDER BY day, id"
_TOTALS = ("simulations", "rows", "trades", "quarantined", "equity", "fees", "users")
# What a night says of days that were changed after it; how many there are does not change.
_REVISED = ("trades", "equity", "fees")
_CHANGED_AFTER = (
    "EXISTS (SELECT FROM runs o WHERE o.kind = 'reprocess' AND o.first_day <= r.day AND o.finished_at >= r.started_at)"
)
_COUNTED = f"""
    SELECT r.id, r.day, r.simulations AS said_simulations, r.rows AS said_rows, r.trades AS said_trades,
        r.quarantined AS said_quarantined, r.total_equity::numeric AS said_equity, r.total_fees::numeric AS said_fees,
        r.users AS said_users, {_CHANGED_AFTER} AS revised,
        p.rows AS simulations, p.rows, p.equity, t.trades, t.fees, q.quarantined, b.users
    FROM runs r,
    LATERAL (SELECT count(*) AS rows, coalesce(sum(equity), 0) AS equity FROM portfolio_days WHERE day = r.day) p,
    LATERAL (SELECT count(*) AS trades, coalesce(sum(fee), 0) AS fees FROM trades WHERE day = r.day) t,
    LATERAL (SELECT count(*) AS quarantined FROM quarantine WHERE run_id = r.id) q,
    LATERAL (SELECT coalesce(sum(users), 0) AS users FROM batches WHERE run_id = r.id AND status <> 'split') b
    WHERE r.kind = 'nightly' ORDER BY r.day
"""  # noqa: S608 (our own constant)
# Of nights that recovered there is word too: how many, the faults' moments decide.
_TOLD = "SELECT count(*) FROM outbox WHERE kind = 'run_finished' AND (payload ->> 'quarantined')::int > 0"
_RANGES = """
    SELECT b.run_id, b.id FROM batches b JOIN batches other ON other.run_id = b.run_id AND other.id <> b.id
    WHERE b.status <> 'split' AND other.status <> 'split' AND b.user_lo < other.user_hi AND other.user_lo < b.user_hi
"""


@dataclass(slots=True)
class Verdict:
    """What was found, and each check that failed as one line."""

    lost: int = 0
    doubled: int = 0
    digest: str = ""
    digest_equal: bool = False
    runs_ok: bool = False
    batches_ok: bool = False
    counts_ok: bool = False
    quarantine_ok: bool = False
    failures: list[str] = field(default_factory=list)

    def check(self, problems: Iterator[str]) -> bool:
        """Whether there are no `problems`; those that there are, are kept."""
        before = len(self.failures)
        self.failures.extend(problems)
        return len(self.failures) == before


def check(world: World, said: Said, *, divisions: int = 0) -> Verdict:
    """Compare the database of the faults with that of the truth, with what it says of itself, and with the logs.

    `divisions`: how many batches may have been divided at most.
    """
    truth, faults = world.engine(REFERENCE), world.engine(CHAOS)
    verdict = Verdict()
    with truth.connect() as expected, faults.connect() as found:
        _check_rows(verdict, expected, found)
        verdict.runs_ok = verdict.check(_runs(found, world.days))
        verdict.batches_ok = verdict.check(_batches(found, divisions))
        verdict.counts_ok = verdict.check(_counts(expected, found))
        verdict.quarantine_ok = verdict.check(_quarantine(found, world, said))
    digests = [digest_of_day(faults, day).digest for day in world.days]
    verdict.digest = digests[-1]
    verdict.digest_equal = verdict.check(_digests(digests, truth, faults, world.days))
    return verdict


def _check_rows(verdict: Verdict, expected: Connection, found: Connection) -> None:
    wanted = {(day, simulation) for day, simulation, _ in expected.execute(text(_KEYS))}
    there = {(day, simulation): count for day, simulation, count in found.execute(text(_KEYS))}
    verdict.lost = len(wanted - there.keys())
    verdict.doubled = sum(count - 1 for count in there.values()) + len(there.keys() - wanted)
    if verdict.lost:
        verdict.failures.append(f"lost: {verdict.lost} of {len(wanted)} rows, such as {min(wanted - there.keys())}")
    if verdict.doubled:
        verdict.failures.append(f"doubled: {verdict.doubled} rows too many")


def _runs(found: Connection, days: tuple[date, ...]) -> Iterator[str]:
    everything = found.execute(text(_RUNS)).all()
    runs = [run for run in everything if run.kind == "nightly"]
    for run in everything:
        if run.status != "done":
            yield f"runs: run {run.id} of {run.day} is {run.status}: {run.error}"
    if [run.day for run in runs] != list(days):
        yield f"runs: of the days {[str(run.day) for run in runs]}, not one of each of {len(days)} nights"
    for run in runs:
        if run.first_day != run.day:
            yield f"runs: run {run.id} of {run.day} begins on {run.first_day}"
    order = [run.finished_at for run in runs]
    if None not in order and order != sorted(order):
        yield "runs: the nights did not end in order"


def _batches(found: Connection, divisions: int) -> Iterator[str]:
    query = text("SELECT status, count(*) AS number FROM batches GROUP BY status")
    counts: dict[str, int] = {row.status: row.number for row in found.execute(query)}
    wrong = {status: count for status, count in counts.items() if status not in ("done", "split")}
    if wrong:
        yield f"batches: {wrong} are neither done nor split"
    if counts.get("split", 0) > divisions:
        yield f"batches: {counts['split']} were divided, at most {divisions} had a reason: attempts are miscounted"
    overlapping = len(found.execute(text(_RANGES)).all())
    if overlapping:
        yield f"batches: {overlapping} share users with another of their run"
    halves = found.execute(
        text("SELECT parent_id, count(*) FROM batches WHERE parent_id IS NOT NULL GROUP BY 1 HAVING count(*) <> 2")
    ).all()
    if halves:
        yield f"batches: {len(halves)} were divided more than once"


def _counts(expected: Connection, found: Connection) -> Iterator[str]:
    for run in found.execute(text(_COUNTED)).mappings():
        for name in _TOTALS:
            if run["revised"] and name in _REVISED:
                continue
            if run[f"said_{name}"] != run[name]:
                yield f"counts: run {run['id']} says {name} {run[f'said_{name}']}, the tables {run[name]}"
    for what, query in (("trades", _TRADES), ("leaderboard", _LEADERS)):
        wanted, there = (connection.execute(text(query)).all() for connection in (expected, found))
        if wanted != there:
            first = next((row for row in zip(wanted, there, strict=False) if row[0] != row[1]), "their number")
            yield f"counts: {what} differ from a fault-free run's: {first}"


def _quarantine(found: Connection, world: World, said: Said) -> Iterator[str]:
    rows = found.execute(text("SELECT user_id, batch_id, day, reason, detail FROM quarantine")).all()
    there = {row.user_id: row for row in rows}
    if len(there) != len(rows):
        yield "quarantine: somebody is in it twice"
    poison = {user.user_id: user for user in world.poison}
    for user_id in sorted(there.keys() - poison.keys()):
        yield f"quarantine: user {user_id} is innocent: {there[user_id].reason}, {there[user_id].detail}"
    for user_id, user in poison.items():
        row: Any = there.get(user_id)
        if row is None:
            yield f"quarantine: user {user_id} ({user.fault.kind}) is not in it"
        elif row.day != user.day or not _is_true(row, user, said.errors.get(row.batch_id, [])):
            yield (
                f"quarantine: user {user_id} ({user.fault.kind}) is in it for {row.day} {row.reason} {row.detail!r},"
                f" not for {user.day} {user.reason} {user.detail!r}"
            )
    poisoned = len({user.day for user in world.poison})
    told = found.execute(text(_TOLD)).scalar_one()
    if told != poisoned:
        yield f"quarantine: {told} notifications of runs with somebody in it, not {poisoned}"


def _is_true(row: Any, user: PoisonUser, errors: list[str]) -> bool:
    """Whether the reason is what the user does, or what another fault did to the batch in which he stood alone."""
    if row.reason == user.reason and row.detail.startswith(user.detail):
        return True
    if row.reason == REASON_WORKER_LOST:
        # Not every attempt ended with an error, so some worker was lost.
        return len(errors) < ATTEMPTS_ALONE
    return row.detail in errors and row.detail.startswith("SoftTimeLimitExceeded")


def _digests(digests: list[str], truth: Engine, faults: Engine, days: tuple[date, ...]) -> Iterator[str]:
    with faults.connect() as found:
        query = text(
            f"SELECT day, digest, {_CHANGED_AFTER} AS revised FROM runs r"  # noqa: S608 (our own constant)
            " WHERE digest IS NOT NULL AND kind = 'nightly'"
        )
        nights = found.execute(query).all()
        said: dict[date, int] = {row.day: row.digest for row in nights}
        revised = {row.day for row in nights if row.revised}
    for day, digest in zip(days, digests, strict=True):
        wanted = digest_of_day(truth, day).digest
        if digest != wanted:
            yield f"digest: {day} has {digest}, a fault-free run {wanted}"
        if day in revised:
            continue
        if day not in said or f"{said[day] % 2**64:016x}" != digest:
            yield f"digest: the run of {day} says {said.get(day)}, the table has {digest}"
