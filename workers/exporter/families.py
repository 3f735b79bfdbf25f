"""Families of samples, made by name from the catalogue: a metric that is not in it cannot be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from services.metrics_batches import BUCKETS, Histogram
from workers.exporter.catalogue import BY_NAME, COUNTER, HISTOGRAM, SUMMARY

Labels = TypeVar("Labels", bound=str | tuple[str, ...])


def one(name: str, value: float | None) -> list[Metric]:
    """A sample without labels; nothing at all if the value is None, because it is not known or does not apply."""
    return [] if value is None else [many(name, {(): value})]


def many(name: str, values: Mapping[Labels, float]) -> Metric:
    """Samples by the values of their labels, in the catalogue's order."""
    spec = BY_NAME[f"nightshift_{name}"]
    make = CounterMetricFamily if spec.kind == COUNTER else GaugeMetricFamily
    family = make(spec.name, spec.meaning, labels=spec.labels)
    for labels, value in values.items():
        family.add_metric([labels] if isinstance(labels, str) else [*labels], value)
    return family


def histograms(name: str, values: Mapping[str, Histogram]) -> Metric:
    """Histograms by the value of their one label."""
    spec = BY_NAME[f"nightshift_{name}"]
    assert spec.kind == HISTOGRAM  # noqa: S101 - the caller's constant
    family = HistogramMetricFamily(spec.name, spec.meaning, labels=spec.labels)
    for label, histogram in values.items():
        bounds = zip((*map(str, BUCKETS), "+Inf"), (*histogram.buckets, histogram.count), strict=True)
        family.add_metric([label], list(bounds), histogram.total)
    return family


def summary(name: str, count: int, total: float) -> Metric:
    """How many there were, and their sum."""
    spec = BY_NAME[f"nightshift_{name}"]
    assert spec.kind == SUMMARY  # noqa: S101 - the caller's constant
    return SummaryMetricFamily(spec.name, spec.meaning, count_value=count, sum_value=total)
