"""A person decides about a held price: it becomes a price like others, or it never does; his name stays with it."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from services.believed_prices import BelievedPrice, believed_prices, write_believed
from services.closes import CandleClose, TickClose, write_candles, write_last_ticks
from services.held_prices import take_held
from services.price_checks import Believed
from services.price_store import insert_ticks, lock_prices

_DECIDE = text("UPDATE held_prices SET status = :status, decided_at = :now, decided_by = :by WHERE id = :id")


def accept_held(session: Session, held_id: int, *, by: str, now: datetime, settings: Settings) -> int | None:
    """Use a held price as if it had been believed at once; the run that does again what used another, if any.

    Raises:
        UsageError: there is no such price, or it is decided already.
    """
    lock_prices(session)
    held = take_held(session, held_id)
    session.execute(_DECIDE, {"id": held_id, "status": "accepted", "by": by, "now": now})
    if held.kind == "close":
        candle = CandleClose(held.asset_id, held.ts.astimezone(UTC).date(), held.price)
        return write_candles(session, [candle], source=held.source, now=now, settings=settings).run
    insert_ticks(session, [(held.asset_id, held.ts, held.price, held.source)])
    known = believed_prices(session, [held.asset_id], now).get(held.asset_id)
    if known is None or known.price.ts <= held.ts:
        # How much it moves is not learnt from a jump that needed a person.
        variance = known.price.variance if known else None
        write_believed(session, {held.asset_id: BelievedPrice(held.source, Believed(held.ts, held.price, variance))})
    tick = TickClose(held.asset_id, held.ts, held.price)
    return write_last_ticks(session, [tick], source=held.source, now=now, settings=settings).run


def reject_held(session: Session, held_id: int, *, by: str, now: datetime) -> None:
    """Never use a held price.

    Raises:
        UsageError: as `accept_held`.
    """
    take_held(session, held_id)
    session.execute(_DECIDE, {"id": held_id, "status": "rejected", "by": by, "now": now})
