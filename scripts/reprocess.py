"""`nightshift reprocess`: do work again."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from core.errors import UsageError
from scripts.cli import Json, check_redis, connected, interruptible, note, print_json


def reprocess(
    reason: Annotated[str, typer.Option(help="Why; kept with the run.")],
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Users in quarantine: clear and catch up.")
    ] = False,
    user: Annotated[list[int] | None, typer.Option(help="Only this user; may be given repeatedly.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done; 1 if it failed.")] = False,
    json: Json = False,
) -> None:
    """Try quarantined users again, and bring them up to the newest night."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.run import publish_and_wait
    from services.reprocessing import retry_quarantined

    if not quarantined:
        raise UsageError("say what to reprocess: --quarantined")
    if not reason.strip():
        raise UsageError("--reason must not be empty")
    with interruptible(), connected() as servers:
        check_redis(servers.urls.redis_url)
        with session_scope(servers.engine) as session:
            run_id = retry_quarantined(
                session,
                reason=reason,
                requested_by=getpass.getuser(),
                now=utc_now(),
                settings=servers.settings,
                users=user,
            )
        if run_id is None:
            note("nobody of them is in quarantine: nothing to do")
        else:
            publish_and_wait(servers, [run_id], wait=wait)
        if json:
            print_json({"run": run_id})
