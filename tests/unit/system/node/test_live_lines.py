"""The live lines: readable, thinned where it is only prices, complete where it is money."""

from __future__ import annotations

import asyncio

import click
import orjson
import pytest
from websockets.asyncio.server import serve

from fks.interfaces.cli import live
from fks.interfaces.cli.live import Lines
from fks.interfaces.cli.screen import Screen
from tests.support.waiting import until


@pytest.fixture
def lines():
    ticks = iter(range(10_000))
    return Lines(clock=lambda: float(next(ticks)), stamp=lambda: "12:00:00")


def shown(lines, **message):
    text = lines.of(message)
    return click.unstyle(text) if text else None


def test_a_closed_minute_shows_close_and_change(lines):
    shown(lines, type="bar", symbol="BTCUSDT", timeframe="1m", close="100", volume="3.5")
    text = shown(lines, type="bar", symbol="BTCUSDT", timeframe="1m", close="101", volume="2")
    assert "BTCUSDT" in text
    assert "+1.000 %" in text


def test_corrected_bar_is_marked_and_moves_nothing(lines):
    bar = {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m", "volume": "1"}
    shown(lines, **bar, close="100", revision=0)
    corrected = shown(lines, **bar, close="50", revision=1)
    assert "corrected" in corrected
    assert "%" not in corrected
    assert "+1.000 %" in shown(lines, **bar, close="101", revision=0)
    assert shown(lines, **{**bar, "timeframe": "1s"}, close="50", revision=1) is None


def test_each_symbol_shows_every_five_seconds_without_1s_bars():
    now = 0.0
    lines = Lines(clock=lambda: now, stamp=lambda: "12:00:00")
    bar = {"type": "bar", "symbol": "BTCUSDT", "close": "1", "volume": "1"}
    assert lines.of({**bar, "timeframe": "1s"}) is None
    assert lines.of({**bar, "timeframe": "5s"})
    assert lines.of({**bar, "timeframe": "5s"}) is None  # a fast tape closes many in our five seconds
    assert lines.of({**bar, "timeframe": "5s", "symbol": "ETHUSDT"})
    now = 5.0
    assert lines.of({**bar, "timeframe": "5s"})


def test_a_fill_shows_position_and_profit(lines):
    text = shown(
        lines,
        type="fill",
        symbol="BTCUSDT",
        side="sell",
        quantity="0.00770000",
        price="64130.10000000",
        fee="0.49381",
        fee_currency="USDT",
        position="0",
        realized_pnl="-1.234",
        instance="sma-btc-1s",
    )
    assert "fee 0.49381 USDT" in text
    assert "sell     0.0077 @ 64,130.10" in text
    assert "position 0" in text
    assert "pnl -1.23 (sum -1.23)" in text
    again = shown(lines, type="fill", symbol="BTCUSDT", side="sell", quantity="1", price="1", realized_pnl="2")
    assert "pnl +2.00 (sum +0.77)" in again


def test_a_denied_order_shows_its_code(lines):
    text = shown(lines, type="order", symbol="BTCUSDT", side="buy", quantity="1", state="DENIED", code="KILLED")
    assert "DENIED KILLED" in " ".join(text.split())


def test_signals_and_orders_are_never_thinned(lines):
    for _ in range(5):
        assert shown(lines, type="signal", symbol="BTCUSDT", kind="ENTER", side="BUY", state="ready", instance="x")
        assert shown(lines, type="order", symbol="BTCUSDT", side="buy", quantity="1", state="WORKING")


def test_signal_that_became_an_order_is_shown_by_its_order(lines):
    assert shown(lines, type="signal", symbol="BTCUSDT", kind="enter", side="buy", state="ordered") is None
    text = shown(lines, type="signal", symbol="BTCUSDT", kind="enter", state="denied", code="KILLED")
    assert "denied KILLED" in " ".join(text.split())


def test_first_bar_shows_no_change(lines):
    assert "%" not in shown(lines, type="bar", symbol="BTCUSDT", timeframe="1m", close="100", volume="3.5")


def test_states_stand_in_one_column_with_and_without_colours_and_prices(lines):
    printed = [
        shown(lines, type="signal", symbol="BTCUSDT", kind="enter", side="buy", state="XXX", instance="i"),
        shown(lines, type="signal", symbol="BTCUSDT", kind="exit", side="sell", state="XXX", instance="i"),
        shown(lines, type="order", symbol="BTCUSDT", side="buy", quantity="0.00814", state="XXX"),
        shown(
            lines, type="order", symbol="ETHUSDT", side="sell", quantity="0.17", price="2939.3", role="tp", state="XXX"
        ),
    ]
    assert len({text.index("XXX") for text in printed}) == 1, printed


async def test_restarting_replica_is_skipped_and_a_dead_gateway_shown_once(monkeypatch):
    monkeypatch.setattr(live, "AWAY_S", 0.3)
    monkeypatch.setattr(live, "RECONNECT_S", 0.02)
    printed: list[str] = []
    visits = 0

    async def serve_one(socket):
        nonlocal visits
        visits += 1
        await socket.send(orjson.dumps({"type": "order", "symbol": f"N{visits}", "quantity": "1", "state": "FILLED"}))
        if visits >= 3:
            await socket.wait_closed()

    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        watching = asyncio.create_task(live.watch(f"http://127.0.0.1:{port}", lambda: None, printed.append))
        await until(lambda: len(printed) == 3)
        assert not [line for line in printed if "gateway" in line]
    await until(lambda: len(printed) == 4)
    assert "does not answer" in printed[3]
    async with serve(serve_one, "127.0.0.1", port):
        await until(lambda: len(printed) == 6)
    assert "is back" in printed[4]
    watching.cancel()


def test_nonsense_from_the_socket_is_no_crash(lines):
    shown(lines, type="bar")
    assert shown(lines, type="fill", quantity="NaN", price=None, realized_pnl="x")
    assert shown(lines, type="hello") is None
    assert shown(lines) is None


def test_plain_output_has_no_colours_and_no_spinner():
    printed = []
    screen = Screen(write=printed.append, is_terminal=False)
    screen.say("postgres", "running")
    screen.say("postgres", "done")
    screen.say("ray", "failed", "died\nwith words")
    text = "".join(printed)
    assert "\x1b" not in text
    assert "PostgreSQL" in text
    assert text.count("\n") == 2


async def test_requests_of_the_gateway_are_answered():
    printed = []

    async def gateway(socket):
        await socket.send('{"type": "check", "n": 7}')
        printed.append(orjson.loads(await socket.recv()))
        await socket.wait_closed()

    async with serve(gateway, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        watching = asyncio.create_task(live.watch(f"http://127.0.0.1:{port}", lambda: None, lambda line: None))
        await until(lambda: printed)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert printed == [{"type": "checked", "n": 7}]
