"""Every setting, once. Read from `NIGHTSHIFT_*` variables or `.env`; frozen; unknown names are refused."""

from __future__ import annotations

import os
from datetime import time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import UsageError

PREFIX = "NIGHTSHIFT_"

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The one settings class. A URL may hold a password, so both URLs are secrets."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="forbid", frozen=True
    )

    home: Path = Field(Path(".nightshift"), description="Where the embedded servers and the local state live.")
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://…; empty: the embedded server. Behind PgBouncer use session pooling: "
        "a worker's batch lock lives as long as its session.",
    )
    redis_url: SecretStr | None = Field(None, description="redis://… of the broker; empty: the embedded server.")
    cache_url: SecretStr | None = Field(
        None, description="redis://… of the cache of prices, best one with `allkeys-lru`; empty: the broker's server."
    )

    nightly_at: time = Field(time(0, 1), description="UTC time of day at which the previous day becomes due.")
    dev_night_every: timedelta | None = Field(
        None, description="Development: the next day becomes due every so often, e.g. PT5M."
    )
    clock_offset: timedelta = Field(timedelta(0), description="Added to the wall clock everywhere; the demo uses it.")
    catch_up_days: int = Field(14, ge=1, description="A missing night older than this is marked `missed`.")
    night_deadline_minutes: float = Field(
        30.0, gt=0, description="A night that is not done so long after it fell due is late: metrics and alerts say so."
    )
    tick_seconds: float = Field(5.0, gt=0, description="How often beat sends its tick.")

    workers: int = Field(2, ge=1, le=256, description="Pool processes of the simulations worker in `nightshift up`.")
    batch_users: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Users in a batch, at most.",
    )
    reprocess_in_flight: int = Field(
        4, ge=1, le=1000, description="Batches of ad-hoc work that may be queued or in work at once."
    )
    max_stale_days: int = Field(5, ge=0, le=365, description="A last close older than this values nothing.")
    max_attempts: int = Field(2, ge=1, description="Attempts at a batch before it is divided to find who breaks it.")
    max_poison_users: int = Field(100, ge=0, description="Users that a run may find so; beyond it, batches fail.")
    overdue_seconds: float = Field(
        8.0, gt=0, description="A published batch that nobody claimed or holds for this long is published again."
    )
    soft_time_limit: int = Field(50, ge=1, description="Seconds after which a task is asked to stop.")
    hard_time_limit: int = Field(90, ge=1, description="Seconds after which its process is killed.")
    visibility_timeout: int = Field(
        900, ge=1, description="Seconds until Redis gives an unacknowledged message to another worker."
    )
    message_max_bytes: int = Field(16_384, ge=256, description="A larger message is dropped, not parsed.")

    price_sources: str = Field(
        "",
        description="Sources of prices, the best first, e.g. `binance,coingecko`; also `osrs`, `csv`. Empty: none.",
    )
    price_window_seconds: int = Field(300, ge=1, le=86_400, description="How often prices are fetched.")
    price_deadline_minutes: int = Field(
        60, ge=0, description="So long a night waits for the closes of 99 % of its assets, then it alerts and runs."
    )
    price_fill_days: int = Field(7, ge=0, description="Windows that failed are filled later, back to so many days.")
    price_limits: str = Field(
        "",
        description="Other request limits than those of the sources, e.g. `coingecko=500/minute,binance=1000/minute`.",
    )
    price_user_agent: str = Field(
        "Nightshift (trading simulator; set NIGHTSHIFT_PRICE_USER_AGENT to your address)",
        description="Who asks, as the Grand Exchange's API demands.",
    )
    binance_url: str = Field("https://api.binance.com", description="Where Binance's API is.")
    coingecko_url: str = Field("https://api.coingecko.com/api/v3", description="Where CoinGecko's API is.")
    coingecko_api_key: SecretStr | None = Field(None, description="CoinGecko's key; empty: its public limits.")
    coingecko_currency: str = Field("usd", description="The currency of CoinGecko's prices.")
    osrs_url: str = Field(
        "https://prices.runescape.wiki/api/v1/osrs", description="Where the API of the Grand Exchange is."
    )
    csv_url: str = Field("", description="Where a CSV file of closes is fetched for the source `csv`.")

    notify_urls: SecretStr | None = Field(
        None,
        description="Where administrators hear of failed nights and alerts: Apprise URLs (mail, Slack, webhook …), "
        "separated by commas.",
    )
    notify_limit: str = Field("600/minute", description="So many notifications are sent at most, over all.")
    notify_user_limit: str = Field("20/day", description="So many mails a user gets at most.")
    notify_attempts: int = Field(12, ge=1, le=100, description="After so many a notification is given up.")
    notify_retry_seconds: float = Field(
        30.0, gt=0, le=3600, description="Before the second attempt; each wait is twice the last, up to an hour."
    )
    notify_secret: SecretStr | None = Field(
        None, description="Signs the links in mails to users; without it and `PUBLIC_URL` nobody gets a digest."
    )
    public_url: str = Field("", description="Where users reach the status page, e.g. `https://nightshift.example.org`.")
    smtp_host: str = Field("", description="The server that takes mails to users. Empty: users get none.")
    smtp_port: Port = Field(587, description="Its port.")
    smtp_user: str = Field("", description="Empty: without a login.")
    smtp_password: SecretStr | None = Field(None, description="Never sent without TLS but to this machine.")
    smtp_tls: Literal["none", "starttls", "tls"] = Field("starttls", description="`tls`: from the first byte on.")
    smtp_from: str = Field("", description="The sender of mails to users, e.g. `nightshift@example.org`.")

    log_format: Literal["auto", "json", "pretty"] = Field(
        "auto", description="`auto`: pretty on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Logs go to stderr.")

    host: str = Field("127.0.0.1", description="Address that Flower and the exporter bind.")
    flower_port: Port = Field(5555, description="0 takes a free port.")
    exporter_port: Port = Field(9808, description="0 takes a free port.")
    flower_user: str = Field("operator", description="Flower's basic authentication.")
    flower_password: SecretStr | None = Field(None, description="Empty: generated at start and shown there.")

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        # A message that comes back while its task still runs would start the task a second time.
        if not self.soft_time_limit < self.hard_time_limit < self.visibility_timeout:
            raise ValueError("soft_time_limit < hard_time_limit < visibility_timeout must hold")
        return self

    @model_validator(mode="after")
    def _mail_is_safe(self) -> Self:
        if self.smtp_host and not self.smtp_from:
            raise ValueError("smtp_from must be set where smtp_host is")
        if self.smtp_password is not None and self.smtp_tls == "none" and self.smtp_host not in _THIS_MACHINE:
            raise ValueError("smtp_password would be readable on its way: set smtp_tls to starttls or tls")
        return self

    @property
    def notifies(self) -> bool:
        """Whether anything is sent to anybody."""
        return self.notify_urls is not None or bool(self.smtp_host)

    @property
    def sends_digests(self) -> bool:
        """Whether users may get a mail every night: they can be reached, and can end it."""
        return bool(self.smtp_host and self.public_url) and self.notify_secret is not None

    def nightshift_home(self) -> Path:
        """The home as an absolute path: child processes may run in another directory."""
        return self.home.expanduser().absolute()


def settings_table() -> list[tuple[str, str, str]]:
    """Name, default and meaning of every setting: the rows of docs/settings.md."""
    return [
        (f"`{PREFIX}{name.upper()}`", _default_text(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def _default_text(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, timedelta):
        return f"`{int(value.total_seconds())}`"
    return f"`{value:%H:%M}`" if isinstance(value, time) else f"`{value}`"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UsageError: a value is malformed, or a `NIGHTSHIFT_*` variable is unknown.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name.upper() not in known)
    if unknown:
        # pydantic-settings reads only the names it knows from the environment, so a typo there would pass unseen.
        raise UsageError(f"unknown setting {unknown[0]}: the settings are listed in docs/settings.md")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = " " + PREFIX + ".".join(str(part) for part in first["loc"]).upper() if first["loc"] else "s"
        raise UsageError(f"setting{name}: {first['msg']} (see docs/settings.md)") from None
