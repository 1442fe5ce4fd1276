"""Kills and cut connections for a link to the C# AddOn, drawn from a seed, and the findings about what was left.

Three parts die by themselves: the process with the AddOn under mono (at points inside it and at any time), the process
of the link, and the connection between them. The broker of the simulated platform keeps its state in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fks.bridge.ninja.messages import order_name
from fks.clock.waiting import end_task
from fks.lab.sim.nt8.server import front_contract
from fks.model.errors import OutageError
from fks.model.ninja import FINAL, NINJA, BridgePlatform, NinjaEvent, NinjaRequest, RequestKind, RequestState
from fks.store.db import Database
from fks.store.ninja import NinjaStore
from tests.support import mono, ninja_link_process, nt8_host
from tests.support.children import Child
from tests.support.free_port import free_port
from tests.support.invariants import Broken, assert_none
from tests.support.ninja import put_secret
from tests.support.waiting import until

GROUP, ACCOUNT = "sim", "Sim101"
START_PRICE = 4500
LIVE_EXITS = ("Accepted", "Working", "PartFilled")
CONFIG = {
    "settle_ms": 1000, "max_position": 100_000, "max_distance_ticks": 100_000, "rate_per_second": 1000,
    "rate_per_minute": 10_000,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The chances of each fault, per point reached in the AddOn and per write of the link.

    `ready_s`: mean time from a link that can trade until something is killed or cut, by its share: so that a slow
    machine sees as many faults for each signal. `turns_min`: how often each part has to start, and the connection to
    be cut, at the least: more signals are sent until then, at most ten times as many.
    """

    seed: int
    signals: int
    pause_s: float = 0.1  # between two signals, at most twice this
    addon_chance: float = 0.01
    link_chance: float = 0.01
    ready_s: float = 0.7
    turns_min: int = 0
    shares: tuple[tuple[str, int], ...] = (("bridge", 4), ("link", 2), ("cut", 4), ("freeze", 1))


class LinkProcesses:
    """One process of the link after the other, until `stop`; each kills itself at random calls of the database."""

    def __init__(
        self,
        url: str,
        port: int,
        secret_file: Path,
        dice: random.Random,
        chance: float,
        platform: BridgePlatform = NINJA,
    ) -> None:
        self.starts = 0
        self.chance = chance
        self._given = (url, port, secret_file, platform.name)
        self._dice = dice
        self._process: Child | None = None
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            seed, self.starts = self._dice.randrange(1 << 30), self.starts + 1
            with tempfile.TemporaryFile("w+") as error:
                self._process = Child(ninja_link_process.main, *self._given, seed, self.chance, stderr=error)
                if await self._process.ended() != -9:
                    error.seek(0)
                    raise AssertionError(error.read()[-2000:])

    def kill(self) -> None:
        """End the process that runs now; another one follows."""
        if self._process is not None:
            self._process.kill()

    def check(self) -> None:
        """Raise what ended the processes, if anything but a kill did."""
        if self._task.done():
            self._task.result()

    def calm(self) -> None:
        """Start a last process that is not killed."""
        self.chance = 0.0
        self.kill()

    async def stop(self) -> None:
        self._task.cancel()
        self.kill()
        if self._process is not None:
            await self._process.ended()


class AddOnProcesses:
    """One NinjaTrader with the AddOn after the other; each ends at a random point inside it, or at any time."""

    def __init__(self, build: mono.Build, folder: Path, ports: tuple[int, int], plan: Plan) -> None:
        self.starts = 0
        self.secret_file = folder / "fks" / "secret.key"
        self.secret_file.parent.mkdir(parents=True)
        put_secret(self.secret_file, nt8_host.SECRET)
        config = {**CONFIG, "group": GROUP, "port": ports[0], "port_fallback": ports[1]}
        (folder / "fks" / "config.json").write_text(nt8_host.dump(config))
        self.instrument = front_contract("ES", time.time_ns() // 1_000_000)
        self._plan, self._dice = plan, random.Random(plan.seed)
        self._late = random.Random(plan.seed).sample(range(plan.signals), plan.signals // 25)
        self._host = nt8_host.Host(build, folder)
        self._is_calm = self._is_killed = False
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self.starts, self._is_killed = self.starts + 1, False
            with contextlib.suppress(nt8_host.HostEndedError):
                await asyncio.to_thread(self._start)
                while not self._is_calm and self._host.is_alive and not self._is_killed:
                    await asyncio.sleep(0.01)
                if self._is_calm and self._host.is_alive:
                    await asyncio.to_thread(self._host.do, "calm")
                    return
            await asyncio.to_thread(self._host.kill)

    def kill(self) -> None:
        """End the process that runs now; another one follows."""
        self._is_killed = True

    def _start(self) -> None:
        live = {
            "seed": self._dice.randrange(1 << 30), "instrument": self.instrument, "price": START_PRICE,
            "crash_chance": 0 if self._is_calm else self._plan.addon_chance,
            "late": [order_name(f"s{number}", "E") for number in self._late],
        }  # fmt: skip
        self._host.start(time.time_ns() // 1_000_000, [ACCOUNT], live=live)
        answer = self._host.do("activate")
        assert answer["listening"], f"the AddOn did not start: {self._host.do('report')['printed']}"

    async def calm(self) -> None:
        """End the kills; afterwards one process runs."""
        self._is_calm = True
        await self._task

    def check(self) -> None:
        """Raise what ended the processes, if anything but a kill did."""
        if self._task.done():
            self._task.result()

    async def report(self) -> dict[str, Any]:
        """Return what the platform and the AddOn know. Only after `calm`."""
        return await asyncio.to_thread(self._host.do, "report")

    def late(self) -> int:
        """Return how many orders the broker took after their Submit had failed."""
        return (self._host.folder / "broker.jsonl").read_text().count('"k":"late"')

    async def stop(self) -> None:
        await end_task(self._task)
        await asyncio.to_thread(self._host.kill)


@dataclass
class _Pair:
    """One connection through the proxy."""

    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    is_frozen: bool = False


class Proxy:
    """Forwards TCP connections to the first of `ports` that accepts; `cut` breaks them, `freeze` silences them."""

    def __init__(self, ports: tuple[int, int]) -> None:
        self._ports = ports
        self._pairs: list[_Pair] = []
        self.cuts = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        self.cuts += bool(self._pairs)
        for pair in self._pairs:
            for writer in pair.writers:
                writer.transport.abort()
        self._pairs.clear()

    def freeze(self) -> None:
        """Forward nothing more on the connections that are open now, and leave them open."""
        self.cuts += bool(self._pairs)
        for pair in self._pairs:
            pair.is_frozen = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair([writer])
        for port in self._ports:
            with contextlib.suppress(OSError):
                there, onward = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            writer.close()
            return
        pair.writers.append(onward)
        self._pairs.append(pair)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, onward, pair), self._pump(there, writer, pair))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair) -> None:
        try:
            while data := await reader.read(65536):
                if not pair.is_frozen:
                    writer.write(data)
                    await writer.drain()
        finally:
            if not pair.is_frozen:
                writer.close()


class Bridges(Protocol):
    """One process with the other side of the link after the other, each killed at a point inside it, or at any time."""

    starts: int

    def kill(self) -> None:
        """End the process that runs now; another one follows."""

    def check(self) -> None:
        """Raise what ended the processes, if anything but a kill did."""

    async def calm(self) -> None:
        """End the kills; afterwards one process runs."""


@dataclass
class Faults(ABC):
    """A link, the process at its other end and the connection between them, all of which die; `settle` ends that and
    waits until all is done."""

    plan: Plan
    db: Database
    links: LinkProcesses
    bridges: Bridges
    proxy: Proxy
    platform: BridgePlatform = NINJA
    ids: list[str] = field(default_factory=list)

    @abstractmethod
    def signal(self, dice: random.Random) -> dict[str, Any]:
        """Return the body of the next signal."""

    @abstractmethod
    async def findings(self) -> list[str]:
        """Return differences between the broker, the bridge and the rows."""

    @property
    def turns(self) -> dict[str, int]:
        """Return how often each part has started, and the connection was cut."""
        return {"bridge": self.bridges.starts, "link": self.links.starts, "connection": self.proxy.cuts}

    async def send(self) -> None:
        """Commit the signals as an order manager does, some of them cancelled again, while everything dies."""
        dice, store = random.Random(self.plan.seed + 1), NinjaStore(self.db)
        breaking = asyncio.create_task(self._break(random.Random(self.plan.seed + 2)))
        try:
            for number in range(10 * self.plan.signals):
                if number >= self.plan.signals and min(self.turns.values()) >= self.plan.turns_min:
                    break
                id = f"s{number}"
                await self._ask(store, id, RequestKind.SIGNAL, self.signal(dice))
                self.ids.append(id)
                await asyncio.sleep(dice.random() * 2 * self.plan.pause_s)
                if dice.random() < 0.05:
                    await self._ask(store, f"c{number}", RequestKind.CANCEL, {"id": id})
            await until(self._is_answered, deadline_s=60 + len(self.ids), every_s=0.3)
        finally:
            breaking.cancel()

    async def _ask(self, store: NinjaStore, id: str, kind: RequestKind, body: dict[str, Any]) -> None:
        now_ns = time.time_ns()
        request = NinjaRequest(id, self.platform.key(GROUP), kind, body, "test", now_ns + 3_600 * 10**9)

        async def is_stored() -> bool:
            with contextlib.suppress(OutageError):  # of a busy machine; the same request is stored once
                return await store.ask(request, now_ns)
            return False

        await until(is_stored, deadline_s=60)

    async def _break(self, dice: random.Random) -> None:
        """Kill or cut something a while after the link can trade, again and again."""
        acts = {
            "bridge": self.bridges.kill,
            "link": self.links.kill,
            "cut": self.proxy.cut,
            "freeze": self.proxy.freeze,
        }
        left: list[str] = []
        while True:
            if not left:  # a new round: each kind as often as its share
                left = [name for name, share in self.plan.shares for _ in range(share)]
                dice.shuffle(left)
            await until(self._can_trade, deadline_s=120, every_s=0.05)
            await asyncio.sleep(dice.expovariate(1 / self.plan.ready_s))
            acts[left.pop()]()
            await asyncio.sleep(0.3)  # until the row of the link can say so

    async def _can_trade(self) -> bool:
        link = await NinjaStore(self.db).link(self.platform.key(GROUP))
        return link is not None and link.can_trade

    async def states(self) -> dict[str, RequestState]:
        """Return the state of each signal's row."""
        rows = await self.db.sql("SELECT id, state FROM ninja_requests WHERE kind = 'signal'")
        return {row["id"]: RequestState(row["state"]) for row in rows}

    async def _is_answered(self) -> bool:
        self.links.check()
        self.bridges.check()
        return all(state in FINAL for state in (await self.states()).values())

    async def settle(self) -> None:
        """End kills and cuts, and wait until nothing is found any more or a minute is over. Errors: AssertionError, InvariantError."""
        await self.bridges.calm()
        self.links.calm()
        found: Sequence[str] = ["not looked yet"]
        end_s = time.monotonic() + 60
        while found and time.monotonic() < end_s:
            self.links.check()
            self.bridges.check()
            found = await self.findings()
            await asyncio.sleep(0.3)
        assert_none(found)

    async def status(self, store: NinjaStore) -> dict[str, Any]:
        """Return a status that the bridge was asked for; {} when it did not answer in time."""
        id = uuid.uuid4().hex
        await self._ask(store, id, RequestKind.STATUS, {})
        end_s = time.monotonic() + 5
        while time.monotonic() < end_s:
            row = await store.answer_of(id)
            if row is not None and row.state is RequestState.ACKED and row.answer is not None:
                return dict(row.answer)
            await asyncio.sleep(0.05)
        return {}


@dataclass
class AddOnFaults(Faults):
    """The other end is the AddOn."""

    bridges: AddOnProcesses

    def signal(self, dice: random.Random) -> dict[str, Any]:
        body: dict[str, Any] = {
            "account": ACCOUNT, "instrument": self.bridges.instrument, "action": "buy", "qty": dice.randint(1, 3),
            "type": "market", "sl_points": str(dice.randint(3, 8)), "tp_points": str(dice.randint(3, 8)),
        }  # fmt: skip
        if dice.random() < 0.4:
            body |= {"type": "limit", "price": str(START_PRICE + dice.choice((-200, *range(-8, 9))))}
        return body

    async def findings(self) -> list[str]:
        """Return differences between the broker, the AddOn and the rows."""
        report = await self.bridges.report()
        store = NinjaStore(self.db)
        link = await store.link(GROUP)
        events = await store.events_after(GROUP, None, 0, limit=1_000_000)
        found = [] if link is not None and link.stored_seq == report["last_seq"] else ["events are still to come"]
        return [
            *found,
            *position_findings(report["executions"], await self.status(store)),
            *submit_findings(await self.states(), report["submits"]),
            *execution_findings(report["executions"], events),
            *bracket_findings(report["orders"], report["submits"]),
            *(text for text in report["faults"] if "a handler of" not in text),  # this machine is slow and shared
        ]


def submit_findings(states: dict[str, RequestState], submits: list[dict[str, Any]]) -> list[str]:
    """Return signals that were not submitted exactly as their rows say, and orders that were submitted twice."""
    counts = Counter(order["name"] for order in submits if order["name"].startswith("FKS:"))
    found: list[str] = [Broken(f"{name} was submitted {count} times") for name, count in counts.items() if count != 1]
    for id, state in states.items():
        expected = {RequestState.ACKED: 1, RequestState.NACKED: 0}.get(state)
        if counts[order_name(id, "E")] != expected:
            text = f"signal {id} is {state.value} and was submitted {counts[order_name(id, 'E')]} times"
            found.append(text if expected is None else Broken(text))
    entries = {name.split(":")[1] for name in counts if name.endswith(":E")}
    return found + [Broken(f"{id} was submitted and is no signal") for id in entries - set(states)]


def execution_findings(executions: list[dict[str, Any]], events: list[NinjaEvent]) -> list[str]:
    """Return executions that were not reported once as they were, and gaps of the log."""
    made = {one["id"]: (one["name"], one["qty"], float(one["price"]), one["side"] == "Long") for one in executions}
    reported: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for event in events:
        body = event.body
        if event.kind == "exec" and body["op"] == "add":
            form = (body["name"], int(body["qty"]), float(body["price"]), body["side"] == "buy")
            reported[str(body["exec_id"])].append(form)
    found: list[str] = []
    for id, form in made.items():
        if not (forms := reported.get(id, [])):
            found.append(f"execution {id} {form} is not reported yet")
        elif forms != [form]:
            found.append(Broken(f"execution {id} {form} was reported as {forms}"))
    found += [Broken(f"execution {id} was reported and never made") for id in reported if id not in made]
    seqs = [event.seq for event in events if event.kind != "epoch"]
    if seqs != list(range(1, len(seqs) + 1)):
        found.append("the log has gaps or repeats")
    if len({event.epoch for event in events}) > 1:
        found.append("the AddOn began another journal")
    return found


def position_findings(executions: list[dict[str, Any]], status: dict[str, Any]) -> list[str]:
    """Return a position that is not what the executions make of it."""
    quantity = sum(one["qty"] * (1 if one["side"] == "Long" else -1) for one in executions)
    held = sum(
        int(position["qty"]) * (-1 if position["side"] == "short" else 1)
        for account in status.get("accounts", ())
        for position in account["positions"]
        if position["side"] != "flat"
    )
    return [] if held == quantity and status else [f"the executions make {quantity}, and {held} is reported"]


def bracket_findings(orders: list[dict[str, Any]], submits: list[dict[str, Any]]) -> list[str]:
    """Return signals whose live stops differ from their position, or whose targets exceed it.

    Where a stop was rejected, because the price had passed it while the AddOn was down, the AddOn flattens the
    instrument: the positions of those signals were sold by orders of the platform, named Close.
    """
    filled, stops, targets = Counter[str](), Counter[str](), Counter[str]()
    flattened = sum(order["filled"] for order in orders if order["name"] == "Close")
    for order in orders:
        if not order["name"].startswith("FKS:"):
            continue
        _, id, leg = order["name"].split(":")
        filled[id] += order["filled"] * (1 if leg[0] == "E" else -1)
        left = order["qty"] - order["filled"] if order["state"] in LIVE_EXITS else 0
        stops[id] += left if leg[0] == "S" else 0
        targets[id] += left if leg[0] == "T" else 0
    bare = {id for id in filled if filled[id] > 0 and stops[id] == targets[id] == 0}
    if sum(filled[id] for id in bare) == flattened:
        for id in bare:
            filled[id] = 0
    found = [f"{id} holds {filled[id]}, and its stops are {stops[id]}" for id in filled if stops[id] != filled[id]]
    found += [
        f"{id} holds {filled[id]}, and its targets are {targets[id]}" for id in filled if targets[id] > filled[id]
    ]
    open_ = [one["name"] for one in orders if one["state"] in ("Submitted", "Initialized")]
    return found + [f"{name} is not accepted yet" for name in open_]


@contextlib.asynccontextmanager
async def faults(build: mono.Build, folder: Path, db: Database, url: str, plan: Plan) -> AsyncIterator[AddOnFaults]:
    """Run a link and an AddOn that die."""
    ports = (free_port(), free_port())
    proxy = Proxy(ports)
    await proxy.open()
    addons = AddOnProcesses(build, folder, ports, plan)
    links = LinkProcesses(url, proxy.port, addons.secret_file, random.Random(plan.seed + 3), plan.link_chance)
    try:
        yield AddOnFaults(plan, db, links, addons, proxy)
    finally:
        await links.stop()
        await addons.stop()
        await proxy.close()
