"""Queue `prices`: what is fetched from sources, and what is marked to it."""

from __future__ import annotations

from datetime import datetime

from celery import shared_task

from services.live_marks import mark_live as mark
from tasks.context import process_context
from tasks.messages import FETCH, MARK


@shared_task(name=FETCH)
def fetch_chunk(chunk_id: int) -> None:
    """Fetch the prices of one chunk."""
    process_context().prices().fetch(chunk_id)


@shared_task(name=MARK)
def mark_live(window: str) -> None:
    """Mark the leaderboard and the live users to the prices of a window."""
    here = process_context()
    mark(here.engine, here.cache, window=datetime.fromisoformat(window), now=here.clock())
