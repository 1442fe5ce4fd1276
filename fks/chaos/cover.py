"""The invariant of protection, sampled from the exchange's own state while a chaos run goes on.

For each position with a stop loss: live stops plus exit orders that are live or of unknown outcome at the exchange
(a waiting exit does not count) make up the quantity held, without dust, within WITHIN_S; or a page is open. The
quantity
held is the sum of the exchange's executions, never our own rows. The journal is used only for the owner of an order and
the stop loss of an entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.chaos.auditor import net

Row = Mapping[str, Any]
Key = tuple[str, str]  # symbol, instance

WITHIN_S = 5.0
_UNDECIDED = ("SENDING", "UNKNOWN")
_CLOSING = ("exit", "kill")
_ENTERING = ("entry", "order")


@dataclass(frozen=True, slots=True)
class Rules:
    """Smallest sellable amounts of a symbol: a lot, and a notional."""

    step: Decimal
    notional_min: Decimal
    price: Decimal

    def without_dust(self, quantity: Decimal) -> Decimal:
        """Return the part of `quantity` that the exchange would take as an order; 0 when it takes none."""
        whole = quantity // self.step * self.step
        return whole if whole * self.price >= self.notional_min else Decimal(0)


@dataclass(frozen=True, slots=True)
class Sample:
    """The exchange and the journal at one moment. `fills` are all executions so far, each with its `clientOrderId`."""

    at_s: float
    open_orders: Iterable[Row]
    fills: Iterable[Row]
    orders: Iterable[Row]
    pages: Iterable[Row]  # open ones: symbol, instance (either may be empty)
    rules: Mapping[str, Rules]


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A protected position that its orders at the exchange do not cover."""

    symbol: str
    instance: str
    held: Decimal
    covered: Decimal

    def text(self) -> str:
        """Return a line for people."""
        return f"{self.symbol} {self.instance} holds {self.held:f}, stops and exits cover {self.covered:f}"


def uncovered(sample: Sample) -> Iterator[Uncovered]:
    """Yield each protected position whose stops and exits at the exchange do not make up its quantity without dust."""
    orders = {row["client_order_id"]: row for row in sample.orders}
    held: dict[Key, Decimal] = defaultdict(Decimal)
    for fill in sample.fills:
        owner = orders.get(fill["clientOrderId"])
        if owner is not None:
            held[fill["symbol"], owner["instance"]] += net(
                fill["symbol"], fill["isBuyer"], fill["qty"], fill["commission"], fill["commissionAsset"]
            )
    cover: dict[Key, Decimal] = defaultdict(Decimal)
    at_venue = {row["clientOrderId"]: row for row in sample.open_orders}
    for id, row in orders.items():
        left = _rest_at(at_venue.get(id), row)
        if row["role"] in _CLOSING or row["role"] == "sl" or (row["role"] == "order" and row["is_reduce_only"]):
            cover[row["symbol"], row["instance"]] += left
    for key, quantity in held.items():
        rules, wanting = sample.rules[key[0]], _newest_entry(orders.values(), key)
        whole = rules.without_dust(quantity)
        if wanting is not None and wanting["stop_loss"] is not None and whole > 0 and whole - cover[key] >= rules.step:
            yield Uncovered(*key, whole, cover[key])


def _rest_at(there: Row | None, ours: Row) -> Decimal:
    """Return the quantity that an order may still execute: at the exchange, or by our row while its outcome is not
    known."""
    if there is not None:
        return Decimal(str(there["origQty"])) - Decimal(str(there["executedQty"]))
    is_undecided = ours["role"] != "sl" and ours["state"] in _UNDECIDED
    return Decimal(ours["quantity"] - ours["filled"]) if is_undecided else Decimal(0)


def _newest_entry(orders: Iterable[Row], key: Key) -> Row | None:
    mine = [
        row
        for row in orders
        if row["role"] in _ENTERING
        and row["filled"] > 0
        and not row["is_reduce_only"]
        and (row["symbol"], row["instance"]) == key
    ]
    return max(mine, key=lambda row: row["created_at"], default=None)


@dataclass(slots=True)
class CoverWatch:
    """Repeated samples: `broken` are the positions that were uncovered for WITHIN_S without an open page."""

    broken: dict[Key, str] = field(default_factory=dict)
    worst_s: float = 0.0  # the longest that a position was uncovered
    samples: int = 0
    _since: dict[Key, float] = field(default_factory=dict)

    def look(self, sample: Sample) -> None:
        """Take one sample. Samples come in the order of their times."""
        self.samples += 1
        found = {(item.symbol, item.instance): item for item in uncovered(sample)}
        self._since = {key: self._since.get(key, sample.at_s) for key in found}
        paged = {(page["symbol"], page["instance"]) for page in sample.pages}
        for key, item in found.items():
            for_s = sample.at_s - self._since[key]
            self.worst_s = max(self.worst_s, for_s)
            is_paged = any(page in paged for page in (key, (key[0], ""), ("", key[1])))
            if for_s > WITHIN_S and not is_paged:
                self.broken.setdefault(key, f"{item.text()} for {for_s:.1f} s, and no page is open")
