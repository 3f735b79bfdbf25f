"""Prices that are held back: kept with what was expected, until the next window, a second source or a person decides.

A held price is never deleted: what became of it, when, and by whom, stays in its row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.ticks import from_ticks
from services.price_checks import Decision, Held, Verdict

HeldKind = Literal["tick", "close"]


class NewHeld(NamedTuple):
    """A price to be held: whose, when, what, what was expected and how far it is from that.

    `verdict`: what became of it already, by a later price of the same answer.
    """

    asset_id: int
    ts: datetime
    price: int
    reference: int
    decision: Decision
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class HeldView:
    """A held price as people see it; prices in units, distances in percent of the expected price."""

    id: int
    symbol: str
    source: str
    kind: str
    ts: datetime
    price: Decimal
    expected: Decimal
    jump_percent: float
    allowed_percent: float
    status: str
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None


def held_of(session: Session, kind: HeldKind, asset_ids: Sequence[int]) -> dict[int, list[Held]]:
    """What is held of these assets, the oldest first."""
    found: dict[int, list[Held]] = defaultdict(list)
    for row in session.execute(_HELD, {"kind": kind, "assets": list(asset_ids)}):
        found[row.asset_id].append(Held(row.id, row.source, row.ts, row.price))
    return found


def hold(session: Session, kind: HeldKind, source: str, prices: Sequence[NewHeld], *, now: datetime) -> int:
    """Hold these prices; the number of those that were not held before."""
    if not prices:
        return 0
    values = {
        "assets": [one.asset_id for one in prices],
        "moments": [one.ts for one in prices],
        "prices": [one.price for one in prices],
        "references": [one.reference for one in prices],
        "jumps": [one.decision.jump_ppm for one in prices],
        "bands": [one.decision.band_ppm for one in prices],
        "verdicts": [None if one.verdict is None else str(one.verdict) for one in prices],
        "source": source,
        "kind": kind,
        "now": now,
    }
    return session.execute(_HOLD, values).rowcount  # type: ignore[attr-defined,no-any-return]  # a CursorResult


def settle(session: Session, verdicts: Mapping[int, Verdict], *, by: str, now: datetime) -> None:
    """Write down what became of held prices, by id."""
    if verdicts:
        values = {"ids": list(verdicts), "verdicts": [str(verdict) for verdict in verdicts.values()]}
        session.execute(_SETTLE, values | {"now": now, "by": by})


def list_held(
    session: Session, *, everything: bool = False, limit: int = 100, before: int | None = None
) -> list[HeldView]:
    """What is held, the newest first; `everything`: what was ever held; `before`: older than the one of this id."""
    return [
        HeldView(
            row.id, row.symbol, row.source, row.kind, row.ts, from_ticks(row.price), from_ticks(row.reference),
            row.jump_ppm / 10_000, row.band_ppm / 10_000, row.status, row.created_at, row.decided_at, row.decided_by,
        )
        for row in session.execute(_LIST, {"everything": everything, "limit": limit, "before": before})
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taken:
    """A held price that a person decides about."""

    id: int
    asset_id: int
    symbol: str
    source: str
    kind: str
    ts: datetime
    price: int


def take_held(session: Session, held_id: int) -> Taken:
    """The held price of this id, locked until the transaction ends.

    Raises:
        UsageError: there is none, or it is decided already.
    """
    row = session.execute(_TAKE, {"id": held_id}).one_or_none()
    if row is None:
        raise UsageError(f"there is no held price {held_id}: nightshift prices held lists them")
    if row.status != "held":
        raise UsageError(f"the price {held_id} of {row.symbol} is {row.status} already, by {row.decided_by}")
    return Taken(row.id, row.asset_id, row.symbol, row.source, row.kind, row.ts, row.price)


_HELD = text(
    "SELECT id, asset_id, source, ts, price FROM held_prices"
    " WHERE status = 'held' AND kind = :kind AND asset_id = ANY(:assets) ORDER BY ts"
)
_HOLD = text(
    """
    INSERT INTO held_prices (
        asset_id, source, kind, ts, price, reference, jump_ppm, band_ppm, created_at, status, decided_at, decided_by
    )
    SELECT asset_id, :source, :kind, ts, price, reference, jump, band, :now, coalesce(verdict, 'held'),
        CASE WHEN verdict IS NOT NULL THEN CAST(:now AS timestamptz) END, CASE WHEN verdict IS NOT NULL THEN :source END
    FROM unnest(CAST(:assets AS int[]), CAST(:moments AS timestamptz[]), CAST(:prices AS bigint[]),
        CAST(:references AS bigint[]), CAST(:jumps AS bigint[]), CAST(:bands AS bigint[]), CAST(:verdicts AS text[]))
        AS n (asset_id, ts, price, reference, jump, band, verdict)
    ON CONFLICT (asset_id, source, kind, ts) DO NOTHING
    """
)
_SETTLE = text(
    """
    UPDATE held_prices h SET status = v.verdict, decided_at = :now, decided_by = :by
    FROM unnest(CAST(:ids AS bigint[]), CAST(:verdicts AS text[])) AS v (id, verdict)
    WHERE h.id = v.id AND h.status = 'held'
    """
)
_LIST = text(
    """
    SELECT h.*, a.symbol FROM held_prices h JOIN assets a ON a.id = h.asset_id
    WHERE (:everything OR h.status = 'held') AND h.id < coalesce(:before, 9223372036854775807)
    ORDER BY h.id DESC LIMIT :limit
    """
)
_TAKE = text(
    "SELECT h.*, a.symbol FROM held_prices h JOIN assets a ON a.id = h.asset_id WHERE h.id = :id FOR UPDATE OF h"
)
