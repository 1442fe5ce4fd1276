"""A kill does not end while the outcome of an order is unknown, and it keeps watching for as long as it is engaged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.model.order import Order, OrderType, Outcome, Role, Side
from fks.trading.guardian.journal import last_kill, read_kill
from fks.trading.guardian.service import Guardian
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import ask, at_work, mark, sells, write_positions
from tests.support.guardian_process import GuardianProcess, guardian_with, venue_on
from tests.support.invariants import assert_closed, assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.waiting import until

DUST = Decimal("0.00001")  # a lot
ORDERS = "/api/v3/order"


def known(item: Order, state: str, *, filled: str = "0", is_reduce_only: bool = False) -> list[Any]:
    """Return an order as the guardian's snapshot has it."""
    now = time.time_ns()
    return [
        item.client_order_id,
        "ccxt",
        1,
        "binance",
        "BTCUSDT",
        "s1",
        filled,
        item.role.value,
        state,
        now,
        now,
        False,
        is_reduce_only,
    ]


async def price_of(trader: CcxtVenue, factor: str) -> str:
    price = await trader.last_price("BTCUSDT")
    assert price is not None
    return str((price * Decimal(factor)).quantize(Decimal("0.01")))


def deleted(exchange: LocalExchange, since: int) -> set[str]:
    """Return the client ids for which a cancel was requested."""
    rows = exchange.received(path=ORDERS, method="DELETE", after=since)
    return {row["params"]["origClientOrderId"] for row in rows}


def no_id_twice(exchange: LocalExchange) -> None:
    ids = [row["params"]["newClientOrderId"] for row in exchange.received(path=ORDERS, method="POST")]
    assert_once(ids)


async def btc(trader: CcxtVenue) -> Decimal:
    return (await trader.balances())["BTC"].total


def local(exchange: LocalExchange, folder: Path, **venue: Any) -> Guardian:
    return guardian_with({"ccxt": venue_on(exchange.info, **venue)}, folder, None)


async def test_an_entry_that_arrives_after_done_reopens_the_kill_and_is_closed(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    """The exchange answered -1007 and executed it long after C5 had called it absent."""
    before = await btc(trader)
    entry = order("0.2", role=Role.ENTRY)
    exchange.fault("accept_late", path=ORDERS, method="POST", count=1, seconds=6.0)
    assert (await trader.submit(entry)).outcome is Outcome.AMBIGUOUS
    write_positions(folder, [], orders=[known(entry, "UNKNOWN")])
    since = mark(exchange)
    async with at_work(local(exchange, folder)) as guardian:
        report = await guardian.kill(reason="", by="me")
        await until(lambda: guardian.report()["is_done"])
        assert sells(exchange, since) == []
        await until(lambda: len(sells(exchange, since)) == 1, deadline_s=14)
        await until(lambda: guardian.report()["is_done"])
        assert report["kill_id"] == guardian.report()["kill_id"]
    assert_closed(await btc(trader) - before, DUST)
    acts = (folder / "kill.jsonl").read_text()
    assert acts.count('"act": "done"') == 2
    assert entry.client_order_id in deleted(exchange, since), "it is cancelled by its client id, too"
    no_id_twice(exchange)


async def test_a_kill_is_not_done_while_an_order_has_no_known_outcome(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    entry = order("0.2", role=Role.ENTRY)
    exchange.fault("drop", path=ORDERS, method="POST", count=1)
    assert (await trader.submit(entry)).outcome is Outcome.AMBIGUOUS
    exchange.fault("http_500", path=ORDERS, method="GET", count=None)
    write_positions(folder, [], orders=[known(entry, "SENDING")])
    async with at_work(local(exchange, folder)) as guardian:
        asking = asyncio.create_task(guardian.kill(reason="", by="me"))
        await until(lambda: len(exchange.received(path=ORDERS, method="GET")) >= 6)
        assert not guardian.report()["is_done"]
        assert not guardian.report()["is_quiet"]
        assert [left["kind"] for left in guardian.report()["remaining"]] == ["in_doubt"]
        refused = await ask(folder, {"op": "resume", "by": "me"})
        assert (refused["ok"], refused["code"]) == (False, "KILL_WORKING")
        exchange.clear()
        assert (await asking)["is_quiet"]
        await until(lambda: guardian.report()["is_done"])


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_held_kill_ends_entries_and_keeps_protection_and_exits(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, is_known: bool
) -> None:
    """Also those that the snapshot does not know: the order manager placed them a moment ago, and PostgreSQL is
    away."""
    await trader.submit(order("0.05"))
    stop_at, limit_at, far_below = (
        await price_of(trader, "0.9"),
        await price_of(trader, "1.04"),
        await price_of(trader, "0.9"),
    )
    stop = order("0.01", type=OrderType.STOP, side=Side.SELL, stop_price=stop_at, role=Role.STOP_LOSS)
    target = order("0.01", type=OrderType.LIMIT, side=Side.SELL, price=limit_at, role=Role.TAKE_PROFIT)
    leaving = order("0.01", type=OrderType.LIMIT, side=Side.SELL, price=limit_at, role=Role.EXIT)
    resting = order("0.01", type=OrderType.LIMIT, price=far_below, role=Role.ENTRY)
    for item in (stop, target, leaving, resting):
        assert (await trader.submit(item)).outcome is Outcome.ACK
    lost, lost_exit = order("0.01", role=Role.ENTRY), order("0.01", side=Side.SELL, role=Role.EXIT)
    orders: Sequence[list[Any]] = [known(lost, "UNKNOWN"), known(lost_exit, "UNKNOWN", is_reduce_only=True)]
    if is_known:
        orders = [*orders, *(known(item, "WORKING") for item in (stop, target, leaving, resting))]
    write_positions(folder, [["ccxt", 1, "BTCUSDT", "s1", "0.05"]], orders=orders)
    since, held = mark(exchange), await btc(trader)
    async with at_work(local(exchange, folder)) as guardian:
        report = await guardian.kill(reason="", by="me", flatten=False)
        assert report["is_quiet"], report
        late = order("0.01", type=OrderType.LIMIT, price=far_below, role=Role.ENTRY)
        guard = order("0.01", type=OrderType.STOP, side=Side.SELL, stop_price=stop_at, role=Role.STOP_LOSS)
        await until(lambda: guardian.report()["is_done"])
        for item in (late, guard):  # an entry that was on its way, and protection placed while the kill is engaged
            assert (await trader.submit(item)).outcome is Outcome.ACK
        await until(lambda: late.client_order_id in deleted(exchange, since))
        await until(lambda: guardian.report()["is_done"])
    live = {report.client_order_id for report in await trader.open_orders()}
    assert live == {item.client_order_id for item in (stop, target, leaving, guard)}
    assert deleted(exchange, since) == {item.client_order_id for item in (resting, lost, late)}
    assert await btc(trader) == held
    assert sells(exchange, since) == []


async def test_a_partly_filled_entry_is_cancelled_and_what_it_bought_is_closed(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path
) -> None:
    before = await btc(trader)
    exchange.fault("thin_book", symbol="BTCUSDT", count=1)
    entry = order("2", type=OrderType.LIMIT, price=await price_of(trader, "1.001"), role=Role.ENTRY)
    answer = await trader.submit(entry)
    assert answer.report is not None
    assert Decimal(0) < answer.report.filled < entry.quantity
    write_positions(folder, [], orders=[known(entry, "SENDING")])
    async with at_work(local(exchange, folder)) as guardian:
        report = await guardian.kill(reason="", by="me")
        assert report["is_quiet"], report
        await until(lambda: guardian.report()["is_done"])
    assert await trader.open_orders() == []
    assert_closed(await btc(trader) - before, DUST)
    no_id_twice(exchange)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_kill_outlasts_429(exchange: LocalExchange, trader: CcxtVenue, folder: Path, method: str) -> None:
    before = await btc(trader)
    entry = order("0.1", role=Role.ENTRY)
    await trader.submit(entry)
    resting = order("0.01", type=OrderType.LIMIT, price=await price_of(trader, "0.9"), role=Role.ENTRY)
    await trader.submit(resting)
    write_positions(folder, [], orders=[known(entry, "UNKNOWN"), known(resting, "UNKNOWN")])
    paths = {"GET": "/api/v3/openOrders", "DELETE": ORDERS, "POST": ORDERS}
    exchange.fault("429", path=paths[method], method=method, count=1)
    async with at_work(local(exchange, folder)) as guardian:
        await guardian.kill(reason="", by="me")
        await until(lambda: guardian.report()["is_done"])
    assert await trader.open_orders() == []
    assert_closed(await btc(trader) - before, DUST)
    no_id_twice(exchange)


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_guardian_killed_while_an_order_is_unknown_goes_on(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, is_held: bool
) -> None:
    before = await btc(trader)
    booked = order("0.05", role=Role.ENTRY)
    await trader.submit(booked)
    bought = await btc(trader) - before
    stop = order(
        "0.01", type=OrderType.STOP, side=Side.SELL, stop_price=await price_of(trader, "0.9"), role=Role.STOP_LOSS
    )
    entry = order("0.1", type=OrderType.LIMIT, price=await price_of(trader, "0.9"), role=Role.ENTRY)
    await trader.submit(stop)
    exchange.fault("accept_late", path=ORDERS, method="POST", count=1, seconds=2.0)
    assert (await trader.submit(entry)).outcome is Outcome.AMBIGUOUS
    write_positions(
        folder,
        [["ccxt", 1, "BTCUSDT", "s1", str(bought)]],
        orders=[known(booked, "FILLED", filled="0.05"), known(entry, "UNKNOWN"), known(stop, "WORKING")],
    )
    process = GuardianProcess(exchange, folder).start()
    try:
        asking = asyncio.create_task(ask(folder, {"op": "kill", "by": "me", "flatten": not is_held}))
        await until(lambda: read_kill(folder / "kill.jsonl") is not None)
        process.kill()
        asking.cancel()
        process = GuardianProcess(exchange, folder).start()

        def has_arrived() -> bool:
            open_ids = {row["clientOrderId"] for row in exchange.account()["orders"]}
            return entry.client_order_id in open_ids

        await until(has_arrived, deadline_s=10)

        async def is_over() -> bool:
            record = last_kill(folder / "kill.jsonl")
            live = {report.client_order_id for report in await trader.open_orders()}
            return record is not None and record.is_done and entry.client_order_id not in live

        await until(is_over)
    finally:
        process.stop()
    live = {report.client_order_id for report in await trader.open_orders()}
    assert live == ({stop.client_order_id} if is_held else set())
    assert_closed(await btc(trader) - before - (bought if is_held else 0), DUST)
    no_id_twice(exchange)
