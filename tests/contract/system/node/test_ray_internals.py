"""Interfaces of the installed Ray that it does not document (docs/upgrade-ray.md)."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import ray
from ray._private import state
from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc
from ray.runtime_env import RuntimeEnv
from ray.serve import HTTPOptions
from ray.serve._private import replica
from ray.serve._private.client import ServeControllerClient

from actors import ray_internals
from fks.system.process import ray_names

PACKAGE = Path(ray.__file__).parent


def test_the_raylet_can_be_asked_to_start_a_worker_that_waits() -> None:
    request = node_manager_pb2.PrestartWorkersRequest(num_workers=1, keep_alive_duration_secs=60)
    assert (request.num_workers, request.keep_alive_duration_secs) == (1, 60)
    assert callable(node_manager_pb2_grpc.NodeManagerServiceServicer.PrestartWorkers)


def test_a_worker_that_waits_can_have_the_environment_of_an_actor() -> None:
    requests = []

    class Raylet(node_manager_pb2_grpc.NodeManagerServiceServicer):
        def PrestartWorkers(self, request, context):
            requests.append(request)
            return node_manager_pb2.PrestartWorkersReply()

    server = grpc.server(ThreadPoolExecutor(1))
    node_manager_pb2_grpc.add_NodeManagerServiceServicer_to_server(Raylet(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        ray_internals.prestart_worker(f"127.0.0.1:{port}", 60)
        ray_internals.prestart_worker(f"127.0.0.1:{port}", 60, {"B": "", "A": ""})
    finally:
        server.stop(None)
    # the raylet gives a waiting worker to an actor whose text is the same
    texts = [request.runtime_env_info.serialized_runtime_env for request in requests]
    assert texts == ["", RuntimeEnv(env_vars={"A": "", "B": ""}).serialize()]
    assert [request.num_workers for request in requests] == [1, 1]


def test_free_resources_and_the_node_of_an_actor_can_be_asked_for(monkeypatch) -> None:
    """tests/contract/system/supervision/test_gpus_of_ray.py asks a cluster that runs."""
    asked = []
    monkeypatch.setattr(state, "available_resources_per_node", lambda: {"a": {"GPU": 0.5}})
    assert ray_internals.available_by_node() == {"a": {"GPU": 0.5}}
    nodes = iter(({"Address": {"NodeID": "ab" * 28}}, {"Address": {"NodeID": "f" * 56}}, {}))
    monkeypatch.setattr(state, "actors", lambda id: asked.append(id) or next(nodes))
    handle = SimpleNamespace(_actor_id=ray.ActorID(b"\1" * 16))
    assert [ray_internals.node_of_actor(handle) for _ in range(3)] == ["ab" * 28, "", ""]
    assert asked == ["01" * 16] * 3


def test_a_replica_opens_its_grpc_port_by_the_call_that_is_replaced(monkeypatch) -> None:
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)  # put back afterwards
    source = inspect.getsource(replica)
    opened = [line.strip() for line in source.splitlines() if "add_port" in line and "import" not in line]
    assert len(opened) == 1
    assert opened[0].startswith("self._internal_grpc_port = add_port_to_grpc_server(")
    ray_internals.close_replica_port()
    assert replica.add_port_to_grpc_server(None, "[::]:0") == 0


def test_serve_keeps_its_http_options_at_the_client(monkeypatch) -> None:
    assert isinstance(ServeControllerClient.http_config, property)
    files = {"ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem"}
    given = HTTPOptions(host="127.0.0.1", port=8000, **files)
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda: SimpleNamespace(http_config=given))
    found = ray_internals.http_options_of_serve()
    assert (found.host, found.port, found.ssl_certfile, found.ssl_keyfile) == ("127.0.0.1", 8000, *files.values())


def test_worker_processes_have_the_titles_that_are_looked_for() -> None:
    assert ray_names.IDLE.encode() in (PACKAGE / "_raylet.so").read_bytes()
    assert (PACKAGE / "_private" / "workers" / ray_names.STARTING).is_file()
    from ray.serve._private import controller, proxy

    from fks.lab.chaos.outside import RAY_PROGRAMS, RAY_TITLE
    from fks.lab.chaos.processes import TITLES

    assert (ray_names.TITLE, set(ray_names.PROGRAMS)) == (RAY_TITLE, RAY_PROGRAMS), "its own, and the same"

    for kind, title in ((proxy.ProxyActor, ray_names.PROXY), (controller.ServeController, TITLES["controller"])):
        assert title.removeprefix(ray_names.TITLE) in str(kind), title


def test_daemons_are_the_programs_and_scripts_that_are_looked_for() -> None:
    programs = {path.name for path in (PACKAGE / "core" / "src" / "ray").rglob("*") if path.is_file()}
    assert set(ray_names.PROGRAMS) <= programs
    scripts = [str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")]
    for name in ray_names.COMMANDS:
        wanted = f"ray/{name.removeprefix('ray.').replace('.', '/')}" if name.startswith("ray.") else name
        assert any(wanted in script for script in scripts), name
