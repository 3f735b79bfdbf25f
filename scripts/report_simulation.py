"""The page of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from scripts.page import Block, Facts, Notes, Page, Plot, Table
from scripts.page_text import days, exact, money, percent, ratio
from scripts.plots import SERIES
from scripts.plots_kinds import Marks, drawdown_plot, line_plot, stack_plot
from services.report_benchmark import Benchmark
from services.report_simulation import Holding, Positions, SimulationFigures
from services.report_statistics import Drawdown, Performance
from services.reports import DayPoint, TradeLine

MOST_TRADES = 200
_OTHERS, _CASH = "other assets", "cash"
_HELD = "buy and hold"


def simulation_page(data: SimulationFigures) -> Page:
    """Equity against buy and hold, drawdown, positions, statistics, trades and settings of a simulation."""
    settings, history = data.settings, data.days
    lead = f"{settings['strategy']}, of user {settings['user_id']}, {settings['user_name']}"
    title = f"Simulation {settings['simulation_id']}"
    if not history:
        return Page(title, f"{lead} · no night yet", _settings(data), warnings=_warnings(data))
    last = history[-1]
    held = data.benchmark.performance if data.benchmark else None
    facts = [
        ("equity", money(last.equity)),
        ("return", percent(last.total_return)),
        (f"{_HELD}: return", percent(held.total_return) if held else None),
        ("maximum drawdown", percent(last.max_drawdown)),
        ("volatility (year)", percent(last.volatility)),
        ("Sharpe ratio", ratio(last.sharpe)),
        ("trades", len(data.trades)),
        ("fees", money(data.trading.fees)),
    ]
    blocks: list[Block] = [
        *_plots(data),
        _holdings(data.holdings, last),
        _statistics(data),
        Notes("How these are computed", _MEANINGS),
        _trades(data.trades),
        Facts("Settings", _settings(data)),
    ]
    lead = f"{lead} · {days(history[0].day, last.day)}"
    return Page(title, lead, facts, blocks, _warnings(data), f"As of the night of {last.day}.")


def _warnings(data: SimulationFigures) -> list[str]:
    said = [
        f"In quarantine since the night of {entry.day}{'' if entry.simulation_id else ', the whole user'}: "
        f"{entry.reason}: {entry.detail}. It has no days after that until it is reprocessed: nightshift reprocess "
        "--quarantined."
        for entry in data.quarantine
    ]
    if data.missing_days:
        said.append(
            f"{data.missing_days:,} of its nights are not kept any more: what needs every day (Sortino ratio, the days "
            "of the drawdown) is left out."
        )
    if data.revalued_days:
        said.append(
            f"On {data.revalued_days:,} of {len(data.days):,} days, cash and positions at the closes of now do not sum "
            "to the equity: closes have changed since. nightshift reprocess does these days again."
        )
    if data.benchmark is not None and data.benchmark.ended is not None:
        said.append(f"Buy and hold ends early: {data.benchmark.ended}.")
    return said


def _settings(data: SimulationFigures) -> list[tuple[str, object]]:
    settings = data.settings
    return [
        ("strategy", settings["strategy"]),
        ("begins", settings["start_day"]),
        ("initial cash", money(settings["initial_cash"])),
        *(
            (f"weight of {slot['symbol'] or slot['asset_id']}", f"{slot['weight_ppm'] / 10_000:g} %")
            for slot in settings["slots"]
        ),
        *((name, f"{value:,}" if isinstance(value, int) else value) for name, value in settings["parameters"].items()),
    ]


def _plots(data: SimulationFigures) -> list[Plot]:
    history = data.days
    dates, curve = [point.day for point in history], [float(point.equity) for point in history]
    at = dict(zip(dates, curve, strict=True))
    series = {"this simulation": (dates, curve)}
    falls = {"this simulation": (dates, [-point.drawdown for point in history])}
    held = data.benchmark
    if held is not None and held.days:
        series[_HELD] = (held.days, [float(value) for value in held.equity])
        falls[_HELD] = (held.days, _falls(held, data.settings["initial_cash"]))
    marks = [
        Marks(name, colour, shape, found, [at[day] for day in found])
        for name, side, colour, shape in (("buys", "buy", "c2", "up"), ("sells", "sell", "bad", "down"))
        if (found := sorted({trade.day for trade in data.trades if trade.side == side and trade.day in at}))
    ]
    unmarked = any(trade.day not in at for trade in data.trades)
    return [
        line_plot(
            "Equity", series, ylabel="equity (units)", marks=marks,
            note="Buy and hold: the same initial cash, assets, weights and fees from the same day, without stops."
            + (" Trades of days that are not kept are not marked." if unmarked else ""),
        ),
        drawdown_plot("Drawdown", falls),
        _positions(dates, data.positions),
    ]  # fmt: skip


def _falls(held: Benchmark, initial: Decimal) -> list[float]:
    peak, found = initial, []
    for value in held.equity:
        peak = max(peak, value)
        found.append(float(value / peak - 1) if peak else 0.0)
    return found


def _positions(dates: Sequence[date], positions: Positions) -> Plot:
    """The largest positions in a colour each, the others together, and cash in grey."""
    ranked = list(positions.values.items())
    shown = ranked if len(ranked) <= len(SERIES) else ranked[: len(SERIES) - 1]
    layers = {symbol: [float(value) for value in values] for symbol, values in shown}
    if len(shown) < len(ranked):
        rest = [values for _, values in ranked[len(shown) :]]
        layers[_OTHERS] = [float(sum(column)) for column in zip(*rest, strict=True)]
    layers[_CASH] = [float(value) for value in positions.cash]
    return stack_plot("Positions", dates, layers, ylabel="value (units)")


def _holdings(holdings: Sequence[Holding], last: DayPoint) -> Table:
    rows: list[Sequence[object]] = [
        (
            item.symbol, exact(item.quantity), exact(item.close), item.close_day, money(item.value),
            percent(float(item.value / last.equity)) if last.equity else None, money(item.cost), money(item.unrealised),
        )
        for item in holdings
    ]  # fmt: skip
    share = percent(float(last.cash / last.equity)) if last.equity else None
    rows.append((_CASH, None, None, None, money(last.cash), share, None, None))
    columns = ["asset", "quantity>", "close>", "close of", "value>", "share>", "cost>", "unrealised>"]
    return Table(f"Holdings at the close of {last.day}", columns, rows)


def _statistics(data: SimulationFigures) -> Table:
    own, held = data.performance, data.benchmark.performance if data.benchmark else None
    trading = data.trading
    both = [
        (name, show(own) if own else None, show(held) if held else None)
        for name, show in (
            ("return", lambda p: percent(p.total_return)),
            ("CAGR", lambda p: percent(p.cagr)),
            ("volatility (year)", lambda p: percent(p.volatility)),
            ("Sharpe ratio", lambda p: ratio(p.sharpe)),
            ("Sortino ratio", lambda p: ratio(p.sortino)),
            ("maximum drawdown", _depth),
            ("its peak", lambda p: _peak(p.drawdown)),
            ("its trough", lambda p: p.drawdown and p.drawdown.trough_day),
            ("at the peak again", lambda p: p.drawdown and (p.drawdown.recovered_day or "not yet")),
            ("Calmar ratio", lambda p: ratio(p.calmar)),
        )
    ]
    rows = [
        *both,
        ("fees", money(trading.fees), money(data.benchmark.fees) if data.benchmark else None),
        ("purchases", f"{trading.purchases:,}, {money(trading.bought)}", None),
        ("sales", f"{trading.sales:,}, {money(trading.sold)}", None),
        ("realised", money(trading.realised), None),
        ("win rate", percent(trading.win_rate), None),
        ("turnover", percent(trading.turnover), None),
    ]
    return Table("Statistics", ["", "this simulation>", f"{_HELD}>"], rows, note="–: not defined, or not known.")


def _depth(performance: Performance) -> str | None:
    return percent(performance.max_drawdown)


def _peak(drawdown: Drawdown | None) -> object:
    return drawdown and (drawdown.peak_day or "the initial cash")


def _trades(trades: Sequence[TradeLine]) -> Table:
    """The newest first."""
    newest = trades[: -MOST_TRADES - 1 : -1]
    rows = [
        (t.day, t.side, t.symbol, exact(t.quantity), exact(t.price), money(t.notional), money(t.fee), money(t.realised))
        for t in newest
    ]
    columns = ["day", "side", "asset", "quantity>", "price>", "notional>", "fee>", "realised>"]
    rest = len(trades) - len(newest)
    note = f"The newest {len(newest):,}; {rest:,} more are older." if rest else "" if trades else "It has not traded."
    return Table("Trades, newest first", columns, rows, note)


_MEANINGS = (
    ("return", "equity / initial cash - 1"),
    ("CAGR", "(1 + return) ** (365 / nights) - 1; none of less than a year (GIPS standards, 2020)"),
    ("volatility", "standard deviation (n - 1) of the daily returns × √365; the first return is from the initial cash"),
    ("Sharpe ratio", "mean daily return / its standard deviation × √365, risk-free rate 0 (W. F. Sharpe, 1994)"),
    ("Sortino ratio", "mean daily return / √(Σ min(return, 0)² / n) × √365, target 0 (Sortino and Price, 1994)"),
    ("maximum drawdown", "largest (peak so far - equity) / peak so far (Magdon-Ismail and Atiya, 2004)"),
    ("Calmar ratio", "CAGR / maximum drawdown, over the whole life (T. W. Young, 1991)"),
    ("win rate", "sales that realised a profit, fee included / sales"),
    ("turnover", "lesser of purchases and sales / mean equity, over the whole life (after SEC Form N-1A, item 13)"),
)  # fmt: skip
