"""Aggregation of bars and trades in columns, for research and imports. The results equal those of
fks.market.bars.aggregate."""

from __future__ import annotations

from decimal import ROUND_CEILING

import numpy as np

from fks.model.bar import Bars, Floats, Ints
from fks.model.buckets import divides, ends_of, starts_of
from fks.model.errors import invalid
from fks.model.timeframe import check_timeframe, volume_of

_PLACES_MAX = 12
_SAMPLE = 512  # rows in which the number of decimal places is looked for first
_SUM_MAX = 2.0**62


def aggregate_bars(bars: Bars, timeframe: str, *, start_ns: int | None = None, end_ns: int | None = None) -> Bars:
    """Return `bars` in a larger timeframe, as the exchange itself would write them.

    The rows cover all of [start_ns, end_ns), by default from the first row's open to the last row's end; bars that
    begin or end outside are left out, and so is one without any row. A row of volume 0 among rows with volume is a
    no-trade bar: only its close counts (a bar's open is its first trade's price). Missing rows are not detected here
    (fks.market.history.gaps does that). Volumes are summed as whole numbers of the smallest place in the column, so
    sums are exact. Errors: InputError when the timeframe is not made of the bars' own, a volume has more than 12
    places, or those of one bar are too much to be summed so.
    """
    bars.ensure_not_rolled()
    check_timeframe(timeframe)
    if timeframe != bars.timeframe and not divides(bars.timeframe, timeframe):
        raise invalid("TIMEFRAME_MISMATCH", f"{timeframe} bars cannot be made of {bars.timeframe} bars")
    if timeframe == bars.timeframe or not len(bars):
        return Bars(bars.symbol, timeframe, *_columns(bars))  # type: ignore[arg-type]
    starts = starts_of(bars.time_ns, timeframe)
    edge = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    last = np.append(edge[1:], len(starts)) - 1
    has_trades = bars.volume > 0
    open_, high, low = bars.open[edge], bars.high, bars.low
    if not bool(has_trades.all()):
        high, low = _without_no_trade_rows(edge, has_trades, high, low)
        open_ = bars.open[_first_traded(edge, has_trades)]
    made = Bars(
        bars.symbol,
        timeframe,
        starts[edge],
        open_,
        np.maximum.reduceat(high, edge),
        np.minimum.reduceat(low, edge),
        bars.close[last],
        _sums(bars.volume, edge),
    )
    begin_ns = int(bars.time_ns[0]) if start_ns is None else start_ns
    stop_ns = int(ends_of(bars.time_ns[-1:], bars.timeframe)[0]) if end_ns is None else end_ns
    is_whole = (made.time_ns >= begin_ns) & (ends_of(made.time_ns, timeframe) <= stop_ns)
    whole = np.flatnonzero(is_whole)
    return made[whole[0] : whole[-1] + 1] if len(whole) else made[:0]


def aggregate_trades(
    symbol: str, timeframe: str, time_ns: Ints, price: Floats, quantity: Floats, *, start_ns: int, end_ns: int
) -> Bars:
    """Return the bars built from trades: whole bars inside [start_ns, end_ns) that hold at least one trade.

    Trades are in the exchange's order; shapes (n,). Errors: InputError when times step back, a quantity has more than
    12 places, or those of one bar are too much to be summed exactly.
    """
    check_timeframe(timeframe)
    _ensure_in_order(time_ns)
    if not len(time_ns):
        none = np.empty(0, dtype=np.float64)
        return Bars(symbol, timeframe, np.empty(0, dtype=np.int64), none, none, none, none, none)
    starts = starts_of(time_ns, timeframe)
    edge = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    last = np.append(edge[1:], len(starts)) - 1
    made = Bars(
        symbol,
        timeframe,
        starts[edge],
        price[edge],
        np.maximum.reduceat(price, edge),
        np.minimum.reduceat(price, edge),
        price[last],
        _sums(quantity, edge),
    )
    whole = np.flatnonzero((made.time_ns >= start_ns) & (ends_of(made.time_ns, timeframe) <= end_ns))
    return made[whole[0] : whole[-1] + 1] if len(whole) else made[:0]


def volume_bars(symbol: str, timeframe: str, time_ns: Ints, price: Floats, quantity: Floats) -> Bars:
    """Return the bars of `timeframe` (vol1000) that trades make: each ends with the first time at which it holds that
    volume or more, and the next begins with the trade after it.

    Trades of one time are never parted: nothing was known between them. So a bar may hold more than its volume, and no
    two begin at one time. The last bar is left out unless it is full. Shapes: (n,), in the exchange's order.
    Errors: InputError TIMEFRAME_UNKNOWN, TRADES_ORDER, and those of volumes that cannot be summed exactly.
    """
    least = volume_of(timeframe)
    if least is None:
        raise invalid("TIMEFRAME_UNKNOWN", f"{timeframe!r} names no volume bars", "write it as vol1000")
    _ensure_in_order(time_ns)
    places, scaled = _scaled(quantity)
    wanted = int((least.scaleb(places)).to_integral_value(ROUND_CEILING))
    if float(scaled.sum()) >= _SUM_MAX:
        raise invalid("VOLUME_TOO_LARGE", "the volumes add up to more than fits", "round the source, or read less")
    total = np.cumsum(scaled.astype(np.int64))
    ends = np.flatnonzero(np.diff(time_ns, append=time_ns[-1:] + 1))  # the last trade of each time
    held, last, before = total[ends], list[int](), 0
    while (at := int(np.searchsorted(held, before + wanted))) < len(ends):
        last.append(int(ends[at]))
        before = int(held[at])
    stop = np.array(last, dtype=np.int64)
    edge, inside = np.append(0, stop + 1)[: len(stop)], price[: stop[-1] + 1] if last else price[:0]
    return Bars(
        symbol,
        timeframe,
        time_ns[edge],
        price[edge],
        np.maximum.reduceat(inside, edge) if last else inside,
        np.minimum.reduceat(inside, edge) if last else inside,
        price[stop],
        np.diff(total[stop], prepend=0) / 10.0**places,
        end_ns=time_ns[stop] + 1,
    )


def _ensure_in_order(time_ns: Ints) -> None:
    steps = np.flatnonzero(np.diff(time_ns) < 0)
    if len(steps):
        row = int(steps[0]) + 1
        raise invalid("TRADES_ORDER", f"trade {row} is older than the one before it", "sort by time and id")


def _columns(bars: Bars) -> tuple[Ints | Floats, ...]:
    return (bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)


def _without_no_trade_rows(edge: Ints, has_trades: np.ndarray, high: Floats, low: Floats) -> tuple[Floats, Floats]:
    """Return highs and lows in which no-trade rows of groups that also trade are neutral for max and min."""
    sizes = np.diff(edge, append=len(has_trades))
    is_neutral = ~has_trades & np.repeat(np.logical_or.reduceat(has_trades, edge), sizes)
    return np.where(is_neutral, -np.inf, high), np.where(is_neutral, np.inf, low)


def _first_traded(edge: Ints, has_trades: np.ndarray) -> Ints:
    """Return the row of each group's first trade; its first row when no row of the group has trades."""
    rows = np.where(has_trades, np.arange(len(has_trades)), len(has_trades))
    first = np.minimum.reduceat(rows, edge)
    return np.where(first == len(has_trades), edge, first)


def _sums(column: Floats, edge: Ints) -> Floats:
    """Return the exact sum of each group, as the float nearest to it. Errors: InputError when one is too large for
    that."""
    places, scaled = _scaled(column)
    # only the sum of a group can overflow: groups are summed one by one
    if float(np.add.reduceat(np.abs(scaled), edge).max()) >= _SUM_MAX:
        raise invalid(
            "VOLUME_TOO_LARGE",
            f"the volumes of one bar add up to more than {_SUM_MAX / 10.0**places:.3g}, which {places} decimal places "
            "leave room for",
            "round the source to fewer decimal places",
        )
    return np.add.reduceat(scaled.astype(np.int64), edge) / 10.0**places


def find_unsummable(time_ns: Ints, volume: Floats) -> tuple[int, str] | None:
    """Return (row, reason) of the first volume that sums of bars cannot hold, up to a month of them; None when all can.

    Shapes: (n,), n > 0. `aggregate_bars` raises for such a volume.
    """
    fewest: tuple[int, Ints] | None = None
    for places in range(_PLACES_MAX + 1):
        bad = np.flatnonzero(np.rint(volume * 10.0**places) / 10.0**places != volume)
        if fewest is None or len(bad) < len(fewest[1]):
            fewest = (places, bad)
        if not len(bad):
            break
    assert fewest is not None
    places, bad = fewest
    if len(bad):
        return int(bad[0]), f"has more than {_PLACES_MAX} decimal places, or more digits than a float64 holds"
    edge = np.flatnonzero(np.diff(starts_of(time_ns, "1M"), prepend=-1))
    sums = np.add.reduceat(np.rint(volume * 10.0**places), edge)
    if float(sums.max()) < _SUM_MAX:
        return None
    at = int(np.argmax(sums >= _SUM_MAX))
    stop = int(edge[at + 1]) if at + 1 < len(edge) else len(volume)
    row = int(edge[at]) + int(np.argmax(volume[edge[at] : stop]))
    return row, f"makes the sum of its month larger than {_SUM_MAX / 10.0**places:.3g}, all that {places} places leave"


def _scaled(column: Floats) -> tuple[int, Floats]:
    """Return (places, the column as whole numbers of 10^-places). Errors: InputError beyond 12 places."""
    sample = column[:: max(1, len(column) // _SAMPLE)]
    for places in range(_PLACES_MAX + 1):
        if not _has_places(sample, places):
            continue
        scaled = np.rint(column * 10.0**places)
        if np.array_equal(scaled / 10.0**places, column):
            return places, scaled
    raise invalid("VOLUME_TOO_FINE", "a volume has more than 12 decimal places", "round the source")


def _has_places(column: Floats, places: int) -> bool:
    return bool(np.array_equal(np.rint(column * 10.0**places) / 10.0**places, column))
