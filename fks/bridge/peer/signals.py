"""A signal at the bridge: its fields, its prices on the tick, the table of its states. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.bridge.peer.platform import TERMINAL, PlatformContract, Quantity

Message = dict[str, Any]
Nack = tuple[str, str]  # code, detail
Form = tuple[Callable[[Any], bool], str]  # whether a value is good, and what it has to be

# (state, event) -> next state. A pair that is not here changes nothing.
# Events: returned: Submit returned; lost: it threw, or a restart came between; live: the platform reports the order
# alive; filled: an execution of the entry; rejected, ended: its end without a fill; absent, doubtful: outcome of the
# search after a restart; cancel: its cancellation was asked for; expired: it ended after `valid_until`; flatten, flat:
# its instrument is being closed, is closed; due: its time is over.
TABLE: dict[tuple[str, str], str] = {
    ("intent", "returned"): "submitted",
    ("intent", "lost"): "indeterminate",
    ("intent", "due"): "expired",
    ("relayed", "due"): "expired",
    ("indeterminate", "returned"): "submitted",
    ("indeterminate", "absent"): "not_submitted",
    ("ambiguous", "returned"): "submitted",
    ("submitted", "live"): "working",
    ("submitted", "cancel"): "cancelling",
    ("working", "cancel"): "cancelling",
    ("open", "flatten"): "flattening",
    ("open", "flat"): "closed",
    ("flattening", "flat"): "closed",
} | {
    (state, event): end
    for state in ("indeterminate", "ambiguous", "submitted", "working", "cancelling")
    for event, end in (("rejected", "rejected"), ("ended", "cancelled"), ("expired", "expired"))
} | {
    (state, "live"): "working" for state in ("indeterminate", "ambiguous")
} | {
    (state, "doubtful"): "ambiguous" for state in ("indeterminate", "submitted", "working", "cancelling")
} | {
    # a fill is accepted in every state, also after the end
    (state, "filled"): "open"
    for state in (
        "intent", "indeterminate", "ambiguous", "submitted", "working", "cancelling", "cancelled", "expired",
        "rejected", "not_submitted", "nacked", "closed",
    )
}  # fmt: skip
FINAL = frozenset({"closed", "rejected", "cancelled", "expired", "nacked", "not_submitted"})
# the states that an `ev` reports; the others show in order events and in `status`
REPORTED = frozenset({"submitted", "open", "closed", "rejected", "cancelled", "expired", "not_submitted", "ambiguous"})
PROTECTIVE = frozenset({"Accepted", "Working", "Suspended", "PartFilled", "ChangePending", "ChangeSubmitted"})
LIVE = PROTECTIVE | {"TriggerPending", "CancelPending", "CancelSubmitted"}
ORDER_NAME = re.compile(r"FKS:([A-Za-z0-9_-]{1,32}):([EST])([2-9]|[1-9][0-9])?")

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ENTRIES_MAX = 100
_DAY_MS = 86_400_000
_AVERAGE_STEP = Decimal("0.0000001")
_TIMES = ("t", "created_ms", "valid_until")
_BRACKET = ("sl_points", "sl_price", "tp_points", "tp_price")


@dataclass(slots=True)
class BridgeSignal:
    """One signal. `fields` is the message; `filled` and `exited` count executions of the entry and of its exits.

    `price`: of the newest execution of the entry, from which the next bracket counts; `moved`: bracket prices that a
    `modify` gave; `closing`: of the open quantity, reserved by exit signals; `seen`: reported values, by order name.
    """

    id: str
    fields: Message
    state: str
    at_ms: int
    qty: Quantity
    code: str = ""
    detail: str = ""
    is_recovered: bool = False
    is_cancel_wanted: bool = False
    filled: Quantity = 0
    exited: Quantity = 0
    paid: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    closing: Quantity = 0
    moved: dict[str, Decimal] = field(default_factory=dict)
    seen: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def account(self) -> str:
        return str(self.fields.get("account", ""))

    @property
    def instrument(self) -> str:
        return str(self.fields.get("instrument", ""))

    @property
    def key(self) -> tuple[str, str]:
        return self.account, self.instrument

    @property
    def is_exit(self) -> bool:
        return self.fields.get("action") == "exit"

    @property
    def is_buy(self) -> bool:
        return self.fields.get("action") in ("buy", "long")

    @property
    def entry_name(self) -> str:
        return f"FKS:{self.id}:E"

    @property
    def entry_left(self) -> Quantity:
        """Return the quantity of the entry that may still fill, as far as its reports say."""
        is_over = self.seen.get(self.entry_name, [""])[0] in TERMINAL
        return 0 if is_over else max(self.qty - self.filled, 0)

    @property
    def open_qty(self) -> Quantity:
        return 0 if self.is_exit else max(self.filled - self.exited, 0)

    @property
    def is_working(self) -> bool:
        """Return whether the entry may still fill."""
        return self.entry_left > 0 and self.state not in FINAL and self.state != "relayed"

    @property
    def avg_price(self) -> Decimal:
        return (self.paid / self.filled).quantize(_AVERAGE_STEP) if self.filled else Decimal(0)

    @property
    def valid_until(self) -> int:
        return int(self.fields.get("valid_until", 0))

    def closes(self, signal_id: str) -> bool:
        """Return whether this exit closes what a signal has opened: without `entries` it closes all."""
        entries = self.fields.get("entries")
        return entries is None or signal_id in entries


def content(fields: Message) -> str:
    """Return a hash of a signal's request; its times are left out, as a repeated line may carry later ones."""
    kept = {name: value for name, value in fields.items() if name not in _TIMES}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> str:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)


# ── fields ────────────────────────────────────────────────────────────────────────────────────────


def is_id(value: object) -> bool:
    """Return whether `value` may be the id of a signal."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _one_of(*words: str) -> Form:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(sorted(words))}"


def _text(most: int) -> Form:
    return lambda value: isinstance(value, str) and 0 < len(value) <= most, f"text of at most {most} characters"


def _are_entries(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _ENTRIES_MAX and all(map(is_id, value))


_ANY: Form = (lambda _: True, "")
_TEXT: Form = (lambda value: isinstance(value, str), "a text")
_WHOLE_MS: Form = (_is_whole, "whole milliseconds")
_PRICE: Form = (lambda value: _is_number(value) and value > 0, "a number above 0")
_POINTS: Form = (lambda value: _is_number(value) and value >= 0, "a number from 0")
_NAMES: Form = (
    lambda value: value == "all" or (isinstance(value, list) and all(isinstance(one, str) for one in value)),
    'a list of names or "all"',
)
_SIGNAL: dict[str, Form] = {
    "t": _ANY, "id": _ANY, "action": _one_of("buy", "sell", "long", "short", "exit"),
    "type": _one_of("market", "limit", "stop", "stop_limit"), "tif": _one_of("day", "gtc", "ioc"),
    "account": _text(64), "instrument": _text(32), "strategy": _text(32), "note": _text(120),
    "entries": (_are_entries, f"1 to {_ENTRIES_MAX} ids, and only of an exit"),
    "qty": (lambda value: _is_whole(value) and value >= 1, "a whole number from 1"),
    "created_ms": _WHOLE_MS, "valid_until": _WHOLE_MS, "price": _PRICE, "stop_price": _PRICE, "sl_price": _PRICE,
    "tp_price": _PRICE, "sl_points": _POINTS, "tp_points": _POINTS,
}  # fmt: skip
_SIGNAL_LOTS = _SIGNAL | {
    "qty": (lambda value: isinstance(value, Decimal) and value > 0, "a text with a number of lots above 0")
}
_REQUESTS: dict[str, dict[str, Form]] = {
    "cancel": {"id": _TEXT},
    "modify": {"id": _TEXT, "sl_price": _PRICE, "tp_price": _PRICE},
    "flatten": {"account": _TEXT, "instruments": _NAMES, "reason": _TEXT},
    "kill": {"reason": _TEXT},
    "resume": {"reason": _TEXT},
}
_NEEDED = {"cancel": ("id",), "modify": ("id",), "flatten": ("account", "instruments")}


def _check(message: Message, forms: Mapping[str, Form], needed: Iterable[str]) -> Nack | None:
    if unknown := sorted(message.keys() - forms.keys()):
        return "unknown_field", f"unknown field {unknown[0]!r}"
    if missing := [name for name in needed if message.get(name) is None]:
        return "missing_field", f"missing field {missing[0]!r}"
    for name, (is_good, text) in forms.items():
        if message.get(name) is not None and not is_good(message[name]):
            return "bad_field", f"{name}: {text}"
    return None


def check_request(message: Message) -> Nack | None:
    """Return why a request cannot be understood, or None."""
    kind = message["t"]
    return _check(message, {"t": _ANY, "rid": _ANY, **_REQUESTS[kind]}, _NEEDED.get(kind, ()))


def check_signal(message: Message, now_ms: int, *, has_lots: bool = False) -> Nack | None:
    """Return why a `signal` message cannot be understood, or None. The first finding answers."""
    if not is_id(message.get("id")):
        return "bad_field", "id: 1 to 32 of A-Z a-z 0-9 _ -"
    is_exit, kind = message.get("action") == "exit", message.get("type", "market")
    needed = ["account", "instrument", "action", "created_ms", "valid_until"] + ([] if is_exit else ["qty", "type"])
    if found := _check(message, _SIGNAL_LOTS if has_lots else _SIGNAL, needed):
        return found
    if "entries" in message and not is_exit:
        return "bad_field", f"entries: {_SIGNAL['entries'][1]}"
    if message["valid_until"] - now_ms > _DAY_MS:
        return "bad_field", "valid_until: at most 24 h ahead"
    for name, kinds in (("price", ("limit", "stop_limit")), ("stop_price", ("stop", "stop_limit"))):
        if kind in kinds and message.get(name) is None:
            return "missing_field", f"missing field {name!r}: type is {kind}"
    if is_exit:
        if kind != "market" or any(message.get(name) is not None for name in ("price", "stop_price", *_BRACKET)):
            return "bad_field", "an exit is a market order without prices and bracket"
        return None
    for side in ("sl", "tp"):
        if message.get(f"{side}_points") is not None and message.get(f"{side}_price") is not None:
            return "bad_field", f"{side}_points and {side}_price exclude each other"
    return None


# ── prices ────────────────────────────────────────────────────────────────────────────────────────


def used_prices(message: Message, contract: PlatformContract) -> dict[str, Decimal]:
    """Return the prices on the tick: an entry's limit is never worse than asked, its stop never earlier."""
    if message["action"] == "exit":
        return {}
    is_buy = message["action"] in ("buy", "long")
    used: dict[str, Decimal] = {}
    if message.get("price") is not None and message["type"] in ("limit", "stop_limit"):
        price = Decimal(message["price"])
        used["price_used"] = contract.floor(price) if is_buy else contract.ceiling(price)
    if message.get("stop_price") is not None and message["type"] in ("stop", "stop_limit"):
        price = Decimal(message["stop_price"])
        used["stop_used"] = contract.ceiling(price) if is_buy else contract.floor(price)
    anchor = used.get("price_used", used.get("stop_used"))
    if anchor is not None or "sl_price" in message or "tp_price" in message:
        base = anchor if anchor is not None else Decimal(0)
        absolute = {name: value for name, value in message.items() if anchor is not None or name.endswith("_price")}
        stop, target = bracket_prices(absolute, contract, base, is_buy=is_buy)
        used |= {"sl_used": stop} if stop is not None else {}
        used |= {"tp_used": target} if target is not None else {}
    return used


def bracket_prices(
    fields: Message, contract: PlatformContract, fill: Decimal, *, is_buy: bool
) -> tuple[Decimal | None, Decimal | None]:
    """Return stop and target of a fill at `fill`, on the tick, rounded toward the entry."""
    sign = 1 if is_buy else -1
    stop = fields.get("sl_price")
    if stop is None and fields.get("sl_points") is not None:
        stop = fill - sign * fields["sl_points"]
    target = fields.get("tp_price")
    if target is None and fields.get("tp_points") is not None:
        target = fill + sign * fields["tp_points"]
    up, down = contract.ceiling, contract.floor
    return (
        None if stop is None else (up if is_buy else down)(Decimal(stop)),
        None if target is None else (down if is_buy else up)(Decimal(target)),
    )


def check_bracket(message: Message, contract: PlatformContract, last: Decimal) -> Nack | None:
    """Return why a bracket cannot be: below a tick, or on the wrong side of the entry; None when it can."""
    is_buy = message["action"] in ("buy", "long")
    for name in ("sl_points", "tp_points"):
        value = message.get(name)
        if value is not None and value < contract.tick:
            return "bad_bracket", f"{name} {value} is below one tick of {contract.tick}"
    anchor = Decimal(message.get("price") or message.get("stop_price") or last)
    stop, target = bracket_prices(message, contract, anchor, is_buy=is_buy)
    for leg, price, is_above in (("stop", stop, not is_buy), ("target", target, is_buy)):
        if price is not None and (price <= anchor if is_above else price >= anchor):
            return "bad_bracket", f"the {leg} {price} is on the wrong side of {anchor}"
    return None
