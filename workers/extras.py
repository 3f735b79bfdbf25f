"""Extras: the library that a setting needs is there, or that is said at the start."""

from __future__ import annotations

import socket
from importlib.util import find_spec

from core.errors import UsageError
from core.settings import PREFIX, Settings


def require_extras(settings: Settings) -> None:
    """Look for the libraries of what is switched on; nothing is imported.

    Raises:
        UsageError: one is not installed.
    """
    for name, extra, module in (
        ("sentry_dsn", "sentry", "sentry_sdk"),
        ("otlp_endpoint", "tracing", "opentelemetry"),
    ):
        if getattr(settings, name) and find_spec(module) is None:
            raise UsageError(
                f"{PREFIX}{name.upper()} is set, but {module} is not installed: pip install 'nightshift[{extra}]'"
            )


def open_error_reports(settings: Settings) -> None:
    """Report errors to Sentry from now on, if a setting says where. Again after a fork: connections are not shared."""
    if settings.sentry_dsn is not None:
        from workers.error_reports import open_reports  # noqa: PLC0415 - an extra, and a weight

        open_reports(settings.sentry_dsn.get_secret_value(), socket.gethostname())
