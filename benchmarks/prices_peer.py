"""What one would write instead: the SQLAlchemy ORM, symbol by symbol, and a SET for each price.

Per symbol: `merge` of the tick, `get` or create of the latest price and of the day's close; one commit for 500 symbols,
so that the flush before it can send many rows in one statement. It judges no price, which is work it is spared. Its
tables have Nightshift's columns and keys, in a schema of their own; its server, cache and prices are Nightshift's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import BigInteger, Date, DateTime, Double, Engine, Integer, Text, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from core.database import sqlalchemy_url
from core.errors import NightshiftError
from models.base import Big
from models.partitions import ensure_month_partitions
from models.ticks import TICKS_PER_UNIT
from price_sources.source import Quote
from services.price_cache import price_key
from services.price_store import Followed

SCHEMA = "peer"
COMMIT_SYMBOLS = 500
_KEY_PREFIX = "peer:price:"
_TTL = timedelta(minutes=5)


class PeerBase(DeclarativeBase):
    """Apart from Nightshift's own metadata, which migrations compare with the database."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration of this attribute is not a ClassVar
        str: Text(),
        int: Integer(),
        Big: BigInteger(),
        float: Double(),
        date: Date(),
        datetime: DateTime(timezone=True),
    }


class Tick(PeerBase):
    """A price at a moment."""

    __tablename__ = "price_ticks"

    asset_id: Mapped[int] = mapped_column(primary_key=True)
    ts: Mapped[datetime] = mapped_column(primary_key=True)
    price: Mapped[Big]
    source: Mapped[str]


class Latest(PeerBase):
    """The newest price of an asset."""

    __tablename__ = "latest_prices"

    asset_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    ts: Mapped[datetime]
    price: Mapped[Big]
    source: Mapped[str]


class DayClose(PeerBase):
    """An asset's last price of a day."""

    __tablename__ = "closes"

    day: Mapped[date] = mapped_column(primary_key=True)
    asset_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    close: Mapped[Big]
    source: Mapped[str]
    recorded_at: Mapped[datetime]
    kind: Mapped[str]
    as_of: Mapped[datetime]


@contextmanager
def peer_engine(url: str, month: date) -> Iterator[Engine]:
    """An engine that finds the peer's tables, which are made here, before Nightshift's."""
    options = f"-c search_path={SCHEMA},public -c TimeZone=UTC"
    engine = create_engine(sqlalchemy_url(url), pool_size=1, connect_args={"options": options})
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            for table, partitioned in _TABLES.items():
                like = f"{SCHEMA}.{table} (LIKE public.{table} INCLUDING ALL)"
                connection.execute(text(f"CREATE TABLE {like} {partitioned}"))
            ensure_month_partitions(connection, "price_ticks", [month])
        yield engine
    finally:
        engine.dispose()


_TABLES = {"price_ticks": "PARTITION BY RANGE (ts)", "latest_prices": "WITH (fillfactor = 50)", "closes": ""}


def store_with_orm(
    engine: Engine,
    client: redis.Redis,
    assets: Mapping[str, Followed],
    quotes: Sequence[Quote],
    *,
    source: str,
    now: datetime,
) -> float:
    """Store and cache these prices; the seconds it took."""
    began = time.perf_counter()
    for first in range(0, len(quotes), COMMIT_SYMBOLS):
        some = quotes[first : first + COMMIT_SYMBOLS]
        with Session(engine) as session:
            for quote in some:
                _store(session, assets[quote.code].id, quote, source, now)
            session.commit()
        for quote in some:
            client.set(_KEY_PREFIX + assets[quote.code].symbol, _document(quote, source), ex=_TTL)
    return time.perf_counter() - began


def _store(session: Session, asset_id: int, quote: Quote, source: str, now: datetime) -> None:
    session.merge(Tick(asset_id=asset_id, ts=quote.ts, price=quote.price, source=source))
    latest = session.get(Latest, asset_id)
    if latest is None:
        session.add(Latest(asset_id=asset_id, ts=quote.ts, price=quote.price, source=source))
    elif latest.ts <= quote.ts:
        latest.ts, latest.price, latest.source = quote.ts, quote.price, source
    day = quote.ts.astimezone(UTC).date()
    close = session.get(DayClose, (day, asset_id))
    if close is None:
        close = DayClose(day=day, asset_id=asset_id, kind="tick")
        session.add(close)
    elif close.kind != "tick" or close.as_of >= quote.ts:
        return
    close.close, close.source, close.as_of, close.recorded_at = quote.price, source, quote.ts, now


def _document(quote: Quote, source: str) -> str:
    units, ticks = divmod(quote.price, TICKS_PER_UNIT)
    return json.dumps({"price": f"{units}.{ticks:08d}", "ts": quote.ts.isoformat(), "source": source})


def check_same(engine: Engine, client: redis.Redis, assets: Sequence[Followed]) -> None:
    """Compare what the peer stored of these assets with what Nightshift did: ticks, latest prices, closes, cache.

    Raises:
        NightshiftError: something differs, or only one of the two has it.
    """
    ids = [asset.id for asset in assets]
    with engine.connect() as connection:
        for table, columns in _COMPARED.items():
            query = text(_DIFFERENCE.format(table=table, columns=columns))
            first = connection.execute(query, {"assets": ids}).first()
            if first is not None:
                raise NightshiftError(f"the peer stored something else: {table}, first of asset {first.asset_id}")
    for asset in assets:
        theirs, ours = _cached(client, _KEY_PREFIX + asset.symbol), _cached(client, price_key(asset.symbol))
        if theirs != ours:
            raise NightshiftError(f"the peer cached something else: {theirs} instead of {ours} of {asset.symbol}")


def _cached(client: redis.Redis, key: str) -> dict[str, Any] | None:
    value = client.get(key)
    if not isinstance(value, bytes):
        return None
    document: dict[str, Any] = json.loads(value)
    return document | {"ts": datetime.fromisoformat(document["ts"])}


# The variance is what Nightshift judges by, and the peer has none.
_COMPARED = {
    "price_ticks": "asset_id, ts, price, source",
    "latest_prices": "asset_id, ts, price, source",
    "closes": "asset_id, day, close, open, high, low, volume, source, kind, as_of, recorded_at",
}
# An unqualified name is the peer's: its schema comes first in the search path.
_DIFFERENCE = """
WITH theirs AS (SELECT {columns} FROM {table} WHERE asset_id = ANY(:assets)),
    ours AS (SELECT {columns} FROM public.{table} WHERE asset_id = ANY(:assets))
SELECT asset_id FROM (
    (TABLE theirs EXCEPT ALL TABLE ours) UNION ALL (TABLE ours EXCEPT ALL TABLE theirs)
) AS different ORDER BY asset_id LIMIT 1
"""
