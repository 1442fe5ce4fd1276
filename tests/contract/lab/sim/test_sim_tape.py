"""A tape: real minutes come out exactly as they went in, and `--fills tape` keeps the written rule, in lockstep."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from fks.model.bar import Bar
from fks.model.tape import Tape, unpack_tape
from fks.model.timeframe import iso
from tests.support.sim_process import SAMPLE, Sim
from tests.support.sim_rebuilding import rebuilt_from
from tests.support.waiting import until, wait_until

Starter = Callable[..., Sim]
ROW = 20_000


@pytest.fixture(scope="module")
def tape() -> Tape:
    return unpack_tape(SAMPLE.read_bytes())


def flags(tape: Tape, row: int = ROW) -> list[str]:
    start = iso(int(tape.time_ns[row]))
    return [
        "--tape",
        str(SAMPLE),
        "--fills",
        "tape",
        "--hold",
        "--start",
        start,
        "--balance",
        "USDT=1000000",
        "--balance",
        "BTC=10",
    ]


def bar(tape: Tape, row: int) -> Bar:
    return tape.bars().bar(row)


def money(value: float) -> str:
    return f"{value:.2f}"


def test_klines_are_the_tape_and_trades_rebuild_them(start_sim: Starter, tape: Tape) -> None:
    sim = start_sim(*flags(tape))
    sim.advance(5)
    bars = sim.get("/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1000")
    assert len(bars) == 1000
    columns = tape.bars()
    for offset, found in enumerate(reversed(bars[:-1])):
        row = ROW + 4 - offset
        assert found[0] == tape.time_ns[row] // 1_000_000
        wanted = [columns.open[row], columns.high[row], columns.low[row], columns.close[row], columns.volume[row]]
        assert [float(text) for text in found[1:6]] == wanted
    assert float(bars[-1][1]) == columns.open[ROW + 5], "the open bar shows its open, and nothing of what is to come"
    assert bars[-1][1:5] == [bars[-1][1]] * 4
    assert rebuilt_from(sim, bars[-60][0], bars[-1][0]) > 1000
    hours = sim.get("/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=5")
    first = next(row for row in range(ROW - 400, ROW) if tape.time_ns[row] // 1_000_000 == hours[0][0])
    assert float(hours[0][2]) == columns.high[first : first + 60].max()


def test_market_orders_fill_at_the_open_of_the_open_bar(start_sim: Starter, tape: Tape) -> None:
    sim = start_sim(*flags(tape))
    for offset in range(3):
        filled = sim.order("BUY", "MARKET", quantity="0.01", newOrderRespType="FULL")
        open_ = Decimal(money(bar(tape, ROW + offset).open))
        assert [Decimal(fill["price"]) for fill in filled["fills"]] == [open_]
        assert [Decimal(fill["qty"]) for fill in filled["fills"]] == [Decimal("0.01")]
        assert Decimal(filled["fills"][0]["commission"]) == Decimal("0.00001")
        sim.advance()
    status, mine = sim.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT")
    assert status == 200
    assert [trade["time"] for trade in mine] == [int(tape.time_ns[ROW + i]) // 1_000_000 for i in range(3)]
    now = int(time.time() * 1000)
    _, by_wall = sim.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT", startTime=now - 60_000)
    _, by_tape = sim.signed("GET", "/api/v3/myTrades", symbol="BTCUSDT", startTime=int(tape.time_ns[ROW]) // 1_000_000)
    assert by_wall == by_tape == mine, "a window in wall time and one in tape time both find them"


def find(tape: Tape, wanted: Callable[[Bar, Bar], bool], start: int = ROW) -> int:
    """Return the first row whose bar, with the one after it, is as wanted."""
    columns = tape.bars()
    return next(row for row in range(start, len(tape) - 1) if wanted(columns.bar(row), columns.bar(row + 1)))


@pytest.mark.parametrize("side", ["SELL", "BUY"])
def test_a_stop_placed_during_a_bar_fills_at_its_price_inside_it(start_sim: Starter, tape: Tape, side: str) -> None:
    sells = side == "SELL"
    row = find(tape, lambda b, _: (b.open - b.low if sells else b.high - b.open) > 20)
    sim = start_sim(*flags(tape, row))
    now = bar(tape, row)
    stop = now.open - 10 if sells else now.open + 10
    sim.order(side, "STOP_LOSS", quantity="0.5", stopPrice=money(stop))
    sim.advance()
    fills = sim.get("/sim/account")["fills"]
    assert [float(fill["price"]) for fill in fills] == [pytest.approx(round(stop, 2))]
    assert fills[0]["time"] == int(tape.time_ns[row]) // 1_000_000


def test_earlier_stop_fills_at_the_open_when_the_market_gaps_through(start_sim: Starter, tape: Tape) -> None:
    row = find(tape, lambda one, two: two.open < one.low)
    sim = start_sim(*flags(tape, row))
    one, two = bar(tape, row), bar(tape, row + 1)
    sim.order("SELL", "STOP_LOSS", quantity="0.5", stopPrice=money((one.low + two.open) / 2))
    sim.advance()
    assert sim.get("/sim/account")["fills"] == []
    sim.advance()
    assert [float(fill["price"]) for fill in sim.get("/sim/account")["fills"]] == [two.open]


def oco(sim: Sim, above: float, below: float) -> Any:
    status, body = sim.signed(
        "POST",
        "/api/v3/orderList/oco",
        symbol="BTCUSDT",
        side="SELL",
        quantity="0.5",
        aboveType="LIMIT_MAKER",
        abovePrice=money(above),
        aboveClientOrderId="tp",
        belowType="STOP_LOSS",
        belowStopPrice=money(below),
        belowClientOrderId="sl",
    )
    assert status == 200, body
    return body


def test_both_legs_of_a_pair_hit_in_one_bar_mean_the_stop(start_sim: Starter, tape: Tape) -> None:
    row = find(tape, lambda b, _: b.high - b.open > 10 and b.open - b.low > 10)
    sim = start_sim(*flags(tape, row))
    now = bar(tape, row)
    oco(sim, now.open + 5, now.open - 5)
    sim.advance()
    account = sim.get("/sim/account")
    assert [float(fill["price"]) for fill in account["fills"]] == [pytest.approx(round(now.open - 5, 2))]
    assert {order["clientOrderId"]: order["status"] for order in account["orders"]} == {"tp": "EXPIRED", "sl": "FILLED"}
    assert account["open_lists"] == []
    btc = next(row for row in account["balances"] if row["asset"] == "BTC")
    assert (Decimal(btc["free"]), Decimal(btc["locked"])) == (Decimal("9.5"), 0)


def test_a_profit_at_the_open_beats_the_stop_of_the_same_bar(start_sim: Starter, tape: Tape) -> None:
    row = find(
        tape,
        lambda one, two: two.open > one.high and two.open - two.low > 5 and one.open - one.low < two.open - two.low,
    )
    one, two = bar(tape, row), bar(tape, row + 1)
    profit = round((one.high + two.open) / 2, 2)
    stop = min(one.low, two.low + 1) - 1 if two.low >= one.low else two.low + 0.5
    if stop >= one.low:
        stop = one.low - 0.01
    sim = start_sim(*flags(tape, row))
    oco(sim, profit, stop)
    sim.advance(2)
    assert [float(fill["price"]) for fill in sim.get("/sim/account")["fills"]] == [two.open]


def test_limits_fill_at_the_open_or_at_their_price(start_sim: Starter, tape: Tape) -> None:
    row = find(tape, lambda one, two: two.low < one.low - 5 < two.open - 5 and one.open - one.low < 100)
    one = bar(tape, row)
    sim = start_sim(*flags(tape, row))
    price = round(one.low - 1, 2)
    sim.order("BUY", "LIMIT", quantity="0.1", price=money(price), timeInForce="GTC")
    sim.advance()
    assert sim.get("/sim/account")["fills"] == []
    sim.advance()
    fills = sim.get("/sim/account")["fills"]
    assert [float(fill["price"]) for fill in fills] == [min(price, bar(tape, row + 1).open)]
    assert fills[0]["time"] == int(tape.time_ns[row + 1]) // 1_000_000


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_limit_that_accepts_the_open_fills_there_when_it_arrives(start_sim: Starter, tape: Tape, side: str) -> None:
    sim, open_ = start_sim(*flags(tape)), bar(tape, ROW).open
    price = money(open_ + (5 if side == "BUY" else -5))
    answer = sim.order(side, "LIMIT", quantity="0.1", price=price, timeInForce="GTC")
    assert (answer["status"], [float(fill["price"]) for fill in answer["fills"]]) == ("FILLED", [open_])
    assert [trade["isMaker"] for trade in sim.get("/sim/account")["fills"]] == [False]


def test_a_waiting_pair_counts_from_its_entry_on(start_sim: Starter, tape: Tape) -> None:
    """In the bar of the entry the stop counts, and the profit of a limit that filled inside it where the close shows it."""
    cases = (  # the entry's time in force; distances from the open of the entry, profit and stop; how each ends
        ("FOK", 50, 5, -5000, {"in": "FILLED", "tp": "FILLED", "sl": "EXPIRED"}),
        ("FOK", 50, 5, -5, {"in": "FILLED", "tp": "EXPIRED", "sl": "FILLED"}),
        ("GTC", -2, 5, -5, {"in": "FILLED", "tp": "EXPIRED", "sl": "FILLED"}),
        ("FOK", -2, 5, -5, {"in": "EXPIRED", "tp": "EXPIRED", "sl": "EXPIRED"}),
        ("GTC", -2, 5, -5000, {"in": "FILLED", "tp": "NEW", "sl": "NEW"}),
        ("GTC", -2, 5, -5000, {"in": "FILLED", "tp": "FILLED", "sl": "EXPIRED"}),
    )
    columns, rows = tape.bars(), [ROW]
    for number, _ in enumerate(cases, 1):
        is_shown = number == len(cases)
        rows.append(
            find(
                tape,
                lambda b, _, up=is_shown: min(b.high - b.open, b.open - b.low) > 10 and (b.close > b.open + 5) == up,
                rows[-1] + 1,
            )
        )
    sim = start_sim(*flags(tape, rows[1]))
    at = rows[1]
    for row, (tif, price, profit, stop, wanted) in zip(rows[1:], cases, strict=True):
        if row > at:
            sim.advance(row - at)
        status, body = sim.signed(
            "POST",
            "/api/v3/orderList/opoco",
            symbol="BTCUSDT",
            workingType="LIMIT",
            workingSide="BUY",
            workingClientOrderId="in",
            workingPrice=money(columns.open[row] + price),
            workingQuantity="0.5",
            workingTimeInForce=tif,
            pendingSide="SELL",
            pendingAboveType="LIMIT_MAKER",
            pendingAboveClientOrderId="tp",
            pendingAbovePrice=money(columns.open[row] + profit),
            pendingBelowType="STOP_LOSS",
            pendingBelowClientOrderId="sl",
            pendingBelowStopPrice=money(columns.open[row] + stop),
        )
        assert status == 200, body
        filled = body["orderReports"][0]
        if filled["fills"]:  # at once: the answer's time is the tape's, as that of its fills
            assert filled["transactTime"] == int(tape.time_ns[row]) // 1_000_000
        sim.advance()
        at = row + 1
        account = sim.get("/sim/account")
        assert {order["clientOrderId"]: order["status"] for order in account["orders"][-3:]} == wanted
        fills = [float(fill["price"]) for fill in account["fills"] if fill["orderListId"] == body["orderListId"]]
        distances = [price if tif == "GTC" else 0, profit if wanted["tp"] == "FILLED" else stop]
        prices = [pytest.approx(round(columns.open[row] + distance, 2)) for distance in distances]
        assert fills == prices[: sum(status == "FILLED" for status in wanted.values())]


async def test_advance_answers_when_every_frame_is_written(start_sim: Starter, tape: Tape) -> None:
    sim = start_sim(*flags(tape))
    async with aiohttp.ClientSession() as session:
        url = sim.info["ws"] + "/stream?streams=btcusdt@aggTrade/btcusdt@kline_1m"
        async with session.ws_connect(url) as link:
            frames: list[dict[str, Any]] = []

            async def read() -> None:
                async for message in link:
                    frames.append(json.loads(message.data))

            reader = asyncio.create_task(read())
            for offset in range(4):
                async with session.post(sim.info["rest"] + "/sim/tape/advance", json={"bars": 1}) as answer:
                    assert (await answer.json())["row"] == ROW + offset + 1
            opened = int(tape.time_ns[ROW + 4]) // 10**6
            await until(lambda: any(f["data"].get("k", {}).get("t") == opened for f in frames))
            reader.cancel()
    closed = [f["data"]["k"] for f in frames if f["stream"].endswith("kline_1m") and f["data"]["k"]["x"]]
    assert [k["t"] for k in closed] == [int(tape.time_ns[ROW + i]) // 1_000_000 for i in range(4)], (
        "x is true once per bar"
    )
    columns = tape.bars()
    assert [float(k["v"]) for k in closed] == list(columns.volume[ROW : ROW + 4])
    ids = [f["data"]["a"] for f in frames if f["stream"].endswith("aggTrade")]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_the_position_survives_kill_9_and_the_tape_plays_at_its_speed(start_sim: Starter, tape: Tape) -> None:
    held = start_sim(*flags(tape))
    held.advance(7)
    held.kill()
    held.start()
    assert held.get("/sim/tape")["row"] == ROW + 7
    playing = start_sim("--tape", str(SAMPLE), "--speed", "1200", name="playing")
    first = playing.get("/sim/tape")["row"]
    wait_until(lambda: playing.get("/sim/tape")["row"] >= first + 20)
    assert playing.get("/api/v3/ticker/price?symbol=BTCUSDT")["symbol"] == "BTCUSDT"
    playing.kill()
    row = first + 20
    playing.start()
    assert playing.get("/sim/tape")["row"] >= row


def test_end_of_the_tape_is_reported(start_sim: Starter, tape: Tape) -> None:
    sim = start_sim(*flags(tape, len(tape) - 2))
    assert sim.advance(5)["ended"] is True
    status, body = sim.signed("POST", "/api/v3/order", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
    assert (status, body["msg"]) == (400, "Market is closed.")
    bars = sim.get("/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=2")
    assert float(bars[-1][4]) == bar(tape, len(tape) - 1).close
