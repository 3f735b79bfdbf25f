"""What a run has changed, for people: read-only views of `portfolio_revisions`.

The largest change of equity comes first. Of a simulation that had no row on its last day, or has none any more, there
is no difference to tell: those come last, and totals count them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.ticks import from_ticks

_ROWS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Change:
    """A simulation that changed; amounts in units.

    Attributes:
        first_changed_day: the first day whose equity is another.
        last_day: the newest day that it had or has; equities are those of its close.
        old_equity, new_equity: None where there was no row, or is none any more.
        difference, percent: new less old, and that in percent of the old, to four decimals.
    """

    user_id: int
    simulation_id: int
    first_changed_day: date
    last_day: date
    old_equity: Decimal | None
    new_equity: Decimal | None
    difference: Decimal | None
    percent: Decimal | None


@dataclass(frozen=True, slots=True)
class ChangeTotals:
    """Simulations of a run's scope, as far as its batches are done; amounts in units.

    Attributes:
        changed: of whom `appeared` had no row on their last day before, and `gone` have none any more.
        kept: those whose batches are not done: they have their old days.
        difference: the sum over those with both equities.
    """

    run: int
    status: str
    changed: int
    appeared: int
    gone: int
    unchanged: int
    kept: int
    difference: Decimal


def change_totals(session: Session, run_id: int) -> ChangeTotals:
    """How many simulations a run has changed, and by how much together.

    Raises:
        UsageError: there is no such run, or it is a night: that adds days and changes none.
    """
    run = session.execute(_RUN, {"run": run_id}).one_or_none()
    if run is None:
        raise UsageError(f"there is no run {run_id}: nightshift runs lists them")
    if run.kind == "nightly":
        raise UsageError(f"run {run_id} is a night, which adds days and changes none: --changes is for reprocesses")
    found = session.execute(_TOTALS, {"run": run_id}).one()
    return ChangeTotals(
        run=run_id,
        status=run.status,
        changed=found.changed,
        appeared=found.appeared,
        gone=found.gone,
        # Of an old run, who was in its scope is forgotten.
        unchanged=max(found.done - found.changed, 0),
        kept=found.scope - found.done,
        difference=from_ticks(found.difference),
    )


def changes_of(session: Session, run_id: int, limit: int | None = None) -> Iterator[Change]:
    """The changes of a run, largest first; rows come as they are asked for, as long as the session is open."""
    options = {"stream_results": True, "yield_per": _ROWS_AT_ONCE}
    for row in session.execute(_CHANGES, {"run": run_id, "limit": limit}, execution_options=options):
        yield _change(row)


def _change(row: Row[Any]) -> Change:
    old, new, difference = (
        None if ticks is None else from_ticks(ticks) for ticks in (row.old_equity, row.new_equity, row.difference)
    )
    return Change(
        row.user_id, row.simulation_id, row.first_changed_day, row.last_day, old, new, difference, row.percent
    )


_RUN = text("SELECT kind, status FROM runs WHERE id = :run")
_TOTALS = text(
    """
    SELECT v.*, (SELECT count(*) FROM run_simulations WHERE run_id = :run) AS scope, (
        SELECT count(*) FROM batches b
        JOIN run_simulations k ON k.run_id = b.run_id AND k.user_id >= b.user_lo AND k.user_id < b.user_hi
        WHERE b.run_id = :run AND b.status = 'done'
    ) AS done
    FROM (
        SELECT count(*) AS changed, count(*) FILTER (WHERE old_equity IS NULL) AS appeared,
            count(*) FILTER (WHERE new_equity IS NULL) AS gone,
            coalesce(sum(new_equity::numeric - old_equity), 0) AS difference
        FROM portfolio_revisions WHERE run_id = :run
    ) AS v
    """
)
_CHANGES = text(
    """
    SELECT v.*, new_equity::numeric - old_equity AS difference,
        round(100 * (new_equity::numeric - old_equity) / nullif(old_equity, 0), 4) AS percent
    FROM portfolio_revisions v WHERE run_id = :run
    ORDER BY abs(new_equity::numeric - old_equity) DESC NULLS LAST, simulation_id LIMIT :limit
    """
)
