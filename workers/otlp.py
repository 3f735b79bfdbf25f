"""Spans by OpenTelemetry, sent by OTLP over HTTP: imported only where NIGHTSHIFT_OTLP_ENDPOINT is set.

Made after the fork, because the sender is a thread; what is not sent at the end of the process is sent then, within
`_EXPORT_SECONDS`. A collector that is away costs spans, never the work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core.log import mask_secrets

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from core.tracing import Value

TRACES_PATH = "/v1/traces"
_EXPORT_SECONDS = 2.0
_QUEUE_SPANS = 2048
_LINK = contexts.create_key("nightshift-link")
_propagator = TraceContextTextMapPropagator()


class OtlpSpans:
    """Spans of this process. `endpoint`: the collector's base URL; `instance`: how this process is called."""

    def __init__(self, endpoint: str, instance: str) -> None:
        # Each export that fails is an error to the library; that spans are missing is none to us.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + TRACES_PATH, timeout=_EXPORT_SECONDS)
        resource = Resource.create({"service.name": "nightshift", "service.instance.id": instance})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # One export takes the whole queue, so that the last one has an end.
        sender = BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, max_export_batch_size=_QUEUE_SPANS)
        self._provider.add_span_processor(sender)
        self._tracer = self._provider.get_tracer("nightshift")

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Value]) -> Iterator[None]:
        """A span around what is inside; an exception's text is masked before it is kept."""
        linked = contexts.get_value(_LINK)
        links = [trace.Link(linked)] if _is_context(linked) and not trace.get_current_span().is_recording() else []
        with self._tracer.start_as_current_span(
            name, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except BaseException as error:
                self.failed(mask_secrets(f"{type(error).__name__}: {error}"))
                raise

    def stage(self, name: str, started: float, ended: float) -> None:
        """A span between two moments of `time.perf_counter`."""
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(name, start_time=offset + int(started * 1e9))
        span.end(offset + int(ended * 1e9))

    def annotate(self, attributes: Mapping[str, Value]) -> None:
        """Add to the current span."""
        trace.get_current_span().set_attributes(attributes)

    def failed(self, detail: str) -> None:
        """Give the current span the status of an error."""
        trace.get_current_span().set_status(trace.Status(trace.StatusCode.ERROR, detail))

    def headers(self) -> dict[str, str]:
        """`traceparent`, as W3C writes it."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier

    @contextmanager
    def continued(self, headers: Mapping[str, object]) -> Iterator[None]:
        """Inside, spans are children of what `traceparent` names. Anything else there is as if it were absent."""
        carrier = {name: value for name, value in headers.items() if isinstance(value, str)}
        token = contexts.attach(_propagator.extract(carrier, context=contexts.Context()))
        try:
            yield
        finally:
            contexts.detach(token)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Inside, the next span has no parent, and a link to the current one."""
        around = trace.get_current_span().get_span_context()
        token = contexts.attach(contexts.set_value(_LINK, around, contexts.Context()))
        try:
            yield
        finally:
            contexts.detach(token)


def _is_context(value: object) -> TypeGuard[SpanContext]:
    return isinstance(value, trace.SpanContext) and value.is_valid
