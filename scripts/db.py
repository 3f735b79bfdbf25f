"""`nightshift db`: the schema of the database, the digest of a day, and the roles of whoever works with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from scripts.cli import Json, connected, note, parse_day, print_json, print_table

if TYPE_CHECKING:
    from services.roles import Rights

app = typer.Typer()


@app.command()
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    wait_minutes: Annotated[
        float, typer.Option(min=0, help="Wait so long for a night that runs, and for locks that others hold.")
    ] = 30.0,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a night: migrate beside it.")] = False,
) -> None:
    """Bring the database to this version's schema. No night and no worker waits for it longer than a second."""
    from models.migrate import Patience, steps_after
    from models.migrate import migrate as upgrade
    from models.revisions import current_revision

    with connected(check_schema=False) as servers:
        with servers.engine.connect() as connection:
            revision = current_revision(connection)
        steps = steps_after(revision)
        if steps:
            print_table(["revision", "what it brings"], [[step.revision, step.title] for step in steps])
        if dry_run:
            note(f"the database is at revision {revision or 'none'}: {len(steps)} revisions to come; nothing was done")
            return
        patience = Patience(wait=timedelta(minutes=wait_minutes), night_first=not now)
        before, after = upgrade(servers.engine, patience=patience, tell=note)
    note(f"the database is at revision {after}" + ("" if before == after else f" (was: {before or 'empty'})"))


@app.command()
def check() -> None:
    """Say whether the database answers and has this version's schema."""
    from models.revisions import head_revision

    with connected():
        note(f"the database answers and is at revision {head_revision()}")


@app.command()
def digest(
    day: Annotated[str | None, typer.Option(help="YYYY-MM-DD; the newest day with rows unless given.")] = None,
    json: Json = False,
) -> None:
    """The digest of a day's portfolio rows, recomputed from the table."""
    from services.digest import digest_of_day

    wanted = parse_day(day, "--day")
    with connected() as servers:
        result = digest_of_day(servers.engine, wanted)
    if json:
        print_json(result)
        return
    print_table(["day", "digest", "rows>"], [[result.day, result.digest, result.rows]])
    if result.rows == 0:
        note(f"there are no rows of {result.day}")
    if result.reprocessed_by:
        runs = ", ".join(map(str, result.reprocessed_by))
        note(f"done again by run {runs}: the night's own run says what it wrote before that")


@app.command()
def roles(
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords",
            help="A directory with a file for each role that gets a password: nightshift_worker_password, ….",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make the database roles, and say what each may.

    As a superuser at first; later also as nightshift_owner. After each migration again, for what it brought.
    """
    from services.roles import ROLES, read_rights, write_roles

    chosen = _passwords(passwords, [role.name for role in ROLES]) if passwords else {}
    with connected() as servers:
        made = write_roles(servers.engine, passwords=chosen)
        with servers.engine.connect() as connection:
            found = read_rights(connection)
    if json:
        print_json(found)
    else:
        print_table(["role", "may", "of"], [row for role in found for row in rows_of(role)])
    note(f"made {', '.join(made)}" if made else "the roles were there; their rights are as they should be")
    if without := [name for name in made if name not in chosen]:
        note(f"no password yet: {', '.join(without)}: give one with psql's \\password, or with --passwords")


def _passwords(directory: Path, roles: Sequence[str]) -> dict[str, str]:
    """By role, those of the files that are there."""
    if not directory.is_dir():
        raise UsageError(f"--passwords: {directory} is not a directory")
    files = {role: directory / f"{role}_password" for role in roles}
    found = {role: file.read_text("utf-8").strip() for role, file in files.items() if file.is_file()}
    if not all(found.values()):
        raise UsageError(f"--passwords: {files[min(role for role in found if not found[role])]} is empty")
    return found


def rows_of(role: Rights) -> list[tuple[str, str, str]]:
    """Of one role: what it may, of what, the tables with the same rights in one row."""
    of: dict[str, list[str]] = {}
    for right, names in role.rights.items():
        for name in names:
            of.setdefault(name, []).append(right)
    rows: dict[str, list[str]] = {}
    for name, rights in of.items():
        rows.setdefault(", ".join(sorted(rights)), []).append(name)
    rows |= {f"whatever {member} may": [] for member in role.members}
    return [(role.role, rights, ", ".join(sorted(names))) for rights, names in rows.items()]
