"""What the services know of messages: that they can be sent. Celery stays in workers/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.queues import Queue


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """A wake-up call for one batch. `label` is for people: what Flower shows as the task's arguments."""

    batch_id: int
    queue: Queue
    label: str


class Publisher(Protocol):
    """Sends messages; raises core.errors.PublishError where delivery is unknown."""

    def __call__(self, messages: Sequence[BatchMessage], /) -> None:
        """Send them all."""
