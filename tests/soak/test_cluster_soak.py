"""A cluster while it trades: its head's machine is lost, another build comes, a worker joins and one leaves, and a
process is killed between two of them. Order and moments are drawn from FKS_SOAK_SEED, which is printed. `make soak`.

Two heads with --standby and up to two workers, each a machine in namespaces of its own; stores and exchange are on none.
Printed: the seconds of each event, and at the end the signals, orders, fills, and the moments without a stop.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fks.config.paths import Paths
from fks.model.errors import OutageError
from fks.system.node.control_socket import ask
from tests.support.builds import make_build, version_of
from tests.support.cluster_trading import HELD, TRADING_S, ClusterTrading
from tests.support.local_exchange import LocalExchange
from tests.support.ray_up_machines import Machine, Network, require_network, stores
from tests.support.system import System
from tests.support.waiting import wait_until

SEED = int(os.environ.get("FKS_SOAK_SEED", "20261128"))
HEADS, WORKERS = ("h0", "h1"), ("w1", "w2")
PORT = 6379
START_S, UPGRADE_S, BACK_S = 400.0, 1200.0, 400.0
TAKEN_S = 20.0  # 15 s of the head's lease, a look of the standby, and the start of its next keeper
#: A joining or leaving worker moves none of these.
ON_THE_HEAD = ("supervisor", "guardian", "orders")
VICTIMS = ("supervisor", "guardian", "orders", "collector:binance", "strategy:0", "monitor", "keeper", "raylet")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]


@dataclass
class Cluster:
    """The machines by name, each with a home and a link to its build."""

    place: Path
    network: Network
    exchange: LocalExchange
    env: dict[str, str]
    seed: int
    build: str = "a"
    machines: dict[str, Machine] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.trading = ClusterTrading(self.exchange, lambda command: self.fks(self.head, *command.split()), self.note)

    def note(self, text: str) -> None:
        """Add a line to the transcript."""
        print(f"[{time.monotonic() - self.begun_s:6.1f} s] {text}", flush=True)

    def boot(self, name: str) -> None:
        """Switch a machine on: all share the builds, and each has a link of its own to the one that runs."""
        own, shared = self.place / name / "fks", self.place / "fks"
        mounts = f"mkdir -p {own}/builds; mount --bind {shared}/builds {own}/builds; mount --rbind {own} {shared}"
        self.machines[name] = self.network.add_bare(name, int(self.exchange.info["rest"].rpartition(":")[2]), mounts)

    def system(self, name: str) -> System:
        return System.at(self.place / name / "home", HOME=str(self.place), **self.env)

    def run(self, name: str, *args: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command of a machine's build there."""
        env = {key: value for key, value in self.system(name).env.items() if key != "PYTHONPATH"}
        program = str(self.place / "fks" / "builds" / self.build / "bin" / "fks")
        command = [*self.machines[name].inside, program, *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)

    def fks(self, name: str, *args: str) -> dict[str, Any]:
        """Return the document of a command, {} where it fails."""
        done = self.run(name, *args, "--json")
        if done.returncode:
            self.note(f"    {' '.join(args)}: {(done.stdout + done.stderr)[-400:]}")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def start(self, name: str) -> str:
        """Run the start command of a machine, as `ray up` does, and return what it prints."""
        address = self.machines[name].address
        if name in HEADS:
            options = ["head", "--standby", "--address", address, "--port", str(PORT)]
        else:
            options = ["worker", "--node-ip", address]
        done = self.run(name, "node", *options, "--name", name, "--detach", timeout_s=UPGRADE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self, name: str) -> dict[str, Any]:
        """Return the status document that a machine's keeper gives, {} while it has none."""
        try:
            return dict(ask(Paths.of(self.place / name / "home").keeper_socket, "status")["status"])
        except (OutageError, KeyError, TypeError):
            return {}

    def row(self, name: str, seen_from: str = "") -> dict[str, Any]:
        """Return a machine's row."""
        rows = self.status(seen_from or self.head).get("nodes", [])
        return next((row for row in rows if row["name"] == name), {})

    def components(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.status(self.head).get("components", [])}

    def gateways(self) -> set[str]:
        """Return the machines whose gateway is ready: while it is put on workers, some requests get no answer."""
        rows = self.components().items()
        return {row["node"] for name, row in rows if name.startswith("gateway:") and row["state"] == "ready"}

    @property
    def head(self) -> str:
        """Return the head: the one that was lost is silent, or stands by."""
        return next((name for name in self.machines if self._is_head(name)), HEADS[0])

    def _is_head(self, name: str) -> bool:
        row = self.row(name, seen_from=name) if name in HEADS else {}
        return row.get("role") == "head" and row.get("state") == "ready"

    def settle(self) -> None:
        """Wait until everything is well."""
        wait_until(lambda: self.status(self.head).get("state") == "healthy", deadline_s=BACK_S, every_s=0.5)

    def begin(self) -> None:
        """Start both heads and a worker, and trade."""
        make_build(self.place / "fks", "a", change=("fks/__init__.py", "#: a\n"))
        token = self.draw.randbytes(32).hex()
        for name in (*HEADS, *WORKERS):
            home = self.place / name / "home"
            home.mkdir(mode=0o700, parents=True)
            (home / "ray.token").touch(mode=0o600)
            (home / "ray.token").write_text(token)
        self.boot("h0")
        done = self.run("h0", "node", "prepare")
        assert done.returncode == 0, done.stderr
        self.start("h0")
        for name in ("h1", "w1"):
            self.boot(name)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.start, ("h1", "w1")))
        wait_until(lambda: self.gateways() == {"h0", "w1"}, deadline_s=BACK_S, every_s=0.5)
        self.note("h0, h1 and w1 run, the gateway on h0 and w1")
        self.trading.begin()
        self.settle()
        assert self.row("h1")["role"] == "standby"

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────
    def lose_head(self) -> None:
        """The head's machine is cut off or switched off; the standby trades; the old head comes back and waits."""
        old = self.head
        (standby,) = {*HEADS} - {old}
        is_cut, machine = self.draw.random() < 0.5, self.machines[old]
        start = time.monotonic()
        if is_cut:
            self.network.cut_off(machine)
        else:
            self.network.switch_off(machine)
        seen = self.trading.ordered()  # of the lost machine nothing arrives any more
        self.note(f"{old} is {'cut off' if is_cut else 'switched off'}")

        def after(what: str, is_so: Callable[[], object], deadline_s: float = BACK_S) -> float:
            wait_until(is_so, deadline_s=deadline_s, every_s=0.1)
            self.note(f"    {what} after {time.monotonic() - start:.1f} s")
            return time.monotonic() - start

        def is_head() -> bool:  # its row in `nodes` comes once Ray runs
            rows = self.status(standby).get("components", [])
            return any(row["name"] == "keeper" and row["node"] == standby for row in rows)

        taken_s = after(f"{standby} is the head", is_head)
        ready = ("orders", "guardian")
        after(
            "order manager and guardian are ready",
            lambda: (
                {
                    row["name"]
                    for row in self.status(standby).get("components", [])
                    if row["name"] in ready and row["state"] == "ready" and row["node"] == standby
                }
                == {*ready}
            ),
        )
        after("the strategy has traded", lambda: set(self.trading.ordered()) - set(seen), TRADING_S)
        after("the gateway answers", lambda: self.fks(standby, "status").get("source") == "gateway")
        assert taken_s <= TAKEN_S
        if is_cut:
            self.network.reconnect(machine)
        else:
            self.boot(old)
            self.start(old)
        start = time.monotonic()
        after(f"{old} is back and stands by", lambda: self.row(old, seen_from=standby).get("role") == "standby")
        session = self.row(standby)["detail"]["session"]
        workers = [name for name in WORKERS if self.row(name)]
        after("the workers are the new head's", lambda: all(self.session(name) == session for name in workers))

    def session(self, name: str) -> str:
        row = self.row(name)
        return str(row["detail"].get("session")) if row.get("state") == "ready" else ""

    def upgrade(self) -> None:
        """Another build is installed everywhere and started on the head, as `ray up` does: all machines go over to it,
        the standby among them."""
        start, self.build = time.monotonic(), "b"
        if not (self.place / "fks" / "builds" / "b").exists():
            make_build(self.place / "fks", "b", change=("fks/__init__.py", "#: b\n"))
        done = self.run(self.head, "node", "prepare")
        assert done.returncode == 0, done.stderr
        out = self.start(self.head)
        new = version_of(self.place / "fks" / "builds" / "b")
        self.note(
            f"upgraded to {new} after {time.monotonic() - start:.1f} s\n    " + out.strip().replace("\n", "\n    ")
        )
        document = self.status(self.head)
        parts = [row for row in document["components"] if row["kind"] == "actor"]
        assert {str(row["version"]) for row in (*document["nodes"], *parts)} == {new}
        (standby,) = {*HEADS} - {self.head}
        assert self.row(standby)["role"] == "standby"
        assert "already running" in self.start(standby), "a second start replaces nothing"

    def join(self) -> None:
        """The second worker joins."""
        with self.unmoved("w2 has joined"):
            if "w2" not in self.machines:
                self.boot("w2")
            self.start("w2")
            wait_until(lambda: self.row("w2").get("state") == "ready", deadline_s=BACK_S, every_s=0.5)

    def leave(self) -> None:
        """One of the workers leaves in order; the other one has its parts."""
        gone = self.draw.choice(WORKERS)
        with self.unmoved(f"{gone} has left"):
            done = self.run(gone, "node", "stop")
            assert done.returncode == 0, done.stderr
            wait_until(lambda: not self.row(gone), deadline_s=BACK_S, every_s=0.5)

    def unmoved(self, text: str) -> Unmoved:
        return Unmoved(self, text)

    def kill(self) -> None:
        """kill -9 of a drawn process; it is back."""
        name = self.draw.choice(VICTIMS)
        before = self.components()[name]
        victim = [*self.machines[before["node"]].inside, "kill", "-9", str(before["pid"])]
        subprocess.run(victim, check=True)
        start = time.monotonic()

        def is_back() -> bool:
            row = self.components().get(name, {})
            return row.get("pid", before["pid"]) != before["pid"] and row["state"] == "ready"

        wait_until(is_back, deadline_s=BACK_S, every_s=0.2)
        self.note(f"{name} on {before['node']} was killed: back after {time.monotonic() - start:.1f} s")


@dataclass
class Unmoved:
    """A change of the workers: the parts on the head are the same processes after it, and those that moved are noted."""

    cluster: Cluster
    text: str

    def __enter__(self) -> None:
        self.before, self.start = self.processes(), time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        seconds = time.monotonic() - self.start
        self.cluster.settle()
        after = self.processes()
        moved = [name for name, process in self.before.items() if after.get(name) != process]
        self.cluster.note(f"{self.text} after {seconds:.1f} s; started anew or gone: {', '.join(moved) or 'nothing'}")
        assert not {*moved} & {*ON_THE_HEAD}

    def processes(self) -> dict[str, tuple[str, int]]:
        rows = self.cluster.components().items()
        return {name: (row["node"], row["pid"]) for name, row in rows if row["kind"] == "actor"}


def events(draw: random.Random) -> list[str]:
    """Return the drawn order; the worker that may leave has joined before."""
    order = ["lose_head", "upgrade", "join", "leave"]
    draw.shuffle(order)
    first, last = sorted((order.index("join"), order.index("leave")))
    order[first], order[last] = "join", "leave"
    return order


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    require_network()
    place = Path(tempfile.mkdtemp(prefix="fks-cl-"))
    place.chmod(0o755)
    network = Network(place, 60 + os.getpid() % 180)
    exchange = LocalExchange(place / "exchange", ["--rate-limits", "off"])
    stored = place / "stores"
    stored.mkdir()
    try:
        network.open()
        exchange.start()
        network.serve(int(exchange.info["rest"].rpartition(":")[2]))
        with stores(stored, network.address(1), str(stored / "ca.crt")) as (database, redis, _):
            info = exchange.info
            env = {
                "FKS_DATABASE_URL": database,
                "FKS_REDIS_URL": redis,
                "FKS_SUPERVISION_HEARTBEAT_S": "1",  # the default
                "FKS_DATA_SYMBOLS": f"BTCUSDT,{HELD}",
                **{
                    f"FKS_{part}_{name.upper()}_URL": info[name]
                    for part in ("DATA", "VENUE")
                    for name in ("rest", "ws")
                },
                "FKS_VENUE_WS_API_URL": info["ws_api"],
                "FKS_VENUE_API_KEY": info["api_key"],
                "FKS_VENUE_API_SECRET": info["api_secret"],
            }
            yield Cluster(place, network, exchange, env, SEED)
    finally:
        exchange.stop()
        network.close()
        shutil.rmtree(place, ignore_errors=True)


def test_nothing_is_lost_while_a_head_is_lost_and_machines_change(cluster: Cluster) -> None:
    order = events(cluster.draw)
    cluster.note(f"FKS_SOAK_SEED={cluster.seed}: {', '.join(order)}")
    cluster.begin()
    trading = cluster.trading
    with trading.watched() as bare:
        for number, event in enumerate(order):
            if number:
                cluster.kill()
            fills = len(trading.fills()) + cluster.draw.randint(1, 2)
            wait_until(lambda: len(trading.fills()) >= fills, deadline_s=TRADING_S, every_s=0.2)  # noqa: B023
            time.sleep(cluster.draw.random())  # a drawn moment
            cluster.note(event)
            getattr(cluster, event)()
            cluster.settle()
        fills = len(trading.fills())
        wait_until(lambda: len(trading.fills()) > fills, deadline_s=TRADING_S, every_s=0.5)
    assert cluster.fks(cluster.head, "strategies", "disable", "fast")
    trading.check_nothing_is_lost()
    signals = cluster.fks(cluster.head, "signals", "list", "-n", "100000")["items"]
    cluster.note(f"{len(signals)} signals; moments without the stop of what is held: {bare}")
    assert bare == []
    sold = ("orders", "place", "sell", "0.2", HELD, "--account", "ccxt", "--reduce-only", "--key", "sold")
    assert cluster.fks(cluster.head, *sold)
    wait_until(lambda: [quantity[:3] for quantity in trading.stops()] == ["0.2"], deadline_s=60.0)
    done = cluster.run(cluster.head, "node", "stop", "--all")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not any(map(cluster.status, cluster.machines)), deadline_s=BACK_S, every_s=0.5)
