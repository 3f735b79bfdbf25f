"""Everything that a report says of all users together. PostgreSQL counts and sorts; only its answers come here.

Guarantee: each figure of a night is of the rows of that one day, and reads its partition only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.ticks import MAX_TICKS, TICKS_PER_UNIT, from_ticks
from services.runs import RunView, count_quarantine, runs_by_id

MOST_NIGHTS = 90
# Ten a decade, from a hundredth to the largest amount, in ticks: integers, so that no count hangs on a rounding.
EDGES = tuple(
    round(TICKS_PER_UNIT * 10 ** (step / 10)) for step in range(-20, 110) if 10 ** (step / 10 + 8) < MAX_TICKS
)
# A million rows are sorted, which fits. Until the transaction ends.
_MEMORY = text("SET LOCAL work_mem = '128MB'")


@dataclass(frozen=True, slots=True)
class Bin:
    """How many simulations have an equity in `[low, high)`, units; the last one has no upper end (None)."""

    low: Decimal
    high: Decimal | None
    simulations: int


@dataclass(frozen=True, slots=True)
class AmountSpread:
    """Of some amounts, units: each is one that occurs (percentile_disc)."""

    smallest: Decimal
    p5: Decimal
    quartile1: Decimal
    median: Decimal
    quartile3: Decimal
    p95: Decimal
    largest: Decimal


@dataclass(frozen=True, slots=True)
class StrategyFigures:
    """The simulations of one strategy at the close of the day: returns since each one's start, and drawdowns.

    Shares; between two simulations quantiles are interpolated (percentile_cont). A simulation without initial cash has
    no return: of none, they are None.
    """

    strategy: str
    simulations: int
    mean_nights: float
    p5: float | None
    quartile1: float | None
    median: float | None
    quartile3: float | None
    p95: float | None
    drawdown_median: float
    drawdown_p95: float


@dataclass(frozen=True, slots=True)
class Growth:
    """How many there are at the end of a day (UTC), of those that are there now."""

    day: date
    users: int
    simulations: int


@dataclass(frozen=True, slots=True)
class PlatformFigures:
    """All of it.

    Attributes:
        day: of the newest night that is done; None before the first, and then nothing is known of portfolios.
        portfolios: simulations with a row that day; `total_equity` is theirs, units.
        equity: how theirs is spread, `bins` from the first that is not empty to the last.
        growth: by day of registration, only days with one.
        nights: the newest nightly runs that ran, oldest first.
    """

    day: date | None
    users: int
    simulations: int
    quarantined: int
    portfolios: int
    total_equity: Decimal | None
    equity: AmountSpread | None
    bins: list[Bin]
    strategies: list[StrategyFigures]
    growth: list[Growth]
    nights: list[RunView]


def platform_figures(session: Session, now: datetime) -> PlatformFigures:
    """The figures of the newest night and of the way there."""
    session.execute(_MEMORY)
    nights = runs_by_id(session, list(session.scalars(_NIGHTS, {"limit": MOST_NIGHTS})), now)
    growth = [Growth(**row._asdict()) for row in session.execute(_GROWTH)]
    day = session.scalar(_NEWEST)
    portfolios, total, equity = _equity(session, day) if day else (0, None, None)
    return PlatformFigures(
        day=day,
        users=growth[-1].users if growth else 0,
        simulations=growth[-1].simulations if growth else 0,
        quarantined=count_quarantine(session),
        portfolios=portfolios,
        total_equity=total,
        equity=equity,
        bins=_bins(session, day) if day else [],
        strategies=_strategies(session, day) if day else [],
        growth=growth,
        nights=nights,
    )


def _equity(session: Session, day: date) -> tuple[int, Decimal | None, AmountSpread | None]:
    row = session.execute(_EQUITY, {"day": day}).one()
    if not row.portfolios:
        return 0, None, None
    return row.portfolios, from_ticks(row.total), AmountSpread(*(from_ticks(value) for value in row.quantiles))


def _bins(session: Session, day: date) -> list[Bin]:
    counts = {row.bin: row.simulations for row in session.execute(_BINS, {"day": day, "edges": list(EDGES)})}
    return equity_bins(counts)


def equity_bins(counts: dict[int, int]) -> list[Bin]:
    """Bins from PostgreSQL's `width_bucket`: 0 is below the first edge, n from edge n - 1 on."""
    edges: Sequence[int] = (0, *EDGES)
    return [
        Bin(
            from_ticks(edges[at]),
            from_ticks(edges[at + 1]) if at + 1 < len(edges) else None,
            counts.get(at, 0),
        )
        for at in range(min(counts, default=0), max(counts, default=-1) + 1)
    ]


def _strategies(session: Session, day: date) -> list[StrategyFigures]:
    found = []
    for row in session.execute(_STRATEGIES, {"day": day}):
        returns = row.returns or [None] * 5
        found.append(StrategyFigures(row.strategy, row.simulations, row.mean_nights, *returns, *row.drawdowns))
    return found


_NEWEST = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done'")
_NIGHTS = text("SELECT id FROM runs WHERE kind = 'nightly' AND started_at IS NOT NULL ORDER BY day DESC LIMIT :limit")
_GROWTH = text(
    """
    WITH new AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS users, 0 AS simulations FROM users GROUP BY 1
        UNION ALL
        SELECT (created_at AT TIME ZONE 'UTC')::date, 0, count(*) FROM simulations GROUP BY 1
    )
    SELECT day, sum(sum(users)) OVER (ORDER BY day)::bigint AS users,
        sum(sum(simulations)) OVER (ORDER BY day)::bigint AS simulations
    FROM new GROUP BY day ORDER BY day
    """
)
_EQUITY = text(
    """
    SELECT count(*) AS portfolios, sum(equity) AS total,
        percentile_disc(ARRAY[0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) WITHIN GROUP (ORDER BY equity) AS quantiles
    FROM portfolio_days WHERE day = :day
    """
)
_BINS = text(
    """
    SELECT width_bucket(equity, CAST(:edges AS bigint[])) AS bin, count(*) AS simulations
    FROM portfolio_days WHERE day = :day GROUP BY 1
    """
)
_STRATEGIES = text(
    """
    SELECT coalesce(st.name, p.strategy::text) AS strategy, p.simulations, p.mean_nights, p.returns, p.drawdowns
    FROM (
        SELECT s.strategy, count(*) AS simulations, avg(d.nights)::double precision AS mean_nights,
            percentile_cont(ARRAY[0.05, 0.25, 0.5, 0.75, 0.95]) WITHIN GROUP (
                ORDER BY (d.equity - s.initial_cash)::double precision / nullif(s.initial_cash, 0)
            ) AS returns,
            percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY d.max_drawdown) AS drawdowns
        FROM portfolio_days AS d JOIN simulations AS s ON s.id = d.simulation_id
        WHERE d.day = :day GROUP BY s.strategy
    ) AS p
    LEFT JOIN strategies AS st ON st.code = p.strategy
    ORDER BY 1
    """
)
