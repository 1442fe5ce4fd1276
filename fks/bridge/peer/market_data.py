"""Market data sessions of the bridge: trades with numbers, conflated quotes, the state of the feed, history."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from fks.bridge.peer.platform import ConnectionUpdate, LastTrade, MarketEvent, Platform, PlatformError, PlatformQuote

Message = dict[str, Any]
QUOTE_EVERY_MS = 100
STATUS_EVERY_MS = 2_000
HISTORY_MS = 31 * 86_400_000
INSTRUMENTS_MAX = 50
_PERIODS = {"1m": 60_000, "1d": 86_400_000}


@dataclass(slots=True)
class _Subscription:
    """One instrument of one session."""

    wants_quotes: bool
    quiet_since_ms: int
    quoted_ms: int = -QUOTE_EVERY_MS
    newest: PlatformQuote | None = None


class MarketDataServer:
    """Serves any number of data sessions. `events` are those of the platform that are still to be handled."""

    def __init__(self, platform: Platform, events: deque[MarketEvent]) -> None:
        self._platform = platform
        self._subscriptions: dict[tuple[int, str], _Subscription] = {}  # by session and instrument
        self._numbers: dict[str, int] = {}
        self._inbox = events
        self._out: list[tuple[int, Message]] = []

    def close(self, session: int) -> None:
        self._subscriptions = {key: one for key, one in self._subscriptions.items() if key[0] != session}

    def handle(self, session: int, message: Message) -> None:
        """Take a subscribe, unsubscribe or history request; its answers come out of the next `work`."""
        kind = message["t"]
        handlers = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "history": self._history,
            "instruments": self._instruments,
        }
        handler = handlers[kind]
        self._out.append((session, {"t": "result", "rid": message["rid"], **handler(session, message)}))
        if kind == "subscribe":
            for name in message.get("instruments", []):
                if (session, name) in self._subscriptions:
                    self._out.append((session, self._status(name)))

    def work(self) -> list[tuple[int, Message]]:
        """Return what is to be sent now: (session, message)."""
        while self._inbox:
            self._on_event(self._inbox.popleft())
        now_ms = self._platform.now_ms
        for (session, name), one in self._subscriptions.items():
            self._send_quote(session, one)
            if now_ms - one.quiet_since_ms >= STATUS_EVERY_MS:
                one.quiet_since_ms = now_ms
                self._out.append((session, self._status(name)))
        out, self._out = self._out, []
        return out

    def _subscribe(self, session: int, message: Message) -> Message:
        names = message.get("instruments")
        if not isinstance(names, list) or not 0 < len(names) <= INSTRUMENTS_MAX or not _are_texts(names):
            return _bad(f"instruments: 1 to {INSTRUMENTS_MAX} names")
        if not isinstance(message.get("quotes"), bool):
            return _bad("quotes: true or false")
        unknown = [name for name in names if not self._is_known(name)]
        for name in names:
            if name not in unknown:
                self._subscriptions[session, name] = _Subscription(message["quotes"], self._platform.now_ms)
        if unknown:
            detail = "unknown or expired: " + ", ".join(unknown)
            return {"ok": len(unknown) < len(names), "code": "unknown_instrument", "detail": detail[:200]}
        return {"ok": True}

    def _is_known(self, name: str) -> bool:
        contract = self._platform.contract(name)
        today = datetime.fromtimestamp(self._platform.now_ms / 1000, self._platform.zone).date()
        return contract is not None and (contract.expiry is None or contract.expiry >= today)

    def _unsubscribe(self, session: int, message: Message) -> Message:
        names = message.get("instruments")
        if not isinstance(names, list) or not _are_texts(names):
            return _bad("instruments: a list of names")
        for name in names:
            self._subscriptions.pop((session, name), None)
        return {"ok": True}

    def _instruments(self, session: int, message: Message) -> Message:
        found = self._platform.instruments()
        self._out += [(session, {"t": "instrument", "rid": message["rid"], **one}) for one in found]
        return {"ok": True, "count": len(found)}

    def _history(self, session: int, message: Message) -> Message:
        begin, end, period = message.get("from_ms"), message.get("to_ms"), message.get("period")
        name = message.get("instrument")
        if not isinstance(begin, int) or not isinstance(end, int) or not 0 <= end - begin <= HISTORY_MS:
            return _bad("from_ms, to_ms: whole milliseconds, at most 31 days apart")
        if not isinstance(period, str) or period not in _PERIODS:
            return _bad("period: 1m or 1d")
        if not isinstance(name, str) or self._platform.contract(name) is None:
            return {"ok": False, "code": "unknown_instrument", "detail": f"no instrument {name!r}"}
        try:
            bars = self._platform.bars(name, period, begin, end)
        except PlatformError as error:
            return {"ok": False, "code": "not_connected", "detail": str(error)[:200]}
        count, before_ms = 0, 0
        for bar in bars:
            close_ms = _utc_ms(bar.close, self._platform.zone, after_ms=before_ms)
            before_ms, at_ms = close_ms, close_ms - _PERIODS[period]
            if begin <= at_ms < end:
                count += 1
                fields = {
                    "instrument": name,
                    "at_ms": at_ms,
                    "o": bar.o,
                    "h": bar.h,
                    "l": bar.l,
                    "c": bar.c,
                    "v": bar.v,
                }
                self._out.append((session, {"t": "bar", "rid": message["rid"], **fields}))
        return {"ok": True, "count": count}

    def _on_event(self, event: MarketEvent) -> None:
        message: Message = {}
        if isinstance(event, LastTrade):
            number = self._numbers[event.instrument] = self._numbers.get(event.instrument, 0) + 1
            message = {
                "t": "trade",
                "instrument": event.instrument,
                "n": number,
                "at_ms": event.at_ms,
                "price": event.price,
                "qty": event.qty,
                **({"side": event.side} if event.side else {}),
            }
        for (session, name), one in self._subscriptions.items():
            if isinstance(event, PlatformQuote):
                if name == event.instrument and one.wants_quotes:
                    one.newest = event
                    self._send_quote(session, one)
            elif isinstance(event, ConnectionUpdate) or name == event.instrument:
                one.quiet_since_ms = self._platform.now_ms
                self._out.append((session, message or self._status(name)))

    def _send_quote(self, session: int, subscription: _Subscription) -> None:
        """Send the newest quote, unless one was sent a moment ago."""
        quote, now_ms = subscription.newest, self._platform.now_ms
        if quote is None or now_ms - subscription.quoted_ms < QUOTE_EVERY_MS:
            return
        subscription.newest, subscription.quoted_ms = None, now_ms
        fields = {"bid": quote.bid, "bid_qty": quote.bid_qty, "ask": quote.ask, "ask_qty": quote.ask_qty}
        self._out.append((session, {"t": "quote", "instrument": quote.instrument, "at_ms": quote.at_ms, **fields}))

    def _status(self, name: str) -> Message:
        status = self._platform.price_status()
        return {"t": "md_status", "instrument": name, "price_status": status, "at_ms": self._platform.now_ms}


def _utc_ms(local: datetime, zone: tzinfo, *, after_ms: int) -> int:
    """Return the UTC milliseconds of a local time; of an hour that comes twice, the second one if the first is over."""
    first = int(local.replace(tzinfo=zone, fold=0).timestamp() * 1000)
    return first if first > after_ms else int(local.replace(tzinfo=zone, fold=1).timestamp() * 1000)


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _bad(detail: str) -> Message:
    return {"ok": False, "code": "bad_field", "detail": detail}
