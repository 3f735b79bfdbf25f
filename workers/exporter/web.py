"""The exporter's pages: /metrics, /health, /health/deep, /scheduler/status. None of them needs, or shows, a secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.database import session_scope
from core.settings import Settings
from services.health import check_health
from services.scheduler import scheduler_status
from workers.exporter.metrics import NightshiftCollector


def make_web(
    engine: Engine,
    redis_url: str,
    ping_workers: Callable[[], Sequence[str]],
    *,
    clock: Callable[[], datetime],
    settings: Settings,
) -> Starlette:
    """The application. Its pages are plain functions, which Starlette runs in threads: they wait for servers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NightshiftCollector(engine, redis_url, clock, settings))

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def alive(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def deep(_: Request) -> Response:
        health = check_health(engine, redis_url, ping_workers, now=clock(), settings=settings)
        return JSONResponse(health.as_json(), status_code=200 if health.ok else 503)

    def scheduler(_: Request) -> Response:
        now = clock()
        try:
            with session_scope(engine) as session:
                views = scheduler_status(session, now=now, settings=settings)
        except SQLAlchemyError as error:
            return JSONResponse({"error": f"the database did not answer ({type(error).__name__})"}, status_code=503)
        return JSONResponse({"now": now.isoformat(), "schedules": [view.as_json() for view in views]})

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/health", alive),
            Route("/health/deep", deep),
            Route("/scheduler/status", scheduler),
        ]
    )
