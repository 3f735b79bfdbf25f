"""Plots as SVG within the page: they take its colours, light and dark, and its width.

A library would draw them for one width and one pair of colours; here a line is a path of a few kilobytes, stretched by
the browser, with its numbers beside it as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from services.run_history import Span

_WIDTH, _HEIGHT = 1000.0, 240.0
_ROOM = 0.06


@dataclass(frozen=True, slots=True)
class LinePlot:
    """A line over days; `line` and `area` are paths in a box of 1000 x 240, `level`: how high the reference is there.

    Attributes:
        ticks: days below the line, from left to right.
        words: the same in a sentence.
    """

    line: str
    area: str
    level: float | None
    low: float
    high: float
    ticks: list[date]
    words: str


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A worker's spans as (x, width, status, words) in a box of 1000 x 10."""

    name: str
    spans: list[tuple[float, float, str, str]]


@dataclass(frozen=True, slots=True)
class SpanPlot:
    """A row for each worker; `seconds`: what the whole width is."""

    rows: list[SpanRow]
    seconds: float


def line_plot(points: Sequence[tuple[date, float]], *, what: str, reference: float | None = None) -> LinePlot | None:
    """The line of `points` by day, the oldest first; None of fewer than two. `reference`: a level to compare with."""
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if reference is not None:
        low, high = min(low, reference), max(high, reference)
    room = (high - low) * _ROOM or max(abs(high), 1.0) * 0.01
    bottom, top = low - room, high + room
    first, last = points[0][0], points[-1][0]
    width = (last - first).days

    def height(value: float) -> float:
        return _HEIGHT * (top - value) / (top - bottom)

    path = "L".join(f"{_WIDTH * (day - first).days / width:.1f} {height(value):.1f}" for day, value in points)
    return LinePlot(
        line=f"M{path}",
        area=f"M0 {_HEIGHT:.0f}L{path}L{_WIDTH:.0f} {_HEIGHT:.0f}Z",
        level=None if reference is None else round(height(reference), 1),
        low=bottom,
        high=top,
        ticks=[first, first + (last - first) / 2, last],
        words=f"{what} from {first} to {last}: from {values[0]:,.2f} to {values[-1]:,.2f},"
        f" lowest {min(values):,.2f}, highest {max(values):,.2f}",
    )


def span_plot(spans: Sequence[Span]) -> SpanPlot | None:
    """When each worker worked; None if none has."""
    if not spans:
        return None
    end = max(span.start + span.seconds for span in spans) or 1.0
    rows = []
    for name in sorted({span.worker for span in spans}):
        own = [
            (
                _WIDTH * span.start / end,
                max(_WIDTH * span.seconds / end, 1.0),
                span.status,
                f"batch {span.seq}: {span.status}, {span.seconds:.2f} s",
            )
            for span in spans
            if span.worker == name
        ]
        rows.append(SpanRow(name, own))
    return SpanPlot(rows, end)
