"""The quarantine: simulations that the nights leave out until somebody has looked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.advance import SimulationFault
from services.locks import Connection

_INSERT = """
INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, run_id, batch_id, created_at)
SELECT %(user)s, %(simulation)s, %(day)s, %(reason)s,
       coalesce((SELECT symbol || ': ' FROM assets WHERE id = %(asset)s), '') || %(detail)s, %(run)s, %(batch)s, %(now)s
ON CONFLICT (user_id, simulation_id) WHERE cleared_at IS NULL DO NOTHING
"""


def quarantine(
    connection: Connection, faults: Sequence[SimulationFault], *, run_id: int, batch_id: int, now: datetime
) -> None:
    """Enter the faults, in the transaction that leaves their simulations out."""
    if not faults:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            _INSERT,
            [
                {
                    "user": fault.user_id,
                    "simulation": fault.simulation_id,
                    "day": fault.day,
                    "reason": fault.reason,
                    "asset": fault.asset_id,
                    "detail": fault.detail,
                    "run": run_id,
                    "batch": batch_id,
                    "now": now,
                }
                for fault in faults
            ],
        )
