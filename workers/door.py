"""The door: what lies in a queue is one of our messages, or it is refused before anything of it is believed.

Redis lets everybody put anything into a list. Celery assumes that what it finds there is a message: plain text, a
message without headers or a wrong type would end the worker's event loop. So each entry of our queues is checked as
bytes, and what is refused is logged, counted and dropped. The checks ask for what we send and allow nothing else: no
other task, no positional arguments, no time of arrival, no callbacks of the sender's choice.
"""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tasks.messages import MESSAGES


class Refusal(StrEnum):
    """Why a message is dropped; the label of its counter."""

    OVERSIZED = "oversized"
    NOT_JSON = "not_json"
    MALFORMED = "malformed"
    CONTENT_TYPE = "content_type"
    UNKNOWN_TASK = "unknown_task"
    ARGUMENTS = "arguments"


class Refused(NamedTuple):
    """Why, and where in the message: names of fields and numbers, nothing of its content."""

    reason: Refusal
    detail: str


_Seconds = Annotated[float, Field(gt=0, le=86_400)] | None


class _Delivery(BaseModel):
    model_config = ConfigDict(strict=True)
    exchange: str
    routing_key: str


class _Properties(BaseModel):
    model_config = ConfigDict(strict=True)
    delivery_tag: str
    delivery_info: _Delivery
    body_encoding: Literal["base64"]
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None


class Envelope(BaseModel):
    """What kombu needs of a message, of whatever kind."""

    model_config = ConfigDict(strict=True)
    body: str
    properties: _Properties
    headers: dict[str, Any]
    content_type: str | None = Field(alias="content-type")
    content_encoding: str | None = Field(alias="content-encoding")


class _Headers(BaseModel):
    """What Celery's protocol 2 says about a task, as far as a wrong value could hurt."""

    model_config = ConfigDict(strict=True)
    task: str
    id: str
    root_id: str | None = None
    parent_id: str | None = None
    group: None = None
    group_index: None = None
    chord: None = None
    chain: None = None
    shadow: None = None
    meth: None = None
    compression: None = None
    eta: None = None
    # In JSON a moment is a text, which strict mode would refuse.
    expires: AwareDatetime | None = Field(default=None, strict=False)
    retries: Literal[0] = 0
    # Celery sends its own settings along: hard and soft, in seconds.
    timelimit: tuple[_Seconds, _Seconds] = Field(default=(None, None), strict=False)
    argsrepr: str = ""
    kwargsrepr: str = ""
    ignore_result: bool | None = None
    replaced_task_nesting: int = 0
    stamped_headers: None = None
    stamps: dict[str, Any] = Field(default_factory=dict, max_length=0)


class _Embedded(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_CALL = TypeAdapter(tuple[list[Any], dict[str, Any], _Embedded])


def refusal(item: bytes, max_bytes: int) -> Refused | None:
    """Why the entry `item` of a queue is to be dropped; None if it is one of our messages."""
    if len(item) > max_bytes:
        return Refused(Refusal.OVERSIZED, f"{len(item)} bytes, {max_bytes} are allowed")
    try:
        raw = json.loads(item.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Refused(Refusal.NOT_JSON, type(error).__name__)
    return envelope_refusal(raw) or _task_refusal(Envelope.model_validate(raw))


def envelope_refusal(raw: object) -> Refused | None:
    """MALFORMED unless `raw` is a message that kombu can take apart."""
    try:
        Envelope.model_validate(raw)
    except ValidationError as error:
        return Refused(Refusal.MALFORMED, _where(error))
    return None


def _task_refusal(envelope: Envelope) -> Refused | None:
    if envelope.content_type != "application/json" or envelope.content_encoding != "utf-8":
        return Refused(Refusal.CONTENT_TYPE, "application/json in utf-8 is allowed")
    try:
        headers = _Headers.model_validate(envelope.headers)
        body = json.loads(base64.b64decode(envelope.body, validate=True).decode("utf-8"))
        positional, keywords, _ = _CALL.validate_python(tuple(body) if isinstance(body, list) else body)
    except ValidationError as error:
        return Refused(Refusal.MALFORMED, _where(error))
    except (ValueError, RecursionError) as error:  # base64, text and JSON
        return Refused(Refusal.MALFORMED, f"body: {type(error).__name__}")
    return _arguments_refusal(headers.task, positional, keywords)


def _arguments_refusal(task: str, positional: list[Any], keywords: dict[str, Any]) -> Refused | None:
    message = MESSAGES.get(task)
    if message is None:
        return Refused(Refusal.UNKNOWN_TASK, f"task {task[:100]!r}")
    if positional:
        return Refused(Refusal.ARGUMENTS, "positional arguments")
    try:
        message.arguments.model_validate(keywords)
    except ValidationError as error:
        return Refused(Refusal.ARGUMENTS, _where(error))
    return None


def _where(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['type']}"[:200]
