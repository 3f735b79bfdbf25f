"""What is asked for when work is to be done again: whose days, and which of them.

Guarantees: a scope comes back from JSON equal to itself; one that `check_scope` lets pass names somebody and does not
contradict itself. Several values of one field are a union, several fields an intersection.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from core.errors import UsageError

# The scope is kept with its run, and whoever lists runs reads it.
MOST_IDS = 100_000

Id = Annotated[int, Field(gt=0, lt=2**63)]


class Only(StrEnum):
    """Which simulations of a scope are done again."""

    MISSING = "missing"
    """Those that lack a day, from the first one that they lack on; whoever is in quarantine lacks it rightly."""
    MISSING_AND_FAILED = "missing-and-failed"
    """Those, whoever is in quarantine, and whoever was in a batch that failed."""
    EVERYTHING = "everything"
    """All of them."""


class ReprocessScope(BaseModel):
    """Whose days are done again.

    Attributes:
        symbols: simulations that have one of them among their assets, held or not.
        strategy: its name.
        quarantined: who is in quarantine.
        run: what that run did: the simulations of its batches that are done.
        failed: who was in a batch that failed, of a run of the first day or later.
        everything: all simulations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: tuple[Id, ...] = ()
    simulations: tuple[Id, ...] = ()
    symbols: tuple[str, ...] = ()
    strategy: str | None = None
    quarantined: bool = False
    run: Id | None = None
    failed: bool = False
    everything: bool = False

    def named(self) -> list[str]:
        """The options of the command line that say the same."""
        return [_OPTIONS[field] for field, value in self if value]


_OPTIONS: Mapping[str, str] = {
    "users": "--user",
    "simulations": "--simulation",
    "symbols": "--symbol",
    "strategy": "--strategy",
    "quarantined": "--quarantined",
    "run": "--run",
    "failed": "--failed",
    "everything": "--all",
}


def check_scope(scope: ReprocessScope, first_day: date | None, only: Only) -> None:
    """Refuse what cannot be meant, whatever is in the database.

    Raises:
        UsageError: nobody is named, options contradict each other, a day is missing, or there are too many ids.
    """
    named = scope.named()
    if not named:
        raise UsageError(f"say what to reprocess: {', '.join(_OPTIONS.values())}")
    if scope.everything and len(named) > 1:
        raise UsageError(f"--all is everybody, {named[0]} is not: leave out one of them")
    if scope.quarantined and only is not Only.EVERYTHING:
        raise UsageError(f"--quarantined is whoever is in quarantine: leave out --only {only}")
    if first_day is None and (not scope.quarantined or scope.failed):
        raise UsageError("--from is missing: the first day to do again (only --quarantined goes without)")
    for ids, kind in ((scope.users, "users"), (scope.simulations, "simulations")):
        if len(ids) > MOST_IDS:
            raise UsageError(f"{len(ids):,} {kind} are too many: at most {MOST_IDS:,} ids, or a wider scope")
    for text, option in (*((symbol, "--symbol") for symbol in scope.symbols), (scope.strategy or "", "--strategy")):
        if not text.isprintable():
            raise UsageError(f"{option} is not printable: {text!a}")


def check_line(text: str, option: str, longest: int) -> None:
    """Refuse what is no line for people: empty, too long, or with characters that nobody sees."""
    if not text.strip():
        raise UsageError(f"{option} must not be empty")
    if len(text) > longest or not text.isprintable():
        raise UsageError(f"{option} must be one line of at most {longest} printable characters")
