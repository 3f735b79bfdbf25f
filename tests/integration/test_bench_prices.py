"""`nightshift bench prices`: a tiny run measures everything, and a price held or stored otherwise is an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import redis
from sqlalchemy import Engine, text

from benchmarks import price_market, prices
from benchmarks.prices import measure_prices
from benchmarks.prices_peer import check_same
from core.errors import NightshiftError
from services.price_store import Followed
from tests.support.cli import Shell
from tests.support.nights import settings

SYMBOLS, PEER_SYMBOLS, WINDOWS, HISTORY = 200, 30, 4, 5
TICKS = SYMBOLS * (HISTORY + prices.WARM_UP + WINDOWS + 1)
measure_tiny = partial(measure_prices, history=HISTORY)
SPREAD = {"min", "median", "max"}
MEASURED = {
    "window_seconds", "store_seconds", "cache_seconds", "parse_seconds", "ticks_per_second", "floor_seconds",
    "ratio_to_floor", "wal_bytes_per_tick", "microseconds_per_symbol", "peer_microseconds_per_symbol", "ratio_to_peer",
}  # fmt: skip
Fault = Callable[[Engine, redis.Redis], object]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_tiny_run_measures_everything(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "measure_prices", measure_tiny)

    result = shell.ok(
        "bench", "prices", "--symbols", SYMBOLS, "--peer-symbols", PEER_SYMBOLS, "--windows", WINDOWS, "--json"
    ).json

    sizes = {"symbols": SYMBOLS, "windows": WINDOWS, "history_windows": HISTORY, "peer_symbols": PEER_SYMBOLS}
    assert {name: result[name] for name in sizes} == sizes
    for name in MEASURED:
        assert set(result[name]) == SPREAD
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"], name
    assert result["first_window_seconds"] > 0
    assert result["midnight_window_seconds"] > 0
    assert result["ticks"] == TICKS
    # A row is 60 bytes with its header and pointer, its entry in the key 28.
    assert result["table_bytes_per_tick"] >= 60
    assert result["key_bytes_per_tick"] >= 28
    assert result["bytes_per_tick"] == pytest.approx(
        result["table_bytes_per_tick"] + result["key_bytes_per_tick"], abs=0.2
    )
    assert result["month_ticks"] == SYMBOLS * 288 * 30
    assert result["month_gb"] == pytest.approx(result["month_ticks"] * result["bytes_per_tick"] / 1e9, abs=0.01)


def change(statement: str) -> Fault:
    def fault(engine: Engine, _client: redis.Redis) -> None:
        with engine.begin() as connection:
            assert connection.execute(text(statement)).rowcount > 0

    return fault


# What differs is found in this order: each fault comes before those that are there already.
FAULTS: dict[str, Fault] = {
    "None instead of .* of SYN00007": lambda _engine, client: client.delete("peer:price:SYN00007"),
    "closes, first of asset 7": change("UPDATE closes SET close = close - 1 WHERE asset_id = 7"),
    "latest_prices, first of asset 7": change("UPDATE latest_prices SET price = price + 1 WHERE asset_id = 7"),
    "price_ticks, first of asset 7": change("DELETE FROM price_ticks WHERE asset_id = 7 AND price <> 100000000"),
}


def test_what_the_peer_stores_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(engine: Engine, client: redis.Redis, assets: Sequence[Followed]) -> None:
        check_same(engine, client, assets)
        for found, fault in FAULTS.items():
            fault(engine, client)
            with pytest.raises(NightshiftError, match=found):
                check_same(engine, client, assets)
        check_same(engine, client, assets)

    monkeypatch.setattr(prices, "check_same", tampered)

    # The last one ends the measurement.
    with pytest.raises(NightshiftError, match=list(FAULTS)[-1]):
        measure_tiny(symbols=20, peer_symbols=10, windows=1, workers=1, settings=settings())


def test_a_price_that_is_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_market, "_STEP", 900_000)
    with pytest.raises(NightshiftError, match=r"^of 20 prices \d+ were stored, [1-9]\d* held, \d+ newest$"):
        measure_tiny(symbols=20, peer_symbols=10, windows=1, workers=1, settings=settings())


def test_a_measurement_of_nothing_is_refused(shell: Shell) -> None:
    for option in ("--symbols", "--peer-symbols", "--windows"):
        assert option in shell.refused("bench", "prices", option, 0)
