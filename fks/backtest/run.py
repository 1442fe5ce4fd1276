"""The engine: decide over all bars at once, then walk only the bars where the target changes or a protection is hit."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

import fks
from fks.backtest.backtest import Backtest
from fks.backtest.fingerprint import fills_hash, inputs_hash
from fks.backtest.gaps import GAP_BARS_MAX, ensure_whole, find_gaps, missing_after
from fks.backtest.instrument import setup_for
from fks.backtest.limits import Holding, TapeChecks
from fks.backtest.result import DeniedEntry, FillRow, Setup, TradeRow
from fks.indicators import places_of
from fks.matching import BarRange, Leg, Resting, match_market, match_oco, match_resting
from fks.model.bar import Bars, Floats, Ints
from fks.model.errors import InputError
from fks.model.order import OrderType, Role, Side
from fks.model.timeframe import iso
from fks.risk.exits import is_dust
from fks.risk.sizing import entry_quantity, exit_quantity
from fks.strategies.base import Decisions, Strategy, evaluate
from fks.strategies.registry import source_hash

_ZERO = Decimal(0)


@dataclass(slots=True)
class _Protection:
    """The SL and TP that guard a position, in ticks, from the bar at index `since` (where its entry filled) on."""

    quantity: Decimal
    side: Side
    since: int
    stop: int | None
    limit: int | None


@dataclass(slots=True)
class _Book:
    """The account and the tape in exact integers. One per run; `places` is the grid 10^-places of all prices."""

    bars: Bars
    setup: Setup
    places: int
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    cash: Decimal
    checks: TapeChecks
    position: Decimal = _ZERO
    cost: Decimal = _ZERO  # what the open position cost in quote (negative: what a short brought in)
    entry: FillRow | None = None
    protection: _Protection | None = None
    fills: list[FillRow] = field(default_factory=list)
    fill_index: list[int] = field(default_factory=list)
    trades: list[TradeRow] = field(default_factory=list)
    denied: list[DeniedEntry] = field(default_factory=list)

    def price(self, ticks: int) -> Decimal:
        return Decimal(int(ticks)).scaleb(-self.places)

    def range(self, index: int) -> BarRange[int]:
        return BarRange(int(self.open[index]), int(self.high[index]), int(self.low[index]))


def run(strategy: Strategy, bars: Bars, setup: Setup | None = None) -> Backtest:
    """Return what `strategy` would have traded on `bars`. Without a setup: `setup_for(bars)`.

    The anchor is the bar `strategy.warmup()` bars before `setup.start_ns` (or the first one); the first decision is
    made `warmup` bars after the anchor. Warm-up bars are contiguous: with a hole among them, or before the first
    decided bar, the anchor is the bar after the hole. A decision on the last bar has no bar to fill on. What is open at
    the end stays open.
    Errors: InputError NO_DATA, TapeRefused, StrategyError; what the strategy raises goes through.
    """
    setup = setup_for(bars) if setup is None else setup
    bars = _anchored(strategy, bars, setup.start_ns)
    first = strategy.warmup()
    gaps = find_gaps(bars)
    if not setup.allow_gaps:
        ensure_whole(bars, gaps, np.zeros(len(bars), dtype=bool))  # the overall share first: it needs no run
    decisions = evaluate(strategy, bars)
    book = _open_book(bars, setup)
    _walk(book, decisions, first)
    held = _position_column(book)
    if not setup.allow_gaps:
        ensure_whole(bars, gaps, np.abs(held) >= float(setup.instrument.lot_step))
    params = strategy.model_dump(mode="json")
    return Backtest(
        strategy=strategy.name,
        params=params,
        bars=bars,
        first=first,
        fills=tuple(book.fills),
        trades=tuple(book.trades),
        denied=tuple(book.denied),
        equity=_equity(book, held)[first:],
        cash=book.cash,
        position=book.position,
        gaps=gaps,
        inputs_hash=inputs_hash(
            version=fks.__version__,
            strategy=strategy.name,
            source=source_hash(strategy),
            params=params,
            bars=bars,
            setup=setup,
            first=first,
        ),
        fills_hash=fills_hash(book.fills),
        setup=setup,
    )


def _anchored(strategy: Strategy, bars: Bars, start_ns: int | None) -> Bars:
    """Return the bars from the anchor on. Errors: InputError NO_DATA when there is not one bar to decide and fill
    on."""
    warmup = strategy.warmup()
    start = 0 if start_ns is None else int(np.searchsorted(bars.time_ns, start_ns))
    part = bars[_after_holes(bars, max(0, start - warmup), warmup) :]
    if len(part) < warmup + 2:
        have = f"{len(part)} from {iso(int(part.time_ns[0]))}" if len(part) else "none"
        raise InputError(
            f"too few {bars.timeframe} bars of {bars.symbol}: {have}, and {strategy.name} needs {warmup} to warm up "
            "and 2 more",
            code="NO_DATA",
            status=422,
            remedy="choose a longer range, or load more data (fks data sync)",
        )
    return part


def _after_holes(bars: Bars, anchor: int, warmup: int) -> int:
    """Return the first index from `anchor` on that is followed by `warmup` bars and a decided one without a hole.

    A hole is a gap longer than `GAP_BARS_MAX`: bars before it say nothing about the market after it.
    """
    for index in (np.flatnonzero(missing_after(bars[anchor:]) > GAP_BARS_MAX) + anchor + 1).tolist():
        if index > anchor + warmup:
            break
        anchor = index
    return anchor


def _open_book(bars: Bars, setup: Setup) -> _Book:
    exponent = setup.instrument.tick.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    places = max(-exponent, 0, *(places_of(column) for column in (bars.open, bars.high, bars.low, bars.close)))
    grid = 10.0**places
    open_, high, low, close = (
        np.rint(column * grid).astype(np.int64) for column in (bars.open, bars.high, bars.low, bars.close)
    )
    return _Book(bars, setup, places, open_, high, low, close, setup.cash, TapeChecks(bars, setup))


def _walk(book: _Book, decisions: Decisions, first: int) -> None:
    """Do what each change of the target asks for, at the open of the bar after it."""
    target, count = decisions.target, len(book.bars)
    before = np.concatenate([[0.0], target[first:-1]])
    for place in np.flatnonzero(target[first:] != before):
        index = first + int(place)
        _resolve(book, index)
        if index + 1 >= count:
            return
        if before[place] != 0.0:
            _leave(book, index)
        if target[index] != 0.0:
            _enter(book, index, Side.BUY if target[index] > 0 else Side.SELL, decisions)
    _resolve(book, count - 1)


def _enter(book: _Book, index: int, side: Side, decisions: Decisions) -> None:
    """Size, check and fill an entry decided on bar `index`, and place its protections."""
    setup, instrument = book.setup, book.setup.instrument
    reference = book.price(book.close[index])
    stop = _level(book, decisions.stop_loss, index, side.opposite, is_stop=True)
    limit = _level(book, decisions.take_profit, index, side.opposite, is_stop=False)
    quantity = entry_quantity(setup.sizing, setup.size, reference, instrument)
    levels = (None if stop is None else book.price(stop), None if limit is None else book.price(limit))
    holding = Holding(book.position, book.cash, book.fills, book.fill_index)
    refused = book.checks.refusal(index, side, quantity, reference, levels, holding)
    if refused is not None:
        why = f"{refused.observed}, limit {refused.limit}"
        book.denied.append(DeniedEntry(int(book.bars.time_ns[index]), side, refused.code.value, why))
        return
    _fill(book, index + 1, side, quantity, match_market(book.range(index + 1)), Role.ENTRY)
    guarded = exit_quantity(book.position, instrument)
    if (stop is not None or limit is not None) and guarded >= max(instrument.qty_min, instrument.lot_step):
        book.protection = _Protection(guarded, side.opposite, index + 1, stop, limit)


def _level(book: _Book, column: Floats | None, index: int, side: Side, *, is_stop: bool) -> int | None:
    """Return a protection's price in ticks, rounded onto the instrument's grid as risk does; None when there is
    none."""
    if column is None or not np.isfinite(column[index]):
        return None
    price = book.setup.instrument.round_price(Decimal(repr(float(column[index]))), side=side.value, is_stop=is_stop)
    return int(price.scaleb(book.places))


def _leave(book: _Book, index: int) -> None:
    """Close what is held, at the open of the bar after `index`; nothing when only dust is left."""
    instrument = book.setup.instrument
    quantity = exit_quantity(book.position, instrument)
    if quantity <= 0:
        return
    side = Side.SELL if book.position > 0 else Side.BUY
    if is_dust(quantity, book.price(book.close[index]), instrument):
        book.denied.append(DeniedEntry(int(book.bars.time_ns[index]), side, "QTY_MIN", f"exit of {quantity}"))
        return
    book.protection = None
    _fill(book, index + 1, side, quantity, match_market(book.range(index + 1)), Role.EXIT)


def _resolve(book: _Book, through: int) -> None:
    """Fill the protection at the first bar up to `through` (inclusive) that reaches it."""
    guard = book.protection
    if guard is None:
        return
    index = _first_touch(book, guard, through)
    if index is None:
        return
    hit = _match(guard, book.range(index), placed_in_bar=index == guard.since)
    assert hit is not None, "a touched protection fills"
    book.protection = None
    _fill(book, index, guard.side, guard.quantity, hit[1], Role.STOP_LOSS if hit[0] is Leg.STOP else Role.TAKE_PROFIT)


def _first_touch(book: _Book, guard: _Protection, through: int) -> int | None:
    """Return the first bar from the entry's own on whose range reaches a level: in growing slices, so that a near hit
    costs little and a far one is vectorised."""
    start, size = guard.since, 64
    is_long = guard.side is Side.SELL
    down, up = (guard.stop, guard.limit) if is_long else (guard.limit, guard.stop)
    while start <= through:
        end = min(start + size, through + 1)
        touched = np.zeros(end - start, dtype=bool)
        if down is not None:
            touched |= book.low[start:end] <= down
        if up is not None:
            touched |= book.high[start:end] >= up
        place = int(touched.argmax())
        if touched[place]:
            return start + place
        start, size = end, size * 4
    return None


def _match(guard: _Protection, bar: BarRange[int], *, placed_in_bar: bool) -> tuple[Leg, int] | None:
    stop = None if guard.stop is None else Resting(guard.side, OrderType.STOP, stop=guard.stop)
    limit = None if guard.limit is None else Resting(guard.side, OrderType.LIMIT, price=guard.limit)
    if stop is not None and limit is not None:
        return match_oco(stop, limit, bar, placed_in_bar=placed_in_bar)
    only = stop or limit
    assert only is not None
    price = match_resting(only, bar, placed_in_bar=placed_in_bar)
    return None if price is None else (Leg.STOP if stop else Leg.LIMIT, price)


def _fill(book: _Book, index: int, side: Side, quantity: Decimal, ticks: int, role: Role) -> None:
    """Book a fill: position net of base fees, cash net of quote fees, the trade when it closes one."""
    instrument = book.setup.instrument
    price = book.price(ticks)
    fee = book.setup.costs.fee(side, quantity, price, instrument)
    row = FillRow(int(book.bars.time_ns[index]), side, quantity, price, fee.amount, fee.currency, role)
    book.fills.append(row)
    book.fill_index.append(index)
    in_base = fee.currency == instrument.base
    moved = side.sign * quantity - (fee.amount if in_base else _ZERO)
    paid = side.sign * quantity * price * instrument.multiplier + (_ZERO if in_base else fee.amount)
    if role is Role.ENTRY:
        book.entry, book.cost = row, book.cost + paid
    elif book.position:
        share = book.cost * (quantity / abs(book.position))
        entry = book.entry
        assert entry is not None, "only an entry opens a position"
        book.trades.append(
            TradeRow(entry.side, entry.time_ns, row.time_ns, quantity, entry.price, price, -paid - share, role)
        )
        book.cost -= share
    book.position += moved
    book.cash -= paid


def _position_column(book: _Book) -> Floats:
    """Return the signed position after each bar."""
    moves = np.zeros(len(book.bars))
    base = book.setup.instrument.base
    for index, fill in zip(book.fill_index, book.fills, strict=True):
        moves[index] += float(fill.side.sign * fill.quantity - (fill.fee if fill.fee_currency == base else _ZERO))
    return np.cumsum(moves)


def _equity(book: _Book, held: Floats) -> Floats:
    """Return cash plus position at each bar's close, in quote."""
    multiplier = float(book.setup.instrument.multiplier)
    moves = np.zeros(len(book.bars))
    quote = book.setup.instrument.quote
    for index, fill in zip(book.fill_index, book.fills, strict=True):
        paid = float(fill.side.sign * fill.quantity * fill.price) * multiplier
        moves[index] -= paid + float(fill.fee if fill.fee_currency == quote else _ZERO)
    equity: Floats = float(book.setup.cash) + np.cumsum(moves) + held * book.bars.close * multiplier
    return equity
