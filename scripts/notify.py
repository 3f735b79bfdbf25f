"""`nightshift notifications`: what is to be sent and why it was not; a test of the channels; another attempt."""

from __future__ import annotations

from typing import Annotated

import typer

from scripts.cli import Json, connected, note, print_json, print_table

app = typer.Typer()


@app.command("list")
def list_(
    given_up: Annotated[bool, typer.Option("--given-up", help="Only those that nobody tries any more.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Those that were sent, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most.")] = 50,
    json: Json = False,
) -> None:
    """Notifications that are not sent, the newest first. How often they were tried, and what went wrong."""
    from core.database import session_scope
    from services.notify_outbox import list_outbox

    with connected() as servers, session_scope(servers.engine) as session:
        found = list_outbox(session, given_up=given_up, everything=everything, limit=limit)
    if json:
        print_json([view.as_json() for view in found])
    elif found:
        print_table(
            ["id>", "kind", "state", "attempts>", "created", "next try", "error"],
            [[str(v.id), v.kind, v.state, v.attempts, v.created_at, v.not_before, v.error] for v in found],
        )
    else:
        note("nothing to show")


@app.command("test")
def try_channels(
    mail: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Send a mail there by SMTP, too.")] = None,
    json: Json = False,
) -> None:
    """Send a short message through every channel now. Exit code 1 if one of them does not take it."""
    from core.clock import utc_now
    from core.settings import get_settings
    from scripts.cli import quiet_logging
    from services.notify_test import send_tests

    settings = get_settings()
    quiet_logging(settings)
    results = send_tests(settings, mail=mail, now=utc_now())
    if json:
        print_json([{"channel": name, "error": error} for name, error in results])
    else:
        print_table(["channel", "ok", "error"], [[name, error is None, error] for name, error in results])
    if any(error for _, error in results):
        raise typer.Exit(1)


@app.command()
def retry(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of notifications; none: all that are given up.")] = None,
    json: Json = False,
) -> None:
    """Have notifications tried again at once, with all their attempts."""
    from core.database import session_scope
    from services.notify_outbox import retry as again

    with connected() as servers, session_scope(servers.engine) as session:
        count = again(session, ids or None)
    if json:
        print_json({"retried": count})
    else:
        note(f"{count} will be tried again")
