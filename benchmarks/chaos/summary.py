"""Many seeds as one table: how often each kind struck, and how long the recovery took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.chaos.night import Report


def recoveries(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """By kind: `count`, and of the seconds to recovery `p50`, `p95` and `max` (nearest rank)."""
    seconds: dict[str, list[float]] = {}
    for report in reports:
        for fault in report.faults:
            if fault.recovered_s is not None:
                seconds.setdefault(fault.kind, []).append(fault.recovered_s)
    return {
        kind: {
            "count": len(values),
            "p50": _percentile(values, 0.5),
            "p95": _percentile(values, 0.95),
            "max": max(values),
        }
        for kind, values in sorted(seconds.items())
    }


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """Everything about many seeds, as one document."""
    return {
        "seeds": len(reports),
        "failed": [report.seed for report in reports if not report.ok],
        "lost": sum(report.verdict.lost for report in reports),
        "doubled": sum(report.verdict.doubled for report in reports),
        "seconds": round(sum(report.seconds for report in reports), 1),
        "recoveries": recoveries(reports),
        "runs": [report.as_json() for report in reports],
    }


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]
