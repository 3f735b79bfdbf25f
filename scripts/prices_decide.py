"""`nightshift prices correct`, `held`: a person's word on prices."""

from __future__ import annotations

from typing import Annotated

import typer

from core.errors import UsageError
from scripts.cli import (
    Json,
    asker,
    check_redis,
    connected,
    interruptible,
    note,
    parse_day,
    print_json,
    print_table,
)

Reason = Annotated[str, typer.Option(help="Why; kept with it.")]


def correct(
    symbol: str,
    day: Annotated[str, typer.Argument(help="YYYY-MM-DD.")],
    price: Annotated[str, typer.Argument(help="The right close, in units: 123.45.")],
    reason: Reason,
    closed_day: Annotated[
        bool, typer.Option("--closed-day", help="Also where the market is closed that day and there is no close.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until everything that used the old one is done again.")] = False,
    json: Json = False,
) -> None:
    """Correct a close, and do again what depends on it. Exactly the simulations that may."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.run import publish_and_wait
    from services.corrections import correct_close

    when = parse_day(day, "DAY")
    assert when is not None  # noqa: S101 - it is no option
    if not reason.strip():
        raise UsageError("--reason must not be empty")
    with interruptible(), connected() as servers:
        check_redis(servers.urls.redis_url)
        with session_scope(servers.engine) as session:
            done = correct_close(
                session, symbol, when, price, reason=reason, requested_by=asker(), now=utc_now(),
                settings=servers.settings, closed_day=closed_day,
            )  # fmt: skip
        if done.run is not None:
            note(f"run {done.run} does {done.simulations:,} simulations again, from {when} on")
            publish_and_wait(servers, [done.run], wait=wait)
        else:
            note("no night has used that close: nothing to do again")
    if json:
        print_json(done)
    else:
        print_table(["symbol", "day", "was>", "is>"], [[done.symbol, done.day, str(done.old or "–"), str(done.new)]])


def held(
    accept: Annotated[int | None, typer.Option(help="The price of this id is right.")] = None,
    reject: Annotated[int | None, typer.Option(help="The price of this id is wrong.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    json: Json = False,
) -> None:
    """Prices that jumped too far to be believed. Lists them, or decides about one."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.decisions import accept_held, reject_held
    from services.held_prices import list_held

    if accept is not None and reject is not None:
        raise UsageError("--accept and --reject: one price at a time")
    with connected() as servers:
        with session_scope(servers.engine) as session:
            by, now = asker(), utc_now()
            if accept is not None:
                run = accept_held(session, accept, by=by, now=now, settings=servers.settings)
                note(f"price {accept} is used" + (f"; run {run} does again what used another" if run else ""))
            if reject is not None:
                reject_held(session, reject, by=by, now=now)
                note(f"price {reject} is not used")
        with session_scope(servers.engine) as session:
            found = list_held(session, everything=everything, limit=limit)
    if json:
        print_json(found)
        return
    print_table(
        ["id>", "symbol", "source", "kind", "of", "price>", "expected>", "jump %>", "allowed %>", "status", "by"],
        [
            [
                str(one.id), one.symbol, one.source, one.kind, one.ts, str(one.price), str(one.expected),
                one.jump_percent, one.allowed_percent, one.status, one.decided_by,
            ]
            for one in found
        ],
        spare=("by", "allowed %>", "kind"),
        empty="no price is held" if everything else "no held price waits for a decision",
    )  # fmt: skip
