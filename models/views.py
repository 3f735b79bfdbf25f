"""The views, as tables to select from; their SQL is in the migrations. Amounts in units, as NUMERIC(20,8).

But for `kept_days`, from which the others of portfolios are made: its columns are those of `portfolio_days`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, Double, Integer, MetaData, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

# Apart from the tables' metadata: create_all and autogenerate know tables only.
VIEWS = MetaData()


def _view(name: str, **columns: type[TypeEngine[Any]] | TypeEngine[Any]) -> Table:
    return Table(name, VIEWS, *(Column(column, kind) for column, kind in columns.items()))


def _amount() -> Numeric[Any]:
    return Numeric(20, 8)


simulation_settings = _view(
    "simulation_settings",
    simulation_id=BigInteger,
    user_id=BigInteger,
    user_name=Text,
    strategy=Text,
    start_day=Date,
    initial_cash=_amount(),
    parameters=JSONB,
    slots=JSONB,
    created_at=DateTime(timezone=True),
)


kept_days = _view(
    "kept_days",
    day=Date,
    nights=Integer,
    user_id=BigInteger,
    simulation_id=BigInteger,
    cash=BigInteger,
    equity=BigInteger,
    peak=BigInteger,
    return_mean=Double,
    return_m2=Double,
    max_drawdown=Double,
    asset_ids=ARRAY(Integer),
    quantities=ARRAY(BigInteger),
    cost_basis=ARRAY(BigInteger),
    state=ARRAY(BigInteger),
)


def _portfolio(name: str) -> Table:
    return _view(
        name,
        day=Date,
        user_id=BigInteger,
        user_name=Text,
        simulation_id=BigInteger,
        strategy=Text,
        nights=Integer,
        initial_cash=_amount(),
        cash=_amount(),
        equity=_amount(),
        peak=_amount(),
        total_return=Double,
        volatility=Double,
        sharpe=Double,
        max_drawdown=Double,
        positions=JSONB,
    )


portfolio_history = _portfolio("portfolio_history")
portfolio_latest = _portfolio("portfolio_latest")

trade_history = _view(
    "trade_history",
    day=Date,
    user_id=BigInteger,
    user_name=Text,
    simulation_id=BigInteger,
    side=Text,
    asset_id=Integer,
    symbol=Text,
    quantity=_amount(),
    price=_amount(),
    notional=_amount(),
    fee=_amount(),
    realised=_amount(),
)

leaderboard = _view(
    "leaderboard",
    day=Date,
    rank=Integer,
    user_id=BigInteger,
    user_name=Text,
    simulation_id=BigInteger,
    strategy=Text,
    equity=_amount(),
    total_return=Double,
)

user_days = _view(
    "user_days",
    day=Date,
    user_id=BigInteger,
    user_name=Text,
    trades=BigInteger,
    sales=BigInteger,
    volume=_amount(),
    fees=_amount(),
    realised=_amount(),
    win_rate=_amount(),
)
