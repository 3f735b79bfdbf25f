"""The fetchers of a process: one for each source that the settings name, made when it is first needed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from core.errors import UsageError
from core.settings import Settings
from price_sources.fetching import Fetcher
from price_sources.rate_limit import SharedLimit
from price_sources.registry import limits_of, sources


class Fetchers:
    """Made after the fork. A context manager; a worker process keeps it to its end.

    Args:
        redis_url: where the limits lie that all workers share.
    """

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._limit: SharedLimit | None = None
        self._made: dict[str, Fetcher] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for fetcher in self._made.values():
            fetcher.close()
        self._made.clear()
        if self._limit is not None:
            self._limit.close()
            self._limit = None

    def find(self, name: str) -> Fetcher | None:
        """The fetcher of a source; None if the settings do not name it."""
        if name not in self._made:
            source = sources(self._settings).get(name)
            if source is None:
                return None
            self._limit = self._limit or SharedLimit(self._redis_url)
            self._made[name] = Fetcher(source, self._limit, item=limits_of(self._settings)[name])
        return self._made[name]

    def get(self, name: str) -> Fetcher:
        """The fetcher of a source.

        Raises:
            UsageError: the settings do not name it.
        """
        fetcher = self.find(name)
        if fetcher is None:
            raise UsageError(f"source {name!r} is not enabled: name it in NIGHTSHIFT_PRICE_SOURCES")
        return fetcher
