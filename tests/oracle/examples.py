"""What hypothesis draws: simulations valid, on the edge and malformed, and closes of every size, with gaps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.oracle.driver import Closes
from tests.oracle.ledger import Simulation
from tests.oracle.numbers import MAX, M, T

FIRST_DAY = 8_400
ASSETS = 8
_Test = TypeVar("_Test", bound=Callable[..., Any])


def bounded(examples: int) -> Callable[[_Test], _Test]:
    """So many examples, no deadline; the same ones every time where `CI` is set."""
    return settings(
        max_examples=examples,
        derandomize="CI" in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


ppm = st.one_of(st.sampled_from([0, 0, 1, 999, 2_500, 500_000, M - 1, M]), st.integers(0, M))
stop_loss = st.one_of(st.just(0), st.sampled_from([1, 20_000, 100_000, M - 1, M]), st.integers(1, M))
take_profit = st.one_of(st.just(0), st.sampled_from([1, 20_000, 100_000, M, 10**9]), st.integers(1, 10**9))
fee_sell_cap = st.one_of(st.just(0), st.sampled_from([1, T, 5 * T, MAX]), st.integers(1, MAX))
cash = st.one_of(
    st.sampled_from([0, 1, 99, T, 1_000 * T, 10_000 * T, 10**15, MAX // 2, MAX - 1, MAX]), st.integers(0, MAX)
)
amount = st.one_of(st.sampled_from([1, 100, T, 50 * T, 10**14, MAX]), st.integers(1, MAX))
calendar = st.integers(1, 4)
band = st.one_of(st.sampled_from([1, 10_000, 50_000, M]), st.integers(1, M))


def short(low: int, high: int) -> st.SearchStrategy[int]:
    """Mostly lengths that a few days can fill, sometimes the whole range."""
    few = st.integers(low, min(low + 4, high))
    return st.one_of(few, few, few, st.integers(low, high))


@st.composite
def _fast_slow(draw: st.DrawFn) -> tuple[int, ...]:
    fast = draw(short(1, 249))
    return fast, draw(short(fast + 1, 250))


@st.composite
def _reversion(draw: st.DrawFn) -> tuple[int, ...]:
    entry = draw(st.one_of(st.sampled_from([1, 10_000, 50_000, M - 1]), st.integers(1, M - 1)))
    return draw(short(2, 250)), entry, draw(st.one_of(st.sampled_from([0, entry - 1]), st.integers(0, entry - 1)))


OWN: dict[int, st.SearchStrategy[tuple[int, ...]]] = {
    1: st.just(()),
    2: st.tuples(short(1, 3650), amount),
    3: st.one_of(st.tuples(calendar, st.just(0)), st.tuples(st.just(0), band), st.tuples(calendar, band)),
    4: _fast_slow(),
    5: st.tuples(short(1, 250), st.integers(1, 32) | st.integers(1, 3), calendar),
    6: _reversion(),
}
BAD = [-1, 0, 5, 33, 251, 3651, M, M + 1, 10**9 + 1, MAX, -MAX]


@st.composite
def weights(draw: st.DrawFn, slots: int) -> tuple[int, ...]:
    """Non-negative, together at most a million."""
    shares = draw(st.lists(st.integers(0, 10) | st.integers(1, 3), min_size=slots, max_size=slots))
    full = draw(st.sampled_from([M, M, M, 900_000, 3]))
    return tuple(full * share // max(sum(shares), 1) for share in shares)


@st.composite
def simulations(draw: st.DrawFn, days: int) -> Simulation:
    """One well-formed simulation over the assets 1..8, starting on one of the days.

    Two of three have everyday fees, stops and cash: on the edges of everything hardly anybody trades.
    """
    strategy = draw(st.sampled_from([1, 2, 3, 4, 5, 6]))
    slots = draw(st.sampled_from([1, 1, 2, 2, 3, 4, 5, 8]))
    assets = draw(st.permutations(range(1, ASSETS + 1)))[:slots]
    if draw(st.sampled_from(["everyday", "everyday", "edge"])) == "edge":
        common = (draw(ppm), draw(ppm), draw(fee_sell_cap), draw(stop_loss), draw(take_profit))
        initial_cash = draw(cash)
    else:
        common = (
            draw(st.sampled_from([0, 1_000, 2_500])),
            draw(st.sampled_from([0, 1_000, 20_000])),
            draw(st.sampled_from([0, 0, 5 * T])),
            draw(st.sampled_from([0, 50_000, 200_000])),
            draw(st.sampled_from([0, 50_000, 300_000])),
        )
        initial_cash = draw(st.integers(100 * T, 100_000 * T))
    return Simulation(
        strategy=strategy,
        start_day=FIRST_DAY + draw(st.sampled_from([0, 0, 0, 1, 2, days - 1])),
        initial_cash=initial_cash,
        params=common + draw(OWN[strategy]),
        asset_ids=tuple(assets),
        weights=draw(weights(slots)),
    )


@st.composite
def broken(draw: st.DrawFn, days: int) -> Simulation:
    """A simulation with one number replaced by another, or one too many or too few; perhaps still well-formed."""
    fields: dict[str, Any] = dict(vars(draw(simulations(days))))
    kind = draw(st.sampled_from(["params", "params", "params", "weights", "asset_ids", "count", "strategy", "cash"]))
    if kind == "strategy":
        fields["strategy"] = draw(st.sampled_from([0, -1, 7, 1, 2, 3, 4, 5, 6]))
    elif kind == "cash":
        fields["initial_cash"] = draw(st.sampled_from([-1, -MAX]))
    elif kind == "count":
        params = fields["params"]
        fields["params"] = params[:-1] if draw(st.booleans()) else (*params, 0)
    else:
        values = list(fields[kind])
        choice = st.sampled_from([1, 2, ASSETS + 1, 77, 2**31 - 1]) if kind == "asset_ids" else st.sampled_from(BAD)
        values[draw(st.integers(0, len(values) - 1))] = draw(choice)
        fields[kind] = tuple(values)
    return Simulation(**fields)


KINDS = ["daily"] * 12 + ["weekdays"] * 6 + ["gaps"] * 3 + ["late", "delisted", "none"]
PRICES = [1, 7, 10**4, T // 3, T, T, 250 * T, 250 * T, 40_000 * T, 10**15, 9 * 10**18, MAX]


@st.composite
def closes(draw: st.DrawFn, days: int) -> Closes:
    """Closes of the assets 1..8: huge and tiny, with gaps, weekends, late listings and delistings.

    The market begins up to 15 days before the simulations do. An asset may have no close at all.
    """
    before = draw(st.sampled_from([0, 3, 15, 15]))
    market: Closes = {}
    for asset in range(1, ASSETS + 1):
        kind, price = draw(st.sampled_from(KINDS)), draw(st.sampled_from(PRICES))
        walk, swing = draw(st.randoms(use_true_random=True)), draw(st.sampled_from([10, 10, 3, 0, 60]))
        limit = before + draw(st.integers(0, days))
        of_day: dict[int, int] = {}
        for index in range(days + before):
            day = FIRST_DAY - before + index
            price = min(max(price * (1000 + walk.randint(-10 * swing, 10 * swing)) // 1000, 1), MAX)
            absent = (
                (kind == "weekdays" and day % 7 in {0, 1})
                or (kind == "gaps" and walk.random() < 0.4)
                or (kind == "late" and index < limit)
                or (kind == "delisted" and index > limit)
                or kind == "none"
            )
            if not absent:
                of_day[day] = price
        market[asset] = of_day
    return market
