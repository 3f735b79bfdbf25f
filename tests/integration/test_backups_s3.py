"""Backups in a bucket: as in a directory, asked of a local stand-in for S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from core.errors import NightshiftError, UsageError
from core.settings import Settings
from services.backup_restore import fetched
from services.backup_store import SEAL, backup_names, open_store
from services.backups import Backups
from tests.support.backups import Clock, backup_settings, backups_of
from tests.support.nights import settings

BUCKET = "nightshift-test"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def chosen(endpoint: str, tmp_path: Path) -> Settings:
    assert httpx.put(f"{endpoint}/{BUCKET}").is_success
    return backup_settings(
        tmp_path, backup_to=f"s3://{BUCKET}/some/prefix", backup_s3_endpoint=endpoint, backup_s3_region="us-east-1",
        backup_s3_key_id="id", backup_s3_secret="canary-word",  # noqa: S106
    )  # fmt: skip


def bucket(chosen: Settings) -> S3Store:
    return S3Store.from_url(
        chosen.backup_to, endpoint=chosen.backup_s3_endpoint, region="us-east-1", access_key_id="id",
        secret_access_key="any", client_options={"allow_http": True},  # noqa: S106
    )  # fmt: skip


def test_a_backup_in_a_bucket_is_listed_read_and_removed(database: str, chosen: Settings) -> None:
    clock = Clock()
    backups = backups_of(database, chosen, clock)
    assert backups.list() == []
    manifest = backups.create()

    (listed,) = backups.list()
    assert (listed.name, listed.bytes, listed.verified_at) == (manifest.name, manifest.bytes, None)
    with fetched(backups, manifest) as directory:
        assert (directory / "toc.dat").read_bytes().startswith(b"PGDMP")
        assert len(list(directory.iterdir())) == len(manifest.files)

    second = backups.create()
    store = bucket(chosen)
    # Without its seal it is none, whatever was uploaded.
    obstore.delete(store, f"{second.name}/{SEAL}")
    assert backup_names(backups.store) == [manifest.name]
    assert backup_names(backups.store, complete=False) == [second.name]
    backups.store.remove(second.name)
    assert backups.store.names() == [manifest.name]

    key = f"{manifest.name}/{manifest.files[0].name}"
    content = bytearray(bytes(obstore.get(store, key).bytes()))
    content[0] ^= 1
    obstore.put(store, key, bytes(content))
    with pytest.raises(NightshiftError, match=f"{manifest.files[0].name} was changed"), fetched(backups, manifest):
        pass
    obstore.delete(store, key)
    with pytest.raises(NightshiftError, match=rf"{manifest.files[0].name} is missing"), fetched(backups, manifest):
        pass


def test_what_is_wrong_with_a_bucket_is_one_line_without_secrets(chosen: Settings, tmp_path: Path) -> None:
    absent = chosen.model_copy(update={"backup_to": "s3://no-such-bucket"})
    with pytest.raises(NightshiftError, match="no-such-bucket") as error:
        Backups("", absent, Clock()).list()
    assert "canary-word" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="neither a directory nor like s3://"):
        open_store(settings(home=tmp_path, backup_to="ftp://somewhere"))
    with pytest.raises(ValueError, match="belong together"):
        settings(backup_s3_key_id="id")
