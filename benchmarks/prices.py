"""How long a window of prices takes, from the parsed answer to committed, closes updated and cached.

Measured is what a worker does with an answer (services/ingestion.py): judge, ticks, newest prices and closes in one
transaction, its commit, then the cache. A day of ticks is there already, because with less the key of the ticks would
be smaller than it ever is. A checkpoint comes before every third window, as in production, so that this one writes full
pages into the log. Behind each window come its neighbours: the floor, which is a bare COPY of the same ticks into a
table with the same key and its commit, and the peer (benchmarks/prices_peer.py) on the first symbols. In the end what
the peer stored must be what Nightshift did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Engine, text

from benchmarks.figures import spread
from benchmarks.price_market import ANSWERED_AFTER, SOURCE, Market, wanted_symbols
from benchmarks.prices_peer import COMMIT_SYMBOLS, check_same, peer_engine, store_with_orm
from benchmarks.site import bench_site, tidy
from core.database import driver_connection, session_scope
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from models.column_reader import copy_rows
from models.migrate import migrate
from models.partitions import ensure_month_partitions, month_partition
from price_sources.source import Answer
from services.copying import copy_in, copy_out
from services.following import follow
from services.ingestion import store_answer
from services.price_cache import PriceCache
from services.price_store import Followed
from workers.memory import leave_out_of_collections

# The windows that are measured are the last of a day, and one after midnight, which begins the closes of another day.
MIDNIGHT = datetime(2026, 1, 15, tzinfo=UTC)
LENGTH = timedelta(minutes=5)
WARM_UP = 2
HISTORY = 288
_WINDOWS_OF_A_CHECKPOINT = 3
MAX_WINDOWS = 200
MAX_SYMBOLS = 10_000
_WINDOWS_OF_A_DAY, _DAYS_OF_A_MONTH = 288, 30
_FLOOR = "floor_price_ticks"
_COLUMNS = "asset_id, ts, price, source"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _World:
    """Where windows are stored, and where the peer stores the first symbols of them."""

    engine: Engine
    settings: Settings
    assets: Mapping[str, Followed]
    market: Market
    cache: PriceCache
    peer: Engine
    peer_cache: redis.Redis
    peer_assets: Mapping[str, Followed]


@dataclass(frozen=True, slots=True)
class _Measured:
    """One window, in seconds: reading the answer, the transaction, the cache; the floor; the peer's few symbols."""

    parse: float
    store: float
    cache: float
    floor: float
    peer: float
    wal_bytes: int

    @property
    def total(self) -> float:
        """From the parsed answer to the cached prices."""
        return self.store + self.cache


def measure_prices(
    *,
    symbols: int,
    peer_symbols: int,
    windows: int,
    workers: int,
    settings: Settings,
    tell: Tell = lambda _: None,
    history: int = HISTORY,
) -> dict[str, Any]:
    """`windows` windows of `symbols` symbols, one after midnight, behind `history` that are there already.

    Returns:
        Plain values; what is measured in each window as {"min", "median", "max"}.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a price was held or lost, or the peer stored something else.
    """
    if not 1 <= windows <= MAX_WINDOWS:
        raise UsageError(f"windows must be 1 to {MAX_WINDOWS}, not {windows}")
    if not 1 <= symbols <= MAX_SYMBOLS:
        raise UsageError(f"symbols must be 1 to {MAX_SYMBOLS}, not {symbols}")
    peers = min(peer_symbols, symbols)
    first = -WARM_UP - windows
    with _world(symbols, peers, workers, settings) as world:
        # As a worker process does.
        leave_out_of_collections()
        tell(f"{history} windows of {symbols:,} symbols before …")
        for number in range(history):
            _fill(world, MIDNIGHT + (first - history + number) * LENGTH)
        measured = []
        for number in range(first, 1):
            one = _measure(world, MIDNIGHT + number * LENGTH, checkpoint=number % _WINDOWS_OF_A_CHECKPOINT == 0)
            tell(f"window {number - first + 1}: {symbols:,} symbols in {one.total:.3f} s")
            measured.append(one)
        check_same(world.peer, world.peer_cache, list(world.peer_assets.values()))
        size = _size(world.engine, symbols * (len(measured) + history))
    numbers = {
        "symbols": symbols, "windows": windows, "history_windows": history,
        "peer_symbols": peers, "peer_commit_symbols": COMMIT_SYMBOLS,
    }  # fmt: skip
    return numbers | _figures(measured, symbols, peers) | size | _month(symbols, size["bytes_per_tick"], measured)


@contextmanager
def _world(symbols: int, peers: int, workers: int, settings: Settings) -> Iterator[_World]:
    with bench_site(settings, workers) as site:
        migrate(site.engine)
        ours = site.settings.model_copy(update={"price_sources": SOURCE, "cache_url": None})
        with session_scope(site.engine) as session:
            assets = follow(session, SOURCE, wanted_symbols(symbols), now=MIDNIGHT - timedelta(days=1))
        few = dict(list(assets.items())[:peers])
        cache = PriceCache(site.urls.redis_url)
        try:
            with (
                redis.Redis.from_url(site.urls.redis_url) as peer_cache,
                peer_engine(site.urls.database_url, MIDNIGHT.date()) as peer,
            ):
                yield _World(site.engine, ours, assets, Market(assets), cache, peer, peer_cache, few)
        finally:
            cache.close()


def _fill(world: _World, moment: datetime) -> None:
    """Ticks of a window that is over, Nightshift's and the peer's; nobody looks at their prices."""
    for engine, assets in ((world.engine, world.assets), (world.peer, world.peer_assets)):
        with engine.begin() as connection:
            ensure_month_partitions(connection, "price_ticks", [moment.date()])
            ids = [asset.id for asset in assets.values()]
            connection.execute(_FILL, {"assets": ids, "moment": moment, "source": SOURCE})


_FILL = text(
    "INSERT INTO price_ticks (asset_id, ts, price, source)"
    " SELECT asset_id, :moment, 100000000, :source FROM unnest(CAST(:assets AS int[])) AS a (asset_id)"
)


def _measure(world: _World, moment: datetime, *, checkpoint: bool) -> _Measured:
    """Store the next window, then the floor and the peer the same."""
    _settle(world.engine, checkpoint=checkpoint)
    answer, measured = _store(world, moment)
    floor = _floor(world.engine, moment)
    quotes = [quote for quote in answer.quotes if quote.code in world.peer_assets]
    _settle(world.peer, checkpoint=False)
    peer = store_with_orm(
        world.peer, world.peer_cache, world.peer_assets, quotes, source=SOURCE, now=moment + ANSWERED_AFTER
    )
    return replace(measured, floor=floor, peer=peer)


def _settle(engine: Engine, *, checkpoint: bool) -> None:
    """Do now what autovacuum, and if so the checkpointer, would do until the next window."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE) latest_prices, closes"))
        if checkpoint:
            connection.execute(text("CHECKPOINT"))


def _store(world: _World, moment: datetime) -> tuple[Answer, _Measured]:
    """What a worker does with an answer, from its bytes to the cache."""
    window, now = world.market.window(moment), moment + ANSWERED_AFTER
    before = _log_position(world.engine)
    began = time.perf_counter()
    answer = window.read(now)
    read = time.perf_counter()
    with session_scope(world.engine) as session:
        stored = store_answer(session, SOURCE, world.assets, answer, now=now, settings=world.settings)
    committed = time.perf_counter()
    world.cache.put(stored.latest)
    ended = time.perf_counter()
    if (stored.ticks, stored.held, len(stored.latest)) != (len(world.assets), 0, len(world.assets)):
        raise NightshiftError(
            f"of {len(world.assets)} prices {stored.ticks} were stored, {stored.held} held, {len(stored.latest)} newest"
        )
    wal_bytes = _log_position(world.engine) - before
    return answer, _Measured(read - began, committed - read, ended - committed, 0.0, 0.0, wal_bytes)


def _log_position(engine: Engine) -> int:
    with engine.connect() as connection:
        position = connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).scalar_one()
    return int(position)


def _floor(engine: Engine, moment: datetime) -> float:
    """Seconds to COPY the ticks of that window into a table like their partition, and to commit."""
    partition = month_partition("price_ticks", moment.date())
    create, *_attach = replace(partition, name=_FLOOR).statements()
    with engine.begin() as connection:
        if connection.execute(text(f"SELECT to_regclass('{_FLOOR}')")).scalar_one() is None:
            connection.exec_driver_sql(create)
        query = f"SELECT {_COLUMNS} FROM price_ticks WHERE ts = '{moment.isoformat()}' ORDER BY asset_id"  # noqa: S608 - ours
        rows = b"".join(copy_rows(copy_out(driver_connection(connection), query)))
    began = time.perf_counter()
    with engine.begin() as connection:
        copy_in(driver_connection(connection), _FLOOR, _COLUMNS, [rows])
    return time.perf_counter() - began


def _size(engine: Engine, ticks: int) -> dict[str, Any]:
    """Bytes of a tick on disk, with its share of free space and of the key."""
    table = month_partition("price_ticks", MIDNIGHT.date()).name
    tidy(engine, table)
    query = f"SELECT count(*), pg_table_size('{table}'), pg_indexes_size('{table}') FROM {table}"  # noqa: S608 - ours
    with engine.connect() as connection:
        count, heap, key = connection.execute(text(query)).one()
    if count != ticks:
        raise NightshiftError(f"{count} ticks are in {table} instead of {ticks}")
    return {
        "ticks": count,
        "table_bytes_per_tick": round(heap / count, 1),
        "key_bytes_per_tick": round(key / count, 1),
        "bytes_per_tick": round((heap + key) / count, 1),
    }


def _month(symbols: int, bytes_per_tick: float, measured: Sequence[_Measured]) -> dict[str, Any]:
    """30 days of windows on paper, and the log of one of them; GB of 1e9 bytes."""
    log = [each.wal_bytes for each in measured[WARM_UP:-1]]
    ticks = symbols * _WINDOWS_OF_A_DAY * _DAYS_OF_A_MONTH
    return {
        "day_wal_gb": round(sum(log) / len(log) * _WINDOWS_OF_A_DAY / 1e9, 2),
        "month_ticks": ticks,
        "month_gb": round(ticks * bytes_per_tick / 1e9, 2),
    }


def _figures(measured: Sequence[_Measured], symbols: int, peers: int) -> dict[str, Any]:
    first, midnight, later = measured[0], measured[-1], measured[WARM_UP:-1]
    return {
        "window_seconds": spread(each.total for each in later),
        "store_seconds": spread(each.store for each in later),
        "cache_seconds": spread(each.cache for each in later),
        "parse_seconds": spread(each.parse for each in later),
        "ticks_per_second": spread((symbols / each.total for each in later), 0),
        "floor_seconds": spread(each.floor for each in later),
        "ratio_to_floor": spread((each.total / each.floor for each in later), 2),
        "wal_bytes_per_tick": spread((each.wal_bytes / symbols for each in later), 0),
        "peer_microseconds_per_symbol": spread((each.peer / peers * 1e6 for each in later), 1),
        "microseconds_per_symbol": spread((each.total / symbols * 1e6 for each in later), 1),
        "ratio_to_peer": spread(((each.peer / peers) / (each.total / symbols) for each in later), 1),
        "first_window_seconds": round(first.total, 4),
        "midnight_window_seconds": round(midnight.total, 4),
    }
