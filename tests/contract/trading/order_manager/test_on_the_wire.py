"""The order service on the local exchange over real sockets: signals to fills, SL and TP, faults, and its own crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.order import Presence, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig as CcxtConfig
from fks.trading.venues.binance.session import BinanceVenue as CcxtVenue
from tests.support.invariants import assert_once, assert_one
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    found = LocalExchange(Path(tmp_path_factory.mktemp("exchange")), ("--rate-limits", "off")).start()
    yield found
    found.stop()


def ccxt_venue(exchange: LocalExchange) -> CcxtVenue:
    info = exchange.info
    config = CcxtConfig(
        account_id=0,
        order_timeout_s=1.0,
        read_timeout_s=3.0,
        rest_url=info["rest"],
        ws_url=info["ws"],
        ws_api_url=info["ws_api"],
        api_key=info["api_key"],
        api_secret=info["api_secret"],
    )
    return CcxtVenue(config, RealClock(), CollectingLog())


@pytest.fixture
async def wire(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[Rig]:
    """A rig whose venue is the real adapter on the local exchange, with the exchange's own rules for BTCUSDT."""
    exchange.clear()
    await seed(database)
    venue = ccxt_venue(exchange)
    price = await venue.last_price("BTCUSDT")
    await database.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await database.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
    rig = Rig(database, bus, ScriptedVenue(), venues={"ccxt": venue})
    yield rig
    if rig.task is not None:
        await rig.stop()


async def price_of(rig: Rig) -> Decimal:
    price = await rig.venues["ccxt"].last_price("BTCUSDT")  # type: ignore[index]
    assert price is not None
    return price


def sent(exchange: LocalExchange) -> list[str]:
    rows = exchange.received(path="/api/v3/order")
    return [row["params"]["newClientOrderId"] for row in rows if row["method"] == "POST"]


async def balance(rig: Rig) -> Decimal:
    balances = await rig.venues["ccxt"].balances()  # type: ignore[index]
    return balances["BTC"].total if "BTC" in balances else D(0)


async def entered(rig: Rig, **changes: Any) -> str:
    signal = await rig.signal(reference_price=await price_of(rig), **changes)
    assert (await rig.outcome(signal))[0] == "ordered"
    order = await rig.entry(signal)
    await rig.becomes(order.client_order_id, State.FILLED)
    return order.client_order_id


async def test_in_and_out_over_real_sockets(wire: Rig, exchange: LocalExchange) -> None:
    await wire.start()
    order = await entered(wire)
    assert await wire.held() == await balance(wire)
    out = await wire.signal(Kind.EXIT)
    assert await wire.outcome(out) == ("ordered", None)
    await wire.becomes((await wire.entry(out)).client_order_id, State.FILLED)
    assert await wire.position() < D("0.00001")
    assert_one([id for id in sent(exchange) if id == order])


async def test_an_oco_rests_and_leaves_before_the_exit(wire: Rig) -> None:
    await wire.start()
    price = await price_of(wire)
    await entered(wire, stop_loss=price * D("0.9"), take_profit=price * D("1.05"))

    async def legs() -> list[str]:
        rows = await wire.db.sql("SELECT state FROM orders WHERE parent_id IS NOT NULL ORDER BY role")
        return [row["state"] for row in rows]

    async def rest() -> bool:
        return await legs() in (["ACCEPTED", "WORKING"], ["WORKING", "WORKING"])

    await until(rest)
    out = await wire.signal(Kind.EXIT)
    assert (await wire.outcome(out))[0] == "ordered"
    await wire.becomes((await wire.entry(out)).client_order_id, State.FILLED)
    assert set(await legs()) <= {"CANCELLED", "EXPIRED"}
    assert await wire.position() < D("0.00001")


@pytest.mark.parametrize("kind", ["accept_then_cut", "drop", "truncate", "http_500", "503", "504_1007", "html_200"])
async def test_a_fault_on_the_send_ends_with_the_exchange_s_own_story(
    wire: Rig, exchange: LocalExchange, kind: str
) -> None:
    await wire.start()
    exchange.fault(kind, path="/api/v3/order", method="POST", count=1)
    signal = await wire.signal(reference_price=await price_of(wire))
    assert (await wire.outcome(signal))[0] == "ordered"
    order = (await wire.entry(signal)).client_order_id
    done = await wire.becomes(order, State.FILLED, State.ABSENT, State.REJECTED)
    assert_once(id for id in sent(exchange) if id == order)
    report = await wire.venues["ccxt"].query("BTCUSDT", order)  # type: ignore[index]
    assert (report.presence is Presence.FOUND) is (done.state is State.FILLED)

    async def same() -> bool:
        return await wire.held() == await balance(wire)

    await until(same)


async def test_a_crash_in_mid_send_is_settled_by_the_next_self(wire: Rig, exchange: LocalExchange) -> None:
    await wire.start()
    exchange.fault("answer_after", path="/api/v3/order", method="POST", count=1, seconds=1.5)
    signal = await wire.signal(reference_price=await price_of(wire))
    assert (await wire.outcome(signal))[0] == "ordered"
    order = (await wire.entry(signal)).client_order_id
    await until(lambda: order in sent(exchange))
    await wire.restart(venues={"ccxt": ccxt_venue(exchange)})
    await wire.becomes(order, State.FILLED)
    assert_one([id for id in sent(exchange) if id == order])
    assert await wire.held() == await balance(wire)
