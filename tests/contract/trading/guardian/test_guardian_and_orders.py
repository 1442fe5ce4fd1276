"""The kill switch beside the real order service: positions reach zero in the books, protections end, nothing twice."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from fks.model.order import Outcome, Side
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import at, at_work, buy, held, rest_one, seed_account, trading
from tests.support.guardian_process import guardian_with, venue_on
from tests.support.invariants import assert_once, assert_same
from tests.support.local_exchange import LocalExchange
from tests.support.venue_orders import order
from tests.support.waiting import until


async def test_a_kill_beside_a_living_order_service(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    await seed_account(database, position=None)
    start = (await trader.balances())["BTC"].total
    async with trading(exchange, database, bus, folder) as entry:
        answer = await buy(entry, exchange, "0.05", stop_loss=at(exchange, "0.9"), take_profit=at(exchange, "1.1"))
        assert answer.status == 202, answer.body

        async def is_protected() -> bool:
            return len(await trader.open_orders()) == 2 and await held(database) == Decimal("0.04995")

        await until(is_protected)
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
            await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
            report = await guardian.kill(reason="", by="me")
            assert report["is_quiet"], report
            await until(lambda: guardian.report()["is_done"])

            async def is_booked() -> bool:
                return abs(await held(database)) < Decimal("0.00001")

            await until(is_booked)
            assert await trader.open_orders() == []
            assert_same((await trader.balances())["BTC"].total - start, await held(database), "coins and books")
            refused = await buy(entry, exchange, "0.01")
            assert (refused.status, refused.body.get("code")) == (422, "KILLED"), refused.body
            rows = await database.sql("SELECT state, filled FROM orders WHERE role = 'kill'")
            assert [(row["state"], row["filled"]) for row in rows] == [("FILLED", Decimal("0.04995"))]
            await guardian.resume(by="me")

            async def trades_again() -> bool:
                return (await buy(entry, exchange, "0.01")).status == 202

            await until(trades_again, deadline_s=8, every_s=0.3)
    posts = [row["params"]["newClientOrderId"] for row in exchange.received(path="/api/v3/order", method="POST")]
    assert_once(posts)


async def test_a_kill_ends_an_order_that_no_row_explains(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    """An order of ours that a restored database lost denies entries, and is in no kill's way."""
    await seed_account(database, position=None)
    await rest_one(trader)
    async with trading(exchange, database, bus, folder) as entry:
        assert (await buy(entry, exchange, "0.01")).body.get("code") == "INCIDENT_OPEN"
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
            await guardian.kill(reason="", by="me")
            await until(lambda: guardian.report()["is_done"])
            assert await trader.open_orders() == []


async def test_a_kill_while_the_order_service_is_dead_is_booked_when_it_is_back(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    await seed_account(database, position=None)
    start = (await trader.balances())["BTC"].total
    async with trading(exchange, database, bus, folder) as entry:
        answer = await buy(entry, exchange, "0.05")
        assert answer.status == 202, answer.body

        async def is_held() -> bool:
            return await held(database) > 0

        await until(is_held)
    async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
        await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
        assert (await guardian.kill(reason="", by="me"))["is_quiet"]
        await until(lambda: guardian.report()["is_done"] and guardian.report()["database"] == "up")
        async with trading(exchange, database, bus, folder):

            async def is_booked() -> bool:
                return abs(await held(database)) < Decimal("0.00001")

            await until(is_booked)
            assert_same((await trader.balances())["BTC"].total - start, await held(database), "coins and books")


async def test_a_held_kill_keeps_protection_and_has_it_placed_again(
    exchange: LocalExchange, trader: CcxtVenue, folder: Path, database: Database, bus: Bus
) -> None:
    """A person cancels the stop by hand while the kill is engaged: the order manager places it, the guardian lets it
    be."""
    await seed_account(database, position=None)
    async with trading(exchange, database, bus, folder) as entry:
        answer = await buy(entry, exchange, "0.05", stop_loss=at(exchange, "0.9"), take_profit=at(exchange, "1.1"))
        assert answer.status == 202, answer.body

        async def legs() -> set[str]:
            return {report.client_order_id for report in await trader.open_orders()}

        async def is_protected() -> bool:
            return len(await legs()) == 2 and await held(database) == Decimal("0.04995")

        await until(is_protected)
        first = await legs()
        async with at_work(guardian_with({"ccxt": venue_on(exchange.info)}, folder, database)) as guardian:
            await until(lambda: guardian.detail()["database"] == "up" and (folder / "kill-positions.json").exists())
            assert (await guardian.kill(reason="", by="me", flatten=False))["is_quiet"]
            await until(lambda: guardian.report()["is_done"])
            assert await legs() == first
            leg = order(
                "0.04995", side=Side.SELL, client_order_id=min(first)
            )  # one leg of an OCO takes the other along
            assert (await trader.cancel(leg)).outcome is Outcome.ACK

            async def is_protected_again() -> bool:
                now = await legs()
                return len(now) == 2 and not now & first

            await until(is_protected_again, deadline_s=10)
            await until(lambda: guardian.report()["is_done"])
            assert len(await legs()) == 2
    assert await held(database) == Decimal("0.04995")
