"""JSON whose numbers stay the text that was written: 0.1 is "0.1", never the binary float beside it.

Every answer that is no JSON ends as MalformedAnswerError: cut off, a page of HTML, NaN, one name twice in an object,
nested a thousand levels deep.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from price_sources.closes import shown
from price_sources.source import MalformedAnswerError


def parse(body: bytes) -> Any:
    """The value of `body`: dict, list, bool, None, and `str` for strings and numbers alike.

    Raises:
        MalformedAnswerError: it is no JSON; the message says what it begins with.
    """
    try:
        return _decoder.decode(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        begins = shown(body[:60].decode("utf-8", "replace"))
        raise MalformedAnswerError(f"no JSON ({reason}), it begins with {begins}") from None


def parse_list(body: bytes) -> list[Any]:
    """The list that `body` is.

    Raises:
        MalformedAnswerError: it is something else.
    """
    value = parse(body)
    if not isinstance(value, list):
        raise MalformedAnswerError(f"a list was promised, not {_kind(value)}")
    return value


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that `body` is.

    Raises:
        MalformedAnswerError: it is something else.
    """
    value = parse(body)
    if not isinstance(value, dict):
        raise MalformedAnswerError(f"an object was promised, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(shown(name) for name in list(value)[:3]) or 'nothing in it'}"
    return "a list" if isinstance(value, list) else shown(str(value))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("one name twice in an object")
    return members


_decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_constant, object_pairs_hook=_object)
