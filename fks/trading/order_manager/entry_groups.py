"""Entries of several symbols that one decision makes together or not at all.

No venue takes orders of several symbols as one. So the legs are checked together, each with the others' money reserved,
and one denial denies all. A leg that comes to nothing after that (the venue refuses it, its order expires) ends the
others: each gets an exit whose id follows from its entry's, so that a repetition adds nothing.

Hard state: the group's id on the signals. Soft state: verdicts on legs that wait for their turn.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fks.clock.waiting import wait_for_event
from fks.model.codes import Code
from fks.model.errors import OutageError
from fks.model.ids import group_exit_id
from fks.model.instrument import folded
from fks.model.order import TERMINAL, OrderType
from fks.model.signal import Kind, Signal, SignalState
from fks.store.signals import BrokenLeg, SignalRecord
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.risk.check import Approved, RiskDenied, leg_denial, lone_denial

_POLL_S = 1.0
_RECHECK_S = 1.0  # a verdict older than this is made again as its leg comes to its turn
_GROUPS_MAX = 1_000
_GOES_ON = (SignalState.READY, SignalState.ORDERED)
Verdict = Approved | RiskDenied


class EntryGroups:
    """See the module's text."""

    def __init__(self, context: OrderManagerContext) -> None:
        self._context = context
        self._verdicts: OrderedDict[uuid.UUID, dict[uuid.UUID, Verdict]] = OrderedDict()
        self._judged_s: OrderedDict[uuid.UUID, float] = OrderedDict()
        self._ready: OrderedDict[uuid.UUID | None, list[Signal]] = OrderedDict()  # legs, as they were seen last
        self._wake = asyncio.Event()
        self.wake_intake: Callable[[], None] = lambda: None

    # ── before the checks ────────────────────────────────────────────────────────────────────────
    async def waiting(self, records: Sequence[SignalRecord]) -> set[uuid.UUID]:
        """Return the entries that stay `ready`: another leg of theirs may still come, and their time is not over."""
        now_ns = self._context.clock.now_ns()
        entries = [
            one.signal
            for one in records
            if _is_leg(one.signal) and one.signal.valid_until_ns is not None and one.signal.valid_until_ns > now_ns
        ]
        groups = {entry.group_id for entry in entries}
        if not groups:
            return set()
        legs = await self._legs([group for group in groups if group is not None])
        for group in groups:
            self._ready[group] = [
                one.signal for one in legs if one.signal.group_id == group and one.signal.state is SignalState.READY
            ]
            _bound(self._ready)
        return {entry.id for entry in entries if _missing(entry, legs) and not _failed(entry, legs)}

    def others(self, signal: Signal) -> list[Signal]:
        """Return the other legs of a leg's group that are checked with it."""
        legs = self._ready.get(signal.group_id, []) if _is_leg(signal) else []
        return [one for one in legs if one.id != signal.id]

    async def legs(self, signal: Signal) -> list[SignalRecord]:
        """Return the entries of a leg's group that are there, its own among them."""
        assert signal.group_id is not None, "it is a leg"
        return await self._legs([signal.group_id])

    async def _legs(self, groups: Sequence[uuid.UUID]) -> list[SignalRecord]:
        return await self._context.ledger.patiently(lambda: self._context.signals.legs(groups))

    # ── the checks ───────────────────────────────────────────────────────────────────────────────
    def judge(
        self, record: SignalRecord, legs: Sequence[SignalRecord], check: Callable[[SignalRecord], Verdict]
    ) -> Verdict:
        """Return the verdict on a leg: made for all that have none yet when the first of them asks, in the order of
        their group. `check` gives one leg's and reserves what it needs; what a denied group reserved is released. One
        that was approved is checked again when its turn comes late, and denied once another leg came to nothing."""
        signal = record.signal
        assert signal.group_id is not None, "it is a leg"
        known = self._verdicts.get(signal.group_id, {})
        missing, failed = _missing(signal, legs), _failed(signal, legs) | self._unfilled(signal, legs)
        if signal.id in known:
            verdict = known[signal.id]
            is_old = self._context.clock.monotonic() - self._judged_s[signal.group_id] > _RECHECK_S
            if isinstance(verdict, Approved) and (failed or is_old):
                self._context.cache.forget(verdict.intent.client_order_id)
                verdict = known[signal.id] = _denied(signal, verdict, missing, failed) if failed else check(record)
            return verdict
        places = {symbol: place for place, symbol in enumerate(signal.group_legs.split())}
        open_ = [
            one for one in legs if one.signal.state is SignalState.READY and one.signal.id not in {signal.id, *known}
        ]
        open_.append(record)
        open_.sort(key=lambda one: places.get(folded(one.signal.symbol), len(places)))
        made = {one.signal.id: check(one) for one in open_}
        for one in open_:
            verdict = made[one.signal.id]
            if isinstance(verdict, RiskDenied):
                failed[folded(one.signal.symbol)] = verdict.denial.code.value
        if failed or missing:
            for one in open_:
                verdict = made[one.signal.id]
                if isinstance(verdict, Approved):
                    self._context.cache.forget(verdict.intent.client_order_id)
                    made[one.signal.id] = _denied(one.signal, verdict, missing, failed)
        self._verdicts[signal.group_id] = known | made
        self._judged_s[signal.group_id] = self._context.clock.monotonic()
        _bound(self._verdicts)
        _bound(self._judged_s)
        return made[signal.id]

    def _unfilled(self, signal: Signal, legs: Sequence[SignalRecord]) -> dict[str, str]:
        """Return the symbols of a group whose order ended lately without an execution, with its code."""
        found = {}
        for symbol, one in _of_group(signal, legs).items():
            order = self._context.cache.recall(one.client_order_id or "")
            if one.signal.id != signal.id and order is not None and order.state in TERMINAL and not order.filled:
                found[symbol] = order.code or order.state.value
        return found

    def ended(self, signal: Signal) -> None:
        """Note that a leg came to nothing: its reservation is free, and the others are looked at."""
        if signal.group_id is None:
            return
        verdict = self._verdicts.get(signal.group_id, {}).get(signal.id)
        if isinstance(verdict, Approved):
            self._context.cache.forget(verdict.intent.client_order_id)
        self._wake.set()

    def wake(self) -> None:
        """Look for broken groups now instead of at the next poll."""
        self._wake.set()

    # ── after the commit ─────────────────────────────────────────────────────────────────────────
    async def run(self) -> None:
        """End the legs of broken groups, for ever; an outage pauses it."""
        while True:
            self._wake.clear()
            if self._context.can_commit:
                try:
                    await self._end_broken()
                except OutageError as error:
                    self._context.log.warning("orders.groups_paused", error=str(error))
            await wait_for_event(self._wake, _POLL_S, self._context.clock)

    async def _end_broken(self) -> None:
        broken = await self._context.signals.broken()
        new = set(await self._context.signals.insert([_exit_of(one) for one in broken]))
        for one in broken:
            signal = one.record.signal
            if group_exit_id(signal.id) in new:
                self._context.publisher.alert(
                    "warning",
                    "order.group_broken",
                    f"{signal.symbol}: its entry is ended, as {one.failed_symbol} of the same decision came to "
                    f"nothing: {one.failed_code}",
                    venue=signal.venue,
                    symbol=signal.symbol,
                    instance=signal.instance,
                )
        if new:
            self.wake_intake()


def _bound(groups: OrderedDict[Any, Any]) -> None:
    while len(groups) > _GROUPS_MAX:
        groups.popitem(last=False)


def _is_leg(signal: Signal) -> bool:
    return signal.group_id is not None and signal.kind is Kind.ENTER


def _of_group(signal: Signal, legs: Sequence[SignalRecord]) -> Mapping[str, SignalRecord]:
    return {folded(one.signal.symbol): one for one in legs if one.signal.group_id == signal.group_id}


def _missing(signal: Signal, legs: Sequence[SignalRecord]) -> list[str]:
    """Return the symbols of a group that have no entry, or one that waits for its approval."""
    found = _of_group(signal, legs)
    return [
        symbol
        for symbol in signal.group_legs.split()
        if symbol not in found or found[symbol].signal.state is SignalState.PENDING
    ]


def _failed(signal: Signal, legs: Sequence[SignalRecord]) -> dict[str, str]:
    """Return the symbols of a group whose entry led to no order, with its code."""
    return {
        symbol: one.code or one.signal.state.value.upper()
        for symbol, one in _of_group(signal, legs).items()
        if one.signal.state not in (*_GOES_ON, SignalState.PENDING)
    }


def _denied(signal: Signal, verdict: Approved, missing: Sequence[str], failed: Mapping[str, str]) -> RiskDenied:
    denial = leg_denial(signal.symbol, failed) if failed else lone_denial(signal.symbol, missing)
    return RiskDenied(verdict.intent, denial, (denial,))


def _exit_of(leg: BrokenLeg) -> Signal:
    """Return the exit that ends a leg. Its id follows from the entry's."""
    entry = leg.record.signal
    return replace(
        entry,
        id=group_exit_id(entry.id),
        kind=Kind.EXIT,
        side=entry.side.opposite,
        type=OrderType.MARKET,
        size=None,
        size_share=None,
        limit_price=None,
        stop_price=None,
        stop_loss=None,
        take_profit=None,
        trail=None,
        plan=None,
        valid_until_ns=None,
        rests_until_ns=None,
        state=SignalState.READY,
        reason=f"{Code.GROUP_DENIED.value}: {leg.failed_symbol} {leg.failed_code}",
    )
