"""Kill switch against a trading order manager: flatten and held, each with an unanswered entry, a partly filled entry,
429 answers, a closed market, a full rate limit, and a guardian whose process is killed."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.settings import Risk
from fks.interfaces.entry.order_entry import OrderEntry
from fks.model.order import Side
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.guardian.journal import last_kill, read_kill
from fks.trading.venues.ccxt import CcxtVenue
from tests.support.guarded_trading import SETTINGS, ask, at, buy, held, seed_account, trading
from tests.support.guardian_process import GuardianProcess
from tests.support.invariants import assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.soak_cases import soaked
from tests.support.waiting import until

D = Decimal
ORDERS = "/api/v3/order"
STEP = D("0.00001")
WIDE = SETTINGS.model_copy(
    update={"risk": Risk(notional_max_order=10**7, exposure_max_account=10**8, exposure_max_instrument=10**8)}
)
ARRIVES_S = 2.5  # after the exchange has answered -1007, and after C5 has called the order absent


async def resting(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Leave a buy far below the market."""
    answer = await buy(entry, exchange, "0.01", type="limit", price=at(exchange, "0.96"))
    assert answer.body["state"] in ("ACCEPTED", "WORKING"), answer.body


async def unanswered(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Enter at the market; the exchange answers -1007 and executes it later."""
    exchange.fault("accept_late", path=ORDERS, method="POST", count=1, seconds=ARRIVES_S)
    answer = await buy(entry, exchange, "0.05", stop_loss=at(exchange, "0.9"))
    assert answer.body["state"] in ("SENDING", "UNKNOWN"), answer.body


async def partly_filled(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Enter with a limit of which half is executed, and rest with the remainder."""
    exchange.fault("thin_book", symbol="BTCUSDT", count=1)
    answer = await buy(entry, exchange, "4", type="limit", price=at(exchange, "1.001"), stop_loss=at(exchange, "0.9"))
    assert answer.status == 202, answer.body
    await until(lambda: any(D(order["executedQty"]) for order in exchange.account()["orders"]))


async def protected(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Hold a position with a stop."""
    answer = await buy(entry, exchange, "0.05", stop_loss=at(exchange, "0.9"))
    assert answer.status == 202, answer.body
    await until(lambda: len(exchange.account()["orders"]) > 0)


async def limited(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Hold a position with a stop and an entry that rests; the exchange answers 429 to whatever a kill asks first."""
    await protected(entry, exchange)
    await resting(entry, exchange)
    for path, method in (("/api/v3/openOrders", "GET"), (ORDERS, "DELETE"), (ORDERS, "POST")):
        exchange.fault("429", path=path, method=method, count=1, seconds=1)


async def halted(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Hold a position with a stop; the market closes, for many times the longest wait of a kill (`retry_max_s`)."""
    await protected(entry, exchange)
    exchange.fault("halt", symbol="BTCUSDT", seconds=4)


async def slowed(entry: OrderEntry, exchange: LocalExchange) -> None:
    """Hold a position with a stop; for some seconds the exchange takes no order for the account's rate limit (-1015)."""
    await protected(entry, exchange)
    full = exchange.fault("error", path=ORDERS, method="POST", count=None, status=429, code=-1015, msg="Too many.")
    asyncio.get_running_loop().call_later(4.0, exchange.clear, full)


SITUATIONS = {
    "unanswered": unanswered,
    "partly filled": partly_filled,
    "guardian killed": unanswered,
    "429": limited,
    "halted": halted,
    "-1015": slowed,
}


#: a held kill closes nothing: it waits for no answer of a closed market or a full rate limit
ENDS = [
    *(pytest.param(name, False, id=f"{name}-flatten") for name in SITUATIONS),
    *(pytest.param(name, True, id=f"{name}-held") for name in SITUATIONS),
]


@pytest.mark.parametrize(("situation", "is_held"), soaked(ENDS, len(SITUATIONS) + 3))
async def test_a_kill_beside_an_order_manager_ends_as_it_should(
    exchange: LocalExchange,
    trader: CcxtVenue,
    folder: Path,
    database: Database,
    database_url: str,
    bus: Bus,
    situation: str,
    is_held: bool,
) -> None:
    """Flatten: nothing is held or open. Held: no entry is open, and a stop covers all that is held. No id twice."""
    await seed_account(database, position=None)
    start = (await trader.balances())["BTC"].total
    guardian = GuardianProcess(exchange, folder, database_url).start()
    try:
        async with trading(exchange, database, bus, folder, WIDE) as entry:
            await until(lambda: (folder / "kill-positions.json").exists())
            await SITUATIONS[situation](entry, exchange)
            killing = asyncio.create_task(ask(folder, {"op": "kill", "by": "me", "flatten": not is_held}))
            await until(lambda: read_kill(folder / "kill.jsonl") is not None)
            if situation == "guardian killed":
                guardian.kill()
                killing.cancel()
                guardian.start()
            else:
                await killing

            if "unanswered" in situation or situation == "guardian killed":

                async def has_arrived() -> bool:
                    return bool(await database.sql("SELECT 1 FROM trades"))

                await until(has_arrived, deadline_s=15)

            async def is_over() -> bool:
                record = last_kill(folder / "kill.jsonl")
                if record is None or not record.is_done:
                    return False
                live = await trader.open_orders()
                ours, total = await held(database), (await trader.balances())["BTC"].total - start
                if ours != total or any(report.side is Side.BUY for report in live):
                    return False
                stopped = sum((report.quantity - report.filled for report in live if report.quantity), D(0))
                return (ours > STEP and abs(ours - stopped) < STEP) if is_held else (abs(ours) < STEP and not live)

            await until(is_over)
            refused = await buy(entry, exchange, "0.01")
            assert (refused.status, refused.body.get("code")) == (422, "KILLED"), refused.body
    finally:
        guardian.stop()
    ids = [row["params"]["newClientOrderId"] for row in exchange.received(path=ORDERS, method="POST")]
    assert_once(ids)
    rows = await database.sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
    assert rows[0]["n"] == 0
