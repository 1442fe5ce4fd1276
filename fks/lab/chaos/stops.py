"""The invariant of stops: a position has the stop of its own entries. Pure, and it shares no code with the order path.

The stop loss of an entry moves only by a trail or to a stop of an entry of the same open position, its own or another,
or by a move of its strategy; and a stop that rests is where the stop loss of its entry is, before and after a restart.

An open position goes from one moment at which an instance is flat to the next, by its executions in the order in which
they were booked: the order manager knows of no other. A rest worth less than half of the smallest order is flat: that
order may be measured at another price than the execution's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.lab.chaos.cover import SmallestAmounts, net
from fks.lab.chaos.decisions import Closes

Row = Mapping[str, Any]
_LIVE = ("ACCEPTED", "WORKING", "PARTIAL")
_BY_BARS = "stop-moved:"  # event ids of moves by closes and by strategies; persons and targets have others
_COPY = "copy:"  # the instance of an account that copies another's


@dataclass(frozen=True, slots=True)
class StopEvidence:
    """Rows of `stop_moves` with a price, and the signals (ids as text) that came with a plan of targets or
    break-even."""

    by_strategies: Sequence[Row] = ()
    planned: Collection[str] = ()


@dataclass(slots=True)
class _Entry:
    order: Row
    signal: Row | None
    stops: set[Decimal] = field(default_factory=set)  # that it had at any time
    positions: set[int] = field(default_factory=set)  # the open positions that it is a part of, by number

    @property
    def sign(self) -> int:
        return 1 if self.order["side"] == "buy" else -1


def moves_without_reason(
    orders: Sequence[Row],
    events: Sequence[Row],
    trades: Sequence[Row],
    signals: Sequence[Row],
    closes: Mapping[str, Closes],
    rules: Mapping[str, SmallestAmounts],
    moves: StopEvidence,
) -> Iterator[str]:
    """Yield the moves of stops that neither the entry's trail, its strategy nor its position explains, as text.

    `closes`: by instance, as far as they are known; a trail without those since its decision counts as a reason.
    """
    moved = [row for row in events if row["event"] == "StopMoved"]
    if not moved:
        return
    by_id = {str(row["id"]): row for row in signals}
    entries = {
        row["client_order_id"]: _Entry(row, by_id.get(str(row["signal_id"])))
        for row in orders
        if row["role"] in ("entry", "order") and row["filled"] > 0
    }
    _note_positions(entries, trades, rules)
    for row in orders:
        parent = entries.get(row["parent_id"] or row["client_order_id"])
        price = row.get("stop_price") if row["parent_id"] else row["stop_loss"]
        if parent is not None and price is not None:
            parent.stops.add(price)
    for event in moved:
        if (entry := entries.get(event["client_order_id"])) is not None:
            entry.stops.add(Decimal(event["payload"]["stop_loss"]))
    split = {event["client_order_id"] for event in events if event["event"] == "SharesSplit"}
    mates: dict[tuple[object, ...], list[_Entry]] = defaultdict(list)
    for entry in entries.values():
        mates[_key(entry.order)].append(entry)
    for event in moved:
        entry = entries.get(event["client_order_id"])
        if entry is None or event["client_order_id"] in split or not is_moved_by_bars(event):
            continue
        others = [one for one in mates[_key(entry.order)] if one is not entry and one.positions & entry.positions]
        stop = Decimal(event["payload"]["stop_loss"])
        bar_s = datetime.fromisoformat(event["payload"]["bar"]).timestamp()
        known = closes.get(entry.order["instance"], ())
        # the first entry's trail is that of all
        if not (
            any(_had(other, stop) for other in others)
            or any(_is_of_trail(one, stop, bar_s, known) for one in (entry, *others))
            or _is_of_strategy([entry, *others], stop, bar_s, moves)
        ):
            name = f"entry {event['client_order_id']} ({entry.order['instance']})"
            yield f"the stop of {name} moved to {stop}: by no trail, strategy or other entry of its own position"


def is_moved_by_bars(event: Row) -> bool:
    """Return whether a row of order_events is a move of a stop by closes or by a strategy."""
    return bool(event["event"] == "StopMoved" and event["event_id"].startswith(_BY_BARS))


def misplaced(orders: Sequence[Row], rules: Mapping[str, SmallestAmounts]) -> Iterator[str]:
    """Yield the live stops of an instance at rest that are not at the stop loss of their entry, as text. One that is
    too small to rest there stays where it is."""
    entries = {row["client_order_id"]: row for row in orders}
    for row in orders:
        parent = entries.get(row["parent_id"])
        if row["role"] != "sl" or row["state"] not in _LIVE or parent is None:
            continue
        at, wanted = row.get("stop_price"), parent["stop_loss"]
        if None in (at, wanted) or at == wanted:
            continue
        lowest = min(price for price in (wanted, parent.get("take_profit")) if price is not None)
        _, least = _smallest(rules.get(row["symbol"]))
        if (row["quantity"] - row["filled"]) * lowest >= least:
            yield f"stop {row['client_order_id']} rests at {at}, the stop loss of its entry is {wanted}"


def _key(row: Row) -> tuple[object, ...]:
    return row.get("account_id"), row["venue"], row["symbol"], row["instance"], row["side"]


def _note_positions(entries: Mapping[str, _Entry], trades: Sequence[Row], rules: Mapping[str, SmallestAmounts]) -> None:
    """Note at each entry which open positions its executions belong to."""
    held: dict[tuple[object, ...], Decimal] = defaultdict(Decimal)
    number: dict[tuple[object, ...], int] = defaultdict(int)
    for row in sorted(trades, key=lambda row: row["id"]):
        key = row.get("account_id"), row["venue"], row["symbol"], row["instance"]
        is_buy = row["trade_type"].lower() == "buy"
        before = held[key]
        held[key] += net(row["symbol"], is_buy, row["quantity"], row["fee"], row["fee_currency"])
        if before * held[key] < 0:
            number[key] += 1  # from long to short by one execution
        if (entry := entries.get(row["client_order_id"])) is not None:
            entry.positions.add(number[key])
        number[key] += _is_flat(held[key], row["price"], rules.get(row["symbol"]))


def _is_flat(held: Decimal, price: Decimal, rules: SmallestAmounts | None) -> bool:
    step, least = _smallest(rules)
    return abs(held) < step or abs(held) * price < least / 2


def _smallest(rules: SmallestAmounts | None) -> tuple[Decimal, Decimal]:
    """Return the step and the least worth of orders; without `rules` those that are assumed."""
    return (Decimal(0), Decimal(5)) if rules is None else (rules.step, rules.notional_min)


def _had(entry: _Entry, stop: Decimal) -> bool:
    """Return whether an entry had a stop, or was decided with that one or a nearer one: where legs are moved in place
    no row shows the first."""
    decided = None if entry.signal is None else entry.signal.get("stop_loss")
    return stop in entry.stops or (decided is not None and (decided - stop) * entry.sign >= 0)


def _is_of_trail(entry: _Entry, stop: Decimal, bar_s: float, closes: Closes) -> bool:
    """Return whether a close since the decision, less the entry's trail, is at the stop or nearer to the market; True
    if not all of these closes are known."""
    trail = None if entry.signal is None else entry.signal.get("trail")
    if entry.signal is None or trail is None:
        return False
    since_s = entry.signal["ts_event"].timestamp()
    found = [close for at_s, close in closes if since_s <= at_s <= bar_s]
    return (
        not found or closes[0][0] > since_s or max((close * entry.sign - trail) for close in found) >= stop * entry.sign
    )


def _is_of_strategy(entries: Sequence[_Entry], stop: Decimal, bar_s: float, moves: StopEvidence) -> bool:
    """Return whether a strategy moved the stop of one of the entries there, or nearer to the market; or one has a plan,
    whose break-even moves it."""
    known = [entry.signal for entry in entries if entry.signal is not None]
    if any(str(signal["id"]) in moves.planned for signal in known):
        return True
    since_s = min((signal["ts_event"].timestamp() for signal in known), default=0.0)
    name, sign = entries[0].order["instance"].removeprefix(_COPY), entries[0].sign
    return any(
        row["instance"] == name and since_s <= row["time"].timestamp() <= bar_s and (row["price"] - stop) * sign >= 0
        for row in moves.by_strategies
    )
