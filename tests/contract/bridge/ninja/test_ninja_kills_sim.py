"""The link's process and the bridge killed at random points: no signal is submitted twice, every event is stored once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from fks.bridge.ninja.messages import order_name
from fks.bridge.peer.bridge import BridgeConfig
from fks.bridge.peer.server import BridgeKilled
from fks.lab.sim.nt8.server import ServerOptions, front_contract, start
from fks.model.ninja import FINAL, NinjaRequest, RequestKind, RequestState
from fks.store.db import Database
from fks.store.ninja import NinjaStore
from tests.support.invariants import assert_once
from tests.support.ninja_faults import LinkProcesses
from tests.support.waiting import until

SIGNALS = int(os.environ.get("FKS_NINJA_SIGNALS", "100"))
LINK_CHANCE, BRIDGE_CHANCE = 0.04, 0.003
CONFIG = BridgeConfig(
    settle_ms=200, max_position=10_000, signals_per_s=100_000, signals_per_min=1_000_000, on_client_lost="keep"
)


async def ask(store: NinjaStore, id: str, instrument: str, price: str | None) -> None:
    now_ns = time.time_ns()
    body = {
        "account": "Sim101", "instrument": instrument, "action": "buy", "qty": 1, "sl_points": "50", "tp_points": "50",
        "type": "market" if price is None else "limit",
    }  # fmt: skip
    body |= {} if price is None else {"price": price}
    request = NinjaRequest(id, "sim", RequestKind.SIGNAL, body, "test", now_ns + 600 * 10**9)
    assert await store.ask(request, now_ns)


@pytest.mark.parametrize("seed", [7])
async def test_killed_link_and_bridge_submit_each_signal_once(
    database: Database, database_url: str, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    instrument = front_contract("ES", time.time_ns() // 1_000_000)
    is_calm = False

    def crash(_: str) -> None:
        if not is_calm and dice.random() < BRIDGE_CHANCE:
            raise BridgeKilled

    server = await start(ServerOptions(tmp_path, seed=seed, instruments=(instrument,), config=CONFIG), crash=crash)
    secret_file = server.options.data_dir / "secret.key"
    links = LinkProcesses(database_url, server.port, secret_file, random.Random(seed), LINK_CHANCE)
    store = NinjaStore(database)
    ids = [f"s{n}" for n in range(SIGNALS)]
    try:
        last = server.platform.last_trade(instrument)
        assert last is not None
        price = str(last.price - 100)
        for id in ids:
            await ask(store, id, instrument, None if dice.random() < 0.5 else price)
            await asyncio.sleep(dice.random() * 0.05)

        async def answered() -> bool:
            links.check()
            rows = [await store.answer_of(id) for id in ids]
            return all(row is not None and row.state in FINAL for row in rows)

        await until(answered, deadline_s=180.0, every_s=0.3)
        is_calm, links.chance = True, 0.0
        bridge = server.sessions.bridge

        async def caught_up() -> bool:
            links.check()
            found = await store.link("sim")
            return found is not None and found.stored_seq >= bridge.last_seq

        await until(caught_up, deadline_s=60.0)
        found = await store.link("sim")
    finally:
        await links.stop()
        await server.stop()

    assert found is not None
    states = {id: row.state for id in ids if (row := await store.answer_of(id)) is not None}
    assert set(states.values()) <= {RequestState.ACKED, RequestState.NACKED}
    submits = {id: server.platform.submits_of(order_name(id, "E")) for id in ids}
    assert_once(id for id, count in submits.items() for _ in range(count))
    assert submits == {id: int(state is RequestState.ACKED) for id, state in states.items()}
    assert sum(submits.values()) > SIGNALS * 0.7, "most signals are accepted"

    log = [event for event in bridge.events_after(0) if event["seq"] <= found.stored_seq]
    stored = [event for event in await store.events_after("sim", None, 0, limit=100_000) if event.kind != "epoch"]
    assert [event.seq for event in stored] == list(range(1, found.stored_seq + 1))
    assert [(event.seq, event.kind, event.body.get("exec_id")) for event in stored] == [
        (event["seq"], event["kind"], event.get("exec_id")) for event in log
    ]
    fills = [event.body["exec_id"] for event in stored if event.kind == "exec" and event.body["op"] == "add"]
    assert_once(fills)
    assert links.starts > 3, "the link was killed"
    assert server.kills > 3, "the bridge was killed"
