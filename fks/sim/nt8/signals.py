"""The life of one signal at the bridge: the table of its states, its exit orders, its content."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.sim.nt8.platform import TERMINAL

# (state, event) -> next state. A pair that is not here changes nothing.
# Events: returned: Submit returned; lost: it threw, or a restart came between; failed: CreateOrder gave nothing;
# live: the platform reports the order alive; filled: an execution of the entry; rejected, ended: its end
# without a fill; absent, doubtful: outcome of the search after a restart; cancel: its cancellation was asked for;
# expired: it ended after `valid_until`; flatten, flat: its instrument is being closed, is closed; shown: given to a
# person; due: its time is over.
TABLE: dict[tuple[str, str], str] = {
    ("intent", "returned"): "submitted",
    ("intent", "lost"): "indeterminate",
    ("intent", "failed"): "nacked",
    ("intent", "shown"): "relayed",
    ("intent", "due"): "expired",
    ("relayed", "due"): "expired",
    ("indeterminate", "returned"): "submitted",
    ("indeterminate", "absent"): "not_submitted",
    ("indeterminate", "doubtful"): "ambiguous",
    ("submitted", "doubtful"): "ambiguous",
    ("working", "doubtful"): "ambiguous",
    ("cancelling", "doubtful"): "ambiguous",
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
    # a fill is accepted in every state, also after the end
    (state, "filled"): "open"
    for state in (
        "intent", "indeterminate", "ambiguous", "submitted", "working", "cancelling", "cancelled", "expired",
        "rejected", "not_submitted", "closed",
    )
}  # fmt: skip

FINAL = frozenset({"closed", "rejected", "cancelled", "expired", "nacked", "not_submitted"})
# the states that an `ev` reports; the others show in order events and in `status`
REPORTED = frozenset({"submitted", "open", "closed", "rejected", "cancelled", "expired", "not_submitted", "ambiguous"})
PROTECTIVE = frozenset({"Accepted", "Working", "Suspended", "PartFilled", "ChangePending", "ChangeSubmitted"})
LIVE = PROTECTIVE | {"TriggerPending", "CancelPending", "CancelSubmitted"}
ORDER_NAME = re.compile(r"FKS:([A-Za-z0-9_-]{1,32}):([EST])([2-9]|[1-9][0-9])?")

_TIMES = ("t", "created_ms", "valid_until")


@dataclass(slots=True)
class Leg:
    """One order of a signal as the bridge knows it: role E entry, S stop, T target. `filled` counts executions."""

    name: str
    role: str
    lot: int
    qty: int
    price: Decimal | None
    state: str = "Initialized"
    filled: int = 0
    reported: tuple[object, ...] = ()
    asked_ms: int = -10_000  # when a Change or Cancel was last sent
    is_cancel_asked: bool = False
    failures: int = 0

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL or self.state == "missing"

    @property
    def left(self) -> int:
        return 0 if self.is_over else max(self.qty - self.filled, 0)


@dataclass(slots=True)
class Signal:
    """One signal. `fields` is the message; `filled` and `exited` count executions of the entry and of its exits."""

    id: str
    fields: dict[str, Any]
    state: str
    at_ms: int
    account: str
    instrument: str
    is_buy: bool
    qty: int
    is_exit: bool = False
    code: str = ""
    detail: str = ""
    is_recovered: bool = False
    filled: int = 0
    exited: int = 0
    paid: Decimal = Decimal(0)
    closing: int = 0  # of the open quantity, reserved by an exit signal
    lots: int = 0
    repairs: int = 0
    lacking_since_ms: int | None = None
    surplus_since_ms: int | None = None
    is_expiring: bool = False
    is_cancel_wanted: bool = False
    legs: dict[str, Leg] = field(default_factory=dict)

    @property
    def entry_name(self) -> str:
        return f"FKS:{self.id}:E"

    @property
    def entry(self) -> Leg:
        return self.legs[self.entry_name]

    @property
    def open_qty(self) -> int:
        return 0 if self.is_exit else max(self.filled - self.exited, 0)

    @property
    def is_working(self) -> bool:
        """Return whether the entry may still fill."""
        return self.entry.left > 0 and self.state not in FINAL and self.state != "relayed"

    @property
    def avg_price(self) -> Decimal:
        return (self.paid / self.filled).quantize(Decimal("0.0000001")) if self.filled else Decimal(0)

    @property
    def valid_until(self) -> int:
        return int(self.fields.get("valid_until", 0))

    @property
    def has_stop(self) -> bool:
        return "sl_points" in self.fields or "sl_price" in self.fields

    def closes(self, signal_id: str) -> bool:
        """Return whether this exit closes what a signal has opened: without `entries` it closes all."""
        entries = self.fields.get("entries")
        return entries is None or signal_id in entries

    def role(self, role: str) -> list[Leg]:
        """Return the legs of a role, oldest first."""
        return sorted((leg for leg in self.legs.values() if leg.role == role), key=lambda leg: leg.lot)

    def leg(self, role: str, lot: int) -> str:
        """Return the order name of a role and lot."""
        return f"FKS:{self.id}:{role}{lot if lot > 1 else ''}"


def content(fields: dict[str, Any]) -> str:
    """Return a hash of what a signal asks for; its times are left out, as a repeated line may carry later ones."""
    kept = {name: value for name, value in fields.items() if name not in _TIMES}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> str:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
