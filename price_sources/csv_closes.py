"""A CSV file of closes behind a URL: the columns are those of `nightshift prices import`, and all days are in it.

It has no live prices. A file that does not end with a line break is taken for one that was cut off: the last price may
have lost digits, and nothing else would tell.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from core.errors import UsageError
from price_sources.closes import BadRow
from price_sources.csv_file import GZIP_MAGIC, read_stream
from price_sources.reading import Reading, midnight
from price_sources.source import Answer, Ask, DayClose, Kind, MalformedAnswerError, Reason, Terms

_NAME = "the answer"

TERMS = Terms(
    requests=10,
    per=timedelta(minutes=1),
    symbols_per_request=10_000,
    symbols_per_chunk=10_000,
    max_age=timedelta(days=1),
    settled=timedelta(minutes=10),
    close="the column `close` of a day that is over",
)


@dataclass(frozen=True, slots=True)
class CsvCloses:
    """The file at `base_url`, plain or gzipped."""

    base_url: str
    terms: Terms = TERMS
    name: str = "csv"

    def headers(self) -> Mapping[str, str]:
        """None."""
        return {}

    def live(self, codes: Sequence[str], window: datetime) -> list[Ask]:  # noqa: ARG002 - a source's signature
        """It has none."""
        return []

    def fill(self, codes: Sequence[str], first: datetime, last: datetime, window: timedelta) -> list[Ask]:  # noqa: ARG002
        """It has none."""
        return []

    def closes(self, codes: Sequence[str], first: date, last: date) -> list[Ask]:
        """One request for the file."""
        if not codes or first >= last:
            return []
        return [Ask(Kind.CLOSES, "", (), tuple(codes), midnight(first), midnight(last))]

    def read(self, ask: Ask, body: bytes, now: datetime) -> Answer:
        """The rows of the symbols and days asked for; a bad row of the file is refused without a code."""
        reading = Reading(ask, self.terms, now)
        today = now.date()
        try:
            with io.BytesIO(body) as raw, io.BufferedReader(raw) as file:
                for row in read_stream(file, _NAME, today=today):
                    if isinstance(row, BadRow):
                        reading.refuse("", Reason.MALFORMED, f"line {row.line} {row.reason}")
                    elif reading.wants(row.symbol) and reading.in_range(midnight(row.day)):
                        if row.day == today:
                            reading.refuse(row.symbol, Reason.UNFINISHED, f"{row.day} ends at midnight")
                        else:
                            reading.day_close(DayClose(row.symbol, *row[2:]))
        except UsageError as error:
            raise MalformedAnswerError(str(error)) from None
        if body[-1:] != b"\n" and body[:2] != GZIP_MAGIC:
            raise MalformedAnswerError("the file does not end with a line break: it was cut off")
        return reading.answer()
