"""structlog: JSON lines on stderr, or pretty ones on a terminal; context bound once; secrets masked."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import structlog

from core.settings import Settings

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Reporter = Callable[[Mapping[str, Any], ExceptionInfo | None], None]

MASK = "********"
_SECRET_KEY = re.compile(r"passw|secret|token|api_?key|authorization|credential|dsn", re.IGNORECASE)
# user:password@ of any URL, and password=… of a libpq connection string. Of a scheme its last letter is enough: looking
# for its first takes minutes in a text without blanks.
_URL_PASSWORD = re.compile(r"(?P<head>[\w+.-]://[^\s:/@]*:)[^\s@/]+(?=@)")
_DSN_PASSWORD = re.compile(r"(?P<head>\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;]+)", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """`text` with the passwords of URLs and connection strings masked."""
    return _DSN_PASSWORD.sub(rf"\g<head>{MASK}", _URL_PASSWORD.sub(rf"\g<head>{MASK}", text))


def masked(value: Any, *, depth: int = 0) -> Any:
    """`value` with the secrets masked that are in it: in texts, and of dicts whatever a telling key leads to."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, bytes):
        return mask_secrets(value.decode("utf-8", "replace"))
    if depth < 4:
        if isinstance(value, dict):
            return {
                key: MASK if _SECRET_KEY.search(str(key)) and item is not None else masked(item, depth=depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [masked(item, depth=depth + 1) for item in value]
    if isinstance(value, BaseException):
        return mask_secrets(f"{type(value).__name__}: {value}")
    return value


def _mask_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        key: MASK if _SECRET_KEY.search(key) and value is not None else masked(value) for key, value in event.items()
    }


class _Reports:
    send: Reporter | None = None


_reports = _Reports()


def report_errors_to(send: Reporter | None) -> None:
    """Have `send` called, in this process and those forked from it, with each line that is logged as an error."""
    _reports.send = send


def _report_error(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _reports.send is not None and event.get("level") in ("error", "critical"):
        _reports.send(event, _exception_of(event.get("exc_info")))
    return event


def _exception_of(info: Any) -> ExceptionInfo | None:
    if isinstance(info, BaseException):
        return type(info), info, info.__traceback__
    found = info if isinstance(info, tuple) else sys.exc_info() if info else (None, None, None)
    return None if found[1] is None else found


def configure_logging(settings: Settings) -> None:
    """Send structlog, the standard library's loggers and warnings through one masked renderer to stderr."""
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _report_error,
        # Tracebacks become text before masking: an exception's message may quote a connection string.
        structlog.processors.format_exc_info,
        _mask_event,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(default=str)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry whatever `log_context` has bound."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def log_context(**values: Any) -> Iterator[None]:
    """Bind run, batch, attempt or worker to every line logged inside."""
    with structlog.contextvars.bound_contextvars(**values):
        yield
