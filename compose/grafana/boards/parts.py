"""Panels, rows and dashboards in Grafana's classic JSON (schema 39), which every Grafana since 10.4 reads.

A panel says what it shows, in which unit, and from which value on it is bad; where it stands follows from the order.
`build` refuses a panel without a description: whoever is woken at night reads it first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Steps = Sequence[tuple[float, str]]

PROMETHEUS: Json = {"type": "prometheus", "uid": "nightshift-prometheus"}
POSTGRES: Json = {"type": "grafana-postgresql-datasource", "uid": "nightshift-postgres"}
TAG = "nightshift"
COLUMNS = 24
SCHEMA_VERSION = 39

RUNBOOKS: Json = {
    "name": "runbooks",
    "type": "constant",
    "hide": 2,
    "skipUrlSync": True,
    "query": "https://example.org/nightshift/docs/runbooks",
}
"""Where docs/runbooks is served: a placeholder, to be changed here."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `steps`: from which value on which colour; below the first it is `base`."""

    kind: str
    title: str
    description: str
    targets: Sequence[Json]
    unit: str = "short"
    steps: Steps = ()
    base: str = "green"
    width: int = 8
    height: int = 8
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def build(self, number: int, x: int, y: int) -> Json:
        """The panel at its place.

        Raises:
            ValueError: it has no description.
        """
        if not self.description:
            raise ValueError(f"panel {self.title!r} has no description")
        defaults = {"unit": self.unit, "thresholds": _thresholds(self.base, self.steps), **self.defaults}
        if self.custom:
            defaults["custom"] = self.custom
        built: Json = {
            "type": self.kind,
            "id": number,
            "title": self.title,
            "description": self.description,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": [{**target, "refId": letter} for target, letter in zip(self.targets, _letters(), strict=False)],
        }
        if self.targets:
            built["datasource"] = self.targets[0]["datasource"]
        if self.transformations:
            built["transformations"] = list(self.transformations)
        return built


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below one heading, from left to right; what does not fit goes below."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard. `since` is how far back it looks at first, e.g. `now-6h`."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Json] = ()
    since: str = "now-6h"

    def build(self) -> Json:
        """Its JSON."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "utc",
            "time": {"from": self.since, "to": "now"},
            "refresh": "15s",
            "links": [
                {"type": "dashboards", "title": "Nightshift", "tags": [TAG], "icon": "external link", "tooltip": "",
                 "asDropdown": False, "keepTime": True, "includeVars": False, "targetBlank": False}
            ],
            "templating": {"list": [*self.variables, RUNBOOKS]},
            "annotations": {"list": _annotations()},
            "panels": list(_placed(self.rows)),
        }  # fmt: skip


def metric(expr: str, legend: str = "__auto") -> Json:
    """A query over the shown time."""
    return {"datasource": PROMETHEUS, "expr": expr, "legendFormat": legend, "range": True}


def now(expr: str, legend: str = "__auto") -> Json:
    """A query of the end of the shown time: what is absent now is not shown, however lately it was there."""
    return {"datasource": PROMETHEUS, "expr": expr, "legendFormat": legend, "instant": True, "range": False}


def rows_now(expr: str) -> Json:
    """A row a series, as it is at the end of the shown time."""
    return {"datasource": PROMETHEUS, "expr": expr, "format": "table", "instant": True, "range": False}


def sql(statement: str, layout: str = "table") -> Json:
    """A query of the database; `layout` is `table`, or `time_series` with a first column `time`."""
    return {
        "datasource": POSTGRES, "rawSql": statement.strip(), "rawQuery": True, "format": layout, "editorMode": "code",
    }  # fmt: skip


def stat(
    title: str, description: str, *targets: Json, unit: str = "short", steps: Steps = (), base: str = "green",
    width: int = 4, texts: dict[str, tuple[str, str]] | None = None, **defaults: Any,
) -> Panel:  # fmt: skip
    """The last value of each query, large; `texts`: what to write for a value, and its colour."""
    if texts:
        mapped = {value: {"text": text, "color": color} for value, (text, color) in texts.items()}
        defaults["mappings"] = [{"type": "value", "options": mapped}]
    shown = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
    options: Json = {
        "reduceOptions": shown, "colorMode": "value" if len(targets) > 1 else "background", "graphMode": "none",
        "justifyMode": "auto", "textMode": "auto", "orientation": "auto", "wideLayout": True,
        "showPercentChange": False, "percentChangeColorMode": "standard",
    }  # fmt: skip
    return Panel("stat", title, description, targets, unit, steps, base, width, 4, options, defaults=defaults)


def lines(
    title: str, description: str, *targets: Json, unit: str = "short", steps: Steps = (), width: int = 12,
    height: int = 8, stacked: bool = False, bars: bool = False, **defaults: Any,
) -> Panel:  # fmt: skip
    """Series over time; from the value of a step on the area is coloured."""
    custom: Json = {
        "drawStyle": "bars" if bars else "line", "lineInterpolation": "stepAfter", "lineWidth": 1,
        "fillOpacity": 70 if stacked or bars else 10, "showPoints": "never", "spanNulls": False, "axisSoftMin": 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }  # fmt: skip
    options = {
        "legend": {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, targets, unit, steps, "green", width, height, options, custom,
                 {"color": {"mode": "palette-classic-by-name"}, **defaults})  # fmt: skip


def heatmap(title: str, description: str, target: Json, *, unit: str = "s", width: int = 12) -> Panel:
    """Buckets of a histogram over time."""
    options = {
        "calculate": False, "cellGap": 1, "yAxis": {"unit": unit, "reverse": False}, "showValue": "never",
        "legend": {"show": True}, "exemplars": {"color": "orange"},
        "color": {"mode": "scheme", "scheme": "Blues", "fill": "blue", "exponent": 0.5, "steps": 32, "reverse": False},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False}, "rowsFrame": {"layout": "auto"},
    }  # fmt: skip
    return Panel("heatmap", title, description, [{**target, "format": "heatmap"}], unit, width=width, options=options)


def table(
    title: str, description: str, *targets: Json, width: int = 12, height: int = 8,
    columns: Sequence[Json] = (), transformations: Sequence[Json] = (), no_value: str = "none",
) -> Panel:  # fmt: skip
    """Rows; `columns` are made by `column`; `no_value` is shown where there are none."""
    options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
    return Panel("table", title, description, targets, "short", (), "green", width, height, options,
                 {"filterable": True, "cellOptions": {"type": "auto"}}, {"noValue": no_value}, columns,
                 transformations)  # fmt: skip


def column(name: str, *, unit: str | None = None, link: tuple[str, str] | None = None, steps: Steps = ()) -> Json:
    """How a column of a table is written; `link`: its title and its URL; with `steps` the cell is coloured."""
    properties: list[Json] = []
    if unit is not None:
        properties.append({"id": "unit", "value": unit})
    if link is not None:
        properties.append({"id": "links", "value": [{"title": link[0], "url": link[1], "targetBlank": False}]})
    if steps:
        properties.append({"id": "thresholds", "value": _thresholds("transparent", steps)})
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "basic"}})
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def joined(key: str, names: dict[str, str], hidden: Sequence[str] = ()) -> list[Json]:
    """Transformations: several queries as one table by a column, its columns renamed, and some left out."""
    return [
        {"id": "joinByField", "options": {"byField": key, "mode": "outer"}},
        renamed(names, hidden),
    ]


def renamed(names: dict[str, str], hidden: Sequence[str] = ()) -> Json:
    """A transformation: columns in this order under these names."""
    order = {name: place for place, name in enumerate(names)}
    excluded = dict.fromkeys(hidden, True)
    return {"id": "organize", "options": {"renameByName": names, "indexByName": order, "excludeByName": excluded}}


def alert_list(title: str, description: str, *, width: int = 8, height: int = 8) -> Panel:
    """Grafana's own list of the alerts of its data sources."""
    options = {
        "viewMode": "list", "groupMode": "default", "sortOrder": 3, "maxItems": 30, "dashboardAlerts": False,
        "alertName": "Nightshift", "datasource": PROMETHEUS["uid"],
        "stateFilter": {"firing": True, "pending": True, "noData": False, "normal": False, "error": True},
    }  # fmt: skip
    return Panel("alertlist", title, description, (), width=width, height=height, options=options)


def choice(name: str, label: str, query: Json | str, *, several: bool = False, description: str) -> Json:
    """A variable whose values a query finds: `label_values(…)` of Prometheus, or a statement of the database."""
    source = PROMETHEUS if isinstance(query, dict) else POSTGRES
    built: Json = {
        "name": name, "type": "query", "label": label, "description": description, "hide": 0, "skipUrlSync": False,
        "datasource": source, "query": query, "refresh": 2, "sort": 0, "multi": several, "includeAll": several,
        "allowCustomValue": True, "definition": query if isinstance(query, str) else query["query"],
    }  # fmt: skip
    if several:
        built["allValue"] = ".+"
        built["current"] = {"selected": True, "text": "All", "value": "$__all"}
    return built


def _thresholds(base: str, steps: Steps) -> Json:
    colors = [(None, base), *steps]
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in colors]}


def _annotations() -> list[Json]:
    found = [
        ("Night started", "blue", "nightshift_night_started_timestamp_seconds * 1000", True),
        ("Night ended", "green", "nightshift_night_finished_timestamp_seconds * 1000", True),
        ("Night missed", "red", "nightshift_night_missed_timestamp_seconds * 1000", True),
        ("Alert", "orange", 'max by (alertname, severity) (ALERTS{alertname=~"Nightshift.+", alertstate="firing"})',
         False),
    ]  # fmt: skip
    return [
        {
            "name": name, "enable": True, "hide": False, "iconColor": color, "builtIn": 0, "datasource": PROMETHEUS,
            "expr": expr, "step": "15s", "useValueForTime": moments, "titleFormat": name,
            "textFormat": "" if moments else "{{alertname}} ({{severity}})",
        }
        for name, color, expr, moments in found
    ]  # fmt: skip


def _placed(rows: Sequence[Row]) -> Iterator[Json]:
    numbers = itertools.count(1)
    y = 0
    for row in rows:
        yield {
            "type": "row", "id": next(numbers), "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        }  # fmt: skip
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield panel.build(next(numbers), x, y)
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _letters() -> Iterator[str]:
    return (chr(ord("A") + place) for place in range(26))
