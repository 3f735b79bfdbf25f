"""nginx with our configuration: the real program in front of a server that says what it was asked.

Paths and ports are turned to the test's, the names behind it to this machine; the certificate is a test's own. That
Flower and the exporter themselves answer where nginx looks for them is in test_services_natively.py.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme

from tests.support.compose import COMPOSE, make_secrets, services
from tests.support.polling import wait_until
from workers.server_process import free_port

CONFIGURATION = COMPOSE / "nginx" / "nginx.conf"
HOST = "nightshift.example.org"
HEADERS = (
    "strict-transport-security", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy",
)  # fmt: skip


class Echo(BaseHTTPRequestHandler):
    """Says what it was asked; with headers that nginx should say itself."""

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("X-Frame-Options", "ALLOWALL")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Door:
    """nginx, as a client meets it."""

    directory: Path
    https: int
    http: int
    health: int
    trusted: ssl.SSLContext
    behind: dict[str, int]

    def client(self, address: str = "127.0.0.1", **options: object) -> httpx.Client:
        """A client at this address of its own."""
        transport = httpx.HTTPTransport(verify=self.trusted, local_address=address)
        return httpx.Client(
            transport=transport, base_url=f"https://127.0.0.1:{self.https}", headers={"Host": HOST}, timeout=10,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def login(self) -> tuple[str, str]:
        """The operator's."""
        return "operator", (self.directory / "secrets" / "operator_password").read_text("utf-8")


def program() -> str:
    """Where nginx is; else the test is skipped."""
    path = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    return path


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """nginx runs, and something runs behind it."""
    nginx = program()
    directory = tmp_path_factory.mktemp("nginx")
    make_secrets(directory / "secrets")
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST, "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(directory / "secrets" / "tls_key"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(directory / "secrets" / "tls_certificate"), append=True)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    behind = {name: ThreadingHTTPServer(("127.0.0.1", 0), Echo) for name in ("exporter", "flower", "grafana")}
    for server in behind.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {name: int(server.server_address[1]) for name, server in behind.items()}
    door = Door(directory, free_port(None), free_port(None), free_port(None), trusted, ports)
    configuration = directory / "nginx.conf"
    configuration.write_text(turned_here(door), "utf-8")
    checked = subprocess.run([nginx, "-t", "-c", configuration], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    process = subprocess.Popen([nginx, "-c", configuration, "-g", "daemon off;"])
    try:
        wait_until(lambda: answers(door) or process.poll() is not None, what="nginx")
        assert process.poll() is None, (directory / "error.log").read_text()
        yield door
    finally:
        process.terminate()
        process.wait()
        for server in behind.values():
            server.shutdown()
            server.server_close()


def turned_here(door: Door) -> str:
    """Our configuration with the paths, ports and names of the test."""
    text = CONFIGURATION.read_text("utf-8")
    for there, here in (
        ("/tmp/", f"{door.directory}/"),  # noqa: S108 - that is what is replaced
        ("/dev/stderr", str(door.directory / "error.log")),
        ("/dev/stdout", str(door.directory / "access.log")),
        ("/run/secrets", str(door.directory / "secrets")),
        ("listen 127.0.0.1:8081", f"listen 127.0.0.1:{door.health}"),
        ("listen 8080", f"listen 127.0.0.1:{door.http}"),
        ("listen 8443", f"listen 127.0.0.1:{door.https}"),
        *((f"${name} {name}:", f"${name} 127.0.0.1:{port};#") for name, port in door.behind.items()),
    ):
        assert there in text, there
        text = text.replace(there, here)
    # The container's user reads the secrets; so does root's nginx here, whose processes are nobody's otherwise.
    return text if os.geteuid() else f"user root;\n{text}"


def answers(door: Door) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", door.https)) == 0


def test_it_speaks_tls_of_today_and_nothing_older(door: Door) -> None:
    with door.client() as client:
        assert client.get("/health").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{door.https}/health")
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", door.https)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname=HOST)


def test_plain_http_is_sent_to_tls(door: Door) -> None:
    answer = httpx.get(f"http://127.0.0.1:{door.http}/runs?before=7", headers={"Host": HOST})
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{HOST}/runs?before=7")


def test_its_own_health_check_answers(door: Door) -> None:
    (url,) = [word for word in services()["nginx"]["healthcheck"]["test"] if word.startswith("http")]
    assert url == "http://127.0.0.1:8081/"
    assert httpx.get(f"http://127.0.0.1:{door.health}/").status_code == 204


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/login", "/health/deep", "/scheduler/status", "/flower/workers", "/grafana/"]
)
def test_nobody_gets_in_without_the_login(door: Door, path: str) -> None:
    with door.client() as client:
        assert client.get(path).status_code == 401
        assert client.get(path, auth=("operator", "guess")).status_code == 401
        assert client.get(path, auth=door.login).status_code == 200


def test_health_and_the_end_of_mails_need_none(door: Door) -> None:
    with door.client() as client:
        for path in ("/health", "/unsubscribe?token=x", "/static/style.css"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["path"]) == (200, path)


@pytest.mark.parametrize("path", ["/metrics", "/flower/metrics", "/grafana/metrics", "//metrics", "/x/../metrics"])
def test_metrics_are_refused_from_outside_login_or_not(door: Door, path: str) -> None:
    with door.client() as client:
        for login in (None, door.login):
            request = client.build_request("GET", "/")
            # As it is written: the library would tidy it up.
            request.url = request.url.copy_with(raw_path=path.encode())
            assert client.send(request, auth=login).status_code in {401, 403}
        assert client.get("/metrics", auth=door.login).status_code == 403


def test_every_answer_has_the_headers_once(door: Door) -> None:
    with door.client() as client:
        for answer in (
            client.get("/health"),
            client.get("/"),
            client.get("/metrics"),
            client.get("/", auth=door.login),
        ):
            for name in HEADERS:
                assert len(answer.headers.get_list(name)) == 1, (answer.url, answer.status_code, name)
            assert answer.headers["x-frame-options"] == "SAMEORIGIN"
            assert answer.headers["server"] == "nginx"


def test_the_login_ends_at_nginx_and_flower_gets_its_own(door: Door) -> None:
    password = (door.directory / "secrets" / "nightshift_flower_password").read_text("utf-8")
    with door.client(auth=door.login) as client:
        flower = client.get("/flower/workers").json()
        assert flower["path"] == "/flower/workers"
        assert (
            flower["headers"]["authorization"] == f"Basic {base64.b64encode(f'operator:{password}'.encode()).decode()}"
        )
        for path in ("/", "/grafana/"):
            assert "authorization" not in client.get(path).json()["headers"]


def test_nobody_can_say_that_he_is_somebody_else(door: Door) -> None:
    lies = {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "http"}
    with door.client("127.0.0.9", auth=door.login) as client:
        for path in ("/", "/flower/", "/grafana/"):
            heard = client.get(path, headers=lies).json()["headers"]
            assert (heard["x-forwarded-for"], heard["x-forwarded-proto"]) == ("127.0.0.9", "https"), path
            assert heard["host"] == HOST


def test_grafana_may_open_a_websocket(door: Door) -> None:
    with door.client(auth=door.login) as client:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        heard = client.get("/grafana/api/live/ws", headers=upgrade).json()["headers"]
        assert (heard["upgrade"], heard["connection"]) == ("websocket", "upgrade")
        assert "upgrade" not in client.get("/", headers=upgrade).json()["headers"]


def test_a_large_body_is_refused(door: Door) -> None:
    with door.client(auth=door.login) as client:
        assert client.post("/reprocess", content=b"x" * 1_100_000).status_code == 413


def test_guessing_a_login_is_slowed_down(door: Door) -> None:
    with door.client("127.0.0.2") as client:
        codes = [client.get("/login", auth=("operator", str(guess))).status_code for guess in range(30)]
    assert codes[0] == 401
    assert codes[-1] == 429
    with door.client("127.0.0.3") as another:
        assert another.get("/login").status_code == 401


def test_too_many_pages_are_refused_and_one_address_does_not_hurt_another(door: Door) -> None:
    asked = 300  # 20 a second and 100 at once are answered
    request = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    plain = socket.create_connection(("127.0.0.1", door.https), source_address=("127.0.0.4", 0), timeout=30)
    # One behind the other without waiting, so that they come faster than any machine answers single ones.
    with door.trusted.wrap_socket(plain, server_hostname=HOST) as connection:
        connection.sendall(request * asked)
        said = b""
        while said.count(b"HTTP/1.1 ") < asked:
            part = connection.recv(65_536)
            assert part, "nginx closed the connection"
            said += part
    assert said.count(b"HTTP/1.1 200") >= 100
    assert said.count(b"HTTP/1.1 429") > 0
    with door.client("127.0.0.5") as another:
        assert another.get("/health").status_code == 200
