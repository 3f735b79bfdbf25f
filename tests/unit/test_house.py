"""The rules of the repository that no linter knows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROOMS = [pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> Iterator[str]:
    """The names in pyproject.toml, those of all dependency groups included."""
    groups = [entry for group in PROJECT["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    for requirement in [*PROJECT["project"]["dependencies"], *groups]:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match, requirement
        yield canonical(match.group())


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    malformed = [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+!]*", line)]
    assert malformed == []
    return dict(line.split("==") for line in lines)


def test_no_file_is_too_long_to_be_one_idea() -> None:
    files = [path for room in [*ROOMS, "tests"] for path in (ROOT / room).rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in files}

    assert "core/settings.py" in lengths
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_test_files_that_begin_first_exist_and_keep_their_places() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
    assert "--dist loadfile --no-loadscope-reorder" in MAKEFILE


def test_constraints_pin_every_dependency_once_and_in_order() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()

    assert list(pinned()) == sorted({line.split("==")[0] for line in lines})
    assert len(lines) == len(pinned())
    assert set(requirements()) <= set(pinned())


def test_every_room_is_checked_everywhere() -> None:
    tool = PROJECT["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    made = re.search(r"^ROOMS := (.+)$", MAKEFILE, re.MULTILINE)

    assert set(tool["mypy"]["files"]) == {*ROOMS, "tests"}
    assert set(tool["importlinter"]["root_packages"]) == set(ROOMS)
    assert {room for layer in layers for room in layer.split(" | ")} == set(ROOMS)
    assert made
    assert set(made.group(1).split()) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_a_typed_package(room: str) -> None:
    assert (ROOT / room / "__init__.py").is_file()
    assert (ROOT / room / "py.typed").is_file()


def test_every_target_of_make_has_a_help_text() -> None:
    targets = re.findall(r"^([a-z][a-z_-]*):(?!=)(.*)$", MAKEFILE, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)

    assert declared
    assert sorted(name for name, _ in targets) == sorted(declared.group(1).split())
    assert [name for name, rest in targets if not re.search(r"## \S", rest)] == []


def test_the_engine_draws_no_random_numbers() -> None:
    # import-linter sees the import of numpy, but not which part of it is used.
    files = list((ROOT / "engine").rglob("*.py"))

    assert files
    assert [path.name for path in files if re.search(r"\b(np|numpy)\.random\b", path.read_text("utf-8"))] == []


def test_every_dependency_but_numpy_and_pydantic_is_forbidden_to_the_engine() -> None:
    (contract,) = (
        contract
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract.get("source_modules") == ["engine"] and "time" in contract["forbidden_modules"]
    )
    dependencies = {
        canonical(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in PROJECT["project"]["dependencies"]
    }

    # The packages whose import name is not their distribution's name differ by punctuation only.
    assert dependencies - {canonical(name) for name in contract["forbidden_modules"]} == {"numpy", "pydantic"}
