"""The simulated NinjaTrader on a port of this process, with a position that a control session opened."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.session import ClientSession, Identity, Prepared
from fks.bridge.ninja.signals import LinkSignalState
from fks.bridge.ninja_link.link import Link, system_draws
from fks.bridge.peer.bridge import BridgeConfig
from fks.clock import RealClock
from fks.lab.sim.nt8.server import BridgeServer, ServerOptions, front_contract, start
from fks.lab.sim.nt8.unkindness import KIND, Unkindness
from tests.support.waiting import until

ACCOUNT = "Sim101"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def options(
    folder: Path, *, unkind: Unkindness = KIND, port: int = 0, config: BridgeConfig | None = None
) -> ServerOptions:
    """Options of a platform with one simulation account and the front month of ES, whose account settles at once."""
    return ServerOptions(
        data_dir=folder,
        port=port,
        instruments=(front_contract("ES", now_ms()),),
        unkind=unkind,
        config=config or BridgeConfig(settle_ms=0, quote_age_ms=600_000),
    )


@contextlib.asynccontextmanager
async def platform(folder: Path, **given: object) -> AsyncIterator[BridgeServer]:
    """A running platform; given: the arguments of `options`."""
    server = await start(options(folder, **given))  # type: ignore[arg-type]
    try:
        yield server
    finally:
        await server.stop()


class Control:
    """A control session: `enter` sends a signal and returns its answer."""

    def __init__(self, server: BridgeServer) -> None:
        self.server, self.events = server, list[o.Event]()
        identity = Identity(server.options.config.group, "control", uuid.uuid4().hex, server.secret)
        self.session = ClientSession(identity, RealClock(), system_draws(), ports=(server.port,))
        self.link = Link(self.session, "127.0.0.1", RealClock(), self.events.append)

    async def enter(self, **changes: object) -> o.SignalChanged:
        """Send a market order to buy 2 with stop and target, and wait for the answer."""
        signal_id, at_ms = uuid.uuid4().hex, now_ms()
        fields = {
            "id": signal_id, "account": ACCOUNT, "instrument": self.server.options.instruments[0], "action": "buy", "qty": 2,
            "type": "market", "sl_points": Decimal(10), "tp_points": Decimal(20), "created_ms": at_ms, "valid_until": at_ms + 30_000,
            **changes,
        }  # fmt: skip
        prepared = self.session.prepare(m.SignalMessage(**fields))  # type: ignore[arg-type]
        assert isinstance(prepared, Prepared), prepared
        assert self.session.send(prepared) is None
        self.link.flush()
        return await until(lambda: next((found for found in self.answers(signal_id)), None))

    def answers(self, signal_id: str) -> list[o.SignalChanged]:
        ended = (LinkSignalState.ACKED, LinkSignalState.NACKED, LinkSignalState.RETRYABLE)
        changed = [event for event in self.events if isinstance(event, o.SignalChanged)]
        return [event for event in changed if event.id == signal_id and event.state in ended]


@contextlib.asynccontextmanager
async def control(server: BridgeServer) -> AsyncIterator[Control]:
    """A control session that is ready."""
    found = Control(server)
    running = asyncio.create_task(found.link.run())
    try:
        await until(lambda: any(isinstance(event, o.Ready) for event in found.events))
        yield found
    finally:
        found.session.stop()
        found.link.flush()
        await running


async def open_position(server: BridgeServer, **changes: object) -> None:
    """Open a position with stop and target, and leave: the process that sent it is gone."""
    async with control(server) as client:
        answer = await client.enter(**changes)
        assert answer.state is LinkSignalState.ACKED, answer
        await until(lambda: held(server) != 0 and len(resting(server)) == 2)


def held(server: BridgeServer) -> int:
    """Contracts that the account holds."""
    return sum(position.qty for position in server.platform.positions(ACCOUNT))


def resting(server: BridgeServer) -> list[str]:
    """Names of the account's live orders."""
    return [order.name for order in server.platform.orders(ACCOUNT) if order.is_live]
