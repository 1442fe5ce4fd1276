"""The compiled engine against the reference engine, field by field, on random tapes and setups and on the sample."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.config.settings import Risk
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.instrument import Instrument, Lot, PercentPrice
from fks.model.margin import Margin, MarginTier
from fks.model.tape import unpack_tape
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import Result, Setup, kernel
from fks.research.backtest.curve import deepest_fall, fall_of
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.statistics import fees_of, rebates_of
from fks.strategies.base import Strategy, StrategyError, decide
from fks.strategies.check import synthetic, with_inputs
from fks.strategies.registry import load_catalogue
from fks.trading.matching import Borrow, Commission, CostModel, Slippage
from tests.support.backtests import run, with_events
from tests.support.given import Given
from tests.support.soak_cases import soaked
from tests.support.strategies import START_NS

SAMPLE = Path(__file__).resolve().parents[4] / "fks" / "market" / "files" / "sample_data" / "BTCUSDT-1m.fksbars"
CATALOGUE = load_catalogue()
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
COARSE = Instrument("x", "DOGEUSD", "DOGE", "USD", Decimal("0.5"), Decimal(1), Decimal(2), Decimal(90), Decimal(50))
FINE = Instrument(
    "x",
    "ALTBTC",
    "ALT",
    "BTC",
    Decimal("0.001"),
    Decimal("0.1"),
    Decimal("0.1"),
    Decimal(10**6),
    Decimal("0.5"),
    Decimal("0.25"),
)


def both(strategy: Strategy, bars: Bars, setup: Setup) -> tuple[Result, Result]:
    return run(strategy, bars, setup, engine="compiled"), run(strategy, bars, setup, engine="reference")


def assert_equal(strategy: Strategy, bars: Bars, setup: Setup) -> Result:
    """Run both engines and compare everything that a result has."""
    compiled, reference = both(strategy, bars, setup)
    is_beyond = setup.sizing.partition(":")[0] in ("risk_pct", "atr_pct", "stdev_pct") and any(
        text in compiled.engine.reason for text in ("did not fit 64 bits", "may not fit 64 bits")
    )  # a stop or a volatility of one tick buys more than 64 bits hold
    wanted = "reference" if is_beyond else "compiled"
    assert (compiled.engine.name, reference.engine.name) == (wanted, "reference"), compiled.engine.reason
    if compiled.fill_columns.decided is not None and reference.fill_columns.decided is not None:
        assert compiled.fill_columns.decided.tolist() == reference.fill_columns.decided.tolist()
    assert (compiled.unclear, compiled.slippage) == (reference.unclear, reference.slippage)
    assert compiled.fills == reference.fills
    assert compiled.trades == reference.trades
    assert compiled.denied == reference.denied
    assert compiled.denied_count == reference.denied_count
    assert (compiled.expired, compiled.expired_count) == (reference.expired, reference.expired_count)
    assert (compiled.cash, compiled.position) == (reference.cash, reference.position)
    assert compiled.cash_flows == reference.cash_flows
    assert (fees_of(compiled), rebates_of(compiled)) == (fees_of(reference), rebates_of(reference))
    assert (compiled.dividends, compiled.funding) == (reference.dividends, reference.funding)
    assert (compiled.borrow, compiled.interest) == (reference.borrow, reference.interest)
    assert np.array_equal(compiled.equity, reference.equity)
    assert np.array_equal(compiled.pnl, reference.pnl)
    assert compiled.units == reference.units
    for name in ("bar", "side", "quantity", "price", "fee", "is_base_fee", "role"):
        left, right = getattr(compiled.fill_columns, name), getattr(reference.fill_columns, name)
        assert left.tolist() == right.tolist(), name
    assert (compiled.inputs_hash, compiled.fills_hash) == (reference.inputs_hash, reference.fills_hash)
    return compiled


class Dice:
    """Random choices of a seed: hypothesis draws the seed, as its own draws of a whole setup hardly ever trade."""

    def __init__(self, seed: int) -> None:
        self.random, self.random_shares = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self.random_parts = np.random.default_rng(seed + 2)
        self.random_events = np.random.default_rng(seed + 3)
        self.random_margin = np.random.default_rng(seed + 4)

    def one_of(self, *values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def tape(self, scale: float) -> Bars:
        """Return up to 90 bars whose prices are whole numbers of `scale`, with gaps."""
        count = int(self.random.integers(3, 90))
        timeframe, step = self.one_of("1m", "15m", "1h", "4h", "1d"), self.one_of(2, 5, 12)
        moves = self.random.integers(-step, step + 1, (2, count)) + (self.random.random((2, count)) < 0.05) * 15
        path = np.maximum(200 + np.cumsum(moves.T.ravel()), 25)
        open_, close = path[0::2], path[1::2]
        reach = self.random.integers(0, step, (2, count))
        high, low = np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1]
        steps = np.where(self.random.random(count) < 0.05, 3, 1)
        times = START_NS + np.cumsum(steps).astype(np.int64) * TIMEFRAMES[timeframe] * NS
        columns = (np.round(column * scale, 6) for column in (open_, high, low, close))
        return Bars("TAPE", timeframe, times, *columns, np.ones(count))

    def instrument(self) -> tuple[Instrument, float]:
        """Return an instrument and the grid of its tape's prices, which may be off its tick."""
        item, scale = self.one_of((BTC, 1.0), (BTC, 0.01), (COARSE, 0.5), (COARSE, 1.0), (FINE, 0.003), (FINE, 0.05))
        changes: dict[str, Any] = {}
        if self.one_of(0, 0, 1):
            step = item.lot_step * self.one_of(0, 2)
            changes["market_lot"] = Lot(item.lot_step * 3, item.qty_max / 2, step)
        if self.one_of(0, 0, 0, 1):
            changes["is_notional_min_for_market"] = False
        if self.one_of(0, 0, 0, 1):
            band = (Decimal("0.9"), Decimal("1.03"), Decimal("0.97"), Decimal("1.1"))
            changes["percent_price"] = PercentPrice(*band)
        return replace(item, **changes), scale

    def setup(self) -> tuple[Setup, float]:
        """Return a setup, with limits that often bind, and the grid of its tape's prices."""
        item, scale = self.instrument()
        price = Decimal(200) * Decimal(str(scale))
        smallest = max(item.notional_min / price / item.multiplier, item.qty_min)
        lots = Decimal(int(smallest / item.lot_step)) + int(self.random.integers(-2, 60))
        lots *= self.one_of(1, 1, 37)
        worth = max(lots, Decimal(1)) * item.lot_step * price * item.multiplier
        sizing = self.one_of(
            *["notional", "quantity"] * 2, "equity_pct", "risk_pct", "atr_pct:2", "atr_pct:7", "stdev_pct:3"
        )
        limits = UNLIMITED
        if self.one_of(0, 1, 1):
            limits = Risk(
                notional_max_order=worth * self.one_of(1, 9, 9, 9),
                exposure_max_instrument=worth * self.one_of(Decimal("1.01"), 9, 9, 9),
                exposure_max_account=worth * self.one_of(Decimal("1.005"), 9, 9, 9),
                loss_day_max=worth * self.one_of(Decimal("0.01"), Decimal("0.1"), 5),
                day_zone=self.one_of("UTC", "Europe/Berlin", "Etc/GMT-12"),
                day_start_hour=self.one_of(0, 5),
            )
        costs = CostModel(
            Decimal(self.one_of("0", "0.001", "0.00075", "0.012345678", "0.2")),
            self.one_of("received", "quote"),
            self.one_of(None, Decimal("-0.00025"), Decimal(0), Decimal("0.0004")),
            Slippage.parse(self.one_of("none", "none", "1 tick", "3 ticks", "2.5 bps", "0.25 range", "400 ticks")),
            Commission.parse(self.one_of("none", "none", "none", "0.25 each", "0.003 each min 1.5", "0 each min 0.01")),
        )
        size = max(lots, Decimal(1)) * item.lot_step if sizing == "quantity" else worth
        margin = self.margin(price)
        cash = worth * self.one_of(Decimal("0.5"), Decimal("1.02"), 50, 50)
        if margin is not None and self.one_of(0, 1, 1):  # little more than the margin of an entry
            times = self.one_of(Decimal("1.02"), 2)
            cash = max(round(margin.needed(worth / price / item.multiplier, price, item) * times, 3), Decimal("0.01"))
        if sizing.endswith("_pct") or ":" in sizing:  # percent of the equity, so that about `worth` is bought
            share = 100 * worth / cash * (1 if sizing == "equity_pct" else Decimal("0.02"))
            size = max(round(share, self.one_of(0, 3)), Decimal("0.001"))
        can_short = self.one_of(True, True, False)
        return Setup(item, costs, sizing, size, cash, can_short, True, limits, margin=margin), scale

    def margin(self, price: Decimal) -> Margin | None:
        """Return a margin that equities of about an entry's worth sometimes fall to."""
        text = self.one_of("", "", "1/0.9", "0.5", "0.25/0.2", "0.1/0.05", "0.02/0.01", "each", "each")
        if text != "each":
            return Margin.parse(text) if text else None
        initial = round(price * self.one_of(Decimal("0.5"), Decimal("0.1"), Decimal("0.03")), 3)
        return Margin.parse(f"{initial}/{round(initial * self.one_of(0, Decimal('0.8'), 1), 3)} each")

    def levels(self, bars: Bars, side: np.ndarray[Any, Any], scale: float) -> tuple[float, ...] | None:
        """Return prices on one side of the closes, on the grid or off it, or strange ones."""
        kind, count = self.one_of(*["none"] * 4, *["near"] * 5, *["on grid"] * 3, "any"), len(bars)
        if kind == "none":
            return None
        if kind == "any":
            strange = np.array([np.nan, np.inf, -1.0, 0.0, 0.1 + 0.2, 1e3 / 3, 1e3 / 7])
            return tuple(strange[self.random.integers(0, len(strange), count)])
        away = bars.close * (1.0 + side * self.one_of(*[0.01, 0.02, 0.037] * 4, 0.0))
        return tuple(np.round(away / scale) * scale if kind == "on grid" else away)

    def strategy(self, bars: Bars, scale: float) -> Given:
        count = len(bars)
        sides = self.one_of((0.0, 1.0), (-1.0, 0.0, 1.0), (-1.0, 1.0), (0.0, 0.0, 1.0))
        target = np.repeat(np.array(sides)[self.random.integers(0, len(sides), count)], self.one_of(1, 3, 8))[:count]
        side = np.where(target < 0, -1.0, 1.0)
        stop, limit = self.levels(bars, -side, scale), self.levels(bars, side, scale)
        warm = int(self.random.integers(0, min(3, count - 1)))
        trail, share = self.trail(bars, scale), self.share(count)
        return Given(target=tuple(target), stop=stop, limit=limit, trail=trail, warm=warm, share=share)

    def share(self, count: int) -> tuple[float, ...] | None:
        """Return shares of the size, on the grid of millionths or off it, some of them none; in every other case."""
        dice = self.random_shares
        if dice.random() < 0.5:
            return None
        shares = np.where(dice.random(count) < 0.3, np.round(dice.random(count), 2) + 0.01, dice.random(count) + 1e-6)
        return tuple(np.where(dice.random(count) < 0.2, np.nan, np.minimum(shares, 1.0)))

    def resting(self, bars: Bars, scale: float) -> Given:
        """Return decisions whose entries are limit, stop, stop-limit and market orders, some with an end."""
        plain, count = self.strategy(bars, scale), len(bars)
        side = np.where(np.array(plain.target) < 0, -1.0, 1.0)
        near = self.one_of(1, 4, 12) * scale * self.one_of(1.0, 1.0, 1.0 / 3.0)
        away = np.where(self.random.random((2, count)) < 0.1, -1, self.random.integers(1, 4, (2, count))) * near
        draw, nothing = self.random.random((2, count)), np.full(count, np.nan)
        limits, stops = bars.close - side * away[0], bars.close + side * away[1]
        with_both = stops + side * self.random.integers(-1, 3, count) * near
        kind = self.random.integers(0, 4, count)
        limit = np.where(kind == 0, limits, np.where(kind == 1, with_both, nothing))
        stop = np.where((kind == 1) | (kind == 2), stops, nothing)
        lives = np.where(draw[0] < 0.5, nothing, np.floor(draw[1] * 6.0))
        return plain.model_copy(
            update={
                "entry_limit": tuple(np.where(limit > 0, limit, nothing)) if self.one_of(0, 1, 1, 1) else None,
                "entry_stop": tuple(np.where(stop > 0, stop, nothing)) if self.one_of(0, 1, 1, 1) else tuple(nothing),
                "entry_bars": tuple(lives) if self.one_of(0, 1) else None,
            }
        )

    def several(self, bars: Bars, scale: float) -> Given:
        """Return decisions whose targets grow on their side, at most to some entries, and never shrink to less."""
        plain, most = self.strategy(bars, scale), self.one_of(2, 3, 5)
        grows, found, now = self.random.random(len(bars)) < self.one_of(0.2, 0.5), [], 0.0
        for wanted, more in zip(plain.target, grows, strict=True):
            if wanted * now > 0:
                now = min(abs(now) + more * self.one_of(1, 1, 2), most) * wanted
            else:
                now = wanted * self.one_of(1, 1, 1, 2)
            found.append(now)
        return plain.model_copy(update={"target": tuple(found), "most": most})

    def in_parts(self, plain: Given) -> Given:
        """Return decisions whose targets also fall on their side, in every other case; some falls close nothing, or
        nearly all."""
        dice, found, before, now = self.random_parts, [], 0.0, 0.0
        if dice.random() < 0.5:
            return plain
        for wanted in plain.target:
            if wanted * before <= 0:
                now = wanted
            elif wanted != before:
                now += wanted - before
            elif dice.random() < 0.3:
                now *= dice.choice([0.5, 0.25, 2 / 3, 0.9, 1 - 1e-9, 1e-7])
            found.append(now)
            before = wanted
        return plain.model_copy(update={"target": tuple(found)})

    def with_moves(self, plain: Given, bars: Bars, scale: float) -> Given:
        """Return decisions that move stops, in half of the cases: nearer, back, beyond the market or to no price."""
        dice, count = self.random_parts, len(bars)
        if dice.random() < 0.5:
            return plain
        side = np.where(np.array(plain.target) < 0, -1.0, 1.0)
        away = dice.integers(-2, 12, count) * scale * dice.choice([1.0, 1.0 / 3.0])
        strange = np.array([np.nan, np.inf, -1.0, 0.0, 1e3 / 7])[dice.integers(0, 5, count)]
        moves = np.where(dice.random(count) < 0.3, bars.close - side * away, strange if dice.random() < 0.2 else np.nan)
        return plain.model_copy(update={"move": tuple(moves)})

    def with_margin(self, setup: Setup, bars: Bars) -> tuple[Setup, Bars]:
        """Return a setup whose margin has brackets or is another one for short positions, and is another one overnight,
        with a fee, each in some cases; the bars of a margin overnight are at the end of a session."""
        dice, margin = self.random_margin, setup.margin
        if margin is None or dice.random() < 0.3:
            return setup, bars
        made, initial, kept = margin, margin.initial, margin.maintenance
        floor = round(setup.cash / initial * Decimal(str(dice.choice([0.4, 0.9, 1.3]))), int(dice.integers(0, 3)))
        if not margin.is_each and dice.random() < 0.5:
            rows = [(floor + 1, min(initial * 2, Decimal(1)), (initial + kept) / 2)]
            rows.append((2 * floor + 3, rows[0][1], (initial + rows[0][2]) / 2))
            made = replace(made, tiers=tuple(MarginTier(*row) for row in rows))
        elif not margin.is_each and dice.random() < 0.7:
            made = replace(made, maintenance_short=initial * Decimal("0.95"))
        if dice.random() < 0.4:
            made = replace(made, fee_rate=Decimal(str(dice.choice(["0.0125", "0.000001"]))))
        if bars.timeframe != "1d" and dice.random() < 0.6:
            night = Margin(initial * 2, initial, is_each=True) if margin.is_each else Margin(Decimal("0.9"), initial)
            if initial < Decimal("0.9") or margin.is_each:
                minutes = {"1m": 9, "15m": 45, "1h": 60}.get(bars.timeframe, 120)
                made = replace(made, overnight=night, overnight_minutes=minutes)
                moved = (4 * 24 + (20 if bars.timeframe in ("1m", "15m") else 0)) * 3600 * NS
                bars = replace(bars, time_ns=bars.time_ns + moved + (90 * 60 * NS if bars.timeframe == "1m" else 0))
                bars = replace(bars, calendar="CMES")
        assert Margin.parse(str(made)) == made
        return replace(setup, margin=made), bars

    def with_events(self, setup: Setup, bars: Bars) -> Setup:
        """Return a setup with dividends, funding and a delisting, or with borrow; some have nothing."""
        dice = self.random_events
        made = setup if dice.random() < 0.5 else with_events(setup, bars, dice)
        if setup.instrument.is_contract or dice.random() < 0.5:
            return made
        borrow = Borrow.parse(("0.03", "0.25/0.0583", "0/9.99")[dice.integers(3)])
        return replace(made, events=replace(made.events, funding=()), borrow=borrow)

    def trail(self, bars: Bars, scale: float) -> tuple[float, ...] | None:
        """Return distances of trailing stops, some of them none, or strange."""
        if self.one_of(0, 0, 1):
            return None
        away = self.random.integers(1, 30, len(bars)) * scale * self.one_of(1.0, 1.0 / 3.0)
        strange = np.array([np.nan, np.inf, -1.0, 0.0, 1e-9, 1e3 / 7])
        return tuple(
            np.where(self.random.random(len(bars)) < 0.8, away, strange[self.random.integers(0, 6, len(bars))])
        )


@given(st.integers(0, 2**32))
@example(11803)  # a stale leg over a remainder of less than a lot
@example(318)  # a move that would take the stop back
@example(16523651)  # an entry that cannot be sized, decided when the loss of the day reaches its limit
def test_engines_agree_on_any_tape_setup_and_decisions(seed: int) -> None:
    dice = Dice(seed)
    setup, scale = dice.setup()
    setup, bars = dice.with_margin(setup, dice.tape(scale))
    setup = dice.with_events(setup, bars)
    assert_equal(dice.with_moves(dice.in_parts(dice.strategy(bars, scale)), bars, scale), bars, setup)


@given(st.integers(0, 2**32))
def test_engines_agree_on_entries_that_rest(seed: int) -> None:
    dice = Dice(seed)
    setup, scale = dice.setup()
    setup, bars = dice.with_margin(setup, dice.tape(scale))
    setup = dice.with_events(setup, bars)
    assert_equal(dice.with_moves(dice.in_parts(dice.resting(bars, scale)), bars, scale), bars, setup)


@given(st.integers(0, 2**32))
def test_engines_agree_on_positions_of_several_entries(seed: int) -> None:
    dice = Dice(seed)
    setup, scale = dice.setup()
    setup, bars = dice.with_margin(setup, dice.tape(scale))
    decisions = dice.in_parts(dice.several(bars, scale))
    setup = replace(setup, pyramiding=dice.one_of(None, None, 1, 2))
    assert_equal(decisions, bars, dice.with_events(setup, bars))


def with_collar(seed: int, kind: str, pct: str) -> tuple[Given, Bars, Setup]:
    dice = Dice(seed)
    setup, scale = dice.setup()
    bars = dice.tape(scale)
    item = replace(setup.instrument, has_oto=True)
    return getattr(dice, kind)(bars, scale), bars, replace(setup, instrument=item, collar_pct=Decimal(pct))


COLLARS = (("strategy", "resting", "several"), ("0.3", "1.5", "2.123", "10"))


@given(st.integers(0, 2**32), *map(st.sampled_from, COLLARS))
def test_engines_agree_on_entries_with_a_collar(seed: int, kind: str, pct: str) -> None:
    assert_equal(*with_collar(seed, kind, pct))


def test_generated_entries_expire_and_lack_the_balance_of_their_collar() -> None:
    """The generator of the test above reaches what it is about."""
    found = Counter[str]()
    for seed in range(400):
        for kind in COLLARS[0]:
            strategy, bars, setup = with_collar(seed, kind, "2.123")
            result = run(strategy, bars, setup, engine="compiled")
            without = run(strategy, bars, replace(setup, collar_pct=None), engine="compiled")
            found[f"{kind} expired"] += result.expired_count
            lacks, less = (
                sum(one.denied_count.get(code, 0) for code in ("BALANCE", "MARGIN")) for one in (result, without)
            )
            found["BALANCE or MARGIN"] += lacks > less
            found["entries"] += sum(fill.role.value == "entry" for fill in result.fills)
            assert without.expired == ()
        if is_enough := min(found.values()) >= 10:
            break
    assert is_enough, found


@pytest.mark.parametrize("most", [1, 2])  # each walk of the compiled engine
@pytest.mark.parametrize(
    ("open_", "slippage", "protected", "text"),
    [
        (100.5, "none", True, ""),
        (100.51, "none", True, "expired at 100.51, limit 100.5"),
        (100.51, "none", False, ""),
        (100.49, "1 tick", True, ""),
        (100.5, "1 tick", True, "expired at 100.51, limit 100.5"),
        (100.49, "0.01 range", True, "expired at 100.53, limit 100.5"),  # of 4
    ],
)
def test_an_entry_with_exits_expires_beyond_its_collar(
    open_: float, slippage: str, protected: bool, text: str, most: int
) -> None:
    bars = by_hand((100, 101, 99, 100), (open_, 102, 98, 100), (100, 101, 99, 100))
    strategy = Given(target=(1, 1, 1), stop=(50, 50, 50) if protected else None, most=most)
    costs = CostModel(slippage=Slippage.parse(slippage))
    item = replace(BTC, has_oto=True)
    setup = Setup(item, costs, limits=UNLIMITED, collar_pct=Decimal("0.5"))
    result = assert_equal(strategy, bars, setup)
    assert [(row.code, row.detail) for row in result.expired] == ([("SLIPPAGE_GUARD", text)] if text else [])
    assert len(result.fills) == (0 if text else 1)
    # nothing expires where the symbol takes no exits with an entry, or without a collar
    for other in (replace(setup, instrument=BTC), replace(setup, collar_pct=None)):
        assert len(assert_equal(strategy, bars, other).fills) == 1


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize(("cash", "code"), [("1005", None), ("1004.99", "BALANCE")])
def test_an_entry_needs_the_balance_of_its_collar(cash: str, code: str | None, most: int) -> None:
    """10 at 100 cost 1,000; at the collar of 100.5 the exchange locks 1,005."""
    bars = by_hand(*[(100, 101, 99, 100)] * 3)
    strategy = Given(target=(1, 1, 1), stop=(50, 50, 50), most=most)
    item = replace(BTC, has_oto=True)
    setup = Setup(item, sizing="quantity", size=Decimal(10), cash=Decimal(cash), limits=UNLIMITED)
    result = assert_equal(strategy, bars, replace(setup, collar_pct=Decimal("0.5")))
    assert list(result.denied_count) == ([] if code is None else [code])
    assert assert_equal(strategy, bars, setup).denied == ()


def by_hand(*rows: tuple[float, float, float, float]) -> Bars:
    columns = np.array(rows, dtype=float).T
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 60 * NS
    return Bars("TAPE", "1m", times, *columns, np.ones(len(rows)))


def test_protection_of_what_was_too_small_to_close_fills_before_a_later_entry() -> None:
    """With the fee taken, the first position is below the least market order, so its stop stays; the next entry's limit
    rests beside it."""
    bars = by_hand(
        (100, 101, 99, 100),
        (100, 100, 83.41, 83.41),
        (83.41, 84, 83.41, 83.41),
        (83.41, 83.41, 78, 78),
        (78, 78, 75, 76),
        (76, 76, 69, 70),
    )
    nan = float("nan")
    strategy = Given(
        target=(1, 0, 1, 1, 1, 1), stop=(83.4, nan, 70, nan, nan, nan), entry_limit=(nan, nan, 76, nan, nan, nan)
    )
    item = replace(BTC, market_lot=Lot(Decimal("0.0601"), Decimal(9000), Decimal(0)))
    result = assert_equal(strategy, bars, Setup(item, size=Decimal("6.01"), limits=UNLIMITED))
    assert [(fill.role.value, float(fill.price)) for fill in result.fills] == [
        ("entry", 100),
        ("sl", 83.4),
        ("entry", 76),
        ("sl", 70),
    ]
    assert result.denied_count == {"QTY_MIN": 1}


@pytest.mark.parametrize(("stop", "limit", "count"), [(83, 120, {"NO_PROTECTION": 1}), (84, 120, {})])
def test_an_entry_whose_stop_would_be_too_small_is_denied(stop: float, limit: float, count: dict[str, int]) -> None:
    strategy = Given(target=(1, 1, 1), stop=(stop,) * 3, limit=(limit,) * 3)
    result = assert_equal(strategy, by_hand(*[(100, 101, 99, 100)] * 3), Setup(BTC, size=Decimal(6), limits=UNLIMITED))
    assert result.denied_count == count
    assert len(result.fills) == (0 if count else 1)


@pytest.mark.parametrize(("fee_in", "is_denied"), [("received", True), ("quote", False)])
@pytest.mark.parametrize("entry_limit", [None, 100_000])
def test_a_stop_is_checked_at_the_quantity_without_the_fee(
    fee_in: str, is_denied: bool, entry_limit: float | None
) -> None:
    """0.00006 at a stop of 98,000 is 5.88; the 0.00005 that a fee in base leaves is 4.90, below the least notional."""
    limits = None if entry_limit is None else (entry_limit,) * 4
    strategy = Given(target=(1,) * 4, stop=(98_000,) * 4, entry_limit=limits)
    bars = by_hand(*[(100_000, 100_100, 99_900, 100_000)] * 3, (98_000, 98_000, 97_000, 97_000))
    costs = CostModel(Decimal("0.001"), fee_in)
    result = assert_equal(strategy, bars, Setup(BTC, costs, "quantity", Decimal("0.00006"), limits=UNLIMITED))
    assert result.denied_count == ({"NO_PROTECTION": 1} if is_denied else {})
    wanted = [] if is_denied else [("entry", Decimal("0.00006")), ("sl", Decimal("0.00006"))]
    assert [(fill.role.value, fill.quantity) for fill in result.fills] == wanted


@pytest.mark.parametrize(("limit", "is_ended"), [("9.9", True), ("10.1", False)])
def test_the_days_loss_ends_an_entry_that_rests(limit: str, is_ended: bool) -> None:
    """The flip sells at an open of 90 what cost 100: at that bar's close its own entry at 95 ends, unless the limit is
    higher. The next day's entry fills."""
    quiet, high = (90, 91, 89, 90), (90, 96, 89, 90)
    bars = by_hand(*[(100, 101, 99, 100)] * 3, quiet, high, *[quiet] * 1440, high)
    target, entry = np.zeros(len(bars)), np.full(len(bars), np.nan)
    target[:2], target[2:6], target[-3:] = 1, -1, -1
    entry[2], entry[-3] = 95, 95
    strategy = Given(target=tuple(target), entry_limit=tuple(entry))
    limits = UNLIMITED.model_copy(update={"loss_day_max": Decimal(limit)})
    setup = Setup(BTC, CostModel(Decimal(0)), "quantity", Decimal(1), can_short=True, limits=limits)
    result = assert_equal(strategy, bars, setup)
    today = [] if is_ended else [("sell", 95.0), ("buy", 90.0)]
    wanted = [("buy", 100.0), ("sell", 90.0), *today, ("sell", 95.0)]
    assert [(fill.side.value, float(fill.price)) for fill in result.fills] == wanted
    assert result.denied_count == {}


def test_protection_of_a_remainder_never_opens_the_other_side() -> None:
    """The exit is below the least notional, so the take profit stays; the next entry, without one, is short."""
    bars = by_hand((100, 101, 99, 100), (100, 100, 80, 80), (80, 81, 79, 80), (80, 120, 80, 110), (110, 111, 109, 110))
    nan = float("nan")
    strategy = Given(target=(1, 0, -1, -1, -1), limit=(115, nan, nan, nan, nan))
    item = replace(BTC, lot_step=Decimal("0.01"), qty_min=Decimal("0.01"))
    setup = Setup(item, CostModel(Decimal(0)), size=Decimal(6), can_short=True, limits=UNLIMITED)
    result = assert_equal(strategy, bars, setup)
    assert [(fill.role.value, fill.side.value) for fill in result.fills] == [("entry", "buy"), ("entry", "sell")]
    assert result.denied_count == {"QTY_MIN": 1}
    assert result.position < 0


@pytest.mark.parametrize("most", [1, 2])  # each walk of the compiled engine
@pytest.mark.parametrize(
    ("least", "left", "is_protected"), [("5", 0.3, False), ("2.8", 0.3, False), ("2.79", 0.3, True), ("4", 0.6, True)]
)
def test_a_rest_below_the_smallest_order_has_no_stop(least: str, left: float, is_protected: bool, most: int) -> None:
    """Of 0.1 units 0.03 are left, worth 2.79 at their stop of 93."""
    bars = by_hand(*[(100, 100, 100, 100)] * 3, (100, 100, 90, 95), (95, 95, 95, 95))
    strategy = Given(target=(1, left, left, left, left), stop=(93,) * 5, most=most)
    item = replace(BTC, notional_min=Decimal(least))
    setup = Setup(item, CostModel(Decimal(0)), size=Decimal(10), can_short=True, limits=UNLIMITED)
    result = assert_equal(strategy, bars, setup)
    assert [fill.role.value for fill in result.fills] == ["entry", "exit", *["sl"] * is_protected]


def test_an_entry_after_one_that_is_too_small_to_protect_has_a_leg_with_it() -> None:
    """The first entry less its fee is below the least lot: the second entry's leg covers both."""
    bars = by_hand(*[(100, 101, 99, 100)] * 4, (100, 101, 80, 90), (90, 91, 89, 90))
    strategy = Given(target=(1, 2, 3, 3, 3, 3), stop=(90,) * 6, most=3)
    item = replace(BTC, qty_min=Decimal(10), lot_step=Decimal("0.01"))
    result = assert_equal(strategy, bars, Setup(item, sizing="quantity", size=Decimal(10), limits=UNLIMITED))
    assert [(fill.role.value, fill.quantity) for fill in result.fills] == [
        *[("entry", 10)] * 3,
        ("sl", 10),
        ("sl", Decimal("19.97")),
    ]


def test_generated_events_pay_both_sides_change_denials_and_end_positions() -> None:
    """The generator of the events reaches both walks of the compiled engine, in each of their cases."""
    found = Counter[str]()
    for seed in range(400):
        dice = Dice(seed)
        setup, scale = dice.setup()
        bars = dice.tape(scale)
        decisions = dice.strategy(bars, scale) if seed % 2 else dice.several(bars, scale)
        result = assert_equal(decisions, bars, with_events(setup, bars, dice.random_events))
        without = run(decisions, result.bars, setup, engine="compiled")
        for row in result.cash_flows:
            found[f"{row.kind} {'long' if row.quantity > 0 else 'short'} {'in' if row.amount > 0 else 'out'}"] += 1
        found["denials"] += result.denied_count != without.denied_count
        found["several of one bar"] += len({row.time_ns for row in result.cash_flows}) < len(result.cash_flows)
        fills = result.fill_columns
        found["delisted"] += bool(len(fills) and fills.bar[-1] == len(result.bars) - 1 and not result.position)
        if is_enough := len(found) == 9 and min(found.values()) >= 5:
            break
    assert is_enough, found


def test_generated_entries_rest_expire_trigger_and_pile_up() -> None:
    """The generators of the tests above reach what these are about."""
    resting, several = Counter[str](), Counter[str]()
    sides = (
        "entry buy",
        "entry sell",
        "exit buy",
        "exit sell",
        "sl buy",
        "sl sell",
        "tp buy",
        "tp sell",
        "liquidation sell",
    )
    checks = ("PRICE_BAND", "STOP_WRONG_SIDE", "BALANCE", "MARGIN", "NOTIONAL_MIN")
    kinds = (*sides, *checks, "late", "unclear", "expired")
    for seed in range(600):
        dice = Dice(seed)
        setup, scale = dice.setup()
        bars = dice.tape(scale)
        strategy = dice.resting(bars, scale)
        result = run(strategy, bars, setup, engine="compiled")
        resting.update(f"{fill.role.value} {fill.side.value}" for fill in result.fills)
        resting.update(result.denied_count)
        resting["unclear"] += result.unclear
        decided = result.fill_columns.decided
        assert decided is not None
        is_entry = result.fill_columns.role == 0
        resting["late"] += int((result.fill_columns.bar - decided > 1)[is_entry].sum())
        resting["expired"] += bool(strategy.entry_bars and np.any(decide(strategy, bars).target != strategy.target))
        dice = Dice(seed)
        setup, scale = dice.setup()
        plain = setup.margin
        setup, bars = dice.with_margin(setup, dice.tape(scale))
        limited = replace(setup, pyramiding=dice.one_of(None, 1))
        strategy = dice.several(bars, scale)
        result = run(strategy, bars, limited, engine="compiled")
        if setup.margin != plain:
            without = run(strategy, bars, replace(limited, margin=plain), engine="compiled")
            several["another margin"] += without.fills != result.fills
        trades = result.trade_columns
        several["legs"] += int((trades.exit - trades.entry > 1).sum())
        several.update(fill.role.value for fill in result.fills)
        several.update(result.denied_count)
        wanted = ("legs", "entry", "exit", "sl", "tp", "liquidation", "PYRAMIDING", "another margin")
        counts = [several[name] for name in wanted]
        if is_enough := min(*(resting[name] for name in kinds), *counts) >= 10:
            break
    assert is_enough, (resting, several)


FAST: dict[str, dict[str, Any]] = {
    "sma_cross": {"fast": 3, "slow": 8},
    "ema_cross": {"fast": 3, "slow": 8},
    "macd": {"fast": 3, "slow": 8, "signal": 3},
    "rsi": {"period": 4},
    "bollinger": {"period": 6, "deviations": 1.0},
    "buy_and_hold": {},
    "dca": {"every": 60, "buys": 5, "tp_pct": 0.2, "scale": 1.3},
    "grid": {"step_pct": 0.05, "levels": 4, "tp_pct": 0.1},
}


def built_in() -> list[str]:
    return sorted(entry.name for entry in CATALOGUE.entries.values() if entry.origin == "builtin")


@pytest.mark.parametrize(
    "protected", soaked([{"trail_pct": 0.2, "tp_pct": 0.6}, {"sl_pct": 0.3, "tp_pct": 0.41}, {}], 1), ids=str
)
@pytest.mark.parametrize("name", built_in())
def test_engines_agree_on_the_sample_for_built_in_strategies(name: str, protected: dict[str, float]) -> None:
    bars = unpack_tape(SAMPLE.read_bytes()).bars()[20_000:22_000]
    kind = CATALOGUE.kind(name)
    params = {**FAST.get(name, {}), **{key: value for key, value in protected.items() if key in kind.model_fields}}
    limits = Risk(loss_day_max=Decimal(40))
    setup = Setup(BTC, size=Decimal(777), cash=Decimal(50_000), allow_gaps=True, limits=limits)
    bars = with_inputs(CATALOGUE.make(name, params), bars)
    assert_equal(CATALOGUE.make(name, params), bars, setup)
    if "short" in kind.model_fields:
        assert_equal(CATALOGUE.make(name, {**params, "short": True}), bars, replace(setup, can_short=True))


@pytest.mark.parametrize("sizing", ["equity_pct", "risk_pct", "atr_pct:14", "stdev_pct:20"])
def test_engines_agree_on_the_sample_where_the_equity_sizes(sizing: str) -> None:
    bars = unpack_tape(SAMPLE.read_bytes()).bars()[20_000:30_000]
    strategy = CATALOGUE.make("sma_cross", {"fast": 3, "slow": 8, "sl_pct": 0.3, "tp_pct": 0.41})
    size = Decimal("20.25") if sizing == "equity_pct" else Decimal("0.0537")
    setup = Setup(BTC, sizing=sizing, size=size, cash=Decimal(10**5), allow_gaps=True, limits=UNLIMITED)
    result = assert_equal(strategy, bars, setup)
    assert result.engine.name == "compiled"
    assert len(result.fills) > 500
    assert len({fill.quantity for fill in result.fills[::2]}) > 50


def test_a_target_on_every_bar_outgrows_no_table() -> None:
    bars = synthetic(3_000)
    strategy = Given(target=(1.0, -1.0) * 1500)
    result = assert_equal(strategy, bars, Setup(BTC, cash=Decimal(10**6), can_short=True, limits=UNLIMITED))
    assert len(result.fills) > 5_000


def test_a_wrong_target_is_the_same_error_in_both_engines() -> None:
    bars, setup = synthetic(40), Setup(BTC)
    strategy = Given(target=(9.0, 9.0) + (0.0,) * 20 + (0.5,) * 18, warm=2)
    for engine in ("compiled", "reference"):
        with pytest.raises(
            StrategyError, match=r"target is 0.5 at bar 22 \(2026-01-01T00:22:00Z\); it may be -1, 0 or 1"
        ):
            run(strategy, bars, setup, engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cash": Decimal(10) ** 45}, "may not fit 64 bits"),
        ({"instrument": replace(BTC, has_oco=False)}, "no OCO"),
        (
            {
                "instrument": replace(BTC, qty_max=Decimal(10) ** 12),
                "sizing": "quantity",
                "size": Decimal(10) ** 8,
                "cash": Decimal(10) ** 10,
                "limits": UNLIMITED,
            },
            "did not fit 64 bits at bar 3",
        ),
    ],
)
def test_what_64_bits_or_the_walk_do_not_cover_runs_on_the_reference(changes: dict[str, Any], reason: str) -> None:
    strategy = Given(target=(0.0,) * 3 + (1.0,) * 20 + (0.0,) * 17)
    compiled, reference = both(strategy, synthetic(40), replace(Setup(BTC), **changes))
    assert compiled.engine.name == "reference"
    assert reason in compiled.engine.reason
    assert compiled.fills == reference.fills


@pytest.mark.parametrize(
    ("changes", "price", "reason"),
    [
        ({"order_types": frozenset({"market", "stop", "take_profit", "stop_limit"})}, 99.0, "forbids an order type"),
        ({"orders_max": 2}, 99.0, "hardly any open order"),
        ({"algo_orders_max": 1}, 99.0, "hardly any open order"),
        ({}, 1e15, "did not fit 64 bits"),
    ],
)
def test_entries_that_rest_use_the_reference_outside_the_walk(
    changes: dict[str, Any], price: float, reason: str
) -> None:
    strategy = Given(target=(0.0,) * 3 + (1.0,) * 20 + (0.0,) * 17, entry_limit=(price,) * 40)
    compiled, reference = both(strategy, synthetic(40), Setup(replace(BTC, **changes), limits=UNLIMITED))
    assert compiled.engine.name == "reference"
    assert reason in compiled.engine.reason
    assert (compiled.fills, compiled.denied) == (reference.fills, reference.denied)


def test_an_entry_price_that_is_none_is_the_same_error_in_both_engines() -> None:
    strategy = Given(target=(0.0,) * 3 + (1.0,) * 37, entry_limit=(-5.0,) * 40)
    for engine in ("compiled", "reference"):
        with pytest.raises(InputError, match="no price to size"):
            run(strategy, synthetic(40), Setup(BTC), engine=engine)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1e6), max_size=60), st.floats(0.01, 1e6))
def test_one_pass_finds_the_same_deepest_fall(values: list[float], start: float) -> None:
    equity = np.array(values)
    peaks = np.maximum(np.maximum.accumulate(equity), start) if values else equity
    wanted = float(((peaks - equity) / peaks).max()) if values else 0.0
    assert fall_of(equity, start) == wanted == deepest_fall(equity, start)


def test_fees_are_exact_where_their_sum_needs_more_than_64_bits() -> None:
    bars = synthetic(400)
    setup = Setup(BTC, CostModel(Decimal("0.2")), "quantity", Decimal(800), Decimal(10) ** 9, limits=UNLIMITED)
    result = run(Given(target=(0.0, 1.0) * 200), bars, setup)
    wanted = sum((f.fee if f.fee_currency == "USDT" else f.fee * f.price for f in result.fills), Decimal(0))
    assert len(result.fills) > 300
    assert fees_of(result) == wanted


def test_a_view_of_every_other_bar_runs_like_a_copy() -> None:
    bars = synthetic(600)
    bars.ticks  # noqa: B018 - the view below has its part of these
    setup = Setup(BTC, cash=Decimal(10**6), allow_gaps=True)
    assert_equal(CATALOGUE.make("sma_cross", {"fast": 3, "slow": 8, "sl_pct": 0.3}), bars[::2], setup)


def test_without_numba_the_reference_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    kernel.load.cache_clear()
    result = run(CATALOGUE.make("buy_and_hold"), synthetic(50), Setup(BTC), engine="compiled")
    assert result.engine.name == "reference"
    assert "numba cannot be imported" in result.engine.reason
