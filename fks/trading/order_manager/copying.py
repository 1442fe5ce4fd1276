"""Copies of signals: other accounts at NinjaTrader repeat the signals of the account of the venue `ninja`.

Each copy is a signal of its own, under an id that is a function of the leader's intent and the account. It is sized,
checked, denied or sent on its own position key. Copies of an entry and of a person's order are committed by the
statement that journals the leader's order: where the leader is denied, no account enters. An exit is never denied, so
its copies are committed when it arrives: a follower's exit waits for no other account. A restart inserts no second
copy.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from typing import Final

from fks.model.copies import LEADER, PREFIX, CopyRule, expected
from fks.model.ids import client_order_id, copy_signal_id, intent_id
from fks.model.order import Role
from fks.model.signal import Kind, Signal, SignalState
from fks.store.signals import SignalRecord
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.orders.messages import PositionKey

_ZERO, _ONE = Decimal(0), Decimal(1)
_OPENING = (Role.ENTRY, Role.ORDER)
_PENDING_MAX = 1_000
_PENDING_S = 60.0  # a signal without an order after this was denied


_COPIES_LOOK_S: Final = 1.0
DIVERGED_S: Final = 30.0  # an order of one account may fill later than the other's
_GAUGE: Final = "fks_copy_difference"


def copy_of(
    record: SignalRecord,
    rule: CopyRule,
    account_id: int,
    quantity: Decimal | None,
    held: Decimal,
    held_here: Decimal,
) -> Signal:
    """Return the signal by which an account repeats a leader's one. Pure.

    `quantity`: the leader's contracts, None when they are not known. `held`, `held_here`: the positions of leader and
    follower in the symbol, orders on their way included (signed contracts). An exit closes all that the account holds
    for the instance. A person's order that only reduces what the leader holds closes the same share of the follower's
    position, and never opens: a follower whose entry was denied does not go short when the leader sells.
    """
    leader = record.signal
    is_closing = _is_closing(leader, held)
    size = None if leader.is_exit else rule.contracts(quantity)
    if is_closing and leader.size is not None and held_here * leader.side.sign < 0:
        share = leader.size / abs(held)
        size = min((abs(held_here) * share).quantize(_ONE, ROUND_DOWN), abs(held_here))
    return replace(
        leader,
        id=copy_signal_id(intent_id(leader.id), account_id),
        instance=PREFIX + leader.instance if leader.instance else "",
        account_id=account_id,
        venue=rule.venue,
        # the age of a signal that a person approved counts from the approval, which only the leader's row has
        timeframe=leader.timeframe if record.approved_ns is None else None,
        ts_event_ns=leader.ts_event_ns if record.approved_ns is None else record.approved_ns,
        size=size,
        is_reduce_only=leader.is_reduce_only or is_closing,
        group_id=None if leader.group_id is None else copy_signal_id(leader.group_id, account_id),
        reason=f"copy of {leader.id} ({rule}): {leader.reason}",
        state=SignalState.READY,
    )


def _is_closing(leader: Signal, held: Decimal) -> bool:
    """Return whether a person's order only reduces what the leader holds."""
    if leader.kind is not Kind.ORDER or leader.size is None or leader.stop_loss or leader.take_profit:
        return False
    return leader.is_reduce_only or leader.size <= -held * leader.side.sign


class Copier:
    """Makes copies. Soft state: copies whose order is not journaled yet."""

    def __init__(self, context: OrderManagerContext, rules: Iterable[CopyRule]) -> None:
        self._context = context
        self._rules = [rule for rule in rules if rule.mode != "off"]
        self._pending: OrderedDict[uuid.UUID, tuple[PositionKey, Decimal, float, str]] = OrderedDict()
        self._missing: set[str] = set()

    @property
    def is_needed(self) -> bool:
        """Return whether any account repeats signals."""
        return bool(self._rules)

    async def copy_exits(self, records: Sequence[SignalRecord]) -> bool:
        """Commit the copies of the leader's exits among `records`; True when one was inserted. Safe to repeat.

        Errors: none; while PostgreSQL is away it waits.
        """
        made = [copy for record in records if record.signal.is_exit for copy in self.copies_of(record, None)]
        if not made:
            return False
        inserted = await self._context.ledger.patiently(lambda: self._context.signals.insert(made))
        self.committed(inserted)
        return bool(inserted)

    def committed(self, copies: Sequence[object]) -> None:
        """Count copies that were committed."""
        if copies:
            self._context.meter.count("fks_signal_copies_total", len(copies))

    def copies_of(self, record: SignalRecord, quantity: Decimal | None) -> list[Signal]:
        """Return the copies of a leader's signal that leads to an order of `quantity`, before that is in the cache;
        [] of other accounts' signals."""
        signal = record.signal
        if signal.venue != LEADER or not self._rules or signal.is_amended:  # a copy's order is amended by itself
            return []
        key = (signal.account_id, signal.venue, signal.symbol)
        leader = self._prospective(key)
        made = []
        for rule in self._rules:
            status = self._context.cache.venues.get(rule.venue)
            if status is None or not status.account_id:
                self._report_missing(rule)
                continue
            follower = self._prospective((status.account_id, rule.venue, signal.symbol))
            made.append(copy_of(record, rule, status.account_id, quantity, leader, follower))
            self._note(made[-1], made[-1].size)
        return made

    def ended(self, signal_id: uuid.UUID) -> None:
        """Note that a signal leads to no order."""
        self._pending.pop(signal_id, None)

    # ── what is on its way ───────────────────────────────────────────────────────────────────────
    def _note(self, signal: Signal, quantity: Decimal | None) -> None:
        if signal.is_exit or not quantity:
            return
        key = (signal.account_id, signal.venue, signal.symbol)
        now_s = self._context.clock.monotonic()
        role = Role.ORDER if signal.kind is Kind.ORDER else Role.ENTRY
        name = client_order_id(intent_id(signal.id), role)
        self._pending[signal.id] = key, quantity * signal.side.sign, now_s, name
        while len(self._pending) > _PENDING_MAX:
            self._pending.popitem(last=False)

    def _prospective(self, key: PositionKey) -> Decimal:
        """Return what is held once every order on its way has filled."""
        cache = self._context.cache
        total = sum(cache.buckets(key).values(), _ZERO)
        for order in cache.open_at(key):
            if order.role in _OPENING and order.parent_id is None:
                total += order.remaining * order.side.sign
        oldest_s = self._context.clock.monotonic() - _PENDING_S
        for id, (where, quantity, since_s, name) in list(self._pending.items()):
            if since_s < oldest_s or cache.recall(name) is not None:
                del self._pending[id]
            elif where == key:
                total += quantity
        return total

    def _report_missing(self, rule: CopyRule) -> None:
        if rule.name not in self._missing:
            self._missing.add(rule.name)
            self._context.publisher.alert(
                "warning",
                "copy.account_missing",
                f"no account of FKS has the venue {rule.venue}: nothing is copied to {rule.name}; "
                f"fks accounts create NAME --venue {rule.venue}",
                venue=rule.venue,
            )


class CopyWatch:
    """Compares the positions of followers with those that they should have: a metric each second, and an alert for a
    difference that stays. Soft state: since when they differ."""

    def __init__(self, context: OrderManagerContext, rules: Iterable[CopyRule]) -> None:
        self._context = context
        self._rules = [rule for rule in rules if rule.mode != "off"]
        self._since: dict[tuple[str, str], float] = {}
        self._alerted: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Compare each second, for ever."""
        while self._rules:
            self.look()
            await self._context.clock.sleep(_COPIES_LOOK_S)

    def look(self) -> None:
        """Compare now: set the gauges, and raise an alert for a difference that has lasted for DIVERGED_S."""
        leader = self._held(LEADER)
        for rule in self._rules:
            follower = self._held(rule.venue)
            for symbol in leader.keys() | follower.keys():
                held = follower.get(symbol, _ZERO)
                wanted = expected(rule, leader.get(symbol, _ZERO), held)
                self._note(rule, symbol, wanted, held)

    def _note(self, rule: CopyRule, symbol: str, wanted: Decimal, held: Decimal) -> None:
        where, now_s = (rule.name, symbol), self._context.clock.monotonic()
        self._context.meter.gauge(_GAUGE, float(held - wanted), account=rule.name, symbol=symbol)
        if held == wanted:
            self._since.pop(where, None)
            self._alerted.discard(where)
            return
        since_s = self._since.setdefault(where, now_s)
        if now_s - since_s < DIVERGED_S or where in self._alerted or rule.mode != "auto":
            return
        self._alerted.add(where)
        self._context.publisher.alert(
            "warning",
            "copy.diverged",
            f"account {rule.name} holds {held:f} {symbol} and should hold {wanted:f} by its rule '{rule}'; nothing is "
            "sent for that: see fks ninja status, and close or open it by hand",
            venue=rule.venue,
            symbol=symbol,
            held=str(held),
            expected=str(wanted),
        )

    def _held(self, venue: str) -> dict[str, Decimal]:
        """Return what the account of a venue holds by symbol, persons' own trades included."""
        status = self._context.cache.venues.get(venue)
        found: dict[str, Decimal] = {}
        for position in self._context.cache.positions.values():
            if status is not None and (position.account_id, position.venue) == (status.account_id, venue):
                found[position.symbol] = found.get(position.symbol, _ZERO) + position.quantity
        return found
