"""Placement of models on nodes by free GPUs and free video memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.ai.engines.deployment import Deployment
from fks.ai.placement import GpuNode, HeldShare, ModelPlacement, gpus_to_come, place

GB = 10**9
MODEL = Deployment("m", "llama_cpp", "/m", size_bytes=5 * GB, gpus=1.0)  # needs 6 GB of video memory
NODE = GpuNode("1", "gpu-1", 2.0, 2.0, (24 * GB, 24 * GB))


def placed(
    *wanted: Deployment,
    nodes: tuple[GpuNode, ...] = (NODE,),
    held: Mapping[str, HeldShare] | None = None,
    to_come: float = 0.0,
) -> ModelPlacement:
    return place(wanted, nodes, held or {}, cpu_model_max_gb=8.0, gpus_to_come=to_come)


def test_a_model_on_the_cpu_runs_anywhere_up_to_the_limit() -> None:
    small, big = replace(MODEL, gpus=0.0, replicas=2), replace(MODEL, name="big", gpus=0.0, size_bytes=9 * GB)
    found = placed(small, big, nodes=())
    assert found.nodes == {"inference:m:0": "", "inference:m:1": ""}
    assert found.states["m"] == ("wanted", "")
    reason = "it has 9.0 GB; on the CPU run models up to 8 GB (ai.cpu_model_max_gb)"
    assert found.states["big"] == ("unschedulable", reason)


def test_shares_fill_one_node_before_whole_gpus_are_broken_up() -> None:
    nodes = (NODE, GpuNode("2", "gpu-2", 1.0, 1.0, (24 * GB,)))
    half = replace(MODEL, name="half", gpus=0.5, replicas=2)
    found = placed(half, replace(MODEL, replicas=2), nodes=nodes)
    assert {found.nodes[child] for child in half.children()} == {"2"}
    assert {found.nodes[child] for child in MODEL.children()} == {"1"}


def test_replicas_that_find_no_gpu_wait_and_the_others_run() -> None:
    found = placed(replace(MODEL, replicas=3), replace(MODEL, name="late", gpus=2.0))
    assert found.nodes == {"inference:m:0": "1", "inference:m:1": "1"}
    assert found.states["m"] == ("wanted", "1 of 3 replicas wait: it asks for 1 GPU; gpu-1 has 0 of 2 free")
    assert found.states["late"] == ("unschedulable", "it asks for 2 GPU; gpu-1 has 0 of 2 free")
    assert placed(MODEL, nodes=()).states["m"] == (
        "unschedulable",
        "it asks for 1 GPU; no node of the cluster has one",
    )


def test_gpus_that_others_reserved_are_not_free() -> None:
    found = placed(MODEL, nodes=(replace(NODE, free=0.5),))
    assert found.states["m"] == ("unschedulable", "it asks for 1 GPU; gpu-1 has 0.5 of 2 free")


def test_video_memory_decides_and_unreadable_memory_takes_none() -> None:
    full = replace(NODE, memory=(5 * GB, 2 * GB))
    assert placed(MODEL, nodes=(full,)).states["m"] == (
        "unschedulable",
        "it asks for 1 GPU; gpu-1 has 5.0 GB of video memory free, and 6.0 GB are needed",
    )
    unread = replace(NODE, memory=None, problem="NVML: Driver Not Loaded")
    assert placed(MODEL, nodes=(unread,)).states["m"] == (
        "unschedulable",
        "it asks for 1 GPU; the video memory of gpu-1 cannot be read: NVML: Driver Not Loaded",
    )
    both = replace(MODEL, gpus=2.0)  # 3 GB on each
    assert placed(both, nodes=(replace(NODE, memory=(5 * GB, 3 * GB)),)).nodes == {"inference:m:0": "1"}
    reason = placed(both, nodes=(full,)).states["m"][1]
    assert reason.endswith("and 3.0 GB are needed on each of 2 devices")


def test_memory_of_a_model_that_still_loads_is_not_given_away() -> None:
    node = replace(NODE, gpus=1.0, free=0.5, memory=(11 * GB,))
    first, second = replace(MODEL, gpus=0.5), replace(MODEL, name="second", gpus=0.5)
    loading = {"inference:m:0": HeldShare("1")}
    assert placed(first, second, nodes=(node,), held=loading).states["second"][0] == "unschedulable"
    loaded = {"inference:m:0": HeldShare("1", is_loaded=True)}  # the reading has its memory taken off already
    assert placed(first, second, nodes=(node,), held=loaded).states["second"][0] == "wanted"


def test_a_replica_keeps_its_share_whatever_else_is_free() -> None:
    held = {"inference:m:0": HeldShare("1", is_loaded=True)}
    full = replace(NODE, gpus=1.0, free=0.0, memory=None, problem="it has not been read yet")
    for wanted in ([MODEL], [replace(MODEL, name="older"), MODEL]):
        assert placed(*wanted, nodes=(full,), held=held).nodes == {"inference:m:0": "1"}


def test_a_share_that_ray_still_counts_as_free_is_given_once() -> None:
    held = {"inference:m:0": HeldShare("1")}  # its process began a moment ago
    node = replace(NODE, gpus=1.0, free=1.0, memory=(24 * GB,))
    assert placed(MODEL, replace(MODEL, name="second"), nodes=(node,), held=held).nodes == {"inference:m:0": "1"}


def test_a_node_must_offer_the_resources_that_the_settings_name() -> None:
    def placed_there(*offered: str) -> ModelPlacement:
        node = replace(NODE, resources=frozenset(offered))
        return place([MODEL], [node], {}, cpu_model_max_gb=8.0, resources=lambda child: {"fast": 0.001})

    assert placed_there("GPU", "fast").nodes == {"inference:m:0": "1"}
    reason = "it asks for 1 GPU; gpu-1 does not offer fast (supervision.placement)"
    assert placed_there("GPU").states["m"] == ("unschedulable", reason)


def test_a_replica_whose_share_changed_is_placed_again() -> None:
    held = {"inference:m:0": HeldShare("1", gpus=0.5)}  # deployed again with a whole one
    taken = replace(NODE, gpus=1.0, free=0.5, memory=(24 * GB,))
    assert placed(MODEL, nodes=(taken,), held=held).nodes == {}
    assert placed(MODEL, nodes=(taken,), held={"inference:m:0": HeldShare("1", gpus=1.0)}).nodes != {}


def test_a_replica_of_a_node_that_left_is_placed_on_another() -> None:
    held = {"inference:m:0": HeldShare("gone", is_loaded=True)}
    assert placed(MODEL, held=held).nodes == {"inference:m:0": "1"}
    assert placed(MODEL, nodes=(), held=held).states["m"][0] == "unschedulable"


def test_a_model_waits_for_a_node_that_the_cluster_can_start() -> None:
    assert placed(MODEL, nodes=(), to_come=1.0).states["m"] == (
        "waiting",
        "a node with a GPU is asked for: it asks for 1 GPU; no node of the cluster has one",
    )
    assert placed(replace(MODEL, gpus=2.0), nodes=(), to_come=1.0).states["m"][0] == "unschedulable"


_SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0])
_NODES = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0, 4.0])), max_size=3)


@given(shares=st.lists(st.tuples(_SHARES, st.integers(1, 4)), max_size=6), offered=_NODES)
def test_no_node_gives_more_than_it_has(shares: list[tuple[float, int]], offered: list[tuple[int, float]]) -> None:
    nodes = [
        GpuNode(str(at), f"gpu-{at}", gpus, min(free, gpus), (24 * GB,) * gpus)
        for at, (gpus, free) in enumerate(offered)
    ]
    wanted = [replace(MODEL, name=f"m{at}", gpus=gpus, replicas=count) for at, (gpus, count) in enumerate(shares)]
    found = place(wanted, nodes, {}, cpu_model_max_gb=8.0)
    share = {child: one.gpus for one in wanted for child in one.children()}
    for node in nodes:
        taken = sum(share[child] for child, id in found.nodes.items() if id == node.id)
        assert taken <= node.free + 1e-9
    # placed once more with the processes that now run, nothing moves
    held = {child: HeldShare(id) for child, id in found.nodes.items() if share[child]}
    again = place(wanted, nodes, held, cpu_model_max_gb=8.0)
    assert again.nodes.items() >= found.nodes.items()
    for one in wanted:
        state, reason = found.states[one.name]
        assert (state == "wanted") == any(child in found.nodes for child in one.children())
        assert bool(reason) == any(child not in found.nodes for child in one.children())


AWS = {
    "provider": {"type": "aws"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "cpu": {"max_workers": 3, "resources": {"CPU": 8}},
        "gpu": {"max_workers": 1, "resources": {"CPU": 8, "GPU": 2}},
    },
}


@pytest.mark.parametrize(
    ("cluster", "gpus", "expected"),
    [
        (AWS, 0.0, 2.0),
        (AWS, 2.0, 0.0),
        (AWS | {"provider": {"type": "local"}}, 0.0, 0.0),
        (AWS | {"available_node_types": {}}, 0.0, 0.0),
        ({}, 0.0, 0.0),
    ],
)
def test_machines_that_can_still_be_started_are_counted(cluster: dict[str, Any], gpus: float, expected: float) -> None:
    assert gpus_to_come(cluster, gpus) == expected
