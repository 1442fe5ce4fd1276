"""A kill while PostgreSQL is away counts the orders that the order manager sent by its side journal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.model.order import Answer, Order, OrderType, Outcome, Refusal
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.trading.guardian.service import Guardian
from tests.support.crash_points import CrashPoints
from tests.support.guarded_trading import at_work
from tests.support.guardian_process import QUICK, guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST
from tests.support.outage_rig import Outage, exchange_at_a_fall, outage_rig
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal
ORDERS = "/api/v3/order"
#: no order is proven absent while a test runs
PATIENT = FAST.model_copy(update={"venue": FAST.venue.model_copy(update={"absent_age_s": 30.0})})


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    """An exchange whose account holds coins of its owner's."""
    found = exchange_at_a_fall(tmp_path / "exchange", "BTC=1").start()
    yield found
    found.stop()


@pytest.fixture
async def outage(bus: Bus, exchange: LocalExchange, mortal: MortalPostgres, folder: Path) -> AsyncIterator[Outage]:
    side, kill_path = folder / "orders.jsonl", folder / "kill.jsonl"
    async with outage_rig(mortal, exchange, bus, side, kill_path=kill_path, settings=PATIENT) as found:
        yield found


@asynccontextmanager
async def guarded(outage: Outage, folder: Path, *, refuses: bool = False) -> AsyncIterator[Guardian]:
    """Run a guardian beside the order manager. `refuses`: the exchange takes none of its market orders."""
    venue = venue_on(outage.exchange.info)
    submit = venue.submit

    async def refuse(item: Order) -> Answer:
        if item.type is not OrderType.MARKET:
            return await submit(item)
        return Answer(Outcome.REFUSED, code="-1013", detail="PERCENT_PRICE_BY_SIDE", refusal=Refusal.PRICE)

    if refuses:
        venue.submit = refuse  # type: ignore[assignment, method-assign]
    timing = replace(QUICK, absence=replace(QUICK.absence, age_s=30.0), retry_s=5.0, retry_max_s=5.0)
    async with at_work(guardian_with({"ccxt": venue}, folder, outage.rig.db, timing)) as guardian:
        yield guardian


def snapshot(folder: Path) -> dict[str, list[list[str]]]:
    """Return the guardian's last snapshot of PostgreSQL."""
    path = folder / "kill-positions.json"
    return json.loads(path.read_text()) if path.exists() else {"positions": [], "orders": []}


def executed(exchange: LocalExchange, client_order_id: str) -> list[str]:
    """Return the sides of an order's executions."""
    account = exchange.account()
    ids = {(row["symbol"], row["orderId"]) for row in account["orders"] if row["clientOrderId"] == client_order_id}
    sides = {(row["symbol"], row["orderId"]): row["side"] for row in account["orders"]}
    return [sides[key] for fill in account["fills"] if (key := (fill["symbol"], fill["orderId"])) in ids]


async def test_exit_of_unknown_outcome_in_the_side_journal_is_waited_for(outage: Outage, folder: Path) -> None:
    """The exchange executes the exit later: closed beside it, the kill would sell the owner's coins."""

    def begin() -> None:
        outage.postgres.kill()
        outage.exchange.fault("accept_late", path=ORDERS, method="POST", count=1, seconds=6.0)

    outage.rig.at = CrashPoints("place.before", 3, begin)
    await outage.rig.start()
    async with guarded(outage, folder) as guardian:
        await outage.rest()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=10)
        await until(lambda: snapshot(folder)["positions"])
        await outage.rig.signal(Kind.EXIT)
        await until(lambda: outage.rig.is_logged("order.answered", outcome="ambiguous"))
        sent = outage.sent()
        report = await guardian.kill(reason="no database", by="me", wait_s=1.0)
        await until(lambda: "SELL" in executed(outage.exchange, sent[-1]), deadline_s=15)
        await until(lambda: guardian.report()["is_done"])
        assert abs(D(outage.exchange.free("BTC")) - 1) < D("0.00001"), "the owner's coins are as they were"
        assert outage.sent() == sent, "the exit closed the position: the kill sends nothing"
        assert [left["kind"] for left in report["remaining"]] == ["in_doubt", "pending"]


async def test_stop_placed_by_the_side_journal_is_back_while_a_close_is_refused(outage: Outage, folder: Path) -> None:
    await outage.rig.start()
    async with guarded(outage, folder, refuses=True) as guardian:
        entry = await outage.rest()
        await until(lambda: entry in {row[0] for row in snapshot(folder)["orders"]})
        outage.postgres.kill()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=10)
        first = outage.stops()[0]["clientOrderId"]
        await outage.cancel(first)  # the order manager places the next one: PostgreSQL never had it
        await until(lambda: outage.covers(quantity) and outage.stops()[0]["clientOrderId"] != first, deadline_s=10)
        (stop,) = outage.stops()
        await guardian.kill(reason="no database", by="me", wait_s=0.5)
        await until(lambda: outage.covers(quantity) and outage.stops()[0]["clientOrderId"] != stop["clientOrderId"])
        (back,) = outage.stops()
        assert (back["stopPrice"], back["origQty"]) == (stop["stopPrice"], stop["origQty"])
        await until(lambda: [left["kind"] for left in guardian.report()["remaining"]] == ["refused"])


async def test_orders_of_the_side_journal_are_counted_once_after_the_outage(outage: Outage, folder: Path) -> None:
    """Rows that PostgreSQL has by then are not counted again: the kill sells what is held, to the last lot."""
    await outage.rig.start()
    async with guarded(outage, folder) as guardian:
        await outage.rest()
        outage.postgres.kill()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=10)
        await outage.end()
        await until(lambda: snapshot(folder)["positions"] and not (folder / "orders.jsonl").read_bytes())
        await guardian.kill(reason="", by="me")
        await until(lambda: guardian.report()["is_done"])
        assert abs(D(outage.exchange.free("BTC")) - 1) < D("0.00001")
