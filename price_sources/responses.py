"""What a response and a URL say in words that may be shown: one line, no query, no header of ours."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import httpx

from price_sources import exact_json
from price_sources.closes import shown
from price_sources.source import MalformedAnswerError


def port_of(url: httpx.URL) -> int | None:
    """The port, whether it is written or meant."""
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def place_of(url: httpx.URL) -> str:
    """Scheme and host alone: a query may hold a key."""
    return shown(f"{url.scheme}://{url.host}")


def error_text(body: bytes) -> str:
    """What CoinGecko calls `error` and Binance `msg`; nothing of another body, which may be a page."""
    try:
        value = exact_json.parse(body)
    except MalformedAnswerError:
        return ""
    for name in ("error", "msg", "message"):
        if isinstance(value, dict) and isinstance(value.get(name), str):
            return str(value[name])
    return ""


def one_line(text: str) -> str:
    """At most 120 characters without any that would break a line or hide one."""
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return text if len(text) <= 120 else f"{text[:117]}..."


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds. A date is compared to the provider's own, for its clock may not be ours."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        then, at = (parsedate_to_datetime(value) for value in (text, headers.get("Date", "")))
        return max((then - at).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None
