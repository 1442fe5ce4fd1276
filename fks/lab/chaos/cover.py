"""The invariant of protection: an instance's stops at the exchange equal its holding. Pure.

Not less: live stops plus exit orders that are live or of unknown outcome at the exchange (a waiting exit does not
count) make up the part of the holding whose entries have a stop loss; of entries with a take profit alone, targets do.
Not more: the orders that protect, a tied pair counted once, close no more than that, so nothing when flat. A trailing
stop is a stop. A stop that a person placed as an order of its own is the person's: it is never too much, and covers
the person's position alone. A rest below the exchange's smallest order needs no stop.

`CoverWatch` samples it while a chaos run goes on: a breach ends within WITHIN_S, or WRITTEN_S later a page is open. The
quantity held is then the sum of the exchange's executions, never our own rows; the journal is used only for the owner
of an order, the protections of an entry, and whether an execution is known: one whose report was lost or frozen cannot
be protected yet, and the auditor looks for it at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]
Key = tuple[str, str]  # symbol, instance

WITHIN_S = 5.0
WRITTEN_S = 1.0  # a page that the journal did not take is written again after a second
RESTARTED_S = 2.5  # for an order manager that starts in the middle of it, to place the stop before it pages
_UNDECIDED = ("SENDING", "UNKNOWN")
_CLOSING = ("exit", "kill")
_ENTERING = ("entry", "order")
_LEGS = ("sl", "tp")


@dataclass(frozen=True, slots=True)
class SmallestAmounts:
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
    orders: Sequence[Row]
    pages: Iterable[Row]  # open ones: symbol, instance (either may be empty)
    rules: Mapping[str, SmallestAmounts]
    process: int | None = None  # the order manager's pid


@dataclass(frozen=True, slots=True)
class HoldingCover:
    """The quantity of a holding that orders of `role` must protect, and the quantity that they cover; with `is_over`
    the most that its stops and targets may close, and the quantity that they close."""

    symbol: str
    instance: str
    wanted: Decimal
    covered: Decimal
    role: str
    is_breach: bool
    is_over: bool = False

    def text(self) -> str:
        """Return a line for people."""
        name = f"{self.symbol} {self.instance}"
        if self.is_over:
            return f"{name} holds {self.wanted:f} to be protected, its stops and targets close {self.covered:f}"
        what = "stops" if self.role == "sl" else "targets"
        return f"{name} holds {self.wanted:f}, {what} and exits cover {self.covered:f}"


def covers(sample: Sample) -> Iterator[HoldingCover]:
    """Yield the protection that the holdings of a sample want, and whether it is there."""
    owner = {row["client_order_id"]: row["instance"] for row in sample.orders}
    held: dict[Key, Decimal] = defaultdict(Decimal)
    for fill in sample.fills:
        if fill["clientOrderId"] in owner:
            held[fill["symbol"], owner[fill["clientOrderId"]]] += net(
                fill["symbol"], fill["isBuyer"], fill["qty"], fill["commission"], fill["commissionAsset"]
            )
    yield from compare(held, sample.orders, sample.open_orders, sample.rules)


def compare(
    held: Mapping[Key, Decimal], orders: Iterable[Row], open_orders: Iterable[Row], rules: Mapping[str, SmallestAmounts]
) -> Iterator[HoldingCover]:
    """Yield what the holdings `held` (signed) want, by the journal's `orders` and those open at the exchange; and where
    there is more than that. One that waits there for its entry covers nothing."""
    at_venue = {row["clientOrderId"]: row for row in open_orders if row.get("status") != "PENDING_NEW"}
    mine: dict[Key, list[Row]] = defaultdict(list)
    for row in orders:
        mine[row["symbol"], row["instance"]].append(row)
    for key in sorted({*held, *mine}):
        quantity = held.get(key, Decimal(0))
        closing = "SELL" if quantity > 0 else "BUY"
        live = [
            (row, _rest_at(at_venue.get(row["client_order_id"]), row))
            for row in mine[key]
            if at_venue.get(row["client_order_id"], {}).get("side", closing) == closing
        ]
        exits = sum((left for row, left in live if _closes(row)), Decimal(0))
        least: dict[str, Decimal] = defaultdict(Decimal)
        most = Decimal(0)
        for role, part in wanted(mine[key], quantity):
            least[role] += rules[key[0]].without_dust(part)
            most += part
        for role, part in least.items():
            if part > 0:
                covered = exits + sum((left for row, left in live if row["role"] == role), Decimal(0))
                yield HoldingCover(*key, part, covered, role, is_breach=part - covered >= rules[key[0]].step)
        tied: dict[object, Decimal] = defaultdict(Decimal)
        for row in mine[key]:
            there = at_venue.get(row["client_order_id"])
            if row["role"] in _LEGS and there is not None:
                pair = there.get("orderListId", -1)
                name = row["client_order_id"] if pair == -1 else pair
                tied[name] = max(tied[name], _rest_at(there, row))
        if (total := sum(tied.values(), Decimal(0))) > most:
            yield HoldingCover(*key, most, total, "", is_breach=True, is_over=True)


def _unbooked(sample: Sample) -> set[Key]:
    """Return the positions with executions that the journal does not have yet."""
    unknown = {row["client_order_id"]: -row["filled"] for row in sample.orders}
    for fill in sample.fills:
        if fill["clientOrderId"] in unknown:
            unknown[fill["clientOrderId"]] += Decimal(fill["qty"])
    return {(row["symbol"], row["instance"]) for row in sample.orders if unknown[row["client_order_id"]] > 0}


def _closes(row: Row) -> bool:
    return row["role"] in _CLOSING or (row["role"] == "order" and bool(row["is_reduce_only"]))


def _rest_at(there: Row | None, ours: Row) -> Decimal:
    """Return the quantity that an order may still execute: at the exchange, or by our row while the outcome of an exit
    is not known."""
    if there is not None:
        return Decimal(str(there["origQty"])) - Decimal(str(there["executedQty"]))
    is_undecided = ours["role"] not in _LEGS and ours["state"] in _UNDECIDED
    return Decimal(ours["quantity"] - ours["filled"]) if is_undecided else Decimal(0)


def wanted(orders: Iterable[Row], quantity: Decimal) -> Iterator[tuple[str, Decimal]]:
    """Yield the parts of a holding with the role of the order that protects each: it is made of the newest entries on
    its side, of each what its legs have left of it, and each wants its stop, or without one its target."""
    rows = sorted(orders, key=lambda row: row["created_at"], reverse=True)
    executed: dict[str | None, Decimal] = defaultdict(Decimal)
    for row in rows:
        executed[row["parent_id"]] += row["filled"]
    entries = [
        (row, row["filled"] - executed[row["client_order_id"]])
        for row in rows
        if row["role"] in _ENTERING
        and row["filled"] > 0
        and (row["side"] == "buy") == (quantity > 0)
        and not _closes(row)
    ]
    beyond: dict[object, Decimal] = defaultdict(Decimal)  # small entries share the legs of one of the same prices
    for row, rest in entries:
        beyond[row["stop_loss"], row["take_profit"]] += max(-rest, Decimal(0))
    left = abs(quantity)
    for row, rest in entries:
        prices = row["stop_loss"], row["take_profit"]
        shared = min(beyond[prices], max(rest, Decimal(0)))
        beyond[prices] -= shared
        part = min(left, max(rest, Decimal(0)) - shared)
        left -= part
        role = "sl" if row["stop_loss"] is not None else "tp" if row["take_profit"] is not None else ""
        if role and part > 0:
            yield role, part


def net(symbol: str, is_buy: bool, quantity: object, fee: object, fee_currency: str) -> Decimal:
    """Return what an execution adds to the position: its signed quantity, less a fee that was taken in the base
    asset."""
    signed = Decimal(str(quantity)) * (1 if is_buy else -1)
    return signed - (Decimal(str(fee)) if fee_currency and symbol.startswith(fee_currency) else 0)


@dataclass(slots=True)
class CoverWatch:
    """Repeated samples: `broken` are the breaches that lasted for `within_s` seconds without an open page."""

    within_s: float = WITHIN_S + WRITTEN_S
    broken: dict[tuple[object, ...], str] = field(default_factory=dict)
    worst_s: float = 0.0  # the longest that a breach lasted
    protected_s: float = 0.0  # for how long covered positions were sampled, added up over the positions
    samples: int = 0
    _last_s: float = 0.0
    _process: int | None = None
    _restarted: set[tuple[object, ...]] = field(default_factory=set)  # breaches in whose time another process began
    _since: dict[tuple[object, ...], float] = field(default_factory=dict)

    def look(self, sample: Sample) -> None:
        """Take one sample. Samples come in the order of their times."""
        self.samples += 1
        seen, unbooked = list(covers(sample)), _unbooked(sample)
        self.protected_s += (sample.at_s - self._last_s) * sum(not item.is_breach for item in seen)
        self._last_s = sample.at_s
        found = {
            (item.symbol, item.instance, item.role, item.is_over): item
            for item in seen
            if item.is_breach and (item.symbol, item.instance) not in unbooked
        }
        self._since = {key: self._since.get(key, sample.at_s) for key in found}
        self._restarted &= found.keys()
        if sample.process != self._process:
            self._process, self._restarted = sample.process, set(found)
        paged = {(page["symbol"], page["instance"]) for page in sample.pages}
        for key, item in found.items():
            for_s = sample.at_s - self._since[key]
            self.worst_s = max(self.worst_s, for_s)
            is_paged = any(page in paged for page in (key[:2], (key[0], ""), ("", key[1])))
            if for_s > self.within_s + RESTARTED_S * (key in self._restarted) and not is_paged:
                self.broken.setdefault(key, f"{item.text()} for {for_s:.1f} s, and no page is open")
