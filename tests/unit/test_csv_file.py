"""Every good row of a price file comes through to the tick; every bad one is named, and spoils no other."""

from __future__ import annotations

import gzip
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from price_sources.closes import BadRow, CloseRow, price_from_text
from price_sources.csv_file import read_closes

TODAY = date(2024, 3, 1)
DAY = date(2024, 2, 29)
UNIT = 10**8


def read(path: Path, content: str | bytes) -> list[CloseRow | BadRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_closes(path, today=TODAY))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.csv"


FULL = CloseRow(2, "A", DAY, 3 * UNIT, UNIT, 4 * UNIT, UNIT // 2, Decimal("7.123456789012"))
SHORT = CloseRow(2, "A", DAY, 3 * UNIT, None, None, None, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("symbol,day,open,high,low,close,volume\nA,2024-02-29,1,4,.5,3.,7.123456789012", FULL),
        ("volume,close,low,high,open,day,symbol\n7.123456789012,3,0.5,4,1,2024-02-29,A\n", FULL),
        ("symbol,day,close\nA,2024-02-29,3\n", SHORT),
        ("symbol,day,close,volume,low\r\n A , 2024-02-29 ,+3.0e0,,\r\n", SHORT),
        ('\ufeff"Symbol","Day","Close"\n"A","2024-02-29","3"\n', SHORT),
        ("symbol,day,close\nA,2024-02-29,0.3e1\n   \n\n", SHORT),
        ('symbol,day,close\n"A,""B""\\\u00f6",2024-02-29,3\n', SHORT._replace(symbol='A,"B"\\\u00f6')),
        ("symbol,day,close\nA,2000-01-01,3\n", SHORT._replace(day=date(2000, 1, 1))),
        ("symbol,day,close\nA,2024-03-01,3\n", SHORT._replace(day=TODAY)),
        ("\nsymbol,day,close\nA,2024-02-29,3\n", SHORT._replace(line=3)),
    ],
)
def test_a_good_row_comes_through(file: Path, content: str, expected: CloseRow) -> None:
    assert read(file, content) == [expected]
    assert read(file, gzip.compress(content.encode())) == [expected]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("A,2024-02-28,1,2,1,", "close is not a number: ''"),
        ("A,2024-02-28,1,2,1,abc", "close is not a number: 'abc'"),
        ("A,2024-02-28,1,2,1,1_000", "close is not a number: '1_000'"),
        ("A,2024-02-28,1,2,1,\u0661", "close is not a number: '\\u0661'"),
        ("A,2024-02-28,1,2,1," + "9" * 500, f"close is not a number: '{'9' * 37}...'"),
        ('A,2024-02-28,1,2,1,"1,5"', "close is not a number: '1,5'"),
        ("A,2024-02-28,1,2,1,0", "close is zero: '0'"),
        ("A,2024-02-28,1,2,1,0e5", "close is zero: '0e5'"),
        ("A,2024-02-28,1,2,1,-1", "close is negative: '-1'"),
        ("A,2024-02-28,1,2,1,NaN", "close is not finite: 'NaN'"),
        ("A,2024-02-28,1,2,1,-inf", "close is not finite: '-inf'"),
        ("A,2024-02-28,1,2,1,0.000000005", "close rounds to zero at 8 decimals: '0.000000005'"),
        ("A,2024-02-28,1,2,1,1e-999", "close rounds to zero at 8 decimals: '1e-999'"),
        ("A,2024-02-28,1,2,1,92233720368.54775808", "close is out of range, at most"),
        ("A,2024-02-28,1,2,1,1e999", "close is out of range, at most"),
        ("A,2024-02-28,0,2,1,1", "open is zero: '0'"),
        ("A,2024-02-28,1,1,2,1", "high '1' is below low '2'"),
        ("A,2024-02-28,1,2,1", "has 5 fields instead of 6"),
        ("A,2024-02-28,1,2,1,1,", "has 7 fields instead of 6"),
        (",2024-02-28,1,2,1,1", "symbol is empty"),
        ("A\x1b[31m,2024-02-28,1,2,1,1", "symbol holds a control character: 'A\\x1b[31m'"),
        ("A" * 101 + ",2024-02-28,1,2,1,1", "symbol is longer than 100 characters"),
        ("A\0,2024-02-28,1,2,1,1", "holds a NUL byte"),
        ("A,20240228,1,2,1,1", "day is not a date YYYY-MM-DD: '20240228'"),
        ("A,2024-02-30,1,2,1,1", "day is not a date YYYY-MM-DD: '2024-02-30'"),
        ("A,,1,2,1,1", "day is not a date YYYY-MM-DD: ''"),
        ("A,2024-03-02,1,2,1,1", "day 2024-03-02 is in the future, after 2024-03-01"),
        ("A,1999-12-31,1,2,1,1", "day 1999-12-31 is before 2000-01-01"),
        ("A,2024-02-29,1,2,1,1", "duplicate: 'A' on 2024-02-29 is already in the file"),
        ('"A,2024-02-28,1,2,1,1', "unparseable: unexpected end of data"),
        ('"A"x,2024-02-28,1,2,1,1', "unparseable: "),
    ],
)
def test_a_bad_row_is_named_and_spoils_no_other(file: Path, row: str, reason: str) -> None:
    content = f"symbol,day,open,high,low,close\nA,2024-02-29,1,2,1,1\n{row}\nA,2024-02-28,1,2,1,3\n"
    first, bad, last = read(file, content)
    assert isinstance(bad, BadRow)
    assert bad.line == 3
    assert bad.reason.startswith(reason)
    assert bad.reason.isprintable()
    assert isinstance(first, CloseRow)
    assert isinstance(last, CloseRow)
    assert (last.line, last.day, last.close) == (4, date(2024, 2, 28), 3 * UNIT)


@pytest.mark.parametrize(
    ("volume", "reason"), [("-1", "volume is negative"), ("nan", "volume is not finite"), ("1e30", "volume is out of")]
)
def test_a_bad_volume_is_named(file: Path, volume: str, reason: str) -> None:
    (bad,) = read(file, f"symbol,day,close,volume\nA,2024-02-29,1,{volume}\n")
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith(reason)


HEADER = b"symbol,day,close\n"
ROWS = b"".join(b"S%d,2024-02-29,1.5\n" % number for number in range(20_000))
PACKED = gzip.compress(HEADER + ROWS, mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (HEADER, "has a header but no rows"),
        (HEADER.strip(), "has a header but no rows"),
        (b"symbol,day,close,price\nA,2024-02-29,1,1\n", "unknown column 'price' in the header"),
        (b"A,2024-02-29,1\n", "unknown column 'a' in the header"),
        (
            b"symbol;day;close\nA;2024-02-29;1\n",
            "unknown column 'symbol;day;close' in the header: use symbol,day,open,high,low,close,volume, with commas",
        ),
        (b"symbol,day,open\nA,2024-02-29,1\n", "column close is missing in the header"),
        (b"symbol,day,close,day\n", "column day is twice in the header"),
        (b'symbol,"day,close\n', "the header is unparseable"),
        ("symbol,day,close\nA,2024-02-29,1\n".encode("utf-16"), "is not a text file in UTF-8 (line 1)"),
        ("symbol,day,close\nA,2024-02-29,1\n".encode("utf-16-le"), "is a binary file"),
        (HEADER + "A,2024-02-29,1\n\u00d6L,2024-02-29,1\n".encode("latin-1"), "is not a text file in UTF-8 (line 3)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, "is not a text file in UTF-8 (line 1)"),
        (b"\x7fELF\x02\x01\x01\0\0\0\n", "is a binary file"),
        (b"x" * 70_000, "line 1 is longer than 65536 bytes"),
        (HEADER + b"A" * 70_000, "line 2 is longer than 65536 bytes"),
        (PACKED[: len(PACKED) // 2], "is a truncated gzip file"),
        (PACKED[:-4], "is a truncated gzip file"),
        (PACKED[:2], "is a truncated gzip file"),
        (PACKED[:5000] + bytes(1000) + PACKED[6000:], "is a corrupt gzip file"),
        (PACKED[:-8] + bytes(8), "is a corrupt gzip file"),
        (PACKED + b"trailing", "is a corrupt gzip file"),
    ],
)
def test_what_is_no_price_file_is_refused_in_one_line_that_names_it(file: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(file, content)
    message = str(caught.value)
    assert str(file) in message
    assert reason in message
    assert message.isprintable()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, reason in [
        (tmp_path / "missing.csv", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "new\nline\udcff", "No such file"),
        (tmp_path / "nul\0", "not a path"),
    ]:
        with pytest.raises(UsageError, match=reason) as caught:
            list(read_closes(path, today=TODAY))
        assert str(caught.value).isprintable()


def test_rows_come_before_the_file_is_read_to_its_end(file: Path) -> None:
    file.write_bytes(PACKED[: len(PACKED) // 2])
    rows = read_closes(file, today=TODAY)
    assert next(rows) == CloseRow(2, "S0", DAY, UNIT * 3 // 2, None, None, None, None)
    rows.close()  # type: ignore[attr-defined]


@given(digits=st.integers(1, 10**24), exponent=st.integers(-22, 4))
def test_a_price_is_rounded_half_to_even_from_its_digits(digits: int, exponent: int) -> None:
    exact = Fraction(digits) * Fraction(10) ** exponent * UNIT
    # round() of a Fraction rounds half to even, in integers.
    expected = round(exact)
    spellings = [f"{digits}e{exponent}", f"{Decimal(f'{digits}e{exponent}'):f}"]
    for text in spellings:
        if 0 < expected <= 2**63 - 1:
            assert price_from_text(text) == expected
        else:
            with pytest.raises(ValueError, match="rounds to zero" if expected == 0 else "out of range"):
                price_from_text(text)
