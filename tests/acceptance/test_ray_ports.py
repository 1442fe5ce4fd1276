"""Ports that Ray opens on a machine of a cluster. With a real Ray, without the rest of FKS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from ray.autoscaler._private.util import prepare_config
from ray.core.generated import (
    gcs_service_pb2,
    gcs_service_pb2_grpc,
    node_manager_pb2,
    node_manager_pb2_grpc,
    ray_client_pb2,
    ray_client_pb2_grpc,
    reporter_pb2,
    reporter_pb2_grpc,
)

from fks.config.endpoints import resolve_ports
from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets
from fks.config.settings import DatabaseSettings, NodeSettings, Ray, Redis, Settings
from fks.system.node import preflight, probe
from fks.system.node.ray_node import ray_service
from fks.system.process.handle import ProcessHandle, session_members
from tests.support.waiting import until

ADDRESS = "127.0.0.2"  # for Ray not loopback, as any address of a network
AUTOSCALING = {"cluster_name": "x", "provider": {"type": "local", "head_ip": ADDRESS, "worker_ips": []}}


@pytest.fixture
def node(tmp_path):
    """Return paths and settings of the head of a cluster that `ray up` started."""
    paths = Paths.of(tmp_path / "home").ensure()
    ensure_secrets(paths)
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(prepare_config(AUTOSCALING | {"auth": {"ssh_user": "x"}, "max_workers": 0})))
    settings = Settings(
        home=paths.home,
        database=DatabaseSettings(url="postgresql://u:p@127.0.0.1/d"),
        redis=Redis(url="redis://:p@127.0.0.1/0"),
        node=NodeSettings(role="head", address=ADDRESS),
        ray=Ray(dashboard_port=0, autoscaling_config=str(file)),
    )
    return paths, resolve_ports(settings, paths, attempt=3)


def listeners(session: int) -> set[tuple[str, str, int]]:
    """Return program, address and port of everything of a session that listens on TCP."""
    return {
        (psutil.Process(pid).name(), connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for pid in session_members(session)
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def refused(call: Callable[[Any], Any], port: int) -> grpc.StatusCode:
    """Return the refusal of a call without a token."""
    with grpc.insecure_channel(f"{ADDRESS}:{port}") as channel, pytest.raises(grpc.RpcError) as error:
        call(channel)
    return error.value.code()


@pytest.mark.timeout(300)
async def test_each_port_of_ray_wants_the_token_and_none_serves_metrics(node) -> None:
    paths, settings = node
    ray, spec = settings.ray, ray_service(paths, settings)
    process = ProcessHandle.spawn(spec.launch())
    try:
        await until(lambda: spec.is_ready(process), deadline_s=120.0, every_s=0.5)
        session = paths.ray_temp / "session_latest"
        for name in ("dashboard", "monitor"):  # both go on without their port
            log = session / "logs" / f"{name}.log"
            await until(
                lambda log=log: log.exists() and "starting the metrics server" in log.read_text(), deadline_s=60.0
            )
        await until(lambda: probe.listens(ADDRESS, ray.agent_listen_port), deadline_s=60.0)
        assert [file.read_text() for file in session.glob("metrics_export_port_*")] == ["-1"], "the agent has none"
        await until((session / "sockets" / Path(preflight.RAY_SOCKET).name).exists, deadline_s=60.0)
        longest = max((file.name for file in (session / "sockets").iterdir()), key=len)
        assert longest == Path(preflight.RAY_SOCKET).name, "else a TMPDIR passes with which Ray does not start"
        found = listeners(process.pid)
        everywhere = {port for _, host, port in found if host in ("::", "0.0.0.0")}
        assert everywhere == {ray.gcs_port, ray.node_manager_port, ray.object_manager_port, ray.agent_grpc_port}
        assert {host for _, host, port in found if port not in everywhere} == {"127.0.0.1", ADDRESS}
        assert {host for _, host, port in found if port == ray.dashboard_port} == {"127.0.0.1"}
        http = {(host, port) for _, host, port in found if port not in everywhere | {ray.client_port}}
        assert {port for _, port in http} == {ray.dashboard_port, ray.agent_listen_port, ray.runtime_env_agent_port}
        async with httpx.AsyncClient(timeout=10.0) as client:
            asked = [await client.get(f"http://{host}:{port}/metrics") for host, port in sorted(http)]
        assert {answer.status_code for answer in asked} == {401}
        gcs, raylet = gcs_service_pb2_grpc.NodeInfoGcsServiceStub, node_manager_pb2_grpc.NodeManagerServiceStub
        agent, threads = reporter_pb2_grpc.ReporterServiceStub, reporter_pb2.GetTracebackRequest(pid=process.pid)
        client, cluster = ray_client_pb2_grpc.RayletDriverStub, ray_client_pb2.ClusterInfoRequest()
        nodes, stats = gcs_service_pb2.GetAllNodeInfoRequest(), node_manager_pb2.GetNodeStatsRequest()
        calls = {
            ray.gcs_port: lambda channel: gcs(channel).GetAllNodeInfo(nodes, timeout=10.0),
            ray.node_manager_port: lambda channel: raylet(channel).GetNodeStats(stats, timeout=10.0),
            ray.agent_grpc_port: lambda channel: agent(channel).GetTraceback(threads, timeout=10.0),
            ray.client_port: lambda channel: client(channel).ClusterInfo(cluster, timeout=10.0),
        }
        assert {refused(call, port) for port, call in calls.items()} == {grpc.StatusCode.UNAUTHENTICATED}
    finally:
        await process.stop(spec.stop, is_group=True)
