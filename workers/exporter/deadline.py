"""Several questions at once, each with the same deadline: one server that hangs must not make the others look absent.

A database that is stopped in the middle of an answer keeps its connection open and says nothing, for ever. So each
question is asked in a thread, and one that has no answer in time is left to itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What one question brought: a value, or the error; and how many seconds it took."""

    name: str
    value: T | None
    error: Exception | None
    seconds: float


def ask_all(questions: Mapping[str, Callable[[], T]], *, seconds: float) -> dict[str, Answer[T]]:
    """The answers that came in time, in the order of the questions; who is late has a TimeoutError."""
    answers: SimpleQueue[Answer[T]] = SimpleQueue()
    for name, question in questions.items():
        # A daemon: one that hangs must not keep the process from ending.
        threading.Thread(target=_ask, args=(name, question, answers), name=f"ask {name}", daemon=True).start()
    found: dict[str, Answer[T]] = {}
    deadline = monotonic() + seconds
    while len(found) < len(questions):
        try:
            answer = answers.get(timeout=max(deadline - monotonic(), 0))
        except Empty:
            break
        found[answer.name] = answer
    late = TimeoutError(f"no answer within {seconds:g} s")
    return {name: found.get(name, Answer(name, None, late, seconds)) for name in questions}


def _ask(name: str, question: Callable[[], T], answers: SimpleQueue[Answer[T]]) -> None:
    started = perf_counter()
    try:
        value = question()
    except Exception as error:  # noqa: BLE001 - handed over to who asked, who decides
        answers.put(Answer(name, None, error, perf_counter() - started))
    else:
        answers.put(Answer(name, value, None, perf_counter() - started))
