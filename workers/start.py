"""`python -m workers.start worker|beat OPTIONS…`: a Celery worker or beat on our app, with Celery's own options.

It imports what such a process needs and nothing else. The celery command imports every package that adds a command to
it, Flower among them, and our libraries import others if they are there: in each process of a pool that takes 20 MiB.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from workers.modules import for_good, left_out

if TYPE_CHECKING:
    import click

# Colours for structlog and Celery, metrics for redis-py, coroutines for tenacity, formats of messages for kombu: ours
# are JSON, and the rest no worker uses.
_NEEDLESS = ("rich", "pygments", "opentelemetry", "tornado", "yaml", "msgpack")


def program() -> click.Group:
    """The two commands. The app, which needs the servers' URLs, is made when one of them is called."""
    with for_good():
        with left_out(*_NEEDLESS):
            # Whoever looks for them.
            import kombu.serialization  # noqa: F401, PLC0415
            import redis  # noqa: F401, PLC0415
            import structlog  # noqa: F401, PLC0415
            import tenacity  # noqa: F401, PLC0415
            from celery.bin.base import CLIContext  # noqa: PLC0415
        import click  # noqa: PLC0415
        from celery.bin.beat import beat  # noqa: PLC0415
        from celery.bin.worker import worker  # noqa: PLC0415

        from workers import app  # noqa: PLC0415

    @click.group()
    @click.pass_context
    def start(context: click.Context) -> None:
        """Start a Celery worker or beat on Nightshift's app."""
        context.obj = CLIContext(app=app.app, no_color=False, workdir=None, quiet=True)

    for command in (worker, beat):
        # Whoever starts a process of ours watches it, and Celery's way into the background is the celery command.
        command.params = [option for option in command.params if option.name != "detach"]
        start.add_command(command)
    return start


if __name__ == "__main__":
    # The prefix, too, is that of the celery command.
    sys.exit(program().main(prog_name="workers.start", auto_envvar_prefix="CELERY"))
