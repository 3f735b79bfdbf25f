"""Whether an archive of the log is whole: PostgreSQL takes a damaged or missing segment for the end of the log.

A recovery to the end of the log would then end early and say nothing, so it is looked at before.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.errors import NightshiftError
from workers.wal_archive import SUFFIX

_SEGMENT = re.compile(rf"[0-9A-F]{{24}}{re.escape(SUFFIX)}")
_SEGMENTS_OF_A_LOG = 256  # of 16 MiB each
_CHUNK = 2**20


def check_log(directory: Path, first_segment: str) -> None:
    """Read every segment from `first_segment` on, of 24 hexadecimal digits.

    Raises:
        NightshiftError: one is damaged or missing; with the moment until which the log is whole.
    """
    archived = [path for path in sorted(directory.iterdir()) if _SEGMENT.fullmatch(path.name)]
    needed = [path for path in archived if path.name[8:24] >= first_segment[8:]]
    before = None
    for path in needed:
        if not _is_whole(path):
            raise NightshiftError(f"{path} is damaged: {_until(before)}")
        before = path
    for one, other in itertools.pairwise(_newest_timeline(needed)):
        if _number(other) != _number(one) + 1:
            raise NightshiftError(f"the log between {one.name} and {other.name} is missing: {_until(one)}")


def _newest_timeline(segments: Sequence[Path]) -> list[Path]:
    return [path for path in segments if path.name[:8] == segments[-1].name[:8]]


def _number(segment: Path) -> int:
    return int(segment.name[8:16], 16) * _SEGMENTS_OF_A_LOG + int(segment.name[16:24], 16)


def _is_whole(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return True


def _until(last: Path | None) -> str:
    if last is None:
        return "nothing after the base backup can be recovered"
    archived_at = datetime.fromtimestamp(last.stat().st_mtime, UTC)
    return f"the log is whole until about {archived_at:%Y-%m-%d %H:%M:%S} UTC, so recover --at a moment before that"
