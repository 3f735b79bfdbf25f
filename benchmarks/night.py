"""How long a night takes, all of it: planning, Redis, Celery workers, PostgreSQL, the end of the run.

On servers of its own in a temporary home, with settings of production. The first night, in which workers warm up and
most simulations begin, is not measured. Behind each night its floor is measured: the ratio of the two says more than
either, because machines differ, and one machine from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from benchmarks.figures import Spread, spread
from benchmarks.floor import Floor, measure_floor
from benchmarks.nights import Night, run_nights, watched_stack
from benchmarks.site import ASSETS, Site, bench_site, prepare
from core.errors import UsageError
from core.settings import Settings
from services.digest import digest_of_day

MAX_NIGHTS = 365


def measure_nights(
    *,
    users: int,
    nights: int,
    workers: int,
    settings: Settings,
    assets: int = ASSETS,
    floor: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Seed `users` users with one simulation each, run a night to warm up and then `nights` more, each on its own.

    Returns:
        Plain values; what is measured in each night as {"min", "median", "max"}, and the digest and rows of the last.
        Without `floor` the figures of the floor are absent.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=nights + 1, assets=assets)
        days = [first + timedelta(days=offset) for offset in range(nights + 1)]
        measured, floors = [], []
        with watched_stack(site) as watched:
            for number, night in enumerate(run_nights(watched, days, tell)):
                if number == 0:
                    continue
                measured.append(night)
                if floor:
                    floors.append(_floor(site, night, tell))
        last = digest_of_day(site.engine, days[-1])
        return (
            {"users": users, "nights": nights, "workers": workers, "batch_users": site.settings.batch_users}
            | {"market": f"synthetic, {assets} assets", "assets": assets}
            | _figures(measured)
            | (_floor_figures(measured, floors) if floor else {})
            | {"digest": last.digest, "rows": last.rows, "day": last.day.isoformat()}
        )


def _floor(site: Site, night: Night, tell: Callable[[str], None]) -> Floor:
    workers = site.settings.workers
    floor = measure_floor(site.engine, site.urls.database_url, run_id=night.run_id, day=night.day, processes=workers)
    tell(f"  its floor: {floor.seconds:.2f} s, {night.total / floor.seconds:.2f} times that")
    return floor


def _figures(nights: Sequence[Night]) -> dict[str, Any]:
    return {
        "night_seconds": spread(night.total for night in nights),
        "plan_seconds": spread(night.plan for night in nights),
        "publish_seconds": spread(night.publish for night in nights),
        "first_batch_seconds": spread(night.first_batch for night in nights),
        "users_per_second": spread((night.users / night.total for night in nights), 0),
        "simulations_per_second": spread((night.simulations / night.total for night in nights), 0),
        "trades_per_second": spread((night.trades / night.total for night in nights), 0),
        "trades_per_user": spread(night.trades / night.users for night in nights),
        "wal_bytes_per_user": spread((night.wal_bytes / night.users for night in nights), 1),
        "worker_peak_rss_mib": spread((peak for night in nights for peak in night.worker_rss), 1),
        "producer_peak_rss_mib": spread((night.producer_rss for night in nights), 1),
        "stage_seconds": _stage_spreads(nights),
        "each_night_seconds": [round(night.total, 4) for night in nights],
        "quarantined": sum(night.quarantined for night in nights),
    }


def _stage_spreads(nights: Sequence[Night]) -> dict[str, Spread]:
    """Worker seconds by stage, the workers' taken together."""
    names = dict.fromkeys(name for night in nights for name in night.stages)
    return {name: spread(night.stages.get(name, 0.0) for night in nights) for name in names}


def _floor_figures(nights: Sequence[Night], floors: Sequence[Floor]) -> dict[str, Any]:
    pairs = list(zip(nights, floors, strict=True))
    return {
        "floor_seconds": spread(floor.seconds for floor in floors),
        "ratio_to_floor": spread(night.total / floor.seconds for night, floor in pairs),
        "bytes_read_per_user": spread((floor.bytes_read / night.users for night, floor in pairs), 1),
        "bytes_written_per_user": spread((floor.bytes_written / night.users for night, floor in pairs), 1),
    }
