"""A session of somebody else's that holds what every batch needs first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.alerts.site import Site
from services.locks import lock_granules


@contextmanager
def granules_held(site: Site) -> Iterator[None]:
    """Every batch waits, gives up at its lock timeout, and is tried again; nothing gets on."""
    with site.connect("holds everything") as connection, connection.transaction():
        lock_granules(connection, 0, 2**62, exclusive=True)
        yield
