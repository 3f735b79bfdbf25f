"""All tables, in one place to import from."""

from __future__ import annotations

from models.base import Base
from models.tables_access import RESULTS, ROLES, AuditEntry, Operator, WebSession
from models.tables_backups import BACKUP_STATES, Backup
from models.tables_ingestion import (
    CHUNK_KINDS,
    CHUNK_STATUSES,
    CHUNK_UNFINISHED,
    HELD_STATUSES,
    WINDOW_STATUSES,
    Alert,
    AssetSource,
    HeldPrice,
    LatestPrice,
    NightWait,
    PriceChunk,
    PriceWindow,
)
from models.tables_ledger import LeaderboardEntry, PortfolioDay, Simulation, Strategy, Trade, User
from models.tables_notifications import OutboxMessage, Registration
from models.tables_prices import CLOSE_KINDS, Asset, Close, ClosesVersion, PriceCorrection, PriceTick
from models.tables_retention import ArchivedDay, BatchTotal, PartitionDrop, Retention
from models.tables_runs import (
    BATCH_STATUSES,
    BATCH_UNFINISHED,
    RUN_KINDS,
    RUN_STATUSES,
    RUN_UNFINISHED,
    Batch,
    BeatTick,
    PortfolioRevision,
    Quarantine,
    Run,
    RunSimulation,
)

__all__ = [
    "BACKUP_STATES",
    "BATCH_STATUSES",
    "BATCH_UNFINISHED",
    "CHUNK_KINDS",
    "CHUNK_STATUSES",
    "CHUNK_UNFINISHED",
    "CLOSE_KINDS",
    "HELD_STATUSES",
    "RESULTS",
    "ROLES",
    "RUN_KINDS",
    "RUN_STATUSES",
    "RUN_UNFINISHED",
    "WINDOW_STATUSES",
    "Alert",
    "ArchivedDay",
    "Asset",
    "AssetSource",
    "AuditEntry",
    "Backup",
    "Base",
    "Batch",
    "BatchTotal",
    "BeatTick",
    "Close",
    "ClosesVersion",
    "HeldPrice",
    "LatestPrice",
    "LeaderboardEntry",
    "NightWait",
    "Operator",
    "OutboxMessage",
    "PartitionDrop",
    "PortfolioDay",
    "PortfolioRevision",
    "PriceChunk",
    "PriceCorrection",
    "PriceTick",
    "PriceWindow",
    "Quarantine",
    "Registration",
    "Retention",
    "Run",
    "RunSimulation",
    "Simulation",
    "Strategy",
    "Trade",
    "User",
    "WebSession",
]
