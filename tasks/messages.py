"""The messages: which tasks there are, on which queue, and the only arguments that they may carry.

Whatever does not fit is refused at the door (workers/door.py), before it reaches a task: a task's arguments are true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from core.queues import Queue
from schedules.beat import ENSURE_PARTITIONS, TICK

SIMULATE = "simulations.advance_batch"
REPROCESS = "reprocess.advance_batch"


class Arguments(BaseModel):
    """A task's keyword arguments; positional ones are never sent. This one: none."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class BatchArguments(Arguments):
    """A batch to be worked on; everything else about it is in the database."""

    batch_id: Annotated[int, Field(gt=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class MessageType:
    """Where a task's messages go and what they carry."""

    queue: Queue
    arguments: type[Arguments]


MESSAGES: dict[str, MessageType] = {
    TICK: MessageType(Queue.CONTROL, Arguments),
    SIMULATE: MessageType(Queue.SIMULATIONS, BatchArguments),
    REPROCESS: MessageType(Queue.REPROCESS, BatchArguments),
    ENSURE_PARTITIONS: MessageType(Queue.MAINTENANCE, Arguments),
}
