"""Closes from a CSV file, plain or gzipped: every good row is yielded once, every bad row is named with its line.

The columns are `symbol,day,close`, and optionally `open,high,low,volume`, in any order. A row is a line: a quoted field
may hold a comma but no line break, so one stray quote spoils one line and not the rest of the file. The file is read as
a stream; what is held in memory is a bit for each symbol and day, to know a second row for the same when it comes.

A file that is not such a file at all is refused as a whole: missing, empty, binary, not UTF-8, a damaged gzip, a column
too many or too few.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from core.clock import EPOCH
from core.errors import UsageError
from price_sources.closes import BadRow, CloseRow, price_from_text, shown, volume_from_text

REQUIRED = ("symbol", "day", "close")
COLUMNS = ("symbol", "day", "open", "high", "low", "close", "volume")
GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_LINE = 65_536
_LONGEST_SYMBOL = 100

T = TypeVar("T")


def read_closes(path: Path, *, today: date) -> Iterator[CloseRow | BadRow]:
    """The rows of the file in their order, good and bad, as they are read.

    A row is bad if it has too few or too many fields, an empty symbol, a day that is malformed, before 2000-01-01 or
    after `today`, a price that is unparseable, zero, negative, not finite or out of range, high < low, a NUL, or the
    symbol and day of an earlier good row.

    Raises:
        UsageError: the file as a whole cannot be read; one line that names it. Rows may have been yielded before.
    """
    name = printable(path)
    try:
        file = path.open("rb")
    except ValueError:
        raise UsageError(f"cannot read {name}: not a path") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    with file:
        yield from read_stream(file, name, today=today)


def read_stream(file: BufferedReader[Any], name: str, *, today: date) -> Iterator[CloseRow | BadRow]:
    """The rows of an open file, as of `read_closes`; `name` is what errors call it.

    Raises:
        UsageError: the file as a whole cannot be read.
    """
    with _unpacked(file, name) as stream:
        lines = _numbered_lines(stream, name)
        parser = _Parser(_header(lines, name), today)
        empty = True
        for number, line in lines:
            if not line.strip():
                continue
            empty = False
            try:
                yield parser.row(number, line)
            except ValueError as error:
                yield BadRow(number, str(error))
        if empty:
            raise UsageError(f"{name} has a header but no rows")


def printable(path: Path) -> str:
    """The path as text that fits on one line of a terminal or in a database, whatever bytes it is made of."""
    return str(path) if str(path).isprintable() else ascii(str(path))


@contextmanager
def _unpacked(file: BufferedReader[Any], name: str) -> Iterator[BinaryIO]:
    try:
        if file.peek(2)[:2] == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast("BinaryIO", unpacked)
        else:
            yield file
    except EOFError:
        raise UsageError(f"{name} is a truncated gzip file: copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{name} is a corrupt gzip file: {error}") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None


def _numbered_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            raise UsageError(f"{name} is not a CSV file: line {number} is longer than {_LONGEST_LINE} bytes")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{name} is not a text file in UTF-8 (line {number}): convert it first") from None
        yield number, text.rstrip("\r\n")


def _fields(line: str) -> list[str]:
    if '"' not in line:
        return [field.strip() for field in line.split(",")]
    try:
        return [field.strip() for field in next(csv.reader([line], strict=True, skipinitialspace=True))]
    except csv.Error as error:
        raise ValueError(f"unparseable: {error}") from None


def _header(lines: Iterable[tuple[int, str]], name: str) -> list[str]:
    """The columns in the file's order."""
    # The byte order mark that spreadsheets write before UTF-8.
    first = next((line.removeprefix("\ufeff") for _, line in lines if line.strip(" \ufeff")), None)
    if first is None:
        raise UsageError(f"{name} is empty")
    if "\0" in first:
        raise UsageError(f"{name} is a binary file, not CSV")
    try:
        columns = [field.lower() for field in _fields(first)]
    except ValueError as error:
        raise UsageError(f"{name}: the header is {error}") from None
    for column in columns:
        if column not in COLUMNS:
            separated = ", with commas between them" if len(columns) == 1 else ""
            raise UsageError(
                f"{name}: unknown column {shown(column)} in the header: use {','.join(COLUMNS)}{separated}"
            )
        if columns.count(column) > 1:
            raise UsageError(f"{name}: column {column} is twice in the header")
    for column in REQUIRED:
        if column not in columns:
            raise UsageError(f"{name}: column {column} is missing in the header: at least {','.join(REQUIRED)}")
    return columns


class _Parser:
    """Turns lines into rows; remembers the days of each symbol that it has seen."""

    def __init__(self, columns: list[str], today: date) -> None:
        self._columns = columns
        # Where each of COLUMNS is in a row; one beyond the end, where an empty field is appended, if the file lacks it.
        self._places = [columns.index(column) if column in columns else len(columns) for column in COLUMNS]
        self._today = today
        self._days: dict[str, date] = {}
        self._seen: dict[str, bytearray] = {}

    def row(self, number: int, line: str) -> CloseRow:
        """The line as a row; ValueError with the reason."""
        if "\0" in line:
            raise ValueError("holds a NUL byte")
        fields = _fields(line)
        if len(fields) != len(self._columns):
            raise ValueError(f"has {len(fields)} fields instead of {len(self._columns)}")
        fields.append("")
        symbol, day_text, open_, high, low, close, volume = (fields[place] for place in self._places)
        _check_symbol(symbol)
        day = self._days.get(day_text) or self._new_day(day_text)
        row = CloseRow(
            number,
            symbol,
            day,
            _column("close", price_from_text, close),
            _column("open", price_from_text, open_) if open_ else None,
            _column("high", price_from_text, high) if high else None,
            _column("low", price_from_text, low) if low else None,
            _column("volume", volume_from_text, volume) if volume else None,
        )
        if row.high is not None and row.low is not None and row.high < row.low:
            raise ValueError(f"high {shown(high)} is below low {shown(low)}")
        self._refuse_second(symbol, day)
        return row

    def _new_day(self, text: str) -> date:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            day = None
        # fromisoformat knows more spellings than this one.
        if day is None or day.isoformat() != text:
            raise ValueError(f"day is not a date YYYY-MM-DD: {shown(text)}")
        if day < EPOCH:
            raise ValueError(f"day {text} is before {EPOCH}")
        if day > self._today:
            raise ValueError(f"day {text} is in the future, after {self._today}")
        self._days[text] = day
        return day

    def _refuse_second(self, symbol: str, day: date) -> None:
        bits = self._seen.get(symbol)
        if bits is None:
            bits = self._seen[symbol] = bytearray((self._today - EPOCH).days // 8 + 1)
        byte, bit = divmod((day - EPOCH).days, 8)
        if bits[byte] >> bit & 1:
            raise ValueError(f"duplicate: {shown(symbol)} on {day} is already in the file")
        bits[byte] |= 1 << bit


def _check_symbol(symbol: str) -> None:
    if not symbol:
        raise ValueError("symbol is empty")
    if len(symbol) > _LONGEST_SYMBOL:
        raise ValueError(f"symbol is longer than {_LONGEST_SYMBOL} characters")
    if not symbol.isprintable():
        raise ValueError(f"symbol holds a control character: {shown(symbol)}")


def _column(name: str, convert: Callable[[str], T], text: str) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
