"""What `celery -A benchmarks.peers.worker worker` imports: the app of this process' environment."""

from __future__ import annotations

from benchmarks.peers.tasks import make_peers_app
from core.settings import get_settings
from workers.app import environment_urls

app = make_peers_app(get_settings(), environment_urls(get_settings()).redis_url)
