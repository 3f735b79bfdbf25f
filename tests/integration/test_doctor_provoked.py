"""The doctor finds full disks, old servers, wrong clocks and unencrypted ways when they are really there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import hosts
from tests.support.cli import command, environment
from tests.support.odd_servers import FAKETIME, NO_FAKETIME, NO_OLD_POSTGRES, called_old, old_postgres, postgres, valkey
from workers.embedded import ServerUrls

GIB = 2**30
# A disk of 16 GiB takes next to nothing while nothing is written to it, and its space can be taken without writing.
DISK, TAKEN = 16 * GIB, 14 * GIB
COULD_NOT = 77
# The two directories, the image of the second, how much of it is taken; then what is to be run.
MOUNTED = f"""
mount -t tmpfs -o size=64m tmpfs "$1" && mount -o loop "$3" "$2" && fallocate -l "$4" "$2/taken" || exit {COULD_NOT}
shift 4 && exec "$@"
"""
Findings = dict[tuple[str, str], list[dict[str, Any]]]


def found(home: Path, urls: ServerUrls, *before: object, **settings: object) -> Findings:
    """What the command says, by group and check. `before`: what it is run by."""
    done = subprocess.run(
        [str(word) for word in (*before, *command("doctor", "--json"))], capture_output=True, text=True, check=False,
        env=environment(home, database_url=urls.database_url, redis_url=urls.redis_url, **settings), timeout=120,
    )  # fmt: skip
    if done.returncode == COULD_NOT:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert (done.returncode == 0) == (document["errors"] == 0)
    grouped: Findings = {}
    for finding in document["findings"]:
        assert (finding["severity"] == "ok") == (finding["remedy"] == "")
        grouped.setdefault((finding["group"], finding["check"]), []).append(finding)
    return grouped


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "mkfs.ext4", "fallocate"))),
    reason="a disk is mounted by root, with util-linux and e2fsprogs",
)
def test_full_disks(database: str, redis_url: str, tmp_path: Path) -> None:
    """One of 64 MiB, and one of which an eighth is free, in a mount namespace of their own."""
    small, large, image = tmp_path / "small", tmp_path / "large", tmp_path / "image"
    for directory in (small, large):
        directory.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "16", "-O", "^has_journal", image], check=True)

    findings = found(
        small / "home", ServerUrls(database, redis_url),
        "unshare", "--mount", "sh", "-c", MOUNTED, "sh", small, large, image, TAKEN, backup_to=large,
    )  # fmt: skip

    home, backups = findings["machine", "disk"]
    assert (home["severity"], home["detail"]) == ("error", f"0.1 GiB (100%) free for the home, {small}")
    assert backups["severity"] == "warning"
    assert backups["detail"].endswith(f"free for the backups, {large}")
    assert image.stat().st_blocks * 512 < GIB


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What is said of a PostgreSQL that is too old and three seconds ahead, and of a Redis that is an hour behind."""
    programs = old_postgres()
    if programs is None:
        pytest.skip(NO_OLD_POSTGRES)
    with ExitStack() as stack:
        database_url = stack.enter_context(postgres(programs, "+3s"))
        slow = stack.enter_context(valkey(tmp_path_factory.mktemp("valkey"), "-1h"))
        urls = ServerUrls(database_url, stack.enter_context(called_old(slow)))
        return found(tmp_path_factory.mktemp("home"), urls, tick_seconds=10)


def test_old_servers(odd: Findings) -> None:
    (old,), (redis,) = odd["database", "version"], odd["broker", "version"]
    assert old["severity"] == redis["severity"] == "error"
    assert old["detail"].startswith("PostgreSQL 15.")
    assert old["remedy"] == "upgrade to 16 or newer; 18 is tested"
    assert redis["detail"] == "Redis 6.2.0 is too old"


@pytest.mark.skipif(FAKETIME is None, reason=NO_FAKETIME)
def test_wrong_clocks(odd: Findings) -> None:
    (ahead,), (behind,) = odd["machine", "clock of PostgreSQL"], odd["machine", "clock of Redis"]
    assert (ahead["severity"], behind["severity"]) == ("warning", "error")
    for finding, seconds in ((ahead, 3), (behind, -3600)):
        told = re.search(r"'s clock is ([+-][\d.]+) s from this machine's", finding["detail"])
        assert told
        assert float(told[1]) == pytest.approx(seconds, abs=0.5)
    assert "ticks expire before they are worked on" in behind["detail"]


@pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not()))
def test_servers_elsewhere_without_tls(database: str, redis_url: str, tmp_path: Path) -> None:
    """At an address that is not this machine's loopback: they answer there, and no one is kept from listening."""
    with hosts.network() as net, hosts.reached_by(net, ServerUrls(database, redis_url)) as urls:
        findings = found(tmp_path, urls, cache_url=urls.redis_url)
    assert {findings[group, "version"][0]["severity"] for group in ("database", "broker", "cache")} == {"ok"}
    for name in ("database_url", "redis_url", "cache_url"):
        (finding,) = findings["settings", name]
        assert finding["severity"] == "warning"
        assert finding["detail"].startswith(f"the way to {net.address} is not encrypted")


def test_backup_programs_that_are_older_than_the_server(database: str, redis_url: str, tmp_path: Path) -> None:
    programs = old_postgres()
    if programs is None:
        pytest.skip(NO_OLD_POSTGRES)
    findings = found(tmp_path, ServerUrls(database, redis_url), postgres_programs=programs, backup_to=tmp_path)
    (finding,) = findings["database", "backup programs"]
    assert finding["severity"] == "error"
    only = f"only version {programs.parent.name} is in {programs}"
    assert finding["detail"].endswith(f"of version 18 or newer, and {only}")
    assert finding["remedy"].startswith("install postgresql-client-18, or name")
