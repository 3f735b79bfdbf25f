"""Commands that bring their own servers and workers, as processes: a bare machine, `up`, the demo."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.clock import utc_now
from scripts.demo import iso_seconds
from tests.support.cli import ROOT, Shell, command, environment, run_process
from tests.support.polling import wait_until

THE_DAY_AFTER = datetime(2022, 12, 29, 12, tzinfo=UTC)
SAMPLES = ROOT / "samples" / "us_stocks_daily.csv.gz"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    # Another system user runs PostgreSQL where the tests run as root: it has to reach the home.
    tmp_path.chmod(0o755)
    return environment(tmp_path / "home", flower_port=0, exporter_port=0, batch_users=100, tick_seconds=2)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> Shell:
    """Works with the servers that run in the same home."""
    monkeypatch.setenv("NIGHTSHIFT_HOME", env["NIGHTSHIFT_HOME"])
    monkeypatch.setenv("NIGHTSHIFT_BATCH_USERS", env["NIGHTSHIFT_BATCH_USERS"])
    return Shell(capsys)


def _processes(home: Path) -> list[psutil.Process]:
    """Whoever has the home in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("NIGHTSHIFT_HOME", "").startswith(str(home)) or str(home) in " ".join(
                process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def _started(env: dict[str, str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background; what it says goes to `log`. It is ended in any case."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command(*arguments), env=env, cwd=log.parent, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(90)


def _wait_for_line(process: subprocess.Popen[bytes], log: Path, words: str) -> str:
    def found() -> str:
        text = log.read_text()
        assert process.poll() is None, text
        return next((line for line in text.splitlines() if words in line), "")

    return wait_until(found, seconds=120, what=f"{words!r} in the output")


def test_a_bare_machine_runs_nights_and_then_serves(
    env: dict[str, str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command brings its servers and workers and takes them away; `up` serves until it is told to stop."""
    assert "made its tables" in shell.ok("prices", "import", SAMPLES).err
    assert shell("seed", "--users", 250, "--start", "2022-12-26").code == 0
    done = run_process(env, "run", "--through", "2022-12-27", "--each", "--wait", "--json")
    assert done.code == 0, done.err
    assert [(run["status"], run["users_done"], run["batches"]) for run in done.json["runs"]] == [("done", 250, 3)] * 2
    assert sum(run["trades"] for run in done.json["runs"]) > 0
    assert _processes(tmp_path / "home") == []

    log = tmp_path / "up.log"
    monkeypatch.setenv("NIGHTSHIFT_CLOCK_OFFSET", iso_seconds(THE_DAY_AFTER - utc_now()))
    env |= {"NIGHTSHIFT_CLOCK_OFFSET": os.environ["NIGHTSHIFT_CLOCK_OFFSET"]}
    with _started(env, log, "up", "--workers", "1") as process:
        _wait_for_line(process, log, "Ctrl-C stops")
        assert "a stack runs in" in shell.refused("up", code=1)
        # Whether this plans it or beat does: it is the same night.
        (newest,) = shell.ok("run", "--day", "2022-12-28", "--wait", "--json").json["runs"]
        assert (newest["status"], newest["users_done"]) == ("done", 250)
        assert len(shell.ok("status", "--json").json["workers"]) == 2
        wait_until(lambda: shell("health").code == 0, what="health")
        _nothing_changed(shell, done.json["runs"][-1], tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    assert _processes(tmp_path / "home") == []


def _nothing_changed(shell: Shell, run: dict[str, Any], directory: Path) -> None:
    """A run that is done is not done again, and is shown as it was."""
    again = shell.ok("run", "--day", "2022-12-27", "--wait", "--json")
    assert not again.json["planned"]
    assert f"is done already (run {run['id']} of 2022-12-27): nothing changed" in again.err
    assert again.json["runs"] == [run]
    digest = shell.ok("db", "digest", "--day", "2022-12-27", "--json").json
    assert digest == {"day": "2022-12-27", "digest": run["digest"], "rows": 250, "reprocessed_by": []}
    assert shell.ok("runs", run["id"], "--json").json == run
    assert [batch["rows"] for batch in shell.ok("batches", run["id"], "--json").json] == [100, 100, 50]
    for kind, number in (("simulation", 1), ("run", run["id"])):
        page = directory / f"{kind}.html"
        shell.ok("report", f"--{kind}", number, "--out", page)
        html = page.read_text()
        assert html.count("<figure>") == 3
        assert "http" not in html.replace("http-equiv", "")


def test_the_demo_runs_once_and_its_clock_is_that_of_the_samples(env: dict[str, str], tmp_path: Path) -> None:
    first = run_process({**env, "DEMO_EXIT": "1"}, "demo", "--users", 300)
    assert first.code == 0, first.err
    assert "nights: 30" in first.err
    assert "Leaderboard" in first.out
    assert (tmp_path / "home" / "demo" / "report.html").read_text().count("<figure>") == 4
    assert _processes(tmp_path / "home") == []

    log = tmp_path / "demo.log"
    with _started(env, log, "demo", "--users", "300") as process:
        _wait_for_line(process, log, "Ctrl-C stops")
        text = log.read_text()
        assert "300 from an earlier start" in text
        assert "all done in an earlier start" in text
        assert first.out in text
        health = _wait_for_line(process, log, "/health/deep").split()[1]
        wait_until(lambda: httpx.get(health, timeout=10).status_code == 200, what="a healthy demo")
        words = _wait_for_line(process, log, "elsewhere:").split()[1:3]
        elsewhere = {**env, **dict(word.split("=", 1) for word in words)}
        status = run_process(elsewhere, "status", "--json").json
        assert status["now"].startswith(str(date(2022, 12, 28) + timedelta(days=1)))
        assert (status["night"]["day"], status["night"]["status"]) == ("2022-12-28", "done")
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert _processes(tmp_path / "home") == []
