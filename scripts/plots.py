"""Plots as SVG in the page itself: no file, no font, no script, and the page's own colours, light and dark.

Each is drawn twice, for a screen and for a telephone, and the page shows the one that fits. What a plot's colours mean
stands beside it as text of the page (`Key`), so it never lies over a curve. Without pyplot no figure outlives its plot.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from scripts.page import Key, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn in these is shown in the page's variable of that name; the values are those of the light page.
COLOURS = {
    "c0": "#2f6db3", "c1": "#c2571b", "c2": "#2e8540", "c3": "#8a4fbe", "c4": "#0e8389", "c5": "#b8408e",
    "c6": "#7a5c2f", "rest": "#6f7b88", "bad": "#c0392c", "ink": "#1c2734", "soft": "#566574", "grid": "#d9dee4",
    "paper": "#fffffe",
}  # fmt: skip
SERIES = tuple(f"c{number}" for number in range(7))
_DASHES = ("-", "--", ":")
_WIDE, _NARROW = (9.0, 3.1), (3.7, 2.9)  # inches
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.edgecolor": COLOURS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "legend.frameon": False,
}

Draw = Callable[["Axes", bool], None]
"""Draws into the axes; True: there is little room."""


def plot(
    caption: str, draw: Draw, *, keys: Sequence[Key] = (), note: str = "", heights: tuple[float, float] = (0, 0)
) -> Plot:
    """Draw it for both widths; `heights` in inches where the usual ones do not fit."""
    wide = _svg(caption, draw, (_WIDE[0], heights[0] or _WIDE[1]), narrow=False)
    return Plot(caption, wide, _svg(caption, draw, (_NARROW[0], heights[1] or _NARROW[1]), narrow=True), keys, note)


def series_style(number: int) -> tuple[str, str]:
    """Colour and matplotlib's line style of the n-th line: every line looks different from the 20 beside it."""
    return SERIES[number % len(SERIES)], _DASHES[number // len(SERIES) % len(_DASHES)]


def line_key(name: str, number: int) -> Key:
    """The key of the n-th line."""
    colour, dash = series_style(number)
    return Key(name, colour, {"-": "line", "--": "dashed", ":": "dotted"}[dash])


def label(text: str, narrow: bool) -> str:
    """A text of an axis: cut where it would push the plot out of its frame, and shown letter by letter.

    Between two dollar signs matplotlib would read a formula.
    """
    most = 14 if narrow else 32
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return short.replace("$", r"\$")


def amount(value: float, largest: float | None = None) -> str:
    """A number: 1,250 · 12.5 k · 3 M · 2.5 bn; in the unit of the `largest` beside it, unless it is 0."""
    size = abs(value if largest is None else largest)
    for least, unit, name in ((1e9, 1e9, " bn"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if size >= least and value:
            return f"{value / unit:,.6g}{name}"
    return f"{value:,.6g}"


def _svg(caption: str, draw: Draw, size: tuple[float, float], *, narrow: bool) -> Markup:
    width = "narrow" if narrow else "wide"
    # The salt makes the names inside of each picture its own: a page holds many.
    with rc_context({**_STYLE, "svg.hashsalt": f"{width} {caption}"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, narrow)
        axes.tick_params(length=0)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return Markup(inline(stream.getvalue(), width, caption))  # noqa: S704 - escaped where it is serialised


_REFERENCE = re.compile(r"#([^)]+)")
_FONTS = re.compile(r"font-family: [^;]*;? ?")
_FRACTION = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is more than anybody sees
_COLOUR = re.compile("|".join(map(re.escape, COLOURS.values())))
_VARIABLES = {value: f"var(--{name})" for name, value in COLOURS.items()}


def inline(svg: str, css_class: str, label: str) -> str:
    """matplotlib's SVG as an element of an HTML page: the page's colours and font, no namespaces, no ids but used ones.

    Only attributes are changed: what a text says stays as it is.
    """
    root = ET.fromstring(svg)  # noqa: S314 - written by matplotlib, a moment ago
    elements = list(root.iter())
    used = {name for element in elements for value in element.attrib.values() for name in _REFERENCE.findall(value)}
    for element in elements:
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        if "style" in attributes:
            style = _FONTS.sub("", attributes["style"])
            attributes["style"] = _COLOUR.sub(lambda found: _VARIABLES[found.group()], style)
        if "d" in attributes:
            attributes["d"] = _FRACTION.sub(r"\1", " ".join(attributes["d"].split()))
        element.attrib.clear()
        element.attrib.update(attributes)
    # Its one rule would be the whole page's.
    for defs in root.findall("defs"):
        for sheet in defs.findall("style"):
            defs.remove(sheet)
    view = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"class": css_class, "role": "img", "aria-label": label, "viewBox": view})
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)
