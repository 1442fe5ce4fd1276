"""Orders by Coinbase's wire: the unmodified ccxt trades, and each documented answer and refusal has its form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import ccxt
import pytest

from fks.model.order import OrderType, Side
from fks.trading.venues.ccxt.dialects import coinbase
from tests.support.ccxt_feeds import coinbase as coinbase_of_ccxt
from tests.support.sim_process import SAMPLE, Sim
from tests.support.venue_orders import order as any_order

BTC, PRODUCT = "BTC/USDT", "BTC-USDT"
BASE = "/api/v3/brokerage"
ORDERS = f"{BASE}/orders"
LISTED = f"{ORDERS}/historical/batch"
D = Decimal


class CoinbaseSim(Sim):
    """An exchange process with Coinbase's wire, and its private REST signed by ccxt."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        super().__init__(data_dir, "--wire", "coinbase", *flags)
        self.signer: Any = coinbase_of_ccxt()
        self.signed_by(self.info["api_key"], self.info["api_secret"])

    def signed_by(self, key: str, secret: str) -> None:
        self.signer.apiKey, self.signer.secret = key, secret
        self.signer.urls["api"] = {"rest": self.info["rest"]}

    def request(self, method: str, path: str, params: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return status and answer of a request to a path below /api/v3/."""
        sent = self.signer.sign(path.removeprefix("/api/v3/"), ["v3", "private"], method, params or {})
        body = None if sent["body"] is None else sent["body"].encode()
        return self.call(method, sent["url"].removeprefix(self.info["rest"]), body, sent["headers"])

    def place(self, number: str = "1", **changes: Any) -> tuple[int, Any]:
        """Return status and answer of a new order: a limit that rests, unless `changes` say otherwise."""
        sizes = {"base_size": "0.01", "limit_price": "30000"}
        given = {"client_order_id": number, "product_id": PRODUCT, "side": "BUY"}
        return self.request("POST", ORDERS, given | {"order_configuration": {"limit_limit_gtc": sizes}} | changes)

    def placed(self, number: str = "1", **changes: Any) -> str:
        status, answer = self.place(number, **changes)
        assert (status, answer["success"]) == (200, True), answer
        return str(answer["order_id"])

    def listed(self, **params: Any) -> list[list[dict[str, Any]]]:
        """Return the pages of a list of orders."""
        pages, cursor = [], {}
        while True:
            status, answer = self.request("GET", LISTED, params | cursor)
            assert status == 200, answer
            pages.append(answer["orders"])
            assert answer["has_next"] == bool(answer["cursor"])
            if not answer["cursor"]:
                return pages
            cursor = {"cursor": answer["cursor"]}


@pytest.fixture(scope="module")
def module_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoinbaseSim]:
    balances = ("--balance", "USDT=1000000", "--balance", "BTC=10", "--balance", "ETH=10")
    sim = CoinbaseSim(tmp_path_factory.mktemp("coinbase"), "--rate-limits", "off", *balances)
    yield sim
    sim.end(15)


@pytest.fixture
def sim(module_sim: CoinbaseSim) -> Iterator[CoinbaseSim]:
    yield module_sim
    module_sim.call("DELETE", "/sim/faults")
    module_sim.call("POST", "/sim/filters", {"symbol": "BTCUSDT", "status": "TRADING"})
    for page in module_sim.listed(order_status="OPEN"):
        module_sim.request("POST", f"{ORDERS}/batch_cancel", {"order_ids": [row["order_id"] for row in page] or ["x"]})


@pytest.fixture
def at_rest(tmp_path: Path) -> Iterator[CoinbaseSim]:
    """An exchange whose market stands still until it is told to go on."""
    flags = ("--rate-limits", "off", "--balance", "BTC=10", "--tape", str(SAMPLE), "--hold")
    sim = CoinbaseSim(tmp_path, *flags)
    yield sim
    sim.end(15)


@pytest.fixture
async def client(sim: CoinbaseSim) -> AsyncIterator[Any]:
    """ccxt's Coinbase with its default settings but for the address and its queue of requests."""
    made: Any = coinbase_of_ccxt({"apiKey": sim.info["api_key"], "secret": sim.info["api_secret"]})
    made.urls["api"] = {"rest": sim.info["rest"]}
    made.enableRateLimit = False
    await made.load_markets()
    yield made
    await made.close()


async def test_ccxt_places_queries_lists_and_cancels(sim: CoinbaseSim, client: Any) -> None:
    placed = await client.create_order(BTC, "limit", "buy", 0.01, 30000, {"client_order_id": "life1"})
    assert placed["id"]
    found = await client.fetch_order(placed["id"], BTC)
    assert (found["status"], found["clientOrderId"], found["filled"], found["price"]) == ("open", "life1", 0, 30000)
    assert [row["id"] for row in await client.fetch_open_orders(BTC)] == [placed["id"]]
    balance = await client.fetch_balance({"v3": True})
    assert D(str(balance["USDT"]["used"])) == D("300.3"), "with the commission on it"
    await client.cancel_order(placed["id"], BTC)
    assert (await client.fetch_order(placed["id"], BTC))["status"] == "canceled"
    with pytest.raises(ccxt.ExchangeError):
        await client.cancel_order(placed["id"], BTC)


async def test_ccxt_reads_fills_prices_bars_and_the_clock(sim: CoinbaseSim, client: Any) -> None:
    number = sim.placed("bought", order_configuration={"market_market_ioc": {"base_size": "0.02"}})
    fills = await client.fetch_my_trades(BTC)
    mine = [fill for fill in fills if fill["order"] == number]
    assert sum(D(str(fill["amount"])) for fill in mine) == D("0.02")
    assert all(fill["fee"]["currency"] == "USDT" for fill in mine)
    closed = await client.fetch_order(number, BTC)
    assert (closed["status"], closed["filled"]) == ("closed", 0.02)
    assert (await client.fetch_ticker(BTC))["last"] > 0
    bars = await client.fetch_ohlcv(BTC, "1m", limit=5)
    assert 1 <= len(bars) <= 5
    assert len((await client.fetch_order_book(BTC))["bids"]) > 10
    assert await client.fetch_trades(BTC, limit=10)
    assert abs(await client.fetch_time({"method": "v3PublicGetBrokerageTime"}) - client.milliseconds()) < 60_000


# ── credentials ──────────────────────────────────────────────────────────────────────────────────
def test_a_token_serves_one_request_of_its_key(sim: CoinbaseSim) -> None:
    own = sim.signer.apiKey, sim.signer.secret
    try:
        status, row = sim.call("POST", "/sim/keys", {"may_withdraw": True})
        assert status == 200, row
        sim.signed_by(row["api_key"], row["api_secret"])
        assert sim.request("GET", f"{BASE}/key_permissions")[1]["can_transfer"] is True
        sim.signed_by(row["api_key"], own[1])
        assert sim.request("GET", f"{BASE}/accounts")[0] == 401, "signed by another key"
    finally:
        sim.signed_by(*own)
    assert sim.request("GET", f"{BASE}/key_permissions")[1]["can_transfer"] is False
    assert sim.call("GET", f"{BASE}/accounts")[0] == 401, "without a token"
    sent = sim.signer.sign("brokerage/accounts", ["v3", "private"], "GET", {})
    assert sim.call("GET", f"{BASE}/accounts", headers=sent["headers"])[0] == 200
    assert sim.call("GET", f"{BASE}/key_permissions", headers=sent["headers"])[0] == 401, "signed for another path"
    assert sim.call("GET", f"{BASE}/accounts", headers={"Authorization": "Bearer a.b.c"})[0] == 401
    sim.fault("clock_jump", seconds=300)
    assert sim.call("GET", f"{BASE}/accounts", headers=sent["headers"])[0] == 401, "its time is over"


# ── orders ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "fields",
    [
        {"type": OrderType.LIMIT, "price": "30000"},
        {"type": OrderType.LIMIT, "price": "300000", "side": Side.SELL},
        {"type": OrderType.TAKE_PROFIT, "price": "300000", "side": Side.SELL},
        {"type": OrderType.STOP_LIMIT, "price": "30000", "stop_price": "31000", "side": Side.SELL},
        {"type": OrderType.STOP_LIMIT, "price": "300000", "stop_price": "290000"},
    ],
)
def test_the_dialects_orders_rest_as_they_were_sent(sim: CoinbaseSim, fields: dict[str, Any]) -> None:
    about = any_order("0.01", exchange="coinbase", symbol=BTC, **fields)
    call = coinbase.place(about, PRODUCT, 0)
    status, answer = sim.request("POST", ORDERS, dict(call.params))
    assert (status, coinbase.order_id_of(answer, about)) == (200, answer["order_id"])
    (row,) = sim.request("GET", LISTED, {"order_ids": [answer["order_id"]]})[1]["orders"]
    assert (row["client_order_id"], row["status"], row["side"]) == (about.client_order_id, "OPEN", about.side.upper())
    sent = {name: dict(sizes) for name, sizes in call.params["order_configuration"].items()}
    shown = {name: {key: sizes[key] for key in sent[name]} for name, sizes in row["order_configuration"].items()}
    assert shown == sent


def test_a_repeated_request_returns_the_first_order(sim: CoinbaseSim) -> None:
    """Also when that one has ended; the id of another order is a failure."""
    first = sim.placed("again")
    assert sim.placed("again") == first
    sim.request("POST", f"{ORDERS}/batch_cancel", {"order_ids": [first]})
    assert sim.placed("again") == first
    status, answer = sim.place("again", side="SELL")
    assert (status, answer["success"]) == (200, False)
    assert coinbase.faults_of(answer)[0].code == "DUPLICATE_CLIENT_ORDER_ID"
    assert len([row for page in sim.listed() for row in page if row["client_order_id"] == "again"]) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"product_id": "NO-USDT"}, "INVALID_PRODUCT_ID"),
        ({"side": "HOLD"}, "INVALID_SIDE"),
        ({"order_configuration": {"trigger_bracket_gtd": {"base_size": "1"}}}, "UNSUPPORTED_ORDER_CONFIGURATION"),
        ({"order_configuration": {"market_market_ioc": {"base_size": "1000"}}}, "INSUFFICIENT_FUND"),
        (
            {"order_configuration": {"market_market_ioc": {"base_size": "0.000001"}}},
            "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL",
        ),
        ({"order_configuration": {"market_market_ioc": {"base_size": "0.000015"}}}, "INVALID_SIZE_PRECISION"),
        (
            {"order_configuration": {"limit_limit_gtc": {"base_size": "0.01", "limit_price": "30000.001"}}},
            "INVALID_PRICE_PRECISION",
        ),
        (
            {
                "order_configuration": {
                    "limit_limit_gtc": {"base_size": "0.01", "limit_price": "200000", "post_only": True}
                }
            },
            "INVALID_LIMIT_PRICE_POST_ONLY",
        ),
        (
            {
                "side": "SELL",
                "order_configuration": {
                    "stop_limit_stop_limit_gtc": {
                        "base_size": "0.01",
                        "limit_price": "199000",
                        "stop_price": "200000",
                        "stop_direction": "STOP_DIRECTION_STOP_DOWN",
                    }
                },
            },
            "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE",
        ),
    ],
)
def test_a_refused_order_is_a_failure_with_status_200(sim: CoinbaseSim, changes: dict[str, Any], reason: str) -> None:
    status, answer = sim.place(f"refused {reason}", **changes)
    assert (status, answer["success"], answer["order_id"]) == (200, False, "")
    assert coinbase.faults_of(answer)[0].code == reason


def test_lists_come_in_pages(sim: CoinbaseSim) -> None:
    names = [f"page{number}" for number in range(45)]
    for name in names:
        sim.placed(name)
    pages = sim.listed(product_ids=[PRODUCT], order_status="OPEN", limit=250)
    assert [len(page) for page in pages] == [20, 20, 5]
    assert [row["client_order_id"] for page in pages for row in page] == names[::-1], "the newest first"
    assert sim.listed(product_ids=["ETH-USDT"], order_status="OPEN") == [[]]
    after = pages[0][4]["created_time"]
    assert {row["client_order_id"] for page in sim.listed(start_date=after) for row in page} >= set(names[-5:])
    assert sim.request("GET", LISTED, {"order_status": ["OPEN", "FILLED"]})[0] == 400
    assert sim.request("GET", LISTED, {"cursor": "no"})[0] == 400
    for number in range(25):
        sim.placed(f"fill{number}", order_configuration={"market_market_ioc": {"base_size": "0.0001"}})
    found, cursor = [], {}
    while True:
        answer = sim.request("GET", f"{ORDERS}/historical/fills", {"product_ids": [PRODUCT], **cursor})[1]
        found += answer["fills"]
        cursor = {"cursor": answer["cursor"]}
        if not answer["cursor"]:
            break
    assert len({row["entry_id"] for row in found}) == len(found) >= 25


def test_a_cancel_names_coinbases_id(sim: CoinbaseSim) -> None:
    number = sim.placed("ended")
    path = f"{ORDERS}/batch_cancel"
    results = sim.request("POST", path, {"order_ids": [number, "ended"]})[1]["results"]
    assert [row["success"] for row in results] == [True, False]
    again = sim.request("POST", path, {"order_ids": [number]})[1]
    assert [fault.code for fault in coinbase.faults_of(again)] == ["UNKNOWN_CANCEL_ORDER"]
    assert sim.request("GET", f"{ORDERS}/historical/{number}")[1]["order"]["status"] == "CANCELLED"
    assert sim.request("GET", f"{ORDERS}/historical/odd")[0] == 404


# ── faults ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("fault", "status", "code", "is_taken"),
    [
        ({"kind": "504_1007"}, 200, "UNKNOWN_FAILURE_REASON", False),
        ({"kind": "504_1007", "accept": True}, 200, "UNKNOWN_FAILURE_REASON", True),
        ({"kind": "error", "msg": ""}, 200, "UNKNOWN_FAILURE_REASON", False),
        ({"kind": "error", "msg": "DUPLICATE_CLIENT_ORDER_ID"}, 200, "DUPLICATE_CLIENT_ORDER_ID", False),
        ({"kind": "429"}, 429, "rate_limit_exceeded", False),
        ({"kind": "skew"}, 401, "unauthorized", False),
        ({"kind": "busy_1008"}, 200, "UNKNOWN_FAILURE_REASON", False),
        ({"kind": "too_many_1015"}, 429, "rate_limit_exceeded", False),
        ({"kind": "halt"}, 200, "ORDER_ENTRY_DISABLED", False),
        ({"kind": "without_id"}, 200, None, True),
    ],
)
def test_faults_answer_in_coinbases_words(
    sim: CoinbaseSim, fault: dict[str, Any], status: int, code: str | None, is_taken: bool
) -> None:
    name = f"{fault}"[:120]
    sim.fault(**({"path": ORDERS} if fault["kind"] not in ("halt", "too_many_1015") else {}), **fault)
    found, answer = sim.place(name)
    assert found == status
    assert [row.code for row in coinbase.faults_of(answer)] == ([code] if code else [])
    if fault["kind"] == "without_id":
        assert answer["success"] is True
        assert "order_id" not in answer
    if fault["kind"] == "error" and not fault["msg"]:
        assert "error_response" not in answer
    sim.call("DELETE", "/sim/faults")
    mine = [row for page in sim.listed(product_ids=[PRODUCT]) for row in page if row["client_order_id"] == name]
    assert len(mine) == is_taken


def test_the_log_has_the_id_of_an_order(sim: CoinbaseSim) -> None:
    sim.placed("logged")
    rows = sim.get(f"/sim/received?{urlencode({'path': ORDERS, 'limit': 1000})}")
    rows = rows["items"] if isinstance(rows, dict) else rows
    (row,) = [row for row in rows if row["client_order_ids"] == ["logged"]]
    assert row["outcome"] == "200"


def test_limits_are_real_unless_switched_off(tmp_path: Path) -> None:
    sim = CoinbaseSim(tmp_path / "limited")
    try:
        statuses = [sim.request("GET", f"{BASE}/key_permissions")[0] for _ in range(120)]
        assert statuses[:30] == [200] * 30
        assert 429 in statuses
    finally:
        sim.end(15)


def test_keys_of_another_wire_are_refused(tmp_path: Path) -> None:
    from fks.lab.sim.keys import load_keys
    from fks.lab.sim.options import WireProtocol
    from fks.model.errors import ConfigError

    load_keys(tmp_path, WireProtocol.BINANCE, with_ed25519=False)
    with pytest.raises(ConfigError):
        load_keys(tmp_path, WireProtocol.COINBASE, with_ed25519=False)


# ── brackets ─────────────────────────────────────────────────────────────────────────────────────
def last_price(sim: CoinbaseSim) -> Decimal:
    _, answer = sim.call("GET", f"{BASE}/market/products/{PRODUCT}")
    return D(answer["price"])


def at(price: Decimal, factor: str) -> str:
    return str((price * D(factor)).quantize(D("0.01")))


def entry_at(price: Decimal, stop: str = "0.9", target: str = "1.1") -> dict[str, Any]:
    """Return the configurations of a buy that fills at once, with its exits."""
    return {
        "order_configuration": {"limit_limit_fok": {"base_size": "0.01", "limit_price": at(price, "1.01")}},
        "attached_order_configuration": {
            "trigger_bracket_gtc": {"limit_price": at(price, target), "stop_trigger_price": at(price, stop)}
        },
    }


def row_of(sim: CoinbaseSim, number: str) -> dict[str, Any]:
    status, answer = sim.request("GET", f"{ORDERS}/historical/{number}")
    assert status == 200, answer
    found: dict[str, Any] = answer["order"]
    return found


def test_an_attached_bracket_appears_when_its_entry_fills(sim: CoinbaseSim) -> None:
    price = last_price(sim)
    status, answer = sim.place("with exits", **entry_at(price))
    assert (status, answer["success"]) == (200, True), answer
    number, attached = answer["order_id"], answer["success_response"]["attached_order_id"]
    assert sim.place("with exits", **entry_at(price))[1] == answer, "a repeated request returns the first order"
    entry, bracket = row_of(sim, number), row_of(sim, attached)
    assert (entry["status"], entry["attached_order_id"]) == ("FILLED", attached)
    exits = entry_at(price)["attached_order_configuration"]["trigger_bracket_gtc"]
    assert {name: D(value) for name, value in entry["attached_order_configuration"]["trigger_bracket_gtc"].items()} == {
        name: D(value) for name, value in exits.items()
    }
    assert (bracket["status"], bracket["side"], bracket["originating_order_id"]) == ("OPEN", "SELL", number)
    assert bracket["client_order_id"] != "with exits"
    sizes = bracket["order_configuration"]["trigger_bracket_gtc"]
    assert {name: D(value) for name, value in sizes.items()} == {
        "base_size": D("0.01"),
        **{name: D(value) for name, value in exits.items()},
    }
    assert [row["order_id"] for page in sim.listed(order_status="OPEN") for row in page] == [attached]
    _, done = sim.request("POST", f"{ORDERS}/batch_cancel", {"order_ids": [attached]})
    assert done["results"][0]["success"] is True
    assert row_of(sim, attached)["status"] == "CANCELLED"
    assert sim.listed(order_status="OPEN") == [[]]


def test_an_attached_bracket_is_not_shown_before_its_entry_fills(sim: CoinbaseSim) -> None:
    resting = entry_at(last_price(sim)) | {
        "order_configuration": {"limit_limit_gtc": {"base_size": "0.01", "limit_price": "30000"}},
        "attached_order_configuration": {
            "trigger_bracket_gtc": {"limit_price": "40000", "stop_trigger_price": "20000"}
        },
    }
    _, answer = sim.place("rests with exits", **resting)
    number, attached = answer["order_id"], answer["success_response"]["attached_order_id"]
    assert [row["order_id"] for page in sim.listed(order_status="OPEN") for row in page] == [number]
    assert sim.request("GET", f"{ORDERS}/historical/{attached}")[0] == 404
    _, refused = sim.request("POST", f"{ORDERS}/batch_cancel", {"order_ids": [attached]})
    assert refused["results"][0]["failure_reason"] == "UNKNOWN_CANCEL_ORDER"
    sim.request("POST", f"{ORDERS}/batch_cancel", {"order_ids": [number]})
    assert sim.listed(order_status="OPEN") == [[]]
    assert sim.request("GET", f"{ORDERS}/historical/{attached}")[0] == 404, "it never came to be"


@pytest.mark.parametrize(("target", "stop"), [("1.0002", "0.96"), ("1.04", "0.9998")])
def test_a_bracket_is_one_order_with_the_fills_of_both(at_rest: CoinbaseSim, target: str, stop: str) -> None:
    """The market goes on until it reaches the near one of the two prices."""
    sim = at_rest
    price = last_price(sim)
    sizes = {"base_size": "0.01", "limit_price": at(price, target), "stop_trigger_price": at(price, stop)}
    number = sim.placed("pair", side="SELL", order_configuration={"trigger_bracket_gtc": sizes})
    assert row_of(sim, number)["order_type"] == "BRACKET"
    for _ in range(100):
        if (row := row_of(sim, number))["status"] != "OPEN":
            break
        sim.call("POST", "/sim/tape/advance", {"bars": 1})
    assert (row["status"], D(row["filled_size"])) == ("FILLED", D("0.01"))
    _, answer = sim.request("GET", f"{ORDERS}/historical/fills", {"order_ids": [number]})
    assert sum(D(fill["size"]) for fill in answer["fills"]) == D("0.01")
    assert {fill["order_id"] for fill in answer["fills"]} == {number}
    assert all((D(fill["price"]) > price) is (target == "1.0002") for fill in answer["fills"])


@pytest.mark.parametrize(
    ("attached", "reason"),
    [
        ({"limit_price": "40000"}, "PREVIEW_INVALID_ATTACHED_STOP_LOSS_PRICE"),
        ({"stop_trigger_price": "20000"}, "PREVIEW_INVALID_ATTACHED_TAKE_PROFIT_PRICE"),
        ({"limit_price": "29000", "stop_trigger_price": "20000"}, "PREVIEW_INVALID_ATTACHED_TAKE_PROFIT_PRICE"),
        ({"limit_price": "40000", "stop_trigger_price": "31000"}, "PREVIEW_INVALID_ATTACHED_STOP_LOSS_PRICE"),
        ({"limit_price": "40000", "stop_trigger_price": "20000", "base_size": "0.01"}, "INVALID_REQUEST"),
    ],
)
def test_an_attached_bracket_that_is_wrong_refuses_its_entry(
    sim: CoinbaseSim, attached: dict[str, str], reason: str
) -> None:
    _, answer = sim.place("wrong exits", attached_order_configuration={"trigger_bracket_gtc": attached})
    assert answer["success"] is False
    assert coinbase.faults_of(answer)[0].code == reason
    assert sim.listed(order_status="OPEN") == [[]]


@pytest.mark.parametrize(
    ("limit", "stop", "reason"),
    [
        ("0.9", "1.1", "PREVIEW_INVALID_BRACKET_PRICES"),
        ("0.95", "0.9", "PREVIEW_BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS"),
        ("1.1", "1.05", "PREVIEW_STOP_TRIGGER_PRICE_OUT_OF_BOUNDS"),
    ],
)
def test_a_bracket_around_another_price_is_refused(sim: CoinbaseSim, limit: str, stop: str, reason: str) -> None:
    price = last_price(sim)
    sizes = {"base_size": "0.01", "limit_price": at(price, limit), "stop_trigger_price": at(price, stop)}
    _, answer = sim.place("wrong pair", side="SELL", order_configuration={"trigger_bracket_gtc": sizes})
    assert coinbase.faults_of(answer)[0].code == reason
