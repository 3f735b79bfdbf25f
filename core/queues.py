"""The queues, in the order in which a worker that serves several of them drains them."""

from __future__ import annotations

from enum import StrEnum


class Queue(StrEnum):
    """A Celery queue. Nightly work has its own, so that ad-hoc work can never stand before it."""

    CONTROL = "control"
    SIMULATIONS = "simulations"
    PRICES = "prices"
    REPROCESS = "reprocess"
    NOTIFICATIONS = "notifications"
    MAINTENANCE = "maintenance"
