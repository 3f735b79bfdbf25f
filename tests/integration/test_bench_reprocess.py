"""`nightshift bench reprocess`: a tiny run measures everything, and one that leaves something out is an error."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from benchmarks import reprocess
from benchmarks.market import DAYS_BEFORE, FIRST_DAY
from benchmarks.reprocess import Reprocess, measure_all, measure_reprocess
from core.errors import NightshiftError, UsageError
from services.reprocessing import retry_quarantined
from tests.support.cli import Shell
from tests.support.nights import change, settings

USERS, DAYS = 60, 4
ONE_DAYS = 5
measure_tiny = partial(measure_reprocess, one_days=ONE_DAYS, one_among=20)
SPREAD = {"min", "median", "max"}
MEASURED = {
    "reprocess_one_seconds", "reprocess_seconds", "user_days_per_second", "plan_seconds", "worker_peak_rss_mib",
    "night_alone_seconds", "night_beside_seconds",
}  # fmt: skip
STAGES = {"read", "decode", "market", "compute", "encode", "write", "other"}
SECOND = FIRST_DAY + timedelta(days=DAYS_BEFORE + 1)
# The run says that it wrote less than it was asked for.
A_DAY_LEFT_OUT = ("UPDATE simulations SET start_day = start_day + 1 WHERE user_id = 7",)
IT_IS_BACK = ("UPDATE simulations SET start_day = start_day - 1 WHERE user_id = 7",)
# The run knows nothing of it: its worker sends the row, and the table does not get it.
LOSE = "BEGIN IF NEW.user_id = 7 THEN RETURN NULL; END IF; RETURN NEW; END"
A_ROW_LOST = (
    f"CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS '{LOSE}'",
    f"CREATE TRIGGER lose BEFORE INSERT ON portfolio_days_{SECOND:%Y%m%d} FOR EACH ROW EXECUTE FUNCTION lose()",
)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_tiny_run_measures_everything(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprocess, "measure_reprocess", measure_tiny)

    result = shell.ok(
        "bench", "reprocess", "--users", USERS, "--days", DAYS, "--repeats", 2, "--workers", 1, "--json"
    ).json

    assert {name: result[name] for name in ("users", "days", "repeats", "workers")} == {
        "users": USERS, "days": DAYS, "repeats": 2, "workers": 1
    }  # fmt: skip
    assert result["reprocess_one_days"] == ONE_DAYS
    assert len(result["digest"]) == 16
    assert result["trades"] > 0
    ratio = result["night_beside_seconds"]["median"] / result["night_alone_seconds"]["median"]
    assert result["night_beside_ratio"] == pytest.approx(ratio, abs=0.01)
    assert 0 <= result["nights_beside_throughout"] <= 2
    for name in MEASURED:
        assert set(result[name]) == SPREAD
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"], name
    assert set(result["stage_seconds"]) == set(result["reprocess_one_stage_seconds"]) == STAGES


def test_whatever_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out, check_run = reprocess._leave_out, reprocess._check_run
    checked: list[int | None] = []

    def retry(session: Session, **request: Any) -> int | None:
        run = retry_quarantined(session, **request)
        for statement in A_ROW_LOST if checked else A_DAY_LEFT_OUT:
            session.execute(text(statement))
        return run

    def check(done: Reprocess, rows: int) -> None:
        checked.append(done.run.rows)
        if len(checked) > 1:
            check_run(done, rows)
            return
        with pytest.raises(NightshiftError, match=f"wrote {rows - 1} rows instead of {rows}"):
            check_run(done, rows)

    def again(engine: Engine, user: int | None) -> None:
        for statement in IT_IS_BACK if checked else ():
            change(engine, statement)
        leave_out(engine, user)

    for name, function in {"retry_quarantined": retry, "_check_run": check, "_leave_out": again}.items():
        monkeypatch.setattr(reprocess, name, function)

    with pytest.raises(NightshiftError, match=f"days of {SECOND} are not .* {USERS - 1} instead of {USERS}"):
        measure_all(users=USERS, days=DAYS, repeats=2, workers=1, settings=settings(), tell=lambda _: None)
    assert checked == [USERS * DAYS - 1, USERS * DAYS]


def test_a_measurement_of_nothing_is_refused(shell: Shell) -> None:
    for option in ("--users", "--days", "--repeats", "--workers"):
        assert option in shell.refused("bench", "reprocess", option, 0)
    with pytest.raises(UsageError, match="repeats must be 1 to 19"):
        measure_tiny(users=1, days=1, repeats=20, workers=1, settings=settings())
