"""Many rows, by SQL: what the pages and the exporter are asked for when the system is large and old."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Engine, text

from models.partitions import ensure_day_partitions, ensure_month_partitions

LAST_DAY = date(2022, 12, 28)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. `days` are of `few` users each, and the last `full` of them of all."""

    users: int
    runs: int
    batches: int
    days: int
    few: int
    full: int


def paths(scale: Scale) -> list[str]:
    """Every kind of page, and of each list its beginning and its middle."""
    run, middle = f"/runs/{scale.runs}", LAST_DAY - timedelta(days=min(38, scale.days // 2))
    earlier = f"{middle}T00:00:00Z"
    return [
        "/", f"/?until={LAST_DAY - timedelta(days=90)}", "/night/live", "/runs", f"/runs?before={scale.runs * 3 // 4}",
        run, f"{run}/live", f"{run}?status=queued&after={scale.batches // 2}", f"/batches/{scale.batches * 5}",
        "/quarantine", f"/quarantine?before={quarantined(scale) * 3 // 5}", "/users/7", "/simulations/7",
        f"/simulations/7?before={middle}", f"/simulations/{scale.users * 3 // 4}", "/prices",
        f"/prices?source=binance&before={earlier}&held_before=500", "/reprocess", "/audit", "/audit?before=900",
    ]  # fmt: skip


def quarantined(scale: Scale) -> int:
    """How many simulations are in quarantine, or were."""
    return min(scale.users, max(scale.users // 50, 5000))


def fill_scale(engine: Engine, scale: Scale, now: datetime) -> None:
    """Users with a simulation each, nights with batches, days, trades, quarantine, windows, an audit trail."""
    first = LAST_DAY - timedelta(days=scale.days - 1)
    days = [first + timedelta(days=number) for number in range(scale.days)]
    values = {
        "users": scale.users, "runs": scale.runs, "batches": scale.batches, "first": first, "last": LAST_DAY,
        "few": scale.few, "full_from": LAST_DAY - timedelta(days=scale.full - 1), "now": now,
        "quarantined": quarantined(scale),
    }  # fmt: skip
    with engine.begin() as connection:
        ensure_day_partitions(connection, days)
        ensure_month_partitions(connection, "trades", days)
        for statement in _ROWS.split(";"):
            connection.execute(text(statement), values)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # The visibility map too: without it no index is enough for a count.
        connection.execute(text("VACUUM (ANALYZE)"))


_ROWS = """
    INSERT INTO assets (symbol) SELECT 'A' || n FROM generate_series(1, 20) AS n;
    INSERT INTO closes (day, asset_id, close, source)
        SELECT :last - d, a, 10000000000 + d, 'test' FROM generate_series(0, 400) AS d, generate_series(1, 20) AS a;
    INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, :users) AS n;
    INSERT INTO simulations (user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)
        SELECT id, 1, :first, 1000000000000, '{0}', '{1,2,3}', '{300000,300000,300000}' FROM users;
    INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users, users, started_at, finished_at)
        SELECT CASE WHEN n % 5 = 0 THEN 'reprocess' ELSE 'nightly' END, :last - n, :last - n,
            CASE WHEN n = 1 THEN 'running' ELSE 'done' END, '{}', 'beat', 10000, :users,
            CAST(:now AS timestamptz) - n * interval '1 day', CASE WHEN n > 1 THEN CAST(:now AS timestamptz) END
        FROM generate_series(:runs, 1, -1) AS n;
    INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status, attempts, publications, queued_at, started_at,
            finished_at, worker, timings)
        SELECT r.id, s, 1 + s * 100, 101 + s * 100, 100,
            CASE WHEN r.status = 'done' OR s < 40 THEN 'done' ELSE 'queued' END,
            1, 1, CAST(:now AS timestamptz) - interval '1 second', :now,
            CAST(:now AS timestamptz) + interval '1 second', 'simulations@machine-' || s % 4,
            jsonb_build_object('read', 0.1, 'market', 0.01, 'compute', 0.2, 'encode', 0.05, 'write', 0.3)
        FROM runs r, generate_series(0, :batches - 1) AS s;
    INSERT INTO portfolio_days (day, nights, user_id, simulation_id, cash, equity, peak, return_mean, return_m2,
            max_drawdown, asset_ids, quantities, cost_basis, state)
        SELECT d::date, 10, s.user_id, s.id, 100000000000, 1000000000000 + s.id % 1000 * 100000000, 1100000000000,
            0.001, 0.01, 0.1, '{1,2,3}', '{100000000,200000000,300000000}', '{1,2,3}', '{}'
        FROM generate_series(CAST(:first AS date), :last, '1 day') AS d
            JOIN simulations s ON s.id <= :few OR d >= :full_from;
    INSERT INTO trades (day, asset_id, user_id, simulation_id, quantity, price, notional, fee, realised)
        SELECT d::date, 1, s.user_id, s.id, 100000000, 10000000000, 10000000000, 1000000, 0
        FROM generate_series(CAST(:first AS date), :last, '1 day') AS d
            JOIN simulations s ON s.id <= :few OR d >= :full_from;
    INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, cleared_at)
        SELECT id, id, :last, 'NO_CLOSE', 'A1: none', CASE WHEN id % 20 > 0 THEN CAST(:now AS timestamptz) END
        FROM generate_series(1, :quarantined) AS id;
    INSERT INTO price_windows (source, starts_at, status, ticks)
        SELECT 'binance', CAST(:now AS timestamptz) - n * interval '5 minutes', 'done', 400
        FROM generate_series(0, 50000) AS n;
    INSERT INTO held_prices (asset_id, source, kind, ts, price, reference, jump_ppm, band_ppm, status)
        SELECT 1, 'binance', 'tick', CAST(:now AS timestamptz) - n * interval '5 minutes', 2, 1, 1, 1,
            CASE WHEN n % 100 = 0 THEN 'held' ELSE 'reverted' END FROM generate_series(1, 10000) AS n;
    INSERT INTO audit_trail (at, who, address, action, result)
        SELECT CAST(:now AS timestamptz), 'ada', '10.0.0.1', 'login', 'done' FROM generate_series(1, 20000)
"""
