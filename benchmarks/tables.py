"""The tables of docs/performance.md, measured here and now, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.night import measure_nights
from benchmarks.peers.measure import measure_peers
from benchmarks.prices import measure_prices
from benchmarks.reprocess import measure_reprocess
from benchmarks.workers import measure_workers
from core.settings import Settings

Tell = Callable[[str], None]
Figures = dict[str, Any]

_NIGHT_ROWS = (
    ("night, s", "night_seconds", 2),
    ("users a second", "users_per_second", 0),
    ("trades a second", "trades_per_second", 0),
    ("planning, s", "plan_seconds", 3),
    ("publishing, s", "publish_seconds", 3),
    ("first batch begun after, s", "first_batch_seconds", 3),
    ("floor, s", "floor_seconds", 2),
    ("ratio to the floor", "ratio_to_floor", 2),
    ("peak memory of a worker process, MiB", "worker_peak_rss_mib", 0),
    ("peak memory of the producer, MiB", "producer_peak_rss_mib", 0),
    ("WAL a user, bytes", "wal_bytes_per_user", 0),
)
_PEER_ROWS = (
    ("Nightshift, users a second", "nightshift_users_per_second", 0),
    ("a task per user with the ORM, users a second", "task_per_user_users_per_second", 0),
    ("a task per 100 users in bulk, users a second", "task_per_100_users_users_per_second", 0),
    ("empty Celery tasks a second", "empty_tasks_per_second", 0),
    ("Nightshift to a task per user", "ratio_to_task_per_user", 0),
    ("Nightshift to a task per 100 users", "ratio_to_task_per_100_users", 1),
    ("Nightshift's users to empty tasks", "ratio_to_empty_tasks", 0),
)
_REPROCESS_ROWS = (
    ("from the request to the end, s", "reprocess_seconds", 1),
    ("user-days a second", "user_days_per_second", 0),
    ("clearing the quarantine and planning, s", "plan_seconds", 2),
    ("one simulation over 365 days, s", "reprocess_one_seconds", 2),
)
_PRICE_ROWS = (
    ("parsed to committed and cached, s", "window_seconds", 3),
    ("of it the transaction, s", "store_seconds", 3),
    ("of it the cache, s", "cache_seconds", 3),
    ("parsing the answer, s", "parse_seconds", 3),
    ("prices a second", "ticks_per_second", 0),
    ("floor, s", "floor_seconds", 3),
    ("log a price, bytes", "wal_bytes_per_tick", 0),
    ("a symbol, us", "microseconds_per_symbol", 0),
    ("a symbol with the ORM, us", "peer_microseconds_per_symbol", 0),
    ("Nightshift to the ORM", "ratio_to_peer", 0),
)
_PRICE_NUMBERS = (
    ("the first window after midnight, s", "midnight_window_seconds", 3),
    ("log a day, GB", "day_wal_gb", 1),
    ("a tick in the table, bytes", "table_bytes_per_tick", 1),
    ("a tick in its key, bytes", "key_bytes_per_tick", 1),
    ("ticks of 30 days", "month_ticks", 0),
    ("their bytes, GB", "month_gb", 1),
)
_MANY_NIGHTS, _MANY_DAYS, _ROUNDS = 60, 30, 8
_MORE_ASSETS = (1_000, 10_000)
_SYMBOLS, _PEER_SYMBOLS, _WINDOWS = 10_000, 1_000, 12


def tables(*, users: int, settings: Settings, tell: Tell = lambda _: None) -> Iterator[str]:
    """Measure everything that the page claims, table by table; `users` is the largest night. Takes minutes.

    Raises:
        NightshiftError: a night did not end well, or a peer computed something else.
    """
    tenth = max(users // 10, 1)

    def night(count: int, nights: int = 3, **options: Any) -> Figures:
        return measure_nights(
            users=count, nights=nights, workers=settings.workers, settings=settings, tell=tell, **options
        )

    largest = night(users)
    yield _spreads(f"A night of {users:,} users, {settings.workers} workers", largest, _NIGHT_ROWS)
    yield _split(largest)
    # Short nights differ more from each other.
    by_users = [night(max(users // 100, 1), nights=9), night(tenth, nights=9), largest]
    yield _compared("By users", "users", by_users)
    by_assets = [by_users[1], *(night(tenth, assets=assets) for assets in _MORE_ASSETS)]
    yield _compared(f"By assets, {tenth:,} users", "assets", by_assets)
    by_workers = measure_workers(
        users=users, rounds=_ROUNDS, workers=settings.workers, against=(1, 3), settings=settings, tell=tell
    )
    yield _by_workers(by_workers)
    yield _by_nights(night(tenth, nights=_MANY_NIGHTS, floor=False))
    peers = measure_peers(
        users=tenth, peer_users=2_000, nights=3, workers=settings.workers, settings=settings, tell=tell
    )
    yield _spreads("Peers", peers, _PEER_ROWS)
    again = measure_reprocess(
        users=tenth, days=_MANY_DAYS, repeats=3, workers=settings.workers, settings=settings, tell=tell
    )
    yield _spreads(f"{tenth:,} users over {_MANY_DAYS} days, {settings.workers} workers", again, _REPROCESS_ROWS)
    prices = measure_prices(
        symbols=_SYMBOLS, peer_symbols=_PEER_SYMBOLS, windows=_WINDOWS, workers=settings.workers, settings=settings,
        tell=tell,
    )  # fmt: skip
    yield _spreads(f"A window of {_SYMBOLS:,} symbols", prices, _PRICE_ROWS)
    yield _numbers(f"{_SYMBOLS:,} symbols every five minutes", prices, _PRICE_NUMBERS)


def _spreads(title: str, figures: Figures, rows: Sequence[tuple[str, str, int]]) -> str:
    lines = [f"| {title} | min | median | max |", "|---|---|---|---|"]
    for label, name, digits in rows:
        spread = figures[name]
        lines.append(
            f"| {label} | " + " | ".join(f"{spread[key]:,.{digits}f}" for key in ("min", "median", "max")) + " |"
        )
    return "\n".join(lines)


def _numbers(title: str, figures: Figures, rows: Sequence[tuple[str, str, int]]) -> str:
    lines = [f"| {title} | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {label} | {figures[name]:,.{digits}f} |" for label, name, digits in rows)])


def _split(figures: Figures) -> str:
    """Where the workers' time goes, us of one worker for each user."""
    lines = ["| stage | worker time a user, us | share |", "|---|---|---|"]
    medians = {stage: spread["median"] for stage, spread in figures["stage_seconds"].items()}
    for stage, seconds in medians.items():
        lines.append(f"| {stage} | {seconds / figures['users'] * 1e6:.2f} | {seconds / sum(medians.values()):.0%} |")
    return "\n".join(lines)


def _compared(title: str, what: str, measured: Sequence[Figures]) -> str:
    lines = [
        f"| {title}: {what} | night, s | users a second | ratio to the floor | worker's memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for figures in measured:
        median = {name: figures[name]["median"] for name in ("night_seconds", "users_per_second", "ratio_to_floor")}
        lines.append(
            f"| {figures[what]:,} | {median['night_seconds']:.2f} | {median['users_per_second']:,.0f} |"
            f" {median['ratio_to_floor']:.2f} | {figures['worker_peak_rss_mib']['max']:.0f} |"
        )
    return "\n".join(lines)


def _by_workers(figures: Figures) -> str:
    ratio = f"times the night of {figures['workers']} beside it"
    lines = [
        f"| By workers, {figures['users']:,} users: workers | night, s | users a second | {ratio} |",
        "|---|---|---|---|",
    ]
    for size, seconds in figures["night_seconds"].items():
        lines.append(
            f"| {size} | {seconds['median']:.2f} | {figures['users_per_second'][size]['median']:,.0f} |"
            f" {figures['night_to_workers'][size]['median']:.2f} |"
        )
    return "\n".join(lines)


def _by_nights(figures: Figures) -> str:
    """Seconds of groups of ten nights, so that one restless second of the machine does not pass for a trend."""
    each = figures["each_night_seconds"]
    lines = [f"| nights of {figures['users']:,} users | median, s |", "|---|---|"]
    for first in range(0, len(each), 10):
        ten = sorted(each[first : first + 10])
        lines.append(f"| {first + 1} to {first + len(ten)} | {ten[len(ten) // 2]:.3f} |")
    return "\n".join(lines)
