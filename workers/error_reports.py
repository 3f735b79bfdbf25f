"""Errors reported to Sentry: whatever is logged as an error, and whatever leaves a task; imported only with a DSN.

An error's text is one masked line and its frames have no variables: no password, no user's data leaves this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.utils import event_from_exception

from core.log import ExceptionInfo, masked, report_errors_to

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

_FLUSH_SECONDS = 2.0
_TAGS = ("run", "batch", "attempt", "worker", "logger")
# What leaves a task is reported by the integration; that nobody takes reports or traces, nowhere.
_SILENT = ("celery.app.trace", "sentry_sdk", "opentelemetry", "urllib3")
_PEOPLE = re.compile(r"user|e?mail|address|name$", re.IGNORECASE)
_OF_EXCEPTION = ("type", "module", "mechanism", "stacktrace")
_KEPT = ("event_id", "timestamp", "platform", "level", "logger", "release", "environment", "server_name", "sdk")


def open_reports(dsn: str, name: str) -> None:
    """Report from now on. `name`: the machine's.

    Before the fork too, because Celery's tasks are wrapped when they are built. What is not sent yet when a process of
    the pool ends, the integration sends then.
    """
    sentry_sdk.init(
        dsn=dsn,
        server_name=name,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            CeleryIntegration(propagate_traces=False),
            DedupeIntegration(),
            AtexitIntegration(callback=lambda _pending, _timeout: None),
        ],
        send_default_pii=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        auto_session_tracking=False,
        shutdown_timeout=_FLUSH_SECONDS,
        before_send=before_send,
    )
    report_errors_to(report)


def report(event: Mapping[str, Any], error: ExceptionInfo | None) -> None:
    """One line of the log. `error`: the exception that it is about."""
    if str(event.get("logger", "")).startswith(_SILENT):
        return
    options = sentry_sdk.get_client().options
    found: Event = {"level": "error"}
    hint: Hint = {}
    if error is not None:
        found, hint = event_from_exception(error, client_options=options, mechanism={"type": "log", "handled": True})
    found["logger"] = str(event.get("logger", ""))
    found["message"] = str(event.get("event", ""))
    found["tags"] = {name: str(event[name]) for name in _TAGS if name in event}
    sentry_sdk.capture_event(found, hint)


def before_send(event: Event, _hint: Hint) -> Event:
    """What may leave: the error, where it happened, and our own names and numbers."""
    sent: dict[str, Any] = {name: event[name] for name in _KEPT if name in event}  # type: ignore[literal-required]
    if "message" in event:
        sent["message"] = masked(_first_line(str(event["message"])))
    sent["tags"] = {
        name: masked(value) for name, value in dict(event.get("tags") or {}).items() if not _PEOPLE.search(name)
    }
    job = dict(event.get("extra") or {}).get("celery-job")
    if isinstance(job, dict):
        sent["tags"]["task"] = str(job.get("task_name"))
    for value in (event.get("exception") or {}).get("values", []):
        kept: dict[str, Any] = {key: value[key] for key in _OF_EXCEPTION if key in value}
        kept["value"] = masked(_first_line(str(value.get("value", ""))))
        sent.setdefault("exception", {"values": []})["values"].append(kept)
    return sent  # type: ignore[return-value]


def _first_line(text: str) -> str:
    # PostgreSQL quotes whole rows in the lines after it.
    return next(iter(text.strip().splitlines()), "")
