"""Counts of the parts that an order chaos run exercised, by the exchange's own log and books, and the minimum below which the run
proves nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.support.crash_points import LABELS

Row = Mapping[str, Any]
LEGS = ("sl", "tp")


@dataclass
class Requests:
    """The requests that the exchange received, life by life: `cancels` and `replaces` by the label at which the life had to end.

    A replaced leg is one that the exchange received for a parent whose earlier leg of the same role it had taken. An
    intent is a signal, however many orders its exit took, or a person's order; a kill's closes are none.
    """

    reached: set[str] = field(default_factory=set)  # intents: signals, persons' orders
    orders: set[str] = field(default_factory=set)  # client order ids of their orders
    cancels: Counter[str] = field(default_factory=Counter)
    replaces: Counter[str] = field(default_factory=Counter)
    _legs: set[tuple[str, str]] = field(default_factory=set)  # (parent, role)

    def note(self, label: str, received: Iterable[Row], orders: Mapping[str, Row]) -> None:
        """Count the requests of one life. `orders` are the journal's rows of the ids that they carry."""
        for row in received:
            self.cancels[label] += row["path"] == "/api/v3/order" and row["method"] == "DELETE"
            for id in row["client_order_ids"]:
                order = orders.get(id)
                if order is None:
                    continue
                if order["role"] == "kill":
                    continue
                if order["role"] not in LEGS:
                    self.reached.add(str(order["signal_id"] or id))
                    self.orders.add(id)
                    continue
                leg = (order["parent_id"], order["role"])
                self.replaces[label] += leg in self._legs
                self._legs.add(leg)

    def missing(self) -> list[str]:
        """Return the labels whose lives saw no cancel or no replaced leg, in words."""
        return [
            f"no {name} in the lives that had to end at {label}"
            for label in LABELS
            for name, counts in (("cancels", self.cancels), ("replaces", self.replaces))
            if not counts[label]
        ]


@dataclass(frozen=True)
class Minimum:
    """The least that a run has to exercise. Shares are of the executed orders, `denied_share` of all intents."""

    intents: int
    pairs: int  # OCO pairs of which one leg was executed
    reports: int  # of each kind: reports on legs of pairs that were sent twice, or out of order
    struck: Mapping[str, int] = field(default_factory=dict)  # by each fault beside the plan
    partial_share: float = 0.2
    leg_share: float = 0.1
    denied_share: float = 0.25


@dataclass(frozen=True)
class Exercised:
    """The counts."""

    requests: Requests
    taken: int  # orders of intents that the exchange made
    denied: Counter[str]  # by code
    executed: int
    partial: int  # executed in several parts, or ended before all was executed
    legs: Counter[str]  # stops and targets, by role
    passed: int  # of them, closed at the market, since it had passed their price before they rested
    pairs: int
    reports: Counter[str]  # on legs of pairs, by the fault that struck them
    struck: Counter[str]  # by the faults beside the plan

    def text(self) -> str:
        """Return lines for people."""
        share = self.executed or 1
        by_code = ", ".join(f"{count} {code}" for code, count in self.denied.most_common())
        by_label = ", ".join(
            f"{label} {self.requests.cancels[label]}/{self.requests.replaces[label]}" for label in LABELS
        )
        return (
            f"{len(self.requests.reached)} intents reached the exchange, which made {self.taken} orders of them; {self.denied.total()} denied: {by_code}\n"
            f"{self.executed} orders executed: {self.partial} ({self.partial / share:.0%}) in parts, "
            f"{self.legs.total()} ({self.legs.total() / share:.0%}) stops and targets ({dict(self.legs)}, "
            f"{self.passed} passed before they rested)\n"
            f"{self.pairs} OCO pairs of which one was executed; reports on legs of pairs: {dict(self.reports)}\n"
            f"cancels/replaces by label: {by_label}\n"
            f"struck beside the plan: {dict(self.struck)}"
        )

    def shortfalls(self, minimum: Minimum) -> Iterator[str]:
        """Yield why the run proves nothing, in words."""
        intents, denied = len(self.requests.reached), self.denied.total()
        if intents < minimum.intents:
            yield f"{intents} intents reached the exchange, {minimum.intents} are needed"
        if not 0 < denied <= minimum.denied_share * (intents + denied):
            yield f"{denied} of {intents + denied} intents were denied: some have to be, at most {minimum.denied_share:.0%}"
        for name, count, least in (
            ("executed in parts", self.partial, minimum.partial_share),
            ("stops and targets", self.legs.total(), minimum.leg_share),
        ):
            if count < least * self.executed or not count:
                yield f"{count} of {self.executed} executed orders were {name}, {least:.0%} are needed"
        if self.pairs < minimum.pairs:
            yield f"one leg of {self.pairs} OCO pairs was executed, {minimum.pairs} are needed"
        for kind in ("duplicate_report", "reorder_reports"):
            if self.reports[kind] < minimum.reports:
                yield f"{kind} struck {self.reports[kind]} reports on legs of pairs, {minimum.reports} are needed"
        for name, least in minimum.struck.items():
            if self.struck[name] < least:
                yield f"{name} struck {self.struck[name]} times, {least} are needed"
        yield from self.requests.missing()


def exercised(
    requests: Requests,
    orders: Iterable[Row],
    exchange_orders: Sequence[Row],
    fills: Iterable[Row],
    reports: Iterable[Row],
    struck: Counter[str],
) -> Exercised:
    """Return the counts of a run: its journal's orders, the exchange's orders and executions, the reports that its
    faults struck, and what its faults beside the plan struck."""
    ours = {row["client_order_id"]: row for row in orders}
    parts = Counter((row["symbol"], row["orderId"]) for row in fills)
    executed = [row for row in exchange_orders if Decimal(row["executedQty"]) > 0]
    partial = [row for row in executed if row["status"] != "FILLED" or parts[row["symbol"], row["orderId"]] > 1]
    legs = [
        (row, order)
        for row in executed
        if (order := ours.get(row["clientOrderId"])) is not None and order["role"] in LEGS
    ]
    return Exercised(
        requests=requests,
        taken=len(requests.orders & {row["clientOrderId"] for row in exchange_orders}),
        denied=Counter(row["code"] for row in ours.values() if row["state"] == "DENIED"),
        executed=len(executed),
        partial=len(partial),
        legs=Counter(order["role"] for _, order in legs),
        passed=sum(row["type"] == "MARKET" for row, _ in legs),
        pairs=len({order["group_id"] for _, order in legs if order["group_id"] is not None}),
        reports=Counter(
            row["kind"]
            for row in reports
            if (order := ours.get(row["clientOrderId"])) is not None and order["group_id"] is not None
        ),
        struck=struck,
    )


def pair_errors(orders: Iterable[Row], exchange_orders: Iterable[Row]) -> Iterator[str]:
    """Yield OCO pairs that executed more than their quantity, or of which one leg was executed and the other rests."""
    ours = {row["client_order_id"]: row for row in orders if row["role"] in LEGS}
    pairs: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for there in exchange_orders:
        order = ours.get(there["clientOrderId"])
        if order is not None:
            pairs[order["group_id"] or order["client_order_id"]].append((order, there))
    for name, legs in pairs.items():
        executed = sum((Decimal(there["executedQty"]) for _, there in legs), Decimal(0))
        is_left = any(_is_open(there) and not Decimal(there["executedQty"]) for _, there in legs)
        if executed > legs[0][0]["quantity"]:
            yield f"legs {name} executed {executed:f}, both together may {legs[0][0]['quantity']:f}"
        if executed and is_left:
            yield f"one of the legs {name} was executed, and its sibling still rests at the exchange"


def _is_open(there: Row) -> bool:
    return there["status"] in ("NEW", "PARTIALLY_FILLED")
