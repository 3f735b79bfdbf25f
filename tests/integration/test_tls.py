"""TLS and passwords: who is not checked is not spoken to, and a night of everything of ours runs over TLS alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from core import tls
from core.database import make_engine
from core.errors import NightshiftError, ServerUnreachableError, UsageError
from core.settings import Settings
from models.migrate import migrate
from tests.support.certificates import Authority, behind_tls
from tests.support.database import new_database
from tests.support.nights import scalar
from tests.support.nights import settings as plain
from tests.support.tls_clients import ASKS, WRONG, Ask, ask_redis, everything_over_tls
from tests.support.tls_servers import are_installed
from tests.support.workers import quick
from workers.embedded import ServerUrls


@dataclass(frozen=True, slots=True)
class Secured:
    """Both servers, reachable by TLS only, and who vouches for them."""

    authority: Authority
    stranger: Authority
    database_url: str
    redis_url: str
    admin_url: str

    def settings(self, **changes: object) -> Settings:
        """Of who does it right, but for the changes."""
        chosen = {"database_url": self.database_url, "redis_url": self.redis_url, "tls_ca": self.authority.certificate}
        return plain(**{**chosen, "tls_required": True, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def secured(servers: ServerUrls, world: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """An authority, its servers, and a stranger."""
    directory = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority.made(directory / "ours"), Authority.made(directory / "other")
    broker = make_url(servers.redis_url).set(database="0").render_as_string(hide_password=False)
    with redis.Redis.from_url(broker) as client:
        client.flushdb()
    with (
        new_database(servers.database_url, "tls_night", template=world) as url,
        behind_tls(url, authority.server()) as database_url,
        behind_tls(broker, authority.server()) as redis_url,
    ):
        yield Secured(authority, stranger, f"{database_url}?sslmode=verify-full", redis_url, servers.database_url)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_who_does_it_right_is_let_in_and_a_stranger_or_another_name_is_not_believed(secured: Secured, ask: Ask) -> None:
    ask(secured.settings())
    with pytest.raises(NightshiftError, match="certificate verify failed") as caught:
        ask(secured.settings(tls_ca=secured.stranger.certificate))
    assert secured.admin_url.split(":")[2].split("@")[0] not in str(caught.value)
    # The certificate is of localhost; by its address it is somebody else.
    elsewhere = {
        name: getattr(secured, name).replace("@localhost:", "@127.0.0.1:") for name in ("database_url", "redis_url")
    }
    with pytest.raises(NightshiftError, match=r"does not match host name|IP address mismatch"):
        ask(secured.settings(**elsewhere))


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_without_tls_or_with_a_wrong_password_nobody_is_let_in(secured: Secured, ask: Ask) -> None:
    clear = {
        "database_url": secured.database_url.replace("verify-full", "disable"),
        "redis_url": secured.redis_url.replace("rediss:", "redis:"),
    }
    with pytest.raises(NightshiftError):
        ask(secured.settings(**clear))
    wrong = {
        name: make_url(getattr(secured, name)).set(password=WRONG).render_as_string(hide_password=False)
        for name in ("database_url", "redis_url")
    }
    with pytest.raises(NightshiftError, match=r"password|WRONGPASS|username-password"):
        ask(secured.settings(**wrong))


def test_a_server_may_ask_for_our_certificate(servers: ServerUrls, database: str, tmp_path: Path) -> None:
    authority = Authority.made(tmp_path / "ca")
    certificate, key = authority.client()
    ours: dict[str, Any] = {"tls_ca": authority.certificate, "tls_certificate": certificate, "tls_key": key}
    context = authority.server(clients=True)
    with behind_tls(database, context) as database_url, behind_tls(servers.redis_url, context) as redis_url:
        urls: dict[str, Any] = {"database_url": f"{database_url}?sslmode=verify-full", "redis_url": redis_url}
        for ask in ASKS.values():
            ask(plain(**urls, **ours))
            with pytest.raises(NightshiftError):
                ask(plain(**urls, tls_ca=authority.certificate))


def test_without_tls_on_the_way_to_another_machine_nothing_is_sent() -> None:
    far: dict[str, Any] = {
        "database_url": "postgresql://u:hunter2@db.example/n",
        "redis_url": "redis://:hunter2@redis.example/0",
    }
    chosen = plain(tls_required=True, **far)
    assert tls.database_url(chosen) == "postgresql://u:hunter2@db.example/n?sslmode=verify-full"
    with pytest.raises(UsageError, match="NIGHTSHIFT_REDIS_URL is without TLS") as caught:
        tls.redis_url(chosen)
    assert "hunter2" not in str(caught.value)
    for mode in ("disable", "prefer", "require", "verify-ca"):
        with pytest.raises(UsageError, match=f"sslmode={mode}"):
            tls.database_url(plain(tls_required=True, database_url=f"{far['database_url']}?sslmode={mode}"))
    here = plain(tls_required=True, database_url="postgresql://u@127.0.0.1/n", redis_url="redis://localhost/0")
    assert (tls.database_url(here), tls.redis_url(here)) == ("postgresql://u@127.0.0.1/n", "redis://localhost/0")


def test_rediss_is_never_unchecked(secured: Secured) -> None:
    for trick in ("?ssl_cert_reqs=none", "?ssl_check_hostname=false", "?ssl_cert_reqs=none&ssl_check_hostname=false"):
        url = tls.redis_url(secured.settings(redis_url=secured.redis_url + trick))
        assert {"ssl_cert_reqs=required", "ssl_check_hostname=true"} < set(url.partition("?")[2].split("&"))
        with pytest.raises(ServerUnreachableError, match="certificate verify failed"):
            ask_redis(secured.settings(redis_url=secured.redis_url + trick, tls_ca=secured.stranger.certificate))


@pytest.mark.skipif(are_installed(), reason="test_tls_servers.py runs it with servers that know TLS themselves")
def test_a_night_of_all_our_processes_runs_over_tls(secured: Secured, tmp_path: Path) -> None:
    chosen = quick(
        tmp_path, 1000, database_url=secured.database_url, redis_url=secured.redis_url, flower_port=0,
        exporter_port=0, tls_ca=secured.authority.certificate, flower_password=WRONG, workers=1,
    )  # fmt: skip
    engine = make_engine(tls.database_url(chosen))
    migrate(engine)  # alembic's way
    engine.dispose()
    with everything_over_tls(chosen) as system:
        assert scalar(system.engine, "SELECT count(*) FROM portfolio_days") > 0


def test_the_proxy_of_these_tests_refuses_as_pg_hba_does(secured: Secured) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(secured.database_url.replace("verify-full", "disable"))
    with pytest.raises(OperationalError, match="server does not support SSL"):
        make_engine(f"{secured.admin_url}?sslmode=require").connect()
