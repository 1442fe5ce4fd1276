"""A driver that places models on a Ray cluster of two nodes with logical GPUs, then prints JSON of all it saw.

`python -m tests.support.gpu_driver FOLDER`: its environment is that of Ray's processes, which read it once. A reader of
video memory stands in for the driver of a GPU; the models are those of an Ollama that this process plays.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from aiohttp import web
from aiohttp.test_utils import TestServer
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get

from actors.gpus import RayGpus
from actors.system import NAMESPACE, spawn_shell
from actors.tree import tree_of
from fks.ai.engines.deployment import Deployment
from fks.ai.placement import place
from fks.config.settings import Settings
from fks.model.errors import PeerError
from tests.support.process_memory import held_in_memory
from tests.support.waiting import until

GB = 10**9
CLOUD = {
    "provider": {"type": "aws"},
    "head_node_type": "head",
    "available_node_types": {"gpu": {"max_workers": 5, "resources": {"GPU": 4}}},
}
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
VISIBLE = ("", "0", "1", "0,1")


def read_eight_gb(visible: str | None) -> list[int]:
    """Return the free memory of two devices."""
    return [8 * GB for _ in (visible or "0,1").split(",")]


def read_nothing(visible: str | None) -> list[int]:
    """Fail as a driver does that is not loaded."""
    raise PeerError("NVML: Driver Not Loaded")


def is_there(name: str) -> bool:
    """Return whether Ray knows an actor of this name."""
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return False
    return True


async def see(cluster: Cluster, url: str, folder: Path) -> dict[str, Any]:
    """Return what became of the models, step by step; nodes by the number of their GPUs."""
    half = Deployment("half", "ollama", "m", url, size_bytes=GB, gpus=0.5, replicas=2)
    both = replace(half, name="both", gpus=2.0, replicas=1)
    late = replace(half, name="late", gpus=1.0, replicas=1)
    none = replace(half, name="none", gpus=0.0, replicas=1)
    names = {node["NodeID"]: f"{node['Resources']['GPU']:g} GPU" for node in ray.nodes()}

    async def placed(gpus: RayGpus, wanted: Sequence[Deployment]) -> dict[str, Any]:
        nodes, held, to_come = await gpus.look(wanted, frozenset())
        found = place(wanted, nodes, held, cpu_model_max_gb=8.0, gpus_to_come=to_come)
        gpus.note(wanted, found.nodes)
        last.update(found.nodes)
        return {
            "nodes": {child.removeprefix("inference:"): names.get(id, "any") for child, id in found.nodes.items()},
            "states": found.states,
        }

    last: dict[str, str] = {}
    wanted = [half, both, late, none]
    gpus = RayGpus(NAMESPACE, None, read_eight_gb)
    seen: dict[str, Any] = {}
    seen["first"] = await placed(gpus, wanted)

    tree = tree_of(Settings(), models=wanted, model_nodes=last)
    seen["ran_on"], seen["visible"] = {}, {}
    for spec in [spec for spec in tree.workers() if spec.id in last]:
        child = spawn_shell(spec, epoch=1, wait_s=0.0, node_id=spec.node_id or None)
        beat: Mapping[str, Any] = {}
        while beat.get("state") != "ready":
            beat = await child.health.remote()
            await asyncio.sleep(0.1)
        name = spec.id.removeprefix("inference:")
        seen["ran_on"][name] = names[str(beat["node_id"])]
        texts = {f"CUDA_VISIBLE_DEVICES={devices}\0": devices for devices in VISIBLE}
        seen["visible"][name] = [texts[text] for text in held_in_memory(int(beat["pid"]), list(texts))]
    seen["while_they_run"] = await placed(gpus, wanted)
    # a supervisor that knows no placement and no video memory
    blind = RayGpus(NAMESPACE, None, read_nothing)
    seen["after_a_restart"] = await placed(blind, wanted)

    for number in range(2):
        ray.kill(ray.get_actor(f"inference:half:{number}", NAMESPACE))
    await until(lambda: not is_there("inference:half:0"), deadline_s=60.0, every_s=0.01)
    seen["just_died"] = await placed(blind, wanted)
    await until(lambda: ray.available_resources().get("GPU") == 1.0, deadline_s=60.0, every_s=0.2)
    wanted = [both, late]
    seen["unreadable"] = await placed(blind, wanted)
    seen["freed"] = await placed(gpus, wanted)

    (worker,) = cluster.worker_nodes
    cluster.remove_node(worker)
    await until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, deadline_s=60.0, every_s=0.5)
    seen["node_left"] = await placed(gpus, wanted)

    file = folder / "cluster.json"
    file.write_text(json.dumps(CLOUD))
    cloud = RayGpus(NAMESPACE, str(file), read_eight_gb)
    seen["can_grow"] = await placed(cloud, wanted)
    seen["asked"] = []
    for asked in ([both, half], []):
        await cloud.request(asked)
        seen["asked"].append(json.loads(_internal_kv_get("autoscaler_resource_request")))
    return seen


async def main(folder: Path) -> None:
    server = TestServer(app := web.Application())
    app.router.add_get("/api/tags", lambda request: web.json_response({"models": [{"name": "m"}]}))
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_gpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(**NODE, num_gpus=2)
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
        async with server:
            print(json.dumps(await see(cluster, f"http://127.0.0.1:{server.port}", folder)))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
