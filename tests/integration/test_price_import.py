"""A price file is imported once, however often it comes; what it changes is on record; what is bad is left out."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text

from core.database import session_scope
from core.errors import UsageError
from models.tables import Asset, Close, PriceCorrection
from price_sources.closes import BadRow
from services.closed_days import ClosedDays
from services.prices import ImportSummary, RejectedRowsError, import_closes, latest_close
from tests.support.polling import wait_until

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
CRYPTO = Path(__file__).parents[3] / "shared" / "data" / "crypto_daily.csv.gz"
FULL = "symbol,day,open,high,low,close,volume\n"


def run_import(engine: Engine, path: Path, content: str | None = None, *, strict: bool = False) -> ImportSummary:
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with session_scope(engine) as session:
        return import_closes(session, path, now=NOW, strict=strict)


def summary(rows: int, **others: int) -> ImportSummary:
    counts: dict[str, Any] = dict.fromkeys(("inserted", "updated", "unchanged", "corrected", "kept", "new_symbols"), 0)
    return ImportSummary(rows=rows, rejected=[], **counts | others)


def stored(engine: Engine) -> list[tuple[object, ...]]:
    query = (
        select(Asset.symbol, Close.day, Close.close, Close.open, Close.high, Close.low, Close.volume, Close.source)
        .join(Asset, Asset.id == Close.asset_id)
        .order_by(Asset.symbol, Close.day)
    )
    with engine.connect() as connection:
        return [
            tuple(str(value) if isinstance(value, Decimal) else value for value in row)
            for row in connection.execute(query)
        ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.csv"


def test_the_second_import_changes_nothing(engine: Engine, file: Path) -> None:
    content = FULL + "B\\N,2024-01-02,1,2,0.5,1.00000001,1234567.891234567891\nA,2024-01-02,,,,2,\nA,2024-01-01,,,,3,\n"
    assert run_import(engine, file, content) == summary(3, inserted=3, new_symbols=2)
    first = stored(engine)
    assert first == [
        ("A", date(2024, 1, 1), "3.00000000", None, None, None, None, "prices.csv"),
        ("A", date(2024, 1, 2), "2.00000000", None, None, None, None, "prices.csv"),
        ("B\\N", date(2024, 1, 2), "1.00000001", "1.00000000", "2.00000000", "0.50000000", "1234567.891234567891",
         "prices.csv"),
    ]  # fmt: skip
    assert run_import(engine, file, content) == summary(3, unchanged=3)
    # The same numbers in another spelling and order, from a file of another name.
    again = "day,volume,close,symbol\n2024-01-01,,3e0,A\n2024-01-02,1234567.8912345678910,1.000000010,B\\N\n"
    assert run_import(engine, file.with_name("other.csv"), again) == summary(2, unchanged=2)
    assert stored(engine) == first
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(PriceCorrection)) == 0
        names = connection.scalars(select(Asset.symbol).order_by(Asset.id))
        assert names.all() == ["A", "B\\N"]


def test_a_changed_close_is_updated_and_on_record(engine: Engine, file: Path) -> None:
    run_import(engine, file, FULL + "A,2024-01-01,1,2,1,1,10\nA,2024-01-02,1,2,1,1,10\nB,2024-01-01,1,2,1,1,10\n")
    changed = file.with_name("better.csv")
    content = "symbol,day,close,volume\nA,2024-01-01,1.5,10\nA,2024-01-02,1,11\nB,2024-01-01,1,\nB,2024-01-02,9,\n"
    assert run_import(engine, changed, content) == summary(4, inserted=1, updated=2, unchanged=1, corrected=1)
    assert stored(engine) == [
        ("A", date(2024, 1, 1), "1.50000000", "1.00000000", "2.00000000", "1.00000000", "10", "better.csv"),
        ("A", date(2024, 1, 2), "1.00000000", "1.00000000", "2.00000000", "1.00000000", "11", "better.csv"),
        ("B", date(2024, 1, 1), "1.00000000", "1.00000000", "2.00000000", "1.00000000", "10", "prices.csv"),
        ("B", date(2024, 1, 2), "9.00000000", None, None, None, None, "better.csv"),
    ]
    with engine.connect() as connection:
        (correction,) = connection.execute(select(PriceCorrection)).all()
    assert (correction.day, correction.old_close, correction.new_close) == (date(2024, 1, 1), 1, Decimal("1.5"))
    assert (correction.reason, correction.requested_by) == ("import better.csv", "prices import")
    assert correction.created_at == NOW


def test_good_rows_are_kept_and_bad_ones_named_unless_strict(engine: Engine, file: Path) -> None:
    content = "symbol,day,close\nA,2024-01-01,1\nA,2024-01-02,-1\nA,2026-02-02,1\nA,2024-01-01,1\nB,2024-01-01,2\n"
    bad = [
        BadRow(3, "close is negative: '-1'"),
        BadRow(4, "day 2026-02-02 is in the future, after 2026-02-01"),
        BadRow(5, "duplicate: 'A' on 2024-01-01 is already in the file"),
    ]
    with pytest.raises(
        RejectedRowsError, match=r"nothing imported \(strict\): line 3 close is .* and 2 more"
    ) as caught:
        run_import(engine, file, content, strict=True)
    assert caught.value.rejected == bad
    assert nothing_stored(engine)
    result = run_import(engine, file, content)
    assert (result.rows, result.inserted, result.rejected) == (5, 2, bad)
    assert run_import(engine, file, "symbol,day,close\nA,2024-01-01,1\n", strict=True) == summary(1, unchanged=1)


def nothing_stored(engine: Engine) -> bool:
    with engine.connect() as connection:
        return (
            connection.scalar(text("SELECT NOT EXISTS (SELECT FROM assets) AND NOT EXISTS (SELECT FROM closes)"))
            is True
        )


@pytest.mark.parametrize("damage", ["truncated", "encoding"])
def test_a_file_that_breaks_in_the_middle_leaves_nothing(engine: Engine, file: Path, damage: str) -> None:
    content = b"symbol,day,close\n" + b"".join(b"S%d,2024-01-01,1.5\n" % number for number in range(10_000))
    packed = gzip.compress(content)
    file.write_bytes(packed[: len(packed) * 2 // 3] if damage == "truncated" else content + b"\xff,2024-01-01,1\n")
    with pytest.raises(UsageError, match=r"truncated gzip|not a text file in UTF-8 \(line 10002\)"):
        run_import(engine, file)
    assert nothing_stored(engine)


def test_an_import_beside_another_corrects_what_the_other_wrote(engine: Engine, tmp_path: Path) -> None:
    first, second = (tmp_path / f"{number}.csv" for number in (2, 3))
    run_import(engine, tmp_path / "1.csv", "symbol,day,close\nA,2024-01-01,1\n")
    first.write_text("symbol,day,close\nA,2024-01-01,2\n", encoding="utf-8")
    # pg_locks and not pg_stat_activity, which shows a transaction the same picture for ever. The lock on a relation has
    # its database, that on a row of the other transaction has none; no other test runs on this server meanwhile.
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool:
        with session_scope(engine) as session:
            import_closes(session, first, now=NOW)
            other = pool.submit(run_import, engine, second, "symbol,day,close\nA,2024-01-01,3\nA,2024-01-02,3\n")
            wait_until(lambda: session.scalar(waiting), what="the second import waits for the first")
        assert other.result(timeout=30) == summary(2, inserted=1, updated=1, corrected=1)
    with engine.connect() as connection:
        changes = connection.execute(
            select(PriceCorrection.old_close, PriceCorrection.new_close).order_by(PriceCorrection.id)
        )
        assert [f"{old} -> {new}" for old, new in changes] == ["1.00000000 -> 2.00000000", "2.00000000 -> 3.00000000"]


def test_the_latest_close_of_a_symbol(engine: Engine, file: Path) -> None:
    run_import(engine, file, FULL + "A,2024-01-02,1,2,1,0.00000001,7\nA,2024-01-01,1,2,1,5,7\n")
    with session_scope(engine) as session:
        latest = latest_close(session, "A")
        assert (latest.day, latest.close, latest.volume) == (date(2024, 1, 2), Decimal("0.00000001"), Decimal(7))
        assert (latest.source, latest.recorded_at) == ("prices.csv", NOW)
        session.add(Asset(symbol="NONE"))
        session.flush()
        with pytest.raises(UsageError, match=r"^symbol 'NONE' has no close yet"):
            latest_close(session, "NONE")
        for unknown in ("a", "", "A\0", "\udcff", "A\nB"):
            with pytest.raises(UsageError, match=r"^unknown symbol '[^\n]*: import its prices first$"):
                latest_close(session, unknown)


@pytest.mark.skipif(not CRYPTO.exists(), reason="shared/data, which is not part of the repository, is absent")
def test_real_prices_come_through_to_the_last_digit(engine: Engine) -> None:
    assert run_import(engine, CRYPTO, strict=True) == summary(75_034, inserted=75_034, new_symbols=50)
    assert run_import(engine, CRYPTO) == summary(75_034, unchanged=75_034)
    with gzip.open(CRYPTO, "rt") as lines:
        expected = [line.strip().split(",") for line in lines][1:]
    query = text(
        "SELECT symbol, day::text, open * 1e-8, high * 1e-8, low * 1e-8, close * 1e-8, volume"
        ' FROM closes JOIN assets ON assets.id = asset_id ORDER BY day, symbol COLLATE "C"'
    )
    with engine.connect() as connection:
        for row, (symbol, day, *numbers) in zip(connection.execute(query), expected, strict=True):
            assert (row[0], row[1]) == (symbol, day)
            assert list(row[2:]) == [Decimal(number) for number in numbers]


def test_closes_of_days_on_which_the_market_is_closed_are_taken_and_told_of(engine: Engine, file: Path) -> None:
    # A Friday, a Saturday and a Sunday.
    content = "symbol,day,close\nB,2024-01-05,1\nB,2024-01-06,2\nA,2024-01-06,2\nA,2024-01-07,2\n"
    assert run_import(engine, file, content).closed_days is None
    with session_scope(engine) as session:
        again = import_closes(session, file, now=NOW, calendar="weekdays")
    assert (again.unchanged, again.closed_days) == (4, ClosedDays(3, "A", date(2024, 1, 6), "weekdays"))
    with session_scope(engine) as session:
        assert import_closes(session, file, now=NOW, calendar="24/7").closed_days is None
