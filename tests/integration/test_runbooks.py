"""The pages of docs/runbooks, as they stand there: `status` names them, their commands work, what they cure is gone.

Each page has a state in which it is needed. A state is made in a database of its own; where the page starts the stack,
a real one is started. So every command of every page is executed, whatever else is run.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from core.database import make_engine
from tasks.messages import SIMULATE
from tests.support import states
from tests.support.cli import Shell, command
from tests.support.database import new_database
from tests.support.nights import Night, sample_world, settings
from tests.support.polling import wait_until
from tests.support.provider import Provider
from tests.support.rules import alerts
from tests.support.runbooks import runbook, runbooks
from tests.support.scene import BATCH_USERS, DAY, LAST, USERS, Scene, plan_last
from tests.support.states import HOUR, SWEEP, stand_still
from tests.support.workers import now
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.health import worker_names, worker_queues
from workers.server_process import free_port

State = Callable[[Scene], Iterator[None]]


@pytest.fixture(scope="module")
def nights(servers: ServerUrls) -> Iterator[str]:
    """A database whose last two nights are missing; a template."""
    with new_database(servers.database_url, "runbooks") as url:
        engine = make_engine(url)
        sample_world(engine, USERS, start=LAST - 5 * DAY, spread_days=1)
        Night(engine, settings(BATCH_USERS)).run(LAST - 2 * DAY, each=True)
        engine.dispose()
        yield "runbooks"


@pytest.fixture
def scene(
    servers: ServerUrls, nights: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:  # fmt: skip
    states.make_disk(monkeypatch, free=50)
    # Nobody answers here who takes long.
    for ask in (worker_names, worker_queues):
        assert ask.__kwdefaults__ is not None
        monkeypatch.setitem(ask.__kwdefaults__, "timeout", 0.2)
    with new_database(servers.database_url, f"runbooks_{tmp_path.name[-20:]}".lower(), template=nights) as url:
        engine = make_engine(url)
        scene = Scene(engine, url, redis_url, tmp_path, Shell(capsys), monkeypatch)
        scene.words |= {"DAY": str(LAST), "SOURCE": "binance"}
        yield scene
        engine.dispose()


STATES: dict[str, State] = {
    "NightshiftRedisAway": states.redis_away,
    "NightshiftRedisMemoryHigh": states.redis_full,
    "NightshiftDatabaseSlow": states.slow_statement,
    "NightshiftDatabaseConnectionsHigh": states.connections,
    "NightshiftDiskFull": states.disk_full,
    "NightshiftNightNotStarted": states.not_started,
    "NightshiftNightWaitsForCloses": states.waits_for_closes,
    "NightshiftNightStalled": states.stalled,
    "NightshiftNightFailures": states.failures,
    "NightshiftNightFailuresMany": states.failures,
    "NightshiftUsersQuarantined": states.quarantined,
    "NightshiftDayMissed": states.missed,
    "NightshiftErrorBudgetFastBurn": states.late_nights,
    "NightshiftErrorBudgetSlowBurn": states.late_nights,
    "NightshiftWorkerLost": states.worker_lost,
    "NightshiftMessagesPutBack": states.put_back,
    "NightshiftBackupOld": states.backup_old,
    "NightshiftBackupUnverified": states.backup_damaged,
}
CURES = {
    "NightshiftDatabaseSlow", "NightshiftDatabaseConnectionsHigh", "NightshiftNightNotStarted",
    "NightshiftNightStalled", "NightshiftUsersQuarantined", "NightshiftBackupOld", "NightshiftBackupUnverified",
}  # fmt: skip
"""Pages whose commands end what is wrong; of the others something outside, or time, does."""
STANDSTILL = (
    "NightshiftBeatSilent", "NightshiftQueueWithoutWorker", "NightshiftExporterAbsent", "NightshiftUnackedStale",
    "NightshiftOutboxStale", "NightshiftPriceProviderFailing", "NightshiftPriceStale",
)  # fmt: skip
SLOW = ("NightshiftQueueLong", "NightshiftNightEndsLate", "NightshiftNightTooLong")
AWAY = "NightshiftDatabaseAway"


def test_every_alert_has_a_page_and_every_page_a_state() -> None:
    assert set(runbooks()) == {alert.name for alert in alerts()}
    assert {*STATES, *STANDSTILL, *SLOW, AWAY} == set(runbooks())


@pytest.mark.parametrize("name", runbooks())
def test_a_page_is_short_and_says_what_it_must(name: str) -> None:
    page = runbook(name)
    (alert,) = (alert for alert in alerts() if alert.name == name)
    assert page.text.startswith(f"# {name}\n\n**{alert.severity}**: ")
    assert page.text.count("\n") < 60
    assert page.commands["Look"]
    assert all(f"## {part}\n" in page.text for part in ("What it means", "What users feel", "Look", "Do"))


@pytest.mark.parametrize("name", STATES)
def test_a_page_is_named_and_its_commands_work(scene: Scene, name: str) -> None:
    page = runbook(name)
    with contextmanager(STATES[name])(scene):
        assert name in scene.problems()
        scene.execute(page, "Look")
        scene.execute(page, "Do")
        if name in CURES:
            scene.wait_gone(name)
    scene.wait_gone(name)
    scene.execute(page, "It is over when")


def test_a_database_that_is_away_is_one_line(scene: Scene) -> None:
    page = runbook(AWAY)
    scene.set(database_url=f"postgresql://user:hush@127.0.0.1:{free_port(None)}/none")
    for outcome in (*scene.execute(page, "Look"), *scene.execute(page, "Do")):
        assert "PostgreSQL is out of reach" in outcome.line
        assert "hush" not in outcome.line
    scene.set(database_url=scene.database_url)
    scene.execute(page, "It is over when")


@contextmanager
def up(scene: Scene, line: str) -> Iterator[None]:
    """What a page says to start, as a process, until the block ends."""
    log = scene.home / "up.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command(*line.split()[1:]), cwd=scene.home, stdout=stream, stderr=stream)
        try:
            wait_until(
                lambda: process.poll() is not None or "Ctrl-C stops" in log.read_text(), seconds=90, what="the stack"
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0


def starts(names: tuple[str, ...]) -> str:
    """The one way in which these pages start the stack."""
    (line,) = {
        one.text for name in names for one in runbook(name).commands["Do"] if one.text.startswith("nightshift up")
    }
    return line


def test_pages_of_a_stack_that_stands_still_bring_it_back(scene: Scene) -> None:
    with Provider() as server:
        server.serve("/api/v3/ticker/price", (500, b"{}"))
        server.serve("/hook", (500, b"{}"))
        scene.set(
            price_sources="binance", binance_url=server.url, notify_urls=f"{server.url.replace('http', 'json')}/hook",
            flower_port=0, exporter_port=0, tick_seconds=1, hard_time_limit=20, soft_time_limit=10,
        )  # fmt: skip
        stand_still(scene)
        assert set(STANDSTILL) <= set(scene.problems())
        for name in STANDSTILL:
            scene.execute(runbook(name), "Look")
        server.serve("/api/v3/ticker/price", b'[{"symbol":"CODE","price":"100.0"}]')
        server.serve("/hook", b"{}")
        for name in STANDSTILL:
            scene.execute(runbook(name), "Do")
        # As after five minutes.
        with redis.Redis.from_url(scene.redis_url) as client:
            client.delete(SWEEP)
        with up(scene, starts(STANDSTILL)):
            scene.wait_gone(*STANDSTILL, seconds=60)


def test_pages_of_a_night_that_is_slow_give_it_workers(scene: Scene) -> None:
    scene.set(flower_port=0, exporter_port=0, tick_seconds=1)
    run = plan_last(scene)
    scene.words["RUN"] = str(run)
    scene.change("UPDATE runs SET status = 'running', started_at = :at WHERE id = :run", run=run, at=now() - 2 * HOUR)
    batch = scene.scalar("SELECT min(id) FROM batches WHERE run_id = :run", run=run)
    app = make_app(settings(), scene.redis_url)
    for _ in range(120):
        app.send_task(SIMULATE, kwargs={"batch_id": batch})
    app.close()
    assert set(SLOW) <= set(scene.problems())
    for name in SLOW:
        scene.execute(runbook(name), "Look")
        scene.execute(runbook(name), "Do")
    assert f"run {run} · running" in scene.shell.ok("status").out
    assert f"{'░' * 30}   0%  0 of {USERS} users" in scene.shell.ok("status").out
    with up(scene, starts(SLOW)):
        scene.wait_gone(*SLOW, seconds=60)
