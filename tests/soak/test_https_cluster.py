"""HTTPS on each machine of a cluster: the gateway waits for the last worker's certificate, then answers there too."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fks.config.endpoints import load_node
from fks.config.paths import Paths
from tests.support.certificates import certificate
from tests.support.cluster import START_S, Cluster, running_cluster
from tests.support.system import System
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(500)]
PLACEMENT = "guardian=head,orders=head,collector:*=head"


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    cert, key = certificate(tmp_path / "tls", "fks.example")
    return {"FKS_HTTP_TLS_CERT": str(cert), "FKS_HTTP_TLS_KEY": str(key)}


@pytest.fixture
def cluster(tls: dict[str, str]) -> Iterator[Cluster]:
    with running_cluster(0, **tls, FKS_SIM_ENABLED="true", FKS_SUPERVISION_PLACEMENT=PLACEMENT) as found:
        yield found


def join(cluster: Cluster, name: str, **changes: str) -> System:
    """Start a worker with the cluster's settings and these."""
    node = cluster.head.node
    stores = {"FKS_DATABASE_URL": node["database_url"], "FKS_REDIS_URL": node["redis_url"]}
    cluster.nodes[name] = System.at(cluster.place / name, **cluster.settings, **stores)
    cluster.nodes[name].env.update(changes)
    cluster.join(name)
    wait_until(lambda: f"raylet@{name}" in cluster.head.components(), deadline_s=15.0)
    return cluster.nodes[name]


def answers(system: System) -> int:
    """Return the status of /ready on a machine, by the address and the trust that its own commands use; 0 for none."""
    node = load_node(Paths.of(system.home))
    trust = node.tls_context()
    assert isinstance(trust, ssl.SSLContext)
    assert node.gateway_url.startswith("https://")
    try:
        return httpx.get(f"{node.gateway_url}/ready", verify=trust, timeout=5.0, trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def test_each_machine_answers_https_once_the_last_has_its_certificate(cluster: Cluster, tmp_path: Path) -> None:
    own, key = certificate(tmp_path / "tls", "w2.example")
    elsewhere = {"FKS_HTTP_TLS_CERT": str(own), "FKS_HTTP_TLS_KEY": str(key)}
    assert answers(cluster.head) == 200
    first, second = join(cluster, "w1"), join(cluster, "w2", **elsewhere)
    path, key_path = cluster.settings["FKS_HTTP_TLS_CERT"], cluster.settings["FKS_HTTP_TLS_KEY"]
    reason = f"gateway on w2: http.tls_cert is {own} there, and {path} on the head"
    wait_until(
        lambda: any(text.startswith(reason) for text in cluster.head.status()["reasons"]),
        deadline_s=30.0,
        every_s=0.5,
    )
    done = cluster.head.fks("cluster", "check", "--file", "none.yaml", "--json", check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert (checks["w1 gateway"]["state"], checks["w2 gateway"]["state"]) == ("ok", "bad")
    wait_until(lambda: named_in_the_log(cluster) == ["w2"], deadline_s=10.0)
    assert (answers(cluster.head), answers(first), answers(second)) == (200, 0, 0), "it stays on the head"
    second.down()
    second = join(cluster, "w2")
    for node in (first, second):
        wait_until(lambda node=node: answers(node) == 200, deadline_s=120.0, every_s=0.5)
        assert node.json("status")["source"] == "gateway"
        assert node.fks("orders", "list").returncode == 0
    assert answers(cluster.head) == 200
    wait_until(lambda: cluster.head.status()["state"] == "healthy", deadline_s=60.0, every_s=0.5)
    assert gateway_nodes(cluster) == ["h0", "w1", "w2"]
    third = join(cluster, "w3", **elsewhere)
    wait_until(lambda: "gateway on w3" in str(cluster.head.status()["reasons"]), deadline_s=30.0, every_s=0.5)
    before = replicas(cluster)
    cluster.head.fks("restart", "gateway", timeout_s=150.0)
    wait_until(lambda: not before & replicas(cluster), deadline_s=60.0, every_s=0.5)
    wait_until(lambda: gateway_nodes(cluster) == ["h0", "w1", "w2"], deadline_s=30.0, every_s=0.5)
    assert [answers(node) for node in (cluster.head, first, second, third)] == [200, 200, 200, 0]
    for now, before_it in zip(certificate(tmp_path / "renewed", "fks.example"), (path, key_path), strict=True):
        now.replace(before_it)
    assert [answers(node) for node in (cluster.head, first, second)] == [200, 200, 200], "nothing was restarted"


def named_in_the_log(cluster: Cluster) -> list[str]:
    """Return the machines of which the head's keeper logged that they lack something, in order."""
    lines = (cluster.head.home / "logs" / "keeper.jsonl").read_text().splitlines()
    return [event["machine"] for event in map(json.loads, lines) if event["event"] == "gateway.not_spread"]


def replicas(cluster: Cluster) -> set[int]:
    """Return the pids of the gateway's replicas."""
    return {row["pid"] for name, row in cluster.head.components().items() if name.startswith("gateway:")}


def gateway_nodes(cluster: Cluster) -> list[str]:
    """Return the nodes of the gateway's replicas."""
    return sorted(row["node"] for name, row in cluster.head.components().items() if name.startswith("gateway:"))


def test_certificate_is_added_to_a_running_cluster_and_taken_away(tls: dict[str, str]) -> None:
    """First the worker, then the head, each stopped and started; then only the head's keeper is replaced."""
    with running_cluster(1, FKS_SIM_ENABLED="true", FKS_SUPERVISION_PLACEMENT=PLACEMENT) as cluster:
        worker, port = cluster.nodes["w1"], cluster.head.node["ray_address"].rpartition(":")[2]
        for node in (cluster.head, worker):
            wait_until(lambda node=node: plain(node) == 200, deadline_s=120.0, every_s=0.5)
        worker.down()
        worker.env.update(tls)
        cluster.join("w1")
        reason = f"gateway on w1: http.tls_cert is {tls['FKS_HTTP_TLS_CERT']} there, and the head has none"
        wait_until(
            lambda: any(text.startswith(reason) for text in cluster.head.status()["reasons"]),
            deadline_s=30.0,
            every_s=0.5,
        )
        assert plain(cluster.head) == 200
        print(f"head stopped in {cluster.head.down():.1f} s")
        cluster.head.env.update(tls)
        start_head(cluster, port)
        assert answers(cluster.head) == 200
        wait_until(lambda: answers(worker) == 200, deadline_s=150.0, every_s=0.5)
        assert worker.json("status")["source"] == "gateway"
        for name in tls:
            del cluster.head.env[name]
        cluster.head.kill("keeper-parent")  # it would start the next one with the settings of before
        cluster.head.kill("keeper")
        start_head(cluster, port)
        assert plain(cluster.head) == 200, "Serve goes by the settings of the keeper"
        assert cluster.head.json("status")["source"] == "gateway"


def start_head(cluster: Cluster, port: str) -> None:
    """Start the head's keeper; it takes over what an earlier one left."""
    where = ("--address", cluster.address, "--port", port, "--name", "h0")
    cluster.head.fks("node", "head", *where, "--detach", timeout_s=START_S)


def plain(system: System) -> int:
    """Return the status of /ready by plain HTTP; 0 for none."""
    http = system.node["http"]
    try:
        return httpx.get(f"http://{http['host']}:{http['port']}/ready", timeout=5.0, trust_env=False).status_code
    except httpx.HTTPError:
        return 0
