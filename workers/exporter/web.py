"""The exporter: /metrics, /health, /health/deep, /scheduler/status, and the status page (workers/web).

/health asks nobody who he is and says only that the process lives. /metrics and /health/deep show no secret, but names
of workers and sizes: with a token set, and beyond this machine there is one, they ask for it. All else is for people:
see workers/web/access.py.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.database import session_scope
from core.errors import UsageError
from core.settings import PREFIX, Settings
from services.health import check_health
from services.login_limits import LoginLimits
from services.scheduler import scheduler_status
from workers.exporter.metrics import NightshiftCollector
from workers.web.access import is_loopback
from workers.web.headers import SecurityHeaders
from workers.web.routes import page_routes
from workers.web.site import Ask, Site, page

Page = Callable[[Request], Response]


def require_protection(settings: Settings) -> None:
    """Raise UsageError where others than this machine's could read the metrics without a token."""
    if settings.metrics_token is None and not is_loopback(settings.host):
        raise UsageError(
            f"{PREFIX}HOST={settings.host} would show the metrics to everybody: set {PREFIX}METRICS_TOKEN, and give it"
            " to Prometheus as authorization of the job (docs/security.md)"
        )


def _with_token(show: Page, token: str | None) -> Page:
    """The page for who sends the token; for everybody if there is none."""
    expected = f"Bearer {token}".encode()

    def page(request: Request) -> Response:
        sent = request.headers.get("authorization", "").encode()
        if token is not None and not hmac.compare_digest(sent, expected):
            return Response(
                "the bearer token of NIGHTSHIFT_METRICS_TOKEN is needed\n", 401, {"WWW-Authenticate": "Bearer"}
            )
        return show(request)

    return page


def make_web(
    engine: Engine,
    redis_url: str,
    ping_workers: Callable[[], Sequence[str]],
    *,
    clock: Callable[[], datetime],
    settings: Settings,
) -> Starlette:
    """The application. Its pages are plain functions, which Starlette runs in threads: they wait for servers.

    Raises:
        UsageError: a setting of the status page is malformed.
    """
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NightshiftCollector(engine, redis_url, clock, settings))

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def alive(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def deep(_: Request) -> Response:
        health = check_health(engine, redis_url, ping_workers, now=clock(), settings=settings)
        return JSONResponse(health.as_json(), status_code=200 if health.ok else 503)

    def scheduler(ask: Ask) -> Response:
        now = ask.now
        try:
            with session_scope(engine) as session:
                views = scheduler_status(session, now=now, settings=settings)
        except SQLAlchemyError as error:
            return JSONResponse({"error": f"the database did not answer ({type(error).__name__})"}, status_code=503)
        return JSONResponse({"now": now.isoformat(), "schedules": [view.as_json() for view in views]})

    site = Site(engine, redis_url, clock, settings, LoginLimits(settings, redis_url))
    return Starlette(
        routes=[
            Route("/metrics", _with_token(metrics, token)),
            Route("/health", alive),
            Route("/health/deep", _with_token(deep, token)),
            page(site, "/scheduler/status", scheduler),
            *page_routes(site),
        ],
        middleware=[Middleware(SecurityHeaders)],
    )
