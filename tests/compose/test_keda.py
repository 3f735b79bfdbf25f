"""The Kubernetes variant: its manifests by Kubernetes' own schemas, its names, and what of it must fit our code.

kubeconform, kustomize and a cluster are not to be had here. The patches are put in as kustomize does, as far as ours go
(maps are merged, lists by their key), and the result is validated by the strict schemas of the package
kubernetes-validate. KEDA's two objects have no schema there: what we use of them is looked at one by one.
"""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from core.queues import Queue
from core.settings import PREFIX, Settings
from services.queue_state import PRIORITY_STEPS, queue_key
from tests.support.compose import COMPOSE, ours, secrets_of
from tests.support.nights import ROOT
from workers.stack import NIGHT_QUEUES, STOP_SECONDS

KEDA = COMPOSE / "keda"
VERSION = "1.37"
Manifest = dict[str, Any]
KUSTOMIZATION: Manifest = yaml.safe_load((KEDA / "kustomization.yaml").read_text("utf-8"))
WORKLOADS = {"Deployment", "Job"}


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as our patches need one."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {name: merged(base[name], value) if name in base else value for name, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        if not all(isinstance(entry, dict) for entry in base + patch):
            return patch
        key = "mountPath" if any("mountPath" in entry for entry in base + patch) else "name"
        entries = {entry[key]: entry for entry in base}
        return list((entries | {entry[key]: merged(entries.get(entry[key]), entry) for entry in patch}).values())
    return patch


def manifests() -> list[Manifest]:
    """All of them, the patches put in."""
    found = []
    for name in KUSTOMIZATION["resources"]:
        for manifest in yaml.safe_load_all((KEDA / name).read_text("utf-8")):
            for patch in KUSTOMIZATION["patches"]:
                if manifest["kind"] in patch["target"]["kind"].strip("()").split("|"):
                    content = yaml.safe_load((KEDA / patch["path"]).read_text("utf-8"))
                    manifest = {**manifest, "spec": merged(manifest["spec"], content["spec"])}  # noqa: PLW2901
            found.append(manifest)
    return found


MANIFESTS = manifests()


def of_kind(*kinds: str) -> dict[str, Manifest]:
    """Those of these kinds, by name."""
    return {manifest["metadata"]["name"]: manifest for manifest in MANIFESTS if manifest["kind"] in kinds}


def pod(manifest: Manifest) -> Manifest:
    """The specification of its pods."""
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def command(manifest: Manifest) -> list[str]:
    """What its container runs."""
    (container,) = pod(manifest)["containers"]
    words: list[str] = container["command"]
    return words


def test_every_manifest_keeps_to_kubernetes_schema() -> None:
    for manifest in MANIFESTS:
        if not manifest["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_misspelt_field_is_seen() -> None:
    manifest = of_kind("Service")["nightshift-exporter"]
    wrong = manifest | {"spec": manifest["spec"] | {"selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_every_file_is_listed() -> None:
    listed = [*KUSTOMIZATION["resources"], *(patch["path"] for patch in KUSTOMIZATION["patches"]), "kustomization.yaml"]
    assert sorted(listed) == sorted(path.name for path in KEDA.iterdir())


def test_it_runs_the_commands_of_compose() -> None:
    kubernetes = {tuple(command(manifest)) for manifest in of_kind("Deployment", "Job").values()}
    # How many processes a container has is each place's own; roles are made there by a person (docs/security.md).
    assert kubernetes == {tuple(service["command"]) for name, service in ours().items() if name != "roles"}


def test_every_pod_is_restricted_limited_and_watched() -> None:
    for name, manifest in of_kind("Deployment", "Job").items():
        spec = pod(manifest)
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["automountServiceAccountToken"] is False, name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert "memory" in container["resources"]["limits"], name
            volumes = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
        if manifest["kind"] == "Deployment":
            assert "livenessProbe" in spec["containers"][0], name
            assert spec["initContainers"][0]["command"][-1].startswith("until nightshift db check"), name
        if "worker" in name:
            assert spec["terminationGracePeriodSeconds"] > STOP_SECONDS


def test_settings_are_settings_and_secrets_are_files() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    settings = of_kind("ConfigMap")["nightshift-settings"]["data"]
    assert set(settings) <= known
    for name, manifest in of_kind("Deployment", "Job").items():
        (container,) = pod(manifest)["containers"]
        assert {entry["name"] for entry in container.get("env", [])} <= known | {"TMPDIR"}, name
        secrets = [mount for mount in container["volumeMounts"] if mount["name"] == "secrets"]
        assert [mount["mountPath"] for mount in secrets] == [settings["NIGHTSHIFT_SECRETS_DIR"]], name


def secrets_of_pods() -> dict[str, str]:
    """By workload, the Secret that is mounted as its secrets."""
    return {
        name: next(volume["secret"]["secretName"] for volume in pod(manifest)["volumes"] if volume["name"] == "secrets")
        for name, manifest in of_kind("Deployment", "Job").items()
    }


def test_each_pod_has_the_urls_of_its_role_as_docs_say_they_are_made() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text("utf-8").replace("\\\n", " ")
    made = {
        name: dict(re.findall(r"--from-file=(\w+)=secrets/(\w+)", files))
        for name, files in re.findall(r"create secret generic (nightshift-\w+)((?: +--from-file=\S+)+)", text)
    }
    del made["nightshift-keda"]
    services = {tuple(service["command"]): name for name, service in ours().items()}
    needed: dict[str, dict[str, str]] = {}
    for name, secret in secrets_of_pods().items():
        of_compose = secrets_of(services[tuple(command(of_kind("Deployment", "Job")[name]))])
        known = needed.setdefault(secret, {})
        # Who shares a Secret has the same URLs.
        assert {key: known[key] for key in known.keys() & of_compose} == {
            key: of_compose[key] for key in known.keys() & of_compose
        }, name
        known |= of_compose
    assert made == needed
    owners = {name for name, mounted in secrets_of_pods().items() if mounted.endswith("-owner")}
    assert owners == {"nightshift-migrate", "nightshift-worker-control"}


def test_names_and_labels_match() -> None:
    labels = {
        name: manifest["spec"]["template"]["metadata"]["labels"] for name, manifest in of_kind("Deployment").items()
    }
    for name, manifest in of_kind("Deployment").items():
        assert manifest["spec"]["selector"]["matchLabels"] == labels[name]
    for manifest in of_kind("Service").values():
        (port,) = manifest["spec"]["ports"]
        (chosen,) = [name for name, its in labels.items() if its == manifest["spec"]["selector"]]
        (container,) = pod(of_kind("Deployment")[chosen])["containers"]
        assert container["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]
    for manifest in of_kind("PodDisruptionBudget").values():
        assert manifest["spec"]["selector"]["matchLabels"] in labels.values()
    components = {its["app.kubernetes.io/component"] for its in labels.values()}
    outside = of_kind("NetworkPolicy")["nightshift-outside"]["spec"]["podSelector"]["matchExpressions"][1]["values"]
    assert set(outside) <= components
    assert "nightshift-nothing" in of_kind("NetworkPolicy")


def test_keda_looks_at_every_list_of_the_queues_and_at_our_own_wish() -> None:
    scaled = of_kind("ScaledObject")["nightshift-worker-simulations"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in of_kind("Deployment")
    assert "replicas" not in of_kind("Deployment")[scaled["scaleTargetRef"]["name"]]["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 10)
    lists = [trigger for trigger in scaled["triggers"] if trigger["type"] == "redis"]
    assert {trigger["metadata"]["listName"] for trigger in lists} == {
        queue_key(queue, step) for queue in NIGHT_QUEUES for step in PRIORITY_STEPS
    }
    assert {trigger["authenticationRef"]["name"] for trigger in lists} == set(of_kind("TriggerAuthentication"))
    (wish,) = [trigger for trigger in scaled["triggers"] if trigger["type"] == "prometheus"]
    assert "nightshift_desired_workers" in wish["metadata"]["query"]
    assert wish["metadata"]["threshold"] == "1"


def test_every_queue_is_served() -> None:
    words = [command(manifest) for name, manifest in of_kind("Deployment").items() if "worker" in name]
    served = [queue for line in words for queue in line[line.index("-Q") + 1].split(",")]
    assert sorted(served) == sorted(Queue)
