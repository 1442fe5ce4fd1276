"""The wire itself, byte by byte where it matters: signing, clocks, filters, error texts, limits, lists, sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.support.sim_process import Sim

Starter = Callable[..., Sim]


def sign(sim: Sim, payload: str) -> str:
    return hmac.new(sim.info["api_secret"].encode(), payload.encode(), hashlib.sha256).hexdigest()


def now() -> int:
    return int(time.time() * 1000)


@pytest.mark.parametrize("where", ["query", "body", "mixed", "json"])
def test_signatures_are_over_query_and_body_as_sent(sim: Sim, where: str) -> None:
    one, two = "symbol=ETHUSDT&side=BUY&type=MARKET", f"quantity=0.1&timestamp={now()}"
    key = {"X-MBX-APIKEY": sim.info["api_key"], "Content-Type": "application/x-www-form-urlencoded"}
    if where == "query":
        target, body = f"?{one}&{two}&signature={sign(sim, f'{one}&{two}').upper()}", b""
    elif where == "body":
        target, body = "", f"{one}&{two}&signature={sign(sim, f'{one}&{two}')}".encode()
    elif where == "mixed":
        target, body = f"?{one}", f"{two}&signature={sign(sim, one + two)}".encode()
    else:
        target, body, key["Content-Type"] = (
            f"?{two}&{one}&signature={sign(sim, f'{two}&{one}')}",
            b"",
            "application/json",
        )
    status, answer = sim.call("POST", f"/api/v3/order{target}", body, key)
    assert (status, answer["status"]) == (200, "FILLED")


def test_keys_signatures_and_clocks_are_refused_with_their_codes(sim: Sim) -> None:
    assert sim.signed("GET", "/api/v3/account", secret="wrong") == (
        400,
        {"code": -1022, "msg": "Signature for this request is not valid."},
    )
    assert sim.call("GET", f"/api/v3/account?timestamp={now()}&signature=x")[1]["code"] == -2014
    status, answer = sim.call(
        "GET", f"/api/v3/account?timestamp={now()}&signature=x", headers={"X-MBX-APIKEY": "x" * 64}
    )
    assert (status, answer["code"]) == (401, -2015)
    late, early = (
        sim.signed("GET", "/api/v3/account", stamp=now() - 6000),
        sim.signed("GET", "/api/v3/account", stamp=now() + 30_000),
    )
    assert late == (400, {"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."})
    assert early == (400, {"code": -1021, "msg": "Timestamp for this request was 1000ms ahead of the server's time."})
    assert sim.signed("GET", "/api/v3/account", stamp=now() - 6000, recvWindow=60000)[0] == 200
    assert sim.signed("GET", "/api/v3/account", recvWindow=60001)[1]["code"] == -1131


LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.01",
    "price": "30000",
}


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"symbol": "NOPE"}, -1121, "Invalid symbol."),
        ({"side": "LONG"}, -1117, "Invalid side."),
        ({"type": "ICEBERG"}, -1116, "Invalid orderType."),
        ({"timeInForce": "DAY"}, -1115, "Invalid timeInForce."),
        ({"price": None}, -1102, "Mandatory parameter 'price' was not sent, was empty/null, or malformed."),
        ({"quantity": ""}, -1105, "Parameter 'quantity' was empty."),
        (
            {"quantity": "1e-2"},
            -1100,
            "Illegal characters found in parameter 'quantity'; legal range is '^([0-9]{1,20})(\\.[0-9]{1,20})?$'.",
        ),
        ({"quantity": "0.010000001"}, -1111, "Parameter 'quantity' has too much precision."),
        ({"quantity": "0.010001"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0"}, -1013, "Invalid quantity."),
        ({"price": "30000.001"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"quantity": "0.0001"}, -1013, "Filter failure: NOTIONAL"),
        ({"price": "100"}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        ({"stopPrice": "1"}, -1106, "Parameter 'stopPrice' sent when not required."),
        (
            {"newClientOrderId": "x" * 37},
            -1100,
            "Illegal characters found in parameter 'newClientOrderId'; legal range is '^[a-zA-Z0-9-_]{1,36}$'.",
        ),
        ({"quantity": "200"}, -2010, "Account has insufficient balance for requested action."),
        (
            {"type": "LIMIT_MAKER", "timeInForce": None, "price": "75000"},
            -2010,
            "Order would immediately match and take.",
        ),
        (
            {"type": "MARKET", "timeInForce": None, "price": None, "quantity": "2000"},
            -1013,
            "Filter failure: MARKET_LOT_SIZE",
        ),
        ({"type": "MARKET", "timeInForce": None}, -1106, "Parameter 'price' sent when not required."),
    ],
)
def test_bad_orders(sim: Sim, change: dict[str, Any], code: int, text: str) -> None:
    fields = {name: value for name, value in (LIMIT | change).items() if value is not None}
    if code == -1013 and text.endswith("MARKET_LOT_SIZE"):
        fields["quantity"] = "2000000"
    status, answer = sim.signed("POST", "/api/v3/order", **fields)
    assert (status, answer) == (400, {"code": code, "msg": text})


FILTERS: tuple[tuple[str, dict[str, Any], dict[str, Any], int], ...] = (
    ("MARKET_LOT_SIZE", {"market_qty_max": "0.02"}, {"type": "MARKET", "quantity": "0.03"}, 0),
    ("MARKET_LOT_SIZE", {"market_qty_min": "0.01"}, {"type": "MARKET", "quantity": "0.005"}, 0),
    ("MARKET_LOT_SIZE", {"market_step": "0.001"}, {"type": "MARKET", "quantity": "0.0105"}, 0),
    ("LOT_SIZE", {"qty_max": "0.02"}, {"quantity": "0.03"}, 0),
    ("NOTIONAL", {"notional_min": "1000"}, {"quantity": "0.01"}, 0),
    ("PERCENT_PRICE_BY_SIDE", {"bid_down": "0.99"}, {"quantity": "0.01"}, 0),
    ("PERCENT_PRICE_BY_SIDE", {"ask_up": "1.01"}, {"side": "SELL", "quantity": "0.01", "price": "150000"}, 0),
    ("MAX_NUM_ORDERS", {"orders_max": 2}, {"quantity": "0.01"}, 2),
    (
        "MAX_NUM_ALGO_ORDERS",
        {"algo_orders_max": 0},
        {"side": "SELL", "type": "STOP_LOSS", "stopPrice": "20000", "quantity": "0.01"},
        0,
    ),
)


#: what the filters are without a change
DEFAULTS = {
    "market_qty_max": "1000000",
    "market_qty_min": "0",
    "market_step": "0",
    "qty_max": "9000000",
    "notional_min": "5",
    "bid_down": "0.2",
    "ask_up": "5",
    "orders_max": 200,
    "algo_orders_max": 5,
}


def test_every_filter_is_listed_and_enforced(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off", "--balance", "USDT=1000000", "--balance", "BTC=10")
    unchanged = sim.get("/api/v3/exchangeInfo?symbol=BTCUSDT")["symbols"][0]["filters"]
    for name, filters, change, resting in FILTERS:
        order = LIMIT | change
        if order["type"] != "LIMIT":
            order = {key: value for key, value in order.items() if key not in ("price", "timeInForce")}
        for _ in range(resting):
            assert sim.signed("POST", "/api/v3/order", **LIMIT)[0] == 200
        status, listed = sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT"} | DEFAULTS | filters)
        assert status == 200, listed
        assert listed != unchanged
        assert sim.get("/api/v3/exchangeInfo?symbol=BTCUSDT")["symbols"][0]["filters"] == listed
        assert sim.signed("POST", "/api/v3/order", **order) == (400, {"code": -1013, "msg": f"Filter failure: {name}"})
    sim.kill()
    sim.start()
    assert sim.get("/api/v3/exchangeInfo?symbol=BTCUSDT")["symbols"][0]["filters"] == listed, (
        "a change outlives a restart"
    )
    assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT"} | DEFAULTS) == (200, unchanged)


def test_the_legs_of_a_list_count_against_the_filters(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off", "--balance", "USDT=1000000", "--balance", "BTC=10")
    pair = {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "quantity": "0.01",
        "aboveType": "TAKE_PROFIT",
        "aboveStopPrice": "200000",
        "belowType": "STOP_LOSS",
        "belowStopPrice": "20000",
    }
    for filters, name in (
        ({"orders_max": 1}, "MAX_NUM_ORDERS"),
        ({"orders_max": 200, "algo_orders_max": 1}, "MAX_NUM_ALGO_ORDERS"),
        ({"algo_orders_max": 5, "order_lists_max": 0}, "MAX_NUM_ORDER_LISTS"),
    ):
        assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT"} | filters)[0] == 200
        status, answer = sim.signed("POST", "/api/v3/orderList/oco", **pair)
        assert (status, answer) == (400, {"code": -1013, "msg": f"Filter failure: {name}"})
    assert sim.get("/sim/account")["orders"] == []
    assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "order_lists_max": 1})[0] == 200
    assert sim.signed("POST", "/api/v3/orderList/oco", **pair)[0] == 200


def test_a_filter_that_does_not_exist_is_refused(sim: Sim) -> None:
    for body in (
        {"symbol": "BTCUSDT", "qty_mix": "1"},
        {"symbol": "NOPE"},
        {"symbol": "BTCUSDT", "orders_max": "many"},
    ):
        status, answer = sim.call("POST", "/sim/filters", body)
        assert (status, answer["code"]) == (400, "FILTER_INVALID")


def test_an_id_may_come_again_once_its_order_is_done(sim: Sim) -> None:
    order = {**LIMIT, "newClientOrderId": "again"}
    assert sim.signed("POST", "/api/v3/order", **order)[0] == 200
    assert sim.signed("POST", "/api/v3/order", **order)[1] == {"code": -2010, "msg": "Duplicate order sent."}
    sim.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="again")
    assert sim.signed("POST", "/api/v3/order", **order)[0] == 200


def test_time_in_force(sim: Sim) -> None:
    price = f"{sim.price() * 1.01:.2f}"
    assert sim.order("BUY", "LIMIT", quantity="0.01", price=price, timeInForce="IOC")["status"] == "FILLED"
    assert sim.order("BUY", "LIMIT", quantity="0.01", price="30000", timeInForce="IOC")["status"] == "EXPIRED"
    assert sim.order("BUY", "LIMIT", quantity="0.01", price="30000", timeInForce="FOK")["status"] == "EXPIRED"
    taken = sim.order("BUY", "LIMIT", quantity="0.01", price=price, timeInForce="GTC")
    assert taken["status"] == "FILLED"
    assert float(taken["fills"][0]["price"]) < float(price), "better than the limit where the book is better"


def test_cancel_replace_reports_the_failed_half(sim: Sim) -> None:
    fields = {**LIMIT, "cancelReplaceMode": "STOP_ON_FAILURE", "cancelOrigClientOrderId": "nobody"}
    status, answer = sim.signed("POST", "/api/v3/order/cancelReplace", **fields)
    assert (status, answer["code"], answer["data"]["newOrderResult"]) == (400, -2022, "NOT_ATTEMPTED")
    status, answer = sim.signed(
        "POST", "/api/v3/order/cancelReplace", **fields | {"cancelReplaceMode": "ALLOW_FAILURE"}
    )
    assert (status, answer["code"]) == (409, -2021)
    assert answer["data"]["cancelResponse"]["code"] == -2011
    assert answer["data"]["newOrderResponse"]["status"] == "NEW"


def test_a_pair_locks_once_and_ends_together(sim: Sim) -> None:
    price = sim.price()
    before = {row["asset"]: row for row in sim.get("/sim/account")["balances"]}["BTC"]
    wrong = sim.signed(
        "POST",
        "/api/v3/orderList/oco",
        symbol="BTCUSDT",
        side="SELL",
        quantity="1",
        aboveType="LIMIT_MAKER",
        abovePrice=f"{price * 0.9:.2f}",
        belowType="STOP_LOSS",
        belowStopPrice=f"{price * 0.8:.2f}",
    )
    assert wrong[1]["code"] == -2010
    status, pair = sim.signed(
        "POST",
        "/api/v3/orderList/oco",
        symbol="BTCUSDT",
        side="SELL",
        quantity="1",
        aboveType="LIMIT_MAKER",
        abovePrice=f"{price * 1.2:.2f}",
        aboveClientOrderId="up",
        belowType="STOP_LOSS_LIMIT",
        belowStopPrice=f"{price * 0.8:.2f}",
        belowPrice=f"{price * 0.79:.2f}",
        belowTimeInForce="GTC",
        belowClientOrderId="down",
        listClientOrderId="both",
    )
    assert status == 200, pair
    assert [report["clientOrderId"] for report in pair["orderReports"]] == ["up", "down"]
    held = {row["asset"]: row for row in sim.get("/sim/account")["balances"]}["BTC"]
    assert float(held["locked"]) - float(before["locked"]) == pytest.approx(1.0)
    status, ended = sim.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="up")
    assert {report["status"] for report in ended["orderReports"]} == {"CANCELED"}
    assert ended["listOrderStatus"] == "ALL_DONE"
    after = {row["asset"]: row for row in sim.get("/sim/account")["balances"]}["BTC"]
    assert after == before
    log = sim.get("/sim/received?client_order_id=down&path=/api/v3/orderList/oco")["items"]
    assert log[-1]["client_order_ids"] == ["up", "down"]


def test_weights_order_counts_and_the_ban(start_sim: Starter) -> None:
    sim = start_sim()
    while int(time.time()) % 60 > 40:  # the minute must not turn over under the test
        time.sleep(0.1)
    answers = [sim.call("GET", "/api/v3/ticker/24hr") for _ in range(76)]
    assert [status for status, _ in answers] == [200] * 75 + [429]
    assert answers[-1][1]["msg"].startswith(
        "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."
    )
    for _ in range(25):
        status, body = sim.call("GET", "/api/v3/ping")
    assert status == 418
    assert "IP banned until" in body["msg"]


def test_too_many_orders_are_refused_at_the_gate(start_sim: Starter) -> None:
    sim = start_sim()
    while int(time.time()) % 10 > 2:  # the ten-second window must not turn over under the test
        time.sleep(0.1)
    answers = [sim.signed("POST", "/api/v3/order", **LIMIT) for _ in range(101)]
    assert [status for status, _ in answers].count(200) == 100
    assert answers[-1] == (
        429,
        {"code": -1015, "msg": "Too many new orders; current limit is 100 orders per 10 SECOND."},
    )


async def test_sockets_speak_the_subscription_protocol(sim: Sim) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(sim.info["ws"] + "/ws") as link:

        async def ask(text: str) -> Any:
            await link.send_str(text)
            while True:
                found = json.loads((await link.receive(5)).data)
                if "e" not in found:
                    return found

        assert await ask('{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":"uuid-1"}') == {
            "result": None,
            "id": "uuid-1",
        }
        assert await ask('{"method":"LIST_SUBSCRIPTIONS","id":3}') == {"result": ["btcusdt@aggTrade"], "id": 3}
        assert (await ask('{"method":"GET_PROPERTY","params":["combined"],"id":4}'))["result"] is False
        assert (await ask('{"method":"NONSENSE","id":5}'))["error"]["code"] == 2
        assert (await ask("not json"))["error"]["code"] == 3


async def test_depth_updates_are_contiguous_and_fit_the_snapshot(sim: Sim) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(sim.info["ws"] + "/ws/btcusdt@depth@100ms") as link,
    ):
        first = json.loads((await link.receive(5)).data)
        async with session.get(sim.info["rest"] + "/api/v3/depth?symbol=BTCUSDT&limit=1000") as answer:
            snapshot = await answer.json()
        bids = {row[0]: row[1] for row in snapshot["bids"]}
        last, events = first["u"], []
        while len(events) < 8:
            event = json.loads((await link.receive(5)).data)
            assert event["U"] == last + 1
            last = event["u"]
            events.append(event)
            if event["u"] > snapshot["lastUpdateId"]:
                for price, quantity in event["b"]:
                    bids[price] = quantity
        async with session.get(sim.info["rest"] + "/api/v3/depth?symbol=BTCUSDT&limit=1000") as answer:
            later = await answer.json()
        if later["lastUpdateId"] == last:
            assert {p: q for p, q in bids.items() if float(q)} == {row[0]: row[1] for row in later["bids"]}


async def test_a_kline_is_closed_exactly_once(sim: Sim) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(sim.info["ws"] + "/ws/btcusdt@kline_1s") as link:
        closed: list[dict[str, Any]] = []
        while len(closed) < 3:
            bar = json.loads((await link.receive(5)).data)["k"]
            if bar["x"]:
                closed.append(bar)
        assert [bar["t"] - closed[0]["t"] for bar in closed] == [0, 1000, 2000]
        rest = sim.get(f"/api/v3/klines?symbol=BTCUSDT&interval=1s&startTime={closed[0]['t']}&limit=3")
        assert [[b["o"], b["h"], b["l"], b["c"], b["v"], b["n"], b["q"]] for b in closed] == [
            [r[1], r[2], r[3], r[4], r[5], r[8], r[7]] for r in rest
        ]


async def test_server_pings_and_cuts_clients_without_pong(start_sim: Starter) -> None:
    sim = start_sim("--ping-seconds", "0.1")
    url = sim.info["ws"] + "/ws"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, autoping=False) as deaf:
        message = await deaf.receive(5)
        assert message.type is aiohttp.WSMsgType.PING
        async with asyncio.timeout(5):
            while (message := await deaf.receive()).type is aiohttp.WSMsgType.PING:
                pass
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)


async def test_the_websocket_api_refuses_in_its_own_form(sim: Sim) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(sim.info["ws_api"]) as link:

        async def ask(**message: Any) -> Any:
            await link.send_str(json.dumps(message))
            return json.loads((await link.receive(5)).data)

        unsigned = await ask(
            id="a",
            method="account.status",
            params={"apiKey": sim.info["api_key"], "timestamp": now(), "signature": "00"},
        )
        assert (unsigned["id"], unsigned["status"], unsigned["error"]["code"]) == ("a", 400, -1022)
        assert (await ask(id=2, method="userDataStream.start", params={}))["status"] == 410
        assert (await ask(id=3, method="no.such"))["status"] == 400
        quiet = await ask(id=4, method="time", params={"returnRateLimits": False})
        assert "rateLimits" not in quiet
