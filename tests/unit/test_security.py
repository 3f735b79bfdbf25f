"""What holds for all of the code: SQL with parameters, reasons for exceptions, licences that are allowed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import UsageError
from core.settings import Settings
from scripts.audit import EXCEPTIONS, read_audit, refused_licences
from tests.support.nights import ROOT, settings
from workers.exporter.web import require_protection

ROOMS = ("core", "engine", "models", "price_sources", "services", "tasks", "schedules", "workers", "scripts")
# What people and other machines send arrives here; from here on it is values.
DOORS = ("workers/web", "workers/exporter", "workers/door.py", "tasks", "scripts", "price_sources")
_EXECUTES = {"execute", "exec_driver_sql", "scalar", "scalars", "text", "copy"}


def sources(*places: str) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def built(argument: ast.expr) -> bool:
    """Whether a text is put together where it is handed over: an f-string, `+`, `%` or `.format`."""
    if isinstance(argument, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in argument.values)
    if isinstance(argument, ast.BinOp):
        return isinstance(argument.op, ast.Add | ast.Mod)
    return (
        isinstance(argument, ast.Call) and isinstance(argument.func, ast.Attribute) and argument.func.attr == "format"
    )


def statements_put_together(path: Path) -> list[int]:
    """The lines in which a statement is executed that was put together there."""
    tree = ast.parse(path.read_text("utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in _EXECUTES
        and node.args
        and built(node.args[0])
    ]


def test_no_statement_is_put_together_where_input_arrives() -> None:
    found = {path.relative_to(ROOT).as_posix(): statements_put_together(path) for path in sources(*DOORS)}
    assert len(found) > 40
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_statement_that_is_put_together_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    lines = ['f"SELECT {x}"', 'text("SELECT " + x)', '"SELECT %s", [x]', '"SELECT {}".format(x)']
    file.write_text("".join(f"c.execute({line})\n" for line in lines))
    assert statements_put_together(file) == [1, 4, 2]


def test_each_exception_from_sql_with_parameters_says_why() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), number, line)
        for path in sources(*ROOMS)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "noqa" in line and "S608" in line
    ]
    assert len(found) > 30
    # The reason is behind it, or in a comment or docstring just above.
    silent = [f"{name}:{number}" for name, number, line in found if not re.search(r"S608 *[-(].*\w", line)]
    assert [place for place in silent if not said_above(place)] == []


def said_above(place: str) -> bool:
    name, number = place.rsplit(":", 1)
    lines = (ROOT / name).read_text("utf-8").splitlines()
    above = lines[max(int(number) - 14, 0) : int(number) - 1]
    return any(line.lstrip().startswith("#") or '"""' in line for line in above)


def test_licences_by_their_words() -> None:
    packages = [
        {"Name": name, "License": licence}
        for name, licence in {
            "a": "MIT", "b": "MIT OR GPL-3.0", "c": "Apache-2.0 AND BSD-3-Clause", "d": "GPL-3.0",
            "e": "MIT AND GPL-3.0", "f": "Apache Software License; MIT License", "g": "UNKNOWN",
            "h": "Mozilla Public License 2.0 (MPL 2.0)", "psycopg": "LGPL-3.0-only",
        }.items()
    ]  # fmt: skip
    assert [name for name, _ in refused_licences(packages)] == ["d", "e", "g"]
    assert all(why for why in EXCEPTIONS.values())


def test_what_pip_audit_found_and_what_it_could_not_ask() -> None:
    report = {"dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]},
        {"name": "b", "version": "1", "vulns": []},
        {"name": "c", "skip_reason": "Dependency not found on PyPI"},
    ]}  # fmt: skip
    found, skipped = read_audit(report)
    assert [(known.package, known.id, known.fixed_in) for known in found] == [("a", "PYSEC-1", "2")]
    assert skipped == ["c"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "exporter.example"])  # noqa: S104 - that is refused
def test_metrics_are_shown_beyond_this_machine_with_a_token_only(host: str) -> None:
    with pytest.raises(UsageError, match="set NIGHTSHIFT_METRICS_TOKEN"):
        require_protection(settings(host=host))
    require_protection(settings(host=host, metrics_token="of-prometheus"))  # noqa: S106
    for here in ("127.0.0.1", "::1", "localhost"):
        require_protection(settings(host=here))
    assert "of-prometheus" not in repr(settings(metrics_token="of-prometheus"))  # noqa: S106
    assert json.loads(Settings(_env_file=None).model_dump_json())["metrics_token"] is None
