"""The environment of a child process: this process' settings, however it came by them, and where the servers are."""

from __future__ import annotations

import os

from core.settings import PREFIX, Settings
from workers.embedded import ServerUrls


def child_environment(settings: Settings, urls: ServerUrls) -> dict[str, str]:
    """`os.environ` with every setting of `settings` as a variable, and the URLs of the servers.

    Passwords go this way because only the same user reads a process' environment, while everybody reads command lines.
    """
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        environment[PREFIX + name.upper()] = str(value)
    for name in ("flower_password", "flower_oauth_secret"):
        # A dump shows a secret as asterisks; only Flower needs these, and the stack tells it.
        environment.pop(PREFIX + name.upper(), None)
    if settings.flower_auth:
        # Useless without its secret, and refused.
        del environment[f"{PREFIX}FLOWER_AUTH"]
    for name in (
        "cache_url", "coingecko_api_key", "notify_urls", "notify_secret", "smtp_password", "sentry_dsn",
        "backup_key", "backup_s3_secret", "metrics_token",
    ):  # fmt: skip
        if (secret := getattr(settings, name)) is not None:
            environment[PREFIX + name.upper()] = secret.get_secret_value()
    environment[f"{PREFIX}HOME"] = str(settings.nightshift_home())
    environment[f"{PREFIX}DATABASE_URL"] = urls.database_url
    environment[f"{PREFIX}REDIS_URL"] = urls.redis_url
    return environment
