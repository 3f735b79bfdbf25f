"""The stack as its owner sees it: everything answers, what dies comes back, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from core.errors import NightshiftError
from core.settings import Settings
from tasks.messages import SIMULATE
from tests.support.polling import wait_until
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.stack import Stack

ROOT = Path(__file__).parents[2]

OWNER = """
import json, os, sys, time
from core.log import configure_logging
from core.settings import get_settings
from workers.app import environment_urls
from workers.stack import Stack
settings = get_settings()
configure_logging(settings)
stack = Stack(settings, environment_urls(settings), workers=1, flower=False)
stack.start()
print(json.dumps(stack.processes), flush=True)
while True:
    time.sleep(60)
"""


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_everything_answers_and_what_is_killed_comes_back(database: str, redis_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, flower_port=0, exporter_port=0, tick_seconds=1)
    with Stack(settings, ServerUrls(database, redis_url), workers=2) as stack:
        pids = stack.processes
        assert set(pids) == {"simulations", "control", "beat", "flower", "exporter"}
        everything = [process for pid in pids.values() for process in family(pid)]
        assert len(family(pids["simulations"])) == 3
        # Ctrl-C in the terminal goes to the process group in its foreground.
        assert all(os.getpgid(process.pid) != os.getpgid(0) for process in everything)
        secrets = [stack.flower_password, ServerUrls(database, redis_url).redis_url.split("@")[0]]
        assert not [process for process in everything if any(s in " ".join(process.cmdline()) for s in secrets)]

        pages = {name: httpx.get(url).status_code for name, url in stack.addresses.items() if name != "flower"}
        assert pages == {"page": 200, "metrics": 200, "health": 503, "scheduler": 200}  # there are no prices
        wait_until(
            lambda: "nightshift_beat_last_tick" in httpx.get(stack.addresses["metrics"]).text, what="beat's first tick"
        )
        assert flower_shows_a_task(stack, redis_url)

        old = family(pids["simulations"])
        os.kill(pids["simulations"], signal.SIGKILL)
        wait_until(lambda: stack.processes.get("simulations", pids["simulations"]) != pids["simulations"])
        wait_until(lambda: not running(old), what="the old pool being gone")
        wait_until(lambda: len(family(stack.processes["simulations"])) == 3, what="the new pool")
        assert {name: pid for name, pid in stack.processes.items() if name != "simulations"} == {
            name: pid for name, pid in pids.items() if name != "simulations"
        }
        everything = [process for pid in stack.processes.values() for process in family(pid)]
    assert not running(everything)
    assert stack.processes == {}


def flower_shows_a_task(stack: Stack, redis_url: str) -> bool:
    """Flower wants its password, and then shows a task with the arguments that people read."""
    url = f"{stack.addresses['flower']}/api/tasks"
    login = (stack.flower_user, stack.flower_password)
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, auth=(stack.flower_user, "wrong")).status_code == 401
    app = make_app(Settings(), redis_url)
    app.send_task(SIMULATE, kwargs={"batch_id": 1}, argsrepr="run 3 · users 0–4999")
    app.close()

    def shown() -> bool:
        tasks = httpx.get(url, auth=login).json().values()
        return any(
            (task["name"], task["state"], task["args"]) == (SIMULATE, "SUCCESS", "run 3 · users 0–4999")
            for task in tasks
        )

    return wait_until(shown, what="the task in Flower")


def test_a_worker_that_lives_but_does_not_answer_is_replaced(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.stack._SILENT_SECONDS", 4.0)
    monkeypatch.setattr("workers.pulse._ASK_SECONDS", 0.5)
    settings = Settings(home=tmp_path, tick_seconds=1)
    with Stack(settings, ServerUrls(database, redis_url), workers=1, flower=False, exporter=False) as stack:
        before = stack.processes
        mute = family(before["simulations"])
        psutil.Process(before["simulations"]).suspend()
        wait_until(lambda: stack.processes.get("simulations") not in {None, before["simulations"]}, seconds=60)
        wait_until(lambda: not running(mute), what="the mute worker and its pool being gone")
        assert stack.processes["control"] == before["control"]


def test_a_port_in_use_is_named_with_its_setting_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(home=tmp_path, flower_port=port, exporter_port=0)
        stack = Stack(settings, ServerUrls("postgresql://none", "redis://none"), workers=1)
        with pytest.raises(NightshiftError, match=rf"port {port}.*NIGHTSHIFT_FLOWER_PORT"):
            stack.start()
    assert stack.processes == {}


def test_a_killed_owner_leaves_no_process_behind(database: str, redis_url: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "NIGHTSHIFT_HOME": str(tmp_path),
        "NIGHTSHIFT_DATABASE_URL": database,
        "NIGHTSHIFT_REDIS_URL": redis_url,
        "NIGHTSHIFT_EXPORTER_PORT": "0",
    }
    with subprocess.Popen([sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            pids = json.loads(owner.stdout.readline())
            children = [process for pid in pids.values() for process in family(pid)]
            assert len(running(children)) >= 6
        finally:
            owner.kill()
    wait_until(lambda: not running(children), what="the children of the killed owner being gone")
