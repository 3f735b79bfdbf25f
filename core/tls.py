"""Where the settings say the servers are, with TLS in the URL: whoever takes a URL here checks whom he meets.

Guarantees: `rediss://` always means a certificate that was checked, name included (kombu by itself would speak in the
clear to a `rediss://` without options). With `NIGHTSHIFT_TLS_CA` a PostgreSQL elsewhere gets `sslmode=verify-full`.
With `NIGHTSHIFT_TLS_REQUIRED` a server elsewhere that is not checked so is refused before a password is on its way.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from core.errors import UsageError
from core.settings import PREFIX, Settings


def is_here(host: str) -> bool:
    """Whether a host is this machine, or a directory of Unix sockets, so that nobody is on the way."""
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def database_url(settings: Settings) -> str:
    """PostgreSQL's URL, empty if none is set.

    Raises:
        UsageError: TLS is required, and this would do without.
    """
    if settings.database_url is None:
        return ""
    url = settings.database_url.get_secret_value()
    parts = _split(url, "DATABASE_URL")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = [host or "" for host in (query.get("host") or parts.hostname or "").split(",")]
    here = all(is_here(unquote(host)) for host in hosts)
    if not here and (settings.tls_ca or settings.tls_required):
        query.setdefault("sslmode", "verify-full")
    if query.get("sslmode", "disable") not in ("disable", "allow", "prefer"):
        _add(query, {"sslrootcert": settings.tls_ca, "sslcert": settings.tls_certificate, "sslkey": settings.tls_key})
    if settings.tls_required and not here and query.get("sslmode") != "verify-full":
        raise UsageError(
            f"{PREFIX}DATABASE_URL has sslmode={query['sslmode']}, and {PREFIX}TLS_REQUIRED is set: write"
            " sslmode=verify-full"
        )
    return _with_query(url, query)


def redis_url(settings: Settings) -> str:
    """The broker's URL, empty if none is set; UsageError as of `database_url`."""
    return _redis_url(settings, "redis_url")


def cache_url(settings: Settings) -> str:
    """The cache's URL, empty if none is set; UsageError as of `database_url`."""
    return _redis_url(settings, "cache_url")


def redis_tls(url: str) -> dict[str, Any] | None:
    """redis-py's options of TLS that `url` says, None of one without: Flower does not read them from the URL."""
    if not url.startswith("rediss://"):
        return None
    query = {name: value for name, value in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")}
    # Never less than checked, whatever the URL says.
    return {**query, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def _redis_url(settings: Settings, name: str) -> str:
    secret = getattr(settings, name)
    if secret is None:
        return ""
    url: str = secret.get_secret_value()
    parts = _split(url, name.upper())
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "rediss":
        query["ssl_cert_reqs"] = "required"
        query["ssl_check_hostname"] = "true"
        _add(query, {
            "ssl_ca_certs": settings.tls_ca, "ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key,
        })  # fmt: skip
    elif settings.tls_required and parts.scheme == "redis" and not is_here(parts.hostname or ""):
        raise UsageError(f"{PREFIX}{name.upper()} is without TLS, and {PREFIX}TLS_REQUIRED is set: write rediss://")
    return _with_query(url, query)


def _split(url: str, name: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise UsageError(f"{PREFIX}{name} is not a URL") from None


def _add(query: dict[str, str], files: Mapping[str, object]) -> None:
    for name, file in files.items():
        if file is not None:
            query.setdefault(name, str(file))


def _with_query(url: str, query: Mapping[str, str]) -> str:
    # The rest stays as it was written: a password must not be quoted anew.
    return url.partition("?")[0] + (f"?{urlencode(query, safe='/')}" if query else "")
