"""Binance's own Python clients, unmodified: binance-connector and binance-sdk-spot."""

from __future__ import annotations

import asyncio
import json
import queue
from typing import Any

import pytest
from binance.error import ClientError
from binance.spot import Spot as Connector
from binance.websocket.spot.websocket_api import SpotWebsocketAPIClient
from binance.websocket.spot.websocket_stream import SpotWebsocketStreamClient
from binance_common.configuration import ConfigurationRestAPI, ConfigurationWebSocketAPI, ConfigurationWebSocketStreams

from tests.support.sim_process import Sim


def client_of(**configuration: Any) -> Any:
    """Return the client of binance-sdk-spot, whose import each worker would wait a second for as it collects."""
    from binance_sdk_spot.spot import Spot

    return Spot(**configuration)


@pytest.fixture
def connector(sim: Sim) -> Any:
    return Connector(sim.info["api_key"], sim.info["api_secret"], base_url=sim.info["rest"])


def test_connector_market_data(connector: Any) -> None:
    assert connector.ping() == {}
    assert connector.exchange_info("BTCUSDT")["symbols"][0]["symbol"] == "BTCUSDT"
    assert len(connector.exchange_info(symbols=["BTCUSDT", "ETHUSDT"])["symbols"]) == 2
    assert len(connector.depth("BTCUSDT", limit=5)["bids"]) == 5
    assert len(connector.klines("BTCUSDT", "5m", limit=3)) == len(connector.ui_klines("BTCUSDT", "5m", limit=3)) == 3
    raw = connector.trades("BTCUSDT", limit=5)
    assert connector.historical_trades("BTCUSDT", limit=5, fromId=raw[0]["id"]) == raw
    assert connector.agg_trades("BTCUSDT", limit=1)[0]["a"] > 0
    assert connector.avg_price("BTCUSDT")["mins"] == 5
    assert len(connector.ticker_24hr(symbols=["BTCUSDT", "SUIUSDT"])) == 2
    assert connector.ticker_price("BTCUSDT")["symbol"] == "BTCUSDT"
    assert float(connector.book_ticker("BTCUSDT")["bidPrice"]) > 0


def test_connector_trades(connector: Any) -> None:
    price = float(connector.ticker_price("BTCUSDT")["price"])
    common = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": 0.01}
    assert connector.new_order_test(**common, price=30000) == {}
    placed = connector.new_order(**common, price=30000, newClientOrderId="c-1")
    assert placed["status"] == "NEW"
    assert connector.get_order("BTCUSDT", origClientOrderId="c-1")["orderId"] == placed["orderId"]
    assert [order["clientOrderId"] for order in connector.get_open_orders("BTCUSDT")] == ["c-1"]
    replaced = connector.cancel_and_replace(
        "BTCUSDT",
        "BUY",
        "LIMIT",
        "STOP_ON_FAILURE",
        timeInForce="GTC",
        quantity=0.01,
        price=31000,
        cancelOrigClientOrderId="c-1",
        newClientOrderId="c-2",
    )
    assert (replaced["cancelResult"], replaced["newOrderResult"]) == ("SUCCESS", "SUCCESS")
    cancelled = connector.cancel_order("BTCUSDT", origClientOrderId="c-2")
    assert (cancelled["origClientOrderId"], cancelled["status"]) == ("c-2", "CANCELED")
    with pytest.raises(ClientError) as caught:
        connector.cancel_order("BTCUSDT", origClientOrderId="c-2")
    assert (caught.value.error_code, caught.value.error_message) == (-2011, "Unknown order sent.")
    filled = connector.new_order(symbol="BTCUSDT", side="BUY", type="MARKET", quoteOrderQty=100)
    assert filled["status"] == "FILLED"
    assert 99 < float(filled["cummulativeQuoteQty"]) <= 100
    pair = connector.new_oco_order(
        symbol="BTCUSDT",
        side="SELL",
        quantity=0.01,
        aboveType="LIMIT_MAKER",
        abovePrice=round(price * 1.1, 2),
        belowType="STOP_LOSS_LIMIT",
        belowStopPrice=round(price * 0.9, 2),
        belowPrice=round(price * 0.89, 2),
        belowTimeInForce="GTC",
    )
    assert connector.get_oco_order(orderListId=pair["orderListId"])["listOrderStatus"] == "EXECUTING"
    assert len(connector.get_oco_open_orders()) == 1
    assert connector.cancel_oco_order("BTCUSDT", orderListId=pair["orderListId"])["listOrderStatus"] == "ALL_DONE"
    assert connector.get_oco_open_orders() == []
    with pytest.raises(ClientError) as caught:
        connector.cancel_open_orders("BTCUSDT")
    assert caught.value.error_code == -2011
    assert {row["asset"] for row in connector.account()["balances"]} >= {"BTC", "USDT"}
    assert connector.my_trades("BTCUSDT", limit=1)[0]["orderId"] == filled["orderId"]
    assert len(connector.get_orders("BTCUSDT", limit=3)) == 3


def test_connector_listen_key_is_gone_as_in_production(connector: Any, sim: Sim) -> None:
    with pytest.raises(ClientError) as caught:
        connector.new_listen_key()
    assert caught.value.status_code == 410


def test_connector_listen_key_works_when_switched_on(start_sim: Any) -> None:
    sim = start_sim("--listen-keys")
    connector = Connector(sim.info["api_key"], sim.info["api_secret"], base_url=sim.info["rest"])
    key = connector.new_listen_key()["listenKey"]
    assert connector.renew_listen_key(key) == {}
    frames: queue.Queue[dict[str, Any]] = queue.Queue()
    streams = SpotWebsocketStreamClient(
        stream_url=sim.info["ws"], on_message=lambda _, text: frames.put(json.loads(text))
    )
    try:
        streams.user_data(listen_key=key)
        assert frames.get(timeout=5)["result"] is None
        connector.new_order(symbol="ETHUSDT", side="BUY", type="MARKET", quantity=0.1)
        while "e" not in (frame := frames.get(timeout=5)):
            pass
        assert (frame["e"], frame["x"]) == ("executionReport", "NEW")
    finally:
        streams.stop()


@pytest.mark.parametrize("combined", [False, True])
def test_connector_streams(sim: Sim, combined: bool) -> None:
    frames: queue.Queue[dict[str, Any]] = queue.Queue()
    client = SpotWebsocketStreamClient(
        stream_url=sim.info["ws"], is_combined=combined, on_message=lambda _, text: frames.put(json.loads(text))
    )
    try:
        client.agg_trade("btcusdt", id=7)
        client.kline("btcusdt", "1m")
        client.book_ticker("btcusdt")
        client.partial_book_depth("btcusdt", level=5, speed=100)
        wanted = {"aggTrade", "kline", "top", "partial"}
        while wanted:
            frame = frames.get(timeout=5)
            if "result" in frame:
                assert frame["result"] is None
                continue
            data = frame["data"] if combined else frame
            wanted.discard(data.get("e", "partial" if "lastUpdateId" in data else "top"))
    finally:
        client.stop()


def test_connector_websocket_api(sim: Sim) -> None:
    frames: queue.Queue[dict[str, Any]] = queue.Queue()
    client = SpotWebsocketAPIClient(
        stream_url=sim.info["ws_api"],
        api_key=sim.info["api_key"],
        api_secret=sim.info["api_secret"],
        on_message=lambda _, text: frames.put(json.loads(text)),
    )
    try:
        client.ping_connectivity()
        assert frames.get(timeout=5)["status"] == 200
        client.new_order(
            id="o1",
            symbol="BTCUSDT",
            side="BUY",
            type="LIMIT",
            timeInForce="GTC",
            quantity=0.01,
            price=30000,
            newClientOrderId="ws-1",
            newOrderRespType="RESULT",
        )
        placed = frames.get(timeout=5)
        assert (placed["id"], placed["status"], placed["result"]["clientOrderId"]) == ("o1", 200, "ws-1")
        assert {limit["rateLimitType"] for limit in placed["rateLimits"]} == {"ORDERS", "REQUEST_WEIGHT"}
        client.get_order(symbol="BTCUSDT", origClientOrderId="ws-1")
        assert frames.get(timeout=5)["result"]["status"] == "NEW"
        client.cancel_order(symbol="BTCUSDT", origClientOrderId="ws-1")
        assert frames.get(timeout=5)["result"]["status"] == "CANCELED"
        client.cancel_order(symbol="BTCUSDT", origClientOrderId="ws-1")
        refused = frames.get(timeout=5)
        assert (refused["status"], refused["error"]["code"]) == (400, -2011)
        client.account()
        assert frames.get(timeout=5)["result"]["accountType"] == "SPOT"
    finally:
        client.stop()


@pytest.fixture
def sdk(sim: Sim) -> Any:
    key, secret, rest = sim.info["api_key"], sim.info["api_secret"], sim.info["rest"]
    return client_of(
        config_rest_api=ConfigurationRestAPI(api_key=key, api_secret=secret, base_path=rest),
        config_ws_api=ConfigurationWebSocketAPI(api_key=key, api_secret=secret, stream_url=sim.info["ws_api"]),
        config_ws_streams=ConfigurationWebSocketStreams(stream_url=sim.info["ws"]),
    )


def test_sdk_rest(sdk: Any, sim: Sim) -> None:
    rest = sdk.rest_api
    assert rest.time().data().server_time > 0
    assert rest.exchange_info(symbol="BTCUSDT").data().symbols[0].base_asset == "BTC"
    assert len(rest.klines(symbol="BTCUSDT", interval="1m", limit=4).data()) == 4
    assert len(rest.agg_trades(symbol="BTCUSDT", limit=4).data()) == 4
    assert len(rest.depth(symbol="BTCUSDT", limit=4).data().asks) == 4
    placed = rest.new_order(
        symbol="BTCUSDT",
        side="BUY",
        type="LIMIT",
        time_in_force="GTC",
        quantity=0.01,
        price=30000.0,
        new_client_order_id="sdk-1",
    ).data()
    assert placed.client_order_id == "sdk-1"
    assert rest.get_order(symbol="BTCUSDT", orig_client_order_id="sdk-1").data().status == "NEW"
    assert rest.delete_order(symbol="BTCUSDT", orig_client_order_id="sdk-1").data().status == "CANCELED"
    price = sim.price()
    pair = rest.order_list_oco(
        symbol="BTCUSDT",
        side="SELL",
        quantity=0.01,
        above_type="LIMIT_MAKER",
        above_price=round(price * 1.1, 2),
        below_type="STOP_LOSS",
        below_stop_price=round(price * 0.9, 2),
    ).data()
    assert pair.list_order_status == "EXECUTING"
    assert len(pair.order_reports) == 2
    assert (
        rest.delete_order_list(symbol="BTCUSDT", order_list_id=pair.order_list_id).data().list_order_status
        == "ALL_DONE"
    )
    assert rest.get_account(omit_zero_balances=True).data().balances
    assert isinstance(rest.my_trades(symbol="BTCUSDT").data(), list)


async def test_sdk_session_with_an_ed25519_key(start_sim: Any) -> None:
    sim = start_sim("--ed25519", "--balance", "USDT=1000")
    key, pem = sim.info["ed25519_api_key"], sim.info["ed25519_private_key_file"]
    rest = client_of(
        config_rest_api=ConfigurationRestAPI(api_key=key, private_key=pem, base_path=sim.info["rest"])
    ).rest_api
    assert rest.get_account(omit_zero_balances=True).data().balances[0].asset == "USDT"
    sdk = client_of(
        config_ws_api=ConfigurationWebSocketAPI(api_key=key, private_key=pem, stream_url=sim.info["ws_api"])
    )
    api = await sdk.websocket_api.create_connection()
    try:
        assert (await api.session_logon()).data().result.api_key == key
        assert (await api.account_status(omit_zero_balances=True)).data().result.balances[0].free == "1000.00000000"
        assert (await api.user_data_stream_subscribe()).response.data().result.subscription_id == 0
    finally:
        await api.close_connection(close_session=True)


async def test_sdk_websockets(sdk: Any, sim: Sim) -> None:
    link = await sdk.websocket_streams.create_connection()
    received: asyncio.Queue[Any] = asyncio.Queue()
    try:
        stream = await link.agg_trade(symbol="btcusdt")
        stream.on("message", received.put_nowait)
        assert (await asyncio.wait_for(received.get(), 5)).s == "BTCUSDT"
    finally:
        await link.close_connection(close_session=True)
    api = await sdk.websocket_api.create_connection()
    try:
        events = await api.user_data_stream_subscribe_signature()
        events.stream.on("message", received.put_nowait)
        sim.order("BUY", "MARKET", "ETHUSDT", quantity="0.1")

        async def report() -> Any:
            while True:
                event = await received.get()
                if "ExecutionReport(" in str(event):
                    return event

        assert "ETHUSDT" in str(await asyncio.wait_for(report(), 5))
    finally:
        await api.close_connection(close_session=True)
