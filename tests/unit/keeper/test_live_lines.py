"""The live lines: readable, thinned where it is only prices, complete where it is money."""

from __future__ import annotations

import click
import pytest

from fks.cli.live import Lines
from fks.cli.screen import Screen


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


def test_each_symbol_has_a_pulse_of_five_seconds_and_one_second_bars_are_left_out():
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
    text = shown(lines, type="fill", symbol="BTCUSDT", side="sell", quantity="0.00770000", price="64130.10000000",
                 position="0", realized_pnl="-1.234", instance="sma-btc-1s")  # fmt: skip
    assert "sell 0.0077 @ 64,130.1" in text
    assert "position 0" in text
    assert "pnl -1.23 (sum -1.23)" in text
    again = shown(lines, type="fill", symbol="BTCUSDT", side="sell", quantity="1", price="1", realized_pnl="2")
    assert "pnl +2.00 (sum +0.77)" in again


def test_a_denied_order_shows_its_code(lines):
    text = shown(lines, type="order", symbol="BTCUSDT", side="buy", quantity="1", state="DENIED", code="KILLED")
    assert "DENIED KILLED" in text


def test_signals_and_orders_are_never_thinned(lines):
    for _ in range(5):
        assert shown(lines, type="signal", symbol="BTCUSDT", kind="ENTER", side="BUY", state="ready", instance="x")
        assert shown(lines, type="order", symbol="BTCUSDT", side="buy", quantity="1", state="WORKING")


def test_a_signal_that_became_an_order_is_told_by_its_order(lines):
    assert shown(lines, type="signal", symbol="BTCUSDT", kind="enter", side="buy", state="ordered") is None
    assert "denied KILLED" in shown(lines, type="signal", symbol="BTCUSDT", kind="enter", state="denied", code="KILLED")


def test_nonsense_from_the_socket_is_no_crash(lines):
    shown(lines, type="bar")
    assert shown(lines, type="fill", quantity="NaN", price=None, realized_pnl="x")
    assert shown(lines, type="hello") is None
    assert shown(lines) is None


def test_plain_output_has_no_colours_and_no_spinner():
    said = []
    screen = Screen(write=said.append, is_terminal=False)
    screen.say("postgres", "running")
    screen.say("postgres", "done")
    screen.say("ray", "failed", "died\nwith words")
    text = "".join(said)
    assert "\x1b" not in text
    assert "PostgreSQL" in text
    assert text.count("\n") == 2
