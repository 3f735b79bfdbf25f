"""What a backup says of itself: which rows were in the database, which files it has; sealed, so that it cannot change.

`manifest.json` is plain JSON. The seal beside it is one line: `sha256` or `hmac-sha256` and the sum of the manifest's
bytes. With a key, only a backup sealed by a key of ours is believed.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import NightshiftError
from services.backup_cipher import Cipher
from services.backup_store import SEAL, BackupStore

MANIFEST = "manifest.json"
FORMAT = 1
_SEAL = re.compile(rb"(sha256|hmac-sha256) ([0-9a-f]{64})\n")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableFacts(_Part):
    """The rows of a table, and the sum of a hash of each, 16 hexadecimal digits: independent of their order."""

    name: str
    rows: int
    checksum: str


class DayFacts(_Part):
    """What `nightshift db digest` says of a day."""

    day: date
    digest: str
    rows: int


class FileFacts(_Part):
    """A file as it is stored; `name` is its key below the backup."""

    name: str
    bytes: int
    sha256: str


class Contents(_Part):
    """What was in the database, in the moment of one snapshot.

    Attributes:
        migration: the revision of its schema.
        server_version: PostgreSQL's, as it says it itself: 180004.
        night: the newest day whose night is done; None before the first.
        grantees: the roles that have rights on tables.
    """

    migration: str
    server_version: int
    night: date | None
    grantees: tuple[str, ...]
    tables: tuple[TableFacts, ...]
    days: tuple[DayFacts, ...]


class Manifest(_Part):
    """One backup. `taken_at` is the moment of its snapshot, by the clock of the database."""

    format: int
    name: str
    taken_at: datetime
    encrypted: bool
    contents: Contents
    files: tuple[FileFacts, ...]

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return sum(file.bytes for file in self.files)

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.contents.tables)

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.contents.server_version // 10_000

    def store(self, store: BackupStore, cipher: Cipher | None) -> None:
        """Write it and then its seal, which completes the backup."""
        data = (self.model_dump_json(indent=1) + "\n").encode()
        store.write(f"{self.name}/{MANIFEST}", data)
        seal = f"hmac-sha256 {cipher.sign(data)}" if cipher else f"sha256 {hashlib.sha256(data).hexdigest()}"
        store.write(f"{self.name}/{SEAL}", f"{seal}\n".encode())

    @classmethod
    def load(cls, store: BackupStore, name: str, cipher: Cipher | None) -> Self:
        """Read it, and believe it only if its seal is whole.

        Raises:
            NightshiftError: it is damaged, sealed by another key, or of a format that is newer than this code.
        """
        data = b"".join(store.read(f"{name}/{MANIFEST}"))
        where = f"backup {name}: {MANIFEST}"
        seal = _SEAL.fullmatch(b"".join(store.read(f"{name}/{SEAL}")))
        if seal is None:
            raise NightshiftError(f"backup {name}: {SEAL} is damaged")
        kind, value = seal.group(1).decode(), seal.group(2).decode()
        _check_seal(where, kind, value, data, cipher)
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise NightshiftError(f"{where} cannot be read: {error.errors()[0]['msg']}: upgrade Nightshift") from None
        if manifest.format != FORMAT or manifest.name != name:
            raise NightshiftError(f"{where} is of another format or backup: it says {manifest.format}, {manifest.name}")
        return manifest


def _check_seal(where: str, kind: str, value: str, data: bytes, cipher: Cipher | None) -> None:
    if cipher is None and kind != "sha256":
        raise NightshiftError(f"{where} is signed, and {SEAL} needs the key: set NIGHTSHIFT_BACKUP_KEY")
    if cipher is not None and kind == "sha256":
        raise NightshiftError(f"{where} is not signed: unset NIGHTSHIFT_BACKUP_KEY if you trust it all the same")
    whole = hashlib.sha256(data).hexdigest() == value if cipher is None else cipher.is_signed(data, value)
    if not whole:
        raise NightshiftError(f"{where} does not fit {SEAL}: one of them was changed, or signed with another key")
