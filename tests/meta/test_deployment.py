"""Files of deploy/ for Docker, Grafana and Kubernetes: none of it is run here, so its form and its names are checked."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from fks.interfaces.cli import cli
from tests.support.bare_machine import build_context, instructions
from tests.support.wheel import COPIED

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PINNED = re.compile(r"^[a-z0-9./-]+:(v?\d+\.\d+(\.\d+)?[a-z0-9.-]*@sha256:[0-9a-f]{64}|local)$")


class Strict(BaseModel):
    """A mapping of which every key is known."""

    model_config = ConfigDict(extra="forbid")


# ── Compose ──────────────────────────────────────────────────────────────────────────────────────
class Build(Strict):
    context: str
    dockerfile: str


class Service(Strict):
    """The keys of the Compose specification that are used."""

    image: str
    build: Build | None = None
    network_mode: Literal["host"]
    restart: Literal["unless-stopped"]
    command: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    volumes: list[str] = Field(default_factory=list)
    depends_on: list[str] = Field(default_factory=list)
    profiles: list[str] = Field(default_factory=list)
    read_only: bool = False
    init: bool = False
    shm_size: str = ""
    stop_grace_period: str = ""
    cap_drop: list[str]
    security_opt: list[str]


class Compose(Strict):
    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


def compose() -> Compose:
    return Compose.model_validate(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def mounts(service: Service) -> Iterator[tuple[str, str, str]]:
    for text in service.volumes:
        source, target, mode = (*text.split(":"), "rw")[:3]
        yield source, target, mode


def test_compose_mounts_what_exists_and_listens_on_loopback_only() -> None:
    found = compose()
    for name, service in found.services.items():
        assert PINNED.match(service.image), name
        assert service.cap_drop == ["ALL"]
        assert service.security_opt == ["no-new-privileges:true"]
        assert set(service.depends_on) <= set(found.services)
        for source, target, mode in mounts(service):
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"
                assert mode == "ro", source
            else:
                assert source in found.volumes
    assert "--web.listen-address=127.0.0.1:9090" in found.services["prometheus"].command
    grafana = found.services["grafana"].environment
    assert (grafana["GF_SERVER_HTTP_ADDR"], grafana["GF_SERVER_HTTP_PORT"]) == ("127.0.0.1", "3000")
    assert grafana["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?"), "no default password"
    build = found.services["fks"].build
    assert build is not None
    assert (DEPLOY / build.context / build.dockerfile).is_file()


def test_prometheus_finds_its_configuration_and_the_rules_where_it_looks() -> None:
    placed = {target: DEPLOY / source for source, target, _ in mounts(compose().services["prometheus"])}
    config = yaml.safe_load(placed["/etc/prometheus/prometheus.yml"].read_text())
    for rules in config["rule_files"]:
        assert f"/etc/prometheus/{rules}" in placed


def test_grafana_is_provisioned_with_every_board_and_their_data_source() -> None:
    service = compose().services["grafana"]
    placed = {target: DEPLOY / source for source, target, _ in mounts(service)}
    provisioning = placed["/etc/grafana/provisioning"]
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    assert source["apiVersion"] == 1
    (prometheus,) = source["datasources"]
    assert (prometheus["type"], prometheus["url"]) == ("prometheus", "http://127.0.0.1:9090")
    provider = yaml.safe_load((provisioning / "dashboards" / "fks.yml").read_text())
    assert provider["apiVersion"] == 1
    folder = provider["providers"][0]["options"]["path"]
    boards = {file for target, file in placed.items() if target.startswith(folder + "/")}
    assert boards == set((DEPLOY / "grafana").glob("*.json"))
    for file in boards:
        board: dict[str, Any] = json.loads(file.read_text())
        (variable,) = board["templating"]["list"]
        assert (variable["type"], variable["query"]) == ("datasource", prometheus["type"])
    assert service.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in placed


# ── the image ────────────────────────────────────────────────────────────────────────────────────
def test_dockerfile_keeps_common_rules() -> None:
    known = set(
        "FROM WORKDIR COPY RUN LABEL ENV USER VOLUME EXPOSE HEALTHCHECK STOPSIGNAL ENTRYPOINT CMD".split()  # noqa: SIM905
    )
    found = instructions()
    assert {name for name, _ in found} <= known, "ADD, MAINTAINER, ARG with secrets: not here"
    for name, text in found:
        if name == "FROM":
            assert PINNED.match(text.split()[0]), "a version with its digest"
        if name == "RUN":
            assert "sudo" not in text
            assert "apt-get" not in text or "rm -rf /var/lib/apt/lists" in text
            for command in text.split("&&"):
                if "pip install" in command:
                    assert "--no-cache-dir" in command
                    assert ("--require-hashes" in command) != ("--no-deps --no-build-isolation ." in command)
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(text), list), "signals must reach the process: no shell around it"
        if name == "WORKDIR":
            assert text.startswith("/")
    users = [text for name, text in found if name == "USER"]
    assert users[-1:] not in ([], ["root"], ["0"])
    assert [name for name, _ in found].count("HEALTHCHECK") == 1


def test_image_for_gpus_differs_by_its_base_and_its_build_of_llama() -> None:
    ours, plain = instructions("Dockerfile.gpu"), instructions()
    assert [text.split()[0] for name, text in ours if name == "FROM"][1:] == ["base", "base"]
    assert PINNED.match(ours[0][1].split()[0]), "a version with its digest"
    same = {"WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert [one for one in ours if one[0] in same] == [one for one in plain if one[0] in same]
    (environment,) = (text for name, text in ours if name == "ENV")
    assert environment.startswith(dict(plain)["ENV"])
    assert "utility" in environment, "NVML reports the free video memory"
    (build,) = (text for name, text in ours if name == "RUN" and "pip install" in text)
    (of_plain,) = (text for name, text in plain if name == "RUN" and "pip install" in text)
    steps = build.split("; }; ")[1].replace("python3.12", "python").split(" && ")
    (llama,) = {step.strip() for step in steps} - {step.strip() for step in of_plain.split("&&")}
    assert llama.startswith('PIP_INDEX_URL="$LLAMA_INDEX" ')
    assert "xllamacpp" in llama
    assert "ARG" in dict(ours)


def test_image_starts_a_command_that_exists() -> None:
    found = dict(instructions())
    argv = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    check_command(argv)
    check_command(["fks", *compose().services["fks"].command])


def test_image_carries_the_files_of_the_pages_and_the_addon() -> None:
    (build,) = (text for name, text in instructions() if name == "RUN" and "pip install" in text)
    own = build.index("--no-deps --no-build-isolation .")
    assert build.index("web_assets.py --required") < build.index("scripts/guide.py") < own, "they are part of the wheel"


def test_dockerignore_drops_no_file_that_the_image_is_built_of() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *COPIED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    copied = {path for name, path in instructions() if name == "COPY" and not path.startswith("--from")}
    assert copied == {". ."}
    named = {
        path
        for name, text in instructions()
        if name == "RUN"
        for path in re.findall(r"(?:scripts|deploy)/[\w./]+", text)
    }
    assert len(named) >= 6
    needed = {*listed.stdout.split("\0"), *named} - {""}
    context = set(build_context())
    assert needed - context == set()
    assert not [name for name in context if name.startswith((".git/", ".venv", "tests/"))]


def test_image_is_built_without_secrets() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".env", "**/secrets.toml", "deploy/fks.env", ".fks*"} <= set(ignored)


def check_command(argv: list[str]) -> None:
    """Follow `fks …` through the command line: every command and every option has to be there."""
    assert argv[0] == "fks"
    command: click.Command = cli
    context = click.Context(cli)
    rest = argv[1:]
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"fks has no {name}"
        command = found
    options = {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
    assert {text for text in rest if text.startswith("-")} <= options


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────
class Mount(Strict):
    name: str
    mountPath: str
    readOnly: bool = False


class Container(Strict):
    """The fields of a Kubernetes container that are used."""

    name: str
    image: str
    command: list[str]
    args: list[str] = Field(default_factory=list)
    env: list[dict[str, Any]] = Field(default_factory=list)
    envFrom: list[dict[str, Any]] = Field(default_factory=list)
    ports: list[dict[str, Any]] = Field(default_factory=list)
    livenessProbe: dict[str, Any] | None = None
    readinessProbe: dict[str, Any] | None = None
    resources: dict[str, dict[str, str]] = Field(default_factory=dict)
    securityContext: dict[str, Any]
    volumeMounts: list[Mount]


class PodSpec(Strict):
    terminationGracePeriodSeconds: int
    automountServiceAccountToken: bool
    securityContext: dict[str, Any]
    initContainers: list[Container]
    containers: list[Container]
    volumes: list[dict[str, Any]]


class Template(Strict):
    spec: PodSpec


class Head(Strict):
    serviceType: str
    rayStartParams: dict[str, str]
    template: Template


class Workers(Strict):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: Template


class ClusterSpec(Strict):
    rayVersion: str
    authOptions: dict[str, str]
    enableInTreeAutoscaling: bool
    headGroupSpec: Head
    workerGroupSpecs: list[Workers]


def manifest() -> tuple[dict[str, Any], ClusterSpec, dict[str, Any]]:
    cluster, claim = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    return cluster, ClusterSpec.model_validate(cluster["spec"]), claim


def test_ray_cluster_has_the_pinned_ray_and_our_own_command() -> None:
    cluster, spec, _ = manifest()
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert cluster["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert spec.rayVersion == pinned[1]
    for group in spec.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas


def test_pods_mount_what_they_declare_and_run_without_privileges() -> None:
    cluster, spec, claim = manifest()
    templates = [spec.headGroupSpec.template, *(group.template for group in spec.workerGroupSpecs)]
    for template in templates:
        pod = template.spec
        volumes = {volume["name"]: volume for volume in pod.volumes}
        assert pod.securityContext["runAsNonRoot"] is True
        assert pod.securityContext["runAsUser"] == 10001, "the user of the image"
        for container in (*pod.initContainers, *pod.containers):
            assert PINNED.match(container.image)
            assert {mount.name for mount in container.volumeMounts} <= set(volumes)
            assert container.securityContext["allowPrivilegeEscalation"] is False
        for container in pod.containers:
            check_command([*container.command, *container.args])
            for probe in (container.livenessProbe, container.readinessProbe):
                assert probe is not None, "the operator would add one that ends a pod whose keeper restarts Ray"
                check_command(probe["exec"]["command"])
            assert not [entry for entry in container.env if "PASSWORD" in entry["name"]], "secrets come by envFrom"
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in pod.volumes if "persistentVolumeClaim" in volume
        ]
        assert set(claims) <= {claim["metadata"]["name"]}
    for group in (spec.headGroupSpec, *spec.workerGroupSpecs):
        (container,) = group.template.spec.containers
        port = {entry["name"]: entry.get("value") for entry in container.env}["FKS_RAY_AGENT_LISTEN_PORT"]
        assert group.rayStartParams == {"dashboard-agent-listen-port": port}
    token = tomllib.loads((ROOT / "tests/data/kuberay.toml").read_text())["token_key"]
    for template in templates:
        (copy,) = template.spec.initContainers
        assert f"/run/ray/{token}" in copy.command
        (secret,) = (volume["secret"]["secretName"] for volume in template.spec.volumes if "secret" in volume)
        assert spec.authOptions == {"mode": "token", "secretName": secret}
    (worker,) = (c for group in spec.workerGroupSpecs for c in group.template.spec.containers)
    assert f"{cluster['metadata']['name']}-head-svc:6379" in worker.args, "the service that KubeRay makes"


@pytest.mark.parametrize("name", ["compose.yaml", "kuberay.yaml", "Dockerfile.gpu"])
def test_what_was_never_run_says_so(name: str) -> None:
    header = [line for line in (DEPLOY / name).read_text().splitlines()[:8] if line.startswith("#")]
    assert "Not run by any test" in " ".join(header)
