"""The settings name the sources and their limits; what they say wrongly is named, with the setting."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from core.errors import UsageError
from core.settings import Settings
from price_sources.registry import KNOWN, limits_of, sources


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_the_sources_come_in_the_order_of_the_setting() -> None:
    found = sources(settings(price_sources=" osrs, Binance,coingecko ,csv,", csv_url="http://files.invalid/a.csv"))
    assert list(found) == ["osrs", "binance", "coingecko", "csv"]
    assert [source.name for source in found.values()] == list(found)
    assert found["csv"].base_url == "http://files.invalid/a.csv"
    assert sources(settings()) == {}


def test_every_known_source_can_be_made_and_says_what_it_promises() -> None:
    made = sources(settings(price_sources=",".join(KNOWN), csv_url="http://files.invalid/a.csv"))
    assert made.keys() == KNOWN.keys()
    for name, source in made.items():
        assert KNOWN[name].description
        assert source.terms.close
        assert source.terms.requests > 0
        assert source.terms.symbols_per_request > 0
        assert not source.base_url.endswith("/")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"price_sources": "binanse"}, "NIGHTSHIFT_PRICE_SOURCES: unknown source 'binanse': there are binance,"),
        ({"price_sources": "osrs,osrs"}, "NIGHTSHIFT_PRICE_SOURCES names osrs twice"),
        ({"price_sources": "csv"}, "NIGHTSHIFT_CSV_URL is empty"),
        ({"price_limits": "binanse=1/minute"}, "NIGHTSHIFT_PRICE_LIMITS: unknown source 'binanse'"),
        ({"price_limits": "osrs=1/minute,osrs=2/minute"}, "NIGHTSHIFT_PRICE_LIMITS names osrs twice"),
        ({"price_limits": "osrs"}, "NIGHTSHIFT_PRICE_LIMITS: 'osrs' is no limit"),
        ({"price_limits": "osrs=fast"}, "NIGHTSHIFT_PRICE_LIMITS: 'osrs=fast' is no limit"),
        ({"price_limits": "osrs=0/minute"}, "is no limit"),
        ({"price_limits": "osrs=-1/minute"}, "is no limit"),
        ({"price_limits": "osrs=1/minute;5/hour"}, "is no limit"),
    ],
)
def test_what_the_settings_say_wrongly_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        limits_of(settings(**values))
    assert message in str(caught.value)


def test_a_limit_of_the_settings_stands_before_the_sources_own() -> None:
    found = limits_of(
        settings(price_sources="osrs,binance,coingecko", price_limits="coingecko=500/minute,OSRS=10/6second")
    )
    assert {name: (item.amount, item.get_expiry()) for name, item in found.items()} == {
        "osrs": (10, 6),
        "binance": (3000, 60),
        "coingecko": (500, 60),
    }


@pytest.mark.parametrize(
    ("url", "key", "header", "requests"),
    [
        ("https://api.coingecko.invalid/api/v3", None, None, 10),
        ("https://api.coingecko.invalid/api/v3/", "k1", "x-cg-demo-api-key", 30),
        ("https://pro-api.coingecko.invalid/api/v3", "k1", "x-cg-pro-api-key", 250),
    ],
)
def test_coingeckos_key_decides_its_header_and_its_limit(
    url: str, key: str | None, header: str | None, requests: int
) -> None:
    values = {"coingecko_url": url, "coingecko_api_key": SecretStr(key) if key else None}
    (source,) = sources(settings(price_sources="coingecko", **values)).values()
    assert source.headers() == ({header: key} if header else {})
    assert source.terms.requests == requests
