"""A notification that is ready to be sent, and the one way in which sending it fails."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """Texts for people. `subject` is one line; `html`, `picture` (PNG) and `unsubscribe` (a URL) are of mails only."""

    key: str
    subject: str
    text: str
    html: str | None = None
    picture: bytes | None = None
    unsubscribe: str | None = None


class UndeliveredError(Exception):
    """A channel did not take a message; the text is one line without secrets.

    Attributes:
        final: trying again cannot help.
        down: the channel took nothing at all: others need not be tried now.
        untried: it was not even asked, so this is no attempt.
    """

    def __init__(self, reason: str, *, final: bool = False, down: bool = False, untried: bool = False) -> None:
        super().__init__(reason)
        self.final = final
        self.down = down
        self.untried = untried


def one_line(text: object, limit: int = 200) -> str:
    """`text` without line breaks and invisible characters: it may be a header, or stand in a list."""
    flat = " ".join(str(text).split())
    shown = "".join(character if character.isprintable() else "?" for character in flat)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def header_line(text: object, limit: int = 150) -> str:
    """`text` on one line that means what it says in a header, where `=?…?=` would be taken for an encoded text.

    Decoded it could hold line breaks, and those would begin a header of their own.
    """
    return one_line(text, limit).replace("=?", "= ?")
