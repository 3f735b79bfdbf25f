"""The Celery app. `make_app` makes one; `app` is the one of this process' environment: `celery -A workers.app …`.

Celery is owned here: its settings are in celery_settings.py, its transport has a door (transport.py), its tasks are the
modules of tasks/, and its signals are answered in signals.py.
"""

from __future__ import annotations

import atexit
import gc
import sys
from functools import lru_cache
from typing import Any

from celery import Celery

from core import tls
from core.errors import NightshiftError, ServerUnreachableError
from core.log import configure_logging
from core.settings import Settings, get_settings
from workers import signals, transport
from workers.celery_settings import celery_settings
from workers.embedded import ServerUrls, running_servers
from workers.extras import open_error_reports, require_extras
from workers.host_load import HostLoadStep

TASK_MODULES = (
    "tasks.control", "tasks.simulations", "tasks.reprocess", "tasks.prices", "tasks.maintenance",
    "tasks.notifications", "tasks.users", "tasks.backups",
)  # fmt: skip


def make_app(settings: Settings, redis_url: str, *, set_as_current: bool = False) -> Celery:
    """An app on the broker at `redis_url`, with every setting and every task of ours; it connects when used."""
    transport.install()
    app = Celery("nightshift", set_as_current=set_as_current, include=TASK_MODULES)
    app.conf.update(celery_settings(settings, redis_url))
    app.loader.import_default_modules()
    app.steps["worker"].add(HostLoadStep)
    app.finalize()
    return app


def environment_urls(settings: Settings) -> ServerUrls:
    """The servers that the settings name, each on its own, else those of the stack that runs in the home.

    Raises:
        ServerUnreachableError: neither is there.
        UsageError: TLS is required, and a URL does without.
    """
    database_url, redis_url = tls.database_url(settings), tls.redis_url(settings)
    if not (database_url and redis_url):
        running = running_servers(settings.nightshift_home())
        database_url = database_url or (running.database_url if running else "")
        redis_url = redis_url or (running.redis_url if running else "")
    if not (database_url and redis_url):
        raise ServerUnreachableError(
            f"no servers: set NIGHTSHIFT_DATABASE_URL and NIGHTSHIFT_REDIS_URL, or start `nightshift up` in"
            f" {settings.nightshift_home()}"
        )
    return ServerUrls(database_url, redis_url)


@lru_cache(maxsize=1)
def environment_app() -> Celery:
    """The app of this process' environment, with the resources of a worker behind its signals."""
    settings = get_settings()
    # A thousand modules: to look for garbage among them at the end takes half a second, and the system takes it anyway.
    atexit.register(gc.freeze)
    # Celery warns of things before it sets up logging.
    configure_logging(settings)
    require_extras(settings)
    urls = environment_urls(settings)
    open_error_reports(settings)
    app = make_app(settings, urls.redis_url, set_as_current=True)
    signals.connect(app, settings, urls.database_url)
    return app


def __getattr__(name: str) -> Any:
    # Made when asked for: importing this module must not need a server.
    if name in ("app", "celery"):
        try:
            return environment_app()
        except NightshiftError as error:
            # The celery command would print a traceback in the middle of its usage.
            sys.stderr.write(f"nightshift: {error}\n")
            raise SystemExit(error.exit_code) from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
