"""Simulations one by one: created through the door where everything is checked, and described for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.clock import EPOCH
from core.errors import UsageError
from engine.frame import MAX_SLOTS
from engine.strategies import strategy_by_name
from engine.ticks import PPM
from models.tables import Asset, Simulation, User
from models.ticks import to_ticks
from models.views import simulation_settings


def create_simulation(
    session: Session,
    *,
    user_id: int,
    strategy: str,
    start_day: date,
    initial_cash: Decimal,
    weights_ppm: Mapping[str, int],
    parameters: Mapping[str, Any],
) -> int:
    """Insert a simulation that no night will find malformed; its id.

    Args:
        session: flushed, not committed.
        user_id: its owner.
        strategy: a name of the registry.
        start_day: its first day, 2000-01-01 or later.
        initial_cash: units.
        weights_ppm: the symbols of its slots, in order, with their weights, together at most 1,000,000.
        parameters: of the strategy's model.

    Raises:
        UsageError: anything of it is unknown, malformed or out of range.
    """
    if session.get(User, user_id) is None:
        raise UsageError(f"there is no user {user_id}")
    if start_day < EPOCH:
        raise UsageError(f"start day {start_day}: simulations begin on {EPOCH} or later")
    try:
        if to_ticks(initial_cash) < 0:
            raise UsageError(f"initial cash {initial_cash} is negative")
    except ValueError as error:
        raise UsageError(f"initial cash: {error}") from None
    assets = _assets(session, weights_ppm)
    code, params = _encode(strategy, parameters)
    simulation = Simulation(
        user_id=user_id,
        strategy=code,
        start_day=start_day,
        initial_cash=initial_cash,
        params=params,
        asset_ids=[assets[symbol] for symbol in weights_ppm],
        weights_ppm=list(weights_ppm.values()),
    )
    session.add(simulation)
    session.flush()
    return simulation.id


def _encode(name: str, parameters: Mapping[str, Any]) -> tuple[int, list[int]]:
    try:
        strategy = strategy_by_name(name)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    try:
        return strategy.code, strategy.Parameters.model_validate(dict(parameters)).encode()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}{': ' + where if where else ''}: {first['msg']}") from None


def _assets(session: Session, weights_ppm: Mapping[str, int]) -> dict[str, int]:
    if not 1 <= len(weights_ppm) <= MAX_SLOTS:
        raise UsageError(f"a simulation has 1 to {MAX_SLOTS} assets, not {len(weights_ppm)}")
    if min(weights_ppm.values()) < 0 or sum(weights_ppm.values()) > PPM:
        raise UsageError(f"weights are 0 or more and sum to at most {PPM:,} ppm")
    rows = session.execute(select(Asset.symbol, Asset.id).where(Asset.symbol.in_(weights_ppm)))
    known = {symbol: asset_id for symbol, asset_id in rows}  # noqa: C416 - a Row is no tuple to the type checker
    missing = [symbol for symbol in weights_ppm if symbol not in known]
    if missing:
        raise UsageError(f"unknown symbol {missing[0]}: import its prices first")
    return known


def simulation_view(session: Session, simulation_id: int) -> dict[str, Any]:
    """The simulation's row of the view `simulation_settings`; UsageError if there is no such simulation."""
    wanted = select(simulation_settings).where(simulation_settings.c.simulation_id == simulation_id)
    # PostgreSQL would refuse a number that no id can be, instead of finding nothing.
    row = session.execute(wanted).one_or_none() if simulation_id < 2**63 else None
    if row is None:
        raise UsageError(f"there is no simulation {simulation_id}")
    return dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping


def first_start(session: Session) -> date | None:
    """The day on which the first simulation begins; None without simulations."""
    day = session.scalar(text("SELECT min(start_day) FROM simulations"))
    return day if isinstance(day, date) else None
