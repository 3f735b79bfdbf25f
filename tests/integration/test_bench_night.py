"""`nightshift bench night`: every figure that the documentation names, of nights that really ran, and a true floor."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from benchmarks.floor import measure_floor
from core.errors import NightshiftError
from models.copy_codec import HEADER, TRAILER
from models.portfolio_rows import PORTFOLIO_FORMAT, TRADE_FORMAT
from services.copying import copy_out
from services.portfolio_io import frame_queries
from tests.support.cli import Shell
from tests.support.nights import FIRST_NIGHT, Night, rows, scalar, settings

SPREAD = {"min", "median", "max"}
MEASURED = {
    "plan_seconds", "publish_seconds", "first_batch_seconds", "night_seconds", "users_per_second", "floor_seconds",
    "ratio_to_floor", "worker_peak_rss_mib", "producer_peak_rss_mib", "wal_bytes_per_user",
}  # fmt: skip
STAGES = {"read", "decode", "market", "compute", "encode", "write", "commit", "other"}
USERS, NIGHTS = 300, 2


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_tiny_run_measures_everything(shell: Shell) -> None:
    result = shell.ok("bench", "night", "--users", USERS, "--nights", NIGHTS, "--workers", 1, "--json").json

    assert (result["users"], result["rows"], result["quarantined"]) == (USERS, USERS, 0)
    assert len(result["digest"]) == 16
    assert set(result) >= MEASURED
    for name in MEASURED:
        assert set(result[name]) == SPREAD
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"], name
    assert set(result["stage_seconds"]) == STAGES
    assert len(result["each_night_seconds"]) == NIGHTS


def test_the_floor_moves_the_bytes_of_the_night_and_leaves_nothing_behind(fresh: Engine) -> None:
    day = FIRST_NIGHT + timedelta(days=3)
    Night(fresh, settings(400)).run(day, each=True)
    run = scalar(fresh, "SELECT id FROM runs WHERE day = :day", day=day)
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' ORDER BY 1"
    before = rows(fresh, tables)

    floor = measure_floor(fresh, url_of(fresh), run_id=run, day=day, processes=2)

    batches = rows(fresh, "SELECT user_lo, user_hi FROM batches WHERE run_id = :run", run=run)
    assert len(batches) > 2
    read = sum(
        sum(map(len, of_server(fresh, query)))
        for users in batches
        for query in frame_queries(users, day - timedelta(days=1), day)
    )
    written = sum(
        sum(map(len, of_server(fresh, f"SELECT {row_format.names} FROM {table} WHERE day = '{day}'")))
        - len(HEADER + TRAILER)
        for table, row_format in (("portfolio_days", PORTFOLIO_FORMAT), ("trades", TRADE_FORMAT))
    )
    assert (floor.bytes_read, floor.bytes_written) == (read, written)
    assert floor.seconds > 0
    assert rows(fresh, tables) == before


def test_a_floor_that_cannot_be_measured_is_an_error_and_no_wait(
    fresh: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    Night(fresh, settings(400)).run(FIRST_NIGHT)
    run = scalar(fresh, "SELECT id FROM runs WHERE day = :day", day=FIRST_NIGHT)
    with pytest.raises(NightshiftError, match="floor failed"):
        measure_floor(fresh, url_of(fresh) + "_gone", run_id=run, day=FIRST_NIGHT, processes=2)
    assert "does not exist" in capfd.readouterr().err


def url_of(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def of_server(engine: Engine, query: str) -> Any:
    with engine.connect() as connection:
        return copy_out(connection.connection.driver_connection, query)  # type: ignore[arg-type]
