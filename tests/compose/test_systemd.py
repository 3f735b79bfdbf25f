"""The units of a single server: verified by systemd itself, hardened, and the same commands as compose.yaml's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.queues import Queue
from tests.support.compose import COMPOSE, ours, secrets_of
from workers.stack import STOP_SECONDS

SYSTEMD = COMPOSE / "systemd"
COMMON = (SYSTEMD / "nightshift-.service.d" / "common.conf").read_text("utf-8")
GROUPS = {path.stem.removeprefix("worker-"): path for path in sorted((SYSTEMD / "etc").glob("worker-*.env"))}
_CREDENTIAL = re.compile(r"^LoadCredential=(|\w+:/etc/nightshift/secrets/\w+)$", re.MULTILINE)
# Of systemd-analyze: 0 is locked in, 10 is as unsafe as can be.
MOST_EXPOSED = 1.5


def group(name: str) -> dict[str, str]:
    """The variables of a group of workers."""
    return dict(line.split("=", 1) for line in GROUPS[name].read_text("utf-8").splitlines())


def exec_start(unit: str) -> str:
    """What the unit runs."""
    found: list[str] = re.findall(r"^ExecStart=(.+)$", (SYSTEMD / unit).read_text("utf-8"), re.MULTILINE)
    (line,) = found
    return line


def commands() -> dict[str, tuple[str, ...]]:
    """By unit and instance, its command as systemd starts it."""
    lines = {path.name: exec_start(path.name) for path in SYSTEMD.glob("*.service") if "@" not in path.name}
    for name in GROUPS:
        line = exec_start("nightshift-worker@.service").replace("%i", name).replace("%%", "%")
        for variable, value in group(name).items():
            line = line.replace(f"${{{variable}}}", value)
        lines[f"nightshift-worker@{name}.service"] = line
    lines["nightshift-beat@1.service"] = exec_start("nightshift-beat@.service").replace("%i", "1")
    return {unit: tuple(map(plainly, shlex.split(line))) for unit, line in lines.items()}


def plainly(word: str) -> str:
    """A word of a command without the places that differ between a container and a server."""
    return re.sub(r"^/opt/nightshift/bin/|^/var/lib/nightshift/.*schedule$", "", word)


def credentials(unit: str) -> dict[str, str]:
    """What a unit or an instance is given: by name, the file. What its drop-ins say goes before what its file says."""
    template = re.sub(r"@[^.]+", "@", unit)
    found: dict[str, str] = {}
    places = {"nightshift-.service.d", f"{template}.d", f"{unit}.d"}
    drop_ins = [path for place in places for path in (SYSTEMD / place).glob("*.conf")]
    for path in [SYSTEMD / template, *sorted(drop_ins, key=lambda path: path.name)]:
        for line in _CREDENTIAL.findall(path.read_text("utf-8")):
            name, _, file = line.partition(":/etc/nightshift/secrets/")
            # An empty one forgets those before it.
            found = found | {name: file} if name else {}
    return found


def of_compose() -> dict[str, tuple[str, ...]]:
    """The services of compose.yaml that run here too, and their commands. Roles a person makes (docs/deployment.md)."""
    return {name: tuple(map(plainly, service["command"])) for name, service in ours().items() if name != "roles"}


def test_they_run_the_commands_of_compose() -> None:
    assert set(commands().values()) == set(of_compose().values())


def test_each_has_the_urls_of_its_role_and_no_other_secret() -> None:
    services = {command: name for name, command in of_compose().items()}
    for unit, command in commands().items():
        assert credentials(unit) == secrets_of(services[command]), unit
    databases = {unit: credentials(unit)["nightshift_database_url"] for unit in commands()}
    owners = {unit for unit, file in databases.items() if file == "owner_database_url"}
    assert owners == {"nightshift-migrate.service", "nightshift-worker@control.service"}
    assert databases["nightshift-exporter.service"] == "web_database_url"


def test_the_groups_serve_every_queue() -> None:
    assert sorted(queue for name in GROUPS for queue in group(name)["QUEUES"].split(",")) == sorted(Queue)


def test_a_worker_is_told_alone_and_given_time() -> None:
    unit = (SYSTEMD / "nightshift-worker@.service").read_text("utf-8")
    assert "KillMode=mixed\n" in unit
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > STOP_SECONDS


def test_no_unit_holds_a_secret_and_each_gets_its_own() -> None:
    text = "".join(path.read_text("utf-8") for path in SYSTEMD.rglob("*") if path.is_file())
    assert not re.search(r"redis://|postgresql://|PASSWORD=", text)
    # None is written in another way than the one that `credentials` reads.
    assert text.count("Credential=") == len(_CREDENTIAL.findall(text))
    assert "Credential" not in COMMON
    assert "NIGHTSHIFT_SECRETS_DIR=%d" in COMMON


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units and instances in a directory where systemd looks first, their programs those of this environment."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    directory = tmp_path_factory.mktemp("units")
    shutil.copytree(SYSTEMD, directory, dirs_exist_ok=True)
    for path in directory.glob("*.service"):
        path.write_text(path.read_text("utf-8").replace("/opt/nightshift/bin", str(Path(sys.executable).parent)))
    for name in GROUPS:
        (directory / f"nightshift-worker@{name}.service").symlink_to("nightshift-worker@.service")
    for number in "12":
        (directory / f"nightshift-beat@{number}.service").symlink_to("nightshift-beat@.service")
    return directory


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, which finds our units first."""
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:/usr/lib/systemd/system", "SYSTEMD_COLORS": "0"}
    paths = [str(path) for path in sorted(units.glob("nightshift*.*")) if path.is_file() and "@." not in path.name]
    return subprocess.run(
        ["systemd-analyze", *arguments, *paths], capture_output=True, text=True, check=False, env=environment
    )


def test_systemd_finds_nothing_to_say(units: Path) -> None:
    result = analyze(units, "verify", "--man=no")
    assert (result.returncode, result.stderr) == (0, "")


def test_every_service_is_locked_in(units: Path) -> None:
    # The target and the slice have nothing to be locked in.
    for other in ("nightshift.target", "nightshift.slice"):
        (units / other).unlink()
    result = analyze(units, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}")
    found = re.findall(r"exposure level for (\S+): ([\d.]+)", result.stdout)
    assert len(found) == 4 + 2 + 3
    assert {name for name, level in found if float(level) > MOST_EXPOSED} == set()
    assert result.returncode == 0
