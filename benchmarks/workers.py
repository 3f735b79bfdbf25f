"""Whether more worker processes make a night longer: nights of the one number and of others, in turn on one stack.

A virtual machine is from minute to minute a fifth faster or slower, which is more than a process makes. So each night
is compared with one that ran in the same minute, and the order of the numbers turns around from round to round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import count
from typing import Any

from benchmarks.figures import interval_of_ratios, spread
from benchmarks.nights import Night, run_night
from benchmarks.pools import Pools, pools
from benchmarks.site import bench_site, prepare, tidy
from core.errors import UsageError
from core.settings import Settings
from models.partitions import day_partition

MAX_ROUNDS = 100


def measure_workers(
    *,
    users: int,
    rounds: int,
    workers: int,
    against: Sequence[int],
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run `rounds` rounds of a night of each number of processes, after one of each to warm up.

    Returns:
        By number of processes, as text: seconds and users a second of its nights, and in `night_to_workers` how many
        times the night of `workers` processes of the same round they took; `mean_night_to_workers` is the geometric
        mean of that with its interval.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well.
    """
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError(f"rounds must be 1 to {MAX_ROUNDS}, not {rounds}")
    others = sorted(set(against) - {workers})
    if not others:
        raise UsageError(f"there is no other number of workers to compare {workers} with: use --against")
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=(rounds + 1) * (len(others) + 1))
        with pools(site, others) as all_pools:
            return {"users": users, "rounds": rounds} | compare(all_pools, first, rounds, tell)


def compare(all_pools: Pools, first: date, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """The figures of nights from `first` on, by number of processes, as `measure_workers` returns them."""
    workers = all_pools.watched.site.settings.workers
    measured: dict[int, list[float]] = {size: [] for size in sorted(all_pools.nodes)}
    users = 0
    days = (first + timedelta(days=number) for number in count())
    for number in range(rounds + 1):
        for size in sorted(measured, reverse=bool(number % 2)):
            all_pools.serve(size)
            night = _night(all_pools, next(days))
            users = night.users
            if number:
                measured[size].append(night.total)
            tell(f"{f'round {number}' if number else 'warm-up'}, {size} workers: {night.total:.2f} s")
    base = measured[workers]
    sizes = {str(size): seconds for size, seconds in measured.items()}
    ratios = {size: [its / right for its, right in zip(seconds, base, strict=True)] for size, seconds in sizes.items()}
    return {
        "workers": workers,
        "night_seconds": {size: spread(seconds) for size, seconds in sizes.items()},
        "users_per_second": {size: spread((users / its for its in seconds), 0) for size, seconds in sizes.items()},
        "night_to_workers": {size: spread(its) for size, its in ratios.items()},
        "mean_night_to_workers": {size: interval_of_ratios(its) for size, its in ratios.items()},
        "each_night_seconds": {size: [round(its, 4) for its in seconds] for size, seconds in sizes.items()},
    }


def _night(all_pools: Pools, day: date) -> Night:
    night = run_night(all_pools.watched, day)
    tidy(all_pools.watched.site.engine, f"{day_partition(day).name}, runs, batches")
    return night
