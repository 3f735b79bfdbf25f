"""What only a worker process knows of its batches: how long the commit took, and which messages were too many.

Counted in Redis, so that all processes of all pools count together and a count outlives its process. A Redis that is
away costs these counts, never the work.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.batches import BatchOutcome, Outcome
from services.cache_server import CacheServer
from services.queue_state import KEY_PREFIX, Client

_KEY = f"{KEY_PREFIX}work"
_DUPLICATES, _COMMITS, _COMMIT_SECONDS = "duplicates", "commits", "commit_seconds"
_NEEDLESS = (Outcome.TAKEN, Outcome.NOT_DUE)


@dataclass(frozen=True, slots=True)
class WorkTotals:
    """`duplicates`: messages that found nothing to do."""

    duplicates: int
    commits: int
    commit_seconds: float


class WorkCounts:
    """Counts; made once a process after its fork. `redis_url`: the broker's."""

    def __init__(self, redis_url: str) -> None:
        self._server = CacheServer(redis_url)

    def batch(self, outcome: BatchOutcome) -> None:
        """Count one delivery of a batch's message."""
        if outcome.outcome in _NEEDLESS:
            self._server.softly("counting a duplicate", lambda client: client.hincrby(_KEY, _DUPLICATES, 1))
        elif outcome.commit_seconds is not None:
            seconds = outcome.commit_seconds
            self._server.softly("counting a commit", lambda client: _commit(client, seconds))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()


def work_totals(client: Client) -> WorkTotals:
    """The counts of all processes; 0 before the first."""
    duplicates, commits, seconds = client.hmget(_KEY, [_DUPLICATES, _COMMITS, _COMMIT_SECONDS])
    return WorkTotals(int(duplicates or 0), int(commits or 0), float(seconds or 0))


def _commit(client: Client, seconds: float) -> None:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.hincrby(_KEY, _COMMITS, 1)
        pipeline.hincrbyfloat(_KEY, _COMMIT_SECONDS, seconds)
        pipeline.execute()
