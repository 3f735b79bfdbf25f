"""Traces of a worker, where a setting asks for them: begun after the fork, carried by messages, sent before the end."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from celery import signals

from core import tracing
from core.settings import Settings

if TYPE_CHECKING:
    from workers.otlp import OtlpSpans

_HEADER = "traceparent"
_open: list[OtlpSpans] = []
_entered: list[AbstractContextManager[None]] = []


def open_traces(settings: Settings, instance: str) -> None:
    """Make spans from now on, in this process, which is called `instance`; nothing without an endpoint."""
    if settings.otlp_endpoint:
        from workers.otlp import OtlpSpans  # noqa: PLC0415 - an extra, and a weight

        _open.append(OtlpSpans(settings.otlp_endpoint, instance))
        tracing.install(_open[0])


def close_traces() -> None:
    """Send what is left, within seconds, and make no more."""
    tracing.install(None)
    while _open:
        _open.pop().close()


def follow_messages() -> None:
    """Have each task's spans belong to the trace that its message names. Once in each process."""
    signals.task_prerun.connect(_enter, weak=False)
    signals.task_postrun.connect(_leave, weak=False)


def _enter(task: Any, **_: Any) -> None:
    context = tracing.continued({_HEADER: task.request.get(_HEADER)})
    context.__enter__()
    _entered.append(context)


def _leave(**_: Any) -> None:
    while _entered:
        _entered.pop().__exit__(None, None, None)
