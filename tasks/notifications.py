"""Queue `notifications`: what the outbox holds, to whom it concerns."""

from __future__ import annotations

from celery import shared_task

from schedules.beat import DELIVER
from tasks.context import process_context


@shared_task(name=DELIVER)
def deliver() -> None:
    """Send what is due."""
    process_context().notifier().deliver()
