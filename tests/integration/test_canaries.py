"""Canary secrets: after a night with failures of everything, none of them is anywhere but where it belongs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from sqlalchemy import Engine, make_url, text

from core.settings import get_settings
from tests.support.cli import Shell, environment, run_process
from tests.support.polling import wait_until
from tests.support.troubled import BATCH_USERS, settled, troubled_world
from tests.support.workers import System, quick
from workers.embedded import ServerUrls
from workers.stack import Stack

_CANARIES = {
    name: f"canary{number}{secrets.token_hex(8)}"
    for number, name in enumerate((
        "smtp_password", "coingecko_api_key", "notify_urls", "notify_secret", "flower_password", "sentry_dsn",
        "cache_url", "metrics_token", "backup_s3_secret", "wrong_password",
    ))
}  # fmt: skip


@dataclass
class Seen:
    """Everything that the night showed to anybody, by where."""

    texts: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def leaks(self) -> list[str]:
        """Where which secret shows."""
        return [
            f"{name} in {where}"
            for where, shown in self.texts.items()
            for name, secret in self.secrets.items()
            if secret in shown
        ]


def chosen_settings(urls: ServerUrls) -> dict[str, Any]:
    """Every secret there is; what they lead to is away, so that all of it fails."""
    canary = _CANARIES
    cache = make_url(urls.redis_url).set(password=canary["cache_url"]).render_as_string(hide_password=False)
    return {
        "smtp_host": "127.0.0.1", "smtp_port": 1, "smtp_user": "u", "smtp_password": canary["smtp_password"],
        "smtp_tls": "none", "smtp_from": "n@example.org", "public_url": "http://localhost",
        "notify_urls": f"json://user:{canary['notify_urls']}@127.0.0.1:1/{canary['notify_urls']}",
        "notify_secret": canary["notify_secret"], "flower_password": canary["flower_password"],
        "sentry_dsn": f"http://{canary['sentry_dsn']}@127.0.0.1:1/1", "cache_url": cache,
        "metrics_token": canary["metrics_token"], "backup_s3_key_id": "key",
        "backup_s3_secret": canary["backup_s3_secret"], "coingecko_url": "http://127.0.0.1:1",
        "coingecko_api_key": canary["coingecko_api_key"], "price_sources": "coingecko", "log_level": "debug",
        "flower_port": 0, "exporter_port": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def seen(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A night of three batches, of which one fails and one is retried, in the whole stack."""
    home = tmp_path_factory.mktemp("canaries") / "home"
    home.mkdir()
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    with troubled_world(servers, "canaries") as (engine, url):
        urls = ServerUrls(url, servers.redis_url)
        chosen = quick(home, BATCH_USERS, **chosen_settings(urls))
        password = make_url(url).password
        assert isinstance(password, str)
        seen = Seen(secrets=_CANARIES | {"database_url, redis_url": password})
        plain = chosen_settings(urls) | {"database_url": url, "redis_url": servers.redis_url}
        seen.env = environment(home, **plain)
        system = System(engine, urls, chosen)
        with Stack(chosen, urls, workers=1, beat=False) as stack:
            system.plan()
            wait_until(system.tick)
            wait_until(lambda: system.tick() and _ended(engine), seconds=90, what="the end of the night")
            settled(engine)
            _ask_pages(seen, stack)
            _ask_system(seen, stack)
            _ask_servers(seen, engine, servers.redis_url)
        run = _scalar(engine, "SELECT max(id) FROM runs")
        report = home / "report.html"
        made = run_process(seen.env, "report", "--run", run, "--out", report)
        assert made.code == 0, made.err
        seen.texts |= {"report": report.read_text("utf-8"), "report's stderr": made.err}
        seen.texts |= {f"log {log.name}": log.read_text("utf-8", "replace") for log in (home / "log").iterdir()}
        yield seen


def _ended(engine: Engine) -> bool:
    return bool(_scalar(engine, "SELECT count(*) FROM batches WHERE status IN ('done', 'failed')") == 3)


def _scalar(engine: Engine, statement: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(statement)).scalar_one()


def _ask_pages(seen: Seen, stack: Stack) -> None:
    token = {"Authorization": f"Bearer {_CANARIES['metrics_token']}"}
    page = stack.addresses["page"].rstrip("/")
    with httpx.Client(timeout=30) as client:
        for path in ("/metrics", "/health/deep", "/health", "/scheduler/status", "/", "/login", "/runs", "/prices"):
            answer = client.get(page + path, headers=token)
            seen.texts[f"exporter {path} {answer.status_code}"] = f"{answer.headers} {answer.text}"
        assert client.get(f"{page}/metrics").status_code == 401
        assert client.get(f"{page}/health/deep").status_code == 401
        assert client.get(f"{page}/health").status_code == 200
        flower = stack.addresses["flower"].rstrip("/")
        client.auth = ("operator", _CANARIES["flower_password"])
        workers = client.get(f"{flower}/api/workers?refresh=1").json()
        assert len(workers) >= 3
        paths = ["/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length", "/metrics"]
        paths += [f"/worker/{name}" for name in workers if name.startswith("simulations")] + ["/api/task/info/none"]
        for path in paths:
            answer = client.get(flower + path)
            seen.texts[f"flower {path} {answer.status_code}"] = answer.text
        assert "flower /broker 200" in seen.texts


def _ask_system(seen: Seen, stack: Stack) -> None:
    for name, pid in stack.processes.items():
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            seen.texts[f"ps of {name} {process.pid}"] = f"{process.name()} {' '.join(process.cmdline())}"


def _ask_servers(seen: Seen, engine: Engine, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        reads = {b"string": "get", b"list": "lrange", b"hash": "hgetall", b"set": "smembers", b"zset": "zrange"}
        for key in client.scan_iter():
            kind = client.type(key)
            limits = (0, -1) if kind in (b"list", b"zset") else ()
            seen.texts[f"redis {key!r}"] = repr(getattr(client, reads[kind])(key, *limits))
    tables = (
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    with engine.connect() as connection:
        for table in connection.execute(text(tables)).scalars().all():
            rows = connection.execute(text(f"SELECT t::text FROM {table} AS t")).scalars()
            seen.texts[f"table {table}"] = "\n".join(rows)


def test_no_secret_shows_anywhere(seen: Seen) -> None:
    assert seen.leaks() == []


def test_what_was_searched_had_something_to_say(seen: Seen) -> None:
    logs = {name: shown for name, shown in seen.texts.items() if name.startswith("log ")}
    assert {"log simulations.log", "log control.log", "log flower.log", "log exporter.log"} <= set(logs)
    assert "no space left on device" in logs["log simulations.log"]
    assert '"level": "debug"' in logs["log simulations.log"]
    assert "nightshift_batches" in seen.texts["exporter /metrics 200"]
    assert any(
        name.startswith("flower /worker/simulations") and "broker_url" in shown for name, shown in seen.texts.items()
    )
    assert "failed" in seen.texts["table batches"]
    # The administrators' channel was tried, and failed.
    assert "127.0.0.1" in seen.texts["log notifications.log"], seen.texts["log notifications.log"]
    assert any(name.startswith("redis b'nightshift:") for name in seen.texts)
    planted = Seen({"somewhere": f"password {_CANARIES['notify_secret']}"}, _CANARIES)
    assert planted.leaks() == ["notify_secret in somewhere"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"database_url": "postgresql://u:CANARY@127.0.0.1:1/n"},
        {"database_url": "postgresql://u:CANARY@db.invalid/n"},
        {"database_url": "postgresql://u:CANARY@127.0.0.1:port/n"},
        {"database_url": "postgresql://u:CANARY@127.0.0.1:1/n?sslmode=nonsense"},
        {"database_url": "postgresql://u:CANARY@127.0.0.1:1/n?nonsense=1"},
        {"database_url": "mysql://u:CANARY@127.0.0.1/n"},
        {"database_url": "u:CANARY@127.0.0.1/n"},
        {"database_url": "postgresql://u:CANARY@[::1/n"},
        {"database_url": "host=127.0.0.1 port=1 user=u password=CANARY"},
        {"database_url": "REFUSED"},
        {"redis_url": "redis://:CANARY@127.0.0.1:1/0"},
        {"redis_url": "redis://:CANARY@127.0.0.1:port/0"},
        {"redis_url": "redis://u:CANARY@redis.invalid:6379/0"},
        {"redis_url": "rediss://:CANARY@127.0.0.1:1/0"},
        {"redis_url": "http://:CANARY@127.0.0.1/0"},
        {"redis_url": ":CANARY@127.0.0.1"},
        {"redis_url": "REFUSED"},
        {"redis_url": "redis://:CANARY@elsewhere.example/0", "tls_required": "true"},
        {"smtp_password": "CANARY", "smtp_host": "mail.example", "smtp_from": "a@b.c", "smtp_tls": "none"},
        {"flower_password": "CANARY,:é"},
        {"backup_s3_secret": "CANARY"},
        {"backup_key": "CANARY", "backup_to": "HOME/backups"},
    ],
    ids=str,
)
def test_no_error_shows_a_secret(
    wrong: dict[str, str], servers: ServerUrls, database: str, redis_url: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    canary = _CANARIES["wrong_password"]
    monkeypatch.chdir(tmp_path)
    refused = {
        name: make_url(url).set(password=canary).render_as_string(hide_password=False)
        for name, url in (("database_url", database), ("redis_url", redis_url))
    }
    chosen = {"database_url": database, "redis_url": redis_url, "home": str(tmp_path / "home")}
    chosen |= {
        name: refused[name] if value == "REFUSED" else value.replace("CANARY", canary).replace("HOME", str(tmp_path))
        for name, value in wrong.items()
    }
    for name, value in chosen.items():
        monkeypatch.setenv(f"NIGHTSHIFT_{name.upper()}", value)
    command = ["backup", "create"] if "backup_key" in wrong else ["run", "--day", "2020-01-01"]
    said = Shell(capsys)("--debug", *command)
    get_settings.cache_clear()
    # A traceback, and at its end what is said without --debug.
    assert "Traceback" in said.err
    assert said.code != 0
    assert canary not in said.out + said.err
    assert make_url(servers.redis_url).password not in said.out + said.err  # type: ignore[operator]
