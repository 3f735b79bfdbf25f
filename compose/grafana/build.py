"""`python -m compose.grafana.build`: write the dashboards' JSON, which is committed, from their Python.

A test holds that the files are what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path

from compose.grafana.boards.night import NIGHT
from compose.grafana.boards.parts import Dashboard
from compose.grafana.boards.prices import PRICES
from compose.grafana.boards.run import RUN
from compose.grafana.boards.servers import SERVERS
from compose.grafana.boards.work import WORK

DIRECTORY = Path(__file__).parent / "dashboards"
DASHBOARDS: tuple[Dashboard, ...] = (NIGHT, WORK, PRICES, SERVERS, RUN)


def files() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        f"{dashboard.uid.removeprefix('nightshift-')}.json": json.dumps(dashboard.build(), indent=2, ensure_ascii=False)
        + "\n"
        for dashboard in DASHBOARDS
    }


def main() -> None:
    """Write them."""
    for name, text in files().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
