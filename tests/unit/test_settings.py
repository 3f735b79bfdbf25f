"""Settings, logging and errors: what is refused, and what never shows."""

from __future__ import annotations

import json
import logging
from datetime import time, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import UsageError
from core.log import configure_logging, get_logger, log_context, mask_secrets
from core.settings import Settings, get_settings, settings_table
from tests.support.nights import ROOT, settings

CANARY = "hunter2-canary"


def test_the_page_of_settings_is_that_of_the_class() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| {name} | {default} | {meaning} |" for name, default, meaning in settings_table()]
    assert all(meaning for _, _, meaning in settings_table())


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_BATCH_USRES", "10")
    with pytest.raises(UsageError, match="unknown setting NIGHTSHIFT_BATCH_USRES"):
        get_settings()


def test_a_malformed_value_is_one_line_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_BATCH_USERS", CANARY)
    with pytest.raises(UsageError, match="NIGHTSHIFT_BATCH_USERS") as caught:
        get_settings()
    assert "\n" not in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("dev_night_every", "300", timedelta(minutes=5)),
        ("dev_night_every", "0.5", timedelta(seconds=0.5)),
        ("dev_night_every", "PT5M", timedelta(minutes=5)),
        ("clock_offset", "-60", timedelta(minutes=-1)),
        ("clock_offset", "-P36500D", timedelta(days=-36_500)),
        ("nightly_at", "02:30", time(2, 30)),
        ("home", ".", Path()),
        ("trusted_proxies", "", ""),
        ("trusted_proxies", "*", "*"),
        ("trusted_proxies", " 10.0.0.2, fd00::/8,", "10.0.0.2,fd00::/8"),
    ],
)
def test_a_variable_is_used_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: object
) -> None:
    monkeypatch.setenv(f"NIGHTSHIFT_{name.upper()}", value)
    assert getattr(get_settings(), name) == found


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dev_night_every", "PT0S", "greater than 0 seconds"),
        ("dev_night_every", "-PT5M", "greater than 0 seconds"),
        ("dev_night_every", "0", "greater than 0 seconds"),
        ("dev_night_every", "P99999999D", "366 days"),
        ("dev_night_every", "often", "valid timedelta"),
        ("clock_offset", "P99999999D", "36600 days"),
        ("clock_offset", "-P99999999D", "36600 days"),
        ("clock_offset", "9" * 400, "valid timedelta"),
        ("nightly_at", "00:01+02:00", "UTC"),
        ("nightly_at", "00:01Z", "UTC"),
        ("home", "", "a directory"),
        ("home", " ", "a directory"),
        ("trusted_proxies", "abc", "number 1 is neither"),
        ("trusted_proxies", "10.0.0.2,10.0.0.1/8", "number 2 is neither"),
        ("trusted_proxies", "10.0.0.2,*", "number 2 is neither"),
        ("trusted_proxies", "10.0.0.2:80", "number 1 is neither"),
    ],
)
def test_what_would_be_misread_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"NIGHTSHIFT_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"setting NIGHTSHIFT_{name.upper()}: .*{said}") as caught:
        get_settings()
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_an_unknown_line_in_the_env_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NIGHTSHIFT_WROKERS=3\n", encoding="utf-8")
    with pytest.raises(ValidationError):
        Settings(_env_file=tmp_path / ".env")


def test_time_limits_are_in_order() -> None:
    with pytest.raises(ValidationError, match="visibility_timeout"):
        settings(hard_time_limit=1000)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        settings().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://user:{CANARY}@host/db",
        f"redis://:{CANARY}@host:6379/0",
        f"connection failed: host=a password={CANARY} user=b",
        f"password = '{CANARY} with \\' quote' host=a",
    ],
)
def test_passwords_in_text_are_masked(text: str) -> None:
    assert CANARY not in mask_secrets(text)
    assert mask_secrets("postgresql://host/db") == "postgresql://host/db"


def test_a_line_carries_its_context_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="json"))
    log = get_logger("test")
    with log_context(run=3, batch=4, attempt=1, worker="w@1"):
        log.info(
            "hello",
            url=f"redis://:{CANARY}@h",
            password=CANARY,
            nested={"api_key": CANARY, "n": [f"password={CANARY}"]},
        )
        log.error("failed", exc_info=ConnectionError(f"postgresql://u:{CANARY}@h/db is away"))
        logging.getLogger("elsewhere").warning("to %s", f"redis://:{CANARY}@h")
    written = capsys.readouterr().err
    first = json.loads(written.splitlines()[0])
    assert {key: first[key] for key in ("event", "run", "batch", "attempt", "worker", "level")} == {
        "event": "hello", "run": 3, "batch": 4, "attempt": 1, "worker": "w@1", "level": "info",
    }  # fmt: skip
    assert CANARY not in written
    assert len(written.splitlines()) == 3


def test_a_setting_may_be_a_file_and_a_variable_goes_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nightshift_redis_url").write_text(f"redis://:{CANARY}@broker:6379/0\n", encoding="utf-8")
    (tmp_path / "nightshift_batch_users").write_text("7\n", encoding="utf-8")
    # Secrets of other programs may lie beside ours.
    (tmp_path / "postgres_password").write_text("x", encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_BATCH_USERS", "9")
    found = get_settings()
    assert found.redis_url is not None
    assert found.redis_url.get_secret_value() == f"redis://:{CANARY}@broker:6379/0"
    assert CANARY not in repr(found)
    assert found.batch_users == 9


def test_the_env_file_may_name_the_directory_of_secrets(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "nightshift_batch_users").write_text("7", encoding="utf-8")
    (tmp_path / ".env").write_text(f"NIGHTSHIFT_SECRETS_DIR={tmp_path / 'secrets'}\n", encoding="utf-8")
    assert Settings(_env_file=tmp_path / ".env").batch_users == 7


@pytest.mark.parametrize("there", ["nothing", "file"])
def test_secrets_that_cannot_be_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    directory = tmp_path / there
    if there == "file":
        directory.write_text("x", encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_SECRETS_DIR", str(directory))
    with pytest.raises(UsageError, match=r"SECRETS_DIR: .* is not a directory"):
        get_settings()


@pytest.mark.parametrize("name", ["secrets_dir", "tls_ca", "tls_certificate", "tls_key", "postgres_programs"])
def test_a_path_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"NIGHTSHIFT_{name.upper()}", "")
    assert getattr(get_settings(), name) is None
