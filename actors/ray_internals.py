"""Calls into Ray that it does not document: docs/upgrade-ray.md says what each is for and what to check."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

_CALL_S = 5.0


def prestart_worker(address: str, keep_s: int, environment: Mapping[str, str] | None = None) -> None:
    """Have the raylet at `address` (host:port) start a worker process that waits `keep_s` for work. With `environment`
    it is given to an actor that names just these variables, and to no other.

    Errors: whatever Ray raises; the caller goes on without.
    """
    from ray._private.grpc_utils import init_grpc_channel  # loaded by the supervisor's process alone
    from ray._private.utils import get_runtime_env_info
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc
    from ray.runtime_env import RuntimeEnv

    request = node_manager_pb2.PrestartWorkersRequest(num_workers=1, keep_alive_duration_secs=keep_s)
    if environment is not None:
        # Ray compares the text of the environment that it was started with
        request.runtime_env_info.CopyFrom(get_runtime_env_info(RuntimeEnv(env_vars=dict(environment))))
    with init_grpc_channel(address) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_CALL_S)


def address_of_raylet() -> str:
    """Return host:port of this node's raylet."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def available_by_node() -> dict[str, dict[str, float]]:
    """Return the resources that are free on each node, by its id. Errors: ray.exceptions.RayError."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


def node_of_actor(handle: Any) -> str:
    """Return the id of the node on which an actor runs, "" before it is on one. Errors: ray.exceptions.RayError."""
    from ray._private.state import actors

    found = str(actors(handle._actor_id.hex()).get("Address", {}).get("NodeID", ""))
    return "" if set(found) == {"f"} else found  # Ray's id of none


def request_nodes(shapes: Sequence[Mapping[str, float]]) -> None:
    """Have Ray's autoscaler keep as many nodes as all these shapes of resources need, until it is asked again. Errors:
    ray.exceptions.RayError, RuntimeError."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(shape) for shape in shapes])


def close_replica_port() -> None:
    """Keep this replica from opening Serve's own gRPC port. Call before Serve has initialised the replica.

    Ray 2.60 opens it on every address, without token or TLS, and unpickles everything it receives: any program that
    reaches the host could run code here. No call of ours uses it (proxy and handles use actor calls), and no setting
    closes it.
    Errors: AttributeError when another Ray has it elsewhere: then look again before trusting it.
    """
    from ray.serve._private import replica

    if not callable(replica.add_port_to_grpc_server):
        raise AttributeError("ray.serve._private.replica.add_port_to_grpc_server")
    replica.add_port_to_grpc_server = lambda server, address: 0


def http_options_of_serve() -> Any:
    """Return the HTTP options of the Serve that runs: host, port, ssl_certfile, ssl_keyfile."""
    from ray.serve.context import _get_global_client

    return _get_global_client().http_config


def validate_cluster_file(file: str) -> None:
    """Print a cluster file as JSON, then check it as `ray up` would: defaults, schema and sense. No machine is asked.

    Errors: SystemExit without a provider; whatever Ray raises.
    """
    import yaml  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    raw = yaml.safe_load(Path(file).read_text())
    if not isinstance(raw, dict) or not isinstance(raw.get("provider"), dict):
        raise SystemExit("it has no provider")
    sys.stdout.write(f"{json.dumps(raw)}\n")
    validate_config(prepare_config(json.loads(json.dumps(raw))))
