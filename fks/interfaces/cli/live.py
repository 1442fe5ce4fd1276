"""The live lines of `fks up`: bars closing, signals, orders, fills with position and profit, one line each.

They come from the gateway's websocket, as for any other client. Bars are thinned so that a reader can follow; signals,
orders and fills never are. A gateway replica that restarts is passed over in silence (the other one answers); without
an answer for AWAY_S one line is printed, and another when it is back. The lines scroll, so rich.live has no part in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from fks.clock import RealClock
from fks.config.endpoints import TrustedFile

RECONNECT_S = 0.5
AWAY_S = 4.0  # a replica is back, or the other one answers, well before
# one such bar of each symbol every 5 s of ours, whatever the tape's speed
PULSE_TIMEFRAME, PULSE_S = "5s", 5.0
_LEFT = 29  # columns of side, quantity and price, which the requested size of a signal fills as well
_SHORT = frozenset({"1s", "5s", "15s", "30s"})
_STATE_COLOURS = {
    "FILLED": "green",
    "PARTIAL": "green",
    "DENIED": "red",
    "REJECTED": "red",
    "UNKNOWN": "yellow",
    "CANCELLED": "yellow",
    "EXPIRED": "yellow",
}

_STATE_LABELS = {"SENDING": "sent"}  # the row is on disk and the bytes are on their way


class Lines:
    """Turns messages of the gateway into lines.

    Soft state: the last close of each symbol, the time of its last bar line, and the profit of the fills shown so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, stamp: Callable[[], str] | None = None) -> None:
        self._clock = clock
        self._stamp = stamp or (lambda: time.strftime("%H:%M:%S"))
        self._closes: dict[tuple[str, str], Decimal] = {}
        self._pulses: dict[str, float] = {}
        self._profit = Decimal(0)

    def of(self, message: Mapping[str, Any]) -> str | None:
        """Return the line of a message, or None when it is not to be shown."""
        makers = {
            "bar": self._bar,
            "signal": self._signal,
            "order": self._order,
            "fill": self._fill,
            "alert": self._alert,
            "dropped": self._dropped,
        }
        maker = makers.get(str(message.get("type")))
        text = maker(message) if maker else None
        return f"{click.style(self._stamp(), fg='bright_black')}  {text}" if text else None

    def _bar(self, m: Mapping[str, Any]) -> str | None:
        symbol, timeframe = str(m.get("symbol", "")), str(m.get("timeframe", ""))
        if m.get("revision"):  # an old bar, corrected
            return (
                None
                if timeframe in _SHORT
                else f"{'bar':<8}{symbol:<9} {timeframe:<4} close {_price(m.get('close')):>14}  corrected"
            )
        close, key = _decimal(m.get("close")), (symbol, timeframe)
        before = self._closes.get(key)
        if close is not None:
            self._closes[key] = close
        if timeframe in _SHORT and not self._pulses_now(symbol, timeframe):
            return None
        change = (close - before) / before * 100 if close is not None and before else None
        is_pulse = timeframe in _SHORT
        text = f"{symbol:<9} {timeframe:<4} close {_price(m.get('close')):>14}  "
        moved = " " * 8  # the first bar seen has none before it to compare with
        if change is not None:
            moved = click.style(f"{change:+.3f} %", fg=_up_or_down(change), dim=is_pulse or None)
        volume = f"  volume {_number(m.get('volume'))}"
        return (
            click.style(f"{'bar':<8}{text}", dim=is_pulse or None) + moved + click.style(volume, dim=is_pulse or None)
        )

    def _pulses_now(self, symbol: str, timeframe: str) -> bool:
        now = self._clock()
        if timeframe != PULSE_TIMEFRAME or now - self._pulses.get(symbol, -PULSE_S) < PULSE_S * 0.9:
            return False
        self._pulses[symbol] = now
        return True

    def _signal(self, m: Mapping[str, Any]) -> str | None:
        if m.get("state") == "ordered":  # its order is the next line
            return None
        side = str(m.get("side") or "").lower()
        kind = str(m.get("kind", "")).lower()
        text = f"{kind} {_side(side)}" + " " * max(0, _LEFT - len(kind) - 1 - max(len(side), 4))
        state = f"{m.get('state', '')!s:<9}"
        code = f" {click.style(str(m['code']), fg='red')}" if m.get("code") else ""
        return (
            f"{_label('signal', 'magenta')}{m.get('symbol', '')!s:<9} {text} {state}{code}  {_dim(m.get('instance'))}"
        )

    def _order(self, m: Mapping[str, Any]) -> str:
        state = str(m.get("state", ""))
        shown = click.style(f"{_STATE_LABELS.get(state, state):<9}", fg=_STATE_COLOURS.get(state, "cyan"))
        code = f" {click.style(str(m['code']), fg='red')}" if m.get("code") else ""
        role = f" {m['role']}" if m.get("role") not in (None, "", "entry") else ""
        return (
            f"{_label('order', 'cyan')}{m.get('symbol', '')!s:<9} {self._what(m)} {shown}{code}{role}  "
            f"{_dim(str(m.get('client_order_id', ''))[:8])}"
        )

    @staticmethod
    def _what(m: Mapping[str, Any]) -> str:
        """Return side, quantity and price in columns `_LEFT` wide."""
        price = f"@ {_price(m['price'])}" if m.get("price") not in (None, "") else ""
        return f"{_side(m.get('side')) or '    '} {_number(m.get('quantity')):>10} {price:<13}"

    def _fill(self, m: Mapping[str, Any]) -> str:
        pnl = _decimal(m.get("realized_pnl"))
        profit = ""
        if pnl is not None:
            self._profit += pnl
            total = click.style(f"{self._profit:+.2f}", fg=_up_or_down(self._profit))
            profit = f"  pnl {click.style(f'{pnl:+.2f}', fg=_up_or_down(pnl))} (sum {total})"
        position = f"  position {_number(m['position'])}" if m.get("position") is not None else ""
        fee = f"fee {_number(m['fee'])} {m.get('fee_currency') or ''}" if m.get("fee") not in (None, "") else ""
        return (
            f"{_label('fill', 'green')}{m.get('symbol', '')!s:<9} {self._what(m)} {fee:<20}{position}{profit}  "
            f"{_dim(m.get('instance'))}"
        )

    def _alert(self, m: Mapping[str, Any]) -> str:
        if m.get("severity") == "settled":
            return f"{_label('alert', 'green')}over: {m.get('message') or m.get('event', '')}"
        return f"{_label('alert', 'red')}{m.get('message') or m.get('event', '')}"

    def _dropped(self, m: Mapping[str, Any]) -> str:
        return click.style(f"{m.get('count')} bars not shown: this terminal was too slow", fg="yellow")


async def watch(
    url: str,
    token: Callable[[], str | None],
    write: Callable[[str], None],
    lines: Lines | None = None,
    *,
    trust: TrustedFile | None = None,
) -> None:
    """Write live lines until cancelled, reconnecting for ever. `url` is the gateway's base, with `trust` for https."""
    lines = lines or Lines()
    answered_s, is_away_shown = time.monotonic(), False
    while True:
        with contextlib.suppress(OSError):
            async for message in _messages(url, token(), trust):
                answered_s = time.monotonic()
                if is_away_shown:
                    is_away_shown = False
                    write(click.style("the gateway is back", fg="green"))
                if text := lines.of(message):
                    write(text)
        if not is_away_shown and time.monotonic() - answered_s >= AWAY_S:
            is_away_shown = True
            write(click.style("the gateway does not answer; waiting for it", fg="yellow"))
        await RealClock().sleep(RECONNECT_S)


async def _messages(url: str, token: str | None, trust: TrustedFile | None) -> AsyncIterator[dict[str, Any]]:
    """Yield messages of one connection. Errors: OSError when it cannot be had or ends."""
    import orjson
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    address = url.replace("http", "ws", 1) + "/ws?channels=bars,signals,orders,fills,alerts,kill"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if trust is not None:
        trust.refresh()
    tls = None if trust is None else trust.context
    try:
        async with connect(
            address, additional_headers=headers, open_timeout=5, max_queue=4096, proxy=None, ssl=tls
        ) as socket:
            async for frame in socket:
                message = orjson.loads(frame)
                if isinstance(message, dict):
                    yield message
                    if message.get("type") == "check":  # the gateway checks how far this client is
                        await socket.send(orjson.dumps({"type": "checked", "n": message.get("n")}).decode())
    except (WebSocketException, TimeoutError, ValueError) as error:
        raise OSError(str(error)) from error


def _label(text: str, colour: str) -> str:
    return click.style(f"{text:<8}", fg=colour, bold=True)


def _up_or_down(number: Decimal) -> str:
    return "green" if number > 0 else "red" if number < 0 else "white"


def _side(side: object) -> str:
    text = str(side or "").lower()
    return click.style(f"{text:<4}", fg="green" if text == "buy" else "red") if text else ""


def _dim(value: object) -> str:
    return click.style(str(value), fg="bright_black") if value else ""


def _decimal(value: object) -> Decimal | None:
    """Return a finite number, or None for anything else."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _price(value: object) -> str:
    """Return a price with two decimals at least, so that a column of them stands still."""
    whole, dot, rest = _number(value).partition(".")
    return f"{whole}.{rest:0<2}" if dot or whole.lstrip("-").replace(",", "").isdigit() else whole


def _number(value: object) -> str:
    """Return a number as people write it: thousands apart, no empty decimals."""
    number = _decimal(value)
    if number is None:
        return "" if value is None else str(value)
    text = f"{number:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
