"""`nightshift schedule`, `health`, `cancel`, `pause`, `resume`: what operators ask and order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import Json, answering_workers, check_redis, connected, note, print_json, print_table
from scripts.errors import FAILED, UNREACHABLE

if TYPE_CHECKING:
    from services.run_control import Replaced
    from services.runs import RunView


def schedule(json: Json = False) -> None:
    """Each schedule: its last run, how that ended, the next."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.scheduler import scheduler_status

    with connected() as servers, session_scope(servers.engine) as session:
        now = utc_now()
        found = scheduler_status(session, now=now, settings=servers.settings)
    if json:
        print_json({"now": now, "schedules": [view.as_json() for view in found]})
    else:
        print_table(
            ["name", "every", "last run, UTC", "result", "error", "next run, UTC"],
            [[view.name, view.every, view.last_run, view.result, view.error, view.next_run] for view in found],
        )


def health(json: Json = False) -> None:
    """Ask database, Redis, workers, beat and prices. Exit code 1 if one of them is ill, 3 if a server is away."""
    from core.clock import utc_now
    from services.health import check_health

    with connected() as servers:
        checked = check_health(
            servers.engine,
            servers.urls.redis_url,
            lambda: answering_workers(servers),
            now=utc_now(),
            settings=servers.settings,
        )
    if json:
        print_json(checked.as_json())
    else:
        print_table(
            ["check", "ok", "detail", "seconds>"],
            [[check.name, check.ok, check.detail, check.seconds] for check in checked.checks],
        )
    ill = [check for check in checked.checks if not check.ok]
    if ill:
        note(f"nightshift: ill: {', '.join(f'{check.name} ({check.detail})' for check in ill)}")
        raise typer.Exit(UNREACHABLE if {"database", "redis"} & {check.name for check in ill} else FAILED)


def cancel(run: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Cancel a run. No further batch of it is begun; what is committed stays."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.run import who_was_left_out
    from services.completion import finish_runs
    from services.run_control import replaced_by
    from services.runs import cancel_run, run_view

    with connected() as servers:
        with session_scope(servers.engine) as session:
            cancel_run(session, run, utc_now())
        # Nothing may be left to wait for: then it is over now, and not at beat's next tick.
        finish_runs(servers.engine, now=utc_now())
        with session_scope(servers.engine) as session:
            view, replaced = run_view(session, run, utc_now()), replaced_by(session, run)
    if json:
        print_json(_fields(view) | {"replaced": replaced})
        return
    state = "is cancelled" if view.status == "cancelled" else "will end after the batches in work"
    note(f"run {run} {state}: {view.batches_done} of {view.batches} batches were done")
    if view.kind == "reprocess":
        note(_said(replaced) + f" (nightshift batches {run} shows which)")
    elif replaced.batches_left:
        note(who_was_left_out(view))


def pause(run: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Pause a reprocess until it is resumed. Batches in work end, no other is begun. Nights cannot be paused."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.run_control import pause_run, replaced_by

    with connected() as servers, session_scope(servers.engine) as session:
        view = pause_run(session, run, utc_now())
        replaced = replaced_by(session, run)
    if json:
        print_json(_fields(view) | {"replaced": replaced})
    else:
        note(f"run {run} is paused: {_said(replaced)}; nightshift resume {run} lets it go on")


def resume(run: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Let a paused reprocess go on."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.run import publisher_of, warn_if_nobody_works
    from services.relay import publish_planned
    from services.run_control import resume_run

    with connected() as servers:
        check_redis(servers.urls.redis_url)
        with session_scope(servers.engine) as session:
            view = resume_run(session, run, utc_now())
        with publisher_of(servers) as publish:
            in_flight = servers.settings.reprocess_in_flight
            publish_planned(servers.engine, publish, now=utc_now(), in_flight=in_flight)
        note(f"run {run} goes on: {view.batches_done} of {view.batches} batches were done")
        warn_if_nobody_works(servers)
    if json:
        print_json(view)


def _fields(view: RunView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__dataclass_fields__}


def _said(replaced: Replaced) -> str:
    parts = [_some(replaced.batches, replaced.users, "has its new days", "have their new days")]
    if replaced.batches_in_work:
        parts.append(_some(replaced.batches_in_work, replaced.users_in_work, "is in work", "are in work"))
    parts.append(_some(replaced.batches_left, replaced.users_left, "keeps its old ones", "keep their old ones"))
    return ", ".join(parts)


def _some(batches: int, users: int, one: str, many: str) -> str:
    counted = "1 batch" if batches == 1 else f"{batches:,} batches"
    return f"{counted} ({users:,} user{'' if users == 1 else 's'}) {one if batches == 1 else many}"
