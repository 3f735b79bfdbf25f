"""The dashboards as Grafana reads them: their queries, with the variables put in as Grafana puts them in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.nights import ROOT

GRAFANA = ROOT / "compose" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
PROMETHEUS, POSTGRES = "nightshift-prometheus", "nightshift-postgres"
_WITHOUT_QUERIES = ("row", "alertlist")


@dataclass(frozen=True, slots=True)
class Target:
    """One query of one panel."""

    dashboard: str
    panel: str
    letter: str
    query: str
    source: str
    instant: bool
    legend: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.letter}"


def dashboards() -> list[dict[str, Any]]:
    """All that are committed."""
    return [json.loads(path.read_text("utf-8")) for path in FILES]


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Every query of every panel of every dashboard."""
    for dashboard in dashboards():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Target(
                    dashboard=dashboard["uid"],
                    panel=panel["title"],
                    letter=target["refId"],
                    query=target["expr"] if "expr" in target else target["rawSql"],
                    source=target["datasource"]["uid"],
                    instant=target.get("instant", False),
                    legend=target.get("legendFormat", ""),
                )


def variables(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its template variables whose values a query finds."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


def label_values(variable: Mapping[str, Any]) -> tuple[str, str]:
    """What `label_values(metric, label)` asks for."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert match, variable
    return match[1], match[2]


def filled_in(query: str, values: Mapping[str, str], *, seconds: float, step: float, scrape: float) -> str:
    """The query as Grafana sends it: of a variable with several values, all of them.

    https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
    """
    known = {
        "__rate_interval": f"{max(step + scrape, 4 * scrape):g}s",
        "__interval": f"{step:g}s",
        "__range": f"{seconds:.0f}s",
        **values,
    }
    found = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: known[match[1] or match[2]], query)
    assert "$" not in found, found
    return found


def metrics_of(query: str) -> set[str]:
    """The exporter's metrics that it names."""
    return set(re.findall(r"\bnightshift_[a-z0-9_]+", query))


def recorded_of(query: str) -> set[str]:
    """The recorded series that it names."""
    return set(re.findall(r"\bnightshift:[a-z0-9_:]+", query))
