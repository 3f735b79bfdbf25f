"""`nightshift up`: the whole stack in the foreground, until Ctrl-C or SIGTERM ends it in order."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import NightshiftError
from scripts.cli import Servers, check_redis, connected, interruptible, note, stay

if TYPE_CHECKING:
    from core.settings import Settings
    from workers.stack import Stack


def up(
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Pool processes of the simulations worker.")
    ] = None,
) -> None:
    """Run servers (unless others are set), workers, beat, Flower and the exporter until Ctrl-C."""
    from core.settings import get_settings

    settings = get_settings()
    refuse_second(settings)
    with interruptible(), connected(settings, migrate_own=True) as servers:
        check_redis(servers.urls.redis_url)
        note("starting workers, beat, Flower and the exporter …")
        with full_stack(servers, settings, workers=workers) as stack:
            show_addresses(stack, settings)
            note("up; Ctrl-C stops everything in order")
            stay()


def refuse_second(settings: Settings) -> None:
    """Raise if a live stack serves the home already."""
    from workers.embedded import running_servers

    if running_servers(settings.nightshift_home()):
        raise NightshiftError(f"a stack runs in {settings.nightshift_home()} already: stop it, or set NIGHTSHIFT_HOME")


def full_stack(servers: Servers, settings: Settings, *, workers: int | None = None) -> AbstractContextManager[Stack]:
    """Workers, beat, Flower and exporter; enter it to start them."""
    from workers.stack import Stack

    return Stack(settings, servers.urls, workers=workers or settings.workers)


def show_addresses(stack: Stack, settings: Settings) -> None:
    """Say where Flower, with user and password, metrics and health are, and where the logs."""
    for name, address in stack.addresses.items():
        secret = f" (user {stack.flower_user}, password {stack.flower_password})" if name == "flower" else ""
        note(f"{name:<10} {address}{secret}")
    note(f"{'logs':<10} {settings.nightshift_home() / 'log'}")
