"""The auditor: compares the exchange's records with the journal's. Pure, and it shares no code with either.

It knows the contract, not the implementation: an accepted signal has one outcome; an order id reaches the exchange at
most once; an order is journalled before it is sent; every execution is booked once; a position is the sum of its
executions; the decisions that it recomputes from the bars are those that an instance made; stops equal holdings, and
are those of the position's own entries.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from fks.lab.chaos.cover import WITHIN_S, SmallestAmounts, compare, net, wanted
from fks.lab.chaos.decisions import ORACLES, Closes, InstanceStart, MissedDecisions, Target, expected_signals
from fks.lab.chaos.fold import journal_errors
from fks.lab.chaos.stops import StopEvidence, is_moved_by_bars, misplaced, moves_without_reason

Row = Mapping[str, Any]
OURS = re.compile(r"[0-9a-f]{32}")
UNDECIDED = ("SENDING", "UNKNOWN")
NEVER_SENT = ("DENIED", "INTENDED", "ABANDONED")
ENDED = ("FILLED", "CANCELLED", "EXPIRED", "REJECTED", "ABSENT")
LIVE = ("ACCEPTED", "WORKING", "PARTIAL")
BY_HAND = "manual"  # the venue of executions that a person booked: they move no position
EXCHANGE_OPEN = ("NEW", "PARTIALLY_FILLED", "PENDING_NEW")
DUST = Decimal(10)  # a smaller rest needs no stop where the symbol's own smallest order is not known
DECIDED_S = 5.0  # from the end of a bar until an instance that is not behind has decided on it
#: The checks; each is a line of the report.
CHECKS = (
    "signals lost",
    "orders doubled",
    "orders undecided",
    "orders astray",
    "journal wrong",
    "decisions old",
    "fills wrong",
    "positions wrong",
    "protection missing",
    "protection excess",
    "stops wrong",
    "bars wrong",
    "leaked",
)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that the evidence breaks, with the ids to look up."""

    check: str
    text: str


@dataclass(frozen=True, slots=True)
class RequestEvidence:
    """An order requested over HTTP under one key: the signals that its answers promised, or the reason of its
    refusal."""

    key: str
    promised: Sequence[str] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The collected rows at one moment (`now_s`, unix). Money is Decimal.

    `bars`: symbol -> (our bars, the exchange's), each {open time in s: (close, volume)}. `closes`: instance -> its bars
    as (open time in s, close), oldest first, from its anchor; `targets`: instance -> the targets of a strategy without
    an oracle. `rules`: symbol -> its smallest order. `leaks`: resources left over, as text.
    `events`: rows of order_events by their ids, None where they were not collected. `uncovered`: protected positions
    that the samples of a run found without stop or page. `is_tape`: the exchange's time is a tape's.
    """

    now_s: float
    received: Sequence[Row] = ()
    exchange_orders: Sequence[Row] = ()
    exchange_fills: Sequence[Row] = ()
    signals: Sequence[Row] = ()
    orders: Sequence[Row] = ()
    trades: Sequence[Row] = ()
    positions: Sequence[Row] = ()
    instances: Sequence[Row] = ()
    started: Mapping[str, InstanceStart] = field(default_factory=dict)
    closes: Mapping[str, Closes] = field(default_factory=dict)
    targets: Mapping[str, Sequence[Target]] = field(default_factory=dict)
    rules: Mapping[str, SmallestAmounts] = field(default_factory=dict)
    bars: Mapping[str, tuple[Mapping[int, tuple[Decimal, Decimal]], Mapping[int, tuple[Decimal, Decimal]]]] = field(
        default_factory=dict
    )
    leaks: Sequence[str] = ()
    requests: Sequence[RequestEvidence] = ()
    missed: Sequence[MissedDecisions] = ()
    events: Sequence[Row] | None = None
    uncovered: Sequence[str] = ()
    is_tape: bool = False
    stop_moves: StopEvidence = field(default_factory=StopEvidence)
    since_s: float = 0.0  # requests that the exchange received earlier belong to no run of ours


@dataclass(frozen=True, slots=True)
class Audit:
    """The result. Sound means no violation and a complete audit: positions cannot be compared while an execution is on
    its way (`is_whole`)."""

    signals: int
    orders: int
    fills: int
    bars: int
    violations: tuple[Violation, ...]
    is_whole: bool = True
    promised: int = 0  # of the signals: orders that the gateway had taken or denied with a code
    positions: int = 0  # compared with the executions that make them; 0 when none could be compared
    decisions: int = 0  # recomputed: bars that an instance of the baseline decided on since
    protected: int = 0  # positions at rest whose entries want protection, compared with it
    stops_moved: int = 0  # moves of stops by closes and strategies, each compared with its reason

    @property
    def is_sound(self) -> bool:
        return self.is_whole and not self.violations

    def count(self, check: str) -> int:
        """Return how many violations a check has."""
        return sum(violation.check == check for violation in self.violations)


def audit_evidence(evidence: Evidence, *, settle_s: float = 20.0) -> Audit:
    """Return the audit. Rows younger than `settle_s` may still be under way and count as no violation."""
    before = evidence.now_s - settle_s
    compared = {} if (is_moving := _is_moving(evidence, before)) else _positions(evidence)
    decided = _recompute(evidence)
    resting = _resting(evidence, min(settle_s, WITHIN_S))
    violations = [
        *_signals(evidence, before),
        *_requests(evidence),
        *_instances(evidence, evidence.now_s - min(settle_s, DECIDED_S)),
        *_decisions(evidence, decided),
        *_doubled(evidence),
        *_undecided(evidence, before),
        *_astray(evidence, before),
        *_nameless(evidence),
        *_journal(evidence),
        *_old(evidence),
        *_fills(evidence, before),
        *_positions_wrong(compared),
        *_protection(evidence, resting),
        *(Violation("protection missing", text) for text in evidence.uncovered),
        *_stops(evidence, resting),
        *_bars(evidence),
        *(Violation("leaked", text) for text in evidence.leaks),
    ]
    order = {check: place for place, check in enumerate(CHECKS)}
    return Audit(
        signals=len(evidence.signals),
        orders=len(evidence.exchange_orders),
        fills=len(evidence.exchange_fills),
        bars=sum(len(theirs) for _, theirs in evidence.bars.values()),
        violations=tuple(sorted(violations, key=lambda violation: order[violation.check])),
        is_whole=not is_moving,
        promised=sum(bool(request.promised) for request in evidence.requests),
        positions=len(compared),
        decisions=sum(len(targets) for targets in decided.values() if targets),
        protected=sum(any(wanted(rows, held)) for held, rows in resting.values()),
        stops_moved=sum(is_moved_by_bars(event) for event in evidence.events or ()),
    )


def _age_is_due(row: Row, column: str, before: float) -> bool:
    moment = row.get(column)
    return moment is not None and moment.timestamp() < before


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _signals(evidence: Evidence, before: float) -> Iterator[Violation]:
    """An accepted signal has one outcome, and the order that it led to exists."""
    known = {row["client_order_id"] for row in evidence.orders}
    for row in evidence.signals:
        name = f"{row['id']} ({row['instance'] or row['source']})"
        if row["state"] == "ready" and _age_is_due(row, "created_at", before):
            yield Violation("signals lost", f"signal {name} has no outcome")
        if row["state"] == "pending" and _age_is_due(row, "valid_until", before):
            yield Violation("signals lost", f"signal {name} is still pending after its time")
        if row["state"] == "ordered" and row["client_order_id"] not in known:
            yield Violation(
                "signals lost", f"signal {name} was ordered, but order {row['client_order_id']} is not there"
            )


def _requests(evidence: Evidence) -> Iterator[Violation]:
    """Every promised signal exists, one for each key; no valid request is refused."""
    known = {str(row["id"]) for row in evidence.signals}
    for request in evidence.requests:
        for id in request.promised:
            if id not in known:
                yield Violation(
                    "signals lost", f"order request {request.key} was answered with signal {id}, which is not there"
                )
        if len(request.promised) > 1:
            yield Violation(
                "orders doubled", f"order request {request.key} was answered with {len(request.promised)} signals"
            )
        if request.refused:
            yield Violation("signals lost", f"order request {request.key} was refused: {request.refused}")


def _instances(evidence: Evidence, before: float) -> Iterator[Violation]:
    """Every instance of the baseline still runs and decided on every sealed bar; no other one runs."""
    rows = {row["id"]: row for row in evidence.instances}
    for id in sorted(set(evidence.started) - set(rows)):
        yield Violation("signals lost", f"instance {id} of the baseline is gone")
    for id, row in rows.items():
        is_running = row["is_enabled"] and row["state"] in ("RUNNING", "LOADING")
        if id not in evidence.started:
            if is_running:
                yield Violation("signals lost", f"instance {id} runs and is not in the baseline")
            continue
        if not row["is_enabled"]:
            yield Violation("signals lost", f"instance {id} was switched off: {row['error']}")
        elif not is_running:
            yield Violation("signals lost", f"instance {id} is {row['state']}: {row['error']}")
        sealed, cursor = row["sealed_through"], row["cursor_time"]
        late = [
            at_s
            for at_s, _ in evidence.closes.get(id, ())
            if sealed is not None
            and (cursor is None or cursor.timestamp() < at_s)
            and at_s <= sealed.timestamp()
            and at_s + _SECONDS.get(row["timeframe"], 0) < before
        ]
        if late:
            yield Violation(
                "signals lost",
                f"instance {id} is {len(late)} bars behind: decided up to {cursor}, sealed up to {sealed}",
            )


def _recompute(evidence: Evidence) -> dict[str, list[Target] | None]:
    """Return the targets of the bars that each instance of the baseline has decided on since; None without an
    oracle."""
    found: dict[str, list[Target] | None] = {}
    for row in evidence.instances:
        start, cursor, oracle = evidence.started.get(row["id"]), row["cursor_time"], ORACLES.get(row["strategy"])
        if start is None or cursor is None:
            continue
        closes = evidence.closes.get(row["id"], ())
        targets = evidence.targets.get(row["id"]) if oracle is None else oracle(closes, row["params"])
        found[row["id"]] = (
            None
            if targets is None
            else [(at_s, target) for at_s, target in targets if start.cursor_s < at_s <= cursor.timestamp()]
        )
    return found


def _decisions(evidence: Evidence, decided: Mapping[str, Sequence[Target] | None]) -> Iterator[Violation]:
    """The signals of each instance are those of its recomputed decisions."""
    if (evidence.instances or evidence.started) and not any(decided.values()):
        yield Violation("signals lost", "no decision was recomputed: no instance decided on a bar since the baseline")
    for row in evidence.instances:
        if row["id"] not in decided:
            continue
        name, start, targets = f"instance {row['id']}", evidence.started[row["id"]], decided[row["id"]]
        if targets is None:
            yield Violation("signals lost", f"{name} runs {row['strategy']}, which has no oracle")
            continue
        missed = [item for item in evidence.missed if item.instance == row["id"]]
        required, allowed = expected_signals(targets, start.target, missed, can_rest=row["strategy"] not in ORACLES)
        made = {
            (int(signal["ts_event"].timestamp()), str(signal["kind"]), str(signal["side"]))
            for signal in evidence.signals
            if signal["source"] == f"strategy:{row['id']}" and start.cursor_s < signal["ts_event"].timestamp()
        }
        for at_s, kind, side in sorted(required - made):
            yield Violation("signals lost", f"{name} should have signalled {kind} {side} at the bar of {at_s}")
        for at_s, kind, side in sorted(made - required - allowed):
            yield Violation("signals lost", f"{name} signalled {kind} {side} at the bar of {at_s} without a reason")


AGE_LEAST_S, AGE_MOST_S = 5.0, 60.0  # bounds of a decision's maximal age: one bar, but within these
AGE_SLACK_S = 1.0  # between the first byte sent and the exchange's record of it
_SECONDS = {
    "1s": 1, "5s": 5, "10s": 10, "15s": 15, "30s": 30, "1m": 60, "2m": 120, "3m": 180, "5m": 300, "10m": 600,
    "15m": 900, "20m": 1200, "30m": 1800, "45m": 2700, "1h": 3600, "2h": 7200, "3h": 10800, "4h": 14400,
}  # fmt: skip


def _old(evidence: Evidence) -> Iterator[Violation]:
    """The exchange took no entry of a strategy when its decision was too old, by the exchange's own clock."""
    if evidence.is_tape:
        return
    taken = {row["clientOrderId"] for row in evidence.exchange_orders}
    signals = {str(row["id"]): row for row in evidence.signals}
    decided: dict[str, Row] = {}
    for order in evidence.orders:
        signal = signals.get(str(order["signal_id"]))
        if order["role"] == "entry" and signal is not None and signal.get("timeframe") in _SECONDS:
            decided[order["client_order_id"]] = signal
    for row in evidence.received:
        for id in made_by(row):
            signal = decided.get(id) if id in taken else None
            if signal is None or signal.get("decided_by"):
                continue
            bar_s = _SECONDS[signal["timeframe"]]
            age_s = row.get("time_ms", 0) / 1000 - signal["ts_event"].timestamp() - bar_s
            if age_s > min(max(bar_s, AGE_LEAST_S), AGE_MOST_S) + AGE_SLACK_S:
                yield Violation(
                    "decisions old", f"entry {id} reached the exchange {age_s:.1f} s after its bar of {bar_s} s ended"
                )


def _journal(evidence: Evidence) -> Iterator[Violation]:
    """The recorded events of each order make its row."""
    if evidence.events is not None:
        for text in journal_errors(evidence.orders, evidence.events, evidence.trades):
            yield Violation("journal wrong", text)


# ── orders ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def made_by(row: Row) -> list[str]:
    """Return the client order ids that a logged request asked to make: one, or a pair's two; none for other
    requests."""
    if not _makes(row):
        return []
    ids = row.get("client_order_ids") or []
    return [ids] if isinstance(ids, str) else list(ids)


def _makes(row: Row) -> bool:
    path = str(row["path"])
    if path.startswith("/0/private/"):  # Kraken's wire: queries are POST requests as well
        return path.endswith("/AddOrder") and row.get("params", {}).get("validate", "").lower() != "true"
    is_order = row["method"] in ("POST", "WS") and "order" in path.lower()
    return is_order and "test" not in path and "cancel" not in path


def _nameless(evidence: Evidence) -> Iterator[Violation]:
    """Every order carries its own id; without one it could be sent twice unnoticed."""
    for row in evidence.received:
        if _makes(row) and not made_by(row) and row.get("time_ms", 0) / 1000 >= evidence.since_s:
            yield Violation(
                "orders astray", f"an order was sent without an id of its own: {row['method']} {row['path']}"
            )


def _doubled(evidence: Evidence) -> Iterator[Violation]:
    sent = Counter(id for row in evidence.received for id in made_by(row))
    for id, times in sorted(sent.items()):
        if times > 1:
            yield Violation("orders doubled", f"order {id} was sent {times} times")
    made = Counter(row["clientOrderId"] for row in evidence.exchange_orders)
    for id, times in sorted(made.items()):
        if times > 1:
            yield Violation("orders doubled", f"the exchange has {times} orders {id}")
    led_to: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.orders:
        if row["signal_id"] is not None and row["role"] in ("entry", "exit", "order") and _took(row):
            led_to[str(row["signal_id"])].append(row)
    for signal, rows in sorted(led_to.items()):
        ids = ", ".join(sorted(row["client_order_id"] for row in rows))
        is_parted = all(row["role"] == "exit" and row["state"] in ENDED for row in rows) and (
            sum(row["filled"] for row in rows) <= max(row["quantity"] for row in rows) or _follow_one_another(rows)
        )
        if len(rows) > 1 and not is_parted:
            yield Violation("orders doubled", f"signal {signal} led to {len(rows)} orders: {ids}")


def _follow_one_another(rows: Sequence[Row]) -> bool:
    """Return whether each order was made after the one before had ended: an entry that an exit cancels may still fill,
    and the exit's next order closes that too."""
    ordered = sorted(rows, key=lambda row: row["created_at"])
    return all(row["updated_at"] < later["created_at"] for row, later in pairwise(ordered))


def _took(row: Row) -> bool:
    """Return whether an order had an effect or still may. An order that the exchange refused had none: its exit is
    requested again under another id."""
    return row["state"] not in NEVER_SENT and (row["state"] not in ENDED or row["filled"] > 0)


def _undecided(evidence: Evidence, before: float) -> Iterator[Violation]:
    for row in evidence.orders:
        if row["state"] in UNDECIDED and _age_is_due(row, "created_at", before):
            yield Violation("orders undecided", f"order {row['client_order_id']} is still {row['state']}")


def _astray(evidence: Evidence, before: float) -> Iterator[Violation]:
    """The exchange and the journal agree on the existing orders, the open ones and their filled quantities."""
    theirs = {row["clientOrderId"]: row for row in evidence.exchange_orders}
    ours = {row["client_order_id"]: row for row in evidence.orders if row["venue"] == "ccxt"}
    for id in sorted(theirs):
        if id not in ours and OURS.fullmatch(id):
            yield Violation("orders astray", f"the exchange has order {id}, which the journal does not know")
    for id, row in sorted(ours.items()):
        there = theirs.get(id)
        if not _age_is_due(row, "updated_at", before) or row["state"] in UNDECIDED:
            continue
        if there is None:
            if row["state"] in LIVE or row["state"] == "FILLED":
                yield Violation("orders astray", f"order {id} is {row['state']}, but the exchange never made it")
            continue
        is_refuted = row["state"] in (*NEVER_SENT, "ABSENT", "REJECTED") and there["status"] != "REJECTED"
        if is_refuted or (there["status"] in EXCHANGE_OPEN) != (row["state"] in LIVE):
            yield Violation(
                "orders astray", f"order {id} is {row['state']}, but at the exchange it is {there['status']}"
            )
        elif Decimal(str(there["executedQty"])) != row["filled"]:
            yield Violation(
                "orders astray", f"order {id} filled {row['filled']}, at the exchange {there['executedQty']}"
            )


# ── executions and positions ─────────────────────────────────────────────────────────────────────────────────────────
def _fills(evidence: Evidence, before: float) -> Iterator[Violation]:
    booked: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in evidence.trades:
        if row["venue"] == "ccxt" and row["venue_trade_id"]:
            booked[row["symbol"], str(row["venue_trade_id"])].append(row)
    real = {(row["symbol"], str(row["id"])): row for row in evidence.exchange_fills}
    for key, row in sorted(real.items()):
        ours = booked.get(key, [])
        name = f"{key[0]} {key[1]}"
        if not ours and row["wallTime"] / 1000 < before:
            yield Violation("fills wrong", f"execution {name} is missing from the journal")
        if len(ours) > 1:
            yield Violation("fills wrong", f"execution {name} is booked {len(ours)} times")
        for found in ours[:1]:
            theirs = tuple(Decimal(str(row[column])) for column in ("qty", "price", "commission"))
            if (found["quantity"], found["price"], found["fee"]) != theirs:
                yield Violation("fills wrong", f"execution {name} is booked as {found['quantity']} @ {found['price']}")
    for key in sorted(set(booked) - set(real)):
        yield Violation("fills wrong", f"execution {key[0]} {key[1]} is booked, but the exchange has none such")


def _is_moving(evidence: Evidence, before: float) -> bool:
    """Return whether an execution is on its way to the journal: positions can be compared only at a later look."""
    booked = {(row["symbol"], str(row["venue_trade_id"])) for row in evidence.trades}
    return any(
        row["wallTime"] / 1000 >= before and (row["symbol"], str(row["id"])) not in booked
        for row in evidence.exchange_fills
    )


def _positions(evidence: Evidence) -> dict[tuple[str, str, str], tuple[Decimal, Decimal]]:
    """Return each position as (held, sum of its executions: the exchange's own where it is the exchange's, else the
    booked ones)."""
    owner = {row["client_order_id"]: row["instance"] for row in evidence.orders}
    for_all = {row["client_order_id"] for row in evidence.orders if row["role"] == "kill" and not row["instance"]}
    client = {(row["symbol"], row["orderId"]): row["clientOrderId"] for row in evidence.exchange_orders}
    expected: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    shared = set()  # symbols in which one order of a kill closed for all instances: only their sum is defined
    for row in evidence.exchange_fills:
        id = client.get((row["symbol"], row["orderId"]), "")
        if id in for_all:
            shared.add(row["symbol"])
        if id in owner:
            expected["ccxt", row["symbol"], owner[id]] += net(
                row["symbol"], row["isBuyer"], row["qty"], row["commission"], row["commissionAsset"]
            )
    for row in evidence.trades:
        if row["venue"] not in ("ccxt", BY_HAND):
            key = (row["venue"], row["symbol"], row["instance"])
            expected[key] += net(
                row["symbol"], row["trade_type"].lower() == "buy", row["quantity"], row["fee"], row["fee_currency"]
            )
    held: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for row in evidence.positions:
        held[row["venue"], row["symbol"], row["instance"]] += row["quantity"]
    for amounts in (expected, held):
        for key in [
            key for key in amounts if key[:2] in {("ccxt", symbol) for symbol in shared} and key[2] != "external"
        ]:
            amount = amounts.pop(key)
            amounts[key[0], key[1], "of all"] += amount
    return {key: (held[key], expected[key]) for key in sorted({*expected, *held}) if key[2] != "external"}


def _positions_wrong(compared: Mapping[tuple[str, str, str], tuple[Decimal, Decimal]]) -> Iterator[Violation]:
    for key, (held, expected) in compared.items():
        if expected != held:
            yield Violation("positions wrong", f"{' '.join(key)} is {held}, its executions make {expected}")


Resting = Mapping[tuple[str, str], tuple[Decimal, Sequence[Row]]]


def _resting(evidence: Evidence, rest_s: float) -> Resting:
    """Return (held, its orders) of each symbol and instance at the exchange that is at rest: nothing of it is under way
    or changed within `rest_s`."""
    held = {(row["symbol"], row["instance"]): row["quantity"] for row in evidence.positions if row["venue"] == "ccxt"}
    mine: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in evidence.orders:
        if row["venue"] == "ccxt":
            mine[row["symbol"], row["instance"]].append(row)
    return {
        key: (held.get(key, Decimal(0)), rows)
        for key, rows in mine.items()
        if not any(
            row["state"] in UNDECIDED or not _age_is_due(row, "updated_at", evidence.now_s - rest_s) for row in rows
        )
    }


def _protection(evidence: Evidence, resting: Resting) -> Iterator[Violation]:
    """The stops of an instance at rest equal its holding."""
    prices = {row["symbol"]: abs(row["average_price"]) for row in evidence.positions if row["average_price"]}
    rules = {
        symbol: SmallestAmounts(Decimal(1).scaleb((DUST / price).adjusted()), DUST, price)
        for symbol, price in prices.items()
    }
    found = compare(
        {key: held for key, (held, _) in resting.items()},
        [row for _, rows in resting.values() for row in rows],
        [row for row in evidence.exchange_orders if row["status"] in EXCHANGE_OPEN],
        rules | dict(evidence.rules),
    )
    for cover in found:
        if cover.is_breach:
            yield Violation("protection excess" if cover.is_over else "protection missing", cover.text())


def _stops(evidence: Evidence, resting: Resting) -> Iterator[Violation]:
    """A position has the stop of its own entries."""
    for text in moves_without_reason(
        evidence.orders,
        evidence.events or (),
        evidence.trades,
        evidence.signals,
        evidence.closes,
        evidence.rules,
        evidence.stop_moves,
    ):
        yield Violation("stops wrong", text)
    for _, rows in resting.values():
        for text in misplaced(rows, evidence.rules):
            yield Violation("stops wrong", text)


# ── market data ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _bars(evidence: Evidence) -> Iterator[Violation]:
    """Every second in which the exchange traded has its bar, with its close and its volume."""
    for symbol, (ours, theirs) in sorted(evidence.bars.items()):
        for at_s, (close, volume) in sorted(theirs.items()):
            if volume == 0:
                continue
            found = ours.get(at_s)
            if found is None:
                yield Violation("bars wrong", f"{symbol} 1s bar of {at_s} is missing")
            elif found != (close, volume):
                yield Violation(
                    "bars wrong", f"{symbol} 1s bar of {at_s} is {found[0]} × {found[1]}, not {close} × {volume}"
                )
