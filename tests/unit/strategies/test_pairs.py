"""Strategies with further symbols: aligned bars without look-ahead, and the pairs strategy whose legs decide as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from fks.indicators import INDICATORS, atr, cross_side, higher, macd, rsi, sma, zscore
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.model.order import Role
from fks.model.signal import EntryGroup
from fks.model.timeframe import NS
from fks.research.backtest import AccountBacktest, Member, TapeRefused, resample, sample, setup_for
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.base import Decisions, Strategy, StrategyError, evaluate, group_of, input_bars
from fks.strategies.buy_and_hold import BuyAndHold
from fks.strategies.check import check_strategy, synthetic, with_inputs
from fks.strategies.pairs import Pairs, spread_of
from fks.trading.strategy_worker.columns import Columns
from tests.support.backtests import run, run_account
from tests.support.strategies import bars_of


class Follow(Strategy):
    """Long while the other symbol closed above its open; `ahead` uses its next bar."""

    name: ClassVar[str] = "follow"
    ahead: int = 0

    def inputs(self) -> tuple[str, ...]:
        return ("ETH/USDT",)

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        other = input_bars(self, bars, "ethusdt")
        rises = np.nan_to_num(other.close - other.open) > 0.0
        return Decisions(np.concatenate([rises[self.ahead :], rises[: self.ahead]]).astype(np.float64))


class LeadDip(Strategy):
    """Long while the RSI of the other symbol is below 30."""

    name: ClassVar[str] = "lead_dip"

    def inputs(self) -> tuple[str, ...]:
        return ("BTC/USDT",)

    def warmup(self) -> int:
        return 300

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.where(rsi(input_bars(self, bars, "BTC/USDT").close, 14) < 30.0, 1.0, 0.0))


class Lead(LeadDip):
    """Wants what `how` makes of the other symbol's bars."""

    name: ClassVar[str] = "lead"
    how: Callable[[Bars], Floats]

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(self.how(input_bars(self, bars, "BTC/USDT")))


class Both(Strategy):
    """Buys two symbols in one decision on the third bar, each with protections that a venue holds."""

    name: ClassVar[str] = "both"

    def group(self, symbol: str) -> EntryGroup:
        return EntryGroup(self.name, ("BTCUSDT", "ETHUSDT"))

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        target = (np.arange(len(bars)) >= 2).astype(np.float64)
        return Decisions(target, bars.close * 0.5, bars.close * 2.0)


def pair(count: int = 600) -> tuple[Bars, Bars]:
    """Return two tapes of minutes with one trend and a spread that returns to its mean."""
    dice = np.random.default_rng(3)
    common = np.cumsum(dice.standard_normal(count) * 0.001)
    apart, steps = np.zeros(count), dice.standard_normal(count) * 0.001
    for i in range(1, count):
        apart[i] = 0.9 * apart[i - 1] + steps[i]
    first = bars_of(list(np.round(50_000 * np.exp(1.2 * common + apart), 2)), symbol="BTCUSDT")
    return first, bars_of(list(np.round(3_000 * np.exp(common), 2)), symbol="ETHUSDT")


def without(bars: Bars, rows: list[int]) -> Bars:
    kept = np.setdiff1d(np.arange(len(bars)), rows)
    columns = (getattr(bars, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume"))
    return Bars(bars.symbol, bars.timeframe, *columns)


# ── aligned bars ─────────────────────────────────────────────────────────────────────────────────
def test_rows_are_joined_by_time_and_missing_ones_are_nan() -> None:
    first, second = bars_of([1, 2, 3, 4, 5]), bars_of([10, 20, 30, 40, 50], symbol="ETHUSDT")
    joined = without(first, [1]).joined({"ETH/USDT": without(second, [3])})
    (other,) = joined.inputs.values()
    assert np.array_equal(other.time_ns, joined.time_ns)
    assert np.array_equal(other.close, [10, 30, np.nan, 50], equal_nan=True)
    assert np.array_equal(other.volume, [1, 1, np.nan, 1], equal_nan=True)
    assert np.array_equal(joined[1:3].inputs["ETHUSDT"].close, [30, np.nan], equal_nan=True)
    with pytest.raises(InputError, match="ETHUSDT has bars of 1h"):
        first.joined({"ETHUSDT": bars_of([1.0], timeframe="1h")})


def test_a_strategy_without_its_inputs_gets_their_names() -> None:
    with pytest.raises(StrategyError, match="follow reads ethusdt besides BTCUSDT") as caught:
        evaluate(Follow(), bars_of([1.0] * 9))
    assert caught.value.code == "INPUT_MISSING"


def test_the_columns_of_inputs_cannot_be_written_to() -> None:
    class Writes(Follow):
        name: ClassVar[str] = "writes"

        def decide(self, bars: Bars) -> Decisions:
            bars.inputs["ETHUSDT"].close[0] = 2.0
            return super().decide(bars)

    with pytest.raises(StrategyError, match="read-only"):
        evaluate(Writes(), bars_of([1.0] * 9).joined({"ETHUSDT": bars_of([1.0] * 9)}))


def test_a_look_ahead_in_an_input_is_found() -> None:
    assert check_strategy(Follow()) == []
    (found,) = check_strategy(Follow(ahead=1))
    assert found.check == "lookahead"
    bars = with_inputs(Follow(), synthetic(700))
    assert 0 < np.isnan(bars.inputs["ETHUSDT"].close).sum() < 20
    assert check_strategy(Follow(), [bars]) == []


def test_a_decision_uses_the_bar_of_the_input_that_ended_with_its_own() -> None:
    first, second = bars_of([100.0] * 8), bars_of([5, 5, 5, 6, 5, 5, 5, 5], symbol="ETHUSDT")
    result = run(Follow(), first.joined({"ETH/USDT": second}), setup_for(first, limits=False))
    assert [(fill.side.value, fill.time_ns - int(first.time_ns[0])) for fill in result.fills] == [
        ("buy", 4 * 60 * NS),
        ("sell", 5 * 60 * NS),
    ]


def test_an_input_with_many_missing_bars_is_refused() -> None:
    first, second = bars_of([100.0] * 200), without(bars_of([5.0] * 200, symbol="ETHUSDT"), [7, 8, 9])
    joined = first.joined({"ETH/USDT": second})
    with pytest.raises(TapeRefused, match=r"ETHUSDT has no bar for 1.50 % of those of BTCUSDT \(3 of 200"):
        run(Follow(), joined, setup_for(first, allow_gaps=False))
    assert run(Follow(), joined, setup_for(first, allow_gaps=True)).fills == ()


def test_one_missing_bar_of_an_input_counts_until_its_indicator_has_settled() -> None:
    lead = resample(sample(), "1h")
    prices = (getattr(lead, name) / 20.0 for name in ("open", "high", "low", "close"))
    traded = Bars("ETHUSDT", "1h", lead.time_ns, *prices, lead.volume)
    whole, gapped = (traded.joined({"BTC/USDT": one}) for one in (lead, without(lead, [1000])))
    in_market = [run(LeadDip(), bars, setup_for(traded)).statistics.exposure_pct for bars in (whole, gapped)]
    assert in_market == pytest.approx([5.66, 5.87], abs=0.005)  # of a target that is never left it was 65.9
    differs = np.flatnonzero(evaluate(LeadDip(), whole).target != evaluate(LeadDip(), gapped).target)
    assert 1000 <= differs.min() <= differs.max() <= 1001 + INDICATORS["rsi"].settled({"period": 14})


FINITE = {
    "a trend": lambda bars: sma(bars.close, 5) > sma(bars.close, 20),
    "a momentum": lambda bars: macd(bars.close).histogram > 0.0,
    "a band": lambda bars: zscore(bars.close, 20) < -1.0,
    "a range": lambda bars: np.abs(bars.close - bars.open) > atr(bars.high, bars.low, bars.close),
    "an exact trend": lambda bars: cross_side(bars.close, 5, 20) > 0.0,
    "a higher trend": lambda bars: (hours := higher(bars, 5)).align(sma(hours.bars.close, 10)) < bars.close,
}


@pytest.mark.parametrize("how", FINITE.values(), ids=FINITE)
def test_the_check_accepts_indicators_of_an_input_with_missing_bars(how: Callable[[Bars], Floats]) -> None:
    strategy = Lead(how=lambda bars: how(bars).astype(np.float64))
    assert np.isnan(with_inputs(strategy, synthetic(1_200)).inputs["BTCUSDT"].close).any()
    assert check_strategy(strategy) == []


def test_a_target_that_is_nan_after_a_missing_bar_is_refused() -> None:
    strategy = Lead(how=lambda bars: np.maximum(cross_side(bars.close, 5, 20), 0.0))
    missing = np.flatnonzero(np.isnan(with_inputs(strategy, synthetic(1_200)).inputs["BTCUSDT"].close))
    first = missing[missing >= strategy.warmup()][0]
    with pytest.raises(StrategyError, match=f"target is nan at bar {first} ") as caught:
        check_strategy(strategy)
    assert caught.value.code == "STRATEGY_WRONG"


def test_the_fingerprint_has_the_inputs() -> None:
    first = bars_of([100.0] * 8)
    hashes = {
        run(Follow(), first.joined({"ETH/USDT": bars_of([5.0] * 7 + [last])}), setup_for(first)).inputs_hash
        for last in (5.0, 6.0)
    }
    assert len(hashes) == 2


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────
def test_pairs_passes_its_check_on_both_legs() -> None:
    for params in ({"period": 50}, {"period": 50, "leg": "second"}, {"period": 20, "entry": 1.5, "leave": 0.0}):
        strategy = Pairs.model_validate(params)
        assert check_strategy(strategy) == []
        target = evaluate(strategy, with_inputs(strategy, synthetic(600))).target
        assert {-1.0, 0.0, 1.0} <= set(target.tolist()), params


def test_the_spread_is_the_standardised_residual_of_a_regression() -> None:
    first, second = pair(120)
    rows, slope, score = spread_of(first, first.close, second.close, 50)
    for at in (49, 50, 119):
        x, y = np.log(second.close[at - 49 : at + 1]), np.log(first.close[at - 49 : at + 1])
        (b, a), *_ = np.polyfit(x, y, 1, full=True)
        rest = y - a - b * x
        assert slope[at] == pytest.approx(b, rel=1e-6)
        assert score[at] == pytest.approx(rest[-1] / np.sqrt((rest**2).sum() / 48), rel=1e-6)
    assert rows.tolist() == list(range(120))
    assert np.isnan(score[:49]).all()


def sides(bars: Bars, target: Floats) -> dict[int, float]:
    return dict(zip(bars.time_ns.tolist(), target.tolist(), strict=True))


def test_the_two_legs_share_one_decision_where_bars_are_missing_too() -> None:
    first, second = pair()
    first, second = without(first, [200, 201, 333]), without(second, [100, 334, 335, 500])
    one = sides(first, evaluate(Pairs(period=50), first.joined({"ETH/USDT": second})).target)
    other_leg = Pairs(period=50, other="BTC/USDT", leg="second")
    two = sides(second, evaluate(other_leg, second.joined({"BTC/USDT": first})).target)
    both = [time for time in one if time in two]
    assert [one[time] for time in both] == [-two[time] for time in both]
    assert len({one[time] for time in both}) == 3


def test_the_two_legs_trade_on_one_account() -> None:
    first, second = pair()
    one, two = (setup_for(bars, size=1, sizing="quantity", can_short=True) for bars in (first, second))
    legs = [
        Member(Pairs(period=50), first.joined({"ETH/USDT": second}), one),
        Member(Pairs(period=50, other="BTC/USDT", leg="second"), second.joined({"BTC/USDT": first}), two),
    ]
    done = run_account(legs, cash=10**6, limits=UNLIMITED)
    moments = [
        [(fill.time_ns, fill.side.sign * (1 - 2 * number), fill.role) for fill in result.fills]
        for number, result in enumerate(done.results)
    ]
    assert moments[0] == moments[1]  # the same moments, and opposite sides
    assert len(moments[0]) > 10
    assert not done.denied_count


def legs(first: Bars, second: Bars, *, can_short: bool = True) -> list[Member]:
    """Return the two legs of a pair, of one coin each; the second may go short or not."""
    one, two = (setup_for(bars, size=1, sizing="quantity", can_short=True) for bars in (first, second))
    return [
        Member(Pairs(period=50), first.joined({"ETH/USDT": second}), one),
        Member(
            Pairs(period=50, other="BTC/USDT", leg="second"),
            second.joined({"BTC/USDT": first}),
            replace(two, can_short=can_short),
        ),
    ]


def denials(done: AccountBacktest) -> list[list[tuple[str, str]]]:
    return [[(row.code, row.detail) for row in result.denied] for result in done.results]


def test_a_denial_of_one_leg_denies_the_other() -> None:
    """The first leg is short half of the time, the second one may not be in the other half."""
    done = run_account(legs(*pair(), can_short=False), cash=10**6, limits=UNLIMITED)
    first, second = denials(done)
    moments = [[(fill.time_ns, fill.side.sign, fill.role) for fill in result.fills] for result in done.results]
    assert [(time, -sign, role) for time, sign, role in moments[0]] == moments[1]
    assert moments[1]
    assert {sign for _, sign, role in moments[1] if role is Role.ENTRY} == {1}
    assert len(first) == len(second) > 3
    assert {code for code, _ in second} == {"BALANCE"}  # there are no coins to sell
    assert set(first) == {("GROUP_DENIED", "ETHUSDT BALANCE, limit all legs or none")}


def both(second: Bars, *, collar_pct: int | None = None, cash: int = 10_000) -> AccountBacktest:
    """Return what `Both` trades at 100 and on a second tape, of one coin each, with no fees."""
    members = []
    for bars in (bars_of([100.0] * 8), second):
        setup = setup_for(bars, size=1, sizing="quantity", fee_rate=0, collar_pct=collar_pct)
        listed = replace(setup.instrument, has_oto=True, has_oco=True)
        members.append(Member(Both(), bars, replace(setup, instrument=listed)))
    return run_account(members, cash=cash, limits=UNLIMITED)


def test_legs_are_checked_with_the_ones_before_them_filled() -> None:
    """The cash covers each leg alone, and not both of them."""
    second = bars_of([90.0] * 8, symbol="ETHUSDT")
    assert [fill.symbol for fill in both(second, cash=200).fills] == ["BTCUSDT", "ETHUSDT"]
    done = both(second, cash=150)
    assert not done.fills
    assert [code for rows in denials(done) for code, _ in rows] == ["GROUP_DENIED", "BALANCE"]
    assert set(done.equity.tolist()) == {150.0}


def test_a_leg_without_the_other_member_is_denied() -> None:
    first, second = pair()
    leg, _ = legs(first, second)
    other = Member(BuyAndHold(), second, setup_for(second, size=1, sizing="quantity"))
    done = run_account([leg, other], cash=10**6, limits=UNLIMITED)
    assert {fill.symbol for fill in done.fills} == {"ETHUSDT"}
    assert not done.results[0].fills
    assert set(denials(done)[0]) == {("GROUP_INCOMPLETE", "no entry in ETHUSDT, limit all legs or none")}


def test_a_leg_whose_order_expires_ends_the_other_one() -> None:
    """The second leg meets a gap that its collar forbids; the first one is sold a bar later."""
    second = bars_of([10.0] * 3 + [11.0] * 5, symbol="ETHUSDT")
    opens = np.where(np.arange(8) < 3, 10.0, 11.0)
    done = both(replace(second, open=opens), collar_pct=5)
    assert [(one.symbol, one.fill.side.value, one.fill.role.value) for one in done.fills] == [
        ("BTCUSDT", "buy", "entry"),
        ("BTCUSDT", "sell", "exit"),
    ]
    assert [one.fill.time_ns for one in done.fills] == second.time_ns[[3, 4]].tolist()
    assert denials(done)[0] == []
    assert len(done.results[1].expired) == 1


@pytest.mark.parametrize(
    "group",
    [
        EntryGroup("alone", ("BTCUSDT",)),
        EntryGroup("others", ("SOLUSDT", "ETHUSDT")),
        EntryGroup("x", ("BTC/USDT",) * 2),
    ],
)
def test_a_group_without_the_symbol_or_another_one_is_refused(group: EntryGroup) -> None:
    class Wrong(Both):
        name: ClassVar[str] = "wrong"

        def group(self, symbol: str) -> EntryGroup:
            return group

    with pytest.raises(StrategyError, match="strategy wrong: its group for BTCUSDT is"):
        group_of(Wrong(), "BTCUSDT")


def test_both_legs_of_a_pair_name_the_same_group_in_any_spelling() -> None:
    first, second = Pairs(other="eth-usdt").group("BTC/USDT"), Pairs(other="BTCUSDT", leg="second").group("ETHUSDT")
    assert first == second
    assert first.symbols == ("BTCUSDT", "ETHUSDT")
    assert Pairs(other="ETHUSDT", period=100).group("BTCUSDT") != first


def test_a_slope_below_zero_is_no_pair() -> None:
    _, second = pair(300)
    mirror = bars_of(list(np.round(1e8 / second.close, 2)), symbol="BTCUSDT")
    assert not evaluate(Pairs(period=50, entry=1.0), mirror.joined({"ETH/USDT": second})).target.any()


def test_leave_must_be_smaller_than_entry() -> None:
    with pytest.raises(ValueError, match=r"leave \(2\) must be smaller than entry \(2\)"):
        Pairs(leave=2.0)


def test_columns_of_inputs_grow_with_their_bars() -> None:
    first, second = pair(120)
    whole = without(first, [1, 60]).joined({"ETH/USDT": without(second, [3, 80])})
    columns = Columns(whole[:50])
    for row in range(50, len(whole), 7):
        columns.append(whole[row : row + 7])
    view = columns.view()
    assert (view.time_ns == whole.time_ns).all()
    (one,), (other,) = view.inputs.values(), whole.inputs.values()
    assert (one.time_ns == other.time_ns).all()
    assert np.array_equal(one.close, other.close, equal_nan=True)
    assert np.isnan(one.close).any()
