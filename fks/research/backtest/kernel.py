"""The compiled engine: prepares integers for the walks, decides by bounds whether 64 bits suffice, and compiles them.

`kernel_walk` walks one entry at a time at the market, `kernel_orders` entries that rest and positions of several.

numba is imported when the engine first runs. Compiled code is kept in numba's cache on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from math import gcd
from operator import itemgetter
from pathlib import Path

import numpy as np

import fks.model.margin
import fks.trading.matching.rule
from fks.model.bar import Bars, Floats, Ints
from fks.model.codes import Code
from fks.model.decimals import places, plain
from fks.model.errors import BugError, InputError
from fks.model.margin import Margin
from fks.model.order import OrderType, Side
from fks.model.ticks import Ticks
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import kernel_orders as orders
from fks.research.backtest import kernel_walk as compiled
from fks.research.backtest.cash_flows import FlowPlan, closes_at_end, margin_changes, plan_flows
from fks.research.backtest.kernel_walk import FAR, KernelRules
from fks.research.backtest.limits import (
    DecidedEntry,
    EntryPrices,
    Funds,
    TapeChecks,
    affordable,
    denial_text,
    expiry,
    unpaid,
)
from fks.research.backtest.result import (
    DeniedColumns,
    EngineChoice,
    EngineResult,
    FillColumns,
    FlowColumns,
    TradeColumns,
)
from fks.research.backtest.rows import Setup
from fks.research.backtest.units import Units, from_units, to_units
from fks.strategies.base import Decisions, share_parts
from fks.trading.risk.sizing import Sizing, SizingMissing, entry_quantity
from fks.trading.risk.valuation import day_start_ns
from fks.trading.risk.volatility import PLACES as VOLATILITY_PLACES
from fks.trading.risk.volatility import volatilities, volatility_at

#: codes of denials by their number in the walk; the first two are no denial and an exit that is dust
CODES = (
    "",
    Code.QTY_MIN,
    Code.PRICE_TICK,
    Code.PRICE_BAND,
    Code.STOP_WRONG_SIDE,
    Code.QTY_STEP,
    Code.QTY_MIN,
    Code.QTY_MAX,
    Code.NOTIONAL_MIN,
    Code.NOTIONAL_MAX_ORDER,
    Code.BALANCE,
    Code.EXPOSURE_INSTRUMENT,
    Code.EXPOSURE_ACCOUNT,
    Code.LOSS_DAY,
    Code.NO_PROTECTION,
    Code.PRICE_MISSING,
    Code.PYRAMIDING,
    Code.SLIPPAGE_GUARD,
    Code.MARGIN,
    Code.BALANCE,
)
#: sizings by their number in the walk
_SIZINGS = {
    "notional": compiled.NOTIONAL,
    "quantity": compiled.FIXED,
    "equity_pct": compiled.OF_EQUITY,
    "risk_pct": compiled.OF_RISK,
    "atr_pct": compiled.OF_VOLATILITY,
    "stdev_pct": compiled.OF_VOLATILITY,
}
_DAY_NS = 86_400 * NS
_NEXT_DAY_NS = 26 * 3600 * NS  # after a day's start it is the next day, summer time or not
_MONTH_NS = 28 * _DAY_NS
_RULES = np.dtype([(name, np.int64) for name in KernelRules._fields])
_EMPTY = np.zeros(0)
_NO_INTS = np.zeros(0, np.int64)


class TargetWrong(Exception):
    """A target is none of -1, 0 and 1: at `index`."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the target of bar {index} is wrong")
        self.index = index


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """A run that the compiled engine can walk."""

    bars: Bars
    setup: Setup
    units: Units
    ticks: Ticks
    rules: KernelRules
    day_first: Ints
    day_start_ns: Ints
    flows: FlowPlan
    margins: Ints  # rows of the margin by day, and where there is one of that overnight
    margin_changes: list[tuple[int, bool]]
    finer: tuple[Ints, ...]  # time and prices of the bars inside those of the run


def is_loaded(*, has_orders: bool = False) -> bool:
    """Return whether the walk is compiled in this process already; `has_orders`: the one of `load_orders`."""
    return (load_orders if has_orders else load).cache_info().currsize > 0


def needs_orders(decisions: Decisions, entries_max: int) -> bool:
    """Return whether decisions need the walk of entries that rest or are several."""
    return entries_max > 1 or decisions.entry_limit is not None or decisions.entry_stop is not None


@cache
def load() -> Callable[..., int]:
    """Import numba and return the compiled walk. Takes tenths of a second from the cache on disk, seconds the first
    time. Errors: ImportError where numba has no package."""
    return _compiled(compiled.make_walk, prices=5, tables=3)


@cache
def load_orders() -> Callable[..., int]:
    """Return the compiled walk of entries that rest or are several. Errors: as `load`."""
    return _compiled(orders.make_walk, prices=7, tables=4)


def _compiled(make: Callable[[int], Callable[..., int]], *, prices: int, tables: int) -> Callable[..., int]:
    """Compile a walk with this number of columns of floats, and of tables that it fills."""
    import numba

    _register()
    modules = (fks.trading.matching.rule, fks.model.margin, compiled, orders)
    sources = [Path(module.__file__ or "") for module in modules]
    version = int.from_bytes(hashlib.sha256(b"".join(path.read_bytes() for path in sources)).digest()[:4])
    ints = numba.types.Array(numba.int64, 1, "C", readonly=True)
    floats = numba.types.Array(numba.float64, 1, "C", readonly=True)
    flows = numba.types.Array(numba.int64, 2, "C", readonly=True)
    of = numba.types.UniTuple
    columns = (of(ints, 10), of(floats, prices), of(ints, 2), of(ints, 2), flows)
    filled = (numba.int64[::1], numba.int64[::1], of(numba.int64[:, ::1], tables), numba.float64[::1])
    signature = (numba.from_dtype(_RULES), *columns, *filled)
    walk: Callable[..., int]
    walk = numba.njit(signature, cache=True, nogil=True, error_model="numpy", _nrt=False)(make(version))
    return walk


@cache
def _register() -> None:
    """Let compiled code call the helpers of the walks."""
    from numba.extending import register_jitable

    for helper in (*compiled.HELPERS, *orders.ORDERS_HELPERS):
        register_jitable(_nrt=False, forceinline=helper not in compiled.SELDOM)(helper)


def plan(bars: Bars, first: int, setup: Setup, finer: Bars | None = None) -> KernelPlan | str:
    """Return what the walk needs, or why the reference engine must run instead. `finer`: as of
    `fks.research.backtest.run`."""
    if finer is not None and not (len(finer) and TIMEFRAMES.get(bars.timeframe)):
        finer = None  # months have no one length
    price_places = max(bars.ticks.places, 0 if finer is None else finer.ticks.places)
    units = Units.of(price_places, setup.instrument, setup.cash, has_base_fees=setup.costs.fee_in == "received")
    if reason := _not_covered(setup, units):
        return reason
    if bars.rolls:
        return "a continuous future is rolled"
    ticks, inside = bars.ticks.on_grid(units.price), (_NO_INTS,) * 5
    if finer is not None:
        fine, times = finer.ticks, 10 ** (units.price - finer.ticks.places)
        least, most = min(ticks.least, fine.least * times), max(ticks.most, fine.most * times)
        ticks = replace(ticks, least=least, most=most)
        inside = (finer.time_ns, fine.open, fine.high, fine.low, fine.close)
    if ticks.least <= 0:
        return "a price is not positive"
    rules = _rules(bars, first, setup, units, ticks)
    if finer is not None:
        rules = rules._replace(finer_ns=TIMEFRAMES[finer.timeframe] * NS, finer_times=times)
    if bars.end_ns is not None and rules.loss_max < FAR:
        return "volume bars have no one length, by which the walk finds the days of a limit of loss"
    if (
        max(abs(value) for value in rules) > FAR
        or ticks.most * rules.lot * rules.multiplier >= 2**60
        or ticks.most * max(rules.slip_of_price, rules.slip_of_range) >= 2**60
        or ticks.most + rules.slip_fixed >= 2**60
        or max(rules.cash, rules.size) >= compiled.SAFE
    ):
        return "an amount may not fit 64 bits"
    margins = _margins(setup, units)
    if max(map(abs, margins)) > FAR:
        return "a margin may not fit 64 bits"
    flows = plan_flows(bars, first, setup, units, ticks.close)
    if max((max(abs(times), over) for _, times, over, _ in flows.rows), default=0) > FAR:
        return "a cash flow may not fit 64 bits"
    day_first, starts = _trading_days(bars, first, setup)
    changes = margin_changes(bars, first, setup.margin_kept)
    return KernelPlan(
        bars, setup, units, ticks, rules, day_first, starts, flows, np.array(margins, np.int64), changes, inside
    )


def walk(plan: KernelPlan, decisions: Decisions, reason: str, entries_max: int = 1) -> EngineResult | str:
    """Return what the decisions would have traded, or why the reference engine must run instead.

    `entries_max`: the most entries that a position may have. Where `needs_orders` is true the targets of `decisions`
    are checked already; else errors: TargetWrong.
    """
    if decisions.has_plans:
        return "entries have targets or a move to break-even"
    if decisions.take_profit_move is not None and decisions.take_profit_moves(plan.bars.close) is not None:
        return "take profits are moved"
    if any(column is not None for column in decisions.entry_moves()):
        return "orders of entries are moved"
    has_orders = needs_orders(decisions, entries_max)
    if has_orders and (missing := _orders_not_covered(plan.setup, decisions)):
        return missing
    rules, ticks = plan.rules, plan.ticks
    count = len(plan.bars)
    equity = np.empty(count - rules.first)
    state = np.concatenate([np.zeros(orders.ORDERS_STATE_SIZE, np.int64), plan.margins])
    try:
        compiled_walk = load_orders() if has_orders else load()
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    levels = [decisions.target, decisions.stop_loss, decisions.take_profit, decisions.trail, decisions.moves()]
    levels += [decisions.entry_limit, decisions.entry_stop] if has_orders else []
    bars = (plan.bars.time_ns, ticks.open, ticks.high, ticks.low, ticks.close, *plan.finer)
    tape = tuple(np.ascontiguousarray(column) for column in bars)  # a view with a step is not
    wanted_by = tuple(_EMPTY if column is None else np.ascontiguousarray(column) for column in levels)
    shares = np.zeros(0, dtype=np.int64) if decisions.size_share is None else share_parts(decisions.size_share)
    sized_by = (_volatilities(plan, decisions), shares)
    legs = (np.zeros((2 * entries_max + 4, orders.LEG_WIDTH), np.int64),) if has_orders else ()
    changes = [(bar, int(is_over), 0, 0) for bar, is_over in plan.margin_changes]
    flows = np.array([*sorted([*plan.flows.rows, *changes], key=itemgetter(0)), (count, 0, 1, 0)], np.int64)
    flows.flags.writeable = False
    paid = np.zeros(len(flows) - 1, np.int64)
    width = orders.ORDERS_FILL_WIDTH if has_orders else compiled.FILL_WIDTH
    more = 4 * entries_max if has_orders else 0
    for rows in (count // 32 + 16 + more, 3 * count + 16 + more):  # a walk that fills the small tables is repeated
        state[: orders.ORDERS_STATE_SIZE], paid[:] = 0, 0
        state[compiled.MARGIN] = orders.ORDERS_STATE_SIZE
        fills, trades, denied = (
            np.empty((rows, wide), np.int64) for wide in (width, compiled.TRADE_WIDTH, compiled.DENIED_WIDTH)
        )
        ended = compiled_walk(
            np.array([rules], dtype=_RULES)[0],
            tape,
            wanted_by,
            sized_by,
            (plan.day_first, plan.day_start_ns),
            flows,
            state,
            paid,
            (fills, trades, denied, *legs),
            equity,
        )
        if state[compiled.STATUS] != compiled.TABLE_FULL:
            break
    if state[compiled.STATUS] == compiled.TARGET_WRONG:
        raise TargetWrong(ended)
    if state[compiled.STATUS] == compiled.OVERFLOW:
        return f"an amount did not fit 64 bits at bar {ended}"
    if state[compiled.STATUS] == compiled.DONE and state[orders.UNREAD]:
        return f"finer bars decide {state[orders.UNREAD]} bars on margin"
    if state[compiled.STATUS] != compiled.DONE:
        return f"the price of an entry's order, or the number of legs, is out of range at bar {ended}"
    return _outcome(
        plan, decisions, reason, state, paid[flows[:-1, compiled.FLOW_OVER] != 0], fills, trades, denied, equity
    )


def _outcome(
    plan: KernelPlan,
    decisions: Decisions,
    reason: str,
    state: Ints,
    paid: Ints,
    fills: Ints,
    trades: Ints,
    denied: Ints,
    equity: Floats,
) -> EngineResult:
    """Return the filled tables of a walk as columns."""
    fills = fills[: state[compiled.FILLS]]
    trades = trades[: state[compiled.TRADES]]
    denied = denied[: state[compiled.DENIED]]
    return EngineResult(
        engine=EngineChoice("compiled", reason),
        units=plan.units,
        fills=FillColumns(
            bar=fills[:, compiled.BAR],
            side=fills[:, compiled.SIDE],
            quantity=fills[:, compiled.QUANTITY],
            price=fills[:, compiled.PRICE],
            fee=fills[:, compiled.FEE],
            is_base_fee=fills[:, compiled.IS_BASE] == 1,
            role=fills[:, compiled.ROLE],
            decided=fills[:, orders.DECIDED] if fills.shape[1] > orders.DECIDED else None,
        ),
        trades=TradeColumns(
            trades[:, compiled.TRADE_ENTRY], trades[:, compiled.TRADE_EXIT], trades[:, compiled.TRADE_PNL]
        ),
        denied=DeniedColumns(
            denied[:, compiled.D_BAR],
            denied[:, compiled.D_SIDE],
            denied[:, compiled.D_CODE],
            tuple(str(code) for code in CODES),
        ),
        detail=_Details(plan, decisions, denied),
        equity=equity,
        cash=int(state[compiled.CASH]),
        position=int(state[compiled.POSITION]),
        unclear=int(state[compiled.UNCLEAR]),
        slipped=int(state[compiled.SLIPPED]),
        flows=FlowColumns(np.flatnonzero(paid), paid[paid != 0]) if len(paid) else None,
    )


# ── what the walk is given ───────────────────────────────────────────────────────────────────────
def _not_covered(setup: Setup, units: Units) -> str:
    """Return what of the setup the walk does not know, or nothing."""
    item = setup.instrument
    if item.base == item.quote:
        return "base and quote are one currency"
    try:
        Sizing.parse(setup.sizing)
    except InputError:
        return f"sizing {setup.sizing}"
    if item.order_types and not {OrderType.MARKET, OrderType.STOP, OrderType.TAKE_PROFIT} <= item.order_types:
        return "the instrument forbids an order type"
    if not item.has_oco:
        return "the instrument has no OCO orders"
    if setup.costs.commission.tiers:
        return "the commission has tiers"
    if (item.orders_max is not None and item.orders_max < 2) or item.algo_orders_max == 0:
        return "the instrument allows hardly any open order"
    if item.lot(is_market=True).step % item.lot_step != 0:
        return "the step of market orders is no multiple of the lot step"
    if setup.sizing == "notional" and places(setup.size) > units.lot + units.price + units.multiplier:
        return "the size has more places than prices times lots"
    if units.worth > 18 or units.cash > 18:
        return f"amounts have {units.worth} decimal places"
    return ""


def _orders_not_covered(setup: Setup, decisions: Decisions) -> str:
    """Return what of entries that rest the walk does not know, or nothing."""
    item = setup.instrument
    if decisions.entry_limit is None and decisions.entry_stop is None:
        return ""
    if item.order_types and not {OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT} <= item.order_types:
        return "the instrument forbids an order type"
    has_few = item.orders_max is not None and item.orders_max < 3
    if has_few or (item.algo_orders_max is not None and item.algo_orders_max < 2):
        return "the instrument allows hardly any open order"
    return ""


def _rules(bars: Bars, first: int, setup: Setup, units: Units, ticks: Ticks) -> KernelRules:
    item, costs, limits = setup.instrument, setup.costs, setup.limits
    makers, takers = (costs.rate(is_maker=is_maker) for is_maker in (True, False))
    forced = Decimal(0) if setup.margin is None else setup.margin.fee_rate
    rate_places = max(places(makers), places(takers), places(forced))
    rate, maker_rate, forced_rate = (to_units(value, rate_places) for value in (takers, makers, forced))
    highest = max(rate, abs(maker_rate), forced_rate)
    slip_ticks, *slip_of = costs.slippage.factors
    slip_places = max(map(places, slip_of))
    multiplier = to_units(item.multiplier, units.multiplier)
    value_places = units.lot + units.price + units.multiplier
    collar_pct = setup.collar_pct if item.has_oto and setup.collar_pct is not None else Decimal(0)
    market, limited = item.lot(is_market=True), item.lot(is_market=False)
    away_places = places(limits.price_band_pct)
    base_excess, quote_excess = units.lot + rate_places - 8, value_places + rate_places - 8
    sizing = Sizing.parse(setup.sizing)
    share_times, share_over = _share(sizing, setup.size, units) if sizing.needs_equity else (0, 1)
    size = 0
    if sizing.name == "quantity":
        size = to_units(item.round_quantity(setup.size), units.lot)
    elif sizing.name == "notional":
        size = to_units(setup.size, value_places)
    band = item.percent_price
    factors = (Decimal(0),) * 4 if band is None else (band.sell_down, band.sell_up, band.buy_down, band.buy_up)
    band_places = max(places(factor) for factor in factors)
    return KernelRules(
        first=first,
        cash=to_units(setup.cash, units.cash),
        tick=to_units(item.tick, units.price),
        price_scale=10**units.price,
        lot=to_units(item.lot_step, units.lot),
        lot_to_quantity=10 ** (units.quantity - units.lot),
        multiplier=multiplier,
        value_to_cash=10 ** (units.cash - value_places),
        cash_to_worth=10 ** (units.worth - units.cash),
        cash_scale=10**units.cash,
        worth_scale=10**units.worth,
        sizing=_SIZINGS[sizing.name],
        size=size,
        share_times=share_times,
        share_over=share_over,
        fee_rate=rate,
        fee_rate_maker=maker_rate,
        has_slip=int(bool(costs.slippage.unit)),
        slip_of_price=to_units(slip_of[0], slip_places),
        slip_of_range=to_units(slip_of[1], slip_places),
        slip_per_tick=to_units(item.tick, units.price) * 10**slip_places,
        slip_fixed=to_units(item.tick, units.price) * int(slip_ticks),
        collar_times=to_units(collar_pct, places(collar_pct)),
        collar_over=100 * 10 ** places(collar_pct),
        is_fee_received=int(costs.fee_in == "received"),
        fee_base_times=10 ** max(0, -base_excess),
        fee_base_over=10 ** max(0, base_excess),
        fee_quote_times=10 ** max(0, -quote_excess),
        fee_quote_over=10 ** max(0, quote_excess),
        fee_to_quantity=10 ** max(0, units.quantity - 8),
        fee_to_cash=10 ** (units.cash - 8),
        commission_times=to_units(costs.commission.each, 8),
        commission_over=10**units.lot if costs.commission else 0,
        commission_least=to_units(costs.commission.least, 8),
        can_short=int(setup.can_short),
        has_margin=int(setup.margin_kept is not None),
        margin_rows=len((setup.margin_kept or Margin()).tiers) + 1,
        fee_rate_forced=forced_rate,
        market_step=to_units(market.step, units.lot),
        quantity_least=_bound(market.least, units.quantity, ROUND_CEILING),
        quantity_most=_bound(market.most, units.quantity, ROUND_FLOOR),
        guard_least=_bound(max(item.qty_min, item.lot_step), units.quantity, ROUND_CEILING),
        limit_least=_bound(limited.least, units.quantity, ROUND_CEILING),
        limit_most=_bound(limited.most, units.quantity, ROUND_FLOOR),
        notional_min_order=_bound(item.notional_min, value_places, ROUND_CEILING),
        notional_min=_bound(item.notional_min, value_places, ROUND_CEILING)
        if item.is_notional_min_for_market
        else -FAR,
        notional_max=_bound(limits.notional_max_order, value_places, ROUND_FLOOR),
        exposure_instrument=_bound(limits.exposure_max_instrument, units.worth, ROUND_FLOOR),
        exposure_account=_bound(limits.exposure_max_account, units.worth, ROUND_FLOOR),
        loss_max=_bound(limits.loss_day_max, units.worth, ROUND_CEILING),
        away_most=_bound(limits.price_band_pct, away_places, ROUND_FLOOR),
        away_unit=100 * 10**away_places,
        entries_most=setup.pyramiding or FAR,
        has_band=int(band is not None),
        band_unit=10**band_places,
        band_sell_low=to_units(factors[0], band_places),
        band_sell_high=to_units(factors[1], band_places),
        band_buy_low=to_units(factors[2], band_places),
        band_buy_high=to_units(factors[3], band_places),
        closes_at_end=int(closes_at_end(bars, setup)),
        price_least=ticks.least,
        price_most=ticks.most,
        bar_ns=TIMEFRAMES.get(bars.timeframe, 0) * NS or _MONTH_NS,
        finer_ns=0,
        finer_times=1,
        value_factor=multiplier * max(highest * 10 ** max(0, -quote_excess), 10 ** (units.cash - value_places)),
        lots_factor=max(
            highest * 10 ** max(0, -base_excess),
            10 ** (units.quantity - units.lot) * ticks.most * multiplier,
            to_units(costs.commission.each, 8),
        ),
    )


def _margins(setup: Setup, units: Units) -> list[int]:
    """Return the rows of the margin by day and, as many, of that overnight; of a margin without one only the first."""
    margin, places_of = setup.margin_kept or Margin(), (units.price + units.multiplier, units.worth)
    rows = [*margin.terms(*places_of)]
    if margin.overnight is not None:
        rows += margin.overnight.terms(*places_of) * len(rows)
    return [value for row in rows for value in row]


def _share(sizing: Sizing, percent: Decimal, units: Units) -> tuple[int, int]:
    """Return a share of the equity as a fraction; of a volatility's, in the places of prices instead of its own."""
    times, over = to_units(percent, places(percent)), 100 * 10 ** places(percent)
    if sizing.bars:
        times *= 10 ** max(0, VOLATILITY_PLACES - units.price)
        over *= 10 ** max(0, units.price - VOLATILITY_PLACES)
    common = gcd(times, over)
    return times // common, over // common


def _volatilities(plan: KernelPlan, decisions: Decisions) -> Ints:
    """Return the volatility at the bars that may enter, by bar; empty when none sizes by it."""
    sizing, first, target = Sizing.parse(plan.setup.sizing), plan.rules.first, decisions.target
    if not sizing.bars:
        return np.zeros(0, dtype=np.int64)
    found = np.full(len(target), -1, dtype=np.int64)
    before = np.concatenate([[0.0], target[first:-1]])
    entries = first + np.flatnonzero((target[first:] != before) & (target[first:] != 0.0))
    found[entries] = volatilities(sizing, plan.bars, entries)
    return found


def _bound(value: Decimal, places: int, rounding: str) -> int:
    """Return a limit as an integer that compares with integers as the limit does; one beyond 62 bits never binds."""
    return FAR if value.is_infinite() else min(int(value.scaleb(places).to_integral_value(rounding)), FAR)


def _trading_days(bars: Bars, first: int, setup: Setup) -> tuple[Ints, Ints]:
    """Return the bars that begin trading days after the first decided bar, the number of bars last, and when each of
    these days begins."""
    limits, times = setup.limits, bars.time_ns
    start_ns = day_start_ns(int(times[first]), limits.day_zone, limits.day_start_hour)
    end_ns = int(times[-1]) + _DAY_NS
    if limits.day_zone == "UTC":
        starts = np.arange(start_ns + _DAY_NS, end_ns + 2 * _DAY_NS, _DAY_NS, dtype=np.int64)
    else:
        days = [start_ns]
        while days[-1] < end_ns + _DAY_NS:
            days.append(day_start_ns(days[-1] + _NEXT_DAY_NS, limits.day_zone, limits.day_start_hour))
        starts = np.array(days[1:], dtype=np.int64)
    return np.searchsorted(times, starts), starts


# ── what it returns ──────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class _Details:
    """Live's words for a denial, from live's own check on the state that the walk noted."""

    plan: KernelPlan
    decisions: Decisions
    denied: Ints

    def __call__(self, number: int) -> str:
        plan, units, row = self.plan, self.plan.units, self.denied[number]
        setup, index = plan.setup, int(row[compiled.D_BAR])
        if row[compiled.D_CODE] == compiled.DUST:
            return f"exit of {plain(from_units(row[compiled.D_LOTS], units.lot))}"
        if row[compiled.D_CODE] == compiled.LACKS_CASH:
            cost, cash = (from_units(row[column], units.cash) for column in (compiled.D_COST, compiled.D_CASH))
            return denial_text(unpaid(setup, cost, cash))
        close = from_units(plan.ticks.close[index], units.price)
        *levels, at_limit, at_stop = (
            None if row[column] == compiled.NONE else from_units(row[column], units.price)
            for column in (compiled.D_STOP, compiled.D_LIMIT, compiled.D_ORDER_LIMIT, compiled.D_ORDER_STOP)
        )
        order = None if at_limit is None and at_stop is None else EntryPrices(at_limit, at_stop)
        side = Side.BUY if row[compiled.D_SIDE] > 0 else Side.SELL
        if row[compiled.D_CODE] == compiled.EXPIRED:
            ticks = (plan.ticks.open[index + 1], plan.ticks.high[index + 1] - plan.ticks.low[index + 1])
            open_, span = (from_units(value, units.price) for value in ticks)
            expired = expiry(setup, side, close, (levels[0], levels[1]), open_, span)
            if expired is None:
                raise BugError(f"the compiled engine let the entry of bar {index} expire, the rule does not")
            return denial_text(expired)
        funds = Funds(
            from_units(row[compiled.D_POSITION], units.quantity),
            from_units(row[compiled.D_CASH], units.cash),
            from_units(row[compiled.D_LOSS], units.worth),
            entries=int(row[compiled.D_ENTRIES]),
        )
        try:
            quantity = entry_quantity(
                setup.sizing,
                setup.size,
                at_limit or at_stop or close,
                setup.instrument,
                equity=from_units(row[compiled.D_EQUITY], units.worth),
                stop_loss=levels[0],
                volatility=volatility_at(Sizing.parse(setup.sizing), plan.bars, index),
                share=self.decisions.share_at(index),
            )
        except SizingMissing as error:
            return error.message
        entry = DecidedEntry(index, side, quantity, close, (levels[0], levels[1]), order)
        entry = affordable(setup, entry, None if setup.margin_kept is not None else funds.cash)
        denial = TapeChecks(plan.bars, setup).denial(entry, funds)
        if denial is None or denial.code != CODES[int(row[compiled.D_CODE])]:
            raise BugError(f"the compiled engine denied {CODES[int(row[compiled.D_CODE])]}, the checks {denial}")
        return denial_text(denial)
