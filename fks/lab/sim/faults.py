"""Injected faults: set over HTTP, matched by method and path, counted as they strike."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from fks.model.errors import invalid

#: kind -> effect. The one list of kinds: the admin API and the documentation read it.
KINDS: dict[str, str] = {
    "latency": "wait `seconds`, then do and answer as sigma_mean",
    "drop": "close the connection; nothing is done",
    "disconnect": "the same with a TCP reset",
    "reset": "another name for disconnect",
    "hang": "do nothing and do not answer for `seconds` (default 3600), then close",
    "answer_after": "do it at once, answer after `seconds`",
    "accept_then_cut": "do it, close the connection without an answer",
    "truncate": "do it, send half of the answer, close",
    "without_id": "do it, answer without the exchange's id of the order",
    "html_200": "answer 200 with an HTML page; nothing is done unless `accept`",
    "html_502": "answer 502 with an HTML page; nothing is done unless `accept`",
    "http_500": "answer 500 without JSON; nothing is done unless `accept`",
    "503": "answer 503 without JSON; nothing is done unless `accept`",
    "504_1007": "answer 504 with -1007; nothing is done unless `accept`",
    "accept_late": "answer 504 with -1007 at once, do it `seconds` (default 5) later",
    "busy_1008": "answer 503 with -1008; nothing is done",
    "error": "answer `status` (400) with `code` and `msg`; nothing is done",
    "429": "answer 429 with -1003 and Retry-After `seconds` (default 1); nothing is done",
    "418": "answer 418 with -1003 and Retry-After `seconds` (default 120); nothing is done",
    "ban": "for `seconds` (default: until cleared) every request is answered 418 with the seconds that are left",
    "skew": "answer -1021; nothing is done",
    "hide_order": "queries for an order answer as if it did not exist: the next `count`, or those of an order that is "
    "younger than `seconds`",
    "hide_balances": "the next `count` account answers have no balances (`symbol`: only that asset's is missing)",
    "lose_report": "an executionReport is not sent (`event` names its x)",
    "duplicate_report": "an executionReport is sent twice",
    "reorder_reports": "an executionReport is sent after the next user event",
    "freeze_stream": "sockets send no data for `seconds` (default: until cleared) but still answer pings; "
    "`path` /ws or /ws-api/v3; of /ws only one `symbol`, only one stream with `event` (aggTrade, kline_1s)",
    "half_open": "open sockets send and answer nothing any more until it is cleared, which cuts them",
    "cut_stream": "open sockets are cut, without a close frame",
    "stream_terminated": "user subscriptions end with eventStreamTerminated",
    "server_shutdown": "market sockets get serverShutdown, then a close frame",
    "trade_gap": "the next `count` trades (of `symbol`) are missing from the streams; REST has them",
    "duplicate_trades": "the next `count` trades (of `symbol`) are sent twice",
    "reorder_trades": "the next `count` trades (of `symbol`) are each sent after the trade that follows it",
    "thin_book": "the next `count` orders that take from the book (of `symbol`) find half of their quantity there: the "
    "rest of a limit order waits for trades, that of another order expires",
    "halt": "orders are refused: the market is closed (`symbol`, for `seconds`)",
    "too_many_1015": "new orders are refused with -1015 (`symbol`, for `seconds`); cancels and amendments pass",
    "clock_jump": "the server's clock is `seconds` ahead (negative: behind) until cleared",
}
#: kinds that act at once on what is open, and are not kept
IMMEDIATE = ("half_open", "cut_stream", "stream_terminated", "server_shutdown")
#: kinds that hold until their time is over, and are never counted down
_STATES = ("freeze_stream", "halt", "too_many_1015", "clock_jump", "ban")
_ENDED_MAX = 1000  # ended faults whose counts are kept


@dataclass(slots=True)
class Fault:
    """One fault. `path` "" is any path, `method` "" any method; `count` strikes are left (None: no end).

    `struck` counts the requests, frames or connections that it hit.
    """

    id: int
    kind: str
    path: str = ""
    method: str = ""
    count: int | None = 1
    probability: float = 1.0
    seconds: float | None = None
    symbol: str = ""
    event: str = ""
    client_order_id: str = ""
    accept: bool = False
    status: int = 400
    code: int = -1000
    msg: str = "An unknown error occurred while processing the request."
    struck: int = 0
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Properties of a possible target. None: the target has no such property, so a fault that names one does not
    match."""

    path: str | None = None
    method: str | None = None
    symbol: str | None = None
    event: str | None = None
    client_order_id: str | None = None
    rest: tuple[str, str] | None = None  # the REST request that a method of the WebSocket API is

    def fits(self, fault: Fault) -> bool:
        """Return whether the fault matches this target."""
        place = (self.path, self.method)
        if self.rest is not None and fault.path == self.rest[1]:
            place = (self.rest[1], self.rest[0])
        pairs = (
            (fault.path, place[0]),
            (fault.method, place[1]),
            (fault.symbol, self.symbol),
            (fault.event, self.event),
            (fault.client_order_id, self.client_order_id),
        )
        return all(
            not want or have is None or want == have or (want == "/ws-api/v3" and have[:1].isalpha())
            for want, have in pairs
        )


class Faults:
    """The faults that are set, and the newest that ended. Random numbers come from the exchange's seed.

    `first_id`: a number that no earlier process gave to a fault, so that an id means one fault across restarts.
    """

    def __init__(self, seed: int, first_id: int = 1) -> None:
        self._dice = random.Random(seed)  # noqa: S311 (dice, not secrets)
        self._set: dict[int, Fault] = {}
        self._ended: dict[int, Fault] = {}
        self._next_id = first_id

    def add(self, body: dict[str, object], now: float) -> Fault:
        """Set a fault from the admin's JSON. Errors: InputError FAULT_INVALID."""
        names = set(Fault.__dataclass_fields__) - {"id", "struck", "until"}
        unknown = sorted(set(body) - names)
        kind = str(body.get("kind", ""))
        if kind not in KINDS or unknown:
            what = f"unknown field {unknown[0]!r}" if unknown else f"unknown kind {kind!r}"
            legal = ", ".join(sorted(names) if unknown else KINDS)
            raise invalid("FAULT_INVALID", f"fault: {what}", f"use one of {legal}")
        try:
            fault = Fault(self._next_id, **(body | {"kind": kind}))  # type: ignore[arg-type]
            fault.method, fault.probability = str(fault.method).upper(), float(fault.probability)
            fault.count = None if fault.count is None else int(fault.count)
            fault.seconds = None if fault.seconds is None else float(fault.seconds)
        except (TypeError, ValueError) as error:
            raise invalid("FAULT_INVALID", f"fault: {error}", "count, seconds: numbers") from error
        if kind in _STATES:
            fault.count = None
            fault.until = None if fault.seconds is None or kind == "clock_jump" else now + fault.seconds
        if kind == "hide_order" and fault.seconds is not None and "count" not in body:
            fault.count = None  # the age of the order decides
        self._next_id += 1
        self._set[fault.id] = fault
        if kind in IMMEDIATE:
            self._end(fault)
        return fault

    def clear(self, fault_id: int | None = None) -> list[Fault]:
        """Remove one fault or all; return those that were set."""
        gone = [fault for fault in self._set.values() if fault_id in (None, fault.id)]
        for fault in gone:
            self._end(fault)
        return gone

    def rows(self, fault_id: int | None = None) -> list[dict[str, object]]:
        """Return the faults that are set as JSON objects, or one fault, also when it has ended."""
        if fault_id is None:
            return [asdict(fault) for fault in self._set.values()]
        found = self._set.get(fault_id) or self._ended.get(fault_id)
        return [] if found is None else [asdict(found)]

    def _end(self, fault: Fault) -> None:
        del self._set[fault.id]
        self._ended[fault.id] = fault
        if len(self._ended) > _ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def strike(self, kinds: tuple[str, ...], at: Target, *, age_s: float = 0.0) -> Fault | None:
        """Return the first fault of `kinds` that strikes here, counted down; None when none does.

        `age_s` is the age of the queried order: a hide_order with `seconds` strikes younger ones only.
        """
        if not self._set:
            return None
        for fault in list(self._set.values()):
            if fault.kind not in kinds or not at.fits(fault):
                continue
            if fault.kind == "hide_order" and fault.seconds is not None and age_s >= fault.seconds:
                continue
            if fault.probability < 1.0 and self._dice.random() >= fault.probability:
                continue
            fault.struck += 1
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    self._end(fault)
            return fault
        return None

    def holds(self, kind: str, now: float, at: Target, *, is_struck: bool = True) -> Fault | None:
        """Return a fault that is a state (_STATES) and holds now; counts it as a strike unless `is_struck` is False."""
        for fault in list(self._set.values()) if self._set else ():
            if fault.until is not None and now >= fault.until:
                self._end(fault)
            elif fault.kind == kind and at.fits(fault):
                fault.struck += is_struck
                return fault
        return None
