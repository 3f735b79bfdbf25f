"""`nightshift doctor`: what is wrong or dangerous, each thing with its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from core.errors import UsageError
from scripts.cli import Json, note, open_engine, print_json, print_table, progress, quiet_logging

if TYPE_CHECKING:
    from core.settings import Settings
    from services.doctor_findings import Finding

_MARKS = {"error": "✗ error", "warning": "! warning", "ok": "✓ ok"}


def doctor(json: Json = False) -> None:
    """Settings, servers, schema, clocks, disks, workers, backups. Exit code 1 with an error, 3 if a server is away."""
    from core.settings import get_settings
    from services.doctor import exit_code
    from services.doctor_settings import SETTINGS

    try:
        settings = get_settings()
    except UsageError as error:
        # Without settings nobody knows what else to look at.
        findings: Sequence[Finding] = [SETTINGS.error("settings", str(error), "correct it: docs/settings.md")]
    else:
        quiet_logging(settings)
        findings = _examine(settings)
    errors, warnings = (sum(f.severity == severity for f in findings) for severity in ("error", "warning"))
    if json:
        print_json({"ok": errors == 0, "errors": errors, "warnings": warnings, "findings": findings})
    else:
        _show(findings)
        note(f"errors: {errors}, warnings: {warnings}, checks passed: {len(findings) - errors - warnings}")
    if code := exit_code(findings):
        raise typer.Exit(code)


def _examine(settings: Settings) -> Sequence[Finding]:
    from core.clock import utc_now
    from services.doctor import Patient, examine
    from workers.app import make_app
    from workers.embedded import servers_for
    from workers.worker_options import options_of, worker_options

    with servers_for(settings) as urls, make_app(settings, urls.redis_url) as app, progress() as bar:
        task = bar.add_task("examining", detail="")
        engine = open_engine(urls.database_url)
        patient = Patient(
            settings=settings,
            engine=engine,
            database_url=urls.database_url,
            redis_url=urls.redis_url,
            ask_workers=lambda: worker_options(app),
            expected=options_of(app.conf),
            clock=lambda: utc_now() - settings.clock_offset,
            stopped=urls.owned,
        )
        try:
            return examine(
                patient,
                now=utc_now(),
                tell=lambda name, done, total: bar.update(task, completed=done, total=total, detail=name),
            )
        finally:
            engine.dispose()


def _show(findings: Sequence[Finding]) -> None:
    """A table a group, in the order in which they were examined."""
    for group in dict.fromkeys(finding.group for finding in findings):
        rows = [
            [_MARKS[f.severity], f.check, f.detail + (f"\n→ {f.remedy}" if f.remedy else "")]
            for f in findings
            if f.group == group
        ]
        print_table(["", "check", "finding and remedy"], rows, title=group)
