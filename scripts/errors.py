"""Any exception as an exit code and one line without secrets: what is wrong, and what to do."""

from __future__ import annotations

import errno
import sys

from typer.exceptions import TyperException

from core.errors import NightshiftError, ServerUnreachableError

FAILED, UNREACHABLE = NightshiftError.exit_code, ServerUnreachableError.exit_code

# Of a file, the error would have its name: without one, it was stdout.
_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# SQLSTATE classes that say that the server, not the statement, is the matter: connection, resources, operator.
_SERVER_STATES = ("08", "53", "57P")


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the line for `error`."""
    code, text = _explain(error)
    from core.log import mask_secrets

    return code, mask_secrets(" ".join(text.split()))


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, TyperException):
        return error.exit_code, _usage(error)
    if isinstance(error, NightshiftError):
        return error.exit_code, str(error)
    known = _of_a_server(error)
    if known is not None:
        return known
    if isinstance(error, OSError) and error.filename:
        return FAILED, f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in _UNWRITTEN:
        return FAILED, f"what this printed was not written whole: {error.strerror}"
    return FAILED, f"{type(error).__name__}: {_first_line(error)} (nightshift --debug … shows where)"


def _of_a_server(error: BaseException) -> tuple[int, str] | None:
    redis = _is(error, "redis.exceptions", "ConnectionError", "TimeoutError")
    if redis or _is(error, "kombu.exceptions", "OperationalError"):
        return UNREACHABLE, f"Redis is out of reach: {_first_line(error)} (NIGHTSHIFT_REDIS_URL)"
    if _is(error, "sqlalchemy.exc", "TimeoutError"):
        return UNREACHABLE, f"PostgreSQL gave no connection in time: {_first_line(error)}"
    if _is(error, "sqlalchemy.exc", "DBAPIError") or _is(error, "psycopg", "Error"):
        return _database(getattr(error, "orig", None) or error)
    return None


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "nightshift"
    return f"{error.format_message().rstrip('.')} (see {path} --help)"


def _database(error: BaseException) -> tuple[int, str]:
    state = getattr(error, "sqlstate", None)
    if _is(error, "psycopg", "OperationalError") and (state is None or state.startswith(_SERVER_STATES)):
        return UNREACHABLE, f"PostgreSQL is out of reach: {_first_line(error)} (NIGHTSHIFT_DATABASE_URL)"
    return FAILED, f"the database refused: {_first_line(error)}"


def _is(error: BaseException, module: str, *names: str) -> bool:
    # An exception of a module that was never imported cannot be here: nothing is imported to find that out.
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, tuple(getattr(loaded, name) for name in names))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
