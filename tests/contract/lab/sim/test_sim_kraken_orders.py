"""Orders by Kraken's wire: the unmodified ccxt trades, and each documented answer, refusal and frame has its form."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import aiohttp
import ccxt
import pytest

from fks.lab.chaos.auditor import made_by
from tests.support.ccxt_feeds import kraken as kraken_of_ccxt
from tests.support.sim_process import Sim
from tests.support.waiting import until

BTC, PAIR = "BTC/USDT", "XBTUSDT"
TAPES = Path(__file__).parents[3] / "tapes" / "venues"
ADD = "/0/private/AddOrder"


def documented(name: str) -> dict[str, Any]:
    return {item["name"]: item["frame"] for item in json.loads((TAPES / f"kraken_{name}.json").read_text())["frames"]}


class KrakenSim(Sim):
    """An exchange process with Kraken's wire, and its private REST signed by hand."""

    nonce = 0

    def sign(self, path: str, body: bytes, nonce: object) -> dict[str, str]:
        digest = hashlib.sha256(str(nonce).encode() + body).digest()
        secret = base64.b64decode(self.info["api_secret"])
        made = hmac.new(secret, path.encode() + digest, hashlib.sha512).digest()
        return {"API-Key": self.info["api_key"], "API-Sign": base64.b64encode(made).decode()}

    def as_guardian(self) -> None:
        """Sign with the second key from now on."""
        self.info |= {name: self.info[f"guardian_{name}"] for name in ("api_key", "api_secret")}

    def next_nonce(self) -> int:
        self.nonce = max(self.nonce + 1, time.time_ns() // 1000)
        return self.nonce

    def post(self, method: str, **params: object) -> tuple[int, Any]:
        """Return status and answer of a private request; `close__price` is close[price]."""
        path, nonce = f"/0/private/{method}", self.next_nonce()
        named = {key.replace("__", "[") + "]" * ("__" in key): str(value) for key, value in params.items()}
        body = urlencode({"nonce": nonce, **named}).encode()
        headers = self.sign(path, body, nonce) | {"Content-Type": "application/x-www-form-urlencoded"}
        return self.call("POST", path, body, headers)

    def ask(self, method: str, **params: object) -> Any:
        status, answer = self.post(method, **params)
        assert status == 200, (status, answer)
        return answer

    def result(self, method: str, **params: object) -> Any:
        answer = self.ask(method, **params)
        assert answer["error"] == [], answer
        return answer["result"]

    def refusal(self, method: str, **params: object) -> str:
        answer = self.ask(method, **params)
        assert len(answer["error"]) == 1, answer
        return str(answer["error"][0])

    def add(self, kind: str = "limit", side: str = "buy", **params: object) -> Any:
        given = {"pair": PAIR, "volume": "0.01"} | ({"price": "30000"} if kind == "limit" else {}) | params
        return self.result("AddOrder", type=side, ordertype=kind, **given)


@pytest.fixture(scope="module")
def module_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KrakenSim]:
    balances = ("--balance", "USDT=1000000", "--balance", "BTC=10", "--balance", "ETH=10")
    sim = KrakenSim(tmp_path_factory.mktemp("kraken-orders"), "--wire", "kraken", "--rate-limits", "off", *balances)
    yield sim
    sim.end(15)


@pytest.fixture
def sim(module_sim: KrakenSim) -> Iterator[KrakenSim]:
    yield module_sim
    module_sim.call("DELETE", "/sim/faults")
    module_sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "TRADING"})
    module_sim.result("CancelAll")


@pytest.fixture
async def client(sim: KrakenSim) -> AsyncIterator[Any]:
    """ccxt.pro's Kraken with its default settings but for the addresses and its queue of requests."""
    rest, ws, private = sim.info["rest"], sim.info["ws"], sim.info["ws_api"]
    made: Any = kraken_of_ccxt({"apiKey": sim.info["api_key"], "secret": sim.info["api_secret"]})
    made.urls["api"] = dict.fromkeys(("public", "private", "zendesk"), rest)
    made.urls["api"]["ws"] = {"public": ws, "publicV2": ws, "private": private, "privateV2": private}
    made.enableRateLimit = False
    made.nonce = sim.next_nonce
    await made.load_markets()
    yield made
    await made.close()


# ── the unmodified ccxt ──────────────────────────────────────────────────────────────────────────
async def test_ccxt_places_queries_amends_and_cancels(sim: KrakenSim, client: Any) -> None:
    placed = await client.create_order(BTC, "limit", "buy", 0.01, 30000, {"clientOrderId": "life1"})
    assert (placed["symbol"], placed["price"], placed["amount"]) == (BTC, 30000, 0.01)
    balance = await client.fetch_balance()
    assert Decimal(str(balance["USDT"]["used"])) == Decimal("300.3")  # with the commission on it
    found = await client.fetch_order(placed["id"], BTC)
    assert (found["status"], found["clientOrderId"], found["filled"]) == ("open", "life1", 0)
    by_id = await client.fetch_open_orders(BTC, params={"clientOrderId": "life1"})
    assert [order["id"] for order in by_id] == [placed["id"]]
    with pytest.raises(ccxt.ExchangeError, match="EGeneral:Invalid arguments:cl_ord_id not unique"):
        await client.create_order(BTC, "limit", "buy", 0.01, 30000, {"clientOrderId": "life1"})
    await client.edit_order(placed["id"], BTC, "limit", "buy", 0.02, 31000)
    found = await client.fetch_order(placed["id"], BTC)
    assert (found["amount"], found["price"]) == (0.02, 31000)
    await client.cancel_order("", BTC, {"clientOrderId": "life1"})
    closed = await client.fetch_closed_orders(BTC, params={"clientOrderId": "life1"})
    assert [(order["id"], order["status"]) for order in closed] == [(placed["id"], "canceled")]
    with pytest.raises(ccxt.OrderNotFound):
        await client.cancel_order(placed["id"], BTC)
    again = await client.create_order(BTC, "limit", "buy", 0.01, 30000, {"clientOrderId": "life1"})
    assert again["id"] != placed["id"]  # ids are unique among open orders only
    assert (await client.cancel_all_orders())[0]["info"]["result"]["count"] == 1


async def test_a_market_order_of_ccxt_fills_and_its_fee_is_paid_in_quote(sim: KrakenSim, client: Any) -> None:
    before = (await client.fetch_balance())["total"]
    bought = await client.create_order("ETH/USDT", "market", "buy", 2, None, {"clientOrderId": "buy1"})
    order = await client.fetch_order(bought["id"])
    assert (order["status"], order["filled"], order["fee"]["currency"]) == ("closed", 2, "USDT")
    mine = [trade for trade in await client.fetch_my_trades("ETH/USDT") if trade["order"] == bought["id"]]
    assert [trade["id"] for trade in mine] == [trade["id"] for trade in order["trades"]]
    cost = sum(Decimal(trade["info"]["cost"]) for trade in mine)
    fee = sum(Decimal(trade["info"]["fee"]) for trade in mine)
    assert abs(fee - cost / 1000) < Decimal("1e-7")
    after = (await client.fetch_balance())["total"]
    assert Decimal(str(after["ETH"])) - Decimal(str(before["ETH"])) == 2
    assert abs(Decimal(str(before["USDT"])) - Decimal(str(after["USDT"])) - cost - fee) < Decimal("1e-6")
    detail = await client.fetch_order_trades(bought["id"], params={"trades": order["trades"]})
    assert {trade["id"] for trade in detail} == {trade["id"] for trade in mine}
    by_cost = await client.create_market_buy_order_with_cost("ETH/USDT", 100)
    spent = await client.fetch_order(by_cost["id"])
    assert Decimal("99") < Decimal(str(spent["info"]["cost"])) <= 100


async def test_ccxt_places_stops_profits_and_closes(sim: KrakenSim, client: Any) -> None:
    price = sim.price()
    low, high = f"{price * 0.9:.2f}", f"{price * 1.1:.2f}"
    stop = await client.create_order(BTC, "market", "sell", 0.01, None, {"stopLossPrice": low})
    profit = await client.create_order(BTC, "limit", "sell", 0.01, high, {"takeProfitPrice": high})
    assert ((await client.fetch_order(stop["id"]))["stopLossPrice"], stop["type"]) == (float(low), "market")
    assert (await client.fetch_order(profit["id"]))["takeProfitPrice"] == float(high)
    close = {"close": {"ordertype": "stop-loss", "price": float(low)}, "clientOrderId": "entry2"}
    entry = await client.create_order(BTC, "market", "buy", 0.02, None, close)
    made = [order for order in await client.fetch_open_orders(BTC) if order["info"]["refid"] == entry["id"]]
    assert sum(order["amount"] for order in made) == 0.02
    assert {(order["side"], order["stopLossPrice"], order["clientOrderId"]) for order in made} == {
        ("sell", float(low), None)
    }
    fees = await client.fetch_trading_fee(BTC)
    assert (fees["maker"], fees["taker"]) == (0.001, 0.001)
    assert (await client.cancel_all_orders_after(60_000))["result"]["triggerTime"] != "0"
    assert (await client.cancel_all_orders_after(0))["result"]["triggerTime"] == "0"


async def test_ccxt_watches_orders_trades_and_balances(sim: KrakenSim, client: Any) -> None:
    async with asyncio.timeout(20):
        assert (await client.watch_balance())["BTC"]["total"] > 0  # the snapshot
        next_balance = asyncio.create_task(client.watch_balance())
        orders = asyncio.create_task(client.watch_orders(BTC))
        await until(lambda: sim.get("/sim/info")["user_streams"] == 1)
        await asyncio.sleep(0.2)
        placed = await client.create_order(BTC, "market", "buy", 0.01, None, {"clientOrderId": "seen1"})
        seen = await orders
        assert [order["id"] for order in seen] == [placed["id"]]
        assert (await next_balance)["info"]["type"] == "update"


# ── documented answers, refusals and frames ──────────────────────────────────────────────────────
def check_form(wanted: Any, given: Any, at: str) -> None:
    """Every documented field is there, and of the documented JSON type; null stands for any."""
    if isinstance(wanted, dict) and list(wanted) == ["*"]:
        assert isinstance(given, dict), at
        assert given, at
        for name, value in given.items():
            check_form(wanted["*"], value, f"{at}.{name}")
    elif isinstance(wanted, dict):
        assert isinstance(given, dict), at
        assert wanted.keys() <= given.keys(), (at, wanted.keys() - given.keys())
        for name, value in wanted.items():
            check_form(value, given[name], f"{at}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(given, list), at
        for item in given if wanted else ():
            check_form(wanted[0], item, at)
    elif isinstance(wanted, bool) or not isinstance(wanted, int | float):
        assert wanted is None or given is None or type(given) is type(wanted), (at, given)
    else:
        assert isinstance(given, int | float), (at, given)


def test_every_answer_has_its_documented_form(sim: KrakenSim) -> None:
    frames = documented("rest")
    close = {"close__ordertype": "stop-loss-limit", "close__price": "22000", "close__price2": "21000"}
    resting = sim.ask("AddOrder", pair=PAIR, type="buy", ordertype="limit", volume="0.01", price="30000",
                      cl_ord_id="form1", **close)  # fmt: skip
    filled = sim.add("market", cl_ord_id="form2")["txid"][0]
    shown = {
        "AddOrder": resting,
        "OpenOrders": sim.ask("OpenOrders", cl_ord_id="form1"),
        "AmendOrder": sim.ask("AmendOrder", cl_ord_id="form1", order_qty="0.02", limit_price="30001"),
        "CancelOrder": sim.ask("CancelOrder", cl_ord_id="form1"),
        "CancelAll": sim.ask("CancelAll"),
        "CancelAllOrdersAfter": sim.ask("CancelAllOrdersAfter", timeout=60),
        "ClosedOrders": sim.ask("ClosedOrders", cl_ord_id="form2", trades="true"),
        "QueryOrders": sim.ask("QueryOrders", txid=filled, trades="true"),
        "TradesHistory": sim.ask("TradesHistory"),
        "Balance": sim.ask("Balance"),
        "BalanceEx": sim.ask("BalanceEx"),
        "TradeVolume": sim.ask("TradeVolume", pair=PAIR),
        "GetWebSocketsToken": sim.ask("GetWebSocketsToken"),
        "GetApiKeyInfo": sim.ask("GetApiKeyInfo"),
        "Ticker": sim.call("GET", f"/0/public/Ticker?pair={PAIR}")[1],
        "refusal": sim.ask("CancelOrder", cl_ord_id="form1"),
    }
    sim.result("CancelAllOrdersAfter", timeout=0)
    trade = next(iter(shown["TradesHistory"]["result"]["trades"]))
    shown["QueryTrades"] = sim.ask("QueryTrades", txid=trade)
    assert shown.keys() == frames.keys()
    for name, frame in frames.items():
        check_form(frame, shown[name], name)
    assert shown["AddOrder"]["result"]["descr"] == {
        "order": "buy 0.01000000 XBTUSDT @ limit 30000.00",
        "close": "close position @ stop loss 22000.00 -> limit 21000.00",
    }
    order = shown["QueryOrders"]["result"][filled]
    assert [trade for trade in order["trades"] if trade in shown["TradesHistory"]["result"]["trades"]] == order[
        "trades"
    ]


@contextlib.asynccontextmanager
async def connected(sim: KrakenSim, address: str = "ws_api") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as session, session.ws_connect(sim.info[address]) as socket:
        yield socket


async def frames_until(socket: aiohttp.ClientWebSocketResponse, **wanted: object) -> list[dict[str, Any]]:
    """Return the messages up to the first whose fields, or those of its only row, are the wanted ones."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while True:
            message = json.loads((await socket.receive()).data)
            if message.get("channel") not in ("heartbeat", "status"):
                found.append(message)
                row = (message.get("data") or [{}])[0] | message
                if all(row.get(name) == value for name, value in wanted.items()):
                    return found


async def subscribe(sim: KrakenSim, socket: aiohttp.ClientWebSocketResponse, channel: str, **params: object) -> Any:
    token = sim.result("GetWebSocketsToken")["token"]
    await socket.send_json(
        {"method": "subscribe", "params": {"channel": channel, "token": token, **params}, "req_id": 7}
    )
    return (await frames_until(socket, method="subscribe"))[-1]


async def test_every_frame_has_its_documented_form_and_order(sim: KrakenSim) -> None:
    frames = documented("user_stream")
    async with connected(sim) as socket:
        await socket.send_json({"method": "subscribe", "params": {"channel": "executions", "token": "x"}})
        check_form(frames["no session"], (await frames_until(socket, success=False))[-1], "no session")
        check_form(frames["subscribed"], await subscribe(sim, socket, "executions", snap_trades=True), "subscribed")
        assert [frame["type"] for frame in await frames_until(socket, channel="executions")] == ["snapshot"]
        await subscribe(sim, socket, "balances")
        check_form(
            frames["balances snapshot"], (await frames_until(socket, channel="balances"))[-1], "balances snapshot"
        )
        sim.add(cl_ord_id="seen2")
        sim.result("CancelOrder", cl_ord_id="seen2")
        sim.add("market", cl_ord_id="seen3")
        found = await frames_until(socket, exec_type="filled")
        found += await frames_until(socket, asset="USDT")
    rows = [(frame["data"][0].get("exec_type"), frame) for frame in found if frame["channel"] == "executions"]
    kinds = [kind for kind, _ in rows]
    assert kinds[:5] == ["pending_new", "new", "canceled", "pending_new", "new"]
    assert kinds[5:] == ["trade"] * (len(kinds) - 6) + ["filled"]
    for kind, frame in rows[:3] + rows[4:]:  # the documented order is a limit order, the second one here is not
        check_form(frames[str(kind)], frame, str(kind))
    sequence = [frame["sequence"] for _, frame in rows]
    assert sequence == list(range(2, 2 + len(rows)))  # the snapshot was the first
    brief = next(frame["data"][0] for kind, frame in rows if kind == "new")
    assert brief.keys() == {"timestamp", "order_status", "exec_type", "order_id", "cl_ord_id"}
    assert all(frame["data"][0]["order_status"] == "partially_filled" for kind, frame in rows if kind == "trade")
    balances = [frame for frame in found if frame["channel"] == "balances"]
    for frame in balances:
        check_form(frames["balances update"], frame, "balances update")
    assert {frame["data"][0]["asset"] for frame in balances} == {"BTC", "USDT"}


async def test_the_snapshot_has_open_orders_and_fills(sim: KrakenSim) -> None:
    sim.add("market", cl_ord_id="snap1")
    order = sim.add(userref=5)["txid"][0]
    async with connected(sim) as socket:
        await subscribe(sim, socket, "executions", snap_trades=True)
        data = (await frames_until(socket, channel="executions"))[-1]["data"]
    opened = [row for row in data if row["exec_type"] == "new"]
    assert [(row["order_id"], row["order_userref"], row["cum_qty"]) for row in opened] == [(order, 5, 0)]
    assert "snap1" in [row.get("cl_ord_id") for row in data if row["exec_type"] == "trade"]


async def test_each_address_refuses_the_channels_of_the_other(sim: KrakenSim) -> None:
    async with connected(sim, "ws") as socket:
        answer = await subscribe(sim, socket, "executions")
        assert answer["error"].startswith("Private data and trading are unavailable on this endpoint")
    async with connected(sim) as socket:
        answer = await subscribe(sim, socket, "trade", symbol=[BTC])
        assert answer["error"].startswith("Public market data subscriptions are unavailable")
        await subscribe(sim, socket, "balances")
        assert (await subscribe(sim, socket, "balances"))["error"] == "Already subscribed"
        await socket.send_json({"method": "add_order", "params": {}, "req_id": 9})
        assert (await frames_until(socket, req_id=9))[-1]["error"] == "Unsupported method"


async def test_hostile_messages_neither_end_a_connection_nor_subscribe_it(sim: KrakenSim) -> None:
    token = sim.result("GetWebSocketsToken")["token"]
    hostile = [
        "",
        "[]",
        "{",
        "null",
        '{"method": "subscribe"}',
        '{"method": "subscribe", "params": []}',
        '{"method": "subscribe", "params": {"channel": []}}',
        '{"method": "subscribe", "params": {"channel": "executions"}}',
        '{"method": "subscribe", "params": {"channel": "balances", "token": {"a": 1}}}',
        '{"method": ["subscribe"], "params": {"channel": "executions"}, "req_id": {}}',
        json.dumps({"method": "unsubscribe", "params": {"channel": "balances", "token": token}}),
    ]
    async with connected(sim) as socket:
        for text in hostile:
            await socket.send_str(text)
        await socket.send_json({"method": "ping", "req_id": 5})
        found = await frames_until(socket, method="pong")
    assert len(found) == len(hostile) + 1
    assert not any(frame.get("success") for frame in found)
    assert found[-2]["error"] == "Subscription Not Found"


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no pair": ({"pair": "FOOBAR"}, "EQuery:Unknown asset pair"),
    "below the minimum": ({"volume": "0.000001"}, "EOrder:Order minimum not met"),
    "cheap": ({"volume": "0.0001"}, "EOrder:Cost minimum not met"),
    "tick": ({"price": "30000.001"}, "EOrder:Tick size check failed"),
    "far price": ({"price": "1"}, "EOrder:Invalid price"),
    "funds": ({"volume": "100"}, "EOrder:Insufficient funds"),
    "lots": ({"volume": "0.010001"}, "EGeneral:Invalid arguments:volume"),
    "negative": ({"volume": "-1"}, "EGeneral:Invalid arguments:volume"),
    "exponent": ({"volume": "1e-2"}, "EGeneral:Invalid arguments:volume"),
    "relative price": ({"price": "+5%"}, "EGeneral:Invalid arguments:price"),
    "side": ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
    "kind": ({"ordertype": "trailing-stop"}, "EGeneral:Invalid arguments:ordertype"),
    "long id": ({"cl_ord_id": "x" * 19}, "EGeneral:Invalid arguments:cl_ord_id"),
    "capitals": ({"cl_ord_id": "ABC"}, "EGeneral:Invalid arguments:cl_ord_id"),
    "both ids": ({"cl_ord_id": "one", "userref": "1"}, "EGeneral:Invalid arguments"),
    "large reference": ({"userref": "2147483648"}, "EGeneral:Invalid arguments:userref"),
    "post that takes": ({"price": "900000", "oflags": "post"}, "EOrder:Invalid price"),
    "unknown flag": ({"oflags": "post,foo"}, "EGeneral:Invalid arguments:oflags"),
    "both fees": ({"oflags": "fcib,fciq"}, "EGeneral:Invalid arguments:oflags"),
    "post at once": ({"oflags": "post", "timeinforce": "IOC"}, "EGeneral:Invalid arguments:timeinforce"),
    "no date": ({"timeinforce": "GTD"}, "EGeneral:Invalid arguments:timeinforce"),
    "near date": ({"timeinforce": "GTD", "expiretm": "+4"}, "EGeneral:Invalid arguments:expiretm"),
    "date of others": ({"expiretm": "+60"}, "EGeneral:Invalid arguments:expiretm"),
    "index": ({"trigger": "index"}, "EGeneral:Invalid arguments:Index unavailable"),
    "leverage": ({"leverage": "2"}, "EGeneral:Invalid arguments:leverage"),
    "close at market": ({"close__ordertype": "market"}, "EGeneral:Invalid arguments:close[ordertype]"),
    "close without price": ({"close__ordertype": "limit"}, "EGeneral:Invalid arguments"),
    "past deadline": ({"deadline": "2026-01-01T00:00:00Z"}, "EService:Deadline elapsed"),
    "no deadline": ({"deadline": "tomorrow"}, "EGeneral:Invalid arguments:deadline"),
}  # fmt: skip


def test_each_refusal_has_the_documented_text_and_no_effect(sim: KrakenSim) -> None:
    before = sim.get("/sim/account")
    order = {"pair": PAIR, "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "30000"}
    for name, (changes, text) in REFUSALS.items():
        assert sim.refusal("AddOrder", **(order | changes)) == text, name
    assert sim.refusal("AddOrder", **(order | {"deadline": in_seconds(1)})) == "EService:Deadline elapsed"
    far = sim.refusal("AddOrder", **(order | {"deadline": in_seconds(70)}))
    assert far == "EGeneral:Invalid arguments:deadline"
    for name in order:
        missing = {key: value for key, value in order.items() if key != name}
        assert sim.refusal("AddOrder", **missing) == "EGeneral:Invalid arguments", name
    crossing = order | {"price": f"{sim.price() + 50:.2f}", "oflags": "post"}
    assert sim.refusal("AddOrder", **crossing) == "EOrder:Post only order"
    assert sim.refusal("Nothing") == "EGeneral:Unknown method"
    assert sim.get("/sim/account")["orders"] == before["orders"]
    assert sim.get("/sim/account")["balances"] == before["balances"]


def test_an_ended_order_and_an_id_never_given_are_refused_differently(sim: KrakenSim) -> None:
    ended = sim.add(cl_ord_id="gone1")["txid"][0]
    assert sim.result("CancelOrder", txid=ended) == {"count": 1}
    for name in ("CancelOrder", "AmendOrder"):
        more = {"order_qty": "1"} if name == "AmendOrder" else {}
        assert sim.refusal(name, txid=ended, **more) == "EOrder:Unknown order"
        assert sim.refusal(name, cl_ord_id="gone1", **more) == "EOrder:Unknown order"
        assert sim.refusal(name, txid="OZZZZZ-ZZZZZ-ZZZZZZ", **more) == "EOrder:Invalid order"
        assert sim.refusal(name, **more) == "EGeneral:Invalid arguments"
    assert sim.result("QueryOrders", txid="OZZZZZ-ZZZZZ-ZZZZZZ") == {}
    assert sim.refusal("QueryOrders", txid="none") == "EOrder:Invalid order"
    assert sim.refusal("QueryOrders") == "EGeneral:Invalid arguments"
    assert sim.result("QueryOrders", txid=ended, cl_ord_id="other") == {}
    assert list(sim.result("QueryOrders", txid=ended, cl_ord_id="gone1")) == [ended]


def test_a_reference_names_many_orders_and_cancels_them(sim: KrakenSim) -> None:
    for price in ("30000", "30001"):
        sim.add(userref=77, price=price)
    sim.add(price="30002")
    assert len(sim.result("OpenOrders", userref=77)["open"]) == 2
    assert sim.result("CancelOrder", txid=77) == {"count": 2}
    assert sim.refusal("CancelOrder", txid=0) == "EOrder:Unknown order"
    assert len(sim.result("OpenOrders")["open"]) == 1
    assert len(sim.result("ClosedOrders", userref=77)["closed"]) == 2


def test_closed_orders_come_in_pages_and_by_time(sim: KrakenSim) -> None:
    first = sim.add(cl_ord_id="page0")["txid"][0]
    sim.result("CancelOrder", txid=first)
    for _ in range(55):
        sim.add("market", volume="0.0002")
    page, rest = (sim.result("ClosedOrders", start=first, ofs=offset, closetime="open") for offset in (0, 50))
    assert (len(page["closed"]), len(rest["closed"]), page["count"]) == (50, 5, 55)
    assert not page["closed"].keys() & rest["closed"].keys()
    opened = [row["opentm"] for row in page["closed"].values()]
    assert opened == sorted(opened, reverse=True)
    trades = sim.result("TradesHistory", without_count="true")
    assert len(trades["trades"]) == 50
    assert "count" not in trades
    assert sim.refusal("ClosedOrders", closetime="never") == "EGeneral:Invalid arguments:closetime"


def test_validate_checks_and_places_nothing(sim: KrakenSim) -> None:
    answer = sim.add(cl_ord_id="check1", validate="true")
    assert answer == {"descr": {"order": "buy 0.01000000 XBTUSDT @ limit 30000.00"}}
    assert sim.result("OpenOrders")["open"] == {}
    row = sim.get("/sim/received?client_order_id=check1")["items"][-1]
    assert (row["client_order_ids"], made_by(row)) == ([], [])


# ── credentials ──────────────────────────────────────────────────────────────────────────────────
def signed(sim: KrakenSim, body: bytes, nonce: object, **headers: str) -> str:
    status, answer = sim.call("POST", "/0/private/Balance", body, sim.sign("/0/private/Balance", body, nonce) | headers)
    assert status == 200
    return str((answer["error"] or ["done"])[0])


def test_wrong_credentials_are_refused(sim: KrakenSim) -> None:
    nonce = sim.next_nonce()
    body = f"nonce={nonce}".encode()
    assert signed(sim, body, nonce, **{"API-Key": "x" * 56}) == "EAPI:Invalid key"
    assert signed(sim, body, nonce, **{"API-Key": ""}) == "EAPI:Invalid key"
    assert signed(sim, body, nonce, **{"API-Sign": "bm90IGl0"}) == "EAPI:Invalid signature"
    assert signed(sim, body, nonce, **{"API-Sign": ""}) == "EAPI:Invalid signature"
    assert signed(sim, body, nonce + 1) == "EAPI:Invalid signature"
    assert signed(sim, body, nonce) == "done"  # a refused signature has not used the nonce
    assert signed(sim, body, nonce) == "EAPI:Invalid nonce"
    for text in ("", "-5", "1.5", "abc", str(1 << 64), "²"):
        body = urlencode({"nonce": text}).encode()
        assert signed(sim, body, text) == "EAPI:Invalid nonce", text
    assert sim.call("GET", "/0/private/Balance") == (200, {"error": ["EGeneral:Unknown method"]})
    for headers in ({"API-Key": "\u00ff" * 20}, {"API-Key": sim.info["api_key"], "API-Sign": "\u00ff" * 20}):
        _, answer = sim.call("POST", "/0/private/Balance", b"\xff\xfe", headers)
        assert answer["error"][0] in ("EAPI:Invalid key", "EAPI:Invalid signature")


def test_the_nonce_is_kept_over_a_restart(tmp_path: Path) -> None:
    sim = KrakenSim(tmp_path, "--wire", "kraken")
    late = sim.next_nonce() + 10**6
    assert signed(sim, f"nonce={late}".encode(), late) == "done"
    sim.kill()
    sim.start()
    assert signed(sim, f"nonce={late - 1}".encode(), late - 1) == "EAPI:Invalid nonce"
    assert signed(sim, f"nonce={late + 1}".encode(), late + 1) == "done"
    sim.end(15)


def test_each_key_has_a_nonce_and_a_limit_of_its_own(tmp_path: Path) -> None:
    sim = KrakenSim(tmp_path, "--wire", "kraken")
    first = sim.result("GetApiKeyInfo")
    assert any(sim.ask("Balance")["error"] == ["EAPI:Rate limit exceeded"] for _ in range(17))
    late = sim.next_nonce() + 10**9
    assert signed(sim, f"nonce={late}".encode(), late) == "EAPI:Rate limit exceeded"  # the nonce is used
    own = dict(sim.info)
    sim.as_guardian()
    second = sim.result("GetApiKeyInfo")
    assert (first["apiKey"], second["apiKey"]) == (own["api_key"], own["guardian_api_key"])
    assert first["iban"] == second["iban"]
    assert "withdraw-funds" not in first["permissions"]
    assert sim.result("Balance") == {"USDT": "100000.00000000"}
    assert own["api_key"] not in json.dumps(sim.get("/sim/received")), "the log names no key"
    sim.kill()
    sim.start()
    kept = ("api_key", "api_secret", "guardian_api_key", "guardian_api_secret")
    assert [sim.info[name] for name in kept] == [own[name] for name in kept]
    assert signed(sim, f"nonce={late}".encode(), late) == "EAPI:Invalid nonce"
    sim.end(15)


def test_no_answer_shows_limits_of_the_other_wire(sim: KrakenSim) -> None:
    for path, has_them in (("/0/public/Time", False), ("/api/v3/time", True)):
        with urlopen(sim.info["rest"] + path) as answer:
            assert any(name.upper().startswith("X-MBX") for name in answer.headers) is has_them, path


def test_a_json_body_is_a_request_as_well(sim: KrakenSim) -> None:
    nonce = sim.next_nonce()
    order = {"nonce": nonce, "pair": PAIR, "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "30000"}
    body = json.dumps(order | {"cl_ord_id": "json1", "close": {"ordertype": "limit", "price": "40000"}}).encode()
    headers = sim.sign(ADD, body, nonce) | {"Content-Type": "application/json"}
    answer = sim.call("POST", ADD, body, headers)[1]
    assert answer["result"]["descr"]["close"] == "close position @ limit 40000.00"


def test_the_calls_of_a_key_are_limited(tmp_path: Path) -> None:
    sim = KrakenSim(tmp_path, "--wire", "kraken")
    answers = [sim.ask("Balance")["error"] for _ in range(17)]
    assert answers.index(["EAPI:Rate limit exceeded"]) in (15, 16)
    assert sim.add(cl_ord_id="free")["txid"]  # orders and cancels have a count of their own
    sim.end(15)


# ── faults and the log ───────────────────────────────────────────────────────────────────────────
def send(sim: KrakenSim, client_id: str) -> str:
    """Place an order; return the answer's error, "" for none, or how the connection failed."""
    order = {"pair": PAIR, "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "30000"}
    try:
        status, answer = sim.post("AddOrder", **order, cl_ord_id=client_id)
    except (OSError, HTTPException) as error:
        return type(error).__name__
    return str((answer["error"] or [""])[0]) if status == 200 else f"HTTP {status}"


@pytest.mark.parametrize(
    ("fault", "seen", "is_taken"),
    [
        ({"kind": "accept_then_cut"}, None, True),
        ({"kind": "truncate"}, None, True),
        ({"kind": "drop"}, None, False),
        ({"kind": "reset"}, None, False),
        ({"kind": "http_500"}, "HTTP 500", False),
        ({"kind": "html_502", "accept": True}, "HTTP 502", True),
        ({"kind": "503"}, "HTTP 503", False),
        ({"kind": "504_1007", "accept": True}, "EService:Unavailable", True),
        ({"kind": "busy_1008"}, "EService:Busy", False),
        ({"kind": "skew"}, "EAPI:Invalid nonce", False),
        ({"kind": "429"}, "HTTP 429", False),
        ({"kind": "418"}, "EGeneral:Temporary lockout", False),
        ({"kind": "ban", "seconds": 0.2}, "EGeneral:Temporary lockout", False),
        ({"kind": "halt", "seconds": 0.2}, "EService:Market in cancel_only mode", False),
        ({"kind": "too_many_1015", "seconds": 0.2}, "EOrder:Rate limit exceeded", False),
        ({"kind": "error", "msg": "EService:Unavailable"}, "EService:Unavailable", False),
        ({"kind": "error"}, "EGeneral:Internal error", False),
    ],
    ids=lambda value: value.get("kind") if isinstance(value, dict) else "",
)
def test_a_fault_strikes_an_order(sim: KrakenSim, fault: dict[str, Any], seen: str | None, is_taken: bool) -> None:
    client_id = f"f{sim.next_nonce()}"
    number = sim.fault(symbol="BTCUSDT", **fault)
    answer = send(sim, client_id)
    assert answer == seen if seen is not None else answer not in ("", "EOrder:Unknown order")
    assert sim.struck(number) == 1
    log = sim.get(f"/sim/received?client_order_id={client_id}")["items"]
    assert [(row["path"], row["client_order_ids"]) for row in log] == [(ADD, [client_id])]
    assert made_by(log[0]) == [client_id]
    sim.call("DELETE", "/sim/faults")
    assert len(sim.result("OpenOrders", cl_ord_id=client_id)["open"]) == is_taken


async def test_a_late_order_is_taken_after_its_answer_unless_its_deadline_is_over(sim: KrakenSim) -> None:
    sim.fault("accept_late", seconds=2.0, path=ADD)
    assert send(sim, "late1") == "EService:Unavailable"
    assert sim.result("OpenOrders", cl_ord_id="late1")["open"] == {}
    await until(lambda: len(sim.result("OpenOrders", cl_ord_id="late1")["open"]) == 1)
    sim.fault("accept_late", seconds=2.0, path=ADD)
    order = {"pair": PAIR, "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "30000"}
    sim.refusal("AddOrder", **order, cl_ord_id="late2", deadline=in_seconds(3.5))
    find = "/sim/received?client_order_id=late2"
    await until(lambda: "Deadline" in sim.get(find)["items"][0]["outcome"])
    assert sim.get(find)["items"][0]["outcome"] == "200 EService:Deadline elapsed fault:accept_late"
    assert sim.result("ClosedOrders", cl_ord_id="late2")["closed"] == {}


def test_a_hidden_order_is_in_no_query(sim: KrakenSim) -> None:
    txid = sim.add(cl_ord_id="hide1")["txid"][0]
    sim.fault("hide_order", count=2)
    assert sim.result("QueryOrders", txid=txid) == {}
    assert sim.result("OpenOrders")["open"] == {}
    assert list(sim.result("OpenOrders", cl_ord_id="hide1")["open"]) == [txid]
    sim.fault("hide_balances", symbol="BTC")
    assert "XXBT" not in sim.result("BalanceEx")
    assert "XXBT" in sim.result("Balance")


async def test_reports_are_lost_repeated_swapped_frozen_and_ended(sim: KrakenSim) -> None:
    async with connected(sim) as socket:
        await subscribe(sim, socket, "executions", snap_orders=False)
        await frames_until(socket, channel="executions")

        async def kinds_of(fault: dict[str, Any]) -> list[tuple[str, int]]:
            number = sim.fault(**fault)
            sim.add(cl_ord_id="odd1")
            sim.call("DELETE", f"/sim/faults?id={number}")
            sim.result("CancelOrder", cl_ord_id="odd1")
            sim.add(cl_ord_id="last1")
            found = await frames_until(socket, exec_type="new", cl_ord_id="last1")
            sim.result("CancelOrder", cl_ord_id="last1")
            await frames_until(socket, exec_type="canceled", cl_ord_id="last1")
            return [(f["data"][0]["exec_type"], f["sequence"]) for f in found if f["data"][0]["cl_ord_id"] == "odd1"]

        lost = await kinds_of({"kind": "lose_report", "event": "NEW"})
        assert [kind for kind, _ in lost] == ["canceled"]
        twice = await kinds_of({"kind": "duplicate_report", "event": "NEW"})
        assert [kind for kind, _ in twice] == ["pending_new", "new", "pending_new", "new", "canceled"]
        assert [number for _, number in twice] == list(range(twice[0][1], twice[0][1] + 5))
        frozen = await kinds_of({"kind": "freeze_stream", "path": "/auth/v2", "event": "executions"})
        assert [kind for kind, _ in frozen] == ["canceled"]
        number = sim.fault("stream_terminated")
        assert sim.struck(number) == 1
        assert sim.get("/sim/info")["user_streams"] == 0
        sim.fault("cut_stream", path="/auth")
        async with asyncio.timeout(5):
            while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                pass


def test_a_closed_market_takes_cancels_only(sim: KrakenSim) -> None:
    sim.add(cl_ord_id="halt1")
    sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "CANCEL_ONLY"})
    assert send(sim, "halt2") == "EService:Market in cancel_only mode"
    assert sim.refusal("AmendOrder", cl_ord_id="halt1", order_qty="0.02") == "EService:Market in cancel_only mode"
    assert sim.result("CancelOrder", cl_ord_id="halt1") == {"count": 1}


def test_both_wires_have_one_account_and_one_log(sim: KrakenSim) -> None:
    sim.add(cl_ord_id="both1")
    binance = sim.signed("GET", "/api/v3/openOrders", symbol="BTCUSDT")[1]
    assert [(order["clientOrderId"], order["price"]) for order in binance] == [("both1", "30000.00000000")]
    other = sim.order("BUY", "LIMIT", quantity="0.01", price="30001", timeInForce="GTC", newClientOrderId="both2")
    assert other["status"] == "NEW"
    shown = sim.result("OpenOrders", cl_ord_id="both2")["open"]
    assert [(row["cl_ord_id"], row["oflags"]) for row in shown.values()] == [("both2", "fciq")]
    assert sim.refusal("AddOrder", pair=PAIR, type="buy", ordertype="limit", volume="0.01", price="30000",
                       cl_ord_id="both2").endswith("cl_ord_id not unique")  # fmt: skip
    log = sim.get("/sim/received")["items"]
    assert [made_by(row) for row in log if row["client_order_id"] in ("both1", "both2")][:2] == [["both1"], ["both2"]]


def test_orders_survive_a_kill(tmp_path: Path) -> None:
    sim = KrakenSim(tmp_path, "--wire", "kraken", "--rate-limits", "off", "--balance", "BTC=1")
    close = {"close__ordertype": "take-profit", "close__price": "90000"}
    txid = sim.add("stop-loss", "sell", price="30000", cl_ord_id="kept1", oflags="fcib", **close)["txid"][0]
    before = sim.result("QueryOrders", txid=txid)
    sim.kill()
    sim.start()
    assert sim.result("QueryOrders", txid=txid) == before
    assert before[txid]["descr"]["close"] == "close position @ take profit 90000.00"
    assert sim.result("BalanceEx")["XXBT"] == {"balance": "1.00000000", "hold_trade": "0.01001000"}
    sim.end(15)
