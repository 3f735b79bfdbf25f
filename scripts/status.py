"""`nightshift status`, `runs`, `batches`, `quarantine`: what is going on, read from the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.changes import SHOWN, ChangeOptions, show_changes
from scripts.cli import Json, answering_workers, cell, check_redis, connected, console, print_json, print_table

if TYPE_CHECKING:
    from services.runs import RunView
    from services.status import Status
    from services.window_states import WindowState

_RUN_COLUMNS = [
    "run>", "kind", "days", "status", "users>", "done>", "seconds>", "users/s>", "rows>", "trades>", "quarantined>",
    "equity>", "digest", "finished",
]  # fmt: skip


def status(
    live: Annotated[
        bool, typer.Option("--live", help="The leaderboard and the live users at the latest prices instead.")
    ] = False,
    json: Json = False,
) -> None:
    """The newest night, the queues, the workers, the prices, alerts and beat."""
    from core.clock import utc_now
    from services.status import read_status

    if live:
        from scripts.live import show_live

        show_live(json=json)
        return
    with connected() as servers:
        check_redis(servers.urls.redis_url)
        workers = answering_workers(servers)
        current = read_status(servers.engine, servers.urls.redis_url, workers, now=utc_now(), settings=servers.settings)
    if json:
        print_json(current)
    else:
        _print_status(current)


def _print_status(status: Status) -> None:
    run = status.night
    lines = [("now", f"{status.now:%Y-%m-%d %H:%M:%S} UTC")]
    if run is None:
        lines.append(("night", "none yet"))
    else:
        share = f"{100 * run.users_done / run.users:.0f} %" if run.users else "no users"
        lines.append(
            (
                "night",
                f"{run.day} · run {run.id} · {run.status} · {run.users_done:,} of {run.users:,} users ({share})",
            )
        )
        if run.users_per_second:
            lines.append(("speed", f"{run.users_per_second:,.0f} users/s"))
        if run.estimated_end:
            lines.append(("done at", f"{run.estimated_end:%H:%M:%S} UTC (estimated)"))
    lines += [
        ("next night", f"{status.next_day}, due {status.next_due:%Y-%m-%d %H:%M} UTC"),
        ("population", f"about {status.users:,} users, {status.simulations:,} simulations"),
        ("waiting", ", ".join(f"{name} {length}" for name, length in status.queues.items() if length) or "nothing"),
        ("unacked", ", ".join(f"{name} {length}" for name, length in status.unacked.items() if length) or "nothing"),
        ("workers", ", ".join(status.workers) or "none answers"),
        ("prices", f"newest close {status.newest_close or '–'}"),
        *(("source", _source(source)) for source in status.windows),
        ("quarantine", f"{status.quarantined:,}"),
        ("alerts", f"{len(status.alerts):,}" if status.alerts else "none"),
        *(("alert", f"{alert.kind} since {cell(alert.raised_at)}: {alert.detail}") for alert in status.alerts),
        ("beat", f"last tick {cell(status.last_tick)}" + (f": {status.last_tick_result}" if status.last_tick else "")),
    ]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        console().print(f"{name:>{width}}  {text}", markup=False, soft_wrap=True)


def _source(source: WindowState) -> str:
    waiting = ", ".join(f"{count:,} {status}" for status, count in source.open.items() if count)
    return f"{source.source} · newest window {cell(source.newest_done)}" + (f" · {waiting}" if waiting else "")


def runs(
    run: Annotated[int | None, typer.Argument(help="One run, in full.")] = None,
    changes: Annotated[bool, typer.Option("--changes", help="What a reprocess changed, and by how much.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help=f"The largest so many changes; {SHOWN}.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="All changes as CSV; - for stdout.")] = None,
    json: Json = False,
) -> None:
    """The newest runs, or one of them, or what that one changed."""
    options = ChangeOptions(changes, limit, csv, json)
    options.check(run)
    if run is not None and changes:
        show_changes(run, options)
        return
    _show_runs(run, json=json)


def _show_runs(run: int | None, *, json: bool) -> None:
    from core.clock import utc_now
    from core.database import session_scope
    from services.runs import list_runs, run_view

    with connected() as servers, session_scope(servers.engine) as session:
        now = utc_now()
        found = list_runs(session, now) if run is None else [run_view(session, run, now)]
    if json:
        print_json(found if run is None else found[0])
    elif run is None:
        print_runs(found)
    else:
        fields = [(name, getattr(found[0], name)) for name in found[0].__dataclass_fields__]
        print_table(["field", "value"], fields)


def print_runs(runs: Sequence[RunView]) -> None:
    """The table of runs."""
    print_table(_RUN_COLUMNS, [_run_row(view) for view in runs])


def _run_row(run: RunView) -> list[object]:
    days = f"{run.day}" if run.first_day == run.day else f"{run.first_day} … {run.day}"
    return [
        str(run.id), run.kind, days, run.status, run.users, run.users_done, run.seconds, run.users_per_second, run.rows,
        run.trades, run.quarantined, run.total_equity, run.digest, run.finished_at,
    ]  # fmt: skip


def batches(run: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """The batches of a run."""
    from core.database import session_scope
    from services.runs import list_batches

    with connected() as servers, session_scope(servers.engine) as session:
        found = list_batches(session, run)
    if json:
        print_json(found)
        return
    print_table(
        ["batch>", "users", "status", "attempts>", "seconds>", "rows>", "trades>", "quarantined>", "worker", "error"],
        [
            [
                str(b.id), f"{b.user_lo}–{b.user_hi - 1}", b.status, b.attempts, b.seconds, b.rows, b.trades,
                b.quarantined, b.worker, b.error,
            ]
            for b in found
        ],
    )  # fmt: skip


def quarantine(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100, json: Json = False
) -> None:
    """The simulations that the nights leave out, and why."""
    from core.database import session_scope
    from services.runs import list_quarantine

    with connected() as servers, session_scope(servers.engine) as session:
        found = list_quarantine(session, limit)
    if json:
        print_json(found)
        return
    print_table(
        ["user>", "simulation>", "since", "reason", "detail", "run>"],
        [
            [str(q.user_id), str(q.simulation_id or "all"), q.day, q.reason, q.detail, str(q.run_id or "–")]
            for q in found
        ],
    )
