"""Many plausible simulations and a market for them, from a seed."""

from __future__ import annotations

import random

from tests.oracle.driver import Closes
from tests.oracle.ledger import Simulation
from tests.oracle.numbers import M, T


def own_parameters(pick: random.Random, strategy: int, longest: int = 250) -> tuple[int, ...]:
    """Reasonable parameters of a strategy's own, which look back over at most `longest` closes (at least 4)."""
    if strategy == 2:
        return pick.choice([1, 2, 7, 30]), pick.randrange(1, 200 * T)
    if strategy == 3:
        calendar = pick.randrange(5)
        return calendar, pick.choice([0, 10_000, 50_000]) if calendar else 20_000
    if strategy == 4:
        fast = pick.randint(1, longest // 3)
        return fast, pick.randint(fast + 1, longest)
    if strategy == 5:
        return pick.randint(1, longest), pick.randint(1, 4), pick.randint(1, 4)
    if strategy == 6:
        entry = pick.randrange(5_000, 100_000)
        return pick.randint(2, longest), entry, pick.randrange(entry)
    return ()


def one(pick: random.Random, strategy: int, assets: list[int], start_day: int, longest: int = 250) -> Simulation:
    """One well-formed simulation of the strategy on 1 to 8 of the assets; stops and fees as often as not."""
    chosen = pick.sample(assets, pick.randint(1, min(8, len(assets))))
    shares = [pick.randint(0, 10) for _ in chosen]
    total = max(sum(shares), 1)
    common = (
        pick.choice([0, 1_000, 2_500]),
        pick.choice([0, 1_000, 20_000]),
        pick.choice([0, 0, 5 * T]),
        pick.choice([0, 0, 50_000, 200_000]),
        pick.choice([0, 0, 100_000, 500_000]),
    )
    return Simulation(
        strategy=strategy,
        start_day=start_day,
        initial_cash=pick.randrange(100 * T, 100_000 * T),
        params=common + own_parameters(pick, strategy, longest),
        asset_ids=tuple(chosen),
        weights=tuple(M * share // total for share in shares),
    )


def many(pick: random.Random, count: int, assets: list[int], start_days: range, longest: int = 250) -> list[Simulation]:
    """Simulations of all strategies in random order."""
    return [one(pick, pick.randint(1, 6), assets, pick.choice(start_days), longest) for _ in range(count)]


def random_walks(pick: random.Random, assets: int, days: range) -> Closes:
    """Closes of every size; every third asset rests at weekends, every seventh has gaps, every tenth ends early."""
    market: Closes = {}
    for asset in range(1, assets + 1):
        price = 10 ** pick.uniform(0, 14)
        of_day = {}
        for day in days:
            price *= pick.lognormvariate(0, 0.05)
            rests = asset % 3 == 0 and day % 7 in {0, 1}
            missing = asset % 7 == 0 and pick.random() < 0.3
            ended = asset % 10 == 0 and day > days[-1] - pick.randint(3, 6)
            if not (rests or missing or ended):
                of_day[day] = max(int(price), 1)
        market[asset] = of_day
    return market
