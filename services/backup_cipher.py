"""Encryption and signing of backups by one key, in the age format: `age --decrypt` reads the files without Nightshift.

A key is an age identity (X25519, ChaCha20-Poly1305 in chunks of 64 KiB), so that whoever holds nothing but the key and
a backup can restore it with tools of any distribution. The signature is an HMAC with a key derived from the same one:
anybody can encrypt to a public key, but nobody else can sign.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import pyrage

from core.errors import NightshiftError, UsageError
from core.settings import Settings

SUFFIX = ".age"
_PURPOSE = b"nightshift-seal"


def new_key() -> str:
    """A new key, as `NIGHTSHIFT_BACKUP_KEY` takes it."""
    return str(pyrage.x25519.Identity.generate())


class Cipher:
    """Encrypts with the first key, decrypts with any."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the keys.

        Raises:
            UsageError: one is no age identity.
        """
        self._keys = [key.strip() for key in keys]
        try:
            self._identities = [pyrage.x25519.Identity.from_str(key) for key in self._keys]
        except pyrage.IdentityError:
            raise UsageError("NIGHTSHIFT_BACKUP_KEY is no age identity: `nightshift backup key` makes one") from None

    def encrypt(self, source: Path, target: Path) -> None:
        """Write `source` encrypted to `target`."""
        pyrage.encrypt_file(str(source), str(target), [self._identities[0].to_public()])

    def decrypt(self, source: Path, target: Path) -> None:
        """Write `source` decrypted to `target`.

        Raises:
            NightshiftError: it is not encrypted with a key of ours, or it is damaged.
        """
        try:
            pyrage.decrypt_file(str(source), str(target), self._identities)
        except (pyrage.DecryptError, OSError) as error:
            # What is wrong behind the header comes as an OSError, too; one of the system's says so in its text.
            if "(os error " in str(error):
                raise
            raise NightshiftError(f"{source.name} cannot be decrypted with NIGHTSHIFT_BACKUP_KEY: {error}") from None

    def sign(self, data: bytes) -> str:
        """The signature by the first key, hexadecimal."""
        return self._signature(self._keys[0], data)

    def is_signed(self, data: bytes, signature: str) -> bool:
        """Whether `signature` is that of one of the keys."""
        return any(hmac.compare_digest(self._signature(key, data), signature) for key in self._keys)

    @staticmethod
    def _signature(key: str, data: bytes) -> str:
        derived = hashlib.blake2b(key.encode(), person=_PURPOSE).digest()
        return hmac.new(derived, data, hashlib.sha256).hexdigest()


def cipher_of(settings: Settings) -> Cipher | None:
    """The cipher of the settings, None if backups are not encrypted.

    Raises:
        UsageError: the key is none.
    """
    return Cipher(settings.backup_key.get_secret_value().split(",")) if settings.backup_key else None
