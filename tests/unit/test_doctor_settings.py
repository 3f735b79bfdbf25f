"""The doctor on settings and versions: each contradiction is found, and sound settings are called so."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from services import doctor_database, doctor_redis
from services.doctor_findings import Finding, Severity
from services.doctor_machine import examine_clocks, examine_disks
from services.doctor_settings import examine_settings

SOUND: dict[str, Any] = {"notify_urls": "json://127.0.0.1/"}
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def of(**changes: Any) -> list[Finding]:
    return list(examine_settings(Settings(_env_file=None, **SOUND | changes)))


def test_sound_settings_are_one_good_finding() -> None:
    assert [(finding.check, finding.severity) for finding in of()] == [("settings", Severity.OK)]


@pytest.mark.parametrize(
    ("check", "severity", "changes"),
    [
        ("visibility_timeout", "error", {"hard_time_limit": 500}),
        ("overdue_seconds", "warning", {"overdue_seconds": 5, "tick_seconds": 5}),
        ("tick_seconds", "warning", {"tick_seconds": 61, "overdue_seconds": 90}),
        ("batch_users", "error", {"batch_users": 600_000}),
        ("dev_night_every", "warning", {"dev_night_every": 300}),
        ("clock_offset", "warning", {"clock_offset": -3600}),
        ("catch_up_days", "warning", {"catch_up_days": 91}),
        ("notify_urls", "warning", {"notify_urls": None}),
        ("notify_urls", "warning", {"notify_urls": " , "}),
        ("notify_urls", "error", {"notify_urls": "hush"}),
        ("notify_urls", "error", {"notify_urls": "json://127.0.0.1/, slak://hush/hush"}),
        ("price_sources", "error", {"price_sources": "binanc"}),
        ("price_sources", "error", {"price_sources": "csv"}),
        ("price_limits", "error", {"price_limits": "x"}),
        ("price_limits", "error", {"price_limits": "osrs=many", "price_sources": "binance"}),
        ("digests", "warning", {"public_url": "https://nightshift.example.org"}),
        ("digests", "warning", {"smtp_host": "mail.example.org", "smtp_from": "a@example.org"}),
        ("notify_secret", "error", {"notify_secret": "short"}),
        ("flower_control", "warning", {"flower_control": True, "host": "10.0.0.1"}),
        ("database_url", "warning", {"database_url": "postgresql://u:hush@db.example.org/n"}),
        ("database_url", "warning", {"database_url": "postgresql://u:hush@/n?host=127.0.0.1,db.example.org"}),
        ("redis_url", "warning", {"redis_url": "redis://:hush@redis.example.org/0"}),
        ("cache_url", "warning", {"cache_url": "redis://:hush@cache.example.org/0"}),
    ],
)
def test_each_contradiction_is_found_with_its_remedy(check: str, severity: str, changes: dict[str, Any]) -> None:
    (finding,) = of(**changes)
    assert (finding.check, finding.severity, bool(finding.remedy)) == (check, severity, True)
    assert "hush" not in f"{finding}"
    assert "\n" not in finding.detail + finding.remedy


def test_wrong_sources_and_wrong_limits_are_a_finding_each() -> None:
    assert [finding.check for finding in of(price_sources="binanc", price_limits="x")] == [
        "price_sources",
        "price_limits",
    ]
    sound = of(price_sources="binance,coingecko", price_limits="coingecko=500/minute,osrs=10/6second")
    assert [finding.severity for finding in sound] == [Severity.OK]


def test_encrypted_and_near_servers_are_no_finding(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    near = {"database_url": "postgresql://u:p@127.0.0.1/n", "redis_url": "redis://localhost/0"}
    far = {
        "database_url": "postgresql://u:p@db.example.org/n?sslmode=verify-full",
        "redis_url": "rediss://r.example.org/0",
    }
    # With an authority a server elsewhere is spoken to by TLS alone, whatever the URL leaves out.
    vouched = {"database_url": "postgresql://u:p@db.example.org/n", "tls_ca": authority}
    sockets = {"database_url": "postgresql://u:p@/n?host=/run/postgresql", "redis_url": "redis://127.0.0.2/0"}
    for urls in (near, far, vouched, sockets):
        assert [finding.severity for finding in of(**urls)] == [Severity.OK]


@pytest.mark.parametrize(
    ("module", "extra", "changes"),
    [
        ("sentry_sdk", "sentry", {"sentry_dsn": "https://key@sentry.example.org/1"}),
        ("opentelemetry", "tracing", {"otlp_endpoint": "http://127.0.0.1:4318"}),
        ("obstore", "s3", {"backup_to": "s3://bucket/prefix"}),
    ],
)
def test_a_setting_whose_library_is_not_installed(
    module: str, extra: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [finding.severity for finding in of(**changes)] == [Severity.OK]
    # How Python itself marks a module that is not there.
    monkeypatch.setitem(sys.modules, module, None)
    (finding,) = of(**changes)
    assert (finding.severity, finding.remedy) == (Severity.ERROR, f"pip install 'nightshift[{extra}]'")


@pytest.mark.parametrize(("version", "severity"), [(150_012, "error"), (160_000, "ok"), (180_004, "ok")])
def test_versions_of_postgresql(version: int, severity: str) -> None:
    assert doctor_database.judge_version(version).severity == severity


@pytest.mark.parametrize(
    ("info", "severity", "name"),
    [
        ({"redis_version": "6.2.14"}, "error", "Redis 6.2.14"),
        ({"redis_version": "7.0.15"}, "ok", "Redis 7.0.15"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok", "Valkey 9.1.2"),
    ],
)
def test_versions_of_redis(info: dict[str, str], severity: str, name: str) -> None:
    finding = doctor_redis.judge_version(doctor_redis.BROKER, info)
    assert (finding.severity, finding.detail.startswith(name)) == (severity, True)


@pytest.mark.parametrize(("seconds", "severity"), [(0, "ok"), (-2, "warning"), (2, "warning"), (6, "error")])
def test_a_server_whose_clock_is_off(seconds: int, severity: str) -> None:
    def theirs() -> datetime:
        return NOON + timedelta(seconds=seconds)

    (finding,) = examine_clocks(lambda: NOON, {"Redis": theirs}, Settings(_env_file=None, tick_seconds=5))
    assert (finding.check, finding.severity) == ("clock of Redis", severity)
    assert f"{seconds:+.3f} s" in finding.detail


def test_a_difference_within_the_doubt_of_a_slow_answer_is_none() -> None:
    moments = (NOON + timedelta(seconds=4 * step) for step in range(100))
    (finding,) = examine_clocks(
        lambda: next(moments), {"Redis": lambda: next(moments)}, Settings(_env_file=None, tick_seconds=5)
    )
    assert finding.severity is Severity.OK


def test_a_full_disk_is_found_for_each_disk_once(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None, home=tmp_path / "not" / "yet", backup_to=str(tmp_path), wal_archive=str(tmp_path)
    )
    for limits, severity in (((0.0, 0.0), "ok"), ((1.01, 0.0), "warning"), ((1.01, 1.01), "error")):
        (finding,) = examine_disks(settings, few=limits[0], too_few=limits[1])
        assert (finding.check, finding.severity) == ("disk", severity)
        assert str(tmp_path) in finding.detail
