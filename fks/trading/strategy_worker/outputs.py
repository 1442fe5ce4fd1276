"""Outputs of a strategy worker: decisions become signals, or rows of a challenger that nothing sends.

`SignalOutput` commits signals with the cursor and publishes them. `ShadowOutput` commits the changes of a challenger's
target with its cursor: it has no bus and no statement that writes a signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fks.model.bar import Bars, Floats
from fks.model.signal import Signal
from fks.model.timeframe import iso
from fks.store.bus import SIGNALS, WAKE
from fks.store.challengers import ShadowStore
from fks.store.signals import signal_message
from fks.store.strategies import Instance, StrategyStore
from fks.strategies.base import Decisions, EntryGroup
from fks.system.runtime import Runtime
from fks.trading.strategy_worker.signals import MissedBars, protection_moves, shadow_decisions, signals_for


@dataclass(frozen=True, slots=True)
class BatchDecisions:
    """Decisions on a batch of new bars of one instance, whose `row` is as before the batch.

    `bars` start at the anchor; those from index `first` on decide (all others are known or warm up), and `ages` has the
    age of each of them in seconds. `cursor_ns`, `target` and `anchor_ns` are what the row has after the batch;
    `group`: that of its entries.
    """

    row: Instance
    bars: Bars
    decisions: Decisions
    first: int
    ages: Floats
    now_ns: int
    cursor_ns: int
    target: float
    anchor_ns: int
    group: EntryGroup | None = None

    @property
    def moved(self) -> Mapping[str, Any] | None:
        """Return the record of a moved anchor, or None."""
        row = self.row
        if row.anchor_ns is None or self.anchor_ns == row.anchor_ns:
            return None
        return {"instance": row.id, "from": iso(row.anchor_ns), "to": iso(self.anchor_ns)}


#: the rows that a worker decides for
WorkerStore = StrategyStore | ShadowStore


class Output(Protocol):
    """The destination of a worker's decisions."""

    async def record(self, step: BatchDecisions) -> int | None:
        """Commit what follows from a step together with the cursor and return how many rows were new; None when nothing
        was written, because the row or the lease changed meanwhile. Errors: OutageError."""


class SignalOutput:
    """Commits signals, and publishes those that are new."""

    def __init__(self, runtime: Runtime, store: StrategyStore) -> None:
        self._store, self._bus, self._meter, self._log = store, runtime.bus, runtime.meter, runtime.log

    async def record(self, step: BatchDecisions) -> int | None:
        """Write signals, moves of prices, cursor, target, anchor and missed bars in one statement;
        publish the new signals."""
        row, moved = step.row, step.moved
        signals, missed = _signals(step)
        moves = protection_moves(step.bars, step.decisions, first=step.first)
        new = await self._store.commit(
            row,
            signals,
            cursor_ns=step.cursor_ns,
            expected_ns=row.cursor_ns,
            target=step.target,
            anchor_ns=step.anchor_ns,
            moved=moved,
            missed=None if missed is None else _document(row.id, missed),
            moves=moves,
        )
        if new is None:
            return None
        if missed is not None:
            self._log.info("strategy.missed", **_document(row.id, missed))
        if moved is not None:
            self._log.info("strategy.reanchored", instance=row.id, reason="history bounded", anchor=moved["to"])
        fresh = [signal for signal in signals if signal.id in new]
        for signal in fresh:
            self._report(signal)
        messages: list[tuple[str, Mapping[str, object]]] = [(WAKE, {"type": "signal"})] if fresh else []
        messages += [(WAKE, {"type": "stop", "symbol": row.symbol})] if moves else []
        messages += [(SIGNALS, signal_message(signal)) for signal in fresh]
        if messages:
            await self._bus.publish_many(messages)
        return len(fresh)

    def _report(self, signal: Signal) -> None:
        self._meter.count("fks_signals_total", state=signal.state.value)
        self._log.info(
            "signal.committed",
            trace_id=signal.trace_id,
            signal=str(signal.id),
            instance=signal.instance,
            symbol=signal.symbol,
            kind=signal.kind.value,
            side=signal.side.value,
            state=signal.state.value,
            bar=iso(signal.ts_event_ns),
        )


class ShadowOutput:
    """Commits the decisions of challengers. A decision has no age here: nothing is sent that could come too late."""

    def __init__(self, runtime: Runtime, store: ShadowStore) -> None:
        self._store, self._meter, self._log = store, runtime.meter, runtime.log

    async def record(self, step: BatchDecisions) -> int | None:
        """Write decisions, cursor, target and anchor in one statement."""
        row, moved = step.row, step.moved
        decisions = shadow_decisions(row.last_target, step.bars, step.decisions, first=step.first)
        added = await self._store.commit(
            row,
            decisions,
            cursor_ns=step.cursor_ns,
            expected_ns=row.cursor_ns,
            target=step.target,
            anchor_ns=step.anchor_ns,
            moved=moved,
        )
        if added:
            self._meter.count("fks_challenger_decisions_total", added, strategy_instance=row.id)
        if added is not None and moved is not None:
            self._log.info("strategy.reanchored", instance=row.id, reason="history bounded", anchor=moved["to"])
        return added


def _signals(step: BatchDecisions) -> tuple[Sequence[Signal], MissedBars | None]:
    """Return the signals of the bars that decide, and those that came too late."""
    if step.first >= len(step.bars):
        return [], None
    row, bars, decisions = step.row, step.bars, step.decisions
    return signals_for(row, bars, decisions, first=step.first, ages=step.ages, now_ns=step.now_ns, group=step.group)


def _document(instance: str, missed: MissedBars) -> dict[str, object]:
    """Return the record of bars that were decided on late."""
    return {
        "instance": instance,
        "from": iso(missed.from_ns),
        "to": iso(missed.to_ns),
        "bars": missed.bars,
        "dropped": missed.dropped,
    }
