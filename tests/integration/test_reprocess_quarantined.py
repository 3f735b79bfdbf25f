"""What was quarantined and is mended catches up, byte for byte as if nothing had been missing; others are untouched."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from models.portfolio_frame import Frame
from services import portfolio_io
from services.digest import digest_of_day
from services.reprocessing import retry_quarantined
from tests.support.cli import Shell
from tests.support.database import execute
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, Night, change, rows, scalar, settings

LAST = FIRST_NIGHT + timedelta(days=5)
OPEN = "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL"
# Where a row is stored says when it was written.
STORED = "SELECT tableoid, ctid::text, user_id FROM portfolio_days ORDER BY 1, 2"


@pytest.fixture
def night(fresh: Engine) -> Night:
    """Six nights during which one asset had no closes."""
    change(fresh, "CREATE TABLE away AS SELECT * FROM closes WHERE asset_id = 1")
    change(fresh, "DELETE FROM closes WHERE asset_id = 1")
    night = Night(fresh, settings(200))
    night.run(LAST, each=True)
    return night


def bring_closes(engine: Engine) -> None:
    """Put them there, but not by an import, which would itself plan to do again what lacked them."""
    change(engine, "INSERT INTO closes SELECT * FROM away")


def retry(night: Night, *users: int) -> int | None:
    """Ask for it, and do it."""
    with session_scope(night.engine) as session:
        run = retry_quarantined(
            session,
            reason="the closes came",
            requested_by="tester",
            now=night.now,
            settings=night.settings,
            users=users or None,
        )
    night.publish()
    night.drain()
    return run


def test_whoever_had_no_prices_catches_up(month: Engine, fresh: Engine, night: Night) -> None:
    left_out = scalar(fresh, OPEN)
    assert left_out > 20
    before = set(rows(fresh, STORED))
    bring_closes(fresh)
    run = retry(night)
    fields = "SELECT kind, status, reason, requested_by, quarantined, users FROM runs WHERE id = :run"
    owners = scalar(fresh, "SELECT count(DISTINCT user_id) FROM quarantine")
    assert rows(fresh, fields, run=run) == [("reprocess", "done", "the closes came", "tester", 0, owners)]
    for offset in range(6):
        day = FIRST_NIGHT + timedelta(days=offset)
        assert digest_of_day(fresh, day) == digest_of_day(month, day)
    assert rows(fresh, "SELECT count(*), count(cleared_at) FROM quarantine") == [(left_out, left_out)]
    # Nobody else was touched, and what was added belongs to those who were left out.
    after = set(rows(fresh, STORED))
    assert before < after
    assert {user for *_, user in after - before} <= {user for (user,) in rows(fresh, "SELECT user_id FROM quarantine")}
    trades = "SELECT count(*) FROM trades WHERE day <= :day"
    assert scalar(fresh, trades, day=LAST) == scalar(month, trades, day=LAST)


def test_the_nights_after_it_go_on_as_if_nothing_had_been(month: Engine, fresh: Engine, night: Night) -> None:
    bring_closes(fresh)
    retry(night)
    night.run(LAST_SAMPLE_DAY)
    assert digest_of_day(fresh, LAST_SAMPLE_DAY) == digest_of_day(month, LAST_SAMPLE_DAY)


def test_only_the_users_who_were_asked_for(fresh: Engine, night: Night) -> None:
    left_out = [user for (user,) in rows(fresh, "SELECT DISTINCT user_id FROM quarantine ORDER BY 1")]
    chosen = (left_out[0], left_out[-1])
    bring_closes(fresh)
    assert retry(night, *chosen) is not None
    cleared = rows(fresh, "SELECT DISTINCT user_id FROM quarantine WHERE cleared_at IS NOT NULL ORDER BY 1")
    assert [user for (user,) in cleared] == list(chosen)
    with_rows = "SELECT count(DISTINCT simulation_id) FROM portfolio_days WHERE user_id = ANY(:users)"
    assert scalar(fresh, with_rows, users=left_out[1:-1]) == scalar(
        fresh,
        "SELECT count(*) FROM simulations s WHERE user_id = ANY(:users) AND start_day <= :day"
        " AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.simulation_id = s.id)",
        users=left_out[1:-1],
        day=LAST,
    )


def test_who_is_still_at_fault_is_quarantined_anew(fresh: Engine, night: Night) -> None:
    """First nobody is mended, then all but one, whose strategy nobody knows any more."""
    before = scalar(fresh, OPEN)
    run = retry(night)
    assert scalar(fresh, OPEN) == before
    assert rows(fresh, "SELECT DISTINCT run_id, reason FROM quarantine WHERE cleared_at IS NULL") == [(run, "no_close")]
    change(fresh, "UPDATE simulations SET strategy = 999 WHERE id = (SELECT min(simulation_id) FROM quarantine)")
    bring_closes(fresh)
    retry(night)
    poisonous = rows(fresh, "SELECT simulation_id, reason FROM quarantine WHERE cleared_at IS NULL")
    assert poisonous == [(scalar(fresh, "SELECT min(simulation_id) FROM quarantine"), "malformed")]
    begun = scalar(fresh, "SELECT count(*) FROM simulations WHERE start_day <= :day", day=LAST)
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days WHERE day = :day", day=LAST) == begun - 1


def test_who_breaks_his_batch_is_found_again_until_he_is_mended(month: Engine, fresh: Engine) -> None:
    url = fresh.url.set(drivername="postgresql").render_as_string(hide_password=False)
    night = Night(fresh, settings(200))
    night.plan(LAST)
    begun = rows(fresh, "SELECT user_id FROM simulations WHERE start_day = :day ORDER BY 1", day=FIRST_NIGHT)
    one, other = begun[100][0], begun[102][0]
    check = f"CHECK (user_id NOT IN ({one}, {other}))"
    execute(url, f"ALTER TABLE portfolio_days_{LAST:%Y%m%d} ADD CONSTRAINT no {check}")
    night.publish()
    night.drain()
    found = "SELECT user_id, simulation_id, reason FROM quarantine WHERE cleared_at IS NULL ORDER BY 1"
    broken = [(one, None, "error"), (other, None, "error")]
    assert rows(fresh, found) == broken
    retry(night)
    assert rows(fresh, found) == broken
    execute(url, f"ALTER TABLE portfolio_days_{LAST:%Y%m%d} DROP CONSTRAINT no")
    retry(night)
    assert rows(fresh, found) == []
    assert digest_of_day(fresh, LAST) == digest_of_day(month, LAST)


def test_nothing_to_do(fresh: Engine) -> None:
    night = Night(fresh, settings())
    with pytest.raises(UsageError, match="no night has been run yet"):
        retry(night)
    night.run(LAST)
    assert retry(night) is None
    assert scalar(fresh, "SELECT count(*) FROM runs") == 1


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Engine, redis_url: str
) -> Shell:
    """Works with the test's servers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    url = fresh.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", url)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def test_the_command_line(shell: Shell, fresh: Engine, night: Night) -> None:
    shown: list[dict[str, Any]] = shell.ok("quarantine", "--limit", 1000, "--json").json
    assert len(shown) == scalar(fresh, OPEN)
    entry = shown[-1]
    assert (entry["day"], entry["reason"]) == (str(FIRST_NIGHT), "no_close")
    assert entry["created_at"].startswith(f"{night.now:%Y-%m-%d}")
    table = shell.ok("quarantine", "--limit", 1000).out
    assert all(word in table for word in ("no_close", str(entry["simulation_id"]), str(FIRST_NIGHT)))

    shell.refused("reprocess", "--quarantined")
    assert "--reason" in shell.refused("reprocess", "--quarantined", "--reason", "  ")
    assert "--quarantined" in shell.refused("reprocess", "--reason", "mended")
    assert "999999" in shell.refused("reprocess", "--quarantined", "--reason", "mended", "--user", 999_999)
    assert scalar(fresh, OPEN) == len(shown)

    bring_closes(fresh)
    one = shell.ok("reprocess", "--quarantined", "--reason", "mended", "--user", entry["user_id"], "--json")
    assert "no worker answers" in one.err
    run = one.json["run"]
    assert rows(fresh, "SELECT kind, reason, users FROM runs WHERE id = :run", run=run) == [("reprocess", "mended", 1)]
    again = shell.ok("reprocess", "--quarantined", "--reason", "mended", "--user", entry["user_id"], "--json")
    assert again.json == {"run": None}
    assert "nothing to do" in again.err


def test_neither_who_is_left_out_nor_who_is_done_is_looked_up_one_by_one(
    fresh: Engine, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a look-up goes back over the partitions of all nights: a night would take longer with every night."""
    looked_up: list[int] = []

    def place_latest(connection: object, frame: Frame, where: NDArray[np.bool_], through: date) -> None:
        looked_up.extend(frame.simulations.user_id[where].tolist())
        portfolio_io.place_latest(connection, frame, where, through)  # type: ignore[arg-type]

    monkeypatch.setattr("services.advance.place_latest", place_latest)
    assert scalar(fresh, OPEN) > 20
    night.run(LAST + timedelta(days=1))
    assert looked_up == []

    bring_closes(fresh)
    quarantined = {user for (user,) in rows(fresh, "SELECT user_id FROM quarantine WHERE cleared_at IS NULL")}
    retry(night)
    assert set(looked_up) <= quarantined
    assert scalar(fresh, OPEN) == 0
