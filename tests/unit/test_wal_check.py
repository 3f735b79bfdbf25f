"""An archive of the log that is not whole is seen before a recovery, with the moment until which it is."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from core.errors import NightshiftError
from tests.support.backups import flip
from workers.wal_check import check_log

FIRST = "0000000100000000000000FE"
NAMES = [FIRST, "0000000100000000000000FF", "000000010000000100000000", "000000010000000100000001"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four segments that follow each other, a minute apart, one that nobody needs, and what else lies there."""
    for number, name in enumerate(["0000000100000000000000F0", *NAMES]):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(name.encode() * 1000))
        os.utime(path, (60 * number, 60 * number))
    (tmp_path / "0000000100000000000000F0.gz").write_bytes(b"rubbish")
    for name in ("00000002.history.gz", f"{NAMES[1]}.00000028.backup.gz", f"{NAMES[2]}.part"):
        (tmp_path / name).write_bytes(b"rubbish")
    return tmp_path


def test_a_whole_log_is_none_the_worse_for_what_lies_beside_it(archive: Path) -> None:
    check_log(archive, FIRST)
    # Of another line of history, which begins within this one.
    (archive / "000000020000000100000001.gz").write_bytes(gzip.compress(b"new"))
    check_log(archive, FIRST)


@pytest.mark.parametrize("how", ["flipped", "cut", "no gzip"])
def test_a_damaged_segment_is_named(archive: Path, how: str) -> None:
    path = archive / f"{NAMES[2]}.gz"
    if how == "flipped":
        flip(path)
    else:
        path.write_bytes(path.read_bytes()[:-6] if how == "cut" else b"rubbish")
    with pytest.raises(NightshiftError, match=r"000000010000000100000000\.gz is damaged: .* about 1970-01-01 00:02:00"):
        check_log(archive, FIRST)


def test_the_first_one_is_needed(archive: Path) -> None:
    flip(archive / f"{FIRST}.gz")
    with pytest.raises(NightshiftError, match="nothing after the base backup can be recovered"):
        check_log(archive, FIRST)


def test_a_missing_segment_is_named(archive: Path) -> None:
    (archive / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(NightshiftError, match=rf"between {FIRST}\.gz and {NAMES[2]}\.gz is missing: .*00:01:00"):
        check_log(archive, FIRST)
