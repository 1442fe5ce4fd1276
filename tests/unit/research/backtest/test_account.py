"""Several strategies and symbols on one account: one member is a single run, and many share cash, limits and time."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.risk import Risk
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import Role
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import Backtest, Setup
from fks.research.backtest.account import AccountBacktest, Member
from fks.research.backtest.limits import UNLIMITED
from fks.research.jobs.account import parse_account
from fks.strategies.base import Decisions
from fks.trading.matching import Commission, CostModel
from fks.trading.risk.correlation import correlation_of, returns_before
from tests.support.backtests import run, run_account, with_events
from tests.support.given import Given
from tests.support.strategies import START_NS, bars_of

D = Decimal
MINUTE = 60 * NS
NO_FEES = CostModel(D(0))


def instrument(symbol: str, quote: str = "USDT") -> Instrument:
    return Instrument("x", symbol, symbol.removesuffix(quote), quote, D("0.01"), D("0.001"), D("0.001"), D(9000), D(5))


BTC, ETH = instrument("BTCUSDT"), instrument("ETHUSDT")


def setup(item: Instrument = BTC, **changes: Any) -> Setup:
    return replace(Setup(item, NO_FEES, allow_gaps=True), **changes)


def member(bars: Bars, targets: dict[int, float], item: Instrument = BTC, **changes: Any) -> Member:
    """Return a member whose target changes at some bars. `stop`: the stop loss of every entry."""
    stop = changes.pop("stop", None)
    target = np.zeros(len(bars))
    for index, value in targets.items():
        target[index:] = value
    given_ = Given(target=tuple(target), stop=None if stop is None else (float(stop),) * len(bars))
    return Member(given_, bars, setup(item, **changes))


def flat(symbol: str, count: int = 20, price: float = 100.0, timeframe: str = "1m") -> Bars:
    return bars_of([price] * count, symbol=symbol, timeframe=timeframe)


class Dice:
    """Random tapes, decisions and setups of a seed."""

    def __init__(self, seed: int) -> None:
        self.random, self.random_parts = np.random.default_rng(seed), np.random.default_rng(seed + 1)

    def one_of(self, *values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def tape(self, symbol: str) -> Bars:
        count = int(self.random.integers(4, 80))
        timeframe = self.one_of("1m", "5m", "15m", "1h", "4h", "1d")
        path = np.maximum(200 + np.cumsum(self.random.integers(-6, 7, 2 * count)), 25) / 2.0
        open_, close = path[0::2], path[1::2]
        reach = self.random.integers(0, 4, (2, count)) / 2.0
        steps = np.where(self.random.random(count) < 0.05, 3, 1)
        times = START_NS + np.cumsum(steps).astype(np.int64) * TIMEFRAMES[timeframe] * NS
        low, high = np.minimum(open_, close) - reach[0], np.maximum(open_, close) + reach[1]
        return Bars(symbol, timeframe, times, open_, high, low, close, np.ones(count))

    def member(self, item: Instrument) -> Member:
        bars = self.tape(item.symbol)
        count = len(bars)
        sides = self.one_of((0.0, 1.0), (-1.0, 0.0, 1.0), (-1.0, 1.0))
        target = np.repeat(np.array(sides)[self.random.integers(0, len(sides), count)], self.one_of(1, 4))[:count]
        stop = np.where(target < 0, bars.close * 1.02, bars.close * 0.98) if self.one_of(0, 1) else None
        target, move = self.parts(target), np.where(self.random_parts.random(count) < 0.2, bars.close, np.nan)
        strategy = Given(
            target=tuple(target),
            stop=None if stop is None else tuple(stop),
            move=tuple(np.where(target < 0, move * 1.01, move * 0.99)),
            warm=int(self.random.integers(0, 3)),
        )
        return Member(
            strategy,
            bars,
            Setup(
                item,
                CostModel(D(self.one_of("0", "0.001", "0.00075")), self.one_of("received", "quote")),
                self.one_of("notional", "quantity", "equity_pct"),
                D(self.one_of("7", "30", "90", "900")) if self.one_of(0, 1) else D("2.5"),
                can_short=self.one_of(True, False),
                allow_gaps=True,
                margin=self.one_of(
                    None, None, Margin.parse("0.5/0.3; above 60 0.6/0.5; fee 0.01"), Margin.parse("0.02/0.01")
                ),
            ),
        )

    def parts(self, target: Floats) -> Floats:
        """Return targets that also fall on their side."""
        found, share = target.copy(), 1.0
        for at in range(1, len(target)):
            share = 1.0 if target[at] != target[at - 1] else share * (0.5 if self.random_parts.random() < 0.2 else 1.0)
            found[at] *= share
        return found

    def limits(self) -> Risk:
        return Risk(
            exposure_max_instrument=D(self.one_of(300, 10**6)),
            exposure_max_account=D(self.one_of(500, 10**6)),
            loss_day_max=D(self.one_of("0.5", 20, 10**6)),
        )


def assert_same(left: Backtest, right: Backtest) -> None:
    """Compare all that a result has."""
    assert left.fills == right.fills
    assert left.trades == right.trades
    assert left.denied == right.denied
    assert left.cash_flows == right.cash_flows
    assert (left.cash, left.position) == (right.cash, right.position)
    assert np.array_equal(left.equity, right.equity)
    assert left.statistics == right.statistics
    assert (left.inputs_hash, left.fills_hash) == (right.inputs_hash, right.fills_hash)


# ── one member ───────────────────────────────────────────────────────────────────────────────────
@given(st.integers(0, 2**32), st.booleans())
def test_one_member_equals_the_single_run(seed: int, has_limits: bool) -> None:
    dice = Dice(seed)
    one, limits, cash = dice.member(BTC), dice.limits() if has_limits else UNLIMITED, D(dice.one_of(500, 10_000))
    assert one.setup is not None
    if seed % 2:
        one = replace(one, setup=with_events(one.setup, one.bars, dice.random_parts))
        assert one.setup is not None
    alone = run(one.strategy, one.bars, replace(one.setup, cash=cash, limits=limits), engine="reference")
    together = run_account([one], cash=cash, limits=limits)
    assert_same(together.results[0], alone)
    assert np.array_equal(together.equity, alone.equity)
    assert together.cash == alone.cash
    assert tuple(row.fill for row in together.fills) == alone.fills


@given(st.integers(0, 2**32))
def test_members_that_never_meet_a_limit_trade_as_they_would_alone(seed: int) -> None:
    dice = Dice(seed)
    members = [dice.member(instrument(name)) for name in ("AUSDT", "BUSDT", "CUSDT")[: dice.one_of(2, 3)]]
    members = [
        replace(one, setup=replace(one.setup, can_short=True, sizing="notional", size=one.setup.size * 10))
        for one in members
        if one.setup is not None
    ]
    if seed % 2:
        members = [
            replace(one, setup=with_events(one.setup, one.bars, dice.random_parts))
            for one in members
            if one.setup is not None
        ]
    together = run_account(members, cash=10**7, limits=UNLIMITED)
    for one, result in zip(members, together.results, strict=True):
        assert one.setup is not None
        alone = run(one.strategy, one.bars, replace(one.setup, cash=D(10**7), limits=UNLIMITED), engine="reference")
        assert_same(result, alone)
    final = 1e7 + sum(float(result.equity[-1]) - 1e7 for result in together.results)
    assert together.equity[-1] == pytest.approx(final, abs=1e-6)
    assert sum(len(result.fills) for result in together.results) == len(together.fills)


@given(st.integers(0, 2**32), st.booleans())
def test_a_member_beside_an_idle_one_trades_as_alone(seed: int, has_limits: bool) -> None:
    """Forced closes, cash flows and denials included: an idle member has nothing that could change them."""
    dice = Dice(seed)
    one, limits, cash = dice.member(BTC), dice.limits() if has_limits else UNLIMITED, D(dice.one_of(40, 500, 10_000))
    assert one.setup is not None
    if seed % 2:
        one = replace(one, setup=with_events(one.setup, one.bars, dice.random_parts))
    idle = member(dice.tape("ETHUSDT"), {}, ETH)
    together = run_account([idle, one] if dice.one_of(0, 1) else [one, idle], cash=cash, limits=limits)
    alone = run_account([one], cash=cash, limits=limits)
    fills = tuple(row.fill for row in together.fills)
    assert fills == tuple(row.fill for row in alone.fills)
    (found,) = (result for result in together.results if result.bars.symbol == BTC.symbol)
    assert_same(found, alone.results[0])


def kept_of(one: Member, quantity: Fraction, price: Fraction) -> Fraction:
    """Return the maintenance margin of a position, by its definition; of one bracket above the first at most."""
    margin = one.setup.margin if one.setup is not None else None
    assert margin is not None
    if margin.is_each:
        return abs(quantity) * Fraction(margin.maintenance)
    value = abs(quantity) * price
    if quantity < 0 and margin.maintenance_short is not None:
        return value * Fraction(margin.maintenance_short)
    above = [(Fraction(tier.floor), Fraction(tier.maintenance)) for tier in margin.tiers]
    first = min([value, *(floor for floor, _ in above)]) * Fraction(margin.maintenance)
    return first + sum(max(value - floor, Fraction(0)) * rate for floor, rate in above)


def forced_closes(account: AccountBacktest, members: list[Member]) -> list[tuple[int, int, Fraction]]:
    """Return member, bar and price of each forced close by the rule of the documentation, tick by tick, of members on
    the same minutes. Their other fills are taken as they are."""
    cash, held, found = Fraction(account.starting_cash), [Fraction(0)] * len(members), []
    for index, time_ns in enumerate(members[0].bars.time_ns.tolist()):
        rows = [row for row in account.fills if row.fill.time_ns == time_ns and row.fill.role is not Role.LIQUIDATION]
        stopped = {row.number: row for row in rows if row.fill.role is Role.STOP_LOSS}
        for row in rows:
            if row.number not in stopped or row is not stopped[row.number]:
                held[row.number] += row.fill.side.sign * Fraction(row.fill.quantity)
                cash -= row.fill.side.sign * Fraction(row.fill.quantity * row.fill.price)
        closes = [Fraction(repr(float(one.bars.close[max(index - 1, 0)]))) for one in members]
        before = (cash, [*held])  # of which each member's price is made, until one is closed by force
        for number, one in enumerate(members):
            if number in stopped:
                fill, held[number] = stopped[number].fill, Fraction(0)
                cash -= fill.side.sign * Fraction(fill.quantity * fill.price)
                continue
            funds, own = before[0], held[number]
            others = [n for n in range(len(members)) if n != number]
            funds += sum(before[1][n] * closes[n] - kept_of(members[n], before[1][n], closes[n]) for n in others)
            worst_of = one.bars.low if own > 0 else one.bars.high
            price, worst = (Fraction(repr(float(column[index]))) for column in (one.bars.open, worst_of))
            step = Fraction(-1 if own > 0 else 1, 100)
            while own and (worst - price) * step >= 0:
                if funds + own * price <= kept_of(one, own, price):
                    found.append((number, index, price))
                    cash, held[number] = cash + own * price, Fraction(0)
                    before = (cash, [*held])
                    break
                price += step
    return found


@given(st.integers(0, 2**32))
def test_positions_are_closed_by_force_as_tick_by_tick(seed: int) -> None:
    members, account = forced_case(seed)
    found = [
        (row.number, int((row.fill.time_ns - members[0].bars.time_ns[0]) // MINUTE), Fraction(row.fill.price))
        for row in account.fills
        if row.fill.role is Role.LIQUIDATION
    ]
    assert sorted(found) == sorted(forced_closes(account, members))


def forced_case(seed: int) -> tuple[list[Member], AccountBacktest]:
    """Return two or three members on the same minutes, with little cash, and their account."""
    random = np.random.default_rng(seed)
    members = []
    for item in (BTC, ETH, instrument("SOLUSDT"))[: random.integers(2, 4)]:
        path = np.maximum(200 + np.cumsum(random.integers(-6, 7, 80)), 25) / 2.0
        open_, close = path[0::2], path[1::2]
        reach = random.integers(0, 4, (2, 40)) / 2.0
        low, high = np.minimum(open_, close) - reach[0], np.maximum(open_, close) + reach[1]
        bars = replace(flat(item.symbol, 40), open=open_, high=high, low=low, close=close)
        margin = ("0.05/0.03", "0.1/0.05; short 0.08", "5/3 each", "0.05/0.02; above 300 0.2/0.1", "0.1")[
            random.integers(5)
        ]
        target = np.repeat(random.integers(-1, 2, 8), 5).astype(float)
        stop = np.where(target < 0, close + 8, close - 8) if random.random() < 0.3 else None
        strategy = Given(target=tuple(target), stop=None if stop is None else tuple(stop))
        size = D(int(random.integers(1, 5)))
        own = setup(item, can_short=True, sizing="quantity", size=size, margin=Margin.parse(margin))
        members.append(Member(strategy, bars, own))
    return members, run_account(members, cash=D(int(random.integers(20, 90))))


def test_generated_members_are_closed_by_force_alone_and_together() -> None:
    counts = [sum(row.fill.role is Role.LIQUIDATION for row in forced_case(seed)[1].fills) for seed in range(60)]
    assert sum(counts) >= 40
    assert max(counts) > 2


@given(st.integers(0, 2**32))
def test_spot_members_never_spend_more_cash_than_there_is(seed: int) -> None:
    dice = Dice(seed)
    members = [dice.member(instrument(name)) for name in ("AUSDT", "BUSDT", "AUSDT", "CUSDT")]
    members = [
        replace(one, setup=replace(one.setup, can_short=False, margin=None)) for one in members if one.setup is not None
    ]
    together = run_account(members, cash=700, limits=UNLIMITED)
    cash, held = D(700), dict.fromkeys(range(4), D(0))
    for row in together.fills:
        fill, is_base = row.fill, row.fill.fee_currency != "USDT"
        if fill.role is Role.ENTRY:  # it is checked at the close that decided it
            bars = together.results[row.number].bars
            assert fill.quantity * D(str(bars.close[np.searchsorted(bars.time_ns, fill.time_ns) - 1])) <= cash
        cash -= fill.side.sign * fill.quantity * fill.price + (0 if is_base else fill.fee)
        held[row.number] += fill.side.sign * fill.quantity - (fill.fee if is_base else 0)
        assert held[row.number] >= 0
    assert cash == together.cash
    assert together.fills_hash == run_account(members, cash=700, limits=UNLIMITED).fills_hash


@given(st.integers(0, 2**32))
def test_statistics_of_one_member_are_those_of_its_run(seed: int) -> None:
    one = Dice(seed).member(BTC)
    assert one.setup is not None
    alone = run(one.strategy, one.bars, replace(one.setup, cash=D(10_000), limits=UNLIMITED))
    ours, theirs = run_account([one], limits=UNLIMITED).statistics.as_dict(), alone.statistics.as_dict()
    for name in ours.keys() & theirs.keys() - {"exposure_pct"}:  # the account's counts bars that hold a whole lot
        assert ours[name] == theirs[name], name


def test_statistics_of_an_account_add_up() -> None:
    rising = bars_of([100.0] * 5 + [110.0] * 15, symbol="BTCUSDT", timeframe="1d")
    falling = bars_of([100.0] * 5 + [95.0] * 15, symbol="ETHUSDT", timeframe="1d")
    done = run_account([member(rising, {2: 1.0, 10: 0.0}), member(falling, {3: 1.0, 12: 0.0}, ETH)], limits=UNLIMITED)
    found = done.statistics
    assert (found.trades, found.wins, found.net_profit, found.final_equity) == (2, 1, 50.0, 10_050.0)
    assert (found.best_trade, found.worst_trade, found.positions_max) == (100.0, -50.0, 2)
    assert found.exposure_pct == pytest.approx(100.0 * 10 / 20)  # of 20 closes, the fourth to the thirteenth
    assert found.max_exposure_pct == pytest.approx(100.0 * (1100 + 950) / 10_050)
    assert found.max_drawdown_pct == 0.0  # both moved on the same day
    assert list(done.correlations.symbols) == ["BTCUSDT", "ETHUSDT"]
    assert done.correlations.symbols["BTCUSDT"]["ETHUSDT"] == pytest.approx(-1.0)
    assert done.correlations.members[0][1] == pytest.approx(-1.0)
    assert done.correlations.members[0][0] == pytest.approx(1.0)


def test_equity_is_of_the_newest_closes_and_of_fills_when_they_happen() -> None:
    hours = bars_of([100.0, 100.0, 130.0, 130.0], symbol="BTCUSDT", timeframe="1h")
    minutes = bars_of([100.0] * 120 + [110.0] * 120, symbol="BTCUSDT")
    done = run_account([member(hours, {0: 1.0, 2: 0.0}), member(minutes, {})], cash=2000, limits=UNLIMITED)
    at = dict(zip(((done.ends_ns - START_NS) // MINUTE).tolist(), done.equity.tolist(), strict=True))
    exposed = dict(zip(at, done.exposure.tolist(), strict=True))
    assert (at[60], exposed[60]) == (2000.0, 0.0)  # the order is filled at 01:00, after the close
    assert (at[61], exposed[61]) == (2000.0, 1000.0)
    assert (at[121], exposed[121]) == (2100.0, 1100.0)  # the minute's close, though the hour goes on
    assert (at[181], exposed[181]) == (2300.0, 0.0)  # sold at 03:00 at 130
    assert done.holding.tolist() == [0] * 60 + [1] * 120 + [0] * 60


# ── order of events ──────────────────────────────────────────────────────────────────────────────
def test_two_entries_at_one_moment_are_made_in_the_order_of_the_members() -> None:
    btc, eth = flat("BTCUSDT"), flat("ETHUSDT")
    first = member(btc, {5: 1.0}, size=D(600))
    second = member(eth, {5: 1.0}, ETH, size=D(600))
    done = run_account([first, second], cash=1000, limits=UNLIMITED)
    assert [(row.member, row.symbol) for row in done.fills] == [("given BTCUSDT 1m", "BTCUSDT")]
    assert [row.code for row in done.results[1].denied] == ["BALANCE"]
    swapped = run_account([second, first], cash=1000, limits=UNLIMITED)
    assert [row.symbol for row in swapped.fills] == ["ETHUSDT"]
    assert done.denied_count == {"BALANCE": 1}


def test_exits_of_a_moment_come_before_its_entries() -> None:
    entering = member(flat("ETHUSDT"), {10: 1.0}, ETH, size=D(900))
    leaving = member(flat("BTCUSDT"), {2: 1.0, 10: 0.0}, size=D(900))
    done = run_account([entering, leaving], cash=1000, limits=UNLIMITED)
    assert [(row.number, row.fill.side.value) for row in done.fills] == [(1, "buy"), (1, "sell"), (0, "buy")]
    assert not done.denied_count


def test_a_stop_inside_a_long_bar_is_known_to_others_at_its_end() -> None:
    hours = bars_of([100.0, 100.0, 90.0, 90.0], symbol="BTCUSDT", timeframe="1h")  # falls in the third hour
    slow = member(hours, {0: 1.0}, size=D(900), stop=95.0)
    minutes = flat("ETHUSDT", 240)
    before = member(minutes, {178: 1.0}, ETH, size=D(900))  # filled at 02:59, the stop was hit since 02:00
    after = member(minutes, {179: 1.0}, ETH, size=D(900))  # filled at 03:00
    denied = run_account([slow, before], cash=1000, limits=UNLIMITED)
    assert denied.denied_count == {"BALANCE": 1}
    allowed = run_account([slow, after], cash=1000, limits=UNLIMITED)
    assert [row.symbol for row in allowed.fills] == ["BTCUSDT", "BTCUSDT", "ETHUSDT"]


def test_an_order_without_a_next_bar_waits_and_blocks_no_other() -> None:
    btc = flat("BTCUSDT")
    gap = np.delete(np.arange(20), slice(6, 12))
    holed = Bars("ETHUSDT", "1m", btc.time_ns[gap], *(np.full(14, 100.0) for _ in range(4)), np.ones(14))
    waiting = member(holed, {5: 1.0}, ETH, size=D(900))  # decided at minute 6, filled at minute 12
    quick = member(btc, {7: 1.0, 9: 0.0}, size=D(900))
    done = run_account([waiting, quick], cash=1000, limits=UNLIMITED)
    assert [(row.symbol, (row.fill.time_ns - START_NS) // MINUTE) for row in done.fills] == [
        ("BTCUSDT", 8),
        ("BTCUSDT", 10),
        ("ETHUSDT", 12),
    ]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────
def test_exposure_of_the_account_counts_the_others() -> None:
    members = [member(flat("BTCUSDT"), {2: 1.0}), member(flat("ETHUSDT"), {5: 1.0}, ETH)]
    done = run_account(members, limits=Risk(exposure_max_account=D(1500)))
    assert [row.as_dict() for row in done.results[1].denied] == [
        {"time": "2026-01-01T00:05:00Z", "side": "buy", "code": "EXPOSURE_ACCOUNT", "detail": "2000, limit 1500 USDT"}
    ]
    assert not run_account(members, limits=Risk(exposure_max_account=D(2000))).denied_count


def test_exposure_of_an_instrument_is_that_of_all_its_members() -> None:
    btc = flat("BTCUSDT")
    done = run_account([member(btc, {2: 1.0}), member(btc, {5: 1.0})], limits=Risk(exposure_max_instrument=D(1500)))
    assert [row.code for row in done.results[1].denied] == ["EXPOSURE_INSTRUMENT"]
    assert done.names == ("given BTCUSDT 1m (1)", "given BTCUSDT 1m (2)")


def test_a_member_cannot_sell_what_another_one_holds() -> None:
    btc = flat("BTCUSDT")
    done = run_account([member(btc, {2: 1.0}), member(btc, {5: -1.0})], limits=UNLIMITED)
    assert [row.code for row in done.results[1].denied] == ["BALANCE"]


def test_loss_of_the_day_is_that_of_all_members() -> None:
    losing = bars_of([100.0] * 5 + [60.0] * 15, symbol="BTCUSDT")
    members = [member(losing, {2: 1.0}), member(flat("ETHUSDT"), {8: 1.0}, ETH)]
    done = run_account(members, limits=Risk(loss_day_max=D(400)))
    assert [(row.code, row.detail) for row in done.results[1].denied] == [
        ("LOSS_DAY", "400 lost today, limit 400 USDT")
    ]
    assert not run_account(members, limits=Risk(loss_day_max=D(401))).denied_count


def test_loss_of_the_day_ends_with_the_day() -> None:
    hours = bars_of([100.0] * 5 + [60.0] * 45, symbol="BTCUSDT", timeframe="1h")
    other = flat("ETHUSDT", 50, timeframe="1h")
    limits = Risk(loss_day_max=D(300))
    assert run_account([member(hours, {2: 1.0}), member(other, {22: 1.0}, ETH)], limits=limits).denied_count == {
        "LOSS_DAY": 1
    }
    assert not run_account([member(hours, {2: 1.0}), member(other, {23: 1.0}, ETH)], limits=limits).denied_count


def test_percent_of_the_equity_is_of_the_whole_account() -> None:
    rising = bars_of([100.0] * 5 + [200.0] * 15, symbol="BTCUSDT")
    first = member(rising, {2: 1.0}, sizing="notional", size=D(1000))
    second = member(flat("ETHUSDT"), {8: 1.0}, ETH, sizing="equity_pct", size=D(10))
    done = run_account([first, second], cash=2000, limits=UNLIMITED)
    assert done.fills[1].fill.quantity == 3  # 10 % of 1000 in cash and 2000 in BTC, at 100


# ── correlation ──────────────────────────────────────────────────────────────────────────────────
def walks(count: int, share: float) -> tuple[Bars, Bars]:
    """Return two tapes of minutes whose returns are correlated by about `share` (-1 to 1)."""
    dice = np.random.default_rng(5)
    common, own = dice.standard_normal((2, count)) * 0.001
    left, right = common, share * common + np.sqrt(1 - share**2) * own
    closes = (np.round(100.0 * np.exp(np.cumsum(column)), 2) for column in (left, right))
    first, second = (
        bars_of(list(close), symbol=name) for close, name in zip(closes, ("BTCUSDT", "ETHUSDT"), strict=True)
    )
    return first, second


def correlated(share: float, sides: tuple[float, float] = (1.0, 1.0), **limits: Any) -> AccountBacktest:
    first, second = walks(300, share)
    wanted = {"exposure_max_correlated": D(1500), "correlation_timeframe": "1m", "correlation_returns": 100, **limits}
    members = [
        member(first, {150: sides[0]}, can_short=True),
        member(second, {200: sides[1]}, ETH, can_short=True),
    ]
    return run_account(members, limits=Risk(**wanted))


@pytest.mark.parametrize(
    ("share", "sides", "is_denied"),
    [
        (0.9, (1.0, 1.0), True),
        (0.9, (-1.0, -1.0), True),
        (0.9, (1.0, -1.0), False),  # one hedges the other
        (-0.9, (1.0, 1.0), False),
        (-0.9, (1.0, -1.0), True),
        (0.3, (1.0, 1.0), False),
    ],
)
def test_positions_that_move_together_share_a_limit(share: float, sides: tuple[float, float], is_denied: bool) -> None:
    done = correlated(share, sides)
    assert done.denied_count == ({"EXPOSURE_CORRELATED": 1} if is_denied else {})
    assert not correlated(share, sides, exposure_max_correlated=None).denied_count
    assert not correlated(share, sides, exposure_max_correlated=D(3000)).denied_count


def test_the_denial_names_the_symbols_and_their_correlation() -> None:
    (denied,) = correlated(0.9).results[1].denied
    first, second = walks(300, 0.9)
    expected = np.corrcoef(*(np.diff(np.log(bars.close[100:201])) for bars in (first, second)))[0, 1]
    assert denied.detail.endswith(f"with BTCUSDT ({expected:+.2f}), limit 1500 USDT")


def test_an_unknown_correlation_counts_as_one() -> None:
    done = correlated(0.1, correlation_returns=1000)  # 200 of 1,000 returns are there
    (denied,) = done.results[1].denied
    assert (denied.code, "BTCUSDT (unknown)" in denied.detail) == ("EXPOSURE_CORRELATED", True)


def test_later_bars_change_no_correlation() -> None:
    first, second = walks(300, 0.9)
    for bars in (first, second):
        bars.close[201:] = 100.0 + np.arange(99) % 7 * (1 if bars is first else -1)
    ends = first.time_ns + MINUTE
    now = int(ends[200])
    columns = [returns_before(ends, bars.close, now, 60, 100) for bars in (first, second)]
    earlier = [returns_before(ends[:201], bars.close[:201], now, 60, 100) for bars in (first, second)]
    assert correlation_of(*columns) == correlation_of(*earlier)
    assert correlation_of(*columns) != correlation_of(
        *(returns_before(ends, bars.close, now + 50 * MINUTE, 60, 100) for bars in (first, second))
    )


def test_returns_are_of_bars_that_ended_and_missing_ones_have_none() -> None:
    ends = np.array([60, 120, 240, 300], dtype=np.int64) * NS  # the bar that ends at 180 is missing
    closes = np.array([1.0, np.e, np.e**3, np.e**4])
    found = returns_before(ends, closes, 310 * NS, 60, 5)
    assert np.array_equal(np.isnan(found), [True, False, True, True, False])
    assert np.allclose(found[[1, 4]], [1.0, 1.0])
    assert np.isnan(returns_before(ends, closes, 359 * NS, 60, 1)[0]) == np.False_
    coarse = returns_before(ends, closes, 300 * NS, 120, 2)
    assert np.allclose(coarse, [np.nan, 2.0], equal_nan=True)


def test_correlation_needs_half_of_the_returns_and_some_movement() -> None:
    left, right = np.array([1.0, 2.0, np.nan, np.nan]), np.array([2.0, 4.0, 1.0, 1.0])
    assert correlation_of(left, right) == pytest.approx(1.0)
    assert correlation_of(np.array([1.0, np.nan, np.nan]), np.array([1.0, 2.0, 3.0])) is None
    assert correlation_of(np.zeros(4), right) is None


# ── errors ───────────────────────────────────────────────────────────────────────────────────────
def test_members_that_cannot_share_an_account_are_refused() -> None:
    btc = member(flat("BTCUSDT"), {})
    cases: list[tuple[list[Member], Risk | None, str]] = [
        ([], None, "ACCOUNT_MEMBERS"),
        ([btc, member(flat("ETHBTC"), {}, instrument("ETHBTC", "BTC"))], None, "ACCOUNT_CURRENCY"),
        ([btc, member(flat("BTCUSDT"), {}, replace(BTC, tick=D(1)))], None, "ACCOUNT_INSTRUMENT"),
        (
            [btc, member(flat("ETHUSDT", timeframe="1d"), {}, ETH)],
            Risk(exposure_max_correlated=D(9)),
            "CORRELATION_TIMEFRAME",
        ),
    ]
    for members, limits, code in cases:
        with pytest.raises(InputError) as caught:
            run_account(members, limits=limits)
        assert caught.value.code == code
        assert caught.value.remedy


def test_a_share_of_the_equity_is_that_of_the_whole_account() -> None:
    rise = bars_of([100.0, 100.0, 120.0, 120.0, 120.0, 120.0], symbol="BTCUSDT")
    share = {"sizing": "equity_pct", "size": D(40)}
    first = member(rise, {0: 1.0}, BTC, **share)
    second = member(flat("ETHUSDT", 6), {3: 1.0}, ETH, **share)
    result = run_account([first, second], cash=1000, limits=UNLIMITED)
    bought = [row.fill for row in result.fills]
    assert [fill.quantity for fill in bought] == [4, D("4.32")]  # of 1,000, then of 600 + 4 × 120


def test_a_member_that_enters_by_an_order_that_rests_is_refused() -> None:
    class Resting(Given):
        def decide(self, bars: Bars) -> Decisions:
            return replace(super().decide(bars), entry_limit=np.full(len(bars), 90.0))

    waits = Member(Resting(target=(1.0,) * 20), flat("BTCUSDT"), setup())
    with pytest.raises(InputError, match="enters by limit or stop orders") as error:
        run_account([waits])
    assert error.value.code == "ENTRY_UNSUPPORTED"


@pytest.mark.parametrize("switch", [{}, {"finer": True}, {"finer": False}])
@pytest.mark.parametrize("shared", [False, True])
def test_minutes_decide_for_members_unless_the_spec_leaves_them_out(shared: bool, switch: dict[str, bool]) -> None:
    member = {"strategy": "rsi", "symbol": "BTCUSDT", "timeframe": "1h"}
    found = parse_account({"members": [member | ({} if shared else switch)], **(switch if shared else {})})
    assert found.members[0].finer is switch.get("finer", True)
    assert parse_account(found.model_dump(mode="json", by_alias=True, exclude={"risk"})) == found


def test_members_with_one_commission_share_its_tiers_of_the_month() -> None:
    """2 each, and 1 each beyond 10 units of a month: by both members, in the order of their fills. The third has
    another commission, and the month of its own."""
    tiers = Commission.parse("2 each, 1 each from 10")
    kept = {"costs": CostModel(D(0), commission=tiers), "sizing": "quantity", "size": D(6)}
    other = kept | {"costs": CostModel(D(0), commission=Commission.parse("2 each, 0.5 each from 10"))}
    start = int(np.datetime64("2026-01-30", "ns").astype(int))
    items = [instrument(f"{name}USDT") for name in ("AAA", "BBB", "CCC")]
    bars = [replace(flat(item.symbol, 8, timeframe="1d"), time_ns=start + np.arange(8) * 86_400 * NS) for item in items]
    members = [
        member(bars[0], {0: 1.0, 2: 0.0, 3: 1.0}, items[0], **kept),  # fills on 31 January, 2 and 3 February
        member(bars[1], {0: 1.0, 2: 0.0}, items[1], **kept),
        member(bars[2], {0: 1.0}, items[2], **other),
    ]
    found = run_account(members, cash=10**6)
    fees = [[int(fill.fee) for fill in result.fills] for result in found.results]
    assert fees == [[12, 12, 6], [4 * 2 + 2 * 1, 4 * 2 + 2 * 1], [12]]
    alone = run(members[0].strategy, bars[0], replace(members[0].setup, cash=D(10**6)), engine="compiled")
    assert [int(fill.fee) for fill in alone.fills] == [12, 12, 4 * 2 + 2 * 1]
    assert (alone.engine.name, alone.engine.reason) == ("reference", "the commission has tiers")
