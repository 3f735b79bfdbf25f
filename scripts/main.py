"""`nightshift`: every error is one line on stderr, and the exit code says whose it is.

0 done · 1 the work failed · 2 wrong use · 3 a server is out of reach · 130 interrupted. Data goes to stdout, everything
else to stderr. The modules of the commands import what they need when they are called.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from scripts import (
    backup,
    bench,
    chaos,
    db,
    demo,
    doctor,
    maintain,
    notify,
    operate,
    operators,
    prices,
    prices_decide,
    prices_fetch,
    report,
    reprocess,
    run,
    seed,
    status,
    up,
)
from scripts.errors import explain

app = typer.Typer(
    name="nightshift",
    help="Advances every user's trading simulations by one day, every night.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(db.app, name="db", help="The database: its schema and its digest.")
app.add_typer(prices.app, name="prices", help="What assets cost.")
app.add_typer(notify.app, name="notifications", help="What people are told, and whether it arrived.")
app.add_typer(operators.app, name="operators", help="Who may look and act on the status page.")
app.add_typer(backup.app, name="backup", help="Backups: made, proven, restored.")
app.add_typer(bench.app, name="bench", help="Measure.")
for command in (
    up.up, demo.demo, seed.seed, run.run, status.status, status.runs, status.batches, status.quarantine,
    operate.schedule, operate.health, operate.cancel, operate.pause, operate.resume, report.report, chaos.chaos,
    reprocess.reprocess, maintain.maintain, doctor.doctor,
):  # fmt: skip
    app.command()(command)

for price_command in (
    prices_fetch.fetch, prices_fetch.sources, prices_fetch.unfollow, prices_decide.correct, prices_decide.held,
):  # fmt: skip
    prices.app.command()(price_command)

_debug: list[bool] = []


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"nightshift {version('nightshift')}")
        except PackageNotFoundError:
            typer.echo("nightshift, run from its sources")
        raise typer.Exit


@app.callback()
def _globals(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - typer calls back when it is given
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _debug.append(debug)


def main() -> None:
    """The console script. Never returns."""
    # Whatever garbage there is at the end, the system takes back sooner than we find it.
    atexit.register(gc.freeze)
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command line; its exit code. Prints at most one line about an error."""
    _debug.clear()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows a question mark instead of failing.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        code = app(args=arguments, prog_name="nightshift", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as left:
        # Typer and Rich end the process themselves where a pipe broke in the middle of the output.
        if isinstance(left.__context__, BrokenPipeError):
            return _reader_left()
        raise
    except Exception as error:  # noqa: BLE001 - the edge: everything becomes one line and an exit code
        if any(_debug):
            traceback.print_exc()
        code, line = explain(error)
        sys.stderr.write(f"nightshift: {line}\n")
        return code
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """`<&-`, `>&-` and `2>&-` leave no stream at all; what would go there goes nowhere, and nothing is to be read."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _reader_left() -> int:
    # Whoever read stdout has seen enough. What is still buffered must not be written at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return 0


if __name__ == "__main__":
    main()
