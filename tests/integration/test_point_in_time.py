"""From a base backup and the archived log, the embedded server goes back to just before a table was dropped."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from core.database import make_engine
from core.errors import EmbeddedServerError, NightshiftError, UsageError
from core.settings import Settings
from models.migrate import migrate
from services.digest import digest_of_day
from tests.support.backups import few_nights, flip
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, scalar, settings
from workers.embedded import EmbeddedServers
from workers.point_in_time import _swap, base_backup, list_bases, recover
from workers.wal_archive import wal_directory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2022, 12, 31, 12, tzinfo=UTC)
SEGMENT = 24


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    # A quote and a percent sign: both mean something to a shell or to PostgreSQL.
    return settings(home=tmp_path / "home", wal_archive=str(tmp_path / "bob's 100% archive"))


def embedded(chosen: Settings) -> EmbeddedServers:
    return EmbeddedServers(
        chosen.nightshift_home(), serve_redis=False, wal_archive=wal_directory(chosen),
        postgres_settings={"shared_buffers": "64MB", "fsync": "off", "min_wal_size": "64MB"},
    )  # fmt: skip


@pytest.fixture
def destroyed(chosen: Settings) -> tuple[datetime, str, int]:
    """Nights, a base backup, another night, and then somebody drops a table: when, the digest and the rows before."""
    with embedded(chosen) as servers:
        url = servers.start().database_url
        engine = make_engine(url)
        migrate(engine)
        few_nights(engine)
        base_backup(url, chosen, now=NOW)
        Night(engine, settings(500), now=LATER).run(LAST_SAMPLE_DAY + timedelta(days=1))
        digest, trades = digest_of_day(engine).digest, scalar(engine, "SELECT count(*) FROM trades")
        before: datetime = scalar(engine, "SELECT clock_timestamp()")
        change(engine, "DROP TABLE trades CASCADE")
        change(engine, "DELETE FROM simulations")
        engine.dispose()
    return before, digest, trades


def test_just_before_a_table_was_dropped(chosen: Settings, destroyed: tuple[datetime, str, int]) -> None:
    before, digest, trades = destroyed
    (base,) = list_bases(chosen)
    archive = wal_directory(chosen)
    assert archive is not None
    cluster = chosen.nightshift_home() / "postgres"
    in_place = cluster.stat().st_ino
    archived = [path for path in archive.iterdir() if len(path.name.removesuffix(".gz")) == SEGMENT]
    assert archived
    assert len(gzip.decompress(archived[0].read_bytes())) == 16 * 2**20
    assert list(archive.glob("*.part")) == []

    with pytest.raises(UsageError, match="after that moment"):
        recover(chosen, at=base.ended_at - timedelta(seconds=1), now=NOW)
    flip(base.directory / "base.tar.gz")
    with pytest.raises(NightshiftError, match=r"base\.tar\.gz was changed"):
        recover(chosen, at=before, now=NOW)
    flip(base.directory / "base.tar.gz")
    # The log ends before tomorrow: the cluster is left as it is.
    with pytest.raises(NightshiftError, match=r"\(see .*\); the cluster of the home is as it was"):
        recover(chosen, at=before + timedelta(days=1), now=NOW)
    segment = archive / f"{base.first_segment}.gz"
    # In its check sum: a bit in the middle of so many zeros may mean the same.
    flip(segment, -5)
    with pytest.raises(NightshiftError, match=r"\(see .*recovering.*\); the cluster of the home is as it was"):
        recover(chosen, at=before, now=NOW)
    # To the end of a log that is damaged, PostgreSQL would go as far as it is whole, and say nothing.
    with pytest.raises(NightshiftError, match=r"\.gz is damaged: nothing after the base backup"):
        recover(chosen, at=None, now=NOW)
    flip(segment, -5)
    assert cluster.stat().st_ino == in_place
    assert sorted(path.name for path in chosen.nightshift_home().glob("postgres*")) == ["postgres"]

    recovered = recover(chosen, at=before, now=NOW)

    assert recovered.until is not None
    assert base.ended_at < recovered.until <= before
    assert recovered.kept_as is not None
    assert recovered.kept_as.stat().st_ino == in_place
    assert not (chosen.nightshift_home() / "recovering").exists()
    with embedded(chosen) as servers:
        with pytest.raises(NightshiftError, match="a stack runs in"):
            recover(chosen, at=before, now=NOW)
        engine = make_engine(servers.start().database_url)
        assert scalar(engine, "SELECT count(*) FROM trades") == trades
        assert digest_of_day(engine).digest == digest
        assert scalar(engine, "SELECT count(*) FROM simulations") > 0
        # It works and archives on, in a line of history of its own.
        Night(engine, settings(500), now=LATER).run(LAST_SAMPLE_DAY + timedelta(days=2))
        assert digest_of_day(engine).day == LAST_SAMPLE_DAY + timedelta(days=2)
        assert timeline(engine) > 1
        newest = base_backup(servers.start().database_url, chosen, now=NOW + timedelta(days=40))
        engine.dispose()
    assert [each.directory.name for each in list_bases(chosen)][-1] == newest.directory.name


def timeline(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT timeline_id FROM pg_control_checkpoint()")).scalar_one())


def test_the_old_cluster_is_put_back_or_the_next_start_says_how(chosen: Settings) -> None:
    home = chosen.nightshift_home()
    cluster, kept = home / "postgres", home / "postgres.before-20260101T000000Z"
    cluster.mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        _swap(cluster, kept, home / "recovering" / "postgres")
    assert [path.name for path in home.glob("postgres*")] == ["postgres"]
    # Killed between the two renames: an empty cluster must not be made in its place.
    cluster.rename(kept)
    with pytest.raises(
        EmbeddedServerError, match=r"put it back \(mv '.*postgres\.before-20260101T000000Z' '.*postgres'\)"
    ):
        embedded(chosen).start()
    assert [path.name for path in home.glob("postgres*")] == [kept.name]


def test_without_an_archive_it_says_so(database: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NIGHTSHIFT_WAL_ARCHIVE is not set"):
        base_backup(database, settings(home=tmp_path), now=NOW)
    chosen = settings(home=tmp_path / "home", wal_archive=str(tmp_path / "archive"))
    with pytest.raises(UsageError, match=r"is not the embedded one of .*home, .*A server of your own"):
        base_backup(database, chosen, now=NOW)
    with (
        EmbeddedServers(tmp_path / "home", serve_redis=False) as servers,
        pytest.raises(NightshiftError, match="the server archives no log"),
    ):
        base_backup(servers.start().database_url, chosen, now=NOW)
    with pytest.raises(UsageError, match="there is no base backup"):
        recover(settings(home=tmp_path, wal_archive=str(tmp_path / "archive")), at=None, now=NOW)
