"""The unmodified ccxt and ccxt.pro: everything FKS and its users call."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal
from typing import Any

import ccxt
import pytest

from tests.support.sim_process import Sim, binance
from tests.support.waiting import until


async def test_default_load_markets_with_keys_finds_every_market(client: Any) -> None:
    assert {"BTC/USDT", "ETH/USDT", "SOL/USDT", "AVAX/USDT", "SUI/USDT"} <= set(client.markets)
    market = client.market("BTC/USDT")
    assert market["spot"]
    assert market["precision"] == {"amount": 0.00001, "price": 0.01, "base": 1e-8, "quote": 1e-8}
    assert market["limits"]["cost"]["min"] == 5.0


async def test_public_rest(client: Any, sim: Sim) -> None:
    assert abs(await client.fetch_time() - client.milliseconds()) < 2000
    bars = await client.fetch_ohlcv("BTC/USDT", "1m", limit=1000)
    assert len(bars) == 1000
    assert all(later[0] - bar[0] == 60_000 for bar, later in itertools.pairwise(bars))
    assert all(bar[3] <= min(bar[1], bar[4]) <= max(bar[1], bar[4]) <= bar[2] for bar in bars)
    since = bars[-10][0]
    assert [bar[0] for bar in await client.fetch_ohlcv("BTC/USDT", "1m", since, 5)] == [
        since + i * 60_000 for i in range(5)
    ]
    trades = await client.fetch_trades("BTC/USDT", since, 100)
    ids = [int(trade["id"]) for trade in trades]
    assert ids == list(range(ids[0], ids[0] + 100))
    assert trades[0]["timestamp"] >= since
    book = await client.fetch_order_book("BTC/USDT", 50)
    assert book["bids"][0][0] < book["asks"][0][0]
    assert len(book["bids"]) == 50
    ticker = await client.fetch_ticker("ETH/USDT")
    assert ticker["low"] <= ticker["last"] <= ticker["high"]
    assert len(await client.fetch_tickers()) == 5


async def test_a_limit_order_lives_and_is_cancelled(client: Any) -> None:
    placed = await client.create_order("BTC/USDT", "limit", "buy", "0.01", "30000", {"clientOrderId": "life1"})
    assert (placed["status"], placed["clientOrderId"], placed["info"]["origQty"]) == ("open", "life1", "0.01000000")
    balance = await client.fetch_balance()
    assert Decimal(str(balance["USDT"]["used"])) == 300
    found = await client.fetch_order(None, "BTC/USDT", {"clientOrderId": "life1"})
    assert found["id"] == placed["id"]
    assert [order["id"] for order in await client.fetch_open_orders("BTC/USDT")] == [placed["id"]]
    with pytest.raises(ccxt.InvalidOrder, match="Duplicate order sent"):
        await client.create_order("BTC/USDT", "limit", "buy", "0.01", "30000", {"clientOrderId": "life1"})
    ended = await client.cancel_order(None, "BTC/USDT", {"clientOrderId": "life1"})
    assert ended["info"]["origClientOrderId"] == "life1"
    assert (await client.fetch_order(placed["id"], "BTC/USDT"))["status"] == "canceled"
    with pytest.raises(ccxt.OrderNotFound):
        await client.cancel_order(placed["id"], "BTC/USDT")
    assert placed["id"] in [order["id"] for order in await client.fetch_orders("BTC/USDT")]


async def test_market_order_is_charged_its_fee_in_the_received_asset(client: Any) -> None:
    before = (await client.fetch_balance())["SOL"]["total"]
    bought = await client.create_order("SOL/USDT", "market", "buy", "3")
    assert (bought["status"], bought["filled"]) == ("closed", 3.0)
    fills = bought["info"]["fills"]
    assert sum(Decimal(fill["commission"]) for fill in fills) == Decimal("0.003")
    assert {fill["commissionAsset"] for fill in fills} == {"SOL"}
    after = (await client.fetch_balance())["SOL"]["total"]
    assert Decimal(str(after)) - Decimal(str(before)) == Decimal("2.997")
    mine = await client.fetch_my_trades("SOL/USDT")
    assert sum(trade["amount"] for trade in mine if trade["order"] == bought["id"]) == 3.0
    sold = await client.create_order("SOL/USDT", "market", "sell", "2")
    fee = sum(Decimal(fill["commission"]) for fill in sold["info"]["fills"])
    cost = Decimal(sold["info"]["cummulativeQuoteQty"])
    assert abs(fee - cost / 1000) <= Decimal("1e-8") * len(sold["info"]["fills"])


async def test_own_trades_become_part_of_the_public_tape(client: Any, sim: Sim) -> None:
    bought = await client.create_order("ETH/USDT", "market", "buy", "0.5")
    trade = bought["info"]["fills"][0]
    public = {row["id"]: row for row in sim.get("/api/v3/trades?symbol=ETHUSDT&limit=200")}
    assert public[trade["tradeId"]]["price"] == trade["price"]


async def test_conditional_orders_wait_and_refuse_what_would_trigger(client: Any, sim: Sim) -> None:
    price = sim.price()
    stop = await client.create_order(
        "BTC/USDT", "limit", "sell", "0.01", f"{price * 0.89:.2f}", {"stopLossPrice": f"{price * 0.9:.2f}"}
    )
    assert stop["info"]["orderId"]
    found = await client.fetch_order(stop["id"], "BTC/USDT")
    assert (found["info"]["type"], found["info"]["isWorking"], found["status"]) == ("STOP_LOSS_LIMIT", False, "open")
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        await client.create_order(
            "BTC/USDT", "limit", "sell", "0.01", f"{price * 1.1:.2f}", {"stopLossPrice": f"{price * 1.2:.2f}"}
        )
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        await client.create_order("BTC/USDT", "limit", "buy", "0.01", f"{price * 1.1:.2f}", {"postOnly": True})


@pytest.mark.parametrize(
    ("amount", "price", "error"),
    [
        ("0.0000001", "50000", ccxt.InvalidOrder),  # precision: ccxt itself refuses
        ("0.00001", "50000", ccxt.BadRequest),  # NOTIONAL
        ("1", "1000", ccxt.InvalidOrder),  # PERCENT_PRICE_BY_SIDE
        ("100", "50000", ccxt.InsufficientFunds),
    ],
)
async def test_refusals_have_the_class_of_the_real_host(
    client: Any, amount: str, price: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await client.create_order("BTC/USDT", "limit", "buy", amount, price)


async def test_watch_everything_on_one_client(sim: Sim) -> None:
    client = binance(sim.info, watchTrades={"name": "aggTrade"})
    try:
        await client.load_markets()
        book = await asyncio.wait_for(client.watch_order_book("BTC/USDT"), 10)
        assert book["bids"][0][0] < book["asks"][0][0]
        for _ in range(5):
            book = await asyncio.wait_for(client.watch_order_book("BTC/USDT"), 10)
            assert book["bids"][0][0] < book["asks"][0][0]
        trades = [*await asyncio.wait_for(client.watch_trades("BTC/USDT"), 10)]
        while len(trades) < 8:
            trades += await asyncio.wait_for(client.watch_trades("BTC/USDT"), 10)
        ids = [int(trade["id"]) for trade in trades]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        bars = await asyncio.wait_for(client.watch_ohlcv("BTC/USDT", "1s"), 10)
        assert len(bars[0]) == 6
        assert (await asyncio.wait_for(client.watch_ticker("ETH/USDT"), 10))["last"] > 0
        assert (await asyncio.wait_for(client.watch_bids_asks(["SOL/USDT"]), 10))["SOL/USDT"]["bid"] > 0
    finally:
        await client.close()


async def test_user_stream_sends_orders_trades_and_balances(sim: Sim) -> None:
    client = binance(sim.info)
    try:
        await client.load_markets()
        orders, trades, balance = (
            asyncio.create_task(call)
            for call in (client.watch_orders(), client.watch_my_trades(), client.watch_balance())
        )
        await until(lambda: sim.get("/sim/info")["user_streams"])
        placed = await client.create_order("ETH/USDT", "market", "buy", "0.2", None, {"clientOrderId": "heard"})
        await asyncio.wait_for(asyncio.gather(orders, trades, balance), 10)
        assert orders.result()[0]["clientOrderId"] == "heard"
        assert trades.result()[0]["order"] == placed["id"]
        assert trades.result()[0]["fee"]["currency"] == "ETH"
        assert balance.result()["ETH"]["total"] > 0
    finally:
        await client.close()


async def test_a_cancel_carries_our_id_as_the_original(sim: Sim) -> None:
    client = binance(sim.info)
    seen: list[dict[str, Any]] = []
    handle = client.handle_message
    client.handle_message = lambda link, message: (seen.append(message), handle(link, message))[1]
    try:
        await client.load_markets()
        task = asyncio.create_task(client.watch_orders())
        await until(lambda: sim.get("/sim/info")["user_streams"])
        await client.create_order("BTC/USDT", "limit", "buy", "0.01", "30000", {"clientOrderId": "mine"})
        await client.cancel_order(None, "BTC/USDT", {"clientOrderId": "mine"})
        await asyncio.wait_for(task, 10)

        def reports() -> list[tuple[str, str, str]]:
            events = [message["event"] for message in seen if "event" in message]
            return [(e["x"], e["X"], e["C"]) for e in events if e["e"] == "executionReport"]

        await until(lambda: len(reports()) >= 2)
        assert reports() == [("NEW", "NEW", ""), ("CANCELED", "CANCELED", "mine")]
    finally:
        await client.close()
