"""What a process asks the database before it starts: its schema, and how large a market there is.

Workers and the exporter start only on a schema that they can work with: their own, or a newer one.

A newer one is what every worker meets while an upgrade goes on: migrations only add, until no old worker is left
(docs/upgrades.md). An older one lacks what this code writes and reads: each batch and each page would fail.
"""

from __future__ import annotations

import sys

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from core.database import check_database, make_engine
from core.errors import DatabaseVersionError, ServerUnreachableError
from core.log import get_logger
from models.revisions import check_schema

log = get_logger(__name__)


def require_schema(database_url: str) -> bool:
    """End this process in one line, with exit code 1, if the database is empty or older than this code.

    False if the database does not answer. That is no reason to end: a worker waits for its servers, the exporter says
    that they are away.
    """
    engine = make_engine(database_url, application="nightshift start")
    try:
        check_database(engine)
        check_schema(engine, newer=True)
    except ServerUnreachableError as error:
        log.warning("the schema was not checked", error=str(error))
        return False
    except DatabaseVersionError as error:
        sys.stderr.write(f"nightshift: {error}\n")
        raise SystemExit(error.exit_code) from None
    finally:
        # Before the fork: no connection may be shared.
        engine.dispose()
    return True


def count_assets(database_url: str) -> int:
    """How many assets there are; 0 if the database does not say."""
    engine = make_engine(database_url, application="nightshift start")
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM assets")).scalar_one())
    except SQLAlchemyError:
        return 0
    finally:
        engine.dispose()
