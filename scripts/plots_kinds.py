"""The kinds of plots that reports have: lines and drawdowns over days, stacks, bars, spans by row, boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import Formatter, MaxNLocator, PercentFormatter

from scripts.page import Key, Plot
from scripts.plots import COLOURS, SERIES, amount, label, line_key, plot, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_FEW_DAYS = 5

Series = Mapping[str, tuple[Sequence[date], Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Marks:
    """Points beside the lines: `shape` is up or down, values on the axis of the lines."""

    name: str
    colour: str
    shape: str
    days: Sequence[date]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Box:
    """Five quantiles of a row: 5 %, 25 %, 50 %, 75 %, 95 %."""

    label: str
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a row: `row` counts from 0, the top; `colour` is of COLOURS."""

    row: int
    start: float
    length: float
    colour: str


def line_plot(
    caption: str, series: Series, *, ylabel: str, percent: bool = False, marks: Sequence[Marks] = (), note: str = ""
) -> Plot:
    """One line for each name, over days, the first on top; one day alone is a point."""

    def draw(axes: Axes, narrow: bool) -> None:
        for number, (days, values) in enumerate(series.values()):
            colour, dash = series_style(number)
            alone = "o" if len(days) == 1 else ""
            axes.plot(
                _days(days), np.array(values, dtype=float), color=COLOURS[colour], linestyle=dash, marker=alone,
                linewidth=1.5, markersize=4, zorder=2.9 - number / 1000,
            )  # fmt: skip
        for points in marks:
            size = 14 if narrow else 22
            axes.scatter(
                _days(points.days), np.array(points.values, dtype=float), marker={"up": "^", "down": "v"}[points.shape],
                s=size, color=COLOURS[points.colour], edgecolors=COLOURS["paper"], linewidths=0.4, zorder=3,
            )  # fmt: skip
        _over_days(axes, narrow, [day for days, _ in series.values() for day in days])
        _values(axes.yaxis, percent)
        axes.set_ylabel(ylabel)

    keys = [line_key(name, number) for number, name in enumerate(series)]
    keys += [Key(points.name, points.colour, points.shape) for points in marks if points.days]
    return plot(caption, draw, keys=keys if len(keys) > 1 else (), note=note)


def drawdown_plot(caption: str, series: Series, *, note: str = "") -> Plot:
    """How far below the peak so far, as shares <= 0; the first filled, the others lines."""

    def draw(axes: Axes, narrow: bool) -> None:
        for number, (days, values) in enumerate(series.values()):
            colour, dash = series_style(number)
            shares = np.array(values, dtype=float)
            if number == 0:
                axes.fill_between(_days(days), shares, 0, color=COLOURS[colour], alpha=0.25, linewidth=0)
            axes.plot(
                _days(days), shares, color=COLOURS[colour], linestyle=dash, linewidth=1.3, zorder=2.9 - number / 1000
            )
        _over_days(axes, narrow, [day for days, _ in series.values() for day in days])
        _values(axes.yaxis, percent=True)
        axes.set_ylabel("below the peak so far")

    keys = [line_key(name, number) for number, name in enumerate(series)]
    return plot(caption, draw, keys=keys if len(keys) > 1 else (), note=note, heights=(2.3, 2.3))


def stack_plot(
    caption: str, days: Sequence[date], layers: Mapping[str, Sequence[float]], *, ylabel: str, note: str = ""
) -> Plot:
    """Layers on each other, over days; the last is grey."""
    colours = [*SERIES[: len(layers) - 1], "rest"]

    def draw(axes: Axes, narrow: bool) -> None:
        if len(days) == 1:
            bottom = 0.0
            for (value,), colour in zip(layers.values(), colours, strict=True):
                axes.bar(_days(days), [value], bottom=bottom, width=np.timedelta64(12, "h"), color=COLOURS[colour])
                bottom += value
        else:
            axes.stackplot(
                _days(days), *(np.array(values, dtype=float) for values in layers.values()),
                colors=[COLOURS[colour] for colour in colours], linewidth=0,
            )  # fmt: skip
        _over_days(axes, narrow, days)
        _values(axes.yaxis, percent=False)
        axes.set_ylabel(ylabel)

    return plot(caption, draw, keys=[Key(n, c, "fill") for n, c in zip(layers, colours, strict=True)], note=note)


def bar_plot(
    caption: str, labels: Sequence[str], values: Sequence[float], *, ylabel: str, xlabel: str = "", note: str = ""
) -> Plot:
    """One bar for each label; of many labels every few are written."""

    def draw(axes: Axes, narrow: bool) -> None:
        positions = np.arange(len(labels))
        axes.bar(positions, np.array(values, dtype=float), color=COLOURS["c0"], width=0.8 if len(labels) < 60 else 1.0)
        axes.set_ylim(bottom=0, top=None if any(values) else 1)
        step = max(1, -(-len(labels) // (6 if narrow else 14)))
        axes.set_xticks(positions[::step].tolist(), [label(text, narrow) for text in labels[::step]])
        axes.grid(visible=False, axis="x")
        _values(axes.yaxis, percent=False)
        axes.set_ylabel(ylabel)
        axes.set_xlabel(xlabel)

    return plot(caption, draw, note=note, heights=(2.6, 2.6))


def step_plot(caption: str, edges: Sequence[float], values: Sequence[float], *, ylabel: str, xlabel: str) -> Plot:
    """A value between each two edges, filled down to 0."""

    def draw(axes: Axes, narrow: bool) -> None:
        axes.stairs(np.array(values, dtype=float), np.array(edges, dtype=float), fill=True, color=COLOURS["c0"])
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10))
        _values(axes.yaxis, percent=False)
        axes.set_ylabel(ylabel)
        axes.set_xlabel(xlabel)

    return plot(caption, draw, heights=(2.6, 2.6))


def span_plot(
    caption: str, rows: Sequence[str], spans: Sequence[Span], *, xlabel: str, keys: Sequence[Key], note: str = ""
) -> Plot:
    """A row for each label with its spans, the first on top."""
    height = max(1.5, 0.34 * len(rows) + 0.7)

    def draw(axes: Axes, narrow: bool) -> None:
        for row in range(len(rows)):
            for colour in COLOURS:
                own = [(span.start, span.length) for span in spans if span.row == row and span.colour == colour]
                if own:
                    axes.broken_barh(
                        own, (row - 0.38, 0.76), facecolors=COLOURS[colour], edgecolor=COLOURS["paper"], linewidth=0.4
                    )
        axes.set_yticks(range(len(rows)), [label(text, narrow) for text in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 10))
        axes.set_xlabel(xlabel)

    return plot(caption, draw, keys=keys, note=note, heights=(height, height))


def box_plot(caption: str, boxes: Sequence[Box], *, xlabel: str, note: str = "") -> Plot:
    """A box for each row from 25 % to 75 % with a line at the median; its whiskers reach from 5 % to 95 %."""
    height = max(1.6, 0.4 * len(boxes) + 0.8)

    def draw(axes: Axes, narrow: bool) -> None:
        names = ("whislo", "q1", "med", "q3", "whishi")
        lines = {"color": COLOURS["c0"], "linewidth": 1.2}
        axes.bxp(
            [{**dict(zip(names, box.quantiles, strict=True)), "label": label(box.label, narrow)} for box in boxes],
            orientation="horizontal", showfliers=False, patch_artist=True, widths=0.55,
            boxprops={"facecolor": COLOURS["c0"], "alpha": 0.35, "linewidth": 0},
            whiskerprops=lines, capprops=lines, medianprops={"color": COLOURS["ink"], "linewidth": 1.6},
        )  # fmt: skip
        axes.axvline(0, color=COLOURS["soft"], linewidth=0.8)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel(xlabel)

    return plot(caption, draw, note=note, heights=(height, height))


def _days(days: Sequence[date]) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return np.array(days, dtype="M8[D]")


def _over_days(axes: Axes, narrow: bool, days: Sequence[date]) -> None:
    """Days on the x axis, never parts of one; a month or a year is named once."""
    first, last = min(days), max(days)
    room = max((last - first).days * 0.01, 0.5)
    # matplotlib counts days from 1970.
    begin, end = ((day - date(1970, 1, 1)).days for day in (first, last))
    axes.set_xlim(begin - room, end + room)
    if (last - first).days <= _FEW_DAYS:
        each = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        axes.set_xticks(_days(each), [f"{day:%m-%d}" if narrow and len(each) > 1 else f"{day}" for day in each])
        return
    # With fewer of either, the locator finds no interval for some spans.
    locator = AutoDateLocator(minticks=2 if narrow else 3, maxticks=5 if narrow else 10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


class _Amounts(Formatter):
    """All ticks of an axis in one unit."""

    def __call__(self, x: float, pos: int | None = None) -> str:  # noqa: ARG002 - matplotlib's signature
        low, high = self.axis.get_view_interval() if self.axis is not None else (x, x)
        return amount(x, max(abs(low), abs(high)))


def _values(axis: Axis, percent: bool) -> None:
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(PercentFormatter(1) if percent else _Amounts())
