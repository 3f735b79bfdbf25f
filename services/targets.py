"""From a scope to the simulations of a run: one condition on `simulations`, and one statement that writes them all.

By symbol, whoever has it among his assets is chosen, held or not: a signal sees the prices of assets of which nothing
is held, and whoever held or traded one has it among his own. So does a corrected close (services.corrections).

What an old run did, and for whom it failed, its summary says (services.retention_runs). Where that is no longer known,
nobody is chosen in its stead: it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from engine.strategies import strategy_by_name
from services.retention_days import DAILY_FROM_SQL, kept_sql
from services.scopes import Only, ReprocessScope


@dataclass(frozen=True, slots=True)
class Targets:
    """The condition on `simulations s`, and the values that it binds."""

    sql: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Found:
    """How many simulations a scope has, and when the first of them began; None of none."""

    simulations: int
    first_start: date | None


def find_targets(session: Session, scope: ReprocessScope, first_day: date | None, newest: date) -> Targets:
    """The condition of a scope.

    Raises:
        UsageError: a user, simulation, symbol, strategy or run is unknown, or whom that run was about is forgotten.
    """
    conditions = ["s.start_day <= :newest"]
    values: dict[str, object] = {"newest": newest, "first_day": first_day}
    if scope.users:
        values["users"] = _known(session, "users", "user", scope.users)
        conditions.append("s.user_id = ANY(:users)")
    if scope.simulations:
        values["simulations"] = _known(session, "simulations", "simulation", scope.simulations)
        conditions.append("s.id = ANY(:simulations)")
    if scope.symbols:
        values["assets"] = _assets(session, scope.symbols)
        conditions.append("s.asset_ids && CAST(:assets AS integer[])")
    if scope.strategy is not None:
        values["strategy"] = _strategy(scope.strategy)
        conditions.append("s.strategy = :strategy")
    if scope.quarantined:
        conditions.append(_QUARANTINED)
    if scope.run is not None:
        values |= {"of_run": scope.run, "of_day": _day_of_run(session, scope.run)}
        conditions.append(_IN_BATCHES.format(which="r.id = :of_run", status="done"))
        conditions.append("s.start_day <= :of_day")
    if scope.failed:
        _check_failures_known(session, first_day)
        conditions.append(_FAILED)
    return Targets(" AND ".join(conditions), values)


def count_targets(session: Session, targets: Targets) -> Found:
    """How many simulations there are."""
    row = session.execute(text(_FOUND.format(chosen=targets.sql)), dict(targets.values)).one()
    return Found(row.simulations, row.first_start)


def write_targets(session: Session, run: int, targets: Targets, only: Only, *, clear: bool, now: datetime) -> None:
    """Write the `run_simulations` of a run; with `clear`, take them out of quarantine, for whoever is in it alone.

    A whole user in quarantine is cleared as a whole, and all of his simulations are done again.

    Raises:
        UsageError: for whom a run failed is forgotten.
    """
    values = {"run": run, "now": now, **targets.values}
    both = only is Only.MISSING_AND_FAILED
    statements = [_CLEAR] if clear else [_MISSING] if only is Only.MISSING else [_EVERYTHING]
    if both:
        _check_failures_known(session, targets.values["first_day"])
        # Whoever is cleared is no longer in quarantine to the statements after it.
        statements = [_MISSING, _EVERYTHING.replace("{chosen}", "{chosen} AND " + _FAILED), _CLEAR]
    for statement in statements:
        session.execute(text(statement.format(chosen=targets.sql)), values)


def _known(session: Session, table: str, kind: str, ids: tuple[int, ...]) -> list[int]:
    unknown = session.execute(text(_UNKNOWN.format(table=table)), {"ids": list(ids)}).scalar_one_or_none()
    if unknown is not None:
        raise UsageError(f"there is no {kind} {unknown}")
    return sorted(set(ids))


def _assets(session: Session, symbols: tuple[str, ...]) -> list[int]:
    rows = session.execute(text("SELECT symbol, id FROM assets WHERE symbol = ANY(:symbols)"), {"symbols": [*symbols]})
    known = {row.symbol: row.id for row in rows}
    for symbol in symbols:
        if symbol not in known:
            raise UsageError(f"unknown symbol {symbol!r}: no asset is called so")
    return list(known.values())


def _strategy(name: str) -> int:
    try:
        return strategy_by_name(name).code
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None


def _day_of_run(session: Session, run: int) -> date:
    row = session.execute(_RUN, {"id": run}).one_or_none()
    if row is None:
        raise UsageError(f"there is no run {run}: nightshift runs lists them")
    if row.forgotten:
        raise UsageError(
            f"run {run} ended on {row.finished_at:%Y-%m-%d}, and whose days it did is no longer kept: name them by"
            " --user, --simulation, --symbol or --strategy, or take --all"
        )
    day: date = row.day
    return day


def _check_failures_known(session: Session, first_day: object) -> None:
    run = session.execute(_FORGOTTEN, {"first_day": first_day}).first()
    if run is not None:
        raise UsageError(
            f"for whom run {run.id}, of the day {run.day}, failed is no longer kept: begin after that day, name users"
            " by --user, or take --all --only missing for whoever lacks a day"
        )


_RUN = text(
    """
    SELECT day, finished_at, coalesce((summary->>'batches_done')::bigint > 0 AND summary->>'done' IS NULL, false)
        AS forgotten
    FROM runs WHERE id = :id
    """
)
_FORGOTTEN = text(
    """
    SELECT id, day FROM runs r
    WHERE day >= CAST(:first_day AS date) AND (summary->>'batches_failed')::bigint > 0
      AND coalesce(summary->>'failed', summary->>'failed_simulations') IS NULL
    ORDER BY day DESC LIMIT 1
    """
)
# In the order in which they were asked for.
_UNKNOWN = """
SELECT id FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS asked (id, number)
WHERE NOT EXISTS (SELECT FROM {table} t WHERE t.id = asked.id) ORDER BY number LIMIT 1
"""
_FOUND = "SELECT count(*) AS simulations, min(s.start_day) AS first_start FROM simulations s WHERE {chosen}"
_QUARANTINED = """EXISTS (
    SELECT FROM quarantine q
    WHERE q.cleared_at IS NULL AND q.user_id = s.user_id AND s.id = coalesce(q.simulation_id, s.id)
)"""
# Of a scoped run those that it names, of any other whoever is in the range; a multirange is searched by halves. Of an
# old run the batches are gone, and its summary has the same.
_IN_BATCHES = """(
    s.user_id <@ coalesce((
        SELECT range_agg(in_range.users) FROM (
            SELECT int8multirange(int8range(b.user_lo, b.user_hi)) AS users
            FROM batches b JOIN runs r ON r.id = b.run_id
            WHERE {which} AND b.status = '{status}' AND NOT EXISTS (SELECT FROM run_simulations k WHERE k.run_id = r.id)
            UNION ALL
            SELECT CAST(r.summary->>'{status}' AS int8multirange) FROM runs r WHERE {which}
        ) AS in_range
    ), int8multirange()) OR s.id IN (
        SELECT k.simulation_id FROM batches b JOIN runs r ON r.id = b.run_id
        JOIN run_simulations k ON k.run_id = b.run_id AND k.user_id >= b.user_lo AND k.user_id < b.user_hi
        WHERE {which} AND b.status = '{status}'
        UNION ALL
        SELECT CAST(kept.id AS bigint) FROM runs r
        CROSS JOIN LATERAL jsonb_array_elements_text(nullif(r.summary->'{status}_simulations', 'null')) AS kept (id)
        WHERE {which}
    ))"""
_FAILED = _IN_BATCHES.format(which="r.day >= CAST(:first_day AS date)", status="failed")

_INSERT = "INSERT INTO run_simulations (run_id, user_id, simulation_id, first_day)"
_EARLIER = (
    "ON CONFLICT (run_id, user_id, simulation_id) DO UPDATE"
    " SET first_day = least(run_simulations.first_day, excluded.first_day)"
)
_EVERYTHING = f"""
{_INSERT} SELECT :run, s.user_id, s.id, greatest(s.start_day, CAST(:first_day AS date))
FROM simulations s WHERE {{chosen}} {_EARLIER}
"""  # noqa: S608 (constants)
# Of days before `daily_from`, only the last of each month is there to be lacked.
_KEPT_SINCE = f"""(CASE WHEN greatest(s.start_day, CAST(:first_day AS date)) >= {DAILY_FROM_SQL}
    THEN CAST(:newest AS date) - greatest(s.start_day, CAST(:first_day AS date)) + 1
    ELSE CAST(:newest AS date) - {DAILY_FROM_SQL} + 1 + (
        extract(year FROM {DAILY_FROM_SQL}) * 12 + extract(month FROM {DAILY_FROM_SQL})
        - extract(year FROM greatest(s.start_day, CAST(:first_day AS date))) * 12
        - extract(month FROM greatest(s.start_day, CAST(:first_day AS date)))
    ) END)"""
_MISSING = f"""
{_INSERT} SELECT :run, lacking.user_id, lacking.id, (
    SELECT min(d.day)::date FROM generate_series(lacking.since, CAST(:newest AS date), INTERVAL '1 day') AS d (day)
    WHERE {kept_sql("d.day::date")} AND NOT EXISTS (
        SELECT FROM portfolio_days p
        WHERE p.day = d.day::date AND p.user_id = lacking.user_id AND p.simulation_id = lacking.id
    )
)
FROM (
    SELECT s.user_id, s.id, greatest(s.start_day, CAST(:first_day AS date)) AS since
    FROM simulations s LEFT JOIN portfolio_days p ON p.user_id = s.user_id AND p.simulation_id = s.id
        AND p.day BETWEEN CAST(:first_day AS date) AND CAST(:newest AS date) AND {kept_sql("p.day")}
    WHERE {{chosen}} AND NOT {_QUARANTINED}
    GROUP BY s.id
    HAVING count(p.day) < {_KEPT_SINCE}
) AS lacking
"""  # noqa: S608 (constants)
# A whole user in quarantine is left out of other work that is done again too: what it did for others, he still has to
# have. Without a first day, whoever has all of his days already is left alone.
_CLEAR = f"""
WITH cleared AS (
    UPDATE quarantine q SET cleared_at = :now
    WHERE q.cleared_at IS NULL AND EXISTS (
        SELECT FROM simulations s
        WHERE s.user_id = q.user_id AND s.id = coalesce(q.simulation_id, s.id) AND {{chosen}}
    )
    RETURNING user_id, simulation_id, day, run_id, created_at
)
{_INSERT}
SELECT :run, s.user_id, s.id,
    greatest(s.start_day, least(min(c.day), min(owed.day), CAST(:first_day AS date), CAST(:newest AS date)))
FROM cleared c JOIN simulations s ON s.user_id = c.user_id AND s.id = coalesce(c.simulation_id, s.id)
LEFT JOIN LATERAL (
    SELECT min(k.first_day) AS day
    FROM runs r JOIN run_simulations k ON k.run_id = r.id AND k.user_id = s.user_id AND k.simulation_id = s.id
    WHERE c.simulation_id IS NULL AND jsonb_exists_any(r.scope, ARRAY['closes', 'from'])
      AND (r.finished_at IS NULL OR r.finished_at >= c.created_at) AND r.id <> :run
) AS owed ON true
WHERE s.start_day <= :newest AND (CAST(:first_day AS date) IS NOT NULL OR owed.day IS NOT NULL OR NOT EXISTS (
    SELECT FROM portfolio_days p WHERE p.day = :newest AND p.user_id = s.user_id AND p.simulation_id = s.id
))
GROUP BY s.user_id, s.id {_EARLIER}
"""  # noqa: S608 (constants)
