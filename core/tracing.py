"""Traces: from a tick to the commit of each batch, which span belongs to which. Off unless somebody installs `Spans`.

Off, each call is a look at one variable: nothing is imported, made or sent. Who sends spans is not known here
(workers/otlp.py); whatever happens to them there, the work goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Value = str | int | float | bool
_NOTHING: AbstractContextManager[None] = nullcontext()


class Spans(Protocol):
    """Makes spans and sends them away; never raises because nobody takes them."""

    def span(self, name: str, attributes: Mapping[str, Value]) -> AbstractContextManager[None]:
        """A span around what is inside, a child of the one around it."""

    def stage(self, name: str, started: float, ended: float) -> None:
        """A span of the past, from and to a moment of `time.perf_counter`."""

    def annotate(self, attributes: Mapping[str, Value]) -> None:
        """Add to the span around the caller."""

    def failed(self, detail: str) -> None:
        """Mark the span around the caller as failed."""

    def headers(self) -> dict[str, str]:
        """What a message carries of the span around the caller."""

    def continued(self, headers: Mapping[str, object]) -> AbstractContextManager[None]:
        """Inside, spans are children of the one that a message's `headers` name, if they name one."""

    def detached(self) -> AbstractContextManager[None]:
        """Inside, a span begins a trace of its own, with a link to the span around the caller."""


class _Tracing:
    spans: Spans | None = None


_tracing = _Tracing()


def install(spans: Spans | None) -> None:
    """From now on, in this process, spans are made by `spans`; None: no longer."""
    _tracing.spans = spans


def span(name: str, **attributes: Value) -> AbstractContextManager[None]:
    """A span around what is inside. An exception that leaves it marks it as failed."""
    return _NOTHING if _tracing.spans is None else _tracing.spans.span(name, attributes)


def stage(name: str, started: float, ended: float) -> None:
    """A part of the span around the caller, from and to a moment of `time.perf_counter`."""
    if _tracing.spans is not None:
        _tracing.spans.stage(name, started, ended)


def annotate(**attributes: Value) -> None:
    """Say more about the span around the caller."""
    if _tracing.spans is not None:
        _tracing.spans.annotate(attributes)


def failed(detail: str) -> None:
    """The span around the caller failed. `detail`: one line without secrets."""
    if _tracing.spans is not None:
        _tracing.spans.failed(detail)


def headers() -> dict[str, str] | None:
    """What a message is to carry, so that what it wakes up belongs to the span around the caller; None: nothing."""
    return None if _tracing.spans is None else _tracing.spans.headers()


def continued(headers: Mapping[str, object]) -> AbstractContextManager[None]:
    """Inside, spans belong to the one that a message's `headers` name."""
    return _NOTHING if _tracing.spans is None else _tracing.spans.continued(headers)


def detached() -> AbstractContextManager[None]:
    """Inside, a trace of its own begins, linked to the span around the caller.

    For what a batch sets off: else each batch would be a child of the one before it, without end.
    """
    return _NOTHING if _tracing.spans is None else _tracing.spans.detached()
