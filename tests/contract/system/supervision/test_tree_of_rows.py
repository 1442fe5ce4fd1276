"""The tree that rows ask for: a collector for each exchange that has something to collect, NinjaTrader's included, and
a process for each replica of a language model."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from actors.system import options_of
from actors.tree import want
from fks.ai.engines.deployment import Deployment
from fks.ai.placement import GpuNode, HeldShare
from fks.config.environment import without_credentials
from fks.config.settings import Ai, Mt5, Ninja, Settings, Strategies, Supervision
from fks.store.assets import Asset, AssetStore
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.strategies import NewInstance, StrategyStore
from fks.system.supervision import ChildSpec, SupervisorSpec
from tests.support.ports import CollectingLog
from tests.support.strategies import add_account, add_instance

ES = "ES 12-26"


class Gpus:
    """The GPUs of a cluster: its nodes, the replicas that hold a share, and the machines that were asked for."""

    def __init__(self, *nodes: GpuNode, to_come: float = 0.0) -> None:
        self.nodes, self.to_come = list(nodes), to_come
        self.held: dict[str, HeldShare] = {}
        self.asked: list[str] = []

    async def look(
        self, wanted: Sequence[Deployment], loaded: frozenset[str]
    ) -> tuple[list[GpuNode], dict[str, HeldShare], float]:
        return self.nodes, self.held, self.to_come

    async def request(self, wanted: Sequence[Deployment]) -> None:
        self.asked = [one.name for one in wanted]

    def note(self, wanted: Sequence[Deployment], nodes: Mapping[str, str]) -> None:
        """Each placed replica has a process from now on."""
        self.held = {child: HeldShare(node) for child, node in nodes.items()}


def wanted_by(
    database: Database, settings: Settings | None = None, gpus: Gpus | None = None
) -> Callable[[], Awaitable[SupervisorSpec]]:
    component: Any = SimpleNamespace(
        db=database, settings=settings or Settings(ninja=Ninja(enabled=True)), log=CollectingLog()
    )
    return want(component, gpus or Gpus())


async def ids(wanted: Callable[[], Awaitable[SupervisorSpec]]) -> list[str]:
    return [worker.id for worker in (await wanted()).workers()]


async def test_the_first_contract_that_is_enabled_starts_the_collector_of_ninjatrader(database: Database) -> None:
    wanted = wanted_by(database)
    assert "ninja:sim" in await ids(wanted)
    assert "collector:ninja" not in await ids(wanted)
    async with database.transaction() as tx:
        await AssetStore(tx).enable(Asset("ninja", ES, ("1m",), channels=("trades", "quotes")), [], 0)
    assert "collector:ninja" in await ids(wanted)
    async with database.transaction() as tx:
        await AssetStore(tx).disable(Asset("ninja", ES, ("1m",), channels=("trades", "quotes")))
    assert "collector:ninja" not in await ids(wanted)


async def test_a_worker_that_joins_or_leaves_moves_as_few_instances_as_possible(database: Database) -> None:
    await add_account(database)
    store = StrategyStore(database)
    for name in "abcde":
        await add_instance(database, name, "sma_cross", {"fast": 2, "slow": 3})

    async def workers(count: int) -> dict[str, int]:
        tree = await wanted_by(database, Settings(strategies=Strategies(workers=count)))()
        assert [child.args for child in tree.workers() if child.role == "strategy"] == [(str(n),) for n in range(count)]
        return await store.workers()

    assert await workers(1) == dict.fromkeys("abcde", 0)
    two = await workers(2)
    assert two == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
    three = await workers(3)
    assert three == two | {"c": 2}
    assert await workers(3) == three
    assert await workers(2) == two
    assert await workers(1) == dict.fromkeys("abcde", 0)


async def test_a_new_instance_goes_to_the_worker_with_the_fewest(database: Database) -> None:
    await add_account(database)
    store = StrategyStore(database)
    for name in "abc":
        await add_instance(database, name, "sma_cross", {"fast": 2, "slow": 3})
    await store.assign({"b": 1, "c": 1})
    added = NewInstance("d", "sma_cross", {}, "binance", "BTC/USDT", "1m", "demo")
    async with database.transaction() as tx:
        assert await StrategyStore(tx).add(added, by="test")
    assert (await store.workers())["d"] == 0


async def died(database: Database, child: str, how: str, signal: int | None, trace: str = "", age: str = "0") -> None:
    payload = {"how": how, "signal": signal, "traceback": trace, "is_gone": True}
    await database.sql(
        "INSERT INTO actor_events (time, child, event, reason, payload)"
        " VALUES (now() - $3::text::interval, $1, 'exited', 'died', $2)",
        child,
        payload,
        age,
    )


async def test_a_model_has_a_process_a_replica_until_it_ended_two_of_them(database: Database) -> None:
    store, wanted = DeploymentStore(database), wanted_by(database)
    assert not [id for id in await ids(wanted) if id.startswith("inference")]
    small = Deployment("small", "llama_cpp", "/m/small.gguf", sha256="a" * 64, size_bytes=10**9, replicas=2)
    other = replace(small, name="other", replicas=1)
    await store.save(small, by="me")
    await store.save(other, by="me")
    tree = await wanted()
    children = {child.id: child for child in tree.workers() if child.role == "inference"}
    assert set(children) == {"inference:small:0", "inference:small:1", "inference:other:0"}
    (branch,) = (branch for branch in tree.children if branch.id == "inference")
    assert isinstance(branch, SupervisorSpec)
    assert branch.containment is not None
    first = children["inference:small:0"]
    assert Deployment.load(first.args[0]) == small
    assert (first.is_leased, first.resources) == (False, {})
    assert first.memory_max_mb > Settings().supervision.memory_max_mb + 1024
    assert "password" not in first.args[1]

    # deaths by another hand, of long ago, and once by its own: it goes on
    await died(database, "inference:small:0", "crash", 9)
    await died(database, "inference:small:0", "crash", 9)
    await died(database, "inference:small:1", "normal", None)
    await died(database, "inference:small:1", "crash", 11, age="2 hours")
    await died(database, "inference:small:1", "crash", 11)
    assert "inference:small:1" in await ids(wanted)
    await died(database, "inference:small:0", "failed start", None, "Traceback\n  line\nPeerError: it is no model\n")
    assert not [id for id in await ids(wanted) if id.startswith("inference:small")]
    assert "inference:other:0" in await ids(wanted)
    row = (await store.all())[0]
    assert (row["state"], row["reason"], row["ready"]) == ("failed", "PeerError: it is no model", [])
    await store.save(small, by="me")
    assert "inference:small:1" in await ids(wanted), "deployed again, it is tried again"
    assert (await store.all())[1]["state"] == "starting"
    assert await store.remove("other")
    assert not await store.remove("other")
    assert "inference:other:0" not in await ids(wanted)


async def test_a_model_fails_with_the_error_that_one_of_its_processes_left(database: Database) -> None:
    store = DeploymentStore(database)
    await store.save(Deployment("small", "llama_cpp", "/m/small.gguf", sha256="a" * 64, size_bytes=10**9), by="me")
    await died(database, "inference:small:0", "failed start", None, "Traceback\n  line\nPeerError: it is no model\n")
    await died(database, "inference:small:0", "failed start", None)
    assert not [id for id in await ids(wanted_by(database)) if id.startswith("inference")]
    (row,) = await store.all()
    assert (row["state"], row["reason"]) == ("failed", "PeerError: it is no model")


async def test_a_model_that_cannot_be_placed_says_why_and_waits(database: Database) -> None:
    store = DeploymentStore(database)
    gpu = Deployment("gpu", "llama_cpp", "/m/gpu.gguf", sha256="a" * 64, size_bytes=10**9, gpus=0.5)
    large = replace(gpu, name="large", gpus=0.0, size_bytes=9 * 10**9)
    await store.save(gpu, by="me")
    await store.save(large, by="me")
    assert not [id for id in await ids(wanted_by(database)) if id.startswith("inference")]
    states = {row["name"]: (row["state"], row["reason"]) for row in await store.all()}
    assert states == {
        "gpu": ("unschedulable", "it asks for 0.5 GPU; no node of the cluster has one"),
        "large": ("unschedulable", "it has 9.0 GB; on the CPU run models up to 8 GB (ai.cpu_model_max_gb)"),
    }
    gpus = Gpus(GpuNode("a" * 56, "gpu-1", 1.0, 1.0, (8 * 10**9,)))
    tree = await wanted_by(database, Settings(ai=Ai(cpu_model_max_gb=10)), gpus)()
    found = {child.id: child for child in tree.workers() if child.role == "inference"}
    assert {id: child.resources for id, child in found.items()} == {
        "inference:gpu:0": {"GPU": 0.5},
        "inference:large:0": {},
    }
    assert {row["state"] for row in await store.all()} == {"starting"}
    assert [child.node_id for child in found.values()] == ["a" * 56, ""]
    assert options_of(found["inference:gpu:0"])["num_gpus"] == 0.5
    elsewhere = Settings(ai=Ai(cpu_model_max_gb=10), supervision=Supervision(placement={"inference:*": "fast"}))
    assert "inference:gpu:0" not in await ids(wanted_by(database, elsewhere, Gpus(*gpus.nodes)))


async def test_a_model_waits_for_a_node_and_is_asked_for_until_it_goes(database: Database) -> None:
    store, gpus = DeploymentStore(database), Gpus(to_come=1.0)
    wanted = wanted_by(database, gpus=gpus)
    await store.save(Deployment("gpu", "llama_cpp", "/m/gpu.gguf", sha256="a" * 64, gpus=1.0, replicas=2), by="me")
    assert "inference" not in [branch.id for branch in (await wanted()).children]
    (row,) = await store.all()
    assert (row["state"], gpus.asked) == ("waiting", ["gpu"])
    begun = row["state_at"]

    gpus.nodes = [GpuNode("a" * 56, "gpu-1", 1.0, 1.0, (8 * 10**9,))]
    assert "inference:gpu:0" in await ids(wanted)
    assert "inference:gpu:1" not in await ids(wanted)
    (row,) = await store.all()
    assert (row["state"], row["state_at"] > begun) == ("starting", True)
    assert row["reason"] == "1 of 2 replicas wait: it asks for 1 GPU; gpu-1 has 0 of 1 free"

    gpus.nodes = [replace(gpus.nodes[0], memory=None, problem="the driver is gone")]
    assert "inference:gpu:0" in await ids(wanted), "it has a process there already"
    begun = row["state_at"]
    (row,) = await store.all()
    assert row["state_at"] == begun, "another reason is no other state"
    gpus.nodes = []
    assert "inference:gpu:0" not in await ids(wanted)
    assert gpus.asked == ["gpu"]
    await store.remove("gpu")
    await wanted()
    assert gpus.asked == []


async def test_limits_of_a_process_come_from_its_row_or_the_size_of_its_file(database: Database) -> None:
    store, wanted = DeploymentStore(database), wanted_by(database)
    large = Deployment("a", "llama_cpp", "/m/a.gguf", sha256="a" * 64, size_bytes=5 * 10**9)
    await store.save(large, by="me")
    await store.save(replace(large, name="b", memory_mb=30_000, load_s=600.0), by="me")
    found = {child.id: child for child in (await wanted()).workers() if child.role == "inference"}
    timing, first, given = Settings().supervision, found["inference:a:0"], found["inference:b:0"]
    assert (first.memory_max_mb, first.start_s) == (timing.memory_max_mb + 7680, timing.start_timeout_s + 100.0)
    assert (given.memory_max_mb, given.start_s) == (30_000, 600.0)
    assert json.loads(given.args[1])["supervision"]["memory_max_mb"] == 30_000


def test_a_process_without_credentials_is_given_none_by_its_environment() -> None:
    spec = ChildSpec("inference:a:0", "inference", 3.0, is_leased=False)
    emptied = options_of(spec)["runtime_env"]["env_vars"]
    assert set(emptied.values()) == {""}
    named = {"FKS_DATABASE_URL", "POSTGRES_PASSWORD", "BINANCE_API_SECRET", "FKS_VENUE_API_KEY", "OPENAI_API_KEY"}
    assert named <= set(emptied)
    assert not {"PATH", "FKS_HOME", "HOME"} & set(emptied)
    given = {"PATH": "/bin", "FKS_VENUE_GUARDIAN_API_KEY": "k", "AWS_SECRET_ACCESS_KEY": "s", "CUDA_HOME": "/c"}
    assert {"FKS_VENUE_GUARDIAN_API_KEY", "AWS_SECRET_ACCESS_KEY"} <= set(without_credentials(given))
    assert not {"PATH", "CUDA_HOME"} & set(without_credentials(given))
    assert "runtime_env" not in options_of(ChildSpec("monitor", "monitor", 3.0))


async def test_an_account_at_metatrader_starts_its_link(database: Database) -> None:
    wanted = wanted_by(database, Settings(mt5=Mt5(enabled=True, group="demo")))
    assert "mt5:demo" not in await ids(wanted)
    await database.sql("INSERT INTO accounts (name, venue, is_enabled) VALUES ('fx', 'mt5', false)")
    assert "mt5:demo" in await ids(wanted), "what a disabled account holds can still be closed"
    await database.sql("DELETE FROM accounts WHERE name = 'fx'")
    assert "mt5:demo" not in await ids(wanted)
