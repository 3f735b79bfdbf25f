"""`nightshift reprocess`: do work again, of whoever is meant, from a day on; or say first what that would be."""

from __future__ import annotations

import dataclasses
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UsageError
from scripts.cli import (
    Json,
    Servers,
    asker,
    cell,
    check_redis,
    connected,
    interruptible,
    note,
    parse_day,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from services.estimates import Estimate
    from services.reprocessing import Requested
    from services.scopes import Only, ReprocessScope

# Of more simulations than that, a person is asked.
LARGE = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line says."""

    scope: ReprocessScope
    first_day: date | None
    only: Only
    reason: str


def reprocess(  # noqa: PLR0913, PLR0917 - one for each option
    reason: Annotated[str, typer.Option(help="Why; kept with the run.")],
    first: Annotated[
        str | None, typer.Option("--from", help="The first day to do again, YYYY-MM-DD; through the newest night.")
    ] = None,
    user: Annotated[list[int] | None, typer.Option(help="This user; repeatable.", min=1, max=2**63 - 1)] = None,
    users_from: Annotated[
        str | None, typer.Option("--users-from", help="Users from a file, one id a line; - for stdin.")
    ] = None,
    simulation: Annotated[
        list[int] | None, typer.Option(help="This simulation; repeatable.", min=1, max=2**63 - 1)
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option(help="Whoever has it among his assets, held or not; repeatable.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="All simulations of this strategy.")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Whoever is in quarantine: clear it and catch up.")
    ] = False,
    run: Annotated[int | None, typer.Option(help="What this run did.", min=1, max=2**63 - 1)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Users of batches that failed since --from.")] = False,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody.")] = False,
    only: Annotated[str, typer.Option(help="Which of them: missing, missing-and-failed or everything.")] = "everything",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, however large it is.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done; 1 if it failed.")] = False,
    json: Json = False,
) -> None:
    """Do days again from --from through the newest night. Options narrow each other; repeated ones add up."""
    from services.scopes import ReprocessScope, check_line, check_scope

    if dry_run and wait:
        raise UsageError("--dry-run does nothing to wait for: leave out --wait")
    scope = ReprocessScope(
        users=(*(user or ()), *(_ids_from(users_from) if users_from is not None else ())),
        simulations=tuple(simulation or ()),
        symbols=tuple(symbol or ()),
        strategy=strategy,
        quarantined=quarantined,
        run=run,
        failed=failed,
        everything=everybody,
    )
    asked = _Asked(scope, parse_day(first, "--from"), _only(only), reason)
    check_line(reason, "--reason", 1000)
    check_scope(scope, asked.first_day, asked.only)
    with interruptible(), connected() as servers:
        if dry_run:
            _show(_estimate(servers, asked), json=json)
            return
        check_redis(servers.urls.redis_url)
        if not yes:
            _ask_if_large(servers, asked)
        _do(servers, asked, wait=wait, json=json)


def _do(servers: Servers, asked: _Asked, *, wait: bool, json: bool) -> None:
    from scripts.run import publish_and_wait

    requested = _request(servers, asked)
    if requested.run is None:
        who = "in quarantine" if asked.scope.quarantined else "missing a day"
        note(f"nobody of them is {who}: nothing to do")
        if json:
            print_json({"run": None})
        return
    note(
        f"{_some(requested.simulations, 'simulation')} of {_some(requested.users, 'user')}, {requested.first_day} to"
        f" {requested.through}"
    )
    publish_and_wait(servers, [requested.run], wait=wait)
    if json:
        document: dict[str, Any] = {
            field.name: getattr(requested, field.name) for field in dataclasses.fields(requested)
        }
        print_json(document | {"totals": _totals(servers, requested.run) if wait else None})


def _request(servers: Servers, asked: _Asked) -> Requested:
    from core.clock import utc_now
    from core.database import session_scope
    from services.reprocessing import request

    with session_scope(servers.engine) as session:
        return request(
            session, asked.scope, first_day=asked.first_day, only=asked.only, reason=asked.reason,
            requested_by=asker(), now=utc_now(), settings=servers.settings,
        )  # fmt: skip


def _totals(servers: Servers, run: int) -> Any:
    from core.clock import utc_now
    from core.database import session_scope
    from services.runs import run_view

    with session_scope(servers.engine) as session:
        return run_view(session, run, utc_now())


def _estimate(servers: Servers, asked: _Asked) -> Estimate:
    from core.clock import utc_now
    from core.database import session_scope
    from services.estimates import estimate

    with session_scope(servers.engine) as session:
        return estimate(
            session, asked.scope, first_day=asked.first_day, only=asked.only, reason=asked.reason, now=utc_now(),
            settings=servers.settings,
        )  # fmt: skip


def _ask_if_large(servers: Servers, asked: _Asked) -> None:
    """Ask a person, if there is one, before much is done again; nothing is locked while he thinks."""
    from core.database import session_scope
    from services.estimates import scope_size

    with session_scope(servers.engine) as session:
        if scope_size(session, asked.scope, asked.first_day) <= LARGE:
            return
    figures = _estimate(servers, asked)
    if figures.simulations <= LARGE:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"this does {figures.simulations:,} simulations again: say --yes, or look with --dry-run")
    note(_sentence(figures))
    if not typer.confirm("Do it?", err=True):
        raise UsageError("nothing was done")


def _some(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _sentence(figures: Estimate) -> str:
    measured = "as measured" if figures.measured else "nothing has been measured yet"
    return (
        f"{_some(figures.simulations, 'simulation')} of {_some(figures.users, 'user')},"
        f" {figures.first_day} to {figures.through};"
        f" estimated {figures.seconds:,.1f} s at {figures.speed:,.0f} user-days/s ({measured})"
    )


def _show(figures: Estimate, *, json: bool) -> None:
    if json:
        print_json({"dry_run": True, "run": None} | dataclasses.asdict(figures))
        return
    if not figures.simulations:
        note("nobody of them has anything to be done again: nothing to do")
        return
    replaced = "counted" if figures.rows_counted else "by the statistics of the partitions"
    measured = "measured" if figures.measured else "assumed"
    print_table(
        ["dry run: nothing was written", "value>"],
        [
            ("users", figures.users),
            ("simulations", figures.simulations),
            (f"days, {figures.first_day} to {figures.through}", figures.days),
            ("user-days", figures.user_days),
            ("batches", figures.batches),
            (f"rows replaced, {replaced}", figures.rows_replaced),
            (f"estimated seconds, at {cell(round(figures.speed))} user-days/s as {measured}", figures.seconds),
        ],
    )
    print_table(
        ["user>", "simulation>", "strategy", "from"],
        [(str(one.user_id), str(one.simulation_id), one.strategy, one.first_day) for one in figures.sample],
        title="Some of them",
    )


def _only(word: str) -> Only:
    from services.scopes import Only

    if word not in list(Only):
        raise UsageError(f"--only: {word!r} is none of {', '.join(Only)}")
    return Only(word)


def _ids_from(source: str) -> list[int]:
    """The ids of a file or of stdin: one a line; empty lines and those that begin with # are left out."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--users-from: {source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--users-from: {source} is not a text in UTF-8") from None
    ids = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if not (word.isascii() and word.isdigit() and len(word) < 20 and 0 < int(word) < 2**63):
            raise UsageError(f"--users-from, line {number}: {word[:40]!a} is no id of a user")
        ids.append(int(word))
    if not ids:
        raise UsageError(f"--users-from: there is no id in {'stdin' if source == '-' else source}")
    return ids
