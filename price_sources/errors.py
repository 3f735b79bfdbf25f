"""What may come of asking a source. Each message is one line, and no key or query is in it."""

from __future__ import annotations

from core.errors import NightshiftError


class SourceUnavailableError(NightshiftError):
    """A source gave no usable answer within the time; it may later.

    Attributes:
        source: its name.
        wait: so many seconds it asked to be left alone, or its limit does; None: it is not known.
    """

    def __init__(self, source: str, reason: str, wait: float | None = None) -> None:
        super().__init__(f"{source} gave no usable answer: {reason}")
        self.source = source
        self.wait = wait


class LimitedError(SourceUnavailableError):
    """The source's limit has no room before the deadline: nothing was asked."""


class SourceRefusedError(NightshiftError):
    """A source refuses the request as such: asking again is of no use before somebody has changed something."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} refuses the request: {reason}")
        self.source = source
