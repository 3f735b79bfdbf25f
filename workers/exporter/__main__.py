"""`python -m workers.exporter`: serve the pages until SIGTERM."""

from __future__ import annotations

import sys

import uvicorn

from core.clock import utc_now
from core.database import make_engine
from core.errors import NightshiftError
from core.log import configure_logging
from core.settings import get_settings
from workers.app import environment_urls, make_app
from workers.exporter.watcher import Watcher
from workers.exporter.web import make_web
from workers.health import worker_names
from workers.ports import listen


def main() -> int:
    """Serve; the exit code."""
    try:
        settings = get_settings()
        configure_logging(settings)
        urls = environment_urls(settings)
        socket = listen(settings.host, settings.exporter_port, "NIGHTSHIFT_EXPORTER_PORT")
    except NightshiftError as error:
        sys.stderr.write(f"nightshift: {error}\n")
        return error.exit_code
    engine = make_engine(urls.database_url, application="nightshift exporter", pool_size=2)
    app = make_app(settings, urls.redis_url)
    web = make_web(engine, urls.redis_url, lambda: worker_names(app), clock=utc_now, settings=settings)
    # It ends with this process.
    Watcher(settings, urls.redis_url).start()
    # log_config=None: uvicorn's lines go through our renderer. A second of grace is plenty for a scrape.
    server = uvicorn.Server(uvicorn.Config(web, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    server.run(sockets=[socket])
    engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
