"""The Celery app of a worker that believes a file about how many cores are free: `celery -A tests.support.roomy`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from workers.app import environment_app
from workers.autoscaler import Autoscaler
from workers.host_load import HostLoad


class RoomyAutoscaler(Autoscaler):
    """Ours, on a host of which the test says how much of it is free."""

    def host(self) -> HostLoad:
        """As many free cores as TEST_FREE_CORES says, and memory enough."""
        cores = json.loads(Path(os.environ["TEST_FREE_CORES"]).read_text(encoding="utf-8"))
        return HostLoad(cpu=0.5, free_cores=cores, memory=0.1, free_memory=2**40)


def __getattr__(name: str) -> Any:
    if name in ("app", "celery"):
        app = environment_app()
        app.conf.worker_autoscaler = "tests.support.roomy:RoomyAutoscaler"
        return app
    raise AttributeError(name)
