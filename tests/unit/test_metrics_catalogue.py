"""The catalogue of metrics: its names follow the convention, its page is up to date, and no user stands in a label."""

from __future__ import annotations

from tests.support.nights import ROOT
from workers.exporter.catalogue import CATALOGUE, COUNTER, metrics_table

PAGE = ROOT / "docs" / "metrics.md"


def test_the_page_of_metrics_is_the_catalogue() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows == metrics_table()


def test_names_are_unique_and_say_what_they_count() -> None:
    names = [spec.name for spec in CATALOGUE]
    assert len(names) == len(set(names))
    assert [name for name in names if not name.startswith("nightshift_")] == []
    assert [spec.name for spec in CATALOGUE if (spec.kind == COUNTER) != spec.name.endswith("_total")] == []
    assert [spec.name for spec in CATALOGUE if not spec.meaning.endswith(".")] == []


def test_no_label_holds_a_user() -> None:
    labels = {label for spec in CATALOGUE for label in spec.labels}
    assert labels == {
        "cause", "day", "directory", "group", "kind", "queue", "reason", "run", "server", "source", "stage", "state",
        "status", "window", "worker",
    }  # fmt: skip
