"""The Dockerfile, without Docker: by a linter, what it copies, what it installs, and as whom the image runs."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compose.health import IllError, check
from compose.requirements import LEFT_OUT, requirements
from tests.support.compose import COMPOSE, ours, services
from tests.support.nights import ROOT

DOCKERFILE = (COMPOSE / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROOMS = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
POSTGRES = services()["postgres"]["image"]
FROM_BUILD = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
COPIED = [source for line in FROM_BUILD for source in line.split()]


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint has no package for this kind of machine")
    result = subprocess.run([hadolint, COMPOSE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_it_runs_as_nobody_special_and_says_how_it_is() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    last = stages[-1]
    assert len(stages) == 4  # what comes before the first, too
    assert re.findall(r"^USER (\S+)$", last, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in last
    assert not re.search(r"^ADD |curl|wget|https?://", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:3.13-slim-trixie", POSTGRES}


def test_its_postgresql_programs_are_of_the_servers_version_and_from_where_its_image_has_them() -> None:
    last = DOCKERFILE.split("\nFROM ")[-1]
    major = re.match(r"postgres:(\d+)\.\d+-trixie$", POSTGRES)
    assert major
    assert re.findall(r"apt-get install [^&]*", last) == [
        f"apt-get install --yes --no-install-recommends postgresql-client-{major[1]} \\\n    "
    ]
    # The key and the place of the packages come together; as which user, the last line says.
    assert re.findall(r"^COPY --from=postgres (\S+) (\S+)$", last, re.MULTILINE) == [
        (path, path) for path in ("/usr/local/share/keyrings/postgres.gpg.asc", "/etc/apt/sources.list.d/pgdg.list")
    ]
    assert last.index("apt-get") < last.index("USER ")


def test_no_secret_goes_in() -> None:
    assert not re.search(r"(password|secret|token|_key)\w*=", DOCKERFILE, re.IGNORECASE)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    assert sorted(allowed) == sorted(COPIED)
    assert not any(
        fnmatch.fnmatch(name, pattern) for pattern in allowed for name in (".env", "compose/secrets", ".git")
    )


def test_it_copies_what_is_there_and_all_that_is_needed() -> None:
    assert all((ROOT / source).exists() for source in COPIED)
    assert {source for source in COPIED if (ROOT / source).is_dir()} == set(ROOMS)
    needed = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert needed <= set(COPIED)


def test_it_installs_the_dependencies_but_the_embedded_redis() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = requirements(text, ["sentry", "tracing"])
    dependencies = set(PROJECT["project"]["dependencies"])
    assert {line for line in dependencies if line not in found} == {
        line for line in dependencies if line.startswith(LEFT_OUT)
    }
    assert any(line.startswith("sentry-sdk") for line in found)
    with pytest.raises(KeyError, match="nothing"):
        requirements(text, ["nothing"])


def test_its_health_check_knows_every_command_of_compose() -> None:
    """A command that it does not know would always be well."""
    for name, service in ours().items():
        if name in {"migrate", "roles"}:
            assert check(service["command"], {}) == "a command that runs"
            continue
        # Nothing of ours runs here.
        with pytest.raises((IllError, OSError)):
            check([part.replace("/var/lib/nightshift", "/nowhere") for part in service["command"]],
                  {"NIGHTSHIFT_EXPORTER_PORT": "1", "NIGHTSHIFT_FLOWER_PORT": "1"})  # fmt: skip


def test_a_beat_that_writes_no_more_is_ill(tmp_path: Path) -> None:
    command = ["celery", "-A", "workers.app", "beat", "-s", str(tmp_path / "schedule")]
    (tmp_path / "schedule.db").touch()
    assert check(command, {}).startswith("beat wrote")
    os.utime(tmp_path / "schedule.db", (0, 0))
    with pytest.raises(IllError, match="has not written"):
        check(command, {})


def test_every_file_of_the_rooms_that_is_no_python_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip
    left_out = [
        name for name in tracked
        if not name.endswith(".py") and not any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in patterns)
    ]  # fmt: skip
    assert left_out == []
