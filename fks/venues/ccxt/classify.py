"""What the outcome of a call means: peers.md §6.1 as a table and the one function that reads it.

Two questions, in this order: did bytes leave, and did the venue itself say no? ccxt's exception classes answer neither
(a truncated body looks like a refusal, HTML with status 200 raises nothing), so the table reads the wire: whether the
request's headers were handed to a socket, the HTTP status, and the venue's own code and text. Whatever no row names is
AMBIGUOUS. Only a 4xx that carries the venue's code can be a definitive no: Binance's 5xx mean "status unknown".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fks.model.codes import Code
from fks.model.order import Outcome

_SECRETS = re.compile(r"(signature|apiKey|X-MBX-APIKEY)=[^&\s\"']+", re.IGNORECASE)
_DETAIL_MAX = 500


@dataclass(slots=True)
class Wire:
    """What was seen on the wire of one HTTP call. `bytes_left` is set just before the request's first byte is written.

    `may_leave` is asked at that very moment; when it says no, nothing is written and `is_held_back` is set.
    """

    bytes_left: bool = False
    may_leave: Callable[[], bool] | None = None
    is_held_back: bool = False
    status: int | None = None
    body: str = ""
    payload: Any = None
    retry_after_s: float | None = None

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
class Row:
    """One definitive row: `first` ≥ code ≥ `last` in a 4xx, with `text` in the message, means `outcome`."""

    first: int
    last: int
    outcome: Outcome
    why: str
    text: str = ""

    def fits(self, code: int, text: str) -> bool:
        return self.last <= code <= self.first and self.text in text


#: The rows that are not UNKNOWN, most specific first.
DEFINITIVE: tuple[Row, ...] = (
    Row(-2010, -2010, Outcome.EXISTS, "the id is known: the order exists", "Duplicate order sent."),
    Row(-2010, -2010, Outcome.REFUSED, "refused by the matching engine"),
    Row(-1003, -1003, Outcome.REFUSED, "too many requests: refused at the gate"),
    Row(-1013, -1013, Outcome.REFUSED, "a filter failed, or the market is closed"),
    Row(-1015, -1015, Outcome.REFUSED, "too many orders: refused at the gate"),
    Row(-1021, -1021, Outcome.REFUSED, "the timestamp is outside the window: compare clocks"),
    Row(-1022, -1022, Outcome.REFUSED, "the signature is wrong: halt the account"),
    Row(-1100, -1130, Outcome.REFUSED, "a parameter is malformed or missing"),
    Row(-2014, -2015, Outcome.REFUSED, "the key is not valid here: halt the account"),
)
#: Codes seen in a 4xx that say nothing about the order (named so that a reader does not wonder).
AMBIGUOUS_CODES = frozenset({-1000, -1001, -1004, -1006, -1007, -1008})
GATE_STATUSES = frozenset({418, 429})
UNKNOWN_ORDER = -2011  # on a cancel: not open any more, which is no proof of absence
NO_SUCH_ORDER = -2013  # on a query: one poll of C5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a call came to. `code` is the venue's code as text, or ours when nothing left."""

    outcome: Outcome
    code: str | None
    detail: str
    retry_after_s: float | None = None


def classify(wire: Wire, error: BaseException | None, *, is_network: bool = False) -> Verdict:
    """Return what a send or a cancel came to, for a call that did not succeed.

    `error` is what was raised (None: an answer came but is not the one we need), `is_network` whether it is of a
    network class: that only chooses the words for a call of which no byte left.
    """
    detail = describe(wire, error)
    if wire.is_held_back and not wire.bytes_left:  # aiohttp sends a DELETE again when the connection was gone
        return Verdict(Outcome.REFUSED, str(Code.NOT_LEADER), "nothing was sent: the lease is not held")
    if not wire.bytes_left:
        code = Code("VENUE_DOWN") if is_network else Code("CLIENT_VALIDATION")
        return Verdict(Outcome.REFUSED, str(code), f"nothing was sent: {detail}")
    venue_code = wire.code
    shown = None if venue_code is None else str(venue_code)
    if wire.status in GATE_STATUSES and venue_code is not None:
        return Verdict(Outcome.REFUSED, shown, detail, wire.retry_after_s)
    if venue_code is not None and wire.status is not None and 400 <= wire.status < 500:
        for row in DEFINITIVE:
            if row.fits(venue_code, wire.text):
                return Verdict(row.outcome, shown, f"{row.why}: {detail}", wire.retry_after_s)
    return Verdict(Outcome.AMBIGUOUS, shown, detail, wire.retry_after_s)


def describe(wire: Wire, error: BaseException | None) -> str:
    """Return one line about a call for logs and events: what was raised, status and raw body, secrets blanked."""
    parts = []
    if error is not None:
        parts.append(f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__)
    if wire.status is not None:
        parts.append(f"HTTP {wire.status}")
    if wire.body and wire.body not in " ".join(parts):
        parts.append(" ".join(wire.body.split()))
    line = "; ".join(parts) or "no answer"
    return _SECRETS.sub(r"\1=…", line)[:_DETAIL_MAX]
