"""The end of an exit over HTTP and the command line, with an order manager behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.model.order import State
from fks.model.signal import Kind, SignalState
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.tokens import ensure_local_token
from fks.trading.orders.messages import Limits
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def rig(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    """An order manager that waits half a minute between two attempts of an exit, and a protected position."""
    await seed(database)
    rig = Rig(database, bus, ScriptedVenue(), limits=Limits(exit_retry_s=30, exit_retry_max_s=30))
    await rig.start()
    await rig.outcome(await rig.signal(stop_loss=D(90)))
    await until(rig.venue.live)
    yield rig
    await rig.stop()


@pytest.fixture
async def gateway(rig: Rig, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(rig.db, database_url, redis_url, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def fks(
    gateway: Running, rig: Rig, database_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Fks:
    paths = Paths.of(tmp_path)
    await ensure_local_token(rig.db, paths)
    port = int(gateway.url.rpartition(":")[2])
    save_node(paths, NodeEndpoints(database_url, redis_url, "", {"host": "127.0.0.1", "port": port}))

    async def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path), *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


async def waiting_exit(rig: Rig) -> tuple[str, str]:
    """Return the ids of the signal and of the refused order of an exit that waits for its next attempt."""
    rig.venue.script.append("refuse:-1015")
    out = await rig.signal(Kind.EXIT)
    await rig.outcome(out)
    order = await rig.becomes((await rig.entry(out)).client_order_id, State.REJECTED)
    await until(rig.venue.live)
    return str(out), order.client_order_id


async def test_delete_of_an_exits_last_order_ends_the_exit(gateway: Running, rig: Rig) -> None:
    signal, order = await waiting_exit(rig)
    async with gateway.client("trade") as client:
        answer = await client.delete(f"/orders/{order}")
        assert (answer.status_code, answer.json()["state"]) == (202, "REJECTED"), answer.text
        assert answer.json()["exit_end"] == {
            "signal_id": signal,
            "by": "t-trade",
            "state": "accepted",
            "detail": None,
        }

        async def is_recorded() -> bool:
            return (await client.get(f"/signals/{signal}")).json()["detail"] is not None

        await until(is_recorded)
        again = await client.delete(f"/orders/{order}")
        assert (again.status_code, again.json()["code"]) == (409, "ORDER_ENDED")
        assert again.headers["content-type"] == "application/problem+json"
        [story] = (await client.get("/why", params={"what": signal})).json()["items"]
    assert story["verdict"] == (
        "one wanted exit sell BTCUSDT; the order is REJECTED, filled 0 of 9.99; t-trade ended the exit; 9.99 is still "
        "held"
    )
    assert story["signal"]["ended_by"] == "t-trade"
    assert (len(rig.venue.by_role("exit")), len(rig.venue.live())) == (0, 1)


async def test_delete_of_a_waiting_exits_signal_ends_the_exit(gateway: Running, rig: Rig) -> None:
    await rig.db.sql("UPDATE instruments SET is_trading = false WHERE symbol = 'BTCUSDT'")
    await rig.read_slow()
    signal = await rig.signal(Kind.EXIT)
    async with gateway.client("trade") as client:
        answer = await client.delete(f"/orders/{signal}")
        assert answer.status_code == 202, answer.text
        assert answer.json()["exit_end"]["state"] == "accepted"
        assert await rig.outcome(signal) == (SignalState.NOTHING.value, None)
        again = await client.delete(f"/orders/{signal}")
        assert (again.status_code, again.json()["code"]) == (409, "ORDER_ENDED")
        [story] = (await client.get("/why", params={"what": str(signal)})).json()["items"]
    # before the core has begun the exit or after: the request may be the faster one
    ended = "one wanted exit sell BTCUSDT; t-trade ended the exit"
    assert story["verdict"] in (f"{ended}; 9.99 is still held", f"{ended} before its first order")


async def test_the_command_line_ends_an_exit_between_attempts(fks: Fks, rig: Rig) -> None:
    signal, order = await waiting_exit(rig)
    code, out, err = await fks("orders", "cancel", order)
    assert (code, err) == (OK, "")
    assert out == f"the exit of signal {signal} ends; what is held stays, with its protection\n"
    code, out, err = await fks("orders", "cancel", order, "--json")
    assert code == USAGE
    assert "has ended: REJECTED" in err
    code, out, _ = await fks("why", order, "--json")
    [story] = json.loads(out)["items"]
    assert story["verdict"].endswith("ended the exit; 9.99 is still held")
