"""Plots as SVG in a data URI: a page that holds them needs nothing else. Without pyplot there is no global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

_SIZE = (9.0, 3.2)


Series = Mapping[str, tuple[Sequence[date], Sequence[float]]]


def line_plot(series: Series, *, ylabel: str, percent: bool = False) -> str:
    """One line for each name, over days."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for name, (days, values) in series.items():
        axes.plot(np.array(days, dtype="M8[D]"), np.array(values) * (100 if percent else 1), label=name, linewidth=1.4)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, alpha=0.3)
    if len(series) > 1:
        figure.legend(loc="outside lower center", fontsize="small", ncols=3)
    return _data_uri(figure)


def bar_plot(labels: Sequence[str], values: Sequence[float], *, ylabel: str) -> str:
    """One bar for each label; of many labels every few are written."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    positions = list(range(len(labels)))
    axes.bar(positions, list(values), color="#3b6ea5")
    step = max(1, len(labels) // 15)
    axes.set_xticks(positions[::step], list(labels[::step]), rotation=30, ha="right", fontsize="small")
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, axis="y", alpha=0.3)
    return _data_uri(figure)


def span_plot(spans: Sequence[tuple[str, float, float]], *, xlabel: str) -> str:
    """A row for each name with its spans (name, start, length)."""
    names = sorted({name for name, _, _ in spans})
    figure = Figure(figsize=(_SIZE[0], max(1.6, 0.4 * len(names) + 1.0)), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(names):
        own = [(start, length) for other, start, length in spans if other == name]
        axes.broken_barh(own, (row - 0.35, 0.7), facecolors="#3b6ea5", edgecolor="white", linewidth=0.5)
    axes.set_yticks(list(range(len(names))), names, fontsize="small")
    axes.set_xlabel(xlabel)
    axes.grid(visible=True, axis="x", alpha=0.3)
    return _data_uri(figure)


def _data_uri(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
