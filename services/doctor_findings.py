"""What the doctor finds: how bad it is, one line with figures, and one line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """`error`: nights fail, are lost or stand still. `warning`: they would, under some circumstance. `ok`: neither."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer.

    Attributes:
        check: its name within the group, the same whatever it finds.
        detail: what is, with figures; never a secret.
        remedy: what to do; empty if nothing is to be done.
        unreachable: a server did not answer, so what depends on it was not examined.
    """

    group: str
    check: str
    severity: Severity
    detail: str
    remedy: str = ""
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Checks that belong together; makes their findings."""

    name: str

    def ok(self, check: str, detail: str) -> Finding:
        """All is well."""
        return Finding(self.name, check, Severity.OK, detail)

    def warning(self, check: str, detail: str, remedy: str) -> Finding:
        """Something will go wrong one day."""
        return Finding(self.name, check, Severity.WARNING, detail, remedy)

    def error(self, check: str, detail: str, remedy: str) -> Finding:
        """Something is wrong."""
        return Finding(self.name, check, Severity.ERROR, detail, remedy)

    def unreachable(self, check: str, detail: str, remedy: str) -> Finding:
        """A server does not answer."""
        return Finding(self.name, check, Severity.ERROR, detail, remedy, unreachable=True)
