"""All tables, in one place to import from."""

from __future__ import annotations

from models.base import Base
from models.tables_ledger import LeaderboardEntry, PortfolioDay, Simulation, Strategy, Trade, User
from models.tables_prices import Asset, Close, PriceCorrection, PriceTick
from models.tables_runs import (
    BATCH_STATUSES,
    BATCH_UNFINISHED,
    RUN_KINDS,
    RUN_STATUSES,
    RUN_UNFINISHED,
    Batch,
    BeatTick,
    OutboxMessage,
    Quarantine,
    Run,
)

__all__ = [
    "BATCH_STATUSES",
    "BATCH_UNFINISHED",
    "RUN_KINDS",
    "RUN_STATUSES",
    "RUN_UNFINISHED",
    "Asset",
    "Base",
    "Batch",
    "BeatTick",
    "Close",
    "LeaderboardEntry",
    "OutboxMessage",
    "PortfolioDay",
    "PriceCorrection",
    "PriceTick",
    "Quarantine",
    "Run",
    "Simulation",
    "Strategy",
    "Trade",
    "User",
]
