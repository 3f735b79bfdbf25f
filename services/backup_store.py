"""Where backups are kept: complete ones only are listed, whatever interrupted the making of others.

A backup is a directory of files, of which the seal comes last. So a backup without a seal is none, on a file system and
in a bucket alike. Keys are `backup/file` with `/` between.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from core.errors import NightshiftError, UsageError
from core.settings import Settings

SEAL = "manifest.seal"
NAME_FORMAT = "backup-%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"backup-\d{8}T\d{6}Z")
_CHUNK = 2**20
_PART = ".part"


class BackupStore(Protocol):
    """A place for backups. Everything may raise NightshiftError: it does not answer, is full, or lacks the key."""

    @property
    def place(self) -> str:
        """Where it is, for people; without secrets."""
        ...

    def put(self, key: str, source: Path) -> None:
        """Store a file, durably and at once; `source` is gone afterwards or not."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Store a few bytes in the same way."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces.

        Raises:
            NightshiftError: it is missing.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        ...

    def names(self) -> list[str]:
        """All directories, whatever is in them."""
        ...

    def remove(self, name: str) -> None:
        """Remove a backup, its seal first."""
        ...

    def local(self, key: str) -> Path | None:
        """The file itself, where that can be had."""
        ...


def backup_names(store: BackupStore, *, complete: bool = True) -> list[str]:
    """The names of the backups that are complete, or of those that are not; oldest first.

    A name of another form is not ours, and nothing of that kind is ever looked into or removed.
    """
    names = sorted(name for name in store.names() if _NAME.fullmatch(name))
    return [name for name in names if store.exists(f"{name}/{SEAL}") is complete]


def open_store(settings: Settings) -> BackupStore:
    """The store of the settings; without one, `backups` in the home.

    Raises:
        UsageError: the setting names neither a directory nor a bucket, or the extra `s3` is not installed.
    """
    place = settings.backup_to
    if place.startswith("s3://"):
        try:
            from services.backup_s3 import S3BackupStore  # noqa: PLC0415 - its library is an extra
        except ImportError:
            raise UsageError("backups in a bucket need the extra: pip install 'nightshift[s3]'") from None
        return S3BackupStore(settings)
    if "://" in place:
        raise UsageError("NIGHTSHIFT_BACKUP_TO is neither a directory nor like s3://bucket/prefix")
    return DirectoryStore(Path(place).expanduser().absolute() if place else settings.nightshift_home() / "backups")


class DirectoryStore:
    """A directory. What was stored survives a power cut: files and their directories are synchronized."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        """The directory."""
        return str(self._root)

    def put(self, key: str, source: Path) -> None:
        """Move the file, or copy it from another file system."""
        with _explained(key, self._root):
            target = self._prepare(key)
            part = target.with_name(target.name + _PART)
            shutil.move(source, part)
            part.chmod(0o600)
            _sync(part)
            part.replace(target)
            _sync(target.parent)

    def write(self, key: str, data: bytes) -> None:
        """Write beside, then rename."""
        with _explained(key, self._root):
            target = self._prepare(key)
            part = target.with_name(target.name + _PART)
            part.write_bytes(data)
            part.chmod(0o600)
            _sync(part)
            part.replace(target)
            _sync(target.parent)

    def read(self, key: str) -> Iterator[bytes]:
        """Read it in pieces of a mebibyte."""
        with _explained(key, self._root), (self._root / key).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return (self._root / key).is_file()

    def names(self) -> list[str]:
        """The directories in it; none where it is not there yet."""
        return [path.name for path in self._root.iterdir() if path.is_dir()] if self._root.is_dir() else []

    def remove(self, name: str) -> None:
        """Remove the directory."""
        with _explained(name, self._root):
            (self._root / name / SEAL).unlink(missing_ok=True)
            shutil.rmtree(self._root / name, ignore_errors=True)

    def local(self, key: str) -> Path | None:
        """The file."""
        return self._root / key

    def _prepare(self, key: str) -> Path:
        target = self._root / key
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(target.parent.parent)
        return target


@contextmanager
def _explained(key: str, root: Path) -> Iterator[None]:
    """One line about an error of the file system."""
    try:
        yield
    except FileNotFoundError:
        raise NightshiftError(f"{root / key} is missing: the backup is damaged") from None
    except OSError as error:
        raise NightshiftError(f"{root / key}: {error.strerror or error}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
