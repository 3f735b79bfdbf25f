"""A night waits for its closes: it begins when 99 % of the assets in use have theirs, or at the price deadline.

**Which assets.** Those of the simulations that have begun by the day, whose market trades on it. An asset whose closes
ended more than `max_stale_days` before the newest close of all is not waited for, nor one that never had any: the
nights have quarantined what holds it, and waiting an hour every night would bring nothing. Measured against the newest
close of all, because an outage of everything must not make a night wait for nothing. A source that is back brings such
an asset back in the night after; the close that this night lacked is a correction, which does the day again.

**Which closes.** Those that are final: of a person, a file or the provider's daily candle. The day's last tick is so if
every source of the settings that knows the asset has answered for the day's closes and gave none; or, of an asset that
no such source knows, if it is from the last two price windows. Otherwise a better close is on its way, and a night that
does not wait for it is done twice.

**What it costs.** Beat asks every few seconds. If all assets have their close, nobody looks at the simulations. If not,
they are scanned once, the assets in use are kept in `night_waits`, and each further look counts closes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.log import get_logger
from core.settings import Settings
from schedules.calendar import due_at
from schedules.markets import WEEKDAYS, traded_on
from services.alerts import active_alerts, clear_alert, raise_alert

CLOSES_MISSING = "closes_missing"
"""The kind of the alert of a night that began without its closes; its key is `closes:{day}`."""

_KEY = "closes:"
_ENOUGH_PERCENT = 99
_LAST_WINDOWS = 2
_SHOWN = 5
_ONE_DAY = timedelta(days=1)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """How far the closes of a day are.

    Attributes:
        ready: the night may begin.
        have, expected: assets with a final close, and assets that should have one.
        missing: up to five symbols without one.
        late: the deadline has come, and there are not enough: it begins without them.
    """

    day: date
    ready: bool
    have: int
    expected: int
    deadline: datetime
    missing: list[str]
    late: bool

    def summary(self) -> str:
        """For the schedule's record, of a night that waits."""
        shown = "%H:%M" if self.deadline.date() == self.day + _ONE_DAY else "%Y-%m-%d %H:%M"
        return (
            f"the night of {self.day} waits for closes: {self.have:,} of {self.expected:,},"
            f" until {self.deadline:{shown}} at the latest"
        )


def closes_ready(session: Session, day: date, *, due: datetime, now: datetime, settings: Settings) -> Readiness:
    """Whether the night of `day`, due at `due`, may begin.

    The caller plans nights alone (`PLANNING_LOCK`); what is found out about the assets is kept when it commits.
    """
    values = _values(session, day, settings)
    if not session.execute(_IS_KEPT, {"day": day}).scalar_one():
        everything = _counted(session, _COUNT_ALL, values)
        if everything.have == everything.expected:
            return _readiness(day, everything, due=due, now=now, settings=settings)
        session.execute(_KEEP, values | {"now": now})
    return _readiness(day, _counted(session, _COUNT_KEPT, values), due=due, now=now, settings=settings)


def waiting_night(session: Session, *, now: datetime, settings: Settings) -> Readiness | None:
    """The night that waits at the moment, if one does, and how far its closes are. Changes nothing."""
    day = session.execute(_WAITING_DAY).scalar_one_or_none()
    if day is None or settings.dev_night_every is not None:
        return None
    counted = _counted(session, _COUNT_KEPT, _values(session, day, settings))
    return _readiness(day, counted, due=due_at(day, settings.nightly_at), now=now, settings=settings)


def raise_missing(session: Session, readiness: Readiness, *, now: datetime) -> None:
    """Raise the alert that a night begins without its closes. `settle_missing` clears it."""
    counted = _Counted(readiness.have, readiness.expected, readiness.missing)
    raise_alert(session, f"{_KEY}{readiness.day}", CLOSES_MISSING, counted.detail(readiness.day), now=now)


def settle_missing(session: Session, *, now: datetime, settings: Settings) -> None:
    """Clear the alerts whose closes have come since, bring the others up to date, and forget what is not waited for.

    A day that is further back than both `price_fill_days` and `catch_up_days` is given up: nobody asks a source for it
    any more, and an alert that can never end hides those that matter.
    """
    given_up = now.date() - timedelta(days=max(settings.price_fill_days, settings.catch_up_days) + 1)
    for key in sorted(alert.key for alert in active_alerts(session) if alert.kind == CLOSES_MISSING):
        day = date.fromisoformat(key.removeprefix(_KEY))
        counted = _counted(session, _COUNT_KEPT, _values(session, day, settings))
        if not counted.enough and day >= given_up:
            raise_alert(session, key, CLOSES_MISSING, counted.detail(day), now=now)
            continue
        if not counted.enough:
            raise_alert(session, key, CLOSES_MISSING, f"given up: {counted.detail(day)}", now=now)
        clear_alert(session, key, now=now)
    session.execute(_FORGET, {"prefix": _KEY})


@dataclass(frozen=True, slots=True)
class _Counted:
    have: int
    expected: int
    missing: list[str]

    @property
    def enough(self) -> bool:
        return self.have * 100 >= self.expected * _ENOUGH_PERCENT

    def detail(self, day: date) -> str:
        lacking = self.expected - self.have
        more = ", …" if lacking > len(self.missing) else ""
        return f"{lacking:,} of {self.expected:,} closes of {day} are missing: {', '.join(self.missing)}{more}"


def _readiness(day: date, counted: _Counted, *, due: datetime, now: datetime, settings: Settings) -> Readiness:
    deadline = due + timedelta(minutes=settings.price_deadline_minutes)
    late = not counted.enough and now >= deadline
    return Readiness(day, counted.enough or late, counted.have, counted.expected, deadline, counted.missing, late)


def _counted(session: Session, statement: Any, values: dict[str, Any]) -> _Counted:
    row = session.execute(statement, values).one()
    return _Counted(row.have, row.expected, row.missing or [])


def _values(session: Session, day: date, settings: Settings) -> dict[str, Any]:
    begins = datetime.combine(day, time(0), UTC)
    window = timedelta(seconds=settings.price_window_seconds)
    return {
        "day": day,
        "begins": begins,
        "ends": begins + _ONE_DAY,
        "last_windows": begins + _ONE_DAY - _LAST_WINDOWS * window,
        "calendars": _trading(session.execute(_CALENDARS).scalars(), day),
        "sources": [name.strip() for name in settings.price_sources.split(",")],
        "stale": settings.max_stale_days,
        "shown": _SHOWN,
    }


def _trading(calendars: Iterable[str], day: date) -> list[str]:
    return [calendar for calendar in calendars if _trades(calendar, day)]


@lru_cache(maxsize=1024)
def _trades(calendar: str, day: date) -> bool:
    """As `traded_on`; but one asset's calendar that this machine cannot read must not stop everybody's nights."""
    try:
        return traded_on(calendar, day)
    except UsageError as error:
        log.warning("calendar_unreadable", calendar=calendar, day=str(day), taken_as=WEEKDAYS, error=str(error))
        return traded_on(WEEKDAYS, day)


_CALENDARS = text("SELECT DISTINCT calendar FROM assets")

_IS_KEPT = text("SELECT EXISTS (SELECT FROM night_waits WHERE day = :day)")

_WAITING_DAY = text(
    """
    SELECT min(day) FROM night_waits
    WHERE day > coalesce((SELECT max(day) FROM runs WHERE kind = 'nightly'), '-infinity')
    """
)

_FORGET = text(
    """
    DELETE FROM night_waits
    WHERE day <= (SELECT max(day) FROM runs WHERE kind = 'nightly')
      AND NOT EXISTS (SELECT FROM alerts WHERE key = :prefix || day AND cleared_at IS NULL)
    """
)

# Of an asset `a`: it has closes that are about as new as anybody's.
_ALIVE = """
    EXISTS (
        SELECT FROM closes AS r WHERE r.asset_id = a.id
          AND r.day BETWEEN coalesce((SELECT max(day) FROM closes WHERE day < :day), :day) - :stale AND :day
    )
"""

_KEEP = text(
    f"""
    INSERT INTO night_waits (day, since, asset_ids)
    SELECT :day, :now, coalesce(array_agg(a.id ORDER BY a.id), '{{}}')
    FROM (SELECT DISTINCT unnest(asset_ids) AS id FROM simulations WHERE start_day <= :day) AS used
    JOIN assets AS a USING (id)
    WHERE {_ALIVE}
    ON CONFLICT (day) DO NOTHING
    """  # noqa: S608 - our own constants; the values are bound
)

_ALL = f"""
    SELECT a.id, a.symbol, c.kind, c.as_of
    FROM assets AS a LEFT JOIN closes AS c ON c.day = :day AND c.asset_id = a.id
    WHERE a.calendar = ANY(:calendars) AND (c.kind IS NOT NULL OR {_ALIVE})
"""  # noqa: S608 - our own constants

# The calendar is asked anew: where it was wrong, it may be set while the night waits. IS TRUE keeps the planner, which
# takes an array for ten elements, from going through it one by one.
_KEPT = """
    SELECT a.id, a.symbol, c.kind, c.as_of
    FROM assets AS a LEFT JOIN closes AS c ON c.day = :day AND c.asset_id = a.id
    WHERE a.calendar = ANY(:calendars)
      AND (a.id IN (SELECT unnest(asset_ids) FROM night_waits WHERE day = :day)) IS TRUE
"""

# The messages that ask for the closes of the day. One may ask for days before it too, but hardly for more than a month:
# so that not every message of all time is read. While one runs, what it was answered for leaves its list.
_ASKED = """
    price_chunks WHERE source = ANY(:sources) AND kind = 'closes'
        AND first BETWEEN :begins - interval '31 days' AND :begins AND last >= :ends
"""

# The subqueries of IN are hashed, and run only if there is a tick.
_COUNT = f"""
    WITH waited AS MATERIALIZED ({{waited}}),
    judged AS MATERIALIZED (
        SELECT symbol, CASE
            WHEN kind IS NULL THEN false
            WHEN kind <> 'tick' THEN true
            WHEN id IN (SELECT asset_id FROM asset_sources WHERE source = ANY(:sources)) THEN id NOT IN (
                SELECT asset_id FROM asset_sources WHERE source = ANY(:sources) AND (
                    source NOT IN (SELECT source FROM {_ASKED})
                    OR (source, asset_id) IN (SELECT source, unnest(asset_ids) FROM {_ASKED} AND status <> 'done')
                )
            )
            ELSE as_of >= :last_windows
        END AS final
        FROM waited
    )
    SELECT count(*) AS expected, count(*) FILTER (WHERE final) AS have, (
        SELECT array_agg(symbol) FROM (
            SELECT symbol FROM judged WHERE final IS NOT TRUE ORDER BY symbol COLLATE "C" LIMIT :shown
        ) AS first_few
    ) AS missing
    FROM judged
"""  # noqa: S608 - our own constants; the values are bound

_COUNT_ALL = text(_COUNT.format(waited=_ALL))
_COUNT_KEPT = text(_COUNT.format(waited=_KEPT))
