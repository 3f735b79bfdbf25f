"""What can be set: each setting's name, type, default, bounds and meaning, in the order of docs/settings.md.

What they may not be together, and where they are read from, is in core.settings, whose `Settings` is what is used.
"""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from core.setting_types import ClockOffset, Directory, Interval, PathOrNone, Port, Proxies, TimeOfDay


class SettingFields(BaseSettings):
    """The fields of `Settings`."""

    home: Directory = Field(Path(".nightshift"), description="Where the embedded servers and the local state live.")
    secrets_dir: PathOrNone = Field(
        None,
        description="A directory of files, each named after a setting and holding its value: "
        "`nightshift_database_url`. A variable goes before a file.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://…; empty: the embedded server. Behind PgBouncer use session pooling: "
        "a worker's batch lock lives as long as its session.",
    )
    redis_url: SecretStr | None = Field(None, description="redis://… of the broker; empty: the embedded server.")
    cache_url: SecretStr | None = Field(
        None, description="redis://… of the cache of prices, best one with `allkeys-lru`; empty: the broker's server."
    )
    tls_ca: PathOrNone = Field(
        None,
        description="The certificates (PEM) that vouch for PostgreSQL and Redis; with it a PostgreSQL elsewhere is "
        "asked with `sslmode=verify-full`. Empty: the system's, where the URL asks for TLS.",
    )
    tls_certificate: PathOrNone = Field(None, description="Our own certificate, where a server asks for one.")
    tls_key: PathOrNone = Field(None, description="Its key, readable for its user alone.")
    tls_required: bool = Field(
        False, description="Refuse a PostgreSQL or Redis on another machine unless its certificate is checked."
    )

    nightly_at: TimeOfDay = Field(time(0, 1), description="UTC time of day at which the previous day becomes due.")
    dev_night_every: Interval | None = Field(
        None, description="Development: the next day becomes due every so often, e.g. PT5M."
    )
    clock_offset: ClockOffset = Field(timedelta(0), description="Added to the wall clock everywhere; the demo uses it.")
    catch_up_days: int = Field(14, ge=1, description="A missing night older than this is marked `missed`.")
    night_deadline_minutes: float = Field(
        30.0, gt=0, description="A night that is not done so long after it fell due is late: metrics and alerts say so."
    )
    tick_seconds: float = Field(5.0, gt=0, description="How often beat sends its tick.")

    workers: int = Field(2, ge=1, le=256, description="Pool processes of the simulations worker in `nightshift up`.")
    workers_max: int | None = Field(
        None,
        ge=1,
        le=256,
        description="They grow up to so many while work waits and cores and memory are free. Empty: never.",
    )
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

    scale_min: int = Field(
        2, ge=1, le=1000, description="Workers wanted at least: they carry the night. See docs/scaling.md."
    )
    scale_max: int = Field(10, ge=1, le=1000, description="Workers wanted at most.")
    scale_backlog_seconds: float = Field(
        300.0, gt=0, description="More are wanted if what waits would take those that are there longer."
    )
    scale_queue: int = Field(100, ge=1, description="More are wanted if more messages wait.")
    scale_cpu: float = Field(0.7, gt=0, le=1, description="More are wanted if more of their CPU is in use for long.")
    scale_memory: float = Field(
        0.8, gt=0, le=1, description="More are wanted if more of their memory is in use for long."
    )
    scale_pressure_seconds: float = Field(300.0, ge=0, description="What long means, while work waits.")
    scale_up_seconds: float = Field(300.0, ge=0, description="From one change to the next one upwards, at least.")
    scale_down_seconds: float = Field(
        600.0, ge=0, description="From one change to the next one downwards, at least; and so long fewer must do."
    )

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

    keep_days: int = Field(
        90, ge=7, le=36_500, description="Portfolio days are kept for so many days, then the last day of each month."
    )
    keep_tick_days: int = Field(
        400, ge=35, le=36_500, description="Ticks are kept at least so long; whole months go. Closes and trades stay."
    )
    keep_run_days: int = Field(
        90, ge=7, le=36_500, description="Runs keep their batches so long after their end, then one row each."
    )
    keep_revision_days: int = Field(
        365, ge=7, le=36_500, description="What a reprocess changed is kept so long after its end."
    )
    keep_outbox_days: int = Field(
        30, ge=1, le=36_500, description="Notifications are kept so long after they were sent or given up."
    )
    keep_window_days: int = Field(
        30, ge=1, le=36_500, description="Windows of prices are kept so long after they can no longer be filled."
    )

    backup_to: str = Field(
        "",
        description="Where backups go by themselves: a directory, best on another disk, or `s3://bucket/prefix` (extra "
        "`s3`). Empty: none are made but by hand, to `backups` in the home.",
    )
    backup_hours: float = Field(6.0, gt=0, le=168, description="How often a backup is made and verified.")
    backup_keep_days: int = Field(
        30, ge=1, le=36_500, description="Backups are kept so long, and the newest verified one always."
    )
    backup_jobs: int = Field(2, ge=1, le=64, description="Tables that are dumped, restored or counted at once.")
    backup_wait_minutes: float = Field(
        30.0, ge=0, le=1440, description="So long at most a backup waits for the end of a night that runs."
    )
    postgres_programs: PathOrNone = Field(
        None,
        description="The directory of pg_dump and pg_restore. Empty: the embedded server's, or where they are found.",
    )
    backup_key: SecretStr | None = Field(
        None,
        description="Encrypts and signs backups: an age identity (`nightshift backup key` makes one); after a change "
        "the old ones follow behind commas. Keep a copy elsewhere: without it no backup can be read.",
    )
    backup_s3_endpoint: str = Field("", description="Another S3-compatible store than Amazon's: its URL.")
    backup_s3_region: str = Field("", description="The bucket's region; empty: `AWS_REGION`.")
    backup_s3_key_id: str = Field("", description="Access key; empty: `AWS_ACCESS_KEY_ID`, or the machine's role.")
    backup_s3_secret: SecretStr | None = Field(None, description="Its secret.")
    wal_archive: str = Field(
        "",
        description="A directory in which the embedded PostgreSQL archives its log, for recovery to any moment: "
        "see docs/backups.md. Empty: no archive.",
    )

    log_format: Literal["auto", "json", "pretty"] = Field(
        "auto", description="`auto`: pretty on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Logs go to stderr.")

    host: str = Field("127.0.0.1", description="Address that Flower and the exporter bind.")
    metrics_token: SecretStr | None = Field(
        None,
        description="What Prometheus sends as a bearer token for `/metrics` and `/health/deep`. The exporter does not "
        "start without where `HOST` is not this machine.",
    )
    flower_port: Port = Field(5555, description="0 takes a free port.")
    exporter_port: Port = Field(9808, description="0 takes a free port.")
    prometheus_port: Port = Field(9090, description="Of `nightshift up --monitoring`; 0 takes a free port.")
    alertmanager_port: Port = Field(9093, description="Of `nightshift up --monitoring`; 0 takes a free port.")
    web_session_hours: float = Field(
        12.0, gt=0, le=720, description="So long a login on the status page lasts at most."
    )
    web_idle_minutes: float = Field(60.0, gt=0, description="It ends earlier if nobody asks for a page for so long.")
    login_limit: str = Field(
        "10/15minutes", description="So many failed logins an account may have, and so many an address."
    )
    trusted_proxies: Proxies = Field(
        "",
        description="Proxies whose `X-Forwarded-For` says who asks: addresses or networks, between commas, or `*`.",
    )
    flower_user: str = Field("operator", description="Flower's basic authentication.")
    flower_password: SecretStr | None = Field(None, description="Empty: generated at start and shown there.")
    flower_control: bool = Field(
        False, description="Whether Flower may stop workers, revoke and send tasks. Else it only shows."
    )
    flower_auth: str = Field(
        "",
        description="Who may log in to Flower by OAuth: mail addresses separated by bars, or all of a domain: "
        "`.*@example.org`. Empty: basic authentication.",
    )
    flower_auth_provider: Literal["github", "gitlab", "google", "okta"] = Field(
        "google", description="Who knows these people."
    )
    flower_oauth_key: str = Field("", description="Flower's client id there.")
    flower_oauth_secret: SecretStr | None = Field(None, description="Flower's client secret there.")
    flower_oauth_redirect: str = Field("", description="`https://…/login` of Flower, as it is registered there.")

    sentry_dsn: SecretStr | None = Field(
        None, description="Where errors are reported: Sentry's DSN; needs the extra `sentry`. Empty: nowhere."
    )
    otlp_endpoint: str = Field(
        "",
        description="Where traces go: the base URL of an OpenTelemetry collector (OTLP over HTTP), "
        "e.g. `http://127.0.0.1:4318`; needs the extra `tracing`. Empty: no traces.",
    )
