"""The Celery app of a worker that believes a file about its host's room: `celery -A tests.support.roomy`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from workers import process_memory
from workers.app import environment_app
from workers.autoscaler import Autoscaler
from workers.host_load import HostLoad


class RoomyAutoscaler(Autoscaler):
    """Ours, on a host of which the test says how much of it is free."""

    def host(self) -> HostLoad:
        """As many free cores, and as many bytes, as the file TEST_ROOM says."""
        cores, free = json.loads(Path(os.environ["TEST_ROOM"]).read_text(encoding="utf-8"))
        return HostLoad(cpu=0.5, free_cores=cores, memory=0.1, free_memory=free)


def __getattr__(name: str) -> Any:
    if name in ("app", "celery"):
        if base_and_asset := os.environ.get("TEST_PROCESS_KIB"):
            process_memory._BASE_KIB, process_memory._ASSET_KIB = json.loads(base_and_asset)
        app = environment_app()
        app.conf.worker_autoscaler = "tests.support.roomy:RoomyAutoscaler"
        return app
    raise AttributeError(name)
