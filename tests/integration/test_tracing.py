"""Traces of a real night, as a collector receives them: one trace leads from the tick to each commit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from sqlalchemy import Engine

from core import tracing
from tests.support.nights import LAST_SAMPLE_DAY, ROOT, Night, sample_world, settings
from tests.support.receiver import Receiver, receiver
from tests.support.troubled import BATCH_USERS, CANARY, settled, troubled_world
from tests.support.workers import System, quick
from workers.embedded import ServerUrls
from workers.stack import Stack
from workers.tracing import close_traces, open_traces

PATH = "/v1/traces"


def spans(received: Receiver) -> list[Span]:
    found: list[Span] = []
    for body in received.bodies(PATH):
        request = ExportTraceServiceRequest.FromString(body)
        found += [span for part in request.resource_spans for scope in part.scope_spans for span in scope.spans]
    return found


def attribute(span: Span, name: str) -> object:
    for pair in span.attributes:
        if pair.key == name:
            return getattr(pair.value, pair.value.WhichOneof("value"))
    return None


@pytest.fixture(scope="module")
def night(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Span]]:
    """The spans of a night with trouble, begun by a tick of the control worker; all workers have ended."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    with receiver() as received, troubled_world(servers, "tracing_world") as (engine, url):
        chosen = quick(tmp_path_factory.mktemp("home"), BATCH_USERS, overdue_seconds=60, otlp_endpoint=received.url)
        system = System(engine, ServerUrls(url, servers.redis_url), chosen)
        with Stack(chosen, system.urls, workers=1, flower=False, exporter=False):
            settled(engine)
        yield spans(received)


def test_one_trace_leads_from_the_tick_to_the_commit(night: list[Span]) -> None:
    by_id = {span.span_id: span for span in night}
    commits = [span for span in night if span.name == "commit"]
    assert len(commits) == 2
    for commit in commits:
        path = [commit]
        while path[-1].parent_span_id:
            path.append(by_id[path[-1].parent_span_id])
        assert [span.name for span in path] == ["commit", "batch", "publish", "tick"]
        assert {span.trace_id for span in path} == {commit.trace_id}


def test_the_trace_of_a_night_shows_its_plan_its_batches_and_their_stages(night: list[Span]) -> None:
    first = next(span for span in night if span.name == "batch" and attribute(span, "outcome") == "done")
    trace = [span for span in night if span.trace_id == first.trace_id]
    assert {"tick", "plan", "publish", "batch", "read", "compute", "write", "commit"} <= {span.name for span in trace}
    stages = [span for span in trace if span.parent_span_id == first.span_id]
    assert all(
        first.start_time_unix_nano - 1e6 < span.start_time_unix_nano <= span.end_time_unix_nano
        < first.end_time_unix_nano + 1e6
        for span in stages
    )  # fmt: skip
    assert attribute(first, "users") == BATCH_USERS
    assert attribute(first, "run") == 1
    assert attribute(first, "attempt") == 1
    planned = [span for span in trace if span.name == "plan"]
    assert [attribute(span, "runs") for span in planned] == [1]


def test_a_batch_that_failed_is_marked_so_without_a_secret(night: list[Span]) -> None:
    failed = {attribute(span, "outcome"): span.status for span in night if span.status.code == Status.STATUS_CODE_ERROR}
    assert set(failed) == {"failed", "retried"}
    assert failed["retried"].message == "DiskFull: no space left on device"
    assert CANARY not in failed["failed"].message
    assert "********@db" in failed["failed"].message


def test_what_a_batch_sets_off_is_a_trace_of_its_own_with_a_link(engine: Engine) -> None:
    """Without ticks, for one of them may end a run before its last batch does."""
    sample_world(engine, 20, start=LAST_SAMPLE_DAY - timedelta(days=1), spread_days=1)
    with receiver() as received:
        open_traces(settings(otlp_endpoint=received.url), "test")
        Night(engine, settings()).run(LAST_SAMPLE_DAY, each=True)
        close_traces()
        night = spans(received)
    batches = {span.span_id: span for span in night if span.name == "batch"}
    assert len(batches) == 2
    detached = [span for span in night if span.name == "publish" and span.links]
    assert detached
    for span in detached:
        assert not span.parent_span_id
        assert [batches[link.span_id].trace_id for link in span.links] == [link.trace_id for link in span.links]
        assert span.trace_id not in {link.trace_id for link in span.links}


def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    open_traces(settings(otlp_endpoint="http://127.0.0.1:9"), "test")
    with tracing.span("tick"), pytest.raises(ZeroDivisionError), tracing.span("plan"):
        raise ZeroDivisionError
    close_traces()
    assert tracing.headers() is None


@pytest.mark.parametrize("header", [None, 7, {"a": 1}, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_message_with_any_other_header_begins_a_trace(header: object) -> None:
    with receiver() as received:
        open_traces(settings(otlp_endpoint=received.url), "test")
        with tracing.continued({"traceparent": header}), tracing.span("batch"):
            pass
        close_traces()
        (span,) = spans(received)
    assert span.name == "batch"
    assert not span.parent_span_id


def test_without_an_endpoint_nothing_is_imported_and_messages_carry_nothing() -> None:
    # redis looks for the rest of the library by itself.
    code = "import sys, workers.app, workers.process; print('opentelemetry.exporter' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
    open_traces(settings(), "test")
    assert tracing.headers() is None
    assert tracing.span("batch") is tracing.continued({})
