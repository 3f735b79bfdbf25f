"""`nightshift up`: the whole stack in the foreground, until Ctrl-C or SIGTERM ends it in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import NightshiftError
from scripts.cli import Servers, check_redis, connected, interruptible, note, stay

if TYPE_CHECKING:
    from core.settings import Settings
    from workers.stack import Stack


def up(
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes of the simulations worker; one a core unless given."),
    ] = None,
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Prometheus and Alertmanager too, where they are installed.")
    ] = False,
) -> None:
    """Run the whole stack until Ctrl-C. Servers (unless others are set), workers, beat, Flower and the exporter."""
    from core.settings import get_settings
    from workers.exporter.web import require_protection

    settings = get_settings()
    # The exporter would refuse as well, again and again.
    require_protection(settings)
    refuse_second(settings)
    _check_sources(settings)
    _check_channels(settings)
    if monitoring:
        _check_monitoring(settings)
    with interruptible(), connected(settings, migrate_own=True) as servers:
        check_redis(servers.urls.redis_url)
        note("starting workers, beat, Flower and the exporter …")
        with full_stack(servers, settings, workers=workers) as stack:
            show_addresses(stack, settings)
            with _monitoring(settings, stack) if monitoring else nullcontext():
                note("up; Ctrl-C stops everything in order")
                stay()


def _check_sources(settings: Settings) -> None:
    """Raise if the settings name a source or a limit that is none: its prices would merely never come."""
    if settings.price_sources or settings.price_limits:
        from price_sources.registry import limits_of

        limits_of(settings)


def _check_channels(settings: Settings) -> None:
    """Raise if administrators are to be told by a URL that is none: they would merely never hear."""
    if settings.notify_urls is not None:
        from services.notify_channels import channels

        channels(settings)


def _check_monitoring(settings: Settings) -> None:
    """Say what is not installed, and raise if a port is taken, before anything is started."""
    from workers.monitoring import choose_ports, missing_programs

    for line in missing_programs():
        note(line)
    choose_ports(settings)


@contextmanager
def _monitoring(settings: Settings, stack: Stack) -> Iterator[None]:
    """Prometheus and Alertmanager for the length of the block, and a line for each that says where."""
    from workers.monitoring import Monitoring

    with Monitoring(settings, stack.addresses["metrics"]) as programs:
        for name, address in programs.addresses.items():
            note(f"{name:<12} {address}")
        if programs.tells_nobody:
            note("alertmanager tells nobody: the secrets' files that compose/alertmanager names are not here")
        yield


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
