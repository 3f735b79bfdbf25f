"""This machine: room on its disks, and its clock against those of the servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from core.settings import Settings
from services.doctor_findings import Finding, Group

MACHINE = Group("machine")
Clock = Callable[[], datetime]
_GIB = 2**30
# Of the disk, and in any case so many bytes: a night of a million users writes a third of a GiB.
FEW, TOO_FEW = 0.15, 0.05
_LEAST = _GIB
_NOTICEABLE = timedelta(seconds=1)
_QUESTIONS = 3


def examine_disks(settings: Settings, *, few: float = FEW, too_few: float = TOO_FEW) -> Iterator[Finding]:
    """Free space where we write: a share below `few` is a warning, below `too_few` an error."""
    places = {
        "home": str(settings.home.expanduser()),
        "backups": settings.backup_to,
        "log archive": settings.wal_archive,
    }
    seen: set[int] = set()
    for what, place in places.items():
        directory = _existing(place) if place and "://" not in place else None
        if directory is None or directory.stat().st_dev in seen:
            continue
        seen.add(directory.stat().st_dev)
        usage = shutil.disk_usage(directory)
        # Root's reserve is not ours, so `used + free` and not the size.
        share = usage.free / max(usage.used + usage.free, 1)
        detail = f"{usage.free / _GIB:,.1f} GiB ({share:.0%}) free for the {what}, {directory}"
        remedy = "`nightshift maintain --dry-run` says what retention would drop; else a larger disk"
        if share < too_few or usage.free < _LEAST:
            yield MACHINE.error("disk", detail, remedy)
        elif share < few:
            yield MACHINE.warning("disk", detail, remedy)
        else:
            yield MACHINE.ok("disk", detail)


def _existing(place: str) -> Path | None:
    path = Path(place).expanduser().absolute()
    return next((directory for directory in (path, *path.parents) if directory.is_dir()), None)


def examine_clocks(clock: Clock, servers: Mapping[str, Clock], settings: Settings) -> Iterator[Finding]:
    """How far each server's clock is from `clock`, this machine's without an offset.

    A message of beat's expires after one tick: clocks that are further apart than that stop the nights.
    """
    for name, ask in servers.items():
        skew, doubt = _skew(clock, ask)
        detail = f"{name}'s clock is {skew.total_seconds():+.3f} s from this machine's (± {doubt.total_seconds():.3f})"
        apart = abs(skew) - doubt
        remedy = "set both by NTP: `timedatectl set-ntp true`, or chrony"
        if apart > timedelta(seconds=settings.tick_seconds):
            yield MACHINE.error(f"clock of {name}", f"{detail}: ticks expire before they are worked on", remedy)
        elif apart > _NOTICEABLE:
            yield MACHINE.warning(f"clock of {name}", detail, remedy)
        else:
            yield MACHINE.ok(f"clock of {name}", detail)


def _skew(clock: Clock, ask: Clock) -> tuple[timedelta, timedelta]:
    """The difference and its uncertainty, of the quickest of a few answers."""
    answers = []
    for _ in range(_QUESTIONS):
        before = clock()
        theirs = ask()
        after = clock()
        doubt = (after - before) / 2
        answers.append((doubt, theirs - before - doubt))
    doubt, skew = min(answers)
    return skew, doubt
