"""Whole databases of one server: made beside another, put in its place, dropped. Two renames are one transaction.

The role needs CREATEDB and must own the database that it replaces.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from psycopg import errors, sql
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from core.database import SessionLimits, driver_connection, make_engine
from core.errors import NightshiftError

_MAINTENANCE = ("postgres", "template1")
_LONGEST_NAME = 63
_PROVIDERS = {"b": "builtin", "i": "icu"}
_OWN = text(
    "SELECT to_jsonb(d) || jsonb_build_object('encoding', pg_encoding_to_char(d.encoding))"
    " FROM pg_database d WHERE datname = :name"
)
_END = text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name")
_TABLES = text("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def is_empty(engine: Engine) -> bool:
    """Whether the schema `public` has no table."""
    with engine.connect() as connection:
        return int(connection.execute(_TABLES).scalar_one()) == 0


def other_sessions(engine: Engine) -> int:
    """How many clients use the database besides the one that asks."""
    with engine.connect() as connection:
        return int(connection.execute(_OTHERS).scalar_one())


class Server:
    """The server of a database's URL; `name` is the database's."""

    def __init__(self, url: str) -> None:
        """Connect to another database of the server.

        Raises:
            NightshiftError: the URL names no database, or no other one can be entered.
        """
        self._url = make_url(url)
        self.name = self._url.database or ""
        if not self.name:
            raise NightshiftError("NIGHTSHIFT_DATABASE_URL names no database")
        self._engine = self._enter()

    def url(self, database: str) -> str:
        """The URL of another database of this server."""
        return self._url.set(database=database).render_as_string(hide_password=False)

    @contextmanager
    def connect(self) -> Iterator[sqlalchemy.Connection]:
        """A connection to the other database, in autocommit mode."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def create_beside(self, suffix: str) -> str:
        """Make an empty database of the same encoding and order; its name.

        Raises:
            NightshiftError: the role may not.
        """
        with self.connect() as connection:
            name = self._free_name(connection, suffix)
            own = connection.execute(_OWN, {"name": self.name}).scalar_one()
            options = [sql.SQL("TEMPLATE template0 ENCODING {}").format(sql.Literal(own["encoding"]))]
            for option, value in (("LC_COLLATE", own["datcollate"]), ("LC_CTYPE", own["datctype"])):
                options.append(sql.SQL(f"{option} {{}}").format(sql.Literal(value)))
            if provider := _PROVIDERS.get(own["datlocprovider"]):
                template = f"LOCALE_PROVIDER {provider} {provider.upper()}_LOCALE {{}}"
                options.append(sql.SQL(template).format(sql.Literal(own.get("datlocale") or own.get("daticulocale"))))
            create = sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), sql.SQL(" ").join(options))
            try:
                driver_connection(connection).execute(create)
            except errors.InsufficientPrivilege:
                raise NightshiftError(
                    "the role of NIGHTSHIFT_DATABASE_URL may not create a database: ALTER ROLE … CREATEDB, or restore"
                    " as a role that may"
                ) from None
        return name

    def swap(self, new: str, suffix: str) -> str:
        """Give `new` the database's name, at once; the name that the old one has now. Sessions of both end.

        Raises:
            NightshiftError: the role does not own the database.
        """
        mine, theirs = sql.Identifier(self.name), sql.Identifier(new)
        with self.connect() as connection:
            kept = self._free_name(connection, suffix)
            aside = sql.Identifier(kept)
            raw = driver_connection(connection)
            try:
                raw.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(mine))
            except errors.InsufficientPrivilege:
                raise NightshiftError(f"the role of NIGHTSHIFT_DATABASE_URL does not own {self.name}") from None
            renamed = self.name
            try:
                for name in (self.name, new):
                    connection.execute(_END, {"name": name})
                with raw.transaction():
                    raw.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(mine, aside))
                    raw.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(theirs, mine))
                renamed = kept
            finally:
                raw.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(renamed)))
        return kept

    def drop(self, name: str) -> None:
        """Drop a database of the server, and end its sessions."""
        with self.connect() as connection:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            driver_connection(connection).execute(drop)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _free_name(self, connection: sqlalchemy.Connection, suffix: str) -> str:
        """The database's name with the suffix; numbered, where one of the same second has it already."""
        endings = (suffix if number == 1 else f"{suffix}_{number}" for number in itertools.count(1))
        names = (f"{self.name[: _LONGEST_NAME - len(ending) - 1]}_{ending}" for ending in endings)
        return next(name for name in names if connection.execute(_OWN, {"name": name}).one_or_none() is None)

    def _enter(self) -> Engine:
        last: Exception | None = None
        for name in _MAINTENANCE:
            if name == self.name:
                continue
            engine = make_engine(self.url(name), application="nightshift restore", limits=SessionLimits())
            try:
                with engine.connect():
                    return engine
            except (OperationalError, ProgrammingError) as error:
                engine.dispose()
                last = error
        raise NightshiftError(f"no other database of the server can be entered, neither of {_MAINTENANCE}") from last
