"""The archive of the embedded PostgreSQL's log: each segment durable before PostgreSQL forgets it, compressed.

With a base backup it takes the database to any moment since (workers/point_in_time.py). A segment that is not full is
archived after five minutes all the same, so at most so much is lost with the machine. The commands are a shell's,
because the server may run as a user who can read nothing of ours; gzip, sync and cmp are on every system.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from core.settings import Settings

TIMEOUT_SECONDS = 300
SUFFIX = ".gz"


def wal_directory(settings: Settings) -> Path | None:
    """Where segments go; None: nowhere. The directory above it holds the base backups, too."""
    return Path(settings.wal_archive).expanduser().absolute() / "wal" if settings.wal_archive else None


def archive_settings(directory: str) -> dict[str, tuple[str, str]]:
    """PostgreSQL's settings for an archive in `directory`, each with its reason.

    `restore_command` counts only where a recovery is asked for.
    """
    return {
        "archive_mode": ("on", "recovery to any moment"),
        "archive_command": (_archive(directory), "durable before the segment is used again; safe to repeat"),
        "archive_timeout": (f"{TIMEOUT_SECONDS}s", "so much is lost at most with the machine"),
        "restore_command": (_restore(directory), "the way back"),
    }


def _archive(directory: str) -> str:
    there, part, whole = (_quoted(directory, name) for name in ("%f" + SUFFIX, "%f.part", ""))
    new = f'gzip -1 < "%p" > {part} && sync {part} && mv {part} {there} && sync {whole}'
    # A crash between the rename and PostgreSQL's own note of it: the same segment comes again.
    return f'if test -e {there}; then gzip -dc {there} | cmp -s - "%p"; else {new}; fi'


def _restore(directory: str) -> str:
    there = _quoted(directory, "%f" + SUFFIX)
    return f'test -f {there} && gzip -dc {there} > "%p"'


def _quoted(directory: str, name: str) -> str:
    # In these commands PostgreSQL replaces %f and %p, and %% is a percent sign.
    return shlex.quote(directory).replace("%", "%%") + (f"/{name}" if name else "")
