"""The code as it was before the newest migration, from the history of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.revisions import SCRIPTS
from tests.support.cli import ROOT

_LOOK_BACK = 20


@dataclass(frozen=True, slots=True)
class Previous:
    """A tree of older code. It runs with this process' libraries, which is what an upgrade in place does, too."""

    commit: str
    tree: Path

    def environment(self, **settings: object) -> dict[str, str]:
        """That of a process of the old code, with these settings only: it refuses those that it does not know."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
        chosen = {f"NIGHTSHIFT_{name.upper()}": str(value) for name, value in settings.items()}
        return mine | {"PYTHONPATH": str(self.tree)} | chosen

    def starts(self) -> bool:
        """Whether its workers' app can be made, and of its own files."""
        nowhere = {"database_url": "postgresql://127.0.0.1:1/none", "redis_url": "redis://127.0.0.1:1/0"}
        program = "from workers import app; app.environment_app(); print(app.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", program], env=self.environment(home=self.tree / "home", **nowhere), cwd=self.tree,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode == 0 and Path(done.stdout.strip()).is_relative_to(self.tree)


def previous(directory: Path) -> Previous:
    """The last commit without the newest migration that runs, unpacked in `directory`; skips without the history."""
    newest = max((SCRIPTS / "versions").glob("[0-9]*.py")).relative_to(ROOT)
    if _git("rev-parse", "--verify", "HEAD") is None:
        pytest.skip("no history here: the old code cannot be had")
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", str(newest))
    commits = _git("rev-list", "--first-parent", "-n", str(_LOOK_BACK), f"{added}^" if added else "HEAD")
    for commit in (commits or "").split():
        if not _is_whole(commit):
            continue
        old = _unpacked(commit, directory)
        if old.starts():
            return old
    pytest.skip(f"no commit before {newest} that runs is in this history (a shallow clone?)")


def _is_whole(commit: str) -> bool:
    """Whether no migration is missing between two others: a commit of a part of the work never ran."""
    listed = _git("ls-tree", "--name-only", commit, f"{SCRIPTS.relative_to(ROOT)}/versions/") or ""
    numbers = sorted({int(Path(name).name[:4]) for name in listed.split() if name.endswith(".py")})
    return numbers == list(range(1, len(numbers) + 1))


def _unpacked(commit: str, directory: Path) -> Previous:
    archive, tree = directory / f"{commit}.tar", directory / commit
    subprocess.run(["git", "archive", "--output", str(archive), commit], cwd=ROOT, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    return Previous(commit, tree)


def _git(*arguments: str) -> str | None:
    """What git says; None if it cannot."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
