"""The programs that would dump the database: whether they are new enough for its server, and know TLS where it does.

They are those that the next backup would run, found as it finds them; nothing is dumped. A backup that could not be
made is found here, before it is due.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.settings import PREFIX, Settings
from services.backup_programs import NoProgramsError, demands_tls, find_programs, knows_tls
from services.doctor_database import DATABASE, Connection
from services.doctor_findings import Finding

_CHECK = "backup programs"


def examine_programs(connection: Connection, url: str, settings: Settings) -> Iterator[Finding]:
    """Whether backups of the database of `url` find their programs. `connection` is one to it that sets nothing."""
    major = connection.info.server_version // 10_000
    try:
        programs = find_programs(major, url, directory=settings.postgres_programs)
    except NoProgramsError as error:
        # By themselves, backups fail every time; without a place for them only one made by hand would.
        say = DATABASE.error if settings.backup_to else DATABASE.warning
        yield say(_CHECK, error.lacking, error.remedy)
        return
    name = f"pg_dump {programs.major}"
    if connection.pgconn.ssl_in_use and not demands_tls(url) and not knows_tls(programs):
        yield DATABASE.warning(
            _CHECK,
            f"we speak TLS to PostgreSQL, and the {name} in {programs.directory} knows none: it is refused, or the"
            " dump goes in the clear",
            f"?sslmode=verify-full in {PREFIX}DATABASE_URL, or {PREFIX}TLS_CA, and postgresql-client-{major}: then"
            " programs without TLS are passed over",
        )
        return
    yield DATABASE.ok(_CHECK, f"{name} in {programs.directory} fits PostgreSQL {major}")
