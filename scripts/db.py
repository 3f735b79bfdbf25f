"""`nightshift db`: the schema of the database, and the digest of a day."""

from __future__ import annotations

from typing import Annotated

import typer

from scripts.cli import Json, connected, note, parse_day, print_json, print_table

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema."""
    from models.migrate import migrate as upgrade

    with connected(check_schema=False) as servers:
        before, after = upgrade(servers.engine)
    note(f"the database is at revision {after}" + ("" if before == after else f" (was: {before or 'empty'})"))


@app.command()
def check() -> None:
    """Say whether the database answers and has this version's schema."""
    from models.migrate import head_revision

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
    if result.reprocessed_by:
        runs = ", ".join(map(str, result.reprocessed_by))
        note(f"done again by run {runs}: the night's own run says what it wrote before that")
