"""The messages: which tasks there are, on which queue, and the only arguments that they may carry.

Whatever does not fit is refused at the door (workers/door.py), before it reaches a task: a task's arguments are true.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter

from core.queues import Queue
from schedules.beat import BACK_UP, DELIVER, ENSURE_PARTITIONS, MAINTAIN, TICK
from services.requests import ReprocessRequest
from services.scopes import Id, Only, ReprocessScope
from services.users import NewUser

SIMULATE = "simulations.advance_batch"
REPROCESS = "reprocess.advance_batch"
FETCH = "prices.fetch_chunk"
MARK = "prices.mark_live"
REGISTER = "users.register"
REQUEST = "reprocess.request"


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


_Ids = Annotated[tuple[Id, ...], Field(strict=False, max_length=1000)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
# In JSON a day is a text, which strict mode would refuse; without it, numbers would be days too.
_DAY_TEXT = StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")
_Day = Annotated[date, Field(strict=False), BeforeValidator(TypeAdapter(Annotated[str, _DAY_TEXT]).validate_python)]


class RequestArguments(Arguments):
    """Work to be done again, as `services.reprocessing.request` takes it; `from` is its first day."""

    users: _Ids = ()
    simulations: _Ids = ()
    symbols: Annotated[tuple[_Name, ...], Field(strict=False, max_length=100)] = ()
    strategy: _Name | None = None
    quarantined: bool = False
    run: Id | None = None
    failed: bool = False
    everything: bool = False
    first_day: Annotated[_Day | None, Field(alias="from")] = None
    only: Annotated[Only, Field(strict=False)] = Only.EVERYTHING
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    requested_by: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    key: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None

    def request(self) -> ReprocessRequest:
        """The same as the service takes it."""
        fields = ReprocessScope.model_fields
        scope = ReprocessScope(**{name: value for name, value in self if name in fields})
        return ReprocessRequest(scope, self.first_day, self.only, self.reason, self.requested_by, self.key)


class RegisterArguments(NewUser, Arguments):
    """A user to be made: the only work that comes from elsewhere, so all of it is in the message."""


@dataclass(frozen=True, slots=True)
class MessageType:
    """Where a task's messages go and what they carry."""

    queue: Queue
    arguments: type[Arguments]


MESSAGES: dict[str, MessageType] = {
    TICK: MessageType(Queue.CONTROL, Arguments),
    SIMULATE: MessageType(Queue.SIMULATIONS, BatchArguments),
    REPROCESS: MessageType(Queue.REPROCESS, BatchArguments),
    REQUEST: MessageType(Queue.CONTROL, RequestArguments),
    FETCH: MessageType(Queue.PRICES, ChunkArguments),
    MARK: MessageType(Queue.PRICES, MarkArguments),
    REGISTER: MessageType(Queue.CONTROL, RegisterArguments),
    DELIVER: MessageType(Queue.NOTIFICATIONS, Arguments),
    ENSURE_PARTITIONS: MessageType(Queue.MAINTENANCE, Arguments),
    MAINTAIN: MessageType(Queue.MAINTENANCE, Arguments),
    BACK_UP: MessageType(Queue.MAINTENANCE, Arguments),
}
