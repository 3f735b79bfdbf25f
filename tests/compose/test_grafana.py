"""The dashboards' files: what their Python makes, what Grafana can read, and nothing that does not exist."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from typing import Any

import pytest

from compose.grafana.build import files
from tests.support.grafana import (
    FILES,
    GRAFANA,
    POSTGRES,
    dashboards,
    metrics_of,
    panels,
    recorded_of,
    targets,
    variables,
)
from tests.support.nights import ROOT
from tests.support.rules import ALERTS, alerts, recordings
from workers.exporter.catalogue import CATALOGUE, HISTOGRAM, SUMMARY

PARTS = {HISTOGRAM: ("_bucket", "_sum", "_count"), SUMMARY: ("_sum", "_count")}
PROVISIONED = (GRAFANA / "provisioning" / "datasources" / "nightshift.yaml").read_text("utf-8")
ALL = pytest.mark.parametrize("dashboard", dashboards(), ids=lambda dashboard: dashboard["uid"])


def marks(dashboard: dict[str, Any]) -> list[str]:
    return [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def queries() -> list[str]:
    """All of them, those of annotations and variables included."""
    return [
        *(target.query for target in targets()),
        *itertools.chain.from_iterable(map(marks, dashboards())),
        *(str(variable["query"]) for dashboard in dashboards() for variable in variables(dashboard)),
    ]


def test_the_files_are_what_their_python_makes() -> None:
    assert {path.name: path.read_text("utf-8") for path in FILES} == files()


@ALL
def test_grafanas_own_types_know_every_key(dashboard: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # Its classic dashboards are said to be superseded by those of Grafana 13, which older ones cannot read.
        warnings.simplefilter("ignore", DeprecationWarning)
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard
    register_default_plugins()
    known = JSONEncoder().encode(Dashboard.from_json(dashboard))
    missing = set(paths(dashboard)) - set(paths(json.loads(known)))
    assert missing == set()


def paths(value: object, path: str = "") -> list[str]:
    """The places of all values in a JSON document."""
    if isinstance(value, dict):
        return [place for key, inner in value.items() for place in paths(inner, f"{path}.{key}")]
    if isinstance(value, list):
        return [place for number, inner in enumerate(value) for place in paths(inner, f"{path}[{number}]")]
    return [f"{path} = {value}"]


def test_every_dashboard_has_a_fixed_name_and_leads_to_the_others() -> None:
    found = dashboards()
    assert [dashboard["title"] for dashboard in found] == [
        "Night at a glance", "Prices", "Run", "Database and Redis", "Queues and workers",
    ]  # fmt: skip
    assert len({dashboard["uid"] for dashboard in found}) == len(found)
    for dashboard in found:
        assert dashboard["schemaVersion"] == 39
        assert dashboard["tags"] == ["nightshift"]
        (link,) = dashboard["links"]
        assert (link["type"], link["tags"], link["keepTime"]) == ("dashboards", ["nightshift"], True)
    uids = {dashboard["uid"] for dashboard in found}
    assert set(re.findall(r"/d/([\w-]+)", "".join(path.read_text("utf-8") for path in FILES))) <= uids


@ALL
def test_panels_are_told_apart_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells
    # Rows are full, or a panel stands alone in the wide.
    assert all((x, y) in taken for y in range(max(y for _, y in taken) + 1) for x in range(24)), dashboard["title"]


@ALL
def test_every_panel_says_what_it_shows_in_which_unit_and_asks_a_source_that_is_provisioned(
    dashboard: dict[str, Any],
) -> None:
    sources = set(re.findall(r"^    uid: (\S+)", PROVISIONED, flags=re.MULTILINE))
    titles = [panel["title"] for panel in panels(dashboard)]
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        assert panel["targets"] or panel["type"] == "alertlist"
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] in sources
    assert titles
    for item in (*variables(dashboard), *dashboard["annotations"]["list"]):
        assert item["datasource"]["uid"] in sources


def test_every_metric_and_every_recorded_series_exists() -> None:
    shown = {spec.name + part for spec in CATALOGUE for part in PARTS.get(spec.kind, ("",))}
    for query in queries():
        assert metrics_of(query) <= shown, query
        assert recorded_of(query) <= recordings(), query


def test_no_metric_and_no_recorded_series_is_for_nothing() -> None:
    text = "\n".join(queries())
    shown = metrics_of(text)
    unused = [
        spec.name
        for spec in CATALOGUE
        if not {spec.name + part for part in PARTS.get(spec.kind, ("",))} & shown
        # What a recorded series is made of is shown by it.
        and spec.name not in _recorded_from(recorded_of(text))
    ]
    assert unused == []
    assert recordings() <= recorded_of(text) | recorded_of(ALERTS.read_text("utf-8"))


def _recorded_from(names: set[str]) -> set[str]:
    blocks = re.split(r"- record: ", (ROOT / "compose" / "prometheus" / "recording.rules.yml").read_text("utf-8"))
    return {
        metric.removesuffix("_bucket") for block in blocks if block.split()[0] in names for metric in metrics_of(block)
    }


def test_every_alert_that_a_panel_names_exists_and_its_name_leads_to_its_runbook() -> None:
    text = "".join(path.read_text("utf-8") for path in FILES)
    names = set(re.findall(r"\bNightshift[A-Z]\w+", text))
    assert names <= {alert.name for alert in alerts()}
    assert "${runbooks}/${__data.fields.alert}.md" in text
    for dashboard in dashboards():
        assert [v["name"] for v in dashboard["templating"]["list"] if v["type"] == "constant"] == ["runbooks"]


def test_no_secret_stands_in_the_provisioning() -> None:
    assert re.findall(r"password: (\S+)", PROVISIONED) == ["$__file{/run/secrets/dashboards_password}"]


def test_the_provisioned_scrape_interval_is_that_of_prometheus() -> None:
    prometheus = (ROOT / "compose" / "prometheus" / "prometheus.yml").read_text("utf-8")
    (interval,) = re.findall(r"timeInterval: (\S+)", PROVISIONED)
    assert f"scrape_interval: {interval}\n" in prometheus


def test_the_database_is_asked_for_no_user_by_name() -> None:
    statements = [target.query for target in targets() if target.source == POSTGRES]
    assert statements
    assert not [
        statement for statement in statements if re.search(r"\b(user_name|email|users u|FROM users)\b", statement)
    ]
