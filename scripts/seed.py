"""`nightshift seed`: sample users, the same for the same seed and prices."""

from __future__ import annotations

from typing import Annotated

import typer

from scripts.cli import connected, note, parse_day, progress


def seed(
    users: Annotated[int, typer.Option(help="How many.")],
    simulations_per_user: Annotated[int, typer.Option(help="How many each of them owns.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same users.")] = 1,
    start: Annotated[
        str | None,
        typer.Option(
            help="First day of all simulations, YYYY-MM-DD; otherwise spread over the last 60 days with prices."
        ),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the users that exist.")] = False,
) -> None:
    """Add sample users with simulations of all strategies. Needs prices."""
    from services.seeding import seed as add_users

    first = parse_day(start, "--start")
    with connected(migrate_own=True) as servers, progress() as bar:
        task = bar.add_task("seeding", total=users, detail="users")
        summary = add_users(
            servers.engine,
            users=users,
            simulations_per_user=simulations_per_user,
            seed_number=seed,
            start=first,
            append=append,
            max_stale_days=servers.settings.max_stale_days,
            on_chunk=lambda done: bar.update(task, completed=done),
        )
    days = (
        f"{summary.first_day}"
        if summary.first_day == summary.last_day
        else f"{summary.first_day} to {summary.last_day}"
    )
    note(
        f"added {summary.users:,} users with {summary.simulations:,} simulations of {summary.assets} assets,"
        f" which begin on {days}"
    )
