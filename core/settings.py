"""The settings: read from `NIGHTSHIFT_*` variables, `.env` or files; frozen; unknown names are refused.

Each of them is declared once, in core.setting_fields. Here is what must hold between them.
"""

from __future__ import annotations

import os
from datetime import time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from core.errors import UsageError
from core.setting_fields import SettingFields

PREFIX = "NIGHTSHIFT_"

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Settings(SettingFields):
    """The one settings class. A URL may hold a password, so both URLs are secrets."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, variables, `.env`, and the files of `secrets_dir`, if one of those names it.

        Raises:
            UsageError: it is no directory.
        """
        variables = (init_settings, env_settings, dotenv_settings)
        directory = next((found for source in variables if (found := source().get("secrets_dir"))), None)
        if directory is None:
            return (*variables, file_secret_settings)
        if not Path(directory).is_dir():
            raise UsageError(f"setting {PREFIX}SECRETS_DIR: {directory} is not a directory")
        return (*variables, SecretsSettingsSource(settings_cls, secrets_dir=directory))

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        # A message that comes back while its task still runs would start the task a second time.
        if not self.soft_time_limit < self.hard_time_limit < self.visibility_timeout:
            raise ValueError("soft_time_limit < hard_time_limit < visibility_timeout must hold")
        return self

    @model_validator(mode="after")
    def _scale_in_order(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError("scale_min <= scale_max must hold")
        if self.workers_max is not None and self.workers_max < self.workers:
            raise ValueError("workers <= workers_max must hold")
        return self

    @model_validator(mode="after")
    def _files_of_tls(self) -> Self:
        for name in ("tls_ca", "tls_certificate", "tls_key"):
            file = getattr(self, name)
            if file is not None and not file.is_file():
                raise ValueError(f"{name}: {file} is not a file")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @model_validator(mode="after")
    def _mail_is_safe(self) -> Self:
        if self.smtp_host and not self.smtp_from:
            raise ValueError("smtp_from must be set where smtp_host is")
        if self.smtp_password is not None and self.smtp_tls == "none" and self.smtp_host not in _THIS_MACHINE:
            raise ValueError("smtp_password would be readable on its way: set smtp_tls to starttls or tls")
        return self

    @model_validator(mode="after")
    def _flower_knows_its_people(self) -> Self:
        login = self.flower_user + (self.flower_password.get_secret_value() if self.flower_password else "")
        # Flower splits its list of logins at commas: what follows one would be a login of its own.
        if not login.isascii() or "," in login or ":" in self.flower_user:
            raise ValueError("flower_user and flower_password are ASCII without a comma, flower_user without a colon")
        oauth = (self.flower_oauth_key, self.flower_oauth_secret, self.flower_oauth_redirect)
        if self.flower_auth and not all(oauth):
            raise ValueError("flower_auth needs flower_oauth_key, flower_oauth_secret and flower_oauth_redirect")
        return self

    @model_validator(mode="after")
    def _collector_is_a_url(self) -> Self:
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ValueError("otlp_endpoint must begin with http:// or https://")
        return self

    @model_validator(mode="after")
    def _bucket_has_both_keys(self) -> Self:
        if bool(self.backup_s3_key_id) != (self.backup_s3_secret is not None):
            raise ValueError("backup_s3_key_id and backup_s3_secret belong together")
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
    except OSError as error:
        raise UsageError(f"settings: cannot read {error.filename}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = " " + PREFIX + ".".join(str(part) for part in first["loc"]).upper() if first["loc"] else "s"
        why = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"setting{name}: {why} (see docs/settings.md)") from None
