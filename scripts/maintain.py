"""`nightshift maintain`: what retention would make and drop, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.cli import Json, connected, note, print_json, print_table

if TYPE_CHECKING:
    from services.retention import Due, Maintained

_MIB = 2**20


def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Make partitions ahead, drop what is no longer kept. Freeze what will not change; beat does all that by itself."""
    from core.clock import utc_now
    from services import retention

    with connected() as servers:
        if dry_run:
            due = retention.due(servers.engine, now=utc_now(), settings=servers.settings)
            if json:
                print_json(due)
            else:
                _show_due(due)
            return
        done = retention.maintain(servers.engine, now=utc_now(), settings=servers.settings)
    if json:
        print_json(done)
    else:
        _show_done(done)
    if done.stopped is not None:
        note(f"stopped: {done.stopped}; the next time goes on")


def _show_due(due: Due) -> None:
    rows: list[list[Any]] = [["make", name, "", ""] for name in due.make]
    rows += [["drop", going.name, "", f"{going.bytes / _MIB:,.1f}"] for going in due.drop]
    rows += [["delete", table, count, ""] for table, count in due.expired.items() if count]
    if due.summarise:
        rows.append(["summarise", "runs", due.summarise, ""])
    rows += [["freeze", thawed.name, "", f"{thawed.bytes / _MIB:,.1f}"] for thawed in due.freeze]
    print_table(["what", "where", "rows>", "MiB>"], rows)
    found = due.horizon
    if found.moves:
        note(f"every day from {found.possible} on is kept, before it the last of each month")
    if found.held_by is not None:
        note(f"run {found.held_by} is open and needs days before {found.due}: they go when it has ended")


def _show_done(done: Maintained) -> None:
    rows: list[list[Any]] = [["made", name, "", ""] for name in done.made]
    if done.dropped:
        rows.append(["dropped", _range(done.dropped), len(done.dropped), f"{done.dropped_bytes / _MIB:,.1f}"])
    rows += [["deleted", table, count, ""] for table, count in done.deleted.items() if count]
    if done.archived:
        rows.append(["archived", "newest rows of simulations that were left out", done.archived, ""])
    if done.cleared:
        rows.append(["cleared", "rows of the archive", done.cleared, ""])
    if done.summarised:
        rows.append(["summarised", "runs", done.summarised, ""])
    if done.frozen:
        rows.append(["frozen", _range(done.frozen), len(done.frozen), ""])
    print_table(["what", "where", "number>", "MiB>"], rows)
    if done.daily_from is not None:
        note(f"every day from {done.daily_from} on is kept, before it the last of each month")


def _range(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
