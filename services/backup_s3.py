"""Backups in a bucket of Amazon S3, or of any store that speaks its protocol. Needs the extra `s3` (obstore).

Where the settings name no key, it is found as by every tool for S3: the variables `AWS_…`, or the role of the machine.
An upload appears when it is complete; large files go in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from core.errors import NightshiftError
from core.log import mask_secrets
from core.settings import Settings
from services.backup_store import SEAL

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_CHUNK = 8 * 2**20


class S3BackupStore:
    """A bucket, or what begins with a prefix in it."""

    def __init__(self, settings: Settings) -> None:
        config: S3Config = {}
        client: ClientConfig = {"timeout": "10m", "connect_timeout": "10s"}
        if settings.backup_s3_endpoint:
            config["endpoint"] = settings.backup_s3_endpoint
            client["allow_http"] = settings.backup_s3_endpoint.startswith("http://")
        if settings.backup_s3_region:
            config["region"] = settings.backup_s3_region
        if settings.backup_s3_secret is not None:
            config["access_key_id"] = settings.backup_s3_key_id
            config["secret_access_key"] = settings.backup_s3_secret.get_secret_value()
        self._place = settings.backup_to
        with self._explained(""):
            self._store = S3Store.from_url(settings.backup_to, config=config, client_options=client)

    @property
    def place(self) -> str:
        """`s3://bucket/prefix`."""
        return self._place

    def put(self, key: str, source: Path) -> None:
        """Upload the file."""
        with self._explained(key):
            obstore.put(self._store, key, source)

    def write(self, key: str, data: bytes) -> None:
        """Upload the bytes."""
        with self._explained(key):
            obstore.put(self._store, key, data)

    def read(self, key: str) -> Iterator[bytes]:
        """Download it in pieces."""
        with self._explained(key):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=_CHUNK):
                yield bytes(chunk)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with self._explained(key):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
            return True

    def names(self) -> list[str]:
        """What stands before the first `/` of the keys."""
        with self._explained(""):
            return [prefix.strip("/") for prefix in obstore.list_with_delimiter(self._store)["common_prefixes"]]

    def remove(self, name: str) -> None:
        """Delete the objects."""
        with self._explained(name):
            keys = [item["path"] for page in obstore.list(self._store, prefix=name) for item in page]
            for key in sorted(keys, key=lambda key: not key.endswith(f"/{SEAL}")):
                obstore.delete(self._store, key)

    def local(self, key: str) -> Path | None:  # noqa: ARG002 - the protocol's
        """There is no file."""
        return None

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        where = "/".join(part for part in (self._place.rstrip("/"), key) if part)
        try:
            yield
        except FileNotFoundError:
            raise NightshiftError(f"{where} is missing: the backup is damaged, or there is no such bucket") from None
        except BaseError as error:
            reason = " ".join(mask_secrets(str(error)).split())[:300]
            raise NightshiftError(f"{where}: {reason}") from None
