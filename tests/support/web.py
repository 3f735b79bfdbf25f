"""The status page as a browser meets it: a real server on a port of this machine, and clients that log in."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import uvicorn
from sqlalchemy import Engine

from core.database import session_scope
from core.settings import Settings
from services.operators import add_operator
from tests.support.polling import wait_until
from workers.exporter.web import make_web
from workers.ports import listen

NOW = datetime(2022, 12, 29, 12, 0, 30, tzinfo=UTC)
PASSWORDS = {"ada": "a long password of hers", "vera": "only looks, never acts"}
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@contextmanager
def served(
    engine: Engine, redis_url: str, settings: Settings, *, clock: Callable[[], datetime] = lambda: NOW
) -> Iterator[str]:
    """The exporter with its pages for the length of the block; its address."""
    web = make_web(engine, redis_url, lambda: ["simulations@here"], clock=clock, settings=settings)
    with listen("127.0.0.1", 0, "the test") as listener:
        server = uvicorn.Server(uvicorn.Config(web, log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        wait_until(lambda: server.started, what="the server")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def add_accounts(engine: Engine) -> None:
    """`ada` operates, `vera` looks."""
    with session_scope(engine) as session:
        for name, role in (("ada", "operator"), ("vera", "viewer")):
            add_operator(session, name, role, PASSWORDS[name], now=NOW)


@dataclass
class Person:
    """Somebody with a browser of his own, without scripts."""

    client: httpx.Client

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A page; nothing is followed."""
        return self.client.get(path, headers=headers)

    def csrf(self, path: str) -> str:
        """The CSRF token of a page's form."""
        found = _CSRF.search(self.get(path).text)
        assert found, path
        return found.group(1)

    def post(self, path: str, *, form_of: str | None = None, **fields: str) -> httpx.Response:
        """Send a form; with the CSRF token of the page `form_of`, if one is named."""
        token = {"csrf": self.csrf(form_of)} if form_of else {}
        return self.client.post(path, data={**token, **fields})

    def log_in(self, name: str, password: str | None = None) -> httpx.Response:
        """Log in by the form."""
        secret = PASSWORDS.get(name, "") if password is None else password
        return self.post("/login", form_of="/login", name=name, password=secret)


@contextmanager
def person(address: str, name: str | None = None) -> Iterator[Person]:
    """Somebody at the page; logged in if he has a name."""
    with httpx.Client(base_url=address, timeout=30) as client:
        somebody = Person(client)
        if name is not None:
            assert somebody.log_in(name).status_code == 303
        yield somebody
