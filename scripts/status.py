"""`nightshift status`, `runs`, `batches`, `quarantine`: what is going on, read from the tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ServerUnreachableError
from scripts.changes import SHOWN, ChangeOptions, show_changes
from scripts.cli import Json, check_redis, connected, print_json, print_table

if TYPE_CHECKING:
    from services.runs import RunView
    from services.status import Status

_RUN_COLUMNS = [
    "run>", "kind", "days", "status", "users>", "done>", "seconds>", "users/s>", "rows>", "trades>", "quarantined>",
    "equity>", "digest", "finished, UTC",
]  # fmt: skip
_SPARE_RUN_COLUMNS = ("rows>", "digest", "trades>", "users/s>", "equity>", "kind", "done>", "seconds>", "users>")


def status(
    live: Annotated[
        bool, typer.Option("--live", help="The leaderboard and the live users at the latest prices instead.")
    ] = False,
    json: Json = False,
) -> None:
    """What is wrong, and what there is. With the runbook of each problem; exit code 3: Redis is away."""
    if live:
        from scripts.live import show_live

        show_live(json=json)
        return
    current = _read_status()
    if json:
        print_json(current)
    else:
        from scripts.status_text import print_status

        print_status(current)
    if current.redis_error is not None:
        raise ServerUnreachableError(current.redis_error)


def _read_status() -> Status:
    from core.clock import utc_now
    from services.status import read_status
    from workers.app import make_app
    from workers.health import worker_queues

    with connected() as servers:
        workers: dict[str, list[str]] = {}
        # Where this command started the servers, nobody can work on them; where Redis is away, nobody answers.
        with suppress(ServerUnreachableError):
            check_redis(servers.urls.redis_url)
            if not servers.urls.owned:
                with make_app(servers.settings, servers.urls.redis_url) as app:
                    workers = worker_queues(app)
        return read_status(servers.engine, servers.urls.redis_url, workers, now=utc_now(), settings=servers.settings)


def runs(
    run: Annotated[int | None, typer.Argument(help="One run, in full.")] = None,
    changes: Annotated[bool, typer.Option("--changes", help="What a reprocess changed, and by how much.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help=f"The largest so many changes; {SHOWN}.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="All changes as CSV; - for stdout.")] = None,
    json: Json = False,
) -> None:
    """The newest runs and those at work. Or one of them, or what it changed."""
    options = ChangeOptions(changes, limit, csv, json)
    options.check(run)
    if run is not None and changes:
        show_changes(run, options)
        return
    _show_runs(run, json=json)


def _show_runs(run: int | None, *, json: bool) -> None:
    from core.clock import utc_now
    from core.database import session_scope
    from services.runs import list_runs, run_view, runs_at_work

    with connected() as servers, session_scope(servers.engine) as session:
        now = utc_now()
        if run is None:
            found = list_runs(session, now)
            shown = {run.id for run in found}
            # Behind a month of nights that are planned, what is at work is not among the newest.
            found += [older for older in runs_at_work(session, now) if older.id not in shown]
        else:
            found = [run_view(session, run, now)]
    if json:
        print_json(found if run is None else found[0])
    elif run is None:
        print_runs(found)
    else:
        fields = [(name, getattr(found[0], name)) for name in found[0].__dataclass_fields__]
        print_table(["field", "value"], fields)


def print_runs(runs: Sequence[RunView]) -> None:
    """The table of runs."""
    rows = [_run_row(view) for view in runs]
    print_table(_RUN_COLUMNS, rows, spare=_SPARE_RUN_COLUMNS, empty="there are no runs yet: nightshift run")


def state(run: RunView) -> str:
    """The status of a run, and whether it is paused or being cancelled."""
    if run.finished_at is None and run.cancel_requested:
        return f"{run.status}, being cancelled"
    return f"{run.status}, paused" if run.finished_at is None and run.paused else run.status


def _run_row(run: RunView) -> list[object]:
    days = f"{run.day}" if run.first_day == run.day else f"{run.first_day} … {run.day}"
    return [
        str(run.id), run.kind, days, state(run), run.users, run.users_done, run.seconds, run.users_per_second, run.rows,
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
        spare=("rows>", "trades>", "worker"),
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
        spare=("run>",),
        empty="nobody is in quarantine",
    )
