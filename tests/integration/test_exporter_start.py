"""The exporter starts where its pages can be right, says in one line why it does not, and reports its errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import Engine

from models.migrate import downgrade, steps_after
from models.revisions import head_revision
from tests.support.exporter import AWAY
from tests.support.nights import ROOT, change, settings
from tests.support.polling import wait_until
from tests.support.receiver import receiver
from workers.embedded import ServerUrls
from workers.environment import child_environment
from workers.server_process import free_port

# How Python itself marks a module that is not there; run_module is what `python -m` does.
WITHOUT_SENTRY = (
    "import runpy, sys; sys.modules['sentry_sdk'] = None; runpy.run_module('workers.exporter', run_name='__main__')"
)


@contextmanager
def started(
    home: Path, urls: ServerUrls, *arguments: str, **changes: object
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """An exporter and who asks it; it is killed at the end."""
    chosen = settings(home=home, exporter_port=free_port(None), log_format="json", **changes)  # type: ignore[arg-type]
    process = subprocess.Popen(
        [sys.executable, *(arguments or ("-m", "workers.exporter"))], cwd=ROOT, env=child_environment(chosen, urls),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{chosen.exporter_port}", timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def refused(home: Path, urls: ServerUrls, *arguments: str, **changes: object) -> tuple[int, str]:
    """Its exit code and what it said."""
    with started(home, urls, *arguments, **changes) as (process, _):
        out, err = process.communicate(timeout=60)
        assert out == ""
        return process.returncode, err


def answers(process: subprocess.Popen[str], client: httpx.Client) -> bool:
    assert process.poll() is None
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_empty_or_older_database_is_one_line(
    engine: Engine, database: str, empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    code, said = refused(tmp_path, ServerUrls(empty_database, redis_url))
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("nightshift: the database has no Nightshift tables")
    assert "nightshift db migrate" in said

    older = steps_after(None)[-2].revision
    downgrade(engine, older)
    code, said = refused(tmp_path, ServerUrls(database, redis_url))
    assert (code, said.count("\n")) == (1, 1)
    assert older in said
    assert head_revision() in said


def test_a_missing_library_is_one_line(database: str, redis_url: str, tmp_path: Path) -> None:
    code, said = refused(
        tmp_path, ServerUrls(database, redis_url), "-c", WITHOUT_SENTRY, sentry_dsn="http://public@127.0.0.1:1/7"
    )
    assert code == 2
    assert said == (
        "nightshift: NIGHTSHIFT_SENTRY_DSN is set, but sentry_sdk is not installed: pip install 'nightshift[sentry]'\n"
    )


def test_servers_that_are_away_are_absent_samples(tmp_path: Path) -> None:
    urls = ServerUrls(f"postgresql://user:hush@{AWAY}/none", f"redis://:hush@{AWAY}/0")
    with started(tmp_path, urls) as (process, client):
        wait_until(lambda: answers(process, client), seconds=60, what="the exporter")
        samples = client.get("/metrics")
        assert samples.status_code == 200
        assert 'nightshift_source_up{source="disk"}' in samples.text
        assert 'source="database"' not in samples.text
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert "the schema was not checked" in said
    assert "hush" not in said


def test_what_breaks_in_a_page_is_reported(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> None:
    change(engine, "INSERT INTO beat_ticks (name, last_run_at, last_result) VALUES ('scaling:simulations', now(), '?')")
    with receiver() as received:
        dsn = received.url.replace("http://", "http://public@") + "/7"
        with started(tmp_path, ServerUrls(database, redis_url), sentry_dsn=dsn) as (process, client):
            wait_until(lambda: answers(process, client), seconds=60, what="the exporter")
            assert client.get("/metrics").status_code == 500
            reports = wait_until(lambda: received.bodies("/api/7/envelope/"), seconds=30, what="the report")
    assert b"JSONDecodeError" in b"".join(reports)
