"""The pages of docs/runbooks as a machine reads them: which commands, in which part, and how each must end."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.nights import ROOT

DIRECTORY = ROOT / "docs" / "runbooks"
PARTS = ("Look", "Do", "It is over when")


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a `sh` block, or a whole `sql` block. `code`: as a comment `# exit 1: why` says, else 0."""

    language: str
    text: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class Runbook:
    """A page. `commands` by the heading of the part."""

    name: str
    text: str
    commands: dict[str, list[Command]]


def runbook(name: str) -> Runbook:
    """The page of an alert."""
    text = (DIRECTORY / f"{name}.md").read_text("utf-8")
    parts = dict(zip(*[iter(re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:])] * 2, strict=True))
    return Runbook(name, text, {part: _commands(parts[part]) for part in PARTS})


def runbooks() -> list[str]:
    """The names of all pages."""
    return sorted(path.stem for path in DIRECTORY.glob("Nightshift*.md"))


def _commands(part: str) -> list[Command]:
    found: list[Command] = []
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
        if language == "sql":
            found.append(Command("sql", block))
            continue
        assert language == "sh", language
        for line in block.splitlines():
            match = re.fullmatch(r"(.*?)(?:  # exit (\d)\b.*)?", line)
            assert match is not None
            found.append(Command("sh", match[1], int(match[2] or 0)))
    return found
