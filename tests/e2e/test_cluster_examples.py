"""Examples for Slurm and Kubernetes: what lepton reads is read, the rest by its structure."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lepton_automl.search.executors.hosts_file import read_hosts

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
KINDS = {
    "Service": ("v1", {"selector", "ports"}),
    "Deployment": ("apps/v1", {"replicas", "strategy", "selector", "template"}),
    "StatefulSet": (
        "apps/v1",
        {"serviceName", "replicas", "podManagementPolicy", "selector", "template"},
    ),
    "NetworkPolicy": ("networking.k8s.io/v1", {"podSelector", "policyTypes"}),
}
"""Kind -> its version of the API, and the fields of its spec that the examples use."""
POD = {
    *("automountServiceAccountToken", "enableServiceLinks", "securityContext", "containers"),
    "volumes",
}
CONTAINER = {
    *("name", "image", "command", "env", "ports", "securityContext", "resources"),
    "volumeMounts",
}


def documents(path):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("place", ["slurm", "kubernetes"])
def test_the_files_of_hosts_are_ones(place):
    hosts = read_hosts(EXAMPLES / place / "hosts.toml").hosts
    assert len(hosts) == 2
    assert all(spec.command for spec in hosts.values())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_the_fields_of_its_kinds(path):
    for document in documents(path):
        version, fields = KINDS[document["kind"]]
        assert document["apiVersion"] == version
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(document["spec"]) <= fields
        assert document["metadata"]["name"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_keeps_the_schemas_of_kubernetes(path):
    schemas = pytest.importorskip("kubernetes_validate", reason="needs the extra test-kubernetes")
    for document in documents(path):
        schemas.validate(document, schemas.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_are_those_that_are_selected_and_mount_what_they_have(path):
    for document in documents(path):
        template = document["spec"].get("template")
        if template is None:
            continue
        selected = document["spec"]["selector"]["matchLabels"]
        assert selected.items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        assert set(pod) <= POD
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert set(container) <= CONTAINER
            assert all(isinstance(word, str) for word in container["command"])
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_pods_of_the_stateful_set_are_the_hosts_of_the_file():
    stateful = documents(EXAMPLES / "kubernetes" / "workers.yaml")[0]
    name, count = stateful["metadata"]["name"], stateful["spec"]["replicas"]
    hosts = read_hosts(EXAMPLES / "kubernetes" / "hosts.toml").hosts
    pods = {word.removeprefix("pod/") for spec in hosts.values() for word in spec.command}
    assert {f"{name}-{number}" for number in range(count)} <= pods


def test_workers_and_the_service_lead_to_the_scheduler():
    service, scheduler, worker = documents(EXAMPLES / "kubernetes" / "dask.yaml")
    (port,) = service["spec"]["ports"]
    (own,) = scheduler["spec"]["template"]["spec"]["containers"]
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    assert port["targetPort"] == own["ports"][0]["containerPort"]
    assert f"--port={port['targetPort']}" in own["command"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert f"tls://{service['metadata']['name']}:{port['port']}" in container["command"]
    for command in (own["command"], container["command"]):
        assert {"--tls-ca-file=/tls/ca.crt", "--tls-cert=/tls/tls.crt"} <= set(command)


def test_the_job_of_slurm_is_a_shell_script_that_parses():
    script = EXAMPLES / "slurm" / "run.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().rstrip().splitlines()[-1].startswith("exec ")
