"""Three real years of twenty coins, all strategies, stops and fees: every row of the engine equals the oracle's."""

from __future__ import annotations

import random

from tests.oracle.crypto import crypto_closes, day_of, needs_crypto
from tests.oracle.driver import Portfolio, Quarantined, engine_nights, market, oracle_nights, same
from tests.oracle.ledger import Prices, Simulation
from tests.oracle.numbers import T
from tests.oracle.population import one

FIRST, LAST = day_of("2022-01-01"), day_of("2024-12-31")
# Sorted by listing; the last two were listed within the three years, APT on 2022-10-19 and ARB on 2023-03-23.
COINS = [
    "BNBUSDT", "BTCUSDT", "ETHUSDT", "LTCUSDT", "ADAUSDT", "XRPUSDT", "TRXUSDT", "XLMUSDT", "LINKUSDT", "ATOMUSDT",
    "DOGEUSDT", "HBARUSDT", "SOLUSDT", "DOTUSDT", "PAXGUSDT", "AVAXUSDT", "FILUSDT", "SHIBUSDT", "APTUSDT", "ARBUSDT",
]  # fmt: skip
FULLY_LISTED = 18

COMMON = {
    "free": (0, 0, 0, 0, 0),
    "fees": (1_000, 1_000, 0, 0, 0),
    "capped tax and stop-loss": (0, 20_000, 5 * T, 150_000, 0),
    "fees, stop-loss and take-profit": (2_500, 2_500, 0, 80_000, 200_000),
}
OWN: dict[int, list[tuple[int, ...]]] = {
    1: [()],
    2: [(1, 10 * T), (7, 123_456_789), (30, 1_000 * T)],
    3: [(1, 0), (2, 0), (3, 50_000), (4, 0), (0, 30_000)],
    4: [(1, 2), (10, 30), (50, 250)],
    5: [(1, 1, 1), (30, 3, 2), (90, 5, 3), (250, 2, 4)],
    6: [(2, 20_000, 0), (20, 100_000, 30_000), (250, 400_000, 100_000)],
}


def population() -> list[Simulation]:
    """Each parameter set with each of the fee and stop schedules, on coins, weights and start days from a seed."""
    pick = random.Random(2022)
    rows = []
    for strategy, own_sets in OWN.items():
        for own in own_sets:
            for common in COMMON.values():
                start = FIRST if pick.random() < 0.8 else pick.randint(FIRST, LAST - 100)
                drawn = one(pick, strategy, list(range(1, FULLY_LISTED + 1)), start)
                rows.append(Simulation(**(vars(drawn) | {"params": common + own})))
    late = list(range(FULLY_LISTED - 3, len(COINS) + 1))
    starts = [day_of(day) for day in ("2022-10-18", "2022-10-19", "2023-03-23")]
    rows += [one(pick, strategy, late, start, longest=100) for strategy in OWN for start in starts]
    pick.shuffle(rows)
    return rows


@needs_crypto
def test_three_years_of_twenty_coins() -> None:
    since = day_of("2021-01-01")
    of_asset = {
        number: {day: close for day, close in crypto_closes()[coin].items() if day >= since}
        for number, coin in enumerate(COINS, 1)
    }
    rows, days = population(), range(FIRST, LAST + 1)
    ours = engine_nights(rows, market(of_asset, since, LAST), days)
    theirs = oracle_nights(rows, Prices(of_asset), days)
    same(ours, theirs, rows, days)

    traded = dict.fromkeys(OWN, 0)
    for night in theirs:
        for at, outcome in night.items():
            traded[rows[at].strategy] += len(outcome.trades) if isinstance(outcome, Portfolio) else 0
    assert min(traded.values()) > 30, traded
    quarantined = [o for night in theirs for o in night.values() if isinstance(o, Quarantined)]
    assert {o.reason for o in quarantined} == {"NO_CLOSE"}, "of those that own a coin before its listing"
    assert len(theirs[-1]) > 80
