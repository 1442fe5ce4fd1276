"""A parent order on the local exchange over real sockets: stop and targets share coins, so each target is an OCO with
its own part of the stop. The exchange is the witness."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest

from fks.clock import RealClock
from fks.interfaces.entry.order_entry import OrderEntry, OrderRequest
from fks.model.order import State
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.session import BinanceVenue
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import Rig, seed
from tests.support.ports import CollectingLog
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
SHARES = (D("0.5"), D("0.3"), D("0.2"))


@pytest.fixture
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path_factory.mktemp("exchange"), ("--rate-limits", "off", "--seed", "3")).start()
    yield found
    found.stop()


def session(exchange: LocalExchange) -> BinanceVenue:
    info = exchange.info
    addresses = {"rest_url": info["rest"], "ws_url": info["ws"], "ws_api_url": info["ws_api"]}
    config = SessionConfig(info["api_key"], info["api_secret"], order_timeout_s=1.0, read_timeout_s=3.0, **addresses)
    return BinanceVenue(config, RealClock(), CollectingLog())


@pytest.fixture
async def wire(database: Database, bus: Bus, exchange: LocalExchange) -> AsyncIterator[Rig]:
    await seed(database)
    venue = session(exchange)
    price = await venue.last_price("BTCUSDT")
    await database.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await database.sql("UPDATE feeds SET last_price = $1 WHERE symbol = 'BTCUSDT'", price)
    rig = Rig(database, bus, ScriptedVenue(), venues={"ccxt": venue})
    await rig.start()
    yield rig
    await rig.stop()


def lists(exchange: LocalExchange) -> dict[Decimal, tuple[Decimal, Decimal]]:
    """Return the live OCO lists at the exchange, by target: the stop's price and the quantity."""
    by_list: dict[int, list[dict[str, str]]] = {}
    for row in exchange.account()["open_orders"]:
        if row["side"] == "SELL":
            by_list.setdefault(row["orderListId"], []).append(row)
    found = {}
    for rows in by_list.values():
        stop = next((row for row in rows if row["type"] == "STOP_LOSS"), None)
        limit = next((row for row in rows if row["type"] == "LIMIT_MAKER"), None)
        if stop is not None and limit is not None:
            found[D(limit["price"])] = (D(stop["stopPrice"]), D(stop["origQty"]))
    return found


async def test_targets_are_lists_that_together_hold_the_position(wire: Rig, exchange: LocalExchange) -> None:
    price = (await wire.venues["ccxt"].last_price("BTCUSDT")).quantize(D("0.01"))  # type: ignore[index]
    prices = [(price * factor).quantize(D("0.01")) for factor in (D("1.03"), D("1.04"), D("1.045"))]
    stop = (price * D("0.95")).quantize(D("0.01"))
    body = {
        "symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "0.02", "venue": "ccxt", "kind": "bracket",
        "stop_loss": str(stop), "break_even": {"at_risk": "0.3", "offset_ticks": -50000},
        "targets": [{"price": str(p), "share": str(s)} for p, s in zip(prices, SHARES, strict=True)],
    }  # fmt: skip
    entry = OrderEntry(wire.db, wire.bus, RealClock(), wire.settings)
    answer = await entry.submit(OrderRequest.parse(body), "ann", "k1")
    await wire.becomes(str(answer.body["client_order_id"]), State.FILLED)

    async def hold(stop_price: Decimal) -> bool:
        held = (await wire.position("")).quantize(D("0.00001"), rounding="ROUND_DOWN")
        parts = [D("0.01"), D("0.006"), held - D("0.016")]
        return lists(exchange) == {p: (stop_price, q) for p, q in zip(prices, parts, strict=True)}

    await until(lambda: hold(stop), deadline_s=10)
    await wire.restart(venues={"ccxt": session(exchange)})
    await until(lambda: hold(stop), deadline_s=10)
    # the price rises by more than the rule's multiple of the risk: the stop moves to 500 below the average price
    await wire.db.sql(
        "UPDATE feeds SET last_price = $1, last_message_at = now() WHERE symbol = 'BTCUSDT'", price * D("1.02")
    )
    average = D(str((await wire.db.sql("SELECT average_price FROM orders WHERE role = 'order'"))[0]["average_price"]))
    moved = (average - 500).quantize(D("0.01"))
    await until(lambda: hold(moved), deadline_s=15)
    assert len([row for row in exchange.account()["orders"] if row["side"] == "SELL" and D(row["executedQty"])]) == 0
