"""Counts of the orders and the protection that a run exercised, and the minimums below which it proves nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from fks.lab.chaos.auditor import EXCHANGE_OPEN, Evidence, RequestEvidence

FILLED_SHARE_MIN = 0.5  # of the orders asked for
PARTS_SHARE_MIN = 0.1  # of the filled orders: filled in parts
STRUCK_NOTHING_SHARE_MAX = 0.2  # of the exchange's faults


@dataclass(frozen=True, slots=True)
class Exercise:
    """Counts of the orders that a run asked for, by their outcome, and the protection that it sampled.

    `denied` counts by code. `sent` reached the exchange; `filled` were executed there, `parts` of them at several times
    or not to their end; `cancelled` were ended there by a cancel. `stops` and `targets` are executed stop losses and
    take profits of all instances on the exchange. `protected_s`: seconds for which a covered position was sampled,
    added up over the positions. `unended`: the ids of those that rest at the exchange, though each is filled or
    cancelled by the end of the run.
    """

    asked: int = 0
    denied: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    filled: int = 0
    parts: int = 0
    cancelled: int = 0
    stops: int = 0
    targets: int = 0
    protected_s: float = 0.0
    unended: tuple[str, ...] = ()

    def shortfalls(self) -> Iterator[str]:
        """Yield each minimum that was not reached, in words."""
        if self.filled < max(1, ceil(FILLED_SHARE_MIN * self.asked)):
            yield f"{self.filled} of {self.asked} orders asked for were filled, at least half must be"
        if self.parts < max(1, ceil(PARTS_SHARE_MIN * self.filled)):
            yield f"{self.parts} of {self.filled} filled orders were filled in parts, at least a tenth must be"
        if self.protected_s <= 0:
            yield "no protected position was sampled"


def exercise_of(requests: Sequence[RequestEvidence], evidence: Evidence, *, protected_s: float) -> Exercise:
    """Return the counts of a run, by the exchange's own records and the journal's denials."""
    promised = {id for request in requests for id in request.promised}
    denied = Counter(
        str(row["code"] or row["state"]).upper()
        for row in evidence.signals
        if str(row["id"]) in promised and row["state"] in ("denied", "expired")
    )
    asked = {
        row["client_order_id"]
        for row in evidence.orders
        if row["role"] == "order" and str(row["signal_id"]) in promised
    }
    times: dict[str, set[int]] = defaultdict(set)
    role = {row["client_order_id"]: row["role"] for row in evidence.orders}
    legs: dict[str, set[str]] = {"sl": set(), "tp": set()}
    client = {(row["symbol"], row["orderId"]): row["clientOrderId"] for row in evidence.exchange_orders}
    for fill in evidence.exchange_fills:
        id = client.get((fill["symbol"], fill["orderId"]), "")
        times[id].add(fill["time"])
        if role.get(id) in legs and fill["wallTime"] / 1000 >= evidence.since_s:
            legs[role[id]].add(id)
    theirs = [row for row in evidence.exchange_orders if row["clientOrderId"] in asked]
    filled = [row for row in theirs if float(row["executedQty"]) > 0]
    return Exercise(
        asked=len(requests),
        denied=dict(sorted(denied.items())),
        sent=len(theirs),
        filled=len(filled),
        parts=sum(len(times[row["clientOrderId"]]) > 1 or row["executedQty"] != row["origQty"] for row in filled),
        cancelled=sum(row["status"] == "CANCELED" for row in theirs),
        stops=len(legs["sl"]),
        targets=len(legs["tp"]),
        protected_s=protected_s,
        unended=tuple(row["clientOrderId"] for row in theirs if row["status"] in EXCHANGE_OPEN),
    )
