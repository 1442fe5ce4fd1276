"""Every fault as ccxt meets it (docs/venues.md), and the true events of the exchange's own log and books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt
import pytest

from tests.support.sim_process import Sim, binance
from tests.support.waiting import until

ORDER = {"path": "/api/v3/order", "method": "POST"}
#: kind, fields, the class ccxt raises (None: no exception), whether the order exists afterwards
TABLE: tuple[tuple[str, dict[str, Any], type[Exception] | None, bool], ...] = (
    ("drop", {}, ccxt.ExchangeNotAvailable, False),
    ("disconnect", {}, ccxt.ExchangeNotAvailable, False),
    ("reset", {}, ccxt.ExchangeNotAvailable, False),
    ("hang", {"seconds": 3}, ccxt.RequestTimeout, False),
    ("answer_after", {"seconds": 3}, ccxt.RequestTimeout, True),
    ("accept_then_cut", {}, ccxt.ExchangeNotAvailable, True),
    ("truncate", {}, ccxt.ExchangeError, True),
    ("html_200", {}, None, False),
    ("html_200", {"accept": True}, None, True),
    ("html_502", {}, ccxt.ExchangeNotAvailable, False),
    ("html_502", {"accept": True}, ccxt.ExchangeNotAvailable, True),
    ("http_500", {}, ccxt.ExchangeNotAvailable, False),
    ("503", {}, ccxt.ExchangeNotAvailable, False),
    ("504_1007", {}, ccxt.RequestTimeout, False),
    ("504_1007", {"accept": True}, ccxt.RequestTimeout, True),
    ("busy_1008", {}, ccxt.OperationFailed, False),
    ("429", {"seconds": 2}, ccxt.DDoSProtection, False),
    ("418", {}, ccxt.DDoSProtection, False),
    ("skew", {}, ccxt.InvalidNonce, False),
    ("error", {"code": -1001, "msg": "Internal error; unable to process your request."}, ccxt.OperationFailed, False),
    ("error", {"code": -1003, "msg": "Too many requests."}, ccxt.RateLimitExceeded, False),
    ("latency", {"seconds": 0.05}, None, True),
)


@pytest.mark.parametrize(("kind", "fields", "error", "exists"), TABLE, ids=[f"{row[0]}-{row[3]}" for row in TABLE])
async def test_a_fault_on_a_new_order(
    sim: Sim, client: Any, kind: str, fields: dict[str, Any], error: type[Exception] | None, exists: bool
) -> None:
    sim.fault(kind, **ORDER, **fields)
    if kind in ("hang", "answer_after"):
        client.timeout = 500
    id = f"f{time.time_ns():x}"
    call = client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000", {"clientOrderId": id})
    if error is None:
        answer = await call
        assert (answer["id"] is None) == (kind == "html_200")
    else:
        with pytest.raises(ccxt.BaseError) as caught:
            await call
        assert isinstance(caught.value, error), repr(caught.value)
        if kind == "truncate":
            assert type(caught.value) is ccxt.ExchangeError, "a cut body looks like a refusal"
    status, found = sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=id)
    assert (status == 200) == exists, found
    log = sim.get(f"/sim/received?client_order_id={id}&path=/api/v3/order&method=POST")["items"]
    assert len(log) == 1
    assert log[0]["client_order_ids"] == [id]
    if kind != "latency":
        assert f"fault:{kind}" in log[0]["outcome"]


async def test_headers_carry_the_time_to_wait(sim: Sim, client: Any) -> None:
    sim.fault("429", seconds=7)
    with pytest.raises(ccxt.DDoSProtection):
        await client.fetch_balance()
    assert client.last_response_headers["Retry-After"] == "7"


async def test_a_hidden_order_is_not_found_for_k_queries(sim: Sim, client: Any) -> None:
    await client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000", {"clientOrderId": "ghost"})
    sim.fault("hide_order", count=2, client_order_id="ghost")
    for _ in range(2):
        with pytest.raises(ccxt.OrderNotFound):
            await client.fetch_order(None, "BTC/USDT", {"clientOrderId": "ghost"})
    assert (await client.fetch_order(None, "BTC/USDT", {"clientOrderId": "ghost"}))["status"] == "open"


async def test_an_order_is_hidden_until_it_is_old_enough(sim: Sim, client: Any) -> None:
    sim.fault("hide_order", seconds=2.0)
    for name in ("young", "younger"):
        await client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000", {"clientOrderId": name})
        with pytest.raises(ccxt.OrderNotFound):
            await client.fetch_order(None, "BTC/USDT", {"clientOrderId": name})
        assert name not in {order["clientOrderId"] for order in await client.fetch_open_orders("BTC/USDT")}

        def is_shown(name: str = name) -> bool:
            return sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId=name)[0] == 200

        await until(is_shown)


async def test_an_order_of_unknown_outcome_is_accepted_seconds_later(sim: Sim, client: Any) -> None:
    sim.fault("accept_late", **ORDER, seconds=2.0)
    with pytest.raises(ccxt.RequestTimeout, match="-1007"):
        await client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000", {"clientOrderId": "late"})
    log = sim.get("/sim/received?client_order_id=late&path=/api/v3/order&method=POST")["items"]
    assert [row["outcome"] for row in log] == ["fault:accept_late"]
    assert sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="late")[0] == 400

    def is_there() -> bool:
        return sim.signed("GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="late")[0] == 200

    await until(is_there)
    log = sim.get("/sim/received?client_order_id=late&path=/api/v3/order&method=POST")["items"]
    assert [row["outcome"] for row in log] == ["200 fault:accept_late"]


async def test_a_late_order_may_still_be_refused(sim: Sim) -> None:
    sim.fault("accept_late", **ORDER, seconds=0.05)
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "price": "30000"}
    assert sim.signed("POST", "/api/v3/order", **order, quantity="200", newClientOrderId="poor")[0] == 504

    def outcome() -> list[str]:
        log = sim.get("/sim/received?client_order_id=poor&path=/api/v3/order&method=POST")["items"]
        return [row["outcome"] for row in log if row["outcome"] != "fault:accept_late"]

    assert await until(outcome) == ["400 -2010 fault:accept_late"]


async def test_a_banned_address_gets_418_until_the_ban_ends(sim: Sim) -> None:
    begun = time.monotonic()
    sim.fault("ban", seconds=1.0, path="/api/v3/account")
    status, body = sim.signed("GET", "/api/v3/account")
    assert (status, body["code"]) == (418, -1003)
    assert "IP banned until" in body["msg"]
    await until(lambda: sim.signed("GET", "/api/v3/account")[0] == 200)
    assert time.monotonic() - begun >= 1.0


async def test_probability_and_count(sim: Sim) -> None:
    sim.fault("http_500", path="/api/v3/ping", count=None, probability=0.5)
    answers = [sim.call("GET", "/api/v3/ping")[0] for _ in range(60)]
    assert 10 < answers.count(500) < 50
    sim.fault("http_500", path="/api/v3/time", count=3)
    assert [sim.call("GET", "/api/v3/time")[0] for _ in range(5)] == [500, 500, 500, 200, 200]


def test_a_wrong_fault_is_refused_with_what_would_be_right(sim: Sim) -> None:
    status, body = sim.call("POST", "/sim/faults", {"kind": "gremlin"})
    assert status == 400
    assert "latency" in body["remedy"]
    status, body = sim.call("POST", "/sim/faults", {"kind": "drop", "paht": "/"})
    assert "paht" in body["message"]


async def reports(client: Any, sim: Sim, act: Callable[[], Awaitable[Any]], count: int) -> list[tuple[str, int]]:
    """Return (x, order id) of the reports that `act` causes, once `count` user events have come."""
    seen: list[dict[str, Any]] = []
    handle = client.handle_message
    client.handle_message = lambda link, message: (seen.append(message), handle(link, message))[1]
    task = asyncio.create_task(client.watch_orders())
    await until(lambda: sim.get("/sim/info")["user_streams"])
    await act()

    def events() -> list[dict[str, Any]]:
        return [message["event"] for message in seen if "event" in message]

    await until(lambda: len(events()) >= count)
    task.cancel()
    return [(event["x"], event["i"]) for event in events() if event["e"] == "executionReport"]


async def test_reports_are_lost_doubled_and_swapped(sim: Sim, client: Any) -> None:
    async def buy() -> None:
        await client.create_order("ETH/USDT", "market", "buy", "0.01")

    sim.fault("lose_report", event="TRADE")
    assert [kind for kind, _ in await reports(client, sim, buy, 2)] == ["NEW"]


async def test_reports_doubled(sim: Sim, client: Any) -> None:
    sim.fault("duplicate_report", event="NEW")
    found = await reports(client, sim, lambda: client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000"), 3)
    assert [kind for kind, _ in found] == ["NEW", "NEW"]


async def test_reports_swapped(sim: Sim, client: Any) -> None:
    sim.fault("reorder_reports", event="NEW")
    found = await reports(client, sim, lambda: client.create_order("ETH/USDT", "market", "buy", "0.01"), 3)
    assert [kind for kind, _ in found] == ["TRADE", "NEW"]


async def watch_for_ever(client: Any, silence_s: float) -> None:
    """Watch until the client raises, or nothing comes for `silence_s` (TimeoutError)."""
    while True:
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), silence_s)


async def test_frozen_stream_answers_pings_and_sends_nothing(sim: Sim) -> None:
    client = binance(sim.info)
    client.streaming["keepAlive"] = 800  # an unanswered ping would end the socket within 2.4 s
    try:
        await client.load_markets()
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
        sim.fault("freeze_stream", path="/ws", seconds=5.0)
        with pytest.raises(TimeoutError):  # what was on its way arrives, then nothing, and no error either
            await watch_for_ever(client, 3.0)
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 10)
    finally:
        await client.close()


async def test_a_half_open_socket_is_noticed_by_its_pings_only(sim: Sim) -> None:
    client = binance(sim.info)
    client.streaming["keepAlive"] = 1000
    try:
        await client.load_markets()
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
        sim.fault("half_open", path="/stream")
        with pytest.raises(ccxt.NetworkError):
            await watch_for_ever(client, 8.0)
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
    finally:
        await client.close()


async def test_a_cut_stream_raises_and_the_next_call_comes_back(sim: Sim) -> None:
    client = binance(sim.info)
    try:
        await client.load_markets()
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
        sim.fault("cut_stream", path="/stream")
        with pytest.raises(ccxt.NetworkError):
            await watch_for_ever(client, 5.0)
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
    finally:
        await client.close()


async def test_terminated_user_stream_is_reported_and_can_be_resubscribed(sim: Sim, client: Any) -> None:
    first = asyncio.create_task(client.watch_orders())
    await until(lambda: sim.get("/sim/info")["user_streams"])
    sim.fault("stream_terminated")
    assert sim.get("/sim/info")["user_streams"] == 0
    # a call before the client has read the report would wait on the ended subscription
    await until(lambda: all("spot" not in one.subscriptions for one in client.clients.values()))
    first.cancel()
    again = asyncio.create_task(client.watch_orders())
    await until(lambda: sim.get("/sim/info")["user_streams"])
    again.cancel()


async def test_a_gap_in_the_stream_is_whole_over_rest(sim: Sim) -> None:
    client = binance(sim.info, watchTrades={"name": "aggTrade"})
    try:
        await client.load_markets()
        ids = [int(trade["id"]) for trade in await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)]
        sim.fault("trade_gap", symbol="BTCUSDT", count=3)
        async with asyncio.timeout(10):
            while ids[-1] - ids[0] + 1 == len(ids):
                ids += [int(trade["id"]) for trade in await client.watch_trades("BTC/USDT")]
        assert len(set(range(ids[0], ids[-1] + 1)) - set(ids)) == 3
        rest = await client.fetch_trades("BTC/USDT", None, 1000, {"fromId": ids[0]})
        assert {int(trade["id"]) for trade in rest} >= set(range(ids[0], ids[-1] + 1))
    finally:
        await client.close()


async def test_a_halt_and_a_jumping_clock(sim: Sim, client: Any) -> None:
    resting = await client.create_order("BTC/USDT", "limit", "buy", "0.001", "30000")
    sim.fault("halt", symbol="BTCUSDT")
    with pytest.raises(ccxt.MarketClosed):
        await client.create_order("BTC/USDT", "market", "buy", "0.01")
    await client.cancel_order(resting["id"], "BTC/USDT")
    sim.call("DELETE", "/sim/faults")
    sim.fault("clock_jump", seconds=30)
    with pytest.raises(ccxt.InvalidNonce):
        await client.fetch_balance()


async def test_the_end_of_a_fault_ends_no_other(sim: Sim) -> None:
    client = binance(sim.info)
    try:
        await client.load_markets()
        await asyncio.wait_for(client.watch_trades("BTC/USDT"), 5)
        jump, other = sim.fault("clock_jump", seconds=30), sim.fault("clock_jump", seconds=5)
        half = sim.fault("half_open", path="/stream")
        assert sim.struck(half) == sim.get("/sim/info")["sockets"] == 1
        for fault in (jump, other):
            sim.call("DELETE", f"/sim/faults?id={fault}")
        assert sim.get("/sim/info")["sockets"] == 1, "a connection that another fault made half open was ended"
        sim.call("DELETE", f"/sim/faults?id={half}")
        await until(lambda: not sim.get("/sim/info")["sockets"])
    finally:
        await client.close()


def test_strikes_are_counted_and_no_id_is_given_twice(sim: Sim) -> None:
    fault = sim.fault("http_500", path="/api/v3/ping", count=2)
    assert [sim.call("GET", "/api/v3/ping")[0] for _ in range(3)] == [500, 500, 200]
    assert sim.struck(fault) == 2
    jump = sim.fault("clock_jump", seconds=1)
    sim.call("GET", "/api/v3/time")
    assert sim.struck(jump) == 1
    sim.kill()
    sim.start()
    assert sim.get(f"/sim/faults?id={jump}") == []
    assert sim.fault("http_500") > jump


def test_the_admin_surface_refuses_web_pages(sim: Sim) -> None:
    status, body = sim.call("GET", "/sim/account", headers={"Origin": "https://example.org"})
    assert (status, body["code"]) == (403, "FORBIDDEN")
