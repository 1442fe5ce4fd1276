"""From decisions at bars to signals: one per edge of the target, with a deterministic id. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np

from fks.model import ids
from fks.model.bar import Bars, Floats
from fks.model.order import Side
from fks.model.signal import Kind, Signal, SignalState
from fks.model.timeframe import NS, bar_end
from fks.store.strategies import Instance
from fks.strategies.base import Decisions


def signals_for(
    instance: Instance, bars: Bars, decisions: Decisions, *, first: int, now_ns: int, live_age_s: Floats
) -> list[Signal]:
    """Return the signals of the bars from index `first` on, given that `instance.last_target` was wanted before it.

    `live_age_s`: for each of those bars the seconds since it was stored live, NaN when it came later by backfill: the
    wish of a bar of long ago is born expired, whatever the clock of the tape says.
    """
    target = decisions.target[first:]
    before = np.concatenate([[instance.last_target], target[:-1]])
    found: list[Signal] = []
    for place in np.flatnonzero(target != before):
        index = first + int(place)
        end_ns = bar_end(int(bars.time_ns[index]), instance.timeframe)
        until_ns = valid_until(end_ns, instance.valid_for_s, now_ns, float(live_age_s[int(place)]))
        edges = _edges(float(before[place]), float(target[place]))
        for ordinal, (kind, side) in enumerate(edges):
            found.append(_signal(instance, bars, decisions, index, ordinal, kind, side, until_ns))
    return _with_lasting_exit(found, float(target[-1]))


def _with_lasting_exit(signals: list[Signal], target: float) -> list[Signal]:
    """Let the last exit never expire when its side is not wanted any more: a position that nobody wants must be left,
    however late. An exit followed by a re-entry on the same side may expire with it: the position is then still right."""
    for place in range(len(signals) - 1, -1, -1):
        signal = signals[place]
        if signal.kind is Kind.EXIT:
            left = 1.0 if signal.side is Side.SELL else -1.0
            if left != target:
                signals[place] = replace(signal, valid_until_ns=None)
            break
    return signals


def valid_until(end_ns: int, valid_for_s: float, now_ns: int, live_age_s: float) -> int:
    """Return until when a bar's signal may be used.

    A bar stored live less than `valid_for_s` ago: that long after it was stored (the clock of a played tape may stand
    years away from ours). Any other: that long after the bar's end, which for old bars is in the past.
    """
    end_valid_ns = end_ns + round(valid_for_s * NS)
    if np.isnan(live_age_s):
        return end_valid_ns
    if live_age_s <= valid_for_s:
        return now_ns + round((valid_for_s - live_age_s) * NS)
    return min(end_valid_ns, now_ns)


def _edges(before: float, after: float) -> Iterator[tuple[Kind, Side]]:
    """Yield what a change of target asks for: leave what was wanted, then enter what is."""
    if before:
        yield Kind.EXIT, Side.SELL if before > 0 else Side.BUY
    if after:
        yield Kind.ENTER, Side.BUY if after > 0 else Side.SELL


def _price(column: Floats | None, index: int) -> Decimal | None:
    if column is None or not np.isfinite(column[index]):
        return None
    return Decimal(repr(float(column[index])))


def _signal(
    instance: Instance,
    bars: Bars,
    decisions: Decisions,
    index: int,
    ordinal: int,
    kind: Kind,
    side: Side,
    until_ns: int,
) -> Signal:
    time_ns = int(bars.time_ns[index])
    is_entry = kind is Kind.ENTER
    return Signal(
        id=ids.signal_id(instance.id, instance.symbol, instance.timeframe, time_ns, ordinal),
        source=f"strategy:{instance.id}", instance=instance.id, params_version=instance.params_version,
        account_id=instance.account_id, venue=instance.venue, exchange=instance.exchange, symbol=instance.symbol,
        timeframe=instance.timeframe, ts_event_ns=time_ns, ordinal=ordinal, kind=kind, side=side,
        stop_loss=_price(decisions.stop_loss, index) if is_entry else None,
        take_profit=_price(decisions.take_profit, index) if is_entry else None,
        reference_price=Decimal(repr(float(bars.close[index]))), valid_until_ns=until_ns,
        reason=f"{instance.strategy} v{instance.params_version}",
        state=SignalState.PENDING if instance.approval == "manual" else SignalState.READY,
        trace_id=ids.trace_id(instance.symbol, instance.timeframe, time_ns),
    )  # fmt: skip
