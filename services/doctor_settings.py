"""Settings that contradict each other, that are dangerous, or that need what is not installed.

A pure function of the settings. What `core.settings` refuses never gets here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from core import tls
from core.errors import UsageError
from core.settings import PREFIX, Settings
from price_sources.registry import limits_of, sources
from services.doctor_findings import Finding, Group
from services.notify_channels import channels

SETTINGS = Group("settings")
# A tenth of what one process does on a machine of two cores: docs/performance.md.
_SLOW_USERS_PER_SECOND = 10_000
_SHORTEST_SECRET = 16
_ENCRYPTED = ("require", "verify-ca", "verify-full")
# Setting, the beginning of its value, the extra, what that installs.
_EXTRAS = (
    ("sentry_dsn", "", "sentry", "sentry_sdk"),
    ("otlp_endpoint", "", "tracing", "opentelemetry"),
    ("backup_to", "s3://", "s3", "obstore"),
)


def examine_settings(settings: Settings) -> Iterator[Finding]:
    """What is wrong with them, or one finding that nothing is."""
    found = [
        *_times(settings), *_nights(settings), *_prices(settings), *_words_to_people(settings), *_doors(settings),
        *_extras(settings),
    ]  # fmt: skip
    changed = len(settings.model_fields_set)
    yield from found or [SETTINGS.ok("settings", f"{changed} are set, none contradicts another")]


def _times(settings: Settings) -> Iterator[Finding]:
    hard, visible = settings.hard_time_limit, settings.visibility_timeout
    if visible <= 2 * hard:
        yield SETTINGS.error(
            "visibility_timeout",
            f"{visible} s, but a message may wait {hard} s behind a task and then run for {hard} s:"
            " Redis gives it to a second worker while the first is at it",
            f"set {PREFIX}VISIBILITY_TIMEOUT above {2 * hard}, the same for every process",
        )
    if settings.overdue_seconds <= settings.tick_seconds:
        yield SETTINGS.warning(
            "overdue_seconds",
            f"{settings.overdue_seconds:g} s, while a tick comes every {settings.tick_seconds:g} s:"
            " each tick publishes again what merely waits",
            f"set {PREFIX}OVERDUE_SECONDS above {PREFIX}TICK_SECONDS",
        )
    if settings.tick_seconds > 60:
        yield SETTINGS.warning(
            "tick_seconds",
            f"{settings.tick_seconds:g} s: a night starts, and a lost batch is found, so late",
            f"set {PREFIX}TICK_SECONDS to 60 or less",
        )
    seconds = settings.batch_users / _SLOW_USERS_PER_SECOND
    if seconds > settings.soft_time_limit:
        yield SETTINGS.error(
            "batch_users",
            f"{settings.batch_users:,} users take {seconds:,.0f} s on a slow day ({_SLOW_USERS_PER_SECOND:,} a second),"
            f" the soft time limit is {settings.soft_time_limit} s",
            f"set {PREFIX}BATCH_USERS to {settings.soft_time_limit * _SLOW_USERS_PER_SECOND // 2:,} or less",
        )


def _nights(settings: Settings) -> Iterator[Finding]:
    if settings.dev_night_every is not None:
        yield SETTINGS.warning(
            "dev_night_every",
            f"a night falls due every {settings.dev_night_every.total_seconds():g} s: development only",
            f"unset {PREFIX}DEV_NIGHT_EVERY",
        )
    if settings.clock_offset:
        yield SETTINGS.warning(
            "clock_offset",
            f"every clock is {settings.clock_offset.total_seconds():+,.0f} s off on purpose: for demonstrations only",
            f"unset {PREFIX}CLOCK_OFFSET",
        )
    if settings.catch_up_days > settings.keep_days:
        yield SETTINGS.warning(
            "catch_up_days",
            f"nights are caught up {settings.catch_up_days} days back, days are kept for {settings.keep_days}",
            f"set {PREFIX}KEEP_DAYS to {settings.catch_up_days} or more",
        )


def _prices(settings: Settings) -> Iterator[Finding]:
    try:
        sources(settings)
    except UsageError as error:
        yield SETTINGS.error("price_sources", str(error), f"correct {PREFIX}PRICE_SOURCES (docs/prices.md)")
    try:
        # Without the sources, which have had their say.
        limits_of(settings.model_copy(update={"price_sources": ""}))
    except UsageError as error:
        yield SETTINGS.error("price_limits", str(error), f"correct {PREFIX}PRICE_LIMITS (docs/prices.md)")


def _administrators(settings: Settings) -> Iterator[Finding]:
    try:
        reached = channels(settings)
    except UsageError as error:
        yield SETTINGS.error("notify_urls", str(error), f"correct {PREFIX}NOTIFY_URLS (docs/notifications.md)")
        return
    if not reached:
        yield SETTINGS.warning(
            "notify_urls", "nobody hears of a failed night", f"set {PREFIX}NOTIFY_URLS (docs/notifications.md)"
        )


def _words_to_people(settings: Settings) -> Iterator[Finding]:
    yield from _administrators(settings)
    parts = {
        "PUBLIC_URL": settings.public_url,
        "NOTIFY_SECRET": settings.notify_secret,
        "SMTP_HOST": settings.smtp_host,
    }
    missing = " and ".join(PREFIX + name for name, value in parts.items() if not value)
    if (settings.smtp_host and missing) or (settings.public_url and settings.notify_secret is None):
        yield SETTINGS.warning(
            "digests", f"without {missing} no user gets a digest", f"set {missing}, or none of the three"
        )
    secret = settings.notify_secret
    if secret is not None and len(secret.get_secret_value()) < _SHORTEST_SECRET:
        yield SETTINGS.error(
            "notify_secret",
            f"{len(secret.get_secret_value())} characters: the links in mails could be forged",
            f"set {PREFIX}NOTIFY_SECRET to {_SHORTEST_SECRET} random characters or more",
        )


def _doors(settings: Settings) -> Iterator[Finding]:
    if settings.flower_control and not tls.is_here(settings.host):
        yield SETTINGS.warning(
            "flower_control",
            f"whoever logs in to Flower at {settings.host} may stop workers",
            f"unset {PREFIX}FLOWER_CONTROL, or set {PREFIX}HOST to 127.0.0.1",
        )
    for name, url_of, how in (
        ("database_url", tls.database_url, "?sslmode=verify-full"),
        ("redis_url", tls.redis_url, "rediss://"),
        ("cache_url", tls.cache_url, "rediss://"),
    ):
        if host := _bare_host(url_of(settings)):
            yield SETTINGS.warning(
                name,
                f"the way to {host} is not encrypted: who listens there reads the password",
                f"{how} in {PREFIX}{name.upper()}, unless the network between is your own",
            )


def _bare_host(url: str) -> str:
    """The first host of a URL that asks for no encryption and leaves this machine; else nothing."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "rediss" or query.get("sslmode", [""])[0] in _ENCRYPTED:
        return ""
    # PostgreSQL takes hosts, and directories of sockets, as a parameter too.
    hosts = query["host"][0].split(",") if "host" in query else [parts.hostname or ""]
    return next((host for host in hosts if not tls.is_here(host)), "")


def _extras(settings: Settings) -> Iterator[Finding]:
    for name, beginning, extra, module in _EXTRAS:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text and text.startswith(beginning) and find_spec(module) is None:
            yield SETTINGS.error(
                name,
                f"{PREFIX}{name.upper()} needs {module}, which is not installed",
                f"pip install 'nightshift[{extra}]'",
            )
