"""The order manager trades at Kraken's wire: PostgreSQL and Redis are real, the exchange is a peer on a socket."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fks.clock import RealClock
from fks.model.order import OrderType, Outcome, Role, Side, State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt import dialect_venue
from fks.trading.venues.ccxt.dialect_venue import DialectVenue
from fks.trading.venues.ccxt.dialects import dialect
from tests.support.guarded_trading import ask, at_work
from tests.support.guardian_process import guardian_with
from tests.support.kraken_peer import SECRET, KrakenPeer, cut, saying, taken_then
from tests.support.order_rig import FAST, Rig
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import collect
from tests.support.venue_orders import order as any_order
from tests.support.waiting import until

D = Decimal
SYMBOL = "BTC/USD"
TIMEOUT_S = 20.0  # no case is about it: an order that a busy machine sends late must not become UNKNOWN
SETTINGS = FAST.model_copy(
    update={
        "venue": FAST.venue.model_copy(
            update={
                "exchange": "kraken",
                "entry_protection": "local",
                "skew_limit_ms": 2000.0,
                "sweep_s": 1.0,
                "order_timeout_s": TIMEOUT_S,
            }
        )
    }
)


async def seed_kraken(db: Database) -> None:
    """Make an account, the instrument of the peer's pair with a fresh feed, and an instance of 500 USD."""
    await db.sql("INSERT INTO accounts (name, venue, currency, initial_balance) VALUES ('main', 'ccxt', 'USD', 1000)")
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min) VALUES"
        " ('kraken', $1, 'BTC', 'USD', 0.1, 0.00000001, 0.00005, 100000, 0.5)",
        SYMBOL,
    )
    await db.sql(
        "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price) VALUES"
        " ('kraken', $1, 'trades', 'LIVE', now(), 50000)",
        SYMBOL,
    )
    await collect(db)
    await db.sql("UPDATE leases SET name = 'collector:kraken' WHERE name = 'collector:binance'")
    await db.sql(
        "INSERT INTO strategy_instances (id, strategy, exchange, symbol, timeframe, account_id, venue, size, pyramiding)"
        " VALUES ('one', 'sma_cross', 'kraken', $1, '1m', 1, 'ccxt', 500, 100)",
        SYMBOL,
    )


@pytest.fixture
async def peer() -> AsyncIterator[KrakenPeer]:
    made = KrakenPeer(RealClock(), market_price="50000")
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.serve)
    async with TestServer(app) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


@pytest.fixture
async def rig(database: Database, bus: Bus, peer: KrakenPeer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(dialect_venue, "POLL_S", 0.1)
    monkeypatch.setattr(dialect_venue, "IDLE_POLL_S", 0.1)
    await seed_kraken(database)
    made = Rig(database, bus, ScriptedVenue(), settings=SETTINGS, venues={"ccxt": session_at(peer)})
    yield made
    if made.task is not None:
        await made.stop()


def session_at(peer: KrakenPeer, key: str = "") -> DialectVenue:
    config = SessionConfig(
        key or peer.key, SECRET, exchange="kraken", rest_url=peer.url, account_id=1, order_timeout_s=TIMEOUT_S
    )
    return DialectVenue(dialect("kraken"), config, RealClock(), CollectingLog())


async def enter(rig: Rig, **changes: Any) -> Any:
    return await rig.signal(exchange="kraken", symbol=SYMBOL, reference_price=D(50000), **changes)


async def test_a_take_profit_beside_a_stop_is_denied(peer: KrakenPeer, rig: Rig) -> None:
    """There is no OCO: both might fill, and a take profit that is not placed must not be accepted."""
    await rig.start()
    signal = await enter(rig, stop_loss=D(49000), take_profit=D(52000))
    assert await rig.outcome(signal) == ("denied", "NO_PROTECTION")
    alone = await enter(rig, take_profit=D(52000))
    assert await rig.outcome(alone) == ("ordered", None)
    await until(lambda: len(peer.named("AddOrder")) == 2)
    forms = peer.named("AddOrder")
    assert [(form["ordertype"], form["type"]) for form in forms] == [("market", "buy"), ("limit", "sell")]
    assert D(forms[1]["price"]) == 52000


async def test_an_entry_is_filled_and_its_stop_rests(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    signal = await enter(rig, stop_loss=D(49000))
    assert await rig.outcome(signal) == ("ordered", None)
    entry = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    await until(lambda: held(rig, D("0.01")))
    await until(lambda: any(form["ordertype"] == "stop-loss" for form in peer.named("AddOrder")))
    forms = peer.named("AddOrder")
    assert [(form["ordertype"], form["type"]) for form in forms] == [("market", "buy"), ("stop-loss", "sell")]
    assert (forms[1]["price"], D(forms[1]["volume"])) == ("49000", D("0.01"))
    stop = await rig.becomes(forms[1]["cl_ord_id"], State.ACCEPTED)
    assert (stop.parent_id, stop.type) == (entry.client_order_id, OrderType.STOP)
    peer.fill(*peer.numbers(stop.client_order_id), "0.01", "48990")
    await rig.becomes(stop.client_order_id, State.FILLED)
    await until(lambda: held(rig, D(0)))


async def test_an_exit_cancels_the_stop_and_closes(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    signal = await enter(rig, stop_loss=D(49000))
    assert await rig.outcome(signal) == ("ordered", None)
    await until(lambda: any(form["ordertype"] == "stop-loss" for form in peer.named("AddOrder")))
    await rig.becomes(peer.named("AddOrder")[1]["cl_ord_id"], State.ACCEPTED)
    leave = await enter(rig, kind=Kind.EXIT)
    assert (await rig.outcome(leave))[0] == "ordered"
    await until(lambda: held(rig, D(0)))
    stop, exit_ = peer.named("AddOrder")[1:]
    assert await rig.state(stop["cl_ord_id"]) is State.CANCELLED
    assert (exit_["ordertype"], exit_["type"]) == ("market", "sell")
    assert peer.balances["XXBT"] == 0


async def test_an_entry_whose_answer_was_lost_is_found_and_never_sent_again(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    peer.before["AddOrder"] = [taken_then(peer, cut)]
    signal = await enter(rig)
    assert await rig.outcome(signal) == ("ordered", None)
    entry = await rig.becomes((await rig.entry(signal)).client_order_id, State.FILLED)
    await until(lambda: held(rig, D("0.01")))
    assert len(peer.numbers(entry.client_order_id)) == 1
    assert len(peer.named("AddOrder")) == 1


async def test_an_order_that_never_arrived_is_proven_absent(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    peer.before["AddOrder"] = [cut]
    signal = await enter(rig)
    assert await rig.outcome(signal) == ("ordered", None)
    entry = await rig.becomes((await rig.entry(signal)).client_order_id, State.ABSENT)
    assert len(peer.named("AddOrder")) == 1
    asked = [form.get("cl_ord_id") for form in peer.named("ClosedOrders")]
    assert asked.count(entry.client_order_id) >= SETTINGS.venue.absent_polls


async def test_a_refusal_rejects_the_order(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    peer.before["AddOrder"] = [saying("EOrder:Insufficient funds")]
    signal = await enter(rig)
    assert await rig.outcome(signal) == ("ordered", None)
    order = await rig.becomes((await rig.entry(signal)).client_order_id, State.REJECTED)
    assert order.code == "EOrder:Insufficient funds"
    assert await held(rig, D(0))


async def test_a_restart_books_what_happened_meanwhile(peer: KrakenPeer, rig: Rig) -> None:
    await rig.start()
    signal = await enter(rig, type=OrderType.LIMIT, limit_price=D(49900))
    assert await rig.outcome(signal) == ("ordered", None)
    entry = await rig.becomes((await rig.entry(signal)).client_order_id, State.WORKING)
    await rig.crash()
    assert rig.venues is not None
    await rig.venues["ccxt"].close()
    peer.fill(*peer.numbers(entry.client_order_id), str(entry.quantity), "49900")
    await rig.restart(venues={"ccxt": session_at(peer)})
    await rig.becomes(entry.client_order_id, State.FILLED)
    await until(lambda: held(rig, entry.quantity))
    assert len(peer.named("AddOrder")) == 1


async def test_a_kill_cancels_and_closes_with_a_key_of_its_own(peer: KrakenPeer) -> None:
    """The guardian alone: no database, and the order manager's key is used by another process meanwhile."""
    trader = session_at(peer)
    await trader.open()
    peer.balances["XXBT"] = D("0.02")
    stop = any_order(
        "0.01",
        exchange="kraken",
        symbol=SYMBOL,
        type=OrderType.STOP,
        stop_price="49000",
        side=Side.SELL,
        role=Role.STOP_LOSS,
    )
    assert (await trader.submit(stop)).outcome is Outcome.ACK
    with tempfile.TemporaryDirectory(prefix="fks-k-", dir="/tmp") as name:
        folder = Path(name)
        row = {
            "as_of_ns": time.time_ns(),
            "positions": [["ccxt", 1, SYMBOL, "s1", "0.01"]],
            "orders": [],
            "booked": [],
            "identities": [],
            "instruments": [["kraken", SYMBOL, "BTC", "USD", "0.00000001", "0.00005", "0.5"]],
        }
        (folder / "kill-positions.json").write_text(json.dumps(row))
        async with at_work(guardian_with({"ccxt": session_at(peer, peer.guardian_key)}, folder, None)) as guardian:
            report = await ask(folder, {"op": "kill", "reason": "test", "by": "me"})
            assert (report["ok"], report["is_quiet"], report["cancelled"]) == (True, True, 1), report
            await trader.balances()  # its nonces are not the guardian's
            await until(lambda: guardian.report()["is_done"])
    assert await trader.open_orders() == []
    await trader.close()
    closing = peer.named("AddOrder")[1:]
    assert [(form["type"], form["ordertype"], D(form["volume"])) for form in closing] == [("sell", "market", D("0.01"))]
    assert peer.balances["XXBT"] == D("0.01"), "what FKS did not buy is kept"
    assert set(peer.nonces) == {peer.key, peer.guardian_key}


async def held(rig: Rig, quantity: Decimal) -> bool:
    """Return whether the instance holds exactly so much."""
    return await rig.position("one", SYMBOL) == quantity
