"""What docs/backups.md says of a server of your own, done: a base backup by TLS, and back to before the harm.

The server is Debian's: it lets nobody copy it who has no certificate, and archives and recovers by the lines of the
page.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from core import tls
from core.errors import NightshiftError, UsageError
from services import backup_programs
from services.backup_programs import run_program
from tests.support.certificates import Authority
from tests.support.nights import ROOT
from tests.support.nights import settings as plain
from tests.support.polling import wait_until
from tests.support.tls_servers import PASSWORD, postgres_of_debian, postgres_programs, served
from workers.point_in_time import base_backup

ROLE = "nightshift_base"
# Its archive is a directory beside the cluster, in which the server's commands begin.
PAGE = re.sub(r"(?<![\w.])/archive\b", "../archive", (ROOT / "docs" / "backups.md").read_text("utf-8"))
BASE = ("--checkpoint=fast", "--wal-method=none", "--no-password")


def line(name: str) -> str:
    """A setting of the page, without what explains it."""
    (found,) = re.findall(rf"^({name} = (?:'[^']*'|\S+))", PAGE, re.MULTILINE)
    return f"{found}\n"


def copied(url: str, authority: Authority, directory: Path) -> dict[str, str]:
    """Copy the server as the page does; before, in ways that are refused: why."""
    certificate, key = authority.client(ROLE)
    role = make_url(url).set(username=ROLE).render_as_string(hide_password=False) + "?sslmode=verify-full"
    ours: dict[str, Any] = {"tls_ca": authority.certificate, "tls_certificate": certificate, "tls_key": key}
    (embedded, *_) = backup_programs._directories()
    debian = postgres_programs()
    refused = {}
    for name, programs, changes in (
        ("no certificate", debian, {"tls_certificate": None, "tls_key": None}),
        ("programs without TLS", embedded, {}),
    ):
        asked = tls.database_url(plain(database_url=role, **{**ours, **changes}))
        with pytest.raises(NightshiftError) as caught:
            run_program([str(programs / "pg_basebackup"), f"--pgdata={directory}", *BASE], asked)
        refused[name] = str(caught.value)
    asked = tls.database_url(plain(database_url=role, **ours))
    run_program([str(debian / "pg_basebackup"), f"--pgdata={directory}", *BASE], asked)
    return refused


def test_back_to_before_the_harm_from_a_base_that_came_by_tls(tmp_path: Path) -> None:
    authority = Authority.made(tmp_path / "authority")
    server, copy = tmp_path / "server", tmp_path / "base"
    archiving = "".join(line(name) for name in ("archive_mode", "archive_timeout", "archive_command"))
    with postgres_of_debian(server, authority, archiving) as url:
        owner = server.stat()
        (server / "archive").mkdir()
        shutil.chown(server / "archive", owner.st_uid, owner.st_gid)
        with psycopg.connect(url, autocommit=True) as session:
            session.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{PASSWORD}'".encode())
            session.execute("CREATE TABLE kept AS SELECT 1 AS number")
            refused = copied(url, authority, copy)
            session.execute("INSERT INTO kept VALUES (2)")
            (before,) = session.execute("SELECT clock_timestamp()").fetchone() or (None,)
            session.execute("DROP TABLE kept")
            (segment,) = session.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or (None,)
        assert wait_until((server / "archive" / str(segment)).exists, what="the segment to be archived")
        with pytest.raises(UsageError, match=r"is not the embedded one of .*: docs/backups\.md"):
            base_backup(
                url, plain(home=tmp_path, wal_archive=str(tmp_path / "log")), now=datetime(2026, 1, 1, tzinfo=UTC)
            )
    assert "certificate" in refused["no certificate"]
    assert "not compiled in" in refused["programs without TLS"]
    assert PASSWORD not in str(refused)
    subprocess.run([postgres_programs() / "pg_verifybackup", "--no-parse-wal", copy], check=True, capture_output=True)

    # As the page goes on.
    (server / "data").rename(tmp_path / "aside")
    shutil.copytree(copy, server / "data")
    target = re.sub("'.*'", f"'{before}'", line("recovery_target_time"))
    with (server / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(line("restore_command") + target + line("recovery_target_action"))
    (server / "data" / "recovery.signal").touch()
    for path in (server / "data", *(server / "data").rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    (server / "data").chmod(0o700)
    with served(server) as url, psycopg.connect(url, autocommit=True) as session:
        assert session.execute("SELECT array_agg(number ORDER BY number) FROM kept").fetchone() == ([1, 2],)
        promoted = "SELECT NOT pg_is_in_recovery()"
        assert wait_until(lambda: session.execute(promoted).fetchone() == (True,), what="the promotion")
