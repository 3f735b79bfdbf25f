"""Typed errors. Each carries the one line that a person reads and the exit code of the command line."""

from __future__ import annotations


class NightshiftError(Exception):
    """The work failed. The message is one line: what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(NightshiftError):
    """What was asked for cannot be meant: an unknown symbol, a malformed date, contradictory options."""

    exit_code = 2


class ServerUnreachableError(NightshiftError):
    """PostgreSQL or Redis does not answer, or answers that it is not ready."""

    exit_code = 3


class DatabaseVersionError(NightshiftError):
    """The database is empty, older or newer than this code: migrate the one or upgrade the other."""


class EmbeddedServerError(NightshiftError):
    """An embedded server did not start, or its home is in use by another process."""


class StaleClaimError(NightshiftError):
    """The batch was claimed again, split or cancelled while this worker held it: nothing may be committed."""


class NightFirstError(NightshiftError):
    """A night is waiting: this batch of ad-hoc work is rolled back and comes again later."""


class ComesAgainError(NightshiftError):
    """The batch has no time left: what it has prepared is kept, its attempt does not count, and it comes again."""


class PublishError(NightshiftError):
    """Redis did not confirm the messages: whether they were delivered is unknown. Publishing again is safe."""
