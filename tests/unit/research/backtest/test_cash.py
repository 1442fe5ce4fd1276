"""Cash that pays for what is bought: the quantity is bound when it is decided, and a fill above the cash is denied."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest import Member, Result, Setup
from fks.trading.matching import Commission, CostModel, Slippage
from fks.trading.risk.sizing import affordable_quantity
from tests.support.backtests import run, run_account
from tests.support.given import Given
from tests.support.strategies import START_NS

D = Decimal
NONE = float("nan")
BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.001"), D("0.001"), D(9000), D(5), has_oto=True)
FREE = CostModel(D(0), "quote")
ALL_IN = Setup(BTC, FREE, "equity_pct", D(100))


def bars_of(opens: list[float], closes: list[float]) -> Bars:
    """Return hourly bars whose range is that of open and close."""
    times = START_NS + np.arange(len(opens), dtype=np.int64) * 3600 * NS
    first, last = np.array(opens, dtype=float), np.array(closes, dtype=float)
    return Bars("TAPE", "1h", times, first, np.maximum(first, last), np.minimum(first, last), last, np.ones(len(first)))


def both(bars: Bars, setup: Setup, **decided: Any) -> Result:
    """Return the result that both engines give."""
    strategy = Given(**decided)
    compiled, reference = (run(strategy, bars, setup, engine=engine) for engine in ("compiled", "reference"))
    assert compiled.engine.name == "compiled", compiled.engine.reason
    assert (compiled.fills, compiled.denied, compiled.cash) == (reference.fills, reference.denied, reference.cash)
    assert np.array_equal(compiled.equity, reference.equity)
    return compiled


def denials(result: Result) -> list[tuple[str, str]]:
    return [(row.code, row.detail) for row in result.denied]


def test_a_fill_that_costs_more_than_the_cash_is_denied() -> None:
    result = both(bars_of([100, 110, 111], [100, 111, 111]), ALL_IN, target=(1.0, 1.0, 1.0))
    assert (result.fills, result.cash) == ((), D(10_000))
    assert denials(result) == [("BALANCE", "11000 needed for the fill, limit 10000 USDT free of reservations")]
    assert result.denied[0].time_ns == START_NS
    lower = both(bars_of([100, 90, 91], [100, 91, 91]), ALL_IN, target=(1.0, 1.0, 1.0))
    assert ([fill.quantity for fill in lower.fills], lower.cash) == ([D(100)], D(1000))


@pytest.mark.parametrize(
    ("costs", "bought"),
    [
        (CostModel(D("0.001"), "quote"), "99.900"),  # of 10,000 / 100.1
        (CostModel(D("0.001"), "received"), "100"),  # the fee is taken from what is bought
        (CostModel(D(0), "quote", commission=Commission.parse("2.25 each")), "97.799"),  # of 10,000 / 102.25
        (CostModel(D(0), "quote", commission=Commission.parse("0.005 each min 1")), "99.990"),
        (CostModel(D(0), "quote", slippage=Slippage.parse("50 bps")), "99.502"),  # of 10,000 / 100.5
        (CostModel(D("0.001"), "quote", slippage=Slippage.parse("2 ticks")), "99.880"),  # of 10,000 / 100.12002
    ],
)
def test_an_entry_of_all_the_equity_leaves_what_it_costs(costs: CostModel, bought: str) -> None:
    result = both(bars_of([100, 100, 100], [100, 100, 100]), replace(ALL_IN, costs=costs), target=(1.0, 1.0, 1.0))
    assert [fill.quantity for fill in result.fills] == [D(bought)]
    assert 0 <= result.cash < 1
    assert not result.denied


def test_an_entry_of_all_the_equity_is_sized_at_its_collar_or_limit() -> None:
    bars = bars_of([100, 100.5, 101], [100, 101, 101])
    collared = both(bars, replace(ALL_IN, collar_pct=D(1)), target=(1.0,) * 3, stop=(90.0,) * 3, limit=(150.0,) * 3)
    assert [fill.quantity for fill in collared.fills] == [D("99.009")]  # of 10,000 / 101
    limited = both(bars, ALL_IN, target=(1.0,) * 3, entry_limit=(100.5,) * 3)
    assert [fill.quantity for fill in limited.fills] == [D("99.502")]
    stopped = both(bars_of([100, 102, 102], [100, 102, 102]), ALL_IN, target=(1.0,) * 3, entry_stop=(101.0,) * 3)
    assert not stopped.fills
    assert denials(stopped) == [("BALANCE", "10098.918 needed for the fill, limit 10000 USDT free of reservations")]


def test_the_balance_of_a_buy_counts_its_commission() -> None:
    """5,000 units at 2 cost 10,000, and their commission 11,250 more."""
    costs = CostModel(D(0), "quote", commission=Commission.parse("2.25 each"))
    setup = Setup(BTC, costs, "notional", D(10_000))
    result = both(bars_of([2, 2, 2, 2], [2, 2, 2, 2]), setup, target=(1.0,) * 4)
    assert (result.fills, result.cash) == ((), D(10_000))
    assert denials(result) == [("BALANCE", "21250 needed, limit 10000 USDT free of reservations")]


@given(
    cash=st.decimals(D(0), D(10_000), places=4),
    price=st.decimals(D("0.01"), D(5_000), places=2),
    rate=st.sampled_from([D(0), D("0.001"), D("0.0137")]),
    commission=st.sampled_from(["none", "0.005 each min 1", "2.25 each"]),
)
def test_one_step_more_would_cost_more_than_the_cash(
    cash: Decimal, price: Decimal, rate: Decimal, commission: str
) -> None:
    costs, step = CostModel(rate, "quote", commission=Commission.parse(commission)), BTC.lot_step
    bought = affordable_quantity(D(9000), cash, price, costs, BTC, most=None)
    if bought == 9000:
        bought = D(0) if costs.buy_cost(D(9000), price, BTC) > cash else bought
    assert costs.buy_cost(bought, price, BTC) <= cash or not bought
    assert bought == 9000 or costs.buy_cost(bought + step, price, BTC) > cash


# ── at the deciding close ────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("following", [90.0, 100.0, 110.0, 150.0])
def test_a_reversal_is_sized_by_the_equity_at_the_deciding_close(following: float) -> None:
    """50 % of 10,000 at 100 is 50, whatever the short before it loses at the next open."""
    setup = Setup(BTC, FREE, "equity_pct", D(50), can_short=True)
    bars = bars_of([100, 100, following, following], [100, 100, following, following])
    result = both(bars, setup, target=(-1.0, 1.0, 1.0, 1.0))
    assert [(fill.side.value, fill.quantity) for fill in result.fills] == [("sell", 50), ("buy", 50), ("buy", 50)]
    assert run_account([Member(Given(target=(-1.0, 1.0, 1.0, 1.0)), bars, setup)]).fills[-1].fill.quantity == 50


def test_members_are_sized_before_the_fills_of_the_others() -> None:
    """One member's position gains 1,000 at the open at which the other one enters."""
    bars = bars_of([100, 100, 120, 120], [100, 100, 120, 120])
    setup = Setup(BTC, FREE, "equity_pct", D(50), can_short=True)
    members = [Member(Given(target=target), bars, setup) for target in ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 1.0, 1.0))]
    done = run_account(members)
    assert [(row.number, row.fill.side.value, row.fill.quantity) for row in done.fills] == [
        (0, "buy", 50), (0, "sell", 50), (1, "buy", 50)
    ]  # fmt: skip


# ── on random tapes ──────────────────────────────────────────────────────────────────────────────
def random_run(seed: int, *, can_short: bool = False) -> tuple[Bars, Setup, dict[str, Any]]:
    """Return a tape with gaps, a setup of an account that pays for what it buys or may go short, and decisions."""
    random = np.random.default_rng(seed)
    count = int(random.integers(12, 50))
    path = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.03, 2 * count))), 2)
    closes = path[1::2]
    opens = np.where(random.random(count) < 0.5, np.concatenate([[100.0], closes[:-1]]), path[0::2])

    def one_of(*values: Any) -> Any:
        return values[int(random.integers(len(values)))]

    costs = CostModel(
        D(one_of("0", "0.001", "0.0137")),
        one_of("received", "quote"),
        one_of(None, D("-0.0002"), D("0.002")),
        Slippage.parse(one_of("none", "3 ticks", "5 bps", "0.1 range")),
        Commission.parse(one_of("none", "0.005 each", "2.25 each")),
    )
    sizing, size = one_of(
        ("equity_pct", 100), ("equity_pct", 60), ("equity_pct", 300), ("risk_pct", 5), ("notional", 9_990),
        ("quantity", 50), ("stdev_pct:3", 40),
    )  # fmt: skip
    setup = Setup(BTC, costs, sizing, D(size), can_short=can_short, collar_pct=one_of(None, D("0.5"), D(3)))
    most = one_of(1, 3)
    steps = np.where(random.random(count) < 0.4, random.choice([-3, -1, 1, 1], count), 0)
    target = []
    for step in steps.tolist():
        target.append(float(min(max((target[-1] if target else 0) + step, -most if can_short else 0), most)))
    decided: dict[str, Any] = {"target": tuple(target), "most": most}
    away = np.round(np.abs(random.normal(0, 0.05, (2, count))) + 0.01, 3)
    sides = np.where(np.array(target) < 0, -1, 1)
    decided["stop"] = tuple(np.round(closes * (1 - sides * away[0]), 2).tolist())
    if one_of(0, 1):
        decided["limit"] = tuple(np.round(closes * (1 + sides * away[1]), 2).tolist())
    if (kind := one_of("", "", "entry_limit", "entry_stop")) and most == 1:
        sign = 1 if kind == "entry_stop" else -1
        decided[kind] = tuple(np.round(closes * (1 + sign * 0.01 * random.random(count)), 2).tolist())
    return bars_of(opens.tolist(), closes.tolist()), setup, decided


@given(seed=st.integers(0, 2**32 - 1))
@example(seed=1)
def test_cash_never_falls_below_zero(seed: int) -> None:
    bars, setup, decided = random_run(seed)
    result = both(bars, setup, **decided)
    cash = setup.cash
    for fill in result.fills:
        cash -= fill.side.sign * fill.quantity * fill.price + (fill.fee if fill.fee_currency == "USDT" else 0)
        assert cash >= 0
    assert cash == result.cash


@given(seed=st.integers(0, 2**32 - 1), can_short=st.booleans())
@example(seed=4, can_short=True)  # these turn a position round
@example(seed=11, can_short=True)
def test_later_bars_change_no_quantity(seed: int, can_short: bool) -> None:
    """The next bar decides whether and where the newest entry fills, never how much is bought or sold."""
    bars, setup, decided = random_run(seed, can_short=can_short)
    whole = both(bars, setup, **decided)
    factor = 0.97 + 0.06 * np.random.default_rng(seed).random()
    for fill in [fill for fill in whole.fills if fill.role is Role.ENTRY][-3:]:
        at = int(np.searchsorted(bars.time_ns, fill.time_ns))
        opens, closes = (
            np.concatenate([column[:at], np.round(column[at:] * factor, 2)]).tolist()
            for column in (bars.open, bars.close)
        )
        other = both(bars_of(opens, closes), setup, **decided)
        before, after = ([row for row in one.fills if row.time_ns < fill.time_ns] for one in (whole, other))
        assert before == after
        entered = [row for row in other.fills if row.time_ns == fill.time_ns and row.role is Role.ENTRY]
        assert [row.quantity for row in entered] in ([], [fill.quantity])
