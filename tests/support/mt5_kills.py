"""Kills and cut connections for a link to the agent of MetaTrader 5, drawn from a seed, and the findings at the end.

The agent dies at points inside it and at any time, the process of the link likewise, and the connection between them is
cut or silenced. The broker keeps its state in a file and misbehaves by itself. With `TradingFaults` the signals go
through an order manager, which is killed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from fks.bridge.mt5.platform import magic_of
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import client_mac
from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions
from fks.model.ninja import FINAL, MT5, RequestState
from fks.model.order import TERMINAL, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.ninja import NinjaStore
from fks.trading.order_manager.ninja_rows import NinjaRows
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support import mt5_agent_process
from tests.support.children import Child
from tests.support.free_port import free_port
from tests.support.invariants import Broken, journal_findings
from tests.support.mt5_agent_process import LOGIN
from tests.support.mt5_trading import seed
from tests.support.ninja import put_secret
from tests.support.ninja_faults import GROUP, Faults, LinkProcesses, Plan, Proxy
from tests.support.ninja_trading import LIMITS, SETTINGS
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"
WAIT_S = 30.0
#: an id that no request has never came to the agent: its absence is proven soon
PATIENT = SETTINGS.model_copy(
    update={
        "venue": SETTINGS.venue.model_copy(
            update={"absent_first_s": 0.5, "absent_age_s": 2.0, "absent_spacing_s": 0.3, "sweep_s": 1.0}
        )
    }
)


class LinkCutError(Exception):
    """The connection ended."""


class AgentClient:
    """A control session over a real socket, which stores events and checks that none is missing."""

    def __init__(self, port: int, secret: bytes, stored: list[dict[str, Any]]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._rest = b""
        self._lines: list[dict[str, Any]] = []
        self._stored = stored
        nonce = secrets.token_hex(32)
        hello = {"client": "test", "instance": INSTANCE, "group": "mt5", "role": "control", "nonce": nonce}
        self.send({"t": "hello", "v": 1, "platform": "mt5", **hello})
        bridge_nonce = self.wait("challenge")["nonce"]
        mac = client_mac(secret, bridge_nonce=bridge_nonce, client_nonce=nonce, instance=INSTANCE, group="mt5")
        last = stored[-1] if stored else {"seq": 0, "epoch": None}
        self.send({"t": "auth", "mac": mac, "epoch": last["epoch"], "last_seq": last["seq"]})
        welcome = self.wait("welcome")
        assert hmac.compare_digest(welcome["platform"][:4], "mt5 ")
        self.wait("replay_end")

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(strict_json.dumps(message))
        except OSError as error:
            raise LinkCutError from error

    def wait(self, *types: str) -> dict[str, Any]:
        """Return the next line of one of these types. Errors: LinkCutError; AssertionError after `WAIT_S`."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            while self._lines:
                line = self._lines.pop(0)
                if line["t"] == "ping":
                    self.send({"t": "pong", "n": line["n"], "t_ms": 0, "echo_ms": line["t_ms"]})
                if line["t"] == "ev":
                    self._store(line)
                if line["t"] in types:
                    return line
            self._read()
        raise AssertionError(f"no {types} within {WAIT_S} s")

    def read_for(self, seconds: float) -> None:
        """Read and store what comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.send({"t": "status", "rid": "r"})
            self.wait("status")
            time.sleep(0.1)

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        self._socket.settimeout(0.5)
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            return
        except OSError as error:
            raise LinkCutError from error
        if not data:
            raise LinkCutError
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += [dict(strict_json.loads(line)) for line in lines]

    def _store(self, event: dict[str, Any]) -> None:
        known = self._stored[-1]["seq"] if self._stored else 0
        if event["seq"] > known:
            assert event["seq"] == known + 1, f"event {event['seq']} after {known}"
            self._stored.append(event)


class AgentProcesses:
    """One process of the agent after the other; each ends at a random point inside it, or at any time."""

    def __init__(self, folder: Path, mode: str, seed: int) -> None:
        self.starts = 0
        self.port = free_port()
        self.folder = folder
        folder.mkdir(mode=0o700)
        put_secret(folder / "secret.key")
        self._given, self._dice = (seed, mode), random.Random(seed)
        self._is_calm = False
        self._process: Child | None = None
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self.starts += 1
            # a start may report more in one turn than it has points left: some have many
            dies_at = 0 if self._is_calm else self._dice.randint(4, 40) << self._dice.randint(1, 5)
            self._process = Child(mt5_agent_process.main, self.folder, self.port, *self._given, dies_at)
            code = await self._process.ended()
            assert code == -9, f"the agent ended with {code}"

    def kill(self) -> None:
        """End the process that runs now; another one follows."""
        if self._process is not None:
            self._process.kill()

    def check(self) -> None:
        """Raise what ended the processes, if anything but a kill did."""
        if self._task.done():
            self._task.result()

    async def calm(self) -> None:
        """Start a last process that is not killed."""
        self._is_calm = True
        self.kill()

    async def stop(self) -> None:
        await end_task(self._task)
        self.kill()
        if self._process is not None:
            await self._process.ended()


@dataclass
class AgentFaults(Faults):
    """The other end is the agent. `unsent`: states of a request whose order the broker never received."""

    bridges: AgentProcesses
    unsent: ClassVar[frozenset[RequestState]] = frozenset({RequestState.NACKED})

    def signal(self, dice: random.Random) -> dict[str, Any]:
        body: dict[str, Any] = {"account": "5001", "instrument": "EURUSD", "type": "market"}
        if len(self.ids) % 5 == 4:
            return body | {"action": "exit", "qty": "0.01"}
        return body | {"action": "buy", "qty": "0.02", "sl_points": "0.05", "tp_points": "0.05"}

    def broker(self) -> SimulatedTerminal:
        """Return a terminal that only reads: its clock stands still, and the agent's writes the file."""
        terminal = SimulatedTerminal(self.bridges.folder / "broker", lambda: 0, TerminalOptions())
        terminal.initialize()
        return terminal

    async def findings(self) -> list[str]:
        """Return orders that the broker accepted twice or against their rows, and positions that differ from events."""
        terminal = self.broker()
        log = Counter((line["magic"], line["position_id"]) for line in terminal.log())
        found: list[str] = [Broken(f"{key} was accepted {count} times") for key, count in log.items() if count > 1]
        magics, states = {magic for magic, _ in log}, await self.states()
        for id, state in states.items():
            wanted = {RequestState.ACKED: True, **dict.fromkeys(self.unsent, False)}.get(state)
            if (magic_of(id) in magics) is not wanted:
                text = f"{id} is {state.value}, and in the broker's log: {magic_of(id) in magics}"
                found.append(text if wanted is None else Broken(text))
        events = await NinjaStore(self.db).events_after(self.platform.key(GROUP), None, 0, limit=1_000_000)
        seqs = [event.seq for event in events if event.kind != "epoch"]
        if seqs != list(range(1, len(seqs) + 1)):
            found.append("the log has gaps or repeats")
        executions = [event.body for event in events if event.kind == "exec"]
        made = sum((D(one["qty"]) * (1 if one["side"] == "buy" else -1) for one in executions), D(0))
        positions = terminal.positions_get()
        held = sum((D(str(round(one.volume, 8))) for one in positions), D(0))
        if made != held:
            text = f"the executions make {made}, and {held} is held"
            found.append(Broken(text) if all(state in FINAL for state in states.values()) else text)
        if len({one["exec_id"] for one in executions}) != len(executions):
            found.append(Broken("an execution was reported twice"))
        found += [f"position {one.ticket} has no stop" for one in positions if not one.sl]
        return found


@dataclass(kw_only=True)
class TradingFaults(AgentFaults):
    """The signals go through an order manager, one after the other, and it dies with every second one."""

    unsent = AgentFaults.unsent | {RequestState.WITHDRAWN, RequestState.EXPIRED}
    rig: Rig
    prices: SimulatedTerminal
    kills: int = 0
    denied: Counter[str] = field(default_factory=Counter)
    _rows: NinjaRows | None = None

    @property
    def died(self) -> dict[str, int]:
        """Return how often each part has died."""
        agent, link = self.bridges.starts - 1, self.links.starts - 1
        return {"orders": self.kills, "agent": agent, "link": link, "connection": self.proxy.cuts}

    async def send(self) -> None:
        """Trade until so many signals were ordered, half of them accepted, and each part has died, at least once for ten
        of them. An order that meets a dead part is refused or absent: of the first few orders more than half may be, of
        three times as many they may not."""
        dice = random.Random(self.plan.seed + 1)
        await seed(self.db)
        await self.begin()
        breaking = asyncio.create_task(self._break(random.Random(self.plan.seed + 2)))
        try:
            while not await self._has_traded():
                await self._trade(dice)
        finally:
            await end_task(breaking)

    async def _has_traded(self) -> bool:
        accepted, wanted = Counter((await self.states()).values())[RequestState.ACKED], self.plan.signals
        is_most = accepted * 2 >= len(self.ids)
        assert is_most or len(self.ids) < 3 * wanted, f"of {len(self.ids)} orders {accepted} are accepted"
        return is_most and len(self.ids) >= wanted and min(self.died.values()) >= 1 + wanted // 10

    async def begin(self) -> None:
        """Start an order manager with a session of its own, in place of one that runs and dies as by kill -9."""
        if self._rows is not None:
            self.kills += 1
            await self.rig.crash()
            await self._rows.close()
        await self.rig.take_over()
        clock, lease = RealClock(), self.rig.lease
        self._rows = NinjaRows(self.db, self.rig.bus, lease, clock)
        config = NinjaConfig(GROUP, str(LOGIN), timeout_s=3.0, account_id=1, name=MT5.name, platform=MT5)
        self.rig.venues = {MT5.name: NinjaVenue(config, self._rows, clock, CollectingLog(), lease.holds)}
        await self.rig.run(wait_ready=False)

    async def end(self) -> None:
        """End the order manager."""
        if self._rows is not None:
            await self.rig.stop()
            await self._rows.close()

    async def _trade(self, dice: random.Random) -> None:
        """Send signals until one is ordered and its outcome is known; an exit is over once nothing is held."""
        end_s = time.monotonic() + 120
        while True:
            tick = D(str(self.prices.symbol_info_tick("EURUSD").bid))
            await self.db.sql("UPDATE feeds SET last_price = $1, last_message_at = now()", tick)
            is_exit = await self.rig.held("EURUSD") > 0 and dice.random() < 0.3
            given = {"size": D("0.02"), "stop_loss": tick - D("0.05"), "take_profit": tick + D("0.05")}
            signal = await self.rig.signal(
                Kind.EXIT if is_exit else Kind.ENTER, venue=MT5.name, exchange=MT5.name, symbol="EURUSD",
                reference_price=tick, **({} if is_exit else given),
            )  # fmt: skip
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.4)
                await self.begin()
            state, code = await self.rig.outcome(signal, deadline_s=60)
            await until(self._is_settled, deadline_s=60)
            if state == "ordered":
                self.ids.append((await self.rig.entry(signal)).client_order_id)
                if is_exit:
                    await until(self._is_flat, deadline_s=60)
                return
            self.denied[code or state] += 1
            assert time.monotonic() < end_s, self.denied
            await until(lambda: self.rig.service.is_ready, deadline_s=60)  # the link or the agent was away

    async def _is_settled(self) -> bool:
        """Return whether the outcome of each order is known; those that may rest are the exits at the broker."""
        self.links.check()
        self.bridges.check()
        assert self.rig.task is not None
        if self.rig.task.done():
            self.rig.task.result()
        rows = await self.db.sql("SELECT state FROM orders WHERE state NOT IN ('ACCEPTED', 'WORKING')")
        return all(State(row["state"]) in TERMINAL for row in rows)

    async def _is_flat(self) -> bool:
        return await self.rig.held("EURUSD") == 0

    async def findings(self) -> list[str]:
        """Return also what the journal and the broker do not agree on."""
        found, terminal = await super().findings(), self.broker()
        magics = {line["magic"] for line in terminal.log()}
        orders = await self.db.sql("SELECT * FROM orders WHERE role NOT IN ('sl', 'tp')")
        is_at_rest = all(State(row["state"]) in TERMINAL for row in orders)
        for row in orders:
            id, state = row["client_order_id"], State(row["state"])
            if state not in TERMINAL:
                found.append(f"{id} is {state.value}")
            if (magic_of(id) in magics) is (state in (State.REJECTED, State.ABSENT, State.DENIED)):
                text = f"{id} is {state.value}, and in the broker's log: {magic_of(id) in magics}"
                found.append(Broken(text) if state in TERMINAL else text)
        if strangers := magics - {magic_of(row["client_order_id"]) for row in orders}:
            found.append(Broken(f"the broker has orders that the journal does not know: {strangers}"))
        held = sum((D(str(round(one.volume, 8))) for one in terminal.positions_get()), D(0))
        if (ours := await self.rig.held("EURUSD")) != held:
            text = f"the journal holds {ours}, and the broker {held}"
            found.append(Broken(text) if is_at_rest else text)
        return found + await journal_findings(self.db)


@contextlib.asynccontextmanager
async def agent_faults(folder: Path, db: Database, url: str, plan: Plan, mode: str) -> AsyncIterator[AgentFaults]:
    """Run a link and an agent that die, at a broker of the account's `mode`: netting or hedging."""
    agents = AgentProcesses(folder, mode, plan.seed)
    proxy = Proxy((agents.port, agents.port))
    await proxy.open()
    dice = random.Random(plan.seed + 3)
    links = LinkProcesses(url, proxy.port, folder / "secret.key", dice, plan.link_chance, MT5)
    try:
        yield AgentFaults(plan, db, links, agents, proxy, MT5)
    finally:
        await links.stop()
        await agents.stop()
        await proxy.close()


async def trade_while_everything_dies(
    folder: Path, db: Database, url: str, bus: Bus, mode: str, seed: int, signals: int
) -> None:
    """Trade so many signals through an order manager that dies with link, agent and connection; each order must be at
    the broker once, and positions equal. Print what died and struck."""
    prices = SimulatedTerminal(
        folder.with_name("prices"), lambda: time.time_ns() // 1_000_000, TerminalOptions(seed=seed)
    )
    prices.initialize()
    plan = Plan(seed, signals, ready_s=1.0, shares=(("bridge", 1), ("link", 1), ("cut", 3), ("freeze", 1)))
    began_s = time.monotonic()
    async with agent_faults(folder, db, url, plan, mode) as of:
        rig = Rig(db, bus, ScriptedVenue(), settings=PATIENT, limits=LIMITS)
        run = TradingFaults(plan, db, of.links, of.bridges, of.proxy, MT5, rig=rig, prices=prices)
        try:
            await run.send()
            await run.settle()
        finally:
            await run.end()
        states = Counter(state.value for state in (await run.states()).values())
    print(f"{mode}: {len(run.ids)} signals in {time.monotonic() - began_s:.0f} s; requests {dict(states)}; died {run.died}; "
          f"denied {dict(run.denied)}")  # fmt: skip
    assert states["ACKED"] >= signals // 2, "most orders are accepted"
