"""Signals from decisions: one per change of the target, with a deterministic id; after a catch-up at most two. Pure.

A decision is as old as its bar's end, on the exchange's clock. While every new bar is fresh, each edge is a signal.
When some are not (the worker or the collector was away), the strategy's state moves through them and the position gets
at most two signals: the exit, whatever its age, if the newest target asks for one or an entry's order may rest, and the
entry if its decision is fresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import NamedTuple

import numpy as np

from fks.model import ids
from fks.model.bar import Bars, Floats
from fks.model.order import OrderType, Side
from fks.model.signal import EntryGroup, Kind, Signal, SignalState
from fks.model.timeframe import NS, TIMEFRAMES, bar_end
from fks.store.challengers import ShadowDecision
from fks.store.strategies import Instance, ProtectionMove
from fks.strategies.base import SHARE_PLACES, Decisions, closed_share, opened_at
from fks.trading.orders.freshness import AGE_LEAST_S
from fks.trading.risk.sizing import Sizing
from fks.trading.risk.volatility import volatility_at

_MONTH_MAX_S = 31 * 86_400
_ALMOST_ALL = 1 - Decimal(1).scaleb(-SHARE_PLACES)
_RESTS_MAX_S = 10 * 365 * 86_400  # an order that may rest for longer than this has no end of its own


@dataclass(frozen=True, slots=True)
class MissedBars:
    """Bars that were decided on late: from the first to the last bar of the batch, how many of them were too old, and
    how many edges gave no signal."""

    from_ns: int
    to_ns: int
    bars: int
    dropped: int


def max_age_s(instance: Instance) -> float:
    """Return how old an entry's decision may be: `valid_for_s` (60 s by default), but no more than one bar.

    One bar counts as at least AGE_LEAST_S. Where a person approves each signal, `valid_for_s` alone holds.
    """
    if instance.approval in ("manual", "all"):
        return instance.valid_for_s
    return min(instance.valid_for_s, max(float(TIMEFRAMES[instance.timeframe]), AGE_LEAST_S))


def ages_s(bars: Bars, *, live_age_s: Floats, now_ns: int, is_tape: bool) -> Floats:
    """Return how long ago each bar ended, on the exchange's clock.

    `live_age_s`: for each bar the seconds since it was stored live, NaN when it came by backfill. The newest live bar
    gives the exchange's time at that moment, whatever its clock. `is_tape`: the exchange plays a tape, so our clock is
    no measure for its bars, and without a live bar every one counts as old.
    """
    ends = np.array([bar_end(int(time_ns), bars.timeframe) for time_ns in bars.time_ns], dtype=np.int64)
    live = np.flatnonzero(~np.isnan(live_age_s))
    if not len(live) and is_tape:
        return np.full(len(ends), np.inf)
    present = float(ends.max())
    if len(live):
        present = max(present, float(ends[live[-1]]) + float(live_age_s[live[-1]]) * NS)
    if not is_tape:
        present = max(present, float(now_ns))
    return np.asarray((present - ends) / NS, dtype=np.float64)


def signals_for(
    instance: Instance,
    bars: Bars,
    decisions: Decisions,
    *,
    first: int,
    ages: Floats,
    now_ns: int,
    group: EntryGroup | None = None,
) -> tuple[list[Signal], MissedBars | None]:
    """Return the signals of the bars from index `first` on, given that `instance.last_target` was wanted before it.

    `ages`: the age in seconds of each of those bars (`ages_s`). An entry may be used until its decision is `max_age_s`
    old; an exit has no age. An instance that is leaving (`is_leaving`) enters nothing.

    An entry needs a bar on which the decisions themselves enter. Right after a change of parameters they may be in the
    middle of a position that `last_target` does not know: its prices stand on an earlier bar. Where they grow, the
    entry is one that adds (`is_add`): if the position never opened, or its protection closed it, it opens none.
    `group`: that of the entries; one that adds is made by itself.
    """
    target = decisions.target[first:]
    before = np.concatenate([[instance.last_target], target[:-1]])
    decided_before = np.concatenate([[decisions.target[first - 1] if first else instance.last_target], target[:-1]])
    most = max_age_s(instance)
    edges = [
        _Edge(int(place), ordinal, kind, side, share)
        for place in np.flatnonzero(target != before)
        for ordinal, (kind, side, share) in enumerate(_edges(float(before[place]), float(target[place])))
    ]
    if not any(kind is Kind.ENTER for kind, _, _ in _edges(float(decided_before[0]), float(target[0]))):
        edges = [edge for edge in edges if edge.row > 0 or edge.kind is Kind.EXIT]
    if instance.is_leaving:
        edges = [edge for edge in edges if edge.kind is Kind.EXIT]
    is_late = ages > most
    missed = None
    if is_late.any():
        can_rest = decisions.entry_limit is not None or decisions.entry_stop is not None
        kept = _caught_up(edges, instance.last_target, float(target[-1]), ages, most, can_rest=can_rest)
        missed = MissedBars(int(bars.time_ns[first]), int(bars.time_ns[-1]), int(is_late.sum()), len(edges) - len(kept))
        edges = kept
    return [
        _signal(
            instance,
            bars,
            decisions,
            first + edge.row,
            edge,
            edge.kind is Kind.ENTER and bool(decided_before[edge.row] * target[edge.row] > 0),
            None if edge.kind is Kind.EXIT else now_ns + round((most - float(ages[edge.row])) * NS),
            0 if edge.kind is Kind.EXIT else now_ns - round(float(ages[edge.row]) * NS),
            group,
        )
        for edge in edges
    ], missed


def shadow_decisions(before: float, bars: Bars, decisions: Decisions, *, first: int) -> list[ShadowDecision]:
    """Return the changes of a challenger's target on the bars from index `first` on, given that `before` was wanted."""
    target = decisions.target[first:]
    found = []
    for place in np.flatnonzero(target != np.concatenate([[before], target[:-1]])):
        index, wanted = first + int(place), float(target[place])
        found.append(
            ShadowDecision(
                int(bars.time_ns[index]),
                wanted,
                Decimal(repr(float(bars.close[index]))),
                _price(decisions.stop_loss, index) if wanted else None,
                _price(decisions.take_profit, index) if wanted else None,
            )
        )
    return found


def protection_moves(bars: Bars, decisions: Decisions, *, first: int) -> list[ProtectionMove]:
    """Return the moves of stop and take profit, and of entries that rest, on the bars from index `first` on."""
    columns = decisions.moves(), decisions.take_profit_moves(bars.close), *decisions.entry_moves()
    rows = {first + int(row) for one in columns if one is not None for row in np.flatnonzero(~np.isnan(one[first:]))}
    return [ProtectionMove(int(bars.time_ns[row]), *(_price(one, row) for one in columns)) for row in sorted(rows)]


def _take_profit_at(decisions: Decisions, bars: Bars, opened: int, index: int) -> Decimal | None:
    """Return the take profit of an entry decided on bar `index`, of the position whose first one bar `opened` decided:
    where the decisions have moved it to by then."""
    moves = decisions.take_profit_moves(bars.close) if index > opened else None
    found = [] if moves is None else moves[opened : index + 1][~np.isnan(moves[opened : index + 1])].tolist()
    first = decisions.take_profit_at(opened)
    return _finite(found[-1] if found and np.isfinite(first) else first)


class _Edge(NamedTuple):
    """A signal of a change of target. `share`: the part of the position that an exit closes; None = all."""

    row: int
    ordinal: int  # within the bar
    kind: Kind
    side: Side
    share: Decimal | None = None


def _caught_up(
    edges: list[_Edge], held: float, wanted: float, ages: Floats, most: float, *, can_rest: bool
) -> list[_Edge]:
    """Return the edges that still count once the newest target is known: the last exit from the earlier position, or
    one of all the parts of it that were to be closed, and the entry into the one wanted now.

    A target left and wanted again counts as kept, unless entries may rest (`can_rest`): the order of the first entry
    may still be at the venue, at a price that the strategy gave up, and only the exit cancels it.
    """
    if wanted == held and not can_rest:
        return []
    leaving = Side.SELL if held > 0 else Side.BUY
    exits = [edge for edge in edges if held and edge.kind is Kind.EXIT and edge.side is leaving]
    whole = [edge for edge in exits if edge.share is None]
    if not whole and len(exits) > 1:
        left = prod((1 - edge.share for edge in exits if edge.share is not None), start=Decimal(1))
        exits = [exits[-1]._replace(share=min(round(1 - left, SHARE_PLACES), _ALMOST_ALL).normalize())]
    entries = [edge for edge in edges if wanted and edge.kind is Kind.ENTER]
    fresh = [edge for edge in entries[-1:] if ages[edge.row] <= most]
    return [*(whole or exits)[-1:], *fresh]


def _edges(before: float, after: float) -> Iterator[tuple[Kind, Side, Decimal | None]]:
    """Yield the signals of a change of target: exit the old one, then enter the new one. A target that grows on its
    side enters once more, and one that falls closes a share."""
    is_other = before * after <= 0
    share = closed_share(before, after)
    if before and (is_other or share is not None):
        yield Kind.EXIT, Side.SELL if before > 0 else Side.BUY, share
    if after and (is_other or abs(after) > abs(before)):
        yield Kind.ENTER, Side.BUY if after > 0 else Side.SELL, None


def _price(column: Floats | None, index: int) -> Decimal | None:
    return None if column is None else _finite(float(column[index]))


def _finite(value: float) -> Decimal | None:
    return Decimal(repr(value)) if np.isfinite(value) else None


def _rests_until_ns(decisions: Decisions, bars: Bars, index: int, decided_ns: int) -> int | None:
    """Return when the order of an entry ends at the latest, also without a worker; None = without end.

    `decided_ns`: the deciding bar's end on our clock. It is a bar (at least AGE_LEAST_S) later than the end of the bar
    on which the decisions let the order expire: the strategy's own expiry, by the stored bars, comes first while these
    are late by less.
    """
    if decisions.entry_bars is None or not np.isfinite(decisions.entry_bars[index]):
        return None
    bar_s = TIMEFRAMES[bars.timeframe] or _MONTH_MAX_S
    rests_s = max(float(decisions.entry_bars[index]) // 1, 1.0) * bar_s + max(bar_s, AGE_LEAST_S)
    return None if rests_s > _RESTS_MAX_S else decided_ns + round(rests_s * NS)


def _type(limit: Decimal | None, stop: Decimal | None) -> OrderType:
    if limit is None:
        return OrderType.MARKET if stop is None else OrderType.STOP
    return OrderType.LIMIT if stop is None else OrderType.STOP_LIMIT


def _needs_approval(instance: Instance, is_entry: bool) -> bool:
    """Return whether a person approves the signal first: of `manual` the entries, of `all` the exits as well."""
    return instance.approval == "all" or (instance.approval == "manual" and is_entry)


def _signal(
    instance: Instance,
    bars: Bars,
    decisions: Decisions,
    index: int,
    edge: _Edge,
    is_add: bool,
    until_ns: int | None,
    decided_ns: int,
    group: EntryGroup | None,
) -> Signal:
    time_ns = int(bars.time_ns[index])
    is_entry = edge.kind is Kind.ENTER
    opened = opened_at(decisions.target, index) if is_entry else index  # its protections are those of the position
    limit, stop = (
        _price(column, index) if is_entry else None for column in (decisions.entry_limit, decisions.entry_stop)
    )
    trail = _price(decisions.trail, opened) if is_entry else None
    plan = decisions.plan_at(opened) if is_entry and decisions.has_plans else None
    targets = () if plan is None else plan.targets
    if not is_entry or is_add:
        group = None
    share, of = (decisions.share_at(index), "its size") if is_entry else (edge.share, "what is held")
    return Signal(
        id=ids.signal_id(instance.id, instance.symbol, instance.timeframe, time_ns, edge.ordinal),
        source=f"strategy:{instance.id}",
        instance=instance.id,
        params_version=instance.params_version,
        account_id=instance.account_id,
        venue=instance.venue,
        exchange=instance.exchange,
        symbol=instance.symbol,
        timeframe=instance.timeframe,
        ts_event_ns=time_ns,
        ordinal=edge.ordinal,
        kind=edge.kind,
        side=edge.side,
        type=_type(limit, stop),
        limit_price=limit,
        stop_price=stop,
        stop_loss=_price(decisions.stop_loss, opened) if is_entry else None,
        take_profit=_take_profit_at(decisions, bars, opened, index) if is_entry else None,
        trail=trail,
        plan=plan,
        reference_price=Decimal(repr(float(bars.close[index]))),
        volatility=volatility_at(Sizing.parse(instance.sizing), bars, index) if is_entry else None,
        size_share=share,
        valid_until_ns=until_ns,
        rests_until_ns=None if limit is None and stop is None else _rests_until_ns(decisions, bars, index, decided_ns),
        is_add=is_add,
        group_id=None
        if group is None
        else ids.entry_group_id(instance.account_id, instance.venue, group.name, instance.timeframe, time_ns),
        group_legs="" if group is None else " ".join(group.symbols),
        # a person that approves the signal reads it
        reason=f"{instance.strategy} v{instance.params_version}"
        + ("" if share is None else f", {(share * 100).normalize():f} % of {of}")
        + ("" if trail is None else f", its stop trails by {trail:f}")
        + "".join(f", {(one.share * 100).normalize():f} % at {one.price:f}" for one in targets)
        + ("" if plan is None or plan.break_even is None else ", to break-even"),
        state=SignalState.PENDING if _needs_approval(instance, is_entry) else SignalState.READY,
        trace_id=ids.trace_id(instance.symbol, instance.timeframe, time_ns),
    )
