"""The figures of reports against the tables, read and computed again by other means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.tables import Simulation
from models.ticks import MAX_TICKS
from scripts.page import render
from scripts.report_simulation import simulation_page
from services.report_platform import PlatformFigures, platform_figures
from services.report_run import RunFigures, run_figures
from services.report_simulation import SimulationFigures, simulation_figures
from services.user_history import user_history
from tests.support.nights import LAST_SAMPLE_DAY, NOW, rows, scalar
from tests.support.report_world import BROKEN, CAUGHT_UP, HOSTILE, LATE, LEFT_OUT, NEW, USERS, last_run

TICK = Decimal("1e-8")
MAX_STALE = 5

Whole = list[tuple[Simulation, SimulationFigures]]


@pytest.fixture
def session(reported: Engine) -> Iterator[Session]:
    """Whatever a test changes is taken back."""
    with Session(reported) as session:
        yield session


def ids(engine: Engine) -> list[int]:
    """Of each strategy the first simulation that has a row on the last day."""
    found = rows(
        engine,
        "SELECT min(s.id) FROM simulations s JOIN portfolio_days d ON d.simulation_id = s.id AND d.day = :day"
        " GROUP BY s.strategy ORDER BY s.strategy",
        day=LAST_SAMPLE_DAY,
    )
    return [number for (number,) in found]


@pytest.fixture(scope="module")
def whole(reported: Engine) -> Whole:
    """A simulation of each strategy, and what a report says of it."""
    with Session(reported) as session:
        return [
            (session.get_one(Simulation, number), simulation_figures(session, number, MAX_STALE))
            for number in ids(reported)
        ]


def closes(engine: Engine) -> dict[int, dict[date, Decimal]]:
    found: dict[int, dict[date, Decimal]] = {}
    for asset, day, close in rows(engine, "SELECT asset_id, day, close FROM closes"):
        found.setdefault(asset, {})[day] = close * TICK
    return found


def rounded(value: Decimal) -> Decimal:
    return value.quantize(TICK, ROUND_HALF_EVEN)


def bought_and_held(simulation: Simulation, prices: dict[int, dict[date, Decimal]], last: date) -> list[Decimal]:
    """Equity of each day, slowly: each asset once, on its first day with a close, for its share of the initial cash."""
    cash, held = simulation.initial_cash, {}
    rate = Decimal(simulation.params[0]).scaleb(-6)
    newest, curve = dict.fromkeys(simulation.asset_ids, Decimal(0)), []
    for asset in simulation.asset_ids:
        before = [day for day in prices[asset] if day < simulation.start_day]
        newest[asset] = prices[asset][max(before)] if before else Decimal(0)
    for number in range((last - simulation.start_day).days + 1):
        day = simulation.start_day + timedelta(days=number)
        for asset, weight in zip(simulation.asset_ids, simulation.weights_ppm, strict=True):
            close = prices[asset].get(day)
            newest[asset] = close or newest[asset]
            if close is None or asset in held:
                continue
            budget = (simulation.initial_cash * weight / 10**6).quantize(TICK, "ROUND_DOWN")
            low, high = 0, int(budget / close / TICK) + 2
            while high - low > 1:
                middle = (low + high) // 2
                cost = rounded(middle * TICK * close)
                low, high = (middle, high) if cost + rounded(cost * rate) <= budget else (low, middle)
            cost = rounded(low * TICK * close)
            held[asset], cash = low * TICK, cash - cost - rounded(cost * rate)
        curve.append(cash + sum((rounded(held[asset] * newest[asset]) for asset in held), Decimal(0)))
    return curve


def test_buy_and_hold_is_what_a_slow_reckoning_says_to_the_tick(reported: Engine, whole: Whole) -> None:
    prices = closes(reported)
    assert [simulation.strategy for simulation, _ in whole] == [1, 2, 3, 4, 5, 6]
    for simulation, figures in whole:
        benchmark = figures.benchmark
        assert benchmark is not None
        assert benchmark.equity == bought_and_held(simulation, prices, LAST_SAMPLE_DAY)
        assert benchmark.days[0] == simulation.start_day
        assert benchmark.ended is None


def test_buy_and_hold_is_its_own_benchmark(reported: Engine, session: Session) -> None:
    ((number,),) = rows(
        reported,
        "SELECT min(s.id) FROM simulations s JOIN portfolio_days d ON d.simulation_id = s.id AND d.day = :day"
        " WHERE s.strategy = 1 AND s.params[4] = 0 AND s.params[5] = 0",
        day=LAST_SAMPLE_DAY,
    )
    figures = simulation_figures(session, number, MAX_STALE)
    assert figures.benchmark is not None
    assert figures.benchmark.equity == [point.equity for point in figures.days]
    assert figures.benchmark.performance == figures.performance
    assert figures.benchmark.fees == figures.trading.fees


def test_a_benchmark_has_fees_but_no_stops(reported: Engine, session: Session) -> None:
    simulation = session.get_one(Simulation, ids(reported)[0])
    simulation.params = [2_500, 10_000, 0, 1, 1, *simulation.params[5:]]
    session.flush()
    benchmark = simulation_figures(session, simulation.id, MAX_STALE).benchmark
    assert benchmark is not None
    assert benchmark.equity == bought_and_held(simulation, closes(reported), LAST_SAMPLE_DAY)
    assert benchmark.fees > 0


def test_the_days_and_trades_are_those_of_the_tables(reported: Engine, whole: Whole) -> None:
    for simulation, figures in whole:
        own = {"id": simulation.id}
        expected = rows(
            reported, "SELECT day, cash, equity FROM portfolio_days WHERE simulation_id = :id ORDER BY 1", **own
        )
        assert [(p.day, p.cash, p.equity) for p in figures.days] == [(d, c * TICK, e * TICK) for d, c, e in expected]
        for at, point in enumerate(figures.days):
            assert point.cash + sum(values[at] for values in figures.positions.values.values()) == point.equity
        assert (figures.missing_days, figures.revalued_days) == (0, 0)
        fees, realised, wins, sales = rows(
            reported,
            "SELECT coalesce(sum(fee), 0), coalesce(sum(realised), 0),"
            " count(*) FILTER (WHERE realised > 0 AND quantity < 0), count(*) FILTER (WHERE quantity < 0)"
            " FROM trades WHERE simulation_id = :id",
            **own,
        )[0]
        assert (figures.trading.fees, figures.trading.realised) == (fees * TICK, realised * TICK)
        assert figures.trading.sales == sales
        assert figures.trading.win_rate == (wins / sales if sales else None)
        assert sum(item.value for item in figures.holdings) == figures.days[-1].equity - figures.days[-1].cash


def test_the_statistics_are_those_of_the_view_and_of_plain_arithmetic(whole: Whole) -> None:
    for simulation, figures in whole:
        performance, last = figures.performance, figures.days[-1]
        assert performance is not None
        curve = [simulation.initial_cash, *(point.equity for point in figures.days)]
        returns = [float(b / a - 1) for a, b in pairwise(curve)]
        assert performance.volatility == pytest.approx(last.volatility)
        assert performance.volatility == pytest.approx(statistics.stdev(returns) * math.sqrt(365))
        assert performance.sharpe == pytest.approx(last.sharpe)
        assert performance.max_drawdown == last.max_drawdown
        assert performance.total_return == pytest.approx(last.total_return)
        if performance.drawdown is not None:
            at = next(point for point in figures.days if point.day == performance.drawdown.trough_day)
            assert performance.drawdown.depth == last.max_drawdown
            assert at.drawdown == pytest.approx(last.max_drawdown)


def test_a_close_that_has_changed_since_is_told_of(reported: Engine, session: Session) -> None:
    number = ids(reported)[0]
    session.execute(
        text("UPDATE closes SET close = close + 1000000 WHERE day = :day"), {"day": LAST_SAMPLE_DAY - timedelta(days=1)}
    )
    assert simulation_figures(session, number, MAX_STALE).revalued_days == 1


def test_days_that_are_not_kept_leave_out_what_needs_them(reported: Engine, session: Session) -> None:
    session.execute(text("DELETE FROM portfolio_days WHERE day = :day"), {"day": CAUGHT_UP})
    figures = simulation_figures(session, ids(reported)[0], MAX_STALE)
    performance = figures.performance
    assert performance is not None
    assert figures.missing_days == 1
    assert (performance.sortino, performance.drawdown) == (None, None)
    assert performance.volatility == pytest.approx(figures.days[-1].volatility)


def test_trades_of_days_that_are_not_kept_do_not_keep_a_report_from_being_made(
    reported: Engine, session: Session
) -> None:
    session.execute(text("UPDATE retention SET daily_from = :day"), {"day": LAST_SAMPLE_DAY})
    # As retention does it with the newest row of whoever was left out, whose day goes.
    session.execute(
        text("INSERT INTO portfolio_archive SELECT * FROM portfolio_days WHERE day = :day AND simulation_id = :id"),
        {"day": CAUGHT_UP, "id": LATE},
    )
    for number, newest in ((ids(reported)[0], LAST_SAMPLE_DAY), (LATE, CAUGHT_UP)):
        figures = simulation_figures(session, number, MAX_STALE)
        kept = {point.day for point in figures.days}
        assert figures.days[-1].day == newest
        assert {trade.day for trade in figures.trades} - kept
        assert [len(values) for values in figures.positions.values.values()] == [len(kept)] * len(
            figures.positions.values
        )
        assert figures.missing_days > 0
        assert "Trades of days that are not kept are not marked." in render(simulation_page(figures))


def test_who_is_left_out_is_told_with_the_reason(session: Session) -> None:
    def of(number: int) -> SimulationFigures:
        return simulation_figures(session, number, MAX_STALE)

    broken, late, new, left_out = of(BROKEN), of(LATE), of(NEW), of(LEFT_OUT)
    assert (broken.days, broken.performance, broken.benchmark) == ([], None, None)
    assert broken.quarantine[0].reason == "unknown_asset"
    assert late.days[-1].day == CAUGHT_UP
    assert late.quarantine[0].reason == "malformed"
    assert late.benchmark is not None
    assert late.benchmark.days == []
    assert late.benchmark.ended is not None
    assert late.benchmark.ended.startswith("malformed")
    assert (new.days, new.quarantine) == ([], [])
    assert (left_out.quarantine[0].simulation_id, left_out.quarantine[0].detail) == (None, HOSTILE)
    with pytest.raises(UsageError, match="no simulation 999"):
        of(999)


def test_simulations_of_a_user_may_be_worth_more_than_one_can_be(reported: Engine, session: Session) -> None:
    two = ids(reported)[:2]
    session.execute(
        text("UPDATE portfolio_days SET user_id = 1, equity = :most WHERE day = :day AND simulation_id = ANY(:two)"),
        {"most": MAX_TICKS, "day": LAST_SAMPLE_DAY, "two": two},
    )
    day, equity = user_history(session, 1).equity[-1]
    assert day == LAST_SAMPLE_DAY
    assert equity >= 2 * MAX_TICKS * TICK


def run_of(session: Session, engine: Engine) -> RunFigures:
    return run_figures(session, last_run(engine), NOW)


def test_the_sums_of_a_run_are_its_row(reported: Engine, session: Session) -> None:
    figures = run_of(session, reported)
    (row,) = rows(
        reported,
        "SELECT simulations, rows, trades, quarantined, total_equity, total_fees FROM runs WHERE id = :id",
        id=figures.run.id,
    )
    assert list(figures.sums.values()) == [*row[:4], row[4] * TICK, row[5] * TICK]
    assert figures.differing == []
    total = scalar(reported, "SELECT sum(equity) FROM portfolio_days WHERE day = :day", day=LAST_SAMPLE_DAY)
    assert figures.sums["total_equity"] == total * TICK

    change = text("UPDATE batches SET trades = trades + 1 WHERE run_id = :id AND seq = 1")
    session.execute(change, {"id": figures.run.id})
    assert run_of(session, reported).differing == ["trades"]


def test_where_the_time_of_a_run_went(reported: Engine, session: Session) -> None:
    figures = run_of(session, reported)
    assert figures.states == {"done": 5, "split": 1}
    assert (figures.retried, figures.published_again) == (1, 1)
    assert {share.worker[:13] for share in figures.workers} == {"simulations-1", "simulations-2"}
    done = [batch for batch in figures.batches if batch.status == "done"]
    assert list(figures.stages)[:2] == ["read", "decode"]
    for stage, seconds in figures.stages.items():
        assert seconds == pytest.approx(sum((batch.timings or {}).get(stage, 0) for batch in done))
    users = sum((part.end - part.start) * part.users_per_second for part in figures.throughput)
    assert users == pytest.approx(sum(batch.users for batch in done))
    for found, span, status in (
        (figures.durations, "finished_at - started_at", "done"),
        (figures.queue_wait, "started_at - queued_at", "%"),
    ):
        (expected,) = rows(
            reported,
            "SELECT percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM " + span + "))"
            " FROM batches WHERE run_id = :id AND status LIKE :status",
            id=figures.run.id,
            status=status,
        )
        assert found is not None
        assert [found.median, found.p95, found.largest] == pytest.approx([float(value) for value in expected[0]])


def test_what_a_run_quarantined(reported: Engine, session: Session) -> None:
    first = run_figures(session, 1, NOW)
    expected = rows(reported, "SELECT reason, count(*) FROM quarantine WHERE run_id = 1 GROUP BY 1")
    assert first.quarantined == dict(expected) == {"unknown_asset": 1}
    assert [entry.simulation_id for entry in first.entries] == [BROKEN]
    with pytest.raises(UsageError, match="no run 999"):
        run_figures(session, 999, NOW)


def between(values: list[float], share: float) -> float:
    """The quantile, interpolated between its two neighbours."""
    at = (len(values) - 1) * share
    low = math.floor(at)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (at - low)


def test_the_platform_is_counted_as_a_person_would(reported: Engine, session: Session) -> None:
    figures: PlatformFigures = platform_figures(session, NOW)
    day: list[tuple[Any, ...]] = rows(
        reported,
        "SELECT st.name, d.equity, s.initial_cash, d.max_drawdown FROM portfolio_days d JOIN simulations s"
        " ON s.id = d.simulation_id JOIN strategies st ON st.code = s.strategy WHERE d.day = :day",
        day=LAST_SAMPLE_DAY,
    )
    equities = sorted(equity * TICK for _, equity, _, _ in day)
    assert (figures.day, figures.portfolios, figures.total_equity) == (LAST_SAMPLE_DAY, len(day), sum(equities))
    assert (figures.users, figures.simulations) == (USERS, USERS)
    assert figures.quarantined == scalar(reported, "SELECT count(*) FROM quarantine")
    for part in figures.bins:
        assert part.simulations == sum(
            part.low <= value and (part.high is None or value < part.high) for value in equities
        )
    assert sum(part.simulations for part in figures.bins) == len(day)
    assert figures.equity is not None
    quantiles = [equities[max(math.ceil(len(equities) * q / 100), 1) - 1] for q in (0, 5, 25, 50, 75, 95, 100)]
    assert [getattr(figures.equity, name) for name in figures.equity.__dataclass_fields__] == quantiles
    assert len(figures.strategies) == 6
    for item in figures.strategies:
        returns = sorted(float(e / i - 1) for name, e, i, _ in day if name == item.strategy)
        falls = sorted(fall for name, _, _, fall in day if name == item.strategy)
        assert item.simulations == len(returns)
        found = (
            item.p5,
            item.quartile1,
            item.median,
            item.quartile3,
            item.p95,
            item.drawdown_median,
            item.drawdown_p95,
        )
        expected = [
            *(between(returns, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)),
            between(falls, 0.5),
            between(falls, 0.95),
        ]
        assert found == pytest.approx(expected, abs=1e-12)
    assert [run.day for run in figures.nights] == [CAUGHT_UP + timedelta(days=n) for n in range(5)]
    assert (figures.growth[-1].users, figures.growth[-1].simulations) == (USERS, USERS)


def test_a_platform_without_a_night(engine: Engine) -> None:
    with Session(engine) as session:
        figures = platform_figures(session, NOW)
    assert (figures.day, figures.users, figures.bins, figures.strategies, figures.nights) == (None, 0, [], [], [])
