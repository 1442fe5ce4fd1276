"""The backtest against a slow reading of the written rule, and what its report must say."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fks.research.backtest as bt
from fks.config.settings import Risk
from fks.model.bar import Bars
from fks.model.cash_flows import Dividend, FundingRate, InstrumentEvents
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import Role
from fks.model.timeframe import NS, iso
from fks.research.backtest import Result, Setup, TapeRefused, find_gaps, resample, statistics_of
from fks.research.backtest.fingerprint import RULES, inputs_hash
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.report import document_of
from fks.research.backtest.series import trade_table
from fks.research.jobs.backtest import BarsRequest, LoadedBars, parse_spec, run_spec
from fks.strategies.base import Decisions, Strategy, StrategyError
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.strategies.sma_cross import SmaCross
from fks.trading.matching import Borrow, Commission, CostModel, Slippage
from tests.support.backtests import run
from tests.support.fills import assert_same_fills, differences
from tests.support.given import Given
from tests.support.slow_backtest import SlowMargin, slow_book, slow_fills
from tests.support.soak_cases import soaked
from tests.support.strategies import START_NS, bars_of

BTC = Instrument(
    "binance",
    "BTCUSDT",
    "BTC",
    "USDT",
    Decimal("0.01"),
    Decimal("0.00001"),
    Decimal("0.00001"),
    Decimal(9000),
    Decimal(5),
)
CATALOGUE = load_catalogue()
FAST: dict[str, dict[str, Any]] = {
    "sma_cross": {"fast": 3, "slow": 8},
    "ema_cross": {"fast": 3, "slow": 8},
    "macd": {"fast": 3, "slow": 8, "signal": 3},
    "rsi": {"period": 4},
    "bollinger": {"period": 6, "deviations": 1.0},
    "buy_and_hold": {},
    "donchian": {"entry": 4, "leave": 2},
    "atr_trend": {"period": 3, "atr_period": 2, "multiple": 1.0},
    "vwap_reversion": {"period": 5, "entry_pct": 0.05},
    "volatility_breakout": {"period": 2, "multiple": 1.0, "bars": 4},
    "pullback": {"factor": 2, "fast": 2, "slow": 4, "period": 3, "low": 45.0, "leave": 55.0},
    "time_of_day": {"zone": "UTC", "start": "00:20", "end": "02:00"},
    "combination": {
        "members": [{"strategy": "donchian", "params": {"entry": 3, "leave": 2}}],
        "regime": "buy_and_hold",
    },
}
#: strategies that decide once a day, or once
SELDOM = {"buy_and_hold", "time_of_day"}
#: strategies without a parameter `short`
NO_SHORT = {"buy_and_hold", "combination"}


def setup(**changes: Any) -> Setup:
    return replace(Setup(BTC, cash=Decimal(10**9)), **changes)


class Scripted(Strategy):
    """Targets by bar, with protections as absolute prices: for tapes checked by eye."""

    name: ClassVar[str] = "scripted"
    target: tuple[float, ...]
    stop: float | None = None
    limit: float | None = None
    trail: float | None = None
    most: int = 1
    moves: tuple[float | None, ...] = (None,)
    limit_moves: tuple[float | None, ...] = (None,)
    targets: tuple[tuple[float, float], ...] = ()
    after: int | None = None
    risk: float | None = None
    ticks: int = 0

    def entries_max(self) -> int:
        return self.most

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        n = len(bars)
        stop, limit, trail = (None if v is None else np.full(n, v) for v in (self.stop, self.limit, self.trail))
        moves = np.resize(np.array(self.moves, dtype=float), n)
        limits = np.resize(np.array(self.limit_moves, dtype=float), n)
        target = np.resize(np.array(self.target), n)
        found = Decisions(target, stop, limit, trail=trail, stop_move=moves, take_profit_move=limits)
        after, risk = (None if v is None else np.full(n, float(v)) for v in (self.after, self.risk))
        return replace(
            found,
            targets=tuple((np.full(n, price), np.full(n, share)) for price, share in self.targets),
            break_even_after=after,
            break_even_risk=risk,
            break_even_ticks=np.full(n, float(self.ticks)),
        )


def tape(*rows: tuple[float, float, float, float]) -> Bars:
    columns = np.array(rows, dtype=float).T
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 60 * NS
    return Bars("BTCUSDT", "1m", times, *columns, np.ones(len(rows)))


# ── G6, part one ─────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "protected",
    soaked(
        [
            {"sl_pct": 0.2, "tp_pct": 0.3, "trail_pct": 0.25},
            {},
            {"sl_pct": 0.3},
            {"tp_pct": 0.4},
            {"sl_pct": 0.2, "tp_pct": 0.3},
            {"trail_pct": 0.15},
        ],
        2,
    ),
    ids=str,
)
@pytest.mark.parametrize(("name", "short"), [(n, s) for n in FAST for s in (False, True) if n not in NO_SHORT or not s])
def test_g6_every_built_in_strategy_equals_the_slow_reading(
    name: str, protected: dict[str, float], short: bool
) -> None:
    strategy = CATALOGUE.make(name, {**FAST[name], **protected, **({"short": True} if short else {})})
    bars = synthetic(strategy.warmup() + 400)
    result = run(strategy, bars, setup(can_short=short, size=Decimal(777)))
    wanted = slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(777), can_short=short)
    assert len(wanted) > 10 or name in SELDOM
    assert_same_fills(result.fills, wanted)


@given(st.data())
def test_g6_on_any_tape_and_any_targets(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 40))
    target = tuple(data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.0, 1.0]), min_size=count, max_size=count)))
    steps = st.integers(-6, 6)
    price, rows = 100, []
    for _ in range(count):
        open_ = max(20, price + data.draw(steps))
        price = max(20, open_ + data.draw(steps))
        reach = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 8))
        rows.append((open_, max(open_, price) + reach[0], max(1, min(open_, price) - reach[1]), price))
    bars = tape(*rows)
    strategy = Scripted(
        target=target,
        stop=data.draw(st.sampled_from([None, 90.0, 97.5])),
        limit=data.draw(st.sampled_from([None, 104.0, 101.5])),
        trail=data.draw(st.sampled_from([None, None, 3.0, 7.505])),
    )
    result = run(strategy, bars, setup(can_short=True))
    assert_same_fills(
        result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(1000), can_short=True)
    )


def in_parts(seed: int) -> tuple[Scripted, Bars]:
    """Return a tape, and targets of up to three entries that grow and fall on their side, whose stops are moved."""
    dice = np.random.default_rng(seed)
    moves = dice.integers(-4, 5, (60, 2))
    close = np.maximum(100 + np.cumsum(moves.sum(axis=1)), 30)
    open_ = np.maximum(close - moves[:, 1], 30)
    high, low = np.maximum(open_, close) + dice.integers(0, 6, 60), np.minimum(open_, close) - dice.integers(0, 6, 60)
    target, now = [], 0.0
    for kind in dice.random(60):
        if not now or kind < 0.08:
            now = 0.0 if now else float(dice.choice([0.0, 0.0, 1.0, -1.0]))
        elif kind < 0.25 and abs(now) <= 2.0:
            now += np.sign(now)
        elif kind < 0.5:
            now *= dice.choice([0.5, 0.25, 0.9, 0.125])
        target.append(now)
    stop, limit = (dice.choice([None, *levels]) for levels in ((90.0, 97.5, 95.0), (104.0, 110.0, 107.0)))
    trail = dice.choice([None, None, 3.0, 7.505])
    away = np.sign(target) * dice.integers(-1, 12, 60) * 0.995
    moves = [
        float(price) if is_moved else None for price, is_moved in zip(close - away, dice.random(60) < 0.2, strict=True)
    ]
    made = Scripted(target=tuple(target), stop=stop, limit=limit, trail=trail, most=3, moves=tuple(moves))
    return made, tape(*np.stack([open_, high, low, close], axis=1).tolist())


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@given(seed=st.integers(0, 2**32))
def test_g6_on_any_tape_of_positions_that_are_closed_in_parts(engine: Any, seed: int) -> None:
    strategy, bars = in_parts(seed)
    result = run(strategy, bars, setup(can_short=True), engine=engine)
    assert result.engine.name == engine
    assert_same_fills(
        result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(1000), can_short=True)
    )


@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_the_stop_of_a_position_that_a_part_was_closed_of_sells_the_rest(engine: Any) -> None:
    bars = tape(*[(100, 101, 99, 100)] * 4, (100, 101, 85, 86), (86, 87, 85, 86))
    free = setup(costs=CostModel(Decimal(0)), sizing="quantity", size=Decimal(8))
    strategy = Scripted(target=(1.0, 2.0, *[1.5] * 4), stop=90.0, most=2)
    fills = run(strategy, bars, free, engine=engine).fills
    assert [(fill.role.value, fill.quantity) for fill in fills] == [
        ("entry", 8),
        ("entry", 8),
        ("exit", 4),
        ("sl", 4),  # what is left of the first
        ("sl", 8),
    ]


@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_a_moved_stop_comes_nearer_and_never_goes_back(engine: Any) -> None:
    bars = tape(*[(100, 101, 99, 100)] * 4, (100, 101, 80, 81), (81, 82, 80, 81))
    strategy = Scripted(target=(1.0,), stop=90.0, moves=(None, 95.0, 85.0, None, None, None))
    fills = run(strategy, bars, setup(costs=CostModel(Decimal(0))), engine=engine).fills
    assert [(fill.role, fill.price) for fill in fills][:2] == [(Role.ENTRY, 100), (Role.STOP_LOSS, 95)]


def with_moved_targets(seed: int, bars: Bars, strategy: Scripted) -> Scripted:
    """Return a strategy that moves its take profits too: nearer, farther, and to where the market is already."""
    dice = np.random.default_rng(seed + 3)
    away = np.sign(strategy.target) * dice.integers(-3, 9, len(bars)) * 0.995
    prices = np.where(dice.random(len(bars)) < 0.35, bars.close + away, np.nan)
    return strategy.model_copy(update={"limit_moves": tuple(prices.tolist()), "limit": strategy.limit or 104.0})


@pytest.mark.parametrize("has_targets", [False, True])
@given(seed=st.integers(0, 2**32))
def test_g6_on_any_tape_of_positions_whose_target_is_moved(seed: int, has_targets: bool) -> None:
    strategy, bars = with_targets(seed) if has_targets else in_parts(seed)
    if not has_targets:
        strategy = with_moved_targets(seed, bars, strategy)
    else:
        strategy = strategy.model_copy(update={"limit_moves": tuple((bars.close * 1.01).tolist())})
    result = run(strategy, bars, setup(can_short=True))
    assert result.engine.name == "reference"
    assert_same_fills(
        result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(1000), can_short=True)
    )


def test_a_moved_target_is_where_the_position_takes_profit() -> None:
    rows = [
        (100, 101, 99, 100),
        (100, 104, 99, 103),
        (103, 109, 102, 108),
        (108, 109, 100, 104),
        (104, 104.5, 103, 104),
    ]
    bars = tape(*[tuple(map(float, row)) for row in rows])

    def sold(*moves: float | None) -> list[tuple[int, Decimal]]:
        strategy = Scripted(target=(1.0,), stop=90.0, limit=105.0, limit_moves=moves)
        fills = run(strategy, bars, setup()).fills
        return [((one.time_ns - START_NS) // (60 * NS), one.price) for one in fills if one.role is Role.TAKE_PROFIT]

    assert sold(None, None, None, None, None) == [(2, 105)]
    assert sold(None, 107.0, None, None, None) == [(2, 107)]
    assert sold(None, 110.0, None, None, None) == []
    assert sold(None, 110.0, 108.5, None, None) == [(3, Decimal("108.5"))]  # from the next bar on
    assert sold(None, 103.0, None, None, None) == [(2, 105)]  # the close has reached it
    assert sold(101.0, None, None, None, None) == [(2, 105)]  # decided before it was held


def with_targets(seed: int) -> tuple[Scripted, Bars]:
    """Return a tape, and entries with several targets on one side, of which parts are closed and stops are moved."""
    dice = np.random.default_rng(seed)
    base, bars = in_parts(seed)
    target, now = [], 0.0
    for kind in dice.random(60):
        if not now or kind < 0.06:
            now = 0.0 if now else float(dice.choice([0.0, 1.0, 1.0]))
        elif kind < 0.14:
            now *= dice.choice([0.5, 0.25, 0.9, 0.015])
        target.append(now)
    side = float(dice.choice([1.0, -1.0]))
    count = int(dice.choice([1, 2, 3, 3, 4, 5]))
    shares = dice.choice([1, 2, 3, 50], count).astype(float)
    shares = np.round(shares / shares.sum(), 6)
    shares[-1] = 1.0 - shares[:-1].sum()
    at = float(bars.close[int(np.argmax(np.array(target) != 0.0))])  # near the first entry
    prices = at + side * np.sort(dice.choice(np.arange(1, 25), count, replace=False)) * 0.995
    rule = dice.choice(["", "after", "after", "risk"])
    made = base.model_copy(
        update={
            "target": tuple(side * now for now in target),
            "stop": at - side * float(dice.choice([1.0, 4.005, 12.0, 30.0])),
            "limit": None,
            "most": 1,
            "targets": tuple(zip(prices.tolist(), shares.tolist(), strict=True)),
            "after": int(dice.integers(1, count + 1)) if rule == "after" else None,
            "risk": float(dice.choice([0.25, 1.0, 1.5])) if rule == "risk" else None,
            "ticks": int(dice.choice([0, 0, 3, -7, 250])),
            "trail": dice.choice([None, None, None, 3.0, 7.505]),
            "moves": base.moves if dice.random() < 0.5 else (None,),
        }
    )
    return made, bars


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@given(seed=st.integers(0, 2**32))
def test_g6_on_any_tape_of_entries_with_several_targets(engine: Any, seed: int) -> None:
    strategy, bars = with_targets(seed)
    result = run(strategy, bars, setup(can_short=True), engine=engine)
    assert result.engine.name == "reference", "the compiled engine gives such runs away"
    assert_same_fills(
        result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(1000), can_short=True)
    )
    held = Decimal(0)
    for fill in result.fills:  # exits never exceed what is held
        before, held = held, held + fill.side.sign * fill.quantity - (fill.fee if fill.fee_currency == "BTC" else 0)
        assert fill.role is Role.ENTRY or (before * held >= 0 and abs(held) < abs(before))


def test_generated_entries_reach_their_targets_stops_and_break_even() -> None:
    """The generator of the test above reaches what it is about."""
    roles, moved, several = Counter[str](), 0, 0
    for seed in range(200):
        strategy, bars = with_targets(seed)
        fills = run(strategy, bars, setup(can_short=True)).fills
        roles.update(fill.role.value for fill in fills)
        still = strategy.model_copy(update={"after": None, "risk": None})
        moved += [fill.price for fill in run(still, bars, setup(can_short=True)).fills] != [f.price for f in fills]
        several += any(
            one.role is Role.TAKE_PROFIT and two.role is Role.STOP_LOSS for one, two in itertools.pairwise(fills)
        )
        is_enough = min(roles[role] for role in ("entry", "exit", "sl", "tp")) > 100 and moved > 10 and several > 20
        if is_enough:
            break
    assert is_enough, (roles, moved, several)


def test_generated_positions_are_closed_in_parts_before_their_protection_fills() -> None:
    """The generator of the test above reaches what it is about."""
    found = Counter[str]()
    for seed in range(500):
        roles = [fill.role.value for fill in run(*in_parts(seed), setup(can_short=True)).fills]
        found.update(f"{now} after {before}" for before, now in itertools.pairwise(roles))
        pairs = ("exit after exit", "sl after exit", "tp after exit", "sl after sl")
        if is_enough := min(found[pair] for pair in pairs) > 20:
            break
    assert is_enough, found


@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_each_part_of_a_position_is_a_trade_of_its_own(engine: Any) -> None:
    bars = tape(*[(float(p), p + 1.0, p - 1.0, float(p)) for p in (100, 100, 110, 120, 120, 140, 150, 150, 160, 160)])
    strategy = Scripted(target=(1.0, 0.5, 0.25, 1.25, 0.625, 0.0, 0.0, 1.0, 0.5, 0.5), most=2)
    free = setup(costs=CostModel(Decimal(0)), sizing="quantity", size=Decimal(8))
    result = run(strategy, bars, free, engine=engine)
    # 8 at 100; 4 and 2 are sold; 8 more at 120 make 10 at 116; half is sold, then all
    rows = [(t.quantity, t.entry_price, t.exit_price, t.pnl, t.reason.value) for t in result.trades]
    assert rows == [
        (4, 100, 110, 40, "exit"),
        (2, 100, 120, 40, "exit"),
        (5, 116, 140, 120, "exit"),
        (5, 116, 150, 170, "exit"),
        (4, 160, 160, 0, "exit"),
    ]
    table = trade_table(result)
    assert table.quantity.tolist() == [4, 2, 5, 5, 4]
    assert table.pnl_pct.tolist() == pytest.approx([10, 20, 100 * 24 / 116, 100 * 34 / 116, 0])
    # held from bar 1 to 6, and from 8 to the end
    assert statistics_of(result).exposure_pct == pytest.approx(100 * (5 + 2) / 10)
    whole = run(Scripted(target=(1.0, 1.0, 1.0, 0.0) * 2 + (1.0, 1.0)), bars, free, engine=engine)
    assert statistics_of(whole).exposure_pct == pytest.approx(100 * (3 + 3 + 1) / 10)


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@given(seed=st.integers(0, 2**32))
def test_g6_on_any_tape_with_margin_and_commission(engine: Any, seed: int) -> None:
    """The third engine, written from the text of docs/backtest.md alone, closes by force where the others do."""
    strategy, bars, made, account = leveraged(seed)
    bars, made, flows = with_flows(seed, bars, made)
    result = run(strategy, bars, made, engine=engine)
    assert result.engine.name == ("reference" if made.costs.commission.tiers else engine)
    rate, size = made.costs.fee_rate, made.size
    slow = slow_book(strategy, bars, BTC, rate=rate, size=size, can_short=True, **{**account, **flows})
    assert_same_fills(result.fills, slow.fills)
    assert (result.cash, result.position) == (slow.cash, slow.position)


def with_flows(seed: int, bars: Bars, made: Setup) -> tuple[Bars, Setup, dict[str, Any]]:
    """Return bars around a midnight, the setup with a dividend of it and funding at every third bar, and both as the
    slow reading takes them, in every other case; in every fourth one bars of days, and borrow; in some of
    these a commission with tiers. Under a margin overnight borrow alone."""
    if bars.calendar != "24/7":  # the night's margin ends where the next day begins
        borrow = Borrow.parse("9/9.75") if seed % 2 else Borrow()
        return bars, replace(made, borrow=borrow), {"borrow": (borrow.short, borrow.debit), "nights": {30: 1}}
    random = np.random.default_rng(seed + 9)
    if seed % 4 == 1:
        nights = random.choice([1, 1, 1, 3], len(bars))
        bars = replace(bars, timeframe="1d", time_ns=START_NS + np.cumsum(nights) * 86_400 * NS)
        borrow = Borrow.parse(str(random.choice(["0.03", "2.5/0.0583", "0/1.75"])))
        flows = {"borrow": (borrow.short, borrow.debit), "nights": dict(enumerate(nights.tolist()))}
        if seed % 8 == 1:
            tiers = Commission.parse("0.02 each min 0.05, 0.005 each from 12, 0.001 each from 20")
            made = replace(made, costs=replace(made.costs, commission=tiers))
            flows |= {"commission": (tiers.each, tiers.least), "tiers": tuple(tier[:2] for tier in tiers.tiers)}
        return bars, replace(made, borrow=borrow, allow_gaps=True), flows
    if seed % 2:
        return bars, made, {}
    day = int(random.integers(1, len(bars)))  # minutes before midnight, so that the ex-day begins inside the tape
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    bars = replace(bars, time_ns=int(midnight.timestamp()) * NS + (np.arange(len(bars)) - day) * 60 * NS)
    amount = Decimal(int(random.integers(1, 900))) / 100
    rates = [Decimal(text) for text in ("0.0001", "-0.0075", "0.0213")]
    times, found = bars.time_ns.tolist(), {}
    for at in range(2, len(bars), 3):
        found[at] = rates[at % 3], None if random.random() < 0.5 else Decimal(390) + at
    funding = tuple(FundingRate(times[at] - int(random.integers(0, 60)) * NS, *rate) for at, rate in found.items())
    events = InstrumentEvents((Dividend(midnight.date(), amount),), funding, is_funding_left_out=True)
    return bars, replace(made, events=events), {"dividends": {day: amount}, "funding": found}


def test_generated_accounts_are_closed_by_force_and_lack_margin() -> None:
    """The generator of the test above reaches what it is about."""
    found = Counter[str]()
    for seed in range(1500):
        strategy, bars, made, account = leveraged(seed)
        result = run(strategy, bars, made)
        assert made.margin is not None
        two = Margin(made.margin.initial, made.margin.maintenance, made.margin.is_each)
        plain = run(strategy, bars, replace(made, margin=two))
        for kind in ("above", "short", "overnight"):
            found[kind] += kind in str(made.margin) and plain.fills != result.fills
        found["fee"] += result.liquidation_fees > 0
        found["liquidation"] += sum(fill.role.value == "liquidation" for fill in result.fills)
        found["protection"] += sum(fill.role.value in ("sl", "tp") for fill in result.fills)
        bars, made, flows = with_flows(seed, bars, made)
        paid = run(strategy, bars, made)
        found["liquidation by a cash flow"] += bool(flows) and paid.liquidations != result.liquidations
        found["MARGIN"] += result.denied_count.get("MARGIN", 0)
        found["commission"] += account["commission"] is not None and len(result.fills)
        often = min(found[name] for name in ("liquidation", "protection", "MARGIN", "commission"))
        rare = min(found[name] for name in ("liquidation by a cash flow", "above", "short", "overnight", "fee"))
        if is_enough := often >= 50 and rare >= 15:
            break
    assert is_enough, found


MORE_OF_EACH = ("; fee 0.013", "; overnight 9m 150/130 each")
MORE_MARGIN = (
    *MORE_OF_EACH,
    "; short 0.049; fee 0.003",
    "; above 900 0.5/0.27; above 1700.5 0.6/0.55; fee 0.02",
    "; overnight 12m 0.6/0.4; above 1000 0.5/0.33",
)


def leveraged(seed: int) -> tuple[Scripted, Bars, Setup, dict[str, Any]]:
    """Return decisions on both sides, a tape that moves by a quarter, and an account of little more than the margin."""
    random = np.random.default_rng(seed)
    count = 50
    moves = random.integers(-13, 14, 2 * count) + (random.random(2 * count) < 0.06) * random.integers(
        -60, 61, 2 * count
    )
    path = np.maximum(400 + np.cumsum(moves), 60)
    reach = random.integers(0, 9, (2, count))
    rows = zip(path[0::2], path[1::2], *reach, strict=True)
    bars = tape(*((o, max(o, c) + up, min(o, c) - down, c) for o, c, up, down in rows))
    strategy = Scripted(
        target=tuple(np.repeat(random.choice([-1.0, 0.0, 1.0], count), random.integers(2, 12))[:count]),
        stop=random.choice([None, None, 380.0, 391.5]),
        limit=random.choice([None, None, 420.0, 411.5]),
        trail=random.choice([None, None, None, 14.505]),
    )
    text = str(random.choice(["0.5", "0.1", "0.05", "0.25/0.2", "0.1/0.05", "20 each", "80/60 each", "20/20 each"]))
    text += str(random.choice(["", *(one for one in MORE_MARGIN if "each" not in text or one in MORE_OF_EACH)]))
    margin = Margin.parse(text)
    commission = Commission.parse(str(random.choice(["none", "0.02 each", "0.003 each min 0.25"])))
    rate = Decimal(str(random.choice(["0", "0.001", "0.00075"])))
    size, maker = Decimal(int(random.integers(200, 3000))), None if seed % 3 else Decimal("-0.0002")
    needed = margin.needed(size / 400, Decimal(400), BTC)
    cash = max(
        (needed * Decimal(str(random.choice(["0.98", "1.02", "1.1", "1.5"])))).quantize(Decimal("0.01")), Decimal(1)
    )
    made = setup(
        can_short=True,
        cash=cash,
        size=size,
        margin=margin,
        costs=CostModel(rate, fee_rate_maker=maker, commission=commission),
    )
    slow = SlowMargin(margin.initial, margin.maintenance, margin.is_each)
    slow = replace(slow, brackets=margin.tiers, kept_short=margin.maintenance_short, fee=margin.fee_rate)
    if (night := margin.overnight) is not None:  # from 16:30 in New York on, which closes at 17:00; then from 18:00 on
        begin = int(datetime(2026, 3, 3, 16, 30, tzinfo=ZoneInfo("America/New_York")).timestamp()) * NS
        minutes = np.arange(count) + np.where(np.arange(count) < 30, 0, 60)
        bars = replace(bars, time_ns=begin + minutes * 60 * NS, calendar="CMES")
        overnight = SlowMargin(night.initial, night.maintenance, night.is_each)
        slow = replace(slow, overnight=overnight, nights=frozenset(range(30 - margin.overnight_minutes, 30)))
    account = {
        "maker": maker,
        "cash": cash,
        "margin": slow,
        "commission": (commission.each, commission.least) if commission else None,
    }
    return strategy, bars, made, account


@pytest.mark.parametrize(
    ("target", "changes", "price"),
    [
        (1.0, {"trail": 3.0}, 103),  # the stop: 97, 100 at the first close, 103 at the second
        (1.0, {"trail": 3.0, "stop": 90.0}, 103),
        (1.0, {"trail": 3.0, "stop": 99.0}, 103),
        (1.0, {"trail": 2.991, "stop": 90.0}, 103),  # the distance is rounded up to a tick
        (1.0, {"trail": 2.0}, 101),
        (1.0, {"trail": 30.0, "stop": 90.0}, None),
        (-1.0, {"trail": 3.0}, 103),  # the entry's own bar reaches it
    ],
)
def test_trailing_stop_follows_the_closes_alone(target: float, changes: dict[str, float], price: float | None) -> None:
    bars = tape(
        (100, 101, 99, 100), (100, 103, 100, 103), (103, 110, 101, 106), (106, 106, 102, 104), (104, 104, 104, 104)
    )
    result = run(Scripted(target=(target,), **changes), bars, setup(can_short=True))
    stops = [fill for fill in result.fills if fill.role is Role.STOP_LOSS]
    assert [float(fill.price) for fill in stops] == ([] if price is None else [price])


def test_trailing_stop_that_the_open_gaps_through_fills_at_the_open() -> None:
    bars = tape((100, 101, 99, 100), (100, 108, 100, 108), (104, 106, 104, 105), (105, 105, 105, 105))
    result = run(Scripted(target=(1.0,), trail=2.0), bars, setup())
    assert [(fill.role, float(fill.price)) for fill in result.fills] == [(Role.ENTRY, 100), (Role.STOP_LOSS, 104)]


@given(st.data(), st.sampled_from(["received", "quote"]))
def test_g6_on_any_tape_with_several_entries(data: st.DataObject, fee_in: str) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, target = 60, [0.0]
    for draw in random.random(count - 1):
        now = target[-1]
        more = now + np.sign(now) if 0 < abs(now) < 4 else now
        target.append(more if draw < 0.4 else now if draw < 0.75 else 0.0 if draw < 0.9 else random.choice([-1.0, 1.0]))
        if now * target[-1] > 0 and abs(target[-1]) < abs(now):
            target[-1] = now
    target[-3:] = [0.0] * 3
    moves = random.integers(-6, 7, 2 * count) + (random.random(2 * count) < 0.05) * random.integers(-25, 26, 2 * count)
    path = np.maximum(400 + np.cumsum(moves), 60)
    reach = random.integers(0, 6, (2, count))
    rows = zip(path[0::2], path[1::2], *reach, strict=True)
    bars = tape(*((o, max(o, c) + up, min(o, c) - down, c) for o, c, up, down in rows))
    strategy = Scripted(
        target=tuple(target),
        stop=random.choice([None, 380.0, 391.5]),
        limit=random.choice([None, 420.0, 411.5]),
        trail=random.choice([None, None, 9.0, 14.505]),
        most=4,
    )
    rate = Decimal(0) if fee_in == "quote" else Decimal("0.001")
    engine: Any = random.choice(["compiled", "reference"])
    result = run(strategy, bars, setup(can_short=True, costs=CostModel(rate)), engine=engine)
    assert result.engine.name == engine
    wanted = slow_fills(strategy, bars, BTC, rate=rate, size=Decimal(1000), can_short=True)
    assert_same_fills(result.fills, wanted)
    if fee_in == "quote":
        held, trips = Decimal(0), 0
        for fill in result.fills:
            held += fill.side.sign * fill.quantity
            trips += held == 0
        assert (held, len(result.trades)) == (0, trips)
        assert sum((trade.pnl for trade in result.trades), result.setup.cash) == result.cash


def test_a_position_of_several_entries_is_one_trade_at_average_prices() -> None:
    bars = tape((100, 100, 100, 100), (100, 101, 99, 100), (80, 81, 79, 80), (80, 110, 80, 110), (110, 111, 109, 110))
    free = setup(costs=CostModel(Decimal(0)), sizing="quantity", size=Decimal(1))
    result = run(Scripted(target=(1.0, 2.0, 2.0, 0.0, 0.0), most=2), bars, free)
    assert [(fill.role, float(fill.price), fill.quantity) for fill in result.fills] == [
        (Role.ENTRY, 100, 1),
        (Role.ENTRY, 80, 1),
        (Role.EXIT, 110, 2),
    ]
    (trade,) = result.trades
    assert (trade.quantity, trade.entry_price, trade.exit_price, trade.pnl) == (2, 90, 110, 40)
    assert (trade.entry_ns, trade.exit_ns) == (int(bars.time_ns[1]), int(bars.time_ns[4]))
    statistics = statistics_of(result)
    assert (statistics.trades, statistics.net_profit, statistics.exposure_pct) == (1, 40.0, 60.0)


def test_entries_beyond_the_pyramiding_are_denied_as_live_denies_them() -> None:
    bars = tape(*[(100, 101, 99, 100)] * 6)
    result = run(Scripted(target=(1.0, 2.0, 3.0, 3.0, 0.0, 0.0), most=3), bars, setup(pyramiding=2))
    assert [fill.role for fill in result.fills] == [Role.ENTRY, Role.ENTRY, Role.EXIT]
    assert [(row.code, row.detail) for row in result.denied] == [("PYRAMIDING", "2 held or open, limit 2 entries")]


def test_further_entries_have_the_protections_of_the_first() -> None:
    bars = tape((100, 101, 99, 100), (100, 101, 99, 100), (100, 101, 99, 100), (100, 101, 94, 100), (100, 101, 99, 100))
    result = run(
        Scripted(target=(1.0, 2.0, 2.0, 2.0, 2.0), stop=95.0, most=2), bars, setup(costs=CostModel(Decimal(0)))
    )
    assert [(fill.role, float(fill.price)) for fill in result.fills[:4]] == [
        (Role.ENTRY, 100),
        (Role.ENTRY, 100),
        (Role.STOP_LOSS, 95),
        (Role.STOP_LOSS, 95),
    ]
    assert len(result.trades) == 1


@pytest.mark.parametrize(
    ("target", "first_entries"),
    [
        ((1, 1, 2, 3, 3, 3, 3), [1]),  # the target only grows: it stands aside to the end
        ((1, 1, 2, 0, 1, 2, 2), [1, 5, 6]),  # a target of 0 in between begins a new position, which may be added to
        ((1, 1, 2, -1, -2, -2, -2), [1, 4, 5]),  # and so does the other side
        ((1, 2, 3, 3, 3, 3, 3), [1, 2]),  # decided on the bar before the stop: it fills at the open, and is stopped too
    ],
)
@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_growth_after_a_protection_closed_the_position_is_no_entry(
    target: tuple[float, ...], first_entries: list[int], engine: Any
) -> None:
    bars = tape(*[(100, 101, 99, 100)] * 2, (100, 101, 80, 95), *[(100, 101, 99, 100)] * 4)
    strategy = Scripted(target=target, trail=9.0, most=3)
    result = run(strategy, bars, setup(can_short=True), engine=engine)
    entered = [int(np.searchsorted(bars.time_ns, fill.time_ns)) for fill in result.fills if fill.role is Role.ENTRY]
    assert entered == first_entries
    assert_same_fills(
        result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(1000), can_short=True)
    )


def test_growth_of_a_position_that_was_denied_is_no_entry() -> None:
    bars = tape(*[(100, 101, 99, 100)] * 3, *[(100, 101, 99, 99)] * 3)
    strategy = Scripted(target=(1.0, 2.0, 2.0, 3.0, 0.0, 1.0), limit=99.5, most=3)
    result = run(strategy, bars, setup())
    assert result.fills == ()
    assert [(row.code, int(np.searchsorted(bars.time_ns, row.time_ns))) for row in result.denied] == [
        ("STOP_WRONG_SIDE", 0)
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ((0.0, 3.0), "target is 3.0 at bar 1 .*; it may be a whole number from -2 to 2"),
        ((0.0, 1.5), "target is 1.5 at bar 1 .*; it may be a whole number from -2 to 2"),
        ((1.0, 1.5), "target is 1.5 at bar 1 .*; it may be a whole number from -2 to 2"),
        ((1.0, 0.4, 0.9), "target is 0.9 at bar 2 .*; it may be a whole number from -2 to 2"),
    ],
)
def test_entries_that_cannot_be_made_are_refused(target: tuple[float, ...], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        run(Scripted(target=target, most=2), tape(*[(100, 101, 99, 100)] * 6), setup())


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize("share", [0.0, -0.5, 1.000001, float("inf"), 1e-7])
def test_a_share_that_is_none_is_refused_where_the_target_enters(share: float, engine: Any) -> None:
    bars = tape(*[(100, 101, 99, 100)] * 4)
    entering = Given(target=(0, 1, 1, 1), share=(1.0, share, 1.0, 1.0))
    with pytest.raises(StrategyError, match=r"size_share is .* at bar 1 .*, where it enters; it may be above 0 and at"):
        run(entering, bars, setup(), engine=engine)
    growing = Given(target=(0, 1, 2, 2), share=(1.0, 1.0, share, 1.0), most=2)
    with pytest.raises(StrategyError, match="at bar 2"):
        run(growing, bars, setup(), engine=engine)
    elsewhere = Given(target=(0, 1, 1, 1), share=(share, 0.5, share, share))
    (fill,) = run(elsewhere, bars, setup(size=Decimal(1000)), engine=engine).fills
    assert fill.quantity == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": None}, "targets and break-even need a stop_loss at bar 1 "),
        ({"limit": 120.0}, "an entry has targets or a take_profit, not both"),
        ({"most": 2}, "a position of several entries takes no targets"),
        ({"targets": ((110.0, 0.5), (105.0, 0.5))}, "the targets are not in their order"),
        ({"targets": ((110.0, 0.5), (110.0, 0.5))}, "the targets are not in their order"),
        ({"targets": ((float("nan"), 0.5), (110.0, 0.5))}, "the targets are not without a gap"),
        ({"targets": ((0.0, 0.5), (110.0, 0.5))}, "a target may be a price above 0"),
        ({"targets": ((110.0, 0.5), (120.0, 0.4))}, "the shares of the targets are 0.9 together"),
        ({"targets": ((110.0, 1.0), (120.0, 0.0))}, "each may be above 0"),
        ({"targets": ((110.0, 0.2),) * 6}, "an entry has at most 5 targets, not 6"),
        ({"after": 3}, "break_even_after is 3, and there is no such target"),
        ({"after": 1, "risk": 1.0}, "break-even is by a target or by the risk, not both"),
        ({"risk": -1.0}, "break_even_risk is -1"),
    ],
)
def test_targets_that_an_entry_cannot_have_are_refused(changes: dict[str, Any], message: str) -> None:
    plain = Scripted(target=(0.0, 1.0, 1.0, 0.0), stop=90.0, targets=((110.0, 0.5), (120.0, 0.5)))
    bars = tape(*[(100, 101, 99, 100)] * 6)
    assert len(run(plain, bars, setup()).fills) == 2
    with pytest.raises(StrategyError, match=message):
        run(plain.model_copy(update=changes), bars, setup())


def test_targets_are_closed_by_the_written_rule() -> None:
    """By eye: each target is a pair of its own, the stop first in one bar, and break-even counts from the next bar."""
    plan = ((104.0, 0.5), (108.0, 0.3), (112.0, 0.2))
    strategy = Scripted(target=(1.0,), stop=95.0, targets=plan, after=1, ticks=10)
    bars = tape(
        (100, 101, 99, 100),  # decides; 10 are bought at the next open
        (100, 104, 96, 103),  # target 1, and the stop moves to 100.10
        (103, 103, 99, 101),  # from this bar on: it closes the rest
        (101, 101, 99, 100),
    )
    result = run(strategy, bars, setup(size=Decimal(1000), costs=CostModel(Decimal(0))))
    assert [(fill.role.value, fill.quantity, fill.price) for fill in result.fills] == [
        ("entry", 10, 100),
        ("tp", 5, 104),
        ("sl", 3, Decimal("100.1")),
        ("sl", 2, Decimal("100.1")),
    ]
    assert [trade.pnl for trade in result.trades] == [20, Decimal("0.5")]  # stops of one bar are one trade
    gap = tape((100, 101, 99, 100), (100, 101, 99, 100), (109, 113, 90, 100), (100, 101, 99, 100))
    roles = [(fill.role.value, fill.price) for fill in run(strategy, gap, setup()).fills]
    assert roles == [("entry", 100), ("tp", 109), ("tp", 109), ("sl", 95)]  # the open is through two targets


@pytest.mark.parametrize("protected", [{}, {"sl_pct": 1.0}])
def test_g6_dca_and_grid_equal_the_slow_reading(protected: dict[str, float]) -> None:
    bars = synthetic(400)
    grid = CATALOGUE.make("grid", {"period": 10, "step_pct": 0.1, "levels": 4, "tp_pct": 0.1, **protected})
    dca = CATALOGUE.make("dca", {"every": 7, "buys": 4, "tp_pct": 0.1})
    scaled = CATALOGUE.make("dca", {"every": 7, "buys": 4, "tp_pct": 0.1, "scale": 1.7})
    for strategy in (grid, dca, scaled):
        result = run(strategy, bars, setup(size=Decimal(777)))
        assert len(result.fills) > 20
        assert_same_fills(result.fills, slow_fills(strategy, bars, BTC, rate=Decimal("0.001"), size=Decimal(777)))


def test_a_difference_of_one_field_is_seen() -> None:
    fills = run(CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(300), setup()).fills
    changed = [*fills[:3], replace(fills[3], fee=fills[3].fee + Decimal("1E-8")), *fills[4:]]
    (found,) = differences(fills, changed)
    assert found.startswith("fill 3: fee is")
    assert "one more" in differences(fills, fills[:-1])[0]


# ── by eye ───────────────────────────────────────────────────────────────────────────────────────
class Resting(Scripted):
    """A script whose entry is a limit, a stop or a stop-limit order."""

    name: ClassVar[str] = "resting"
    entry_limit: float | None = None
    entry_stop: float | None = None
    bars: int | None = None

    def decide(self, bars: Bars) -> Decisions:
        plain, n = super().decide(bars), len(bars)
        columns = (None if v is None else np.full(n, float(v)) for v in (self.entry_limit, self.entry_stop, self.bars))
        return Decisions(plain.target, plain.stop_loss, plain.take_profit, *columns)


RISE = ((100, 101, 99, 100), (101, 103, 100, 102), (105, 111, 104, 110), (110, 112, 94, 95), (95, 96, 90, 92))


@pytest.mark.parametrize(
    ("entry", "fills", "unclear"),
    [
        ({"entry_limit": 99}, [(3, 99)], 0),  # reached in the third bar after
        ({"entry_limit": 99, "bars": 3}, [(3, 99)], 0),
        ({"entry_limit": 99, "bars": 2}, [], 0),  # expired
        ({"entry_limit": 101}, [(1, 101)], 0),  # at the open: it was marketable
        ({"entry_limit": 102}, [(1, 101)], 0),
        ({"entry_stop": 103}, [(1, 103)], 0),
        ({"entry_stop": 104}, [(2, 105)], 0),  # a gap through the stop fills at the open
        ({"entry_stop": 104, "entry_limit": 105}, [(2, 105)], 0),
        ({"entry_stop": 104, "entry_limit": 104}, [(3, 104)], 0),  # triggered above its limit: it rests as a limit
        ({"entry_limit": 99, "stop": 92}, [(3, 99), (4, 92)], 0),
        ({"entry_limit": 99, "stop": 94}, [(3, 99), (3, 94)], 0),  # under the entry: after it
        ({"entry_limit": 99, "limit": 105}, [(3, 99)], 1),  # the bar opened above: before or after is not known
        ({"entry_stop": 103, "limit": 108}, [(1, 103), (2, 108)], 0),
        ({"entry_stop": 111, "stop": 104}, [(2, 111), (2, 104)], 1),  # the worse one counts
    ],
)
def test_entries_rest_and_fill_by_the_written_rule(
    entry: dict[str, float], fills: list[tuple[int, float]], unclear: int
) -> None:
    bars = tape(*RISE)
    result = run(Resting(target=(1,), **entry), bars, setup())
    assert [(int(np.searchsorted(bars.time_ns, f.time_ns)), float(f.price)) for f in result.fills] == fills
    assert (result.unclear, result.denied) == (unclear, ())
    compiled = run(Resting(target=(1,), **entry), bars, setup(), engine="compiled")
    assert (compiled.engine.name, compiled.fills, compiled.unclear) == ("compiled", result.fills, unclear)


def test_an_entry_that_rests_is_checked_sized_and_ended_like_lives() -> None:
    bars = tape(*RISE)
    wrong = run(Resting(target=(1,), entry_stop=99.0), bars, setup())  # under the close: it would trigger at once
    assert [row.code for row in wrong.denied] == ["STOP_WRONG_SIDE"]
    half = run(Resting(target=(1,), entry_limit=50.0), bars, setup())
    assert [row.code for row in half.denied] == ["PRICE_BAND"]
    (bought,) = run(Resting(target=(1,), entry_limit=99.0), bars, setup(size=Decimal(990))).fills
    assert bought.quantity == 10  # 990 at the limit, not at the close
    ended = run(Resting(target=(1, 1, 0, 0, 0), entry_limit=99.0), bars, setup())
    assert (ended.fills, ended.denied) == ((), ())


def test_takers_slip_and_makers_pay_their_own_rate() -> None:
    bars = tape((100, 101, 99, 100), (102, 103, 101, 102), (104, 111, 103, 104), (103, 104, 102, 103))
    costs = CostModel(Decimal("0.001"), "quote", Decimal("0.0002"), Slippage.parse("0.5 range"))
    buy, sell = run(Scripted(target=(1, 1, 1, 1), limit=110.0), bars, setup(costs=costs)).fills
    assert (buy.price, buy.fee) == (Decimal(103), Decimal("1.03"))  # half of the range of 2 above the open
    assert (sell.price, sell.fee) == (Decimal(110), Decimal("0.22"))  # the take profit rested: its own price
    buy, sell = run(Scripted(target=(1, 1, 0, 0)), bars, setup(costs=costs)).fills
    assert (sell.price, sell.fee) == (Decimal(102), Decimal("1.02"))


def test_a_decision_fills_at_the_next_open_and_fees_are_exact() -> None:
    bars = tape((100, 101, 99, 100), (102, 103, 101, 102), (104, 105, 103, 104), (103, 104, 102, 103))
    result = run(Scripted(target=(1, 1, 0, 0)), bars, setup())
    buy, sell = result.fills
    assert (buy.time_ns, buy.price, buy.quantity) == (int(bars.time_ns[1]), Decimal(102), Decimal(10))
    assert (buy.fee, buy.fee_currency) == (Decimal("0.01"), "BTC")
    assert (sell.time_ns, sell.price, sell.quantity) == (int(bars.time_ns[3]), Decimal(103), Decimal("9.99"))
    assert (sell.fee, sell.fee_currency) == (Decimal("1.02897"), "USDT")
    (trade,) = result.trades
    assert trade.pnl == Decimal("9.99") * 103 - Decimal("1.02897") - 1020
    assert (result.position, result.cash) == (Decimal(0), Decimal(10**9) + trade.pnl)
    assert result.equity[-1] == pytest.approx(float(result.cash))


def test_dust_stays_and_is_sold_once_it_makes_a_step() -> None:
    bars = tape(*[(30_000, 30_001, 29_999, 30_000)] * 12)
    result = run(Scripted(target=(1, 0) * 6), bars, setup(size=Decimal("0.00015"), sizing="quantity"))
    bought, sold = (sum((f.quantity for f in result.fills if f.side.value == s), Decimal(0)) for s in ("buy", "sell"))
    fees = sum((f.fee for f in result.fills if f.fee_currency == "BTC"), Decimal(0))
    assert result.position == bought - fees - sold
    assert 0 <= result.position < BTC.lot_step


def test_no_entry_after_a_stop_until_the_target_was_zero() -> None:
    bars = tape((100, 100, 100, 100), (100, 100, 100, 100), (95, 95, 80, 85), *[(85, 90, 85, 90)] * 4)
    result = run(Scripted(target=(1, 1, 1, 1, 0, 1, 1), stop=84.0), bars, setup())
    assert [(f.role, f.price) for f in result.fills] == [
        (Role.ENTRY, Decimal(100)),
        (Role.STOP_LOSS, Decimal(84)),
        (Role.ENTRY, Decimal(85)),
    ]


def test_exit_cancels_protection_that_would_fill_later_in_that_bar() -> None:
    bars = tape((100, 100, 100, 100), (100, 101, 99, 100), (98, 99, 50, 60), (60, 60, 60, 60))
    result = run(Scripted(target=(1, 0, 0, 0), stop=90.0), bars, setup())
    assert [(f.role, f.price) for f in result.fills] == [(Role.ENTRY, Decimal(100)), (Role.EXIT, Decimal(98))]


def test_a_protection_hit_in_the_deciding_bar_comes_before_the_decision() -> None:
    bars = tape((100, 100, 100, 100), (100, 101, 80, 85), (98, 99, 97, 98), (60, 60, 60, 60))
    result = run(Scripted(target=(1, 0, 0, 0), stop=90.0), bars, setup())
    assert [(f.role, f.price) for f in result.fills] == [(Role.ENTRY, Decimal(100)), (Role.STOP_LOSS, Decimal(90))]


def test_open_position_stays_open_at_the_end_of_the_bars() -> None:
    bars = tape(*[(100, 100, 100, 100)] * 3)
    assert run(Scripted(target=(0, 0, 1)), bars, setup()).fills == ()
    result = run(Scripted(target=(0, 1, 1)), bars, setup())
    assert len(result.fills) == 1
    assert result.trades == ()
    assert result.equity[-1] == pytest.approx(10**9 - 1.0)


@pytest.mark.parametrize(
    ("changes", "script", "code"),
    [
        ({"size": Decimal(4)}, {}, "NOTIONAL_MIN"),
        ({"size": Decimal("0.0001")}, {}, "QTY_MIN"),
        ({"size": Decimal(10_000), "sizing": "quantity"}, {}, "QTY_MAX"),
        ({"cash": Decimal(999)}, {}, "BALANCE"),
        ({}, {"target": (-1, -1, 0, 0)}, "BALANCE"),
        ({}, {"stop": 100.0}, "STOP_WRONG_SIDE"),
        ({}, {"limit": 99.0}, "STOP_WRONG_SIDE"),
    ],
)
def test_entries_that_live_would_deny_are_denied(changes: dict[str, Any], script: dict[str, Any], code: str) -> None:
    bars = tape(*[(100, 100.5, 99.5, 100)] * 4)
    result = run(Scripted(**{"target": (1, 1, 0, 0), **script}), bars, setup(**changes))
    assert result.fills == ()
    assert [row.code for row in result.denied] == [code]


def test_prices_off_the_tick_grid_of_today_are_kept_as_they_were() -> None:
    bars = tape((100.123, 101, 99, 100.125), (100.127, 101, 99, 100), (100.5, 101, 99, 100))
    assert run(Scripted(target=(1, 0, 0)), bars, setup()).fills[0].price == Decimal("100.127")


# ── where it starts ──────────────────────────────────────────────────────────────────────────────
class LateSeer(Strategy):
    """Flat for 4,000 bars, then long where the next close is higher."""

    name: ClassVar[str] = "late_seer"

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        ahead = np.append(bars.close[1:], bars.close[-1:]) > bars.close
        return Decisions((ahead & (np.arange(len(bars)) >= 4_000)).astype(float))


def test_a_strategy_that_looks_ahead_late_is_refused() -> None:
    bars = synthetic(6_000)
    with pytest.raises(StrategyError, match="it looks ahead"):
        bt.run(LateSeer(), bars)
    assert bt.run(LateSeer(), bars[:4_000]).fills == ()


@pytest.mark.parametrize(("column", "price"), [("high", 2.1e6), ("low", 0.01)])
def test_a_price_that_cannot_be_is_refused_with_its_bar(column: str, price: float) -> None:
    bars = synthetic(900)
    kept, spike = getattr(bars, column).copy(), getattr(bars, column).copy()
    kept[400], spike[400] = (1.8e6, price) if column == "high" else (0.1, price)
    assert bt.run(SmaCross(fast=3, slow=8), replace(bars, **{column: kept})).gaps.present == 900
    with pytest.raises(TapeRefused, match=re.escape(f"T06:40:00Z reaches {price:g} between")) as no:
        bt.run(SmaCross(fast=3, slow=8), replace(bars, **{column: spike}))
    assert no.value.code == "TAPE_SPIKE"


def test_a_start_time_puts_the_anchor_one_warmup_before_it() -> None:
    strategy, bars = CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(200)
    result = run(strategy, bars, setup(start_ns=int(bars.time_ns[100])))
    assert int(result.bars.time_ns[0]) == int(bars.time_ns[100 - strategy.warmup()])
    assert int(result.bars.time_ns[result.first]) == int(bars.time_ns[100])
    assert_same_fills(result.fills, run(strategy, bars[92:], setup()).fills)


@pytest.mark.parametrize(("missing", "start"), [(range(60, 900), 900), (range(60, 900), 500), (range(60, 895), 900)])
def test_a_start_after_a_hole_warms_up_after_the_hole(missing: range, start: int) -> None:
    strategy, bars = CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(1200)
    result = run(strategy, without(bars, missing), setup(start_ns=int(bars.time_ns[start])))
    anchor = missing.stop
    assert int(result.bars.time_ns[0]) == int(bars.time_ns[anchor])
    assert int(result.bars.time_ns[result.first]) == int(bars.time_ns[anchor + strategy.warmup()])
    assert result.gaps.missing_pct == 0.0
    assert_same_fills(result.fills, run(strategy, bars[anchor:], setup()).fills)


def test_a_hole_in_the_first_warm_up_moves_the_first_decision() -> None:
    strategy, bars = CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(400)
    result = run(strategy, without(bars, range(4, 20), range(26, 40)), setup())
    assert int(result.bars.time_ns[0]) == int(bars.time_ns[40])
    short = without(synthetic(60), range(10, 25))
    kept = run(strategy, short, setup(allow_gaps=True))  # a hole behind the first decision moves nothing
    assert int(kept.bars.time_ns[0]) == int(short.time_ns[0])


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_bars_are_one_clear_line(count: int) -> None:
    with pytest.raises(InputError, match=r"too few 1m bars of SYNTHETIC: .*sma_cross needs 8 to warm up") as caught:
        run(CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(20)[:count], setup())
    assert caught.value.code == "NO_DATA"


# ── C8 and C12 ───────────────────────────────────────────────────────────────────────────────────
def without(bars: Bars, *missing: range) -> Bars:
    keep = np.ones(len(bars), dtype=bool)
    for part in missing:
        keep[list(part)] = False
    columns = (getattr(bars, n)[keep] for n in ("time_ns", "open", "high", "low", "close", "volume"))
    return Bars(bars.symbol, bars.timeframe, *columns)


def test_the_gap_report_counts_and_a_bad_tape_is_refused_unless_allowed() -> None:
    strategy = CATALOGUE.make("sma_cross", FAST["sma_cross"])
    bad = without(synthetic(1000), range(300, 309), range(500, 504))
    gaps = find_gaps(bad)
    assert (gaps.expected, gaps.present, gaps.longest, gaps.gaps) == (1000, 987, 9, 2)
    assert gaps.longest_after_ns == int(synthetic(1000).time_ns[299])
    with pytest.raises(TapeRefused, match=r"misses 1.30 % of its bars \(13 of 1000"):
        run(strategy, bad, setup())
    allowed = run(strategy, bad, setup(allow_gaps=True))
    assert allowed.gaps == gaps
    fine = without(synthetic(1000), range(300, 309))
    assert run(strategy, fine, setup()).inputs_hash != run(strategy, fine, setup(allow_gaps=True)).inputs_hash


def test_long_gap_is_refused_only_inside_a_position() -> None:
    bars = without(bars_of([100.0] * 3000), range(1000, 1011))
    held = Scripted(target=(1.0,) * 500 + (1.0,) * 2489)
    flat = Scripted(target=(1.0,) * 500 + (0.0,) * 2489)
    with pytest.raises(TapeRefused, match=r"11 bars are missing after 2026-01-01T16:39:00Z inside an open position"):
        run(held, bars, setup())
    assert len(run(flat, bars, setup()).fills) == 2
    ten = without(bars_of([100.0] * 3000), range(1000, 1010))
    assert len(run(held, ten, setup()).fills) == 1


def test_bars_out_of_order_are_refused() -> None:
    bars = synthetic(20)
    times = bars.time_ns.copy()
    times[7] = times[6]
    with pytest.raises(InputError, match="bars are not in order: bar 7"):
        find_gaps(Bars(bars.symbol, "1m", times, bars.open, bars.high, bars.low, bars.close, bars.volume))


def _hashes(result: Result) -> tuple[str, str]:
    return result.inputs_hash, result.fills_hash


def test_a_job_decides_from_its_start_on_however_much_was_loaded() -> None:
    bars = synthetic(400)
    start_ns = int(bars.time_ns[200])
    spec = {
        "strategy": "sma_cross",
        "symbol": "S",
        "timeframe": "1m",
        "params": FAST["sma_cross"],
        "from": iso(start_ns),
    }

    result, _ = run_spec(parse_spec(spec), lambda request: LoadedBars(bars, BTC, "a test"))

    assert result.fills
    assert min(fill.time_ns for fill in result.fills) > start_ns
    assert (result.setup.start_ns, result.setup.pyramiding) == (start_ns, None)


@pytest.mark.parametrize(("pair", "prices"), [("EURUSDT", (2.0, 3.0)), ("USDTEUR", (0.5, 0.25))])
def test_limits_in_the_accounts_currency_are_converted_before_the_first_bar(
    pair: str, prices: tuple[float, float]
) -> None:
    """One unit is worth 2 in quote before the first decided bar, and another value from then on."""
    bars, start = synthetic(400), 100
    start_ns = int(bars.time_ns[start])
    base, quote = ("EUR", "USDT") if pair == "EURUSDT" else ("USDT", "EUR")
    eur = replace(BTC, symbol=pair, base=base, quote=quote)
    rates = replace(bars[start - 1 : start + 1], symbol=pair, close=np.array(prices))
    asked = []

    def load(request: BarsRequest) -> LoadedBars:
        if request.symbol == "BTCUSDT":
            return LoadedBars(bars, BTC, "a test")
        asked.append(request.symbol)
        if request.symbol != pair:
            raise InputError("no such symbol", code="SYMBOL_UNKNOWN")
        return LoadedBars(rates, eur, "a test")

    spec = {"strategy": "sma_cross", "params": FAST["sma_cross"], "symbol": "BTCUSDT", "from": iso(start_ns)}
    limits = Risk(notional_max_order=Decimal(700))
    given = parse_spec({**spec, "limits": True, "limits_currency": "EUR", "size": "1000"})
    result, _ = run_spec(given, load, limits=limits)
    assert result.setup.limits.notional_max_order == 1400
    assert result.setup.limits.loss_day_max == 2 * limits.loss_day_max
    assert result.setup.limits.price_band_pct == limits.price_band_pct
    assert result.fills, "1000 is under the limit in quote, and above it in the account's currency"
    in_quote, _ = run_spec(parse_spec({**spec, "limits": True, "size": "1000"}), load, limits=limits)
    assert (in_quote.fills, set(in_quote.denied_count)) == ((), {"NOTIONAL_MAX_ORDER"})
    asked.clear()
    same, _ = run_spec(parse_spec({**spec, "limits": True, "limits_currency": "USDT"}), load, limits=limits)
    assert (_hashes(same), asked) == (_hashes(in_quote), []), "an account in quote has the fingerprints that it had"
    with pytest.raises(InputError, match="LIRA cannot be converted into USDT: no 1m bar of LIRAUSDT or USDTLIRA"):
        run_spec(parse_spec({**spec, "limits": True, "limits_currency": "LIRA"}), load, limits=limits)


def test_fingerprints_are_equal_for_equal_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, bars = CATALOGUE.make("sma_cross", FAST["sma_cross"]), synthetic(400)
    base = run(strategy, bars, setup())
    assert _hashes(base) == _hashes(run(strategy, bars, setup()))
    moved = bars.close.copy()
    moved[-1] += 0.01
    others = [
        run(CATALOGUE.make("sma_cross", {"fast": 3, "slow": 9}), bars, setup()),
        run(strategy, bars, setup(size=Decimal(999))),
        run(strategy, bars, setup(costs=CostModel(Decimal("0.0009")))),
        run(strategy, bars, setup(instrument=replace(BTC, lot_step=Decimal("0.0001")))),
        run(strategy, bars, setup(can_short=True)),
        run(strategy, bars, setup(collar_pct=Decimal("0.5"))),
        run(strategy, bars, setup(collar_pct=Decimal("0.6"))),
        run(strategy, bars[1:], setup()),
        run(strategy, Bars("S", "1m", bars.time_ns, bars.open, bars.high, bars.low, moved, bars.volume), setup()),
    ]
    assert len({base.inputs_hash, *(r.inputs_hash for r in others)}) == len(others) + 1
    assert others[1].fills_hash != base.fills_hash
    named = {"version": "1", "strategy": "s", "source": "x", "params": {}, "bars": bars, "first": 3}
    assert inputs_hash(**named, setup=setup()) == "f9d3702756455fc5932286ad0b93565f4f10340b2771a790e6a36bf3e4ee9ac6"
    # the number as text, not its spelling: 1000 and 1000.00 are one size
    assert _hashes(run(strategy, bars, setup(size=Decimal("1000.00")))) == _hashes(base)
    monkeypatch.setattr("fks.research.backtest.fingerprint.RULES", RULES + 1)
    assert run(strategy, bars, setup()).inputs_hash != base.inputs_hash


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────
def test_minutes_become_longer_bars_and_incomplete_ones_are_left_out() -> None:
    minutes = synthetic(60 * 24 * 3 + 7)
    fives = resample(minutes, "5m")
    assert len(fives) == (60 * 24 * 3 + 7) // 5
    assert (fives.open[2], fives.close[2]) == (minutes.open[10], minutes.close[14])
    assert (fives.high[2], fives.low[2]) == (minutes.high[10:15].max(), minutes.low[10:15].min())
    assert fives.volume[2] == pytest.approx(minutes.volume[10:15].sum())
    assert len(resample(minutes, "1d")) == 3
    gapped = resample(without(minutes, range(11, 12)), "5m")
    assert len(gapped) == len(fives) - 1
    assert find_gaps(gapped).longest == 1
    assert resample(minutes, "1m") is minutes
    for wrong in ("1s", "7m"):
        with pytest.raises(InputError):
            resample(minutes, wrong)


def test_weeks_and_months_follow_the_calendar() -> None:
    days = bars_of([100.0 + i % 7 for i in range(90)], timeframe="1d")  # from Thursday 2026-01-01
    assert [int((t - START_NS) // (86400 * NS)) for t in resample(days, "1w").time_ns[:2]] == [4, 11]
    assert [int((t - START_NS) // (86400 * NS)) for t in resample(days, "1M").time_ns] == [0, 31, 59]
    assert find_gaps(resample(days, "1M")).expected == 3


def test_statistics_of_a_result_by_hand() -> None:
    bars = tape((100, 100, 100, 100), (100, 110, 90, 110), (110, 110, 99, 99), (99, 120, 99, 120), (120, 120, 120, 120))
    result = run(Scripted(target=(1, 1, 0, 0, 0)), bars, setup(cash=Decimal(1000), costs=CostModel(Decimal(0))))
    s = statistics_of(result)
    assert (s.trades, s.wins, s.net_profit, s.return_pct) == (1, 0, pytest.approx(-10.0), pytest.approx(-1.0))
    assert s.max_drawdown_pct == pytest.approx(100 * (1100 - 990) / 1100)
    assert (s.profit_factor, s.sharpe, s.fees) == (0.0, None, 0.0)
    assert s.exposure_pct == pytest.approx(40.0)
    assert s.buy_and_hold_pct == pytest.approx(20.0)


def test_a_result_with_no_trades_has_no_averages() -> None:
    document = document_of(run(Scripted(target=(0.0,)), synthetic(50), setup()))
    s = document["statistics"]
    assert (s["trades"], s["win_rate_pct"], s["average_trade"], s["return_pct"]) == (0, None, None, 0.0)
    assert len(document["equity"]) == 50
    assert document["fills"] == []


def test_a_year_of_minutes_takes_well_under_two_seconds() -> None:
    import time

    bars = synthetic(525_600)
    strategy = CATALOGUE.make("sma_cross", {"sl_pct": 0.5, "tp_pct": 1.0})
    run(strategy, bars[:1000], setup(), engine="compiled")  # it may have to be compiled first
    start = time.process_time()
    result = run(strategy, bars, setup())
    assert time.process_time() - start < 2.0
    assert len(result.fills) > 5000


# ── limits ───────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"notional_max_order": Decimal("999.99")}, "NOTIONAL_MAX_ORDER"),
        ({"exposure_max_instrument": Decimal("999.99")}, "EXPOSURE_INSTRUMENT"),
        ({"exposure_max_account": Decimal("999.99")}, "EXPOSURE_ACCOUNT"),
    ],
)
def test_the_limits_of_live_hold_on_a_tape(limits: dict[str, Any], code: str) -> None:
    bars = tape(*[(100, 100.5, 99.5, 100)] * 4)
    strategy = Scripted(target=(1, 1, 0, 0))
    assert [row.code for row in run(strategy, bars, setup(limits=Risk(**limits))).denied] == [code]
    assert run(strategy, bars, setup(limits=Risk(**dict.fromkeys(limits, Decimal(1000))))).denied == ()
    assert run(strategy, bars, setup(limits=UNLIMITED, size=Decimal(500_000))).denied == ()


def losing_tape(days: int = 1) -> Bars:
    """Return a tape on which every entry loses 1 %: bought at 100 at the open, worth 99 at its close, sold at 99."""
    return tape(*[(100, 100, 100, 100), (100, 100, 99, 99), (99, 100, 99, 100), (100, 100, 100, 100)] * (360 * days))


def test_the_days_loss_stops_entries_until_the_next_day() -> None:
    """Each round trip of 1,000 loses 10 and two fees: three stay below a limit of 40, the fourth is over it."""
    bars = losing_tape(days=2)
    strategy = Scripted(target=(1.0, 0.0, 0.0, 0.0) * 720)
    result = run(strategy, bars, setup(limits=Risk(loss_day_max=Decimal(40))))
    assert {row.code for row in result.denied} == {"LOSS_DAY"}
    first = [trade for trade in result.trades if trade.entry_ns < START_NS + 86_400 * NS]
    assert len(first) == 4
    assert len(result.trades) == 8
    assert result.denied[0].time_ns == first[-1].exit_ns + 2 * 60 * NS


def test_a_loss_that_was_open_on_one_close_counts_for_the_day() -> None:
    """The position falls by 5 % on a close and recovers before it is sold at no loss: the day's limit was reached."""
    rows = [(100, 100, 100, 100), (100, 100, 95, 95), (95, 100, 95, 100), (100, 100, 100, 100), (100, 100, 100, 100)]
    strategy = Scripted(target=(1, 1, 0, 1, 0))
    assert len(run(strategy, tape(*rows), setup()).fills) == 3
    result = run(strategy, tape(*rows), setup(limits=Risk(loss_day_max=Decimal(50))))
    assert [row.code for row in result.denied] == ["LOSS_DAY"]
    assert run(strategy, tape(*rows), setup(limits=Risk(loss_day_max=Decimal(51)))).denied == ()


def test_a_trading_day_of_another_zone_ends_elsewhere() -> None:
    bars, strategy = losing_tape(), Scripted(target=(1.0, 0.0, 0.0, 0.0) * 360)
    moved = run(strategy, bars, setup(limits=Risk(loss_day_max=Decimal(40), day_zone="Etc/GMT-12", day_start_hour=0)))
    assert len(moved.trades) == 8  # midnight in that zone is noon on this tape


@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_the_cost_of_slippage_is_what_the_fills_lost_by_it(engine: Any) -> None:
    """Ten bought and sold, each three ticks worse; a take profit slips by nothing."""
    bars = tape(
        (100, 100, 100, 100), (100, 101, 99, 100), (100, 101, 99, 100), (100, 101, 99, 100), (100, 120, 99, 110)
    )
    costs = CostModel(Decimal(0), slippage=Slippage.parse("3 ticks"))
    sized = setup(costs=costs, sizing="quantity", size=Decimal(10))
    result = run(Scripted(target=(1.0, 0.0, 0.0, 0.0, 0.0)), bars, sized, engine=engine)
    assert (result.slippage, result.cash) == (Decimal("0.6"), sized.cash - Decimal("0.6"))
    result = run(Scripted(target=(1.0,) * 5, limit=110.0), bars, sized, engine=engine)
    assert [fill.role for fill in result.fills] == [Role.ENTRY, Role.TAKE_PROFIT]
    assert result.slippage == Decimal("0.3")
