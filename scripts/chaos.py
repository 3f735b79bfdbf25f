"""`nightshift chaos`: break things during nights, on a stack of its own, and compare the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import NightshiftError, UsageError
from scripts.cli import Json, interruptible, note, print_json, print_table

if TYPE_CHECKING:
    from benchmarks.chaos.night import Report

_MAX_NIGHTS = 60


def chaos(
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="What is broken and when: the same seed, the same.")] = 1,
    seeds: Annotated[str | None, typer.Option(metavar="A-B", help="All of these seeds instead of one.")] = None,
    nights: Annotated[int, typer.Option(min=1, max=_MAX_NIGHTS, help="Nights, the last ones of the samples.")] = 5,
    users: Annotated[int, typer.Option(min=20, max=1_000_000, help="Users with one simulation each.")] = 2_000,
    logs: Annotated[Path | None, typer.Option(help="Keep the logs of all processes in this directory.")] = None,
    json: Json = False,
) -> None:
    """Run nights under faults drawn from a seed. Fails unless the tables equal those of nights without."""
    from benchmarks.chaos.night import run_seed
    from core.log import configure_logging
    from core.settings import get_settings

    settings = get_settings()
    # The stack's restarts are what is asked for; the processes log into files of their own.
    configure_logging(settings.model_copy(update={"log_level": "error"}))
    reports: list[Report] = []
    with interruptible():
        for number in _seeds(seed, seeds):
            report = run_seed(number, nights=nights, users=users, settings=settings, logs=logs, tell=note)
            _tell(report)
            reports.append(report)
    if seeds is None:
        _show(reports[0], json=json)
    else:
        _show_many(reports, json=json)
    failed = [report for report in reports if not report.ok]
    if failed:
        raise NightshiftError(f"{len(failed)} of {len(reports)} seeds failed; replay: {failed[0].replay}")


def _seeds(seed: int, seeds: str | None) -> range:
    if seeds is None:
        return range(seed, seed + 1)
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", seeds)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"--seeds: {seeds!r} is not a range like 1-50")
    return range(int(match[1]), int(match[2]) + 1)


def _tell(report: Report) -> None:
    for failure in report.failures:
        note(f"seed {report.seed}: {failure}")
    if not report.ok:
        note(f"replay: {report.replay}  (logs in {report.logs})")
    note(f"seed {report.seed}: {'ok' if report.ok else 'FAILED'} in {report.seconds:.1f} s")


def _show(report: Report, *, json: bool) -> None:
    if json:
        print_json(report.as_json())
        return
    rows = [(fault.kind, fault.target, fault.at_s, fault.lasted_s, fault.recovered_s) for fault in report.faults]
    print_table(["fault", "target", "at s>", "lasted s>", "recovered s>"], rows)


def _show_many(reports: list[Report], *, json: bool) -> None:
    from benchmarks.chaos.summary import recoveries, summary

    if json:
        print_json(summary(reports))
        return
    rows = [
        [kind, *(values[name] for name in ("count", "p50", "p95", "max"))]
        for kind, values in recoveries(reports).items()
    ]
    print_table(["fault", "count>", "p50 s>", "p95 s>", "max s>"], rows, title=f"{len(reports)} seeds")
