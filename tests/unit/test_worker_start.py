"""What a worker of nights has imported, what it does without, how it ends, and how `workers.start` is called."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.cli import environment
from workers.modules import left_out

# A pool process with all that it has before its first batch: the commands, the app with its tasks, the resources.
PROGRAM = """
import sys
from workers import start
start.program()
import celery.apps.worker, celery.worker.consumer, workers.autoscaler, workers.prefork, workers.process
from core.settings import get_settings
from workers.app import environment_app
app = environment_app()
app.amqp.queues.select(["simulations", "reprocess"])
workers.process.open_process(app, get_settings(), "postgresql://127.0.0.1:1/nowhere")
print(*sys.modules)
"""
ENDING = """
import services.notifications, workers.process
from core.settings import get_settings
from tasks.context import process_context
from workers.app import environment_app
def fail(self):
    raise OSError("Redis is away")
services.notifications.Notifier.close = fail
workers.process.open_process(environment_app(), get_settings(), "postgresql://127.0.0.1:1/nowhere")
here = process_context()
assert here.notifier() is here.notifier()
pool = here.engine.pool
try:
    workers.process.close_process()
except OSError as error:
    print(error)
print(here.engine.pool is not pool)
try:
    process_context()
except RuntimeError:
    print("no context")
workers.process.close_process()
"""
NEEDLESS = [
    "alembic", "apprise", "argon2", "flower", "httpx", "jinja2", "matplotlib", "opentelemetry", "prometheus_client",
    "prompt_toolkit", "pygments", "pyrage", "rich", "starlette", "tornado", "typer", "uvicorn", "yaml", "smtplib",
    "celery.bin.celery", "services.backups", "services.fetchers", "services.notifications",
]  # fmt: skip
NEEDLESS_TO_THE_PRODUCER = [
    "alembic", "apprise", "flower", "httpx", "jinja2", "matplotlib", "pyrage", "celery.bin.celery", "smtplib",
    "services.prices", "services.seeding",
]  # fmt: skip
SERVERS = {
    "NIGHTSHIFT_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere",
    "NIGHTSHIFT_REDIS_URL": "redis://127.0.0.1:1/0",
}


def started(home: Path, *arguments: str, servers: Mapping[str, str] = SERVERS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={**environment(home), **servers}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    done = started(tmp_path_factory.mktemp("worker"), "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_worker_of_nights_has_what_it_needs(imported: set[str]) -> None:
    """Else what it has not would say little."""
    needed = {"numpy", "psycopg", "sqlalchemy.orm", "services.batches", "engine.advance", "celery.bin.worker"}
    assert needed <= imported
    assert {f"tasks.{name}" for name in ("simulations", "control", "backups", "notifications", "prices")} <= imported


@pytest.mark.parametrize("module", NEEDLESS)
def test_a_worker_of_nights_does_without(imported: set[str], module: str) -> None:
    assert find_spec(module) is not None
    assert module not in imported


def test_what_cannot_be_given_back_keeps_nothing_else_from_it(tmp_path: Path) -> None:
    done = started(tmp_path, "-c", ENDING)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Redis is away", "True", "no context"]


def test_who_plans_and_publishes_the_nights_of_the_benchmark_does_without(tmp_path: Path) -> None:
    """What it takes to fill the database is another process'."""
    program = "import sys, benchmarks.night; from workers.app import TASK_MODULES; list(map(__import__, TASK_MODULES))"
    done = started(tmp_path, "-c", f"{program}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert {"services.planning", "services.relay", "workers.publisher"} <= modules
    assert modules.isdisjoint(NEEDLESS_TO_THE_PRODUCER)


def test_what_is_left_out_is_found_again_and_what_is_there_stays() -> None:
    assert "json" in sys.modules
    sys.modules.pop("this", None)
    with left_out("this", "json"):
        assert importlib.import_module("json").loads("1") == 1
        with pytest.raises(ModuleNotFoundError, match="this"):
            importlib.import_module("this")
    assert importlib.import_module("this").__name__ == "this"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "--detach"], "No such option '--detach'"),
        (["worker", "-c", "many"], "must be a non-negative integer"),
        (["beat", "--nonsense"], "No such option '--nonsense'"),
        (["flower"], "No such command 'flower'"),
    ],
)
def test_wrong_use_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = started(tmp_path, "-m", "workers.start", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_without_servers_it_is_one_line(tmp_path: Path) -> None:
    done = started(tmp_path, "-m", "workers.start", "worker", servers={})
    assert done.returncode == 3
    assert done.stderr.startswith("nightshift: no servers: set NIGHTSHIFT_DATABASE_URL")
    assert done.stderr.count("\n") == 1
