"""Requests by which the exchange holds an account's protection, over real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import ccxt
import pytest

from fks.clock import RealClock
from fks.trading.venues.binance.calls import VenueCall
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.dialect import report_of_event
from fks.trading.venues.binance.session import OwnTransport
from fks.trading.venues.binance.socket_api import SocketApi
from tests.support.ports import CollectingLog
from tests.support.sim_process import Sim
from tests.support.waiting import until

Ask = Callable[..., Awaitable[Any]]
Starter = Callable[..., Sim]
AMEND = "/api/v3/order/amend/keepPriority"
LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.02",
    "price": "30000",
}
#: the websocket API's names of the requests here
METHODS = {
    ("PUT", AMEND): "order.amend.keepPriority",
    ("GET", "/api/v3/order/amendments"): "order.amendments",
    ("POST", "/api/v3/orderList/otoco"): "orderList.place.otoco",
    ("POST", "/api/v3/orderList/opoco"): "orderList.place.opoco",
    ("GET", "/api/v3/executionRules"): "executionRules",
    ("GET", "/api/v3/referencePrice"): "referencePrice",
}


@pytest.fixture(params=["ccxt", "own"])
async def ask(request: pytest.FixtureRequest, sim: Sim, client: Any) -> AsyncIterator[Ask]:
    """Send a request by ccxt over REST, then by our own order session over the WebSocket API."""
    info = sim.info
    config = SessionConfig(
        info["api_key"], info["api_secret"], rest_url=info["rest"], ws_url=info["ws"], ws_api_url=info["ws_api"]
    )
    own = OwnTransport(config, RealClock(), CollectingLog())
    if request.param == "own":
        await own.open()

    async def send(method: str, path: str, **params: str) -> Any:
        is_signed = "order" in path
        if request.param == "ccxt":
            access = "private" if is_signed else "public"
            return await client.request(path.removeprefix("/api/v3/"), [access], method, params)
        wire = CallCourse()
        call = VenueCall(METHODS[method, path], method, path, 1, is_signed)
        answer = await (await own.begin(call, params, wire))
        (row,) = sim.get("/sim/received?limit=100000&all=1")["items"][-1:]
        assert (row["method"], row["path"], row["socket_method"]) == (method, path, METHODS[method, path])
        return answer

    yield send
    await own.close()


async def test_an_order_is_amended_in_place(sim: Sim, ask: Ask) -> None:
    order = sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId="whole")[1]
    done = await ask(
        "PUT", AMEND, symbol="BTCUSDT", origClientOrderId="whole", newClientOrderId="whole", newQty="0.015"
    )
    assert {str(name): str(value) for name, value in done["amendedOrder"].items()} == {
        "symbol": "BTCUSDT",
        "orderId": str(order["orderId"]),
        "orderListId": "-1",
        "origClientOrderId": "whole",
        "clientOrderId": "whole",
        "price": "30000.00000000",
        "qty": "0.01500000",
        "executedQty": "0.00000000",
        "preventedQty": "0.00000000",
        "quoteOrderQty": "0.00000000",
        "cumulativeQuoteQty": "0.00000000",
        "status": "NEW",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "side": "BUY",
        "workingTime": str(order["transactTime"]),
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }
    assert "listStatus" not in done
    assert sim.get("/sim/received?client_order_id=whole")["items"][-1]["client_order_ids"] == []
    again = await ask("PUT", AMEND, symbol="BTCUSDT", orderId=str(order["orderId"]), newQty="0.01")
    renamed = again["amendedOrder"]["clientOrderId"]
    assert renamed not in ("", "whole"), "an id that is not repeated is a new one"
    rows = await ask("GET", "/api/v3/order/amendments", symbol="BTCUSDT", orderId=str(order["orderId"]))
    assert [(r["origClientOrderId"], r["newClientOrderId"], r["origQty"], r["newQty"]) for r in rows] == [
        ("whole", "whole", "0.02000000", "0.01500000"),
        ("whole", renamed, "0.01500000", "0.01000000"),
    ]
    assert [int(row["executionId"]) for row in rows] == [int(done["executionId"]), int(again["executionId"])]
    found = sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=renamed)[1]
    assert (found["orderId"], found["origQty"], found["status"]) == (order["orderId"], "0.01000000", "NEW")
    assert sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="whole")[1]["code"] == -2013
    assert {row["asset"]: row["locked"] for row in sim.get("/sim/account")["balances"]}["USDT"] == "300.00000000"


async def test_a_leg_is_amended_with_its_pair(sim: Sim, ask: Ask) -> None:
    price = sim.price()
    pair = sim.signed(
        "POST",
        "/api/v3/orderList/oco",
        symbol="BTCUSDT",
        side="SELL",
        quantity="0.02",
        aboveType="LIMIT_MAKER",
        abovePrice=f"{price * 1.2:.2f}",
        aboveClientOrderId="up",
        belowType="STOP_LOSS",
        belowStopPrice=f"{price * 0.8:.2f}",
        belowClientOrderId="down",
    )[1]
    done = await ask("PUT", AMEND, symbol="BTCUSDT", origClientOrderId="down", newClientOrderId="down", newQty="0.01")
    assert (done["amendedOrder"]["type"], done["amendedOrder"]["qty"]) == ("STOP_LOSS", "0.01000000")
    assert done["listStatus"]["listOrderStatus"] == "EXECUTING"
    assert [row["clientOrderId"] for row in done["listStatus"]["orders"]] == ["up", "down"]
    for name, number in zip(("up", "down"), (row["orderId"] for row in pair["orders"]), strict=True):
        found = sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=name)[1]
        assert (found["orderId"], found["origQty"]) == (number, "0.01000000")


REFUSED: tuple[tuple[dict[str, Any], dict[str, str], int, str], ...] = (
    ({}, {"newQty": "0.03"}, -2038, "Order amend (quantity increase) is not supported."),
    ({}, {"newQty": "0.02"}, -2038, "The requested action would change no state; rejecting"),
    ({}, {"newQty": "0"}, -1013, "Invalid quantity."),
    ({}, {"newQty": "0.000015"}, -1013, "Filter failure: LOT_SIZE"),
    ({}, {"newQty": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
    ({}, {"newQty": "0.01", "origClientOrderId": "nobody"}, -2038, "Unknown order sent."),
    ({}, {"newQty": "0.01", "newClientOrderId": "other"}, -2038, "Duplicate order sent."),
    ({"amends_max": 0}, {"newQty": "0.01"}, -2038, "Filter failure: MAX_NUM_ORDER_AMENDS"),
    ({"amend_allowed": False}, {"newQty": "0.01"}, -2038, "Order amend is not supported for this symbol."),
)


def test_an_amendment_that_is_refused_changes_nothing(sim: Sim) -> None:
    for name in ("rest", "other"):
        sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId=name)
    for filters, change, code, text in REFUSED:
        assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", **filters})[0] == 200
        params = {"symbol": "BTCUSDT", "origClientOrderId": "rest"} | change
        assert sim.signed("PUT", AMEND, **params) == (400, {"code": code, "msg": text})
        sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "amends_max": 10, "amend_allowed": True})
    missing = sim.signed("PUT", AMEND, symbol="BTCUSDT", origClientOrderId="rest")
    assert missing[1]["msg"] == "Mandatory parameter 'newQty' was not sent, was empty/null, or malformed."
    found = sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="rest")[1]
    assert (found["origQty"], found["status"]) == ("0.02000000", "NEW")
    assert sim.signed("GET", "/api/v3/order/amendments", symbol="BTCUSDT", orderId=found["orderId"]) == (200, [])


def test_amendments_survive_a_restart(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off")
    order = sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId="kept")[1]
    sim.signed("PUT", AMEND, symbol="BTCUSDT", orderId=order["orderId"], newClientOrderId="kept", newQty="0.01")
    path = "/api/v3/order/amendments"
    before = sim.signed("GET", path, symbol="BTCUSDT", orderId=order["orderId"])[1]
    sim.kill()
    sim.start()
    assert sim.signed("GET", path, symbol="BTCUSDT", orderId=order["orderId"]) == (200, before)
    assert len(before) == 1
    assert [(row["clientOrderId"], row["origQty"]) for row in sim.get("/sim/account")["open_orders"]] == [
        ("kept", "0.01000000")
    ]


def otoco(sim: Sim, **changes: str | None) -> dict[str, str]:
    """Return a buy that fills at once and waiting exits 20 % away; None: without that parameter."""
    price = sim.price()
    params: dict[str, str | None] = {
        "symbol": "BTCUSDT",
        "listClientOrderId": "all",
        "workingType": "LIMIT",
        "workingSide": "BUY",
        "workingClientOrderId": "in",
        "workingPrice": f"{price * 1.01:.2f}",
        "workingQuantity": "0.02",
        "workingTimeInForce": "FOK",
        "pendingSide": "SELL",
        "pendingQuantity": "0.01998",
        "pendingAboveType": "LIMIT_MAKER",
        "pendingAboveClientOrderId": "tp",
        "pendingAbovePrice": f"{price * 1.2:.2f}",
        "pendingBelowType": "STOP_LOSS",
        "pendingBelowClientOrderId": "sl",
        "pendingBelowStopPrice": f"{price * 0.8:.2f}",
    }
    return {name: value for name, value in (params | changes).items() if value is not None}


@pytest.mark.parametrize("name", ["otoco", "opoco"])
async def test_an_entry_and_its_exits_are_one_request(sim: Sim, ask: Ask, name: str) -> None:
    before = {row["asset"]: row for row in sim.get("/sim/account")["balances"]}["BTC"]
    params = otoco(sim, **({} if name == "otoco" else {"pendingQuantity": None}))
    placed = await ask("POST", f"/api/v3/orderList/{name}", **params)
    assert (placed["contingencyType"], placed["listStatusType"], placed["listClientOrderId"]) == (
        "OTO",
        "EXEC_STARTED",
        "all",
    )
    assert [row["clientOrderId"] for row in placed["orders"]] == ["in", "tp", "sl"]
    shown = [(row["clientOrderId"], row["status"], row.get("origQty")) for row in placed["orderReports"]]
    size = "0.01998000" if name == "otoco" else None
    assert shown == [("in", "FILLED", "0.02000000"), ("tp", "PENDING_NEW", size), ("sl", "PENDING_NEW", size)]
    assert placed["orderReports"][0]["fills"]
    assert sim.get("/sim/received?client_order_id=in")["items"][-1]["client_order_ids"] == ["in", "tp", "sl"]
    sold = "0.01998000" if name == "otoco" else "0.02000000"  # the free balance pays the commission
    for id in ("tp", "sl"):
        found = sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=id)[1]
        assert (found["status"], found["origQty"]) == ("NEW", sold)
    held = {row["asset"]: row for row in sim.get("/sim/account")["balances"]}["BTC"]
    assert float(held["locked"]) - float(before["locked"]) == pytest.approx(float(sold))
    again = sim.signed("POST", f"/api/v3/orderList/{name}", **params | {"listClientOrderId": "other"})
    assert again[1] == {"code": -2010, "msg": "Duplicate order sent."}, "tp and sl are open"
    ended = sim.signed("DELETE", "/api/v3/orderList", symbol="BTCUSDT", listClientOrderId="all")[1]
    assert [(row["origClientOrderId"], row["status"]) for row in ended["orderReports"]] == [
        ("tp", "CANCELED"),
        ("sl", "CANCELED"),
    ]
    assert ended["listOrderStatus"] == "ALL_DONE"


async def test_user_events_of_a_list_in_the_exchange_order(sim: Sim) -> None:
    """As our own session receives them: the list, its orders, the fill, the pair on the book, an amendment, the end."""
    info, events = sim.info, list[dict[str, Any]]()
    config = SessionConfig(info["api_key"], info["api_secret"])
    link = SocketApi(info["ws_api"], config, RealClock(), lambda event: events.append(dict(event)))
    await link.connect()
    await link.subscribe()
    sim.signed("POST", "/api/v3/orderList/opoco", **otoco(sim, pendingQuantity=None))
    sim.signed("PUT", AMEND, symbol="BTCUSDT", origClientOrderId="sl", newClientOrderId="sl2", newQty="0.01")
    sim.signed("DELETE", "/api/v3/orderList", symbol="BTCUSDT", listClientOrderId="all")
    await until(lambda: any(event.get("l") == "ALL_DONE" for event in events))
    await link.close()
    seen = [
        (event["c"], event["l"], event["L"])
        if event["e"] == "listStatus"
        else (event["C"] or event["c"], event["x"], event["X"], event["q"])
        for event in events
        if event["e"] != "outboundAccountPosition" and event.get("X") != "PARTIALLY_FILLED"
    ]
    assert seen == [
        ("OTO", "EXEC_STARTED", "EXECUTING"),
        ("in", "NEW", "NEW", "0.02000000"),
        ("tp", "NEW", "PENDING_NEW", "0.00000000"),
        ("sl", "NEW", "PENDING_NEW", "0.00000000"),
        ("in", "TRADE", "FILLED", "0.02000000"),
        ("tp", "NEW", "NEW", "0.02000000"),
        ("sl", "NEW", "NEW", "0.02000000"),
        ("sl", "REPLACED", "NEW", "0.01000000"),
        ("tp", "REPLACED", "NEW", "0.01000000"),
        ("OTO", "UPDATED", "EXECUTING"),
        ("tp", "CANCELED", "CANCELED", "0.01000000"),
        ("sl2", "CANCELED", "CANCELED", "0.01000000"),
        ("OTO", "ALL_DONE", "ALL_DONE"),
    ]
    replaced = next(event for event in events if event.get("x") == "REPLACED")
    assert (replaced["c"], replaced["C"]) == ("sl2", "sl")
    reports = [report_of_event(event) for event in events if event["e"] == "executionReport"]
    assert {report.client_order_id for report in reports} == {"in", "tp", "sl", "sl2"}


def test_a_waiting_list_survives_a_restart(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off")
    price = f"{sim.price() * 0.9:.2f}"
    waiting = {"workingTimeInForce": "GTC", "workingPrice": price, "pendingQuantity": None}
    placed = sim.signed("POST", "/api/v3/orderList/opoco", **otoco(sim, **waiting))
    assert placed[0] == 200, placed
    before = sim.get("/sim/account")
    sim.kill()
    sim.start()
    after = sim.get("/sim/account")
    assert [after[name] for name in ("balances", "open_orders", "open_lists")] == [
        before[name] for name in ("balances", "open_orders", "open_lists")
    ]
    assert [order["status"] for order in after["open_orders"]] == ["NEW", "PENDING_NEW", "PENDING_NEW"]
    ended = sim.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="sl")[1]
    assert {(row["origClientOrderId"], row["status"]) for row in ended["orderReports"]} == {
        (name, "CANCELED") for name in ("in", "tp", "sl")
    }
    assert {row["locked"] for row in sim.get("/sim/account")["balances"]} == {"0.00000000"}


LISTS_REFUSED: tuple[tuple[str, dict[str, Any], dict[str, str | None], int, str], ...] = (
    ("otoco", {"oto_allowed": False}, {}, -2010, "OTO orders are not supported for this symbol."),
    ("otoco", {"oco_allowed": False}, {}, -2010, "OCO orders are not supported for this symbol"),
    (
        "opoco",
        {"opo_allowed": False},
        {"pendingQuantity": None},
        -2010,
        "OPO orders are not supported for this symbol.",
    ),
    ("otoco", {}, {"workingType": "STOP_LOSS"}, -1116, "Invalid orderType."),
    ("otoco", {}, {"workingTimeInForce": None}, -1102, ""),
    ("otoco", {}, {"pendingBelowType": None}, -1102, ""),
    ("otoco", {}, {"pendingQuantity": None}, -1102, ""),
    ("otoco", {}, {"pendingQuantity": "0.0000001"}, -1013, "Filter failure: LOT_SIZE"),
    ("otoco", {}, {"workingClientOrderId": "tp"}, -2010, "Duplicate order sent."),
    ("otoco", {}, {"pendingAbovePrice": "30000"}, -2010, ""),
    ("otoco", {"orders_max": 2}, {}, -1013, "Filter failure: MAX_NUM_ORDERS"),
    ("otoco", {"algo_orders_max": 0}, {}, -1013, "Filter failure: MAX_NUM_ALGO_ORDERS"),
    ("opoco", {}, {}, -1225, "Pending orders should not include the 'pendingQuantity' tag."),
    (
        "opoco",
        {},
        {"pendingQuantity": None, "workingSide": "SELL"},
        -1222,
        "Working order in an OPO list must be a bid.",
    ),
    (
        "opoco",
        {},
        {"pendingQuantity": None, "pendingSide": "BUY"},
        -1223,
        "Pending orders in an OPO list must be asks.",
    ),
    ("opoco", {}, {"pendingQuantity": None, "workingQuantity": "100"}, -2010, ""),
)


def test_a_list_that_is_refused_leaves_nothing(sim: Sim) -> None:
    allowed = dict.fromkeys(("oco_allowed", "oto_allowed", "opo_allowed"), True)
    defaults = {"symbol": "BTCUSDT", "orders_max": 200, "algo_orders_max": 5, **allowed}
    before = sim.get("/sim/account")
    for name, filters, changes, code, text in LISTS_REFUSED:
        sim.call("POST", "/sim/filters", defaults | filters)
        status, answer = sim.signed("POST", f"/api/v3/orderList/{name}", **otoco(sim, **changes))
        sim.call("POST", "/sim/filters", defaults)
        assert (status, answer["code"]) == (400, code), (name, changes, answer)
        assert answer["msg"] == (text or answer["msg"])
    assert sim.get("/sim/account") == before
    info = sim.get("/api/v3/exchangeInfo?symbol=BTCUSDT")["symbols"][0]
    assert [info[name] for name in ("ocoAllowed", "otoAllowed", "opoAllowed", "amendAllowed")] == [True] * 4


def test_cancel_only_passes_cancels_alone(sim: Sim) -> None:
    sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId="rest")
    sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId="gone")
    assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "CANCEL_ONLY"})[0] == 200
    closed = (400, {"code": -1013, "msg": "Market is closed."})
    try:
        assert sim.get("/api/v3/exchangeInfo?symbol=BTCUSDT")["symbols"][0]["status"] == "CANCEL_ONLY"
        assert sim.signed("POST", "/api/v3/order", **LIMIT) == closed
        assert sim.signed("POST", "/api/v3/orderList/otoco", **otoco(sim)) == closed
        assert sim.signed("PUT", AMEND, symbol="BTCUSDT", origClientOrderId="rest", newQty="0.01") == closed
        fields = {**LIMIT, "cancelReplaceMode": "STOP_ON_FAILURE", "cancelOrigClientOrderId": "rest"}
        status, answer = sim.signed("POST", "/api/v3/order/cancelReplace", **fields)
        assert (status, answer["code"]) == (409, -2021)
        assert (answer["data"]["cancelResult"], answer["data"]["newOrderResult"]) == ("SUCCESS", "FAILURE")
        assert sim.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="gone")[0] == 200
        assert sim.signed("POST", "/api/v3/order", **LIMIT | {"symbol": "ETHUSDT", "price": "2000"})[0] == 200
    finally:
        sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "TRADING"})
    assert sim.signed("POST", "/api/v3/order", **LIMIT)[0] == 200
    assert sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "SLEEPING"})[0] == 400


async def test_the_price_range_is_shown_and_enforced(sim: Sim, ask: Ask) -> None:
    missing = sim.call("GET", "/api/v3/referencePrice?symbol=BTCUSDT")
    assert missing == (400, {"code": -2043, "msg": "This symbol doesn't have a reference price."})
    assert await ask("GET", "/api/v3/executionRules", symbol="BTCUSDT") == {"symbolRules": []}
    rule = {"bid_limit_up": "1.5", "ask_limit_down": "0.5", "reference_price": "10"}
    sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", **rule})
    try:
        found = await ask("GET", "/api/v3/executionRules", symbol="BTCUSDT")
        rules = [{"ruleType": "PRICE_RANGE", "bidLimitMultUp": "1.50000000", "askLimitMultDown": "0.50000000"}]
        assert found == {"symbolRules": [{"symbol": "BTCUSDT", "rules": rules}]}
        assert (await ask("GET", "/api/v3/referencePrice", symbol="BTCUSDT"))["referencePrice"] == "10.00000000"
        expired = sim.order("BUY", "MARKET", quantity="0.01")
        reason = "EXECUTION_RULE_PRICE_RANGE_EXCEEDED"
        assert (expired["status"], expired["executedQty"], expired["expiryReason"]) == ("EXPIRED", "0.00000000", reason)
        assert sim.order("SELL", "MARKET", quantity="0.01")["status"] == "FILLED"
    finally:
        sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT"} | dict.fromkeys(rule, "0"))
    assert sim.order("BUY", "MARKET", quantity="0.01")["status"] == "FILLED"


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("halt", 400, -1013), ("too_many_1015", 429, -1015)], ids=["halt", "-1015"]
)
@pytest.mark.parametrize("reach", ["symbol", "account"])
def test_new_orders_are_refused_for_a_while(sim: Sim, kind: str, status: int, code: int, reach: str) -> None:
    sim.signed("POST", "/api/v3/order", **LIMIT, newClientOrderId="rest")
    fault = sim.fault(kind, seconds=60, **({"symbol": "BTCUSDT"} if reach == "symbol" else {}))
    requests = [("/api/v3/order", LIMIT), ("/api/v3/orderList/otoco", otoco(sim))]
    answers = [sim.signed("POST", path, **params) for path, params in requests]
    assert [(found, answer["code"]) for found, answer in answers] == [(status, code)] * 2
    other = sim.signed("POST", "/api/v3/order", **LIMIT | {"symbol": "ETHUSDT", "price": "2000"})
    assert other[0] == (200 if reach == "symbol" else status)
    assert sim.struck(fault) == (2 if reach == "symbol" else 3)
    assert sim.signed("DELETE", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="rest")[0] == 200
    sim.call("DELETE", f"/sim/faults?id={fault}")
    assert sim.signed("POST", "/api/v3/order", **LIMIT)[0] == 200


def test_a_refusal_of_new_orders_ends_with_its_time(sim: Sim) -> None:
    fault = sim.fault("too_many_1015", seconds=0.3)
    assert sim.signed("POST", "/api/v3/order", **LIMIT)[1]["code"] == -1015
    time.sleep(0.3)
    assert sim.signed("POST", "/api/v3/order", **LIMIT)[0] == 200
    assert sim.struck(fault) == 1


@pytest.mark.parametrize("asset", ["", "BTC"])
def test_balances_vanish_for_a_number_of_reads(sim: Sim, asset: str) -> None:
    fault = sim.fault("hide_balances", count=2, **({"symbol": asset} if asset else {}))
    seen = [{row["asset"] for row in sim.signed("GET", "/api/v3/account")[1]["balances"]} for _ in range(3)]
    assert seen[0] == seen[1] == (seen[2] - {"BTC"} if asset else set())
    assert {"BTC", "USDT"} <= seen[2]
    assert sim.struck(fault) == 2
    assert sim.get("/sim/faults") == []


async def test_ccxt_reads_a_refused_amendment_as_an_exchange_error(client: Any, sim: Sim) -> None:
    with pytest.raises(ccxt.ExchangeError, match="-2038"):
        await client.request(
            "order/amend/keepPriority", ["private"], "PUT", {"symbol": "BTCUSDT", "orderId": "1", "newQty": "1"}
        )
