"""The messages: which tasks there are, on which queue, and the only arguments that they may carry.

Whatever does not fit is refused at the door (workers/door.py), before it reaches a task: a task's arguments are true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from core.queues import Queue
from schedules.beat import ENSURE_PARTITIONS, TICK

SIMULATE = "simulations.advance_batch"
REPROCESS = "reprocess.advance_batch"
FETCH = "prices.fetch_chunk"
MARK = "prices.mark_live"


class Arguments(BaseModel):
    """A task's keyword arguments; positional ones are never sent. This one: none."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class BatchArguments(Arguments):
    """A batch to be worked on; everything else about it is in the database."""

    batch_id: Annotated[int, Field(gt=0, lt=2**63)]


class ChunkArguments(Arguments):
    """A chunk of prices to be fetched; everything else about it is in the database."""

    chunk_id: Annotated[int, Field(gt=0, lt=2**63)]


class MarkArguments(Arguments):
    """The beginning of the window whose prices have come."""

    # In JSON a moment is a text, which strict mode would refuse.
    window: Annotated[AwareDatetime, Field(strict=False)]


@dataclass(frozen=True, slots=True)
class MessageType:
    """Where a task's messages go and what they carry."""

    queue: Queue
    arguments: type[Arguments]


MESSAGES: dict[str, MessageType] = {
    TICK: MessageType(Queue.CONTROL, Arguments),
    SIMULATE: MessageType(Queue.SIMULATIONS, BatchArguments),
    REPROCESS: MessageType(Queue.REPROCESS, BatchArguments),
    FETCH: MessageType(Queue.PRICES, ChunkArguments),
    MARK: MessageType(Queue.PRICES, MarkArguments),
    ENSURE_PARTITIONS: MessageType(Queue.MAINTENANCE, Arguments),
}
