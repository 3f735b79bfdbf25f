"""What an old run did, and for whom it failed, is chosen as long as it is known; where it is not, that is said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.database import make_engine, session_scope
from core.errors import UsageError
from services.reprocessing import request
from services.retention_runs import summarise_run
from services.scopes import Only, ReprocessScope
from tests.support.cli import Shell
from tests.support.corrections import finish
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings
from workers.embedded import ServerUrls

LAST = FIRST_NIGHT + timedelta(days=2)
FAILED = ReprocessScope(failed=True)
CHOSEN = text("SELECT user_id, simulation_id, first_day FROM run_simulations WHERE run_id = :run ORDER BY 1, 2")
BATCHES = "SELECT count(*) FROM batches WHERE run_id = :run"
Chosen = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def template(servers: ServerUrls, world: str) -> Iterator[str]:
    """Three nights of several batches, of the last of which some failed; and work done again, of which one did."""
    with new_database(servers.database_url, "three_nights", template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings(300))
        night.run(LAST, each=True)
        change(engine, "UPDATE batches SET status = 'failed' WHERE run_id = :run AND seq IN (1, 2, 5)",
               run=nightly(night))  # fmt: skip
        with session_scope(engine) as session:
            request(
                session, ReprocessScope(strategy="momentum"), first_day=LAST, reason="a test",
                requested_by="tester", now=night.now, settings=night.settings,
            )  # fmt: skip
        finish(night)
        change(engine, "UPDATE batches SET status = 'failed' WHERE run_id = :run AND seq = 0", run=again(night))
        engine.dispose()
        yield "three_nights"


@pytest.fixture
def night(servers: ServerUrls, template: str) -> Iterator[Night]:
    with new_database(servers.database_url, "three_nights_alone", template=template) as url:
        engine = make_engine(url)
        yield Night(engine, settings(300))
        engine.dispose()


def nightly(night: Night) -> int:
    """The run of the last night."""
    return int(scalar(night.engine, "SELECT id FROM runs WHERE kind = 'nightly' AND day = :day", day=LAST))


def again(night: Night) -> int:
    """The run that did work again."""
    return int(scalar(night.engine, "SELECT id FROM runs WHERE kind = 'reprocess'"))


def whom(night: Night, scope: ReprocessScope, only: Only = Only.EVERYTHING, day: date = FIRST_NIGHT) -> Chosen:
    """Whom a request would do again, and from when; it is taken back."""
    with Session(night.engine) as session:
        asked = request(
            session, scope, first_day=day, only=only, reason="a test", requested_by="tester", now=night.now,
            settings=night.settings,
        )  # fmt: skip
        return [tuple(row) for row in session.execute(CHOSEN, {"run": asked.run})]


def test_what_a_night_did_and_for_whom_it_failed_stays_known(night: Night) -> None:
    run = nightly(night)
    everybody = {row[0] for row in whom(night, ReprocessScope(everything=True))}
    asked = {
        ReprocessScope(run=run): Only.EVERYTHING,
        FAILED: Only.EVERYTHING,
        ReprocessScope(everything=True): Only.MISSING_AND_FAILED,
    }
    before = {scope: whom(night, scope, only) for scope, only in asked.items()}
    did, failed = ({row[0] for row in before[scope]} for scope in (ReprocessScope(run=run), FAILED))
    # The work that was done again failed for others.
    assert did < everybody
    assert everybody - did < failed < everybody
    for number in (run, again(night)):
        assert summarise_run(night.engine, number) > 0
        assert scalar(night.engine, BATCHES, run=number) == 0
        assert rows(night.engine, "SELECT FROM run_simulations WHERE run_id = :run", run=number) == []

    assert {scope: whom(night, scope, only) for scope, only in asked.items()} == before


def test_what_a_run_of_named_simulations_did_is_forgotten_and_that_is_said(
    night: Night, servers: ServerUrls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = again(night)
    assert whom(night, ReprocessScope(run=run))
    summarise_run(night.engine, run)
    for name, value in (("DATABASE_URL", night.engine.url.render_as_string(hide_password=False)),
                        ("REDIS_URL", servers.redis_url)):  # fmt: skip
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", value.replace("postgresql+psycopg", "postgresql"))
    said = Shell(capsys)("reprocess", "--run", str(run), "--from", str(LAST), "--reason", "a test", "--dry-run")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"run {run} ended on " in said.err
    assert "name them by --user, --simulation" in said.err


@pytest.mark.parametrize("how", ["too many to keep", "summarised before failures were kept"])
def test_for_whom_it_failed_is_never_guessed(night: Night, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "too many to keep":
        run = again(night)
        monkeypatch.setattr("services.retention_runs.MOST_FAILED", 0)
        summarise_run(night.engine, run)
    else:
        run = nightly(night)
        summarise_run(night.engine, run)
        change(night.engine, "UPDATE runs SET summary = summary - 'done' - 'failed' WHERE id = :run", run=run)
        with pytest.raises(UsageError, match=f"run {run} ended on"):
            whom(night, ReprocessScope(run=run))
    everybody = ReprocessScope(everything=True)
    for scope, only in ((FAILED, Only.EVERYTHING), (everybody, Only.MISSING_AND_FAILED)):
        with pytest.raises(UsageError, match=f"for whom run {run}, of the day {LAST}, failed is no longer") as said:
            whom(night, scope, only)
        assert "\n" not in str(said.value)
    assert whom(night, everybody)


def test_a_run_that_failed_for_nobody_is_in_nobodys_way(night: Night) -> None:
    change(night.engine, "UPDATE batches SET status = 'done'")
    for number in (nightly(night), again(night)):
        summarise_run(night.engine, number)
    with pytest.raises(UsageError, match="nobody is in the scope"):
        whom(night, FAILED)
