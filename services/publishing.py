"""What the services know of messages: that they can be sent. Celery stays in workers/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.queues import Queue


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """A wake-up call for one batch. `label` is for people: what Flower shows as the task's arguments."""

    batch_id: int
    queue: Queue
    label: str


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A wake-up call for one chunk of prices to be fetched."""

    chunk_id: int
    label: str


@dataclass(frozen=True, slots=True)
class MarkMessage:
    """The window that begins at `window` has its prices: what is live is to be marked to them."""

    window: datetime

    @property
    def label(self) -> str:
        """For people."""
        return f"window {self.window:%Y-%m-%d %H:%M}"


Message = BatchMessage | ChunkMessage | MarkMessage


class Publisher(Protocol):
    """Sends messages; raises core.errors.PublishError where delivery is unknown."""

    def __call__(self, messages: Sequence[Message], /) -> None:
        """Send them all."""
