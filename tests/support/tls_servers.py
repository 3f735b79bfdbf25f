"""Real servers that speak TLS and nothing else: Debian's PostgreSQL and Redis, with a test's own certificates."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.certificates import Authority
from tests.support.polling import wait_until
from workers.postgres_embedded import _give, _open_directory, _run, _server_user, _write_new
from workers.server_process import LOOPBACK, ServerProcess, free_port

PASSWORD = "of-the-tests"  # noqa: S105
CERTIFIED = "certified"
"""The database that asks for a certificate in the name of the role, besides its password."""
_HBA = f"""
hostssl {CERTIFIED} nightshift_owner {LOOPBACK}/32 scram-sha-256 clientcert=verify-full
hostssl replication all {LOOPBACK}/32 scram-sha-256 clientcert=verify-full
hostssl all all {LOOPBACK}/32 scram-sha-256
"""
_CONFIGURATION = f"""
listen_addresses = '{LOOPBACK}'
unix_socket_directories = ''
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
ssl_ca_file = 'clients.pem'
ssl_min_protocol_version = 'TLSv1.2'
fsync = off
shared_buffers = '64MB'
"""


def postgres_programs() -> Path:
    """The directory of Debian's newest PostgreSQL; else the test is skipped, and says so."""
    if not (found := _postgres()):
        pytest.skip("a PostgreSQL with TLS is not installed (Debian: postgresql)")
    return found[-1].parent


def redis_program() -> str:
    """Debian's Redis; else the test is skipped, and says so."""
    if (found := shutil.which("redis-server")) is None:
        pytest.skip("a Redis with TLS is not installed (Debian: redis-server)")
    return found


def are_installed() -> bool:
    """Whether both are."""
    return bool(_postgres()) and shutil.which("redis-server") is not None


def _postgres() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))


@contextmanager
def postgres_of_debian(directory: Path, authority: Authority, more: str = "") -> Iterator[str]:
    """The URL of its superuser. Whoever comes without TLS is refused, and in `CERTIFIED` without a certificate too.

    So is a base backup. `more`: lines of its postgresql.conf, in which `..` is `directory`.
    """
    programs = postgres_programs()
    # It refuses to run as root: as the embedded one it is another user's, who gets an open directory.
    user = _server_user(directory)
    directory.mkdir()
    _give(directory, user)
    _write_new(directory / "password", PASSWORD, user)
    with _open_directory(directory, user) as (path, pass_fds):
        _run(
            [
                str(programs / "initdb"), "-D", f"{path}/data", "-U", "postgres", f"--pwfile={path}/password",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
            ],
            cwd=directory, user=user, pass_fds=pass_fds,
        )  # fmt: skip
    data = directory / "data"
    for name, content in authority.server_files("localhost").items():
        _write_new(data / name, content, user)
    (data / "pg_hba.conf").write_text(_HBA, "utf-8")
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(_CONFIGURATION + more)
    with served(directory) as url:
        yield url


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The URL of the superuser of such a server, whose cluster, `data` in `directory`, is there already."""
    user, port = _server_user(directory), free_port(None)
    process = ServerProcess("postgres", directory / "data", directory.with_suffix(".log"), signal.SIGINT)
    with _open_directory(directory, user) as (path, pass_fds):
        process.spawn(
            [
                str(postgres_programs() / "postgres"), "-D", f"{path}/data", "-p", str(port),
                "-c", f"cluster_name={process.marker}",
            ],
            user=user, pass_fds=pass_fds, environment={"LC_ALL": "C", "PATH": os.defpath},
        )  # fmt: skip
    url = f"postgresql://postgres:{PASSWORD}@localhost:{port}/postgres"
    try:
        process.wait_ready(lambda: psycopg.connect(url).close(), (psycopg.OperationalError,))
        yield url
    finally:
        process.stop()


@contextmanager
def redis_of_debian(directory: Path, authority: Authority, *, clients: bool) -> Iterator[str]:
    """The URL of a Redis without a port in the clear; `clients`: who has no certificate of the authority is refused."""
    program = redis_program()
    directory.mkdir()
    for name, content in authority.server_files("localhost").items():
        _write_new(directory / name, content, None)
    port = free_port(None)
    configuration = f"""
        bind {LOOPBACK}
        port 0
        tls-port {port}
        tls-cert-file server.pem
        tls-key-file server.key
        tls-ca-cert-file clients.pem
        tls-auth-clients {"yes" if clients else "no"}
        dir {directory}
        requirepass {PASSWORD}
        maxmemory-policy noeviction
        save ""
        """
    with directory.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(configuration.encode())
        wait_until(lambda: _listens(port, authority), what="Redis")
        yield f"rediss://:{PASSWORD}@localhost:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int, authority: Authority) -> bool:
    certificate, key = authority.client()
    client = redis.Redis(
        "localhost", port, password=PASSWORD, ssl=True, ssl_ca_certs=str(authority.certificate),
        ssl_certfile=str(certificate), ssl_keyfile=str(key),
    )  # fmt: skip
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()
