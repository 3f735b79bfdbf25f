"""`python -m workers.exporter`: serve the pages until SIGTERM.

It starts where a worker would: on a schema that this code knows, with the libraries that the settings ask for. Servers
that are away are no reason not to start: the pages say so.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import uvicorn

from core.clock import utc_now
from core.database import SessionLimits, make_engine
from core.errors import NightshiftError
from core.log import configure_logging
from core.settings import get_settings
from workers.app import environment_urls, make_app
from workers.exporter.watcher import Watcher
from workers.exporter.web import make_web, require_protection
from workers.extras import open_error_reports, require_extras
from workers.health import worker_names
from workers.ports import listen
from workers.schema_check import require_schema

# The longest is the dry run of everybody's days; nobody waits longer for a page.
_LIMITS = SessionLimits(statement=timedelta(seconds=60), lock=timedelta(seconds=10))


def main() -> int:
    """Serve; the exit code."""
    try:
        settings = get_settings()
        configure_logging(settings)
        require_extras(settings)
        require_protection(settings)
        urls = environment_urls(settings)
        open_error_reports(settings)
        require_schema(urls.database_url)
        socket = listen(settings.host, settings.exporter_port, "NIGHTSHIFT_EXPORTER_PORT")
        engine = make_engine(urls.database_url, application="nightshift exporter", pool_size=2, limits=_LIMITS)
        app = make_app(settings, urls.redis_url)
        web = make_web(engine, urls.redis_url, lambda: worker_names(app), clock=utc_now, settings=settings)
    except NightshiftError as error:
        sys.stderr.write(f"nightshift: {error}\n")
        return error.exit_code
    # It ends with this process.
    Watcher(settings, urls.redis_url).start()
    # log_config=None: uvicorn's lines go through our renderer. A second of grace is plenty for a scrape.
    server = uvicorn.Server(
        uvicorn.Config(
            web,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies,
        )
    )
    server.run(sockets=[socket])
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
