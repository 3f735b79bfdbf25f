"""`nightshift status --live`: the leaderboard and the live users at the latest prices, as the workers marked them."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from scripts.cli import cell, connected, console, print_json, print_table

if TYPE_CHECKING:
    from services.live_marks import Marks, SimulationMark
    from services.price_cache import CacheCounts

_COLUMNS = ["user>", "simulation>", "equity>", "since close>", "since start>", "close of", "positions", "price age>"]


def show_live(*, json: bool) -> None:
    """Print what is marked, and how often the cache of prices was right.

    Raises:
        ServerUnreachableError: PostgreSQL or the cache does not answer.
    """
    from core.clock import utc_now
    from services.cache_server import cache_url
    from services.live_marks import read_marks
    from services.price_cache import PriceCache

    with connected() as servers, closing(PriceCache(cache_url(servers.settings, servers.urls.redis_url))) as cache:
        now, marks, counts = utc_now(), read_marks(cache), cache.counts()
    if json:
        print_json(_document(now, marks, counts))
        return
    lines = [f"now {cell(now)} UTC · {_cache_line(counts)}"]
    if marks is None:
        lines.append("nothing is marked yet: a worker marks after each window of prices")
    else:
        lines.append(f"window {cell(marks.window)} UTC, marked {_age(now, marks.marked_at)} ago")
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)
    if marks is None:
        return
    leaders = [[leader.rank, leader.closed_rank, *_row(leader.mark, now)] for leader in marks.leaderboard]
    print_table(["rank>", "at close>", *_COLUMNS], leaders, title="Leaderboard")
    print_table(_COLUMNS, [_row(mark, now) for mark in marks.simulations], title="Live users")


def _document(now: datetime, marks: Marks | None, counts: CacheCounts | None) -> dict[str, object]:
    return {
        "now": now,
        "window": marks and marks.window,
        "marked_at": marks and marks.marked_at,
        "leaderboard": [leader.as_json() for leader in marks.leaderboard] if marks else [],
        "simulations": [mark.as_json() for mark in marks.simulations] if marks else [],
        "cache": counts and {"hits": counts.hits, "misses": counts.misses, "hit_ratio": counts.hit_ratio},
    }


def _cache_line(counts: CacheCounts | None) -> str:
    if counts is None or counts.hit_ratio is None:
        return "no price was asked of the cache yet"
    return f"{100 * counts.hit_ratio:.1f} % of {counts.hits + counts.misses:,} prices came from the cache"


def _row(mark: SimulationMark, now: datetime) -> list[object]:
    positions = f"{mark.positions}" + (f", {mark.at_close} at the close" if mark.at_close else "")
    return [
        str(mark.user_id),
        str(mark.simulation_id),
        mark.equity,
        _percent(mark.change_ppm),
        _percent(mark.return_ppm),
        mark.day,
        positions,
        None if mark.priced_at is None else _age(now, mark.priced_at),
    ]


def _percent(ppm: int | None) -> str:
    return cell(None) if ppm is None else f"{ppm / 10_000:+.2f} %"


def _age(now: datetime, moment: datetime) -> str:
    seconds = max(int((now - moment).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
