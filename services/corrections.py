"""A close that changes after nights used it leaves no trace of its old value: what depends on it is done again.

Exactly the simulations whose days may depend on it are done again, from the day of the change on, and come out as if
the right price had been there from the start. That is every simulation that has such an asset among its own, not only
those that hold it: a signal sees the closes of assets of which nothing is held, and rebalancing buys what it sees fall.
A change before a simulation's start counts as well, as far back as signals look. Nobody else is touched.

The change, its record in `price_corrections`, the run and its scope are one transaction. It holds the planning lock
from when it looks which nights there are until it ends, so that no night is planned in between that would load the old
close and be taken for one that loads the new. Whoever changes closes locks them first and then this, never the other
way round.

That transaction also raises the version of the closes, by which workers know that the market they keep is old
(services.market_data). What counts is any change of a day that a night has come to or is planned for, whether or not
somebody has to be done again for it: of a simulation that is added later, nobody else would tell. A close of a later
day counts nothing: no run that has loaded a market looks so far. So the ticks of today, which come every five minutes,
leave every market as it is. One case is left out: a backdated simulation that is added while this transaction looks
for those to be done again, and is brought up before it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.clock import EPOCH
from core.errors import UsageError
from core.settings import Settings
from engine.strategies.base import MAX_LOOKBACK
from models.ticks import from_ticks
from price_sources.closes import price_from_text, shown
from services.closed_days import is_closed
from services.locks import PLANNING_LOCK
from services.reprocessing import Request, begin_scoped_run, cut_scoped_run

# Of so many assets at most, an index-free look at each simulation's array is faster than taking all arrays apart.
_FEW_ASSETS = 16
_SHOWN_SYMBOLS = 20


class CloseChange(NamedTuple):
    """A close that was recorded or changed, in ticks; `old` is None where there was none."""

    asset_id: int
    day: date
    old: int | None
    new: int


@dataclass(frozen=True, slots=True)
class Correction:
    """A corrected close, in units; the run that does the days again, None if no simulation's day depends on it."""

    symbol: str
    day: date
    old: Decimal | None
    new: Decimal
    run: int | None
    simulations: int


class Recorded(StrEnum):
    """Which changes `price_corrections` keeps besides those that days of simulations depend on."""

    USED = "used"
    """Closes of a night that had another value."""
    REPLACED = "replaced"
    """All closes that had another value."""
    ALL = "all"


def may_be_known(day: date, now: datetime, settings: Settings) -> bool:
    """Whether a night may have used closes of the day: in development, where days pass faster, of any."""
    return settings.dev_night_every is not None or day < now.date()


def plan_corrections(
    session: Session,
    changes: Sequence[CloseChange],
    *,
    reason: str,
    requested_by: str,
    now: datetime,
    settings: Settings,
) -> int | None:
    """Record the changes that nights depend on, and plan the run that does those nights again; its id.

    To be called after the closes were changed, in the same transaction. Closes of today or later cost nothing, unless
    nights of such days are run, in development. None if there is nothing to be done again: no night has come to these
    days, or nobody has the assets.
    """
    past = [change for change in changes if may_be_known(change.day, now, settings)]
    newest = _newest_night(session) if past else None
    if newest is None:
        return None
    used = [change for change in past if change.day <= newest and change.old != change.new]
    if not used:
        return None
    make_changes_table(session)
    columns = [list(column) for column in zip(*used, strict=True)]
    session.execute(_FILL, dict(zip(CloseChange._fields, columns, strict=True)))
    return plan_changes(session, Recorded.USED, Request(reason, requested_by, now), settings)


def correct_close(  # noqa: PLR0913 - what a person says, by name
    session: Session,
    symbol: str,
    day: date,
    price: str,
    *,
    reason: str,
    requested_by: str,
    now: datetime,
    settings: Settings,
    closed_day: bool = False,
) -> Correction:
    """Set the close of a day to the price that a person says it was, and plan what depends on it.

    No source and no import changes it afterwards. `closed_day`: a day without a close may be one on which the asset's
    market is closed; a close that is there is corrected whatever its day.

    Raises:
        UsageError: there is no such symbol, the day is not over or before 2000, `price` is no price, the close is this
            already, or the market is closed on that day and nobody said that this is meant.
    """
    asset = None if not symbol.isprintable() else session.execute(_ASSET, {"symbol": symbol}).one_or_none()
    if asset is None:
        raise UsageError(f"unknown symbol {shown(symbol)}: import its prices first")
    if day >= now.date():
        raise UsageError(f"the day {day} is not over yet (it is {now:%Y-%m-%d %H:%M} UTC): it has no close to correct")
    if day < EPOCH:
        raise UsageError(f"the day {day} is before {EPOCH}: nights see no close of it")
    try:
        new = price_from_text(price)
    except ValueError as error:
        raise UsageError(f"the price {error}") from None
    session.execute(text("LOCK TABLE closes IN SHARE ROW EXCLUSIVE MODE"))
    sees_to_its_changes(session)
    key = {"asset_id": asset.id, "day": day}
    old: int | None = session.execute(_OLD, key).scalar_one_or_none()
    if old == new:
        raise UsageError(f"the close of {symbol} on {day} is {from_ticks(new)} already: nothing to do")
    if old is None and not closed_day and is_closed(asset.calendar, day):
        raise UsageError(
            f"the market of {symbol} is closed on {day:%A} {day} (calendar {asset.calendar}) and has no close to"
            " correct: is it another day? With --closed-day it gets one, and nights trade on it"
        )
    session.execute(_SET, key | {"new": new, "now": now})
    make_changes_table(session)
    session.execute(_FILL, {"asset_id": [asset.id], "day": [day], "old": [old], "new": [new]})
    run = plan_changes(session, Recorded.ALL, Request(reason, requested_by, now), settings)
    simulations: int = session.execute(_COUNT, {"run": run}).scalar_one()
    return Correction(symbol, day, None if old is None else from_ticks(old), from_ticks(new), run, simulations)


def sees_to_its_changes(session: Session) -> None:
    """Say that this transaction, which is about to change closes, raises their version itself if that is needed.

    Of whoever does not say so, a trigger raises it (migration 0010): workers would go on with the closes they know.
    """
    session.execute(_PLANNED)


def make_changes_table(session: Session) -> None:
    """Make `pg_temp.close_changes`, empty, to be filled for `plan_changes`; it is gone when the transaction ends."""
    session.execute(text("DROP TABLE IF EXISTS pg_temp.close_changes"))
    session.execute(_CHANGES)


def plan_changes(session: Session, recorded: Recorded, request: Request, settings: Settings) -> int | None:
    """As `plan_corrections`, of the changes in `pg_temp.close_changes`."""
    newest = _newest_night(session)
    used = session.execute(_USED, {"newest": newest}).one()
    run = None
    if used.closes and newest is not None:
        session.execute(_NEXT_VERSION)
        symbols = list(session.execute(_SYMBOLS, {"newest": newest, "limit": _SHOWN_SYMBOLS}).scalars())
        scope = {"closes": used.closes, "assets": symbols, "from": str(used.first)}
        run = begin_scoped_run(session, newest, scope, request, settings)
        few = used.assets if len(used.assets) <= _FEW_ASSETS else None
        values = {"run": run, "newest": newest, "lookback": MAX_LOOKBACK}
        session.execute(_FIND_FEW if few else _FIND, values | ({"assets": few} if few else {}))
        if not cut_scoped_run(session, run, settings):
            run = None
    session.execute(
        _RECORD,
        {
            "run": run,
            "newest": newest,
            "replaced": recorded is Recorded.REPLACED,
            "all": recorded is Recorded.ALL,
            "reason": request.reason,
            "by": request.requested_by,
            "now": request.now,
        },
    )
    return run


def _newest_night(session: Session) -> date | None:
    """The newest day that a night has come to or may come to; from now on nobody plans another one."""
    # First, for whoever changes closes by hand has it until he commits: nights are planned while we wait for him.
    session.execute(_HOLD_VERSION)
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PLANNING_LOCK})
    newest: date | None = session.execute(_NEWEST_NIGHT).scalar_one()
    return newest


_ASSET = text("SELECT id, calendar FROM assets WHERE symbol = :symbol")
_OLD = text("SELECT close FROM closes WHERE asset_id = :asset_id AND day = :day")
_COUNT = text("SELECT count(*) FROM run_simulations WHERE run_id = :run")
_SET = text(
    """
    INSERT INTO closes (day, asset_id, close, source, recorded_at, kind)
    VALUES (:day, :asset_id, :new, 'correction', :now, 'correction')
    ON CONFLICT (day, asset_id) DO UPDATE
    SET close = excluded.close, source = excluded.source, recorded_at = excluded.recorded_at, kind = excluded.kind,
        as_of = NULL
    """
)
_CHANGES = text(
    """
    CREATE TEMPORARY TABLE close_changes (
        asset_id integer NOT NULL, day date NOT NULL, old bigint, new bigint NOT NULL
    ) ON COMMIT DROP
    """
)
_FILL = text(
    """
    INSERT INTO pg_temp.close_changes
    SELECT * FROM unnest(
        CAST(:asset_id AS integer[]), CAST(:day AS date[]), CAST(:old AS bigint[]), CAST(:new AS bigint[])
    )
    """
)
# Planned ones too: a night that is planned now may have begun before this transaction ends. Days that were missed have
# no rows; the night that brings simulations up over them counts.
_NEWEST_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status <> 'missed'")
_USED = text(
    """
    SELECT count(*) AS closes, min(day) AS first, array_agg(DISTINCT asset_id) AS assets
    FROM pg_temp.close_changes WHERE day <= :newest
    """
)
_PLANNED = text("SELECT set_config('nightshift.closes_planned', 'on', true)")
_HOLD_VERSION = text("SELECT FROM closes_version FOR UPDATE")
_NEXT_VERSION = text("UPDATE closes_version SET version = version + 1")
_SYMBOLS = text(
    """
    SELECT symbol FROM assets WHERE id IN (SELECT asset_id FROM pg_temp.close_changes WHERE day <= :newest)
    ORDER BY symbol COLLATE "C" LIMIT :limit
    """
)

# Of an asset, `reach` is the last start of a simulation whose first signals can still see its last changed close.
_FIND_TEXT = """
    WITH changed AS MATERIALIZED (
        SELECT asset_id, min(day) AS first, max(day) AS last
        FROM pg_temp.close_changes WHERE day <= :newest GROUP BY asset_id
    ),
    reaching AS MATERIALIZED (
        SELECT asset_id, first, coalesce((
            SELECT c.day FROM closes c WHERE c.asset_id = changed.asset_id AND c.day > changed.last
            ORDER BY c.day OFFSET :lookback LIMIT 1
        ), 'infinity') AS reach FROM changed
    )
    INSERT INTO run_simulations (run_id, user_id, simulation_id, first_day)
    SELECT :run, s.user_id, s.id, greatest(s.start_day, min(r.first))
    FROM simulations s CROSS JOIN LATERAL unnest(s.asset_ids) AS a (asset_id)
    JOIN reaching r ON r.asset_id = a.asset_id
    WHERE s.start_day <= :newest AND s.start_day <= r.reach {among}
    GROUP BY s.id
"""
_FIND = text(_FIND_TEXT.format(among=""))
_FIND_FEW = text(_FIND_TEXT.format(among="AND s.asset_ids && CAST(:assets AS integer[])"))

# A close that came late is a correction only to whom it matters: else the history of a new asset would fill the table.
_RECORD = text(
    """
    INSERT INTO price_corrections (asset_id, day, old_close, new_close, reason, requested_by, created_at, run_id)
    SELECT c.asset_id, c.day, c.old, c.new, :reason, :by, :now,
        CASE WHEN c.day <= :newest THEN CAST(:run AS bigint) END
    FROM pg_temp.close_changes c
    WHERE :all OR (c.old IS NOT NULL AND (:replaced OR c.day <= :newest))
        OR (c.old IS NULL AND c.day <= :newest AND c.asset_id IN (
            SELECT a FROM run_simulations k JOIN simulations s ON s.id = k.simulation_id
            CROSS JOIN LATERAL unnest(s.asset_ids) AS a WHERE k.run_id = :run
        ))
    ORDER BY c.day, c.asset_id
    """
)
