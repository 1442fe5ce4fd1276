"""Classification of a call's outcome: the table of docs/venues.md and the one function that reads it.

It decides two questions, in this order: whether bytes left, and whether the venue itself refused. ccxt's exception
classes answer neither (a truncated body looks like a refusal, HTML with status 200 raises nothing), so the table reads
the wire: whether the request's headers were handed to a socket, the HTTP status, and the venue's own code and text. A
result without a row is AMBIGUOUS. Only a 4xx that carries the venue's code can be a definitive refusal: Binance's 5xx
mean "status unknown".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fks.model.codes import Code
from fks.model.order import Outcome, Refusal
from fks.trading.venues.base import BANNED_STATUS, gate_refusal

_SECRETS = re.compile(r"(signature|apiKey|X-MBX-APIKEY)=[^&\s\"']+", re.IGNORECASE)
_DETAIL_MAX = 500
_BODY_MAX = 2000
_BY_ENGINE = "refused by the matching engine"
_BY_FILTER = "a filter failed, or the market is closed"
_BY_PARAMETER = "a parameter is malformed or missing"


@dataclass(slots=True)
class CallCourse:
    """The course of one HTTP call on the wire. `bytes_left` is set just before the request's first byte is written.

    `may_leave` is asked at that very moment; when it says no, nothing is written and `is_held_back` is set.
    """

    bytes_left: bool = False
    may_leave: Callable[[], bool] | None = None
    is_held_back: bool = False
    status: int | None = None
    body: str = ""
    payload: Any = None
    retry_after_s: float | None = None
    used_weight: int | None = None  # of the minute, as the venue reports it
    used_orders: int | None = None  # of 10 seconds
    sent_s: float = 0.0  # monotonic time of the call
    now_ns: Callable[[], int] | None = None
    sent_ns: int | None = None  # time of the first byte

    def note_first_byte(self) -> None:
        """Take note that bytes leave from now on."""
        if not self.bytes_left and self.now_ns is not None:
            self.sent_ns = self.now_ns()
        self.bytes_left = True

    def note(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        """Take note of an HTTP answer."""
        self.status = status
        self.body = body[:_BODY_MAX]
        try:
            self.payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            self.payload = None
        lower = {name.lower(): value for name, value in headers.items()}
        try:
            wait_s = float(lower.get("retry-after", ""))
        except ValueError:
            wait_s = math.nan
        # "nan" and "inf" are floats, and would pause all processes for ever
        self.retry_after_s = wait_s if 0 <= wait_s < math.inf else None
        self.used_weight = _count_in(lower, "x-mbx-used-weight-1m")
        self.used_orders = _count_in(lower, "x-mbx-order-count-10s")

    def note_limits(self, rows: object) -> None:
        """Take note of the `rateLimits` of the WebSocket API."""
        for row in rows if isinstance(rows, list) else ():
            kind, interval, number = row.get("rateLimitType"), row.get("interval"), row.get("intervalNum")
            if (kind, interval, number) == ("REQUEST_WEIGHT", "MINUTE", 1):
                self.used_weight = row.get("count")
            elif (kind, interval, number) == ("ORDERS", "SECOND", 10):
                self.used_orders = row.get("count")

    def note_retry(self, error: object) -> None:
        """Take note of the time in `data` until which the WebSocket API asks us to wait (429, 418)."""
        data = error.get("data") if isinstance(error, dict) else None
        if (
            isinstance(data, dict)
            and isinstance(data.get("retryAfter"), int)
            and isinstance(data.get("serverTime"), int)
        ):
            self.retry_after_s = max((data["retryAfter"] - data["serverTime"]) / 1000, 0.0)

    @property
    def code(self) -> int | None:
        """Return the venue's own error code, when the body is its JSON."""
        value = self.payload.get("code") if isinstance(self.payload, dict) else None
        return value if isinstance(value, int) else None

    @property
    def text(self) -> str:
        """Return the venue's own error text, or nothing."""
        value = self.payload.get("msg") if isinstance(self.payload, dict) else None
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """One definitive row: `first` ≥ code ≥ `last` in a 4xx, with `text` in the message, means `outcome` and
    `refusal`."""

    first: int
    last: int
    outcome: Outcome
    why: str
    text: str = ""
    refusal: Refusal | None = Refusal.OTHER

    def fits(self, code: int, text: str) -> bool:
        return self.last <= code <= self.first and self.text in text


#: The rows that are not UNKNOWN, most specific first. Texts as on Binance's page of error codes (read 2026-07).
DEFINITIVE: tuple[RefusalRow, ...] = (
    RefusalRow(-2010, -2010, Outcome.EXISTS, "the id is known: the order exists", "Duplicate order sent.", None),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "insufficient balance", Refusal.INSUFFICIENT_BALANCE),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "would trigger immediately", Refusal.WOULD_TRIGGER),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "would immediately match", Refusal.WOULD_MATCH),
    # an OCO whose stop or limit the market has passed already
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "relationship of the prices", Refusal.WOULD_TRIGGER),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "Market is closed", Refusal.HALTED),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "liquidity is less than", Refusal.UNAVAILABLE),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "QTY is zero or less", Refusal.QUANTITY),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "disabled", Refusal.PERMISSION),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "not enabled", Refusal.PERMISSION),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "may not place or cancel", Refusal.PERMISSION),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "not permitted", Refusal.PERMISSION),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE, "not supported for this symbol", Refusal.PERMISSION),
    RefusalRow(-2010, -2010, Outcome.REFUSED, _BY_ENGINE),
    RefusalRow(-1003, -1003, Outcome.REFUSED, "too many requests: refused at the gate", refusal=Refusal.RATE_LIMITED),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "Market is closed", Refusal.HALTED),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "PRICE_FILTER", Refusal.PRICE),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "PERCENT_PRICE", Refusal.PRICE),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "LOT_SIZE", Refusal.QUANTITY),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "NOTIONAL", Refusal.QUANTITY),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "Invalid quantity", Refusal.QUANTITY),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "Invalid price", Refusal.PRICE),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "MAX_NUM", Refusal.TOO_MANY_ORDERS),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER, "not supported for this symbol", Refusal.PERMISSION),
    RefusalRow(-1013, -1013, Outcome.REFUSED, _BY_FILTER),
    RefusalRow(-1015, -1015, Outcome.REFUSED, "too many orders: refused at the gate", refusal=Refusal.RATE_LIMITED),
    RefusalRow(
        -1021, -1021, Outcome.REFUSED, "the timestamp is outside the window: compare clocks", refusal=Refusal.CLOCK_SKEW
    ),
    RefusalRow(-1022, -1022, Outcome.REFUSED, "the signature is wrong: halt the account", refusal=Refusal.PERMISSION),
    RefusalRow(-1111, -1111, Outcome.REFUSED, _BY_PARAMETER, "'price'", Refusal.PRICE),
    RefusalRow(-1111, -1111, Outcome.REFUSED, _BY_PARAMETER, "Price'", Refusal.PRICE),
    RefusalRow(-1111, -1111, Outcome.REFUSED, _BY_PARAMETER, refusal=Refusal.QUANTITY),
    RefusalRow(-1116, -1116, Outcome.REFUSED, _BY_PARAMETER, refusal=Refusal.PERMISSION),
    RefusalRow(-1100, -1130, Outcome.REFUSED, _BY_PARAMETER),
    RefusalRow(-2038, -2038, Outcome.REFUSED, "the amendment is refused: the order is as it was"),
    RefusalRow(
        -2014, -2015, Outcome.REFUSED, "the key is not valid here: halt the account", refusal=Refusal.PERMISSION
    ),
)
#: the reject reasons of an executionReport; a REJECTED order with another reason, or none, is OTHER
REJECT_REASONS: dict[str, Refusal] = {
    "INSUFFICIENT_BALANCES": Refusal.INSUFFICIENT_BALANCE,
    "STOP_PRICE_WOULD_TRIGGER_IMMEDIATELY": Refusal.WOULD_TRIGGER,
    "WOULD_MATCH_IMMEDIATELY": Refusal.WOULD_MATCH,
    "OCO_BAD_PRICES": Refusal.WOULD_TRIGGER,
}
#: the reasons of an expiry that are a refusal: of an exit when its entry had filled, of a triggered stop's execution.
#: An order that ended with another of its list, or by its time in force, has no refusal
EXPIRIES: dict[str, Refusal] = {
    "REJECTED": Refusal.OTHER,
    "EXECUTION_RULE_PRICE_RANGE_EXCEEDED": Refusal.PRICE,
    "INSUFFICIENT_LIQUIDITY": Refusal.PRICE,
}
GATE_STATUSES = frozenset({BANNED_STATUS, 429})
UNKNOWN_ORDER = -2011  # on a cancel: not open any more, which is no proof of absence
UNKNOWN_SYMBOL = -1121
NO_SUCH_ORDER = -2013  # on a query: one poll of C5


@dataclass(frozen=True, slots=True)
class Classification:
    """The outcome of a call. `code` is the venue's code as text, or ours when nothing left; `refusal` is set when
    REFUSED."""

    outcome: Outcome
    code: str | None
    detail: str
    retry_after_s: float | None = None
    refusal: Refusal | None = None


def unsent_of(wire: CallCourse, error: BaseException | None, *, is_network: bool) -> Classification | None:
    """Return the refusal of a call of which no byte left, or None when bytes left. `is_network`: as for `classify`."""
    detail = describe(wire, error)
    if wire.is_held_back and not wire.bytes_left:  # aiohttp sends a DELETE again when the connection was gone
        held = "nothing was sent: the lease is not held"
        return Classification(Outcome.REFUSED, str(Code.NOT_LEADER), held, refusal=Refusal.NOT_SENT)
    if wire.bytes_left:
        return None
    code, refusal = (Code.VENUE_DOWN, Refusal.UNAVAILABLE) if is_network else (Code.CLIENT_VALIDATION, Refusal.OTHER)
    return Classification(Outcome.REFUSED, str(code), f"nothing was sent: {detail}", refusal=refusal)


def classify(wire: CallCourse, error: BaseException | None, *, is_network: bool = False) -> Classification:
    """Return the outcome of a send or a cancel that did not succeed.

    `error` is the exception (None: an answer came but is not the needed one), `is_network` whether it is of a network
    class: that only changes the text for a call of which no byte left.
    """
    if (unsent := unsent_of(wire, error, is_network=is_network)) is not None:
        return unsent
    detail = describe(wire, error)
    venue_code = wire.code
    shown = None if venue_code is None else str(venue_code)
    if wire.status in GATE_STATUSES and venue_code is not None:
        return Classification(Outcome.REFUSED, shown, detail, wire.retry_after_s, gate_refusal(wire.status))
    if venue_code is not None and wire.status is not None and 400 <= wire.status < 500:
        for row in DEFINITIVE:
            if row.fits(venue_code, wire.text):
                return Classification(row.outcome, shown, f"{row.why}: {detail}", wire.retry_after_s, row.refusal)
    return Classification(Outcome.AMBIGUOUS, shown, detail, wire.retry_after_s)


def _count_in(headers: Mapping[str, str], name: str) -> int | None:
    value = headers.get(name, "")
    return int(value) if value.isdecimal() else None


def expiry_refusal(code: str | None, reason: str | None = None) -> Refusal | None:
    """Return why an order was let expire, from the reasons of its expiry and of its reject (`REJECT_REASONS`); None: it
    was not refused."""
    found = EXPIRIES.get(code or "")
    return found and REJECT_REASONS.get(reason or "", found)


def reject_refusal(reason: str | None) -> Refusal:
    """Return what the reject reason of an executionReport means."""
    return REJECT_REASONS.get(reason or "", Refusal.OTHER)


def describe(wire: CallCourse, error: BaseException | None) -> str:
    """Return one line about a call for logs and events: exception, status and raw body, secrets blanked."""
    parts = []
    if error is not None:
        parts.append(f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__)
    if wire.status is not None and not (parts and parts[0].endswith(f": HTTP {wire.status}")):
        parts.append(f"HTTP {wire.status}")
    if wire.body and wire.body not in " ".join(parts):
        parts.append(" ".join(wire.body.split()))
    line = "; ".join(parts) or "no answer"
    return _SECRETS.sub(r"\1=…", line)[:_DETAIL_MAX]
