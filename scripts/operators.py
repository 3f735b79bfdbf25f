"""`nightshift operators`: who may look and act on the status page."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from scripts.cli import Json, asker, connected, note, print_json, print_table

if TYPE_CHECKING:
    from services.audit import Actor

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="The account's name: small letters, digits and . _ @ -")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin instead of asking.")
]


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer: looks; operator: acts, too.")] = "viewer",
    password_stdin: FromStdin = False,
) -> None:
    """Make an account. From the first one on, the status page shows nothing without a login."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.audit import record
    from services.operators import add_operator

    with connected(migrate_own=True) as servers:
        password = _password(from_stdin=password_stdin)
        with session_scope(servers.engine) as session:
            now = utc_now()
            add_operator(session, name, role, password, now=now)
            record(session, _me(), "operators add", now=now, target=name, detail={"role": role})
    note(f"made {name}, {role}")


@app.command("list")
def list_(json: Json = False) -> None:
    """All accounts, their roles and when they were last seen."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.operators import list_operators

    with connected() as servers, session_scope(servers.engine) as session:
        found = list_operators(session, utc_now())
    if json:
        print_json(found)
    elif found:
        print_table(
            ["name", "role", "made", "password of", "sessions>", "last seen"],
            [[one.name, one.role, one.created_at, one.password_set_at, one.sessions, one.seen_at] for one in found],
        )
    else:
        note("there are none: nightshift operators add NAME --role operator")


@app.command()
def remove(name: Name) -> None:
    """Remove an account and log it out everywhere. What it did stays in the audit trail."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.audit import record
    from services.operators import remove_operator

    with connected() as servers, session_scope(servers.engine) as session:
        remove_operator(session, name)
        record(session, _me(), "operators remove", now=utc_now(), target=name)
    note(f"removed {name}")


@app.command()
def password(name: Name, password_stdin: FromStdin = False) -> None:
    """Give an account another password, and log it out everywhere."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.audit import record
    from services.operators import set_password

    with connected() as servers:
        new = _password(from_stdin=password_stdin)
        with session_scope(servers.engine) as session:
            now = utc_now()
            set_password(session, name, new, now=now)
            record(session, _me(), "operators password", now=now, target=name)
    note(f"{name} has another password, and is logged out")


def _password(*, from_stdin: bool) -> str:
    """Asked for twice on a terminal, where nobody sees it; never on the command line, which everybody may read."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for a password: say --password-stdin")
    typed = getpass.getpass("password: ")
    if getpass.getpass("the same again: ") != typed:
        raise UsageError("these were two different passwords: nothing was done")
    return typed


def _me() -> Actor:
    from services.audit import Actor

    return Actor(asker(), None)
