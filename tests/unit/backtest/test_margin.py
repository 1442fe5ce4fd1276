"""The margin of positions: who may enter, and at which price a position is closed by force, in both engines."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.backtest import Member, Result, Setup, run_account, setup_for
from fks.backtest.limits import UNLIMITED
from fks.backtest.report import document_of
from fks.matching import CostModel
from fks.matching.margin import Margin, liquidation_ticks
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.order import Role
from fks.model.timeframe import NS
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.strategies import START_NS

D = Decimal
SHARE = Instrument("x", "TAPE", "TAPE", "USD", D("0.01"), D(1), D(1), D(10**6), D(1))
ENGINES = ("compiled", "reference")


def by_hand(*rows: tuple[float, float, float, float], symbol: str = "TAPE") -> Bars:
    columns = np.array(rows, dtype=float).T
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 60 * NS
    return Bars(symbol, "1m", times, *columns, np.ones(len(rows)))


def on_margin(quantity: int, cash: int, margin: str | None, **changes: Any) -> Setup:
    """Return a setup without fees that buys or sells this many shares."""
    costs = CostModel(D(0), "quote")
    made = Setup(SHARE, costs, "quantity", D(quantity), D(cash), True, True, UNLIMITED, **changes)
    return made if margin is None else replace(made, margin=Margin.parse(margin))


def runs(strategy: Given, bars: Bars, setup: Setup) -> Result:
    """Return the run by one engine after comparing it with the other's, in both walks of the compiled engine."""
    found = [
        run(strategy.model_copy(update={"most": most}), bars, setup, engine=engine)
        for engine in ENGINES
        for most in (1, 2)
    ]
    for other in found[1:]:
        assert (other.fills, other.denied, other.unclear) == (found[0].fills, found[0].denied, found[0].unclear)
        assert np.array_equal(other.equity, found[0].equity)
    return found[0]


@pytest.mark.parametrize(
    ("text", "initial", "maintenance", "is_each"),
    [
        ("1", "1", "0", False),
        ("0.1", "0.1", "0", False),
        (" .5 / 0.3 ", "0.5", "0.3", False),
        ("22000 each", "22000", "0", True),
        ("22000/20000 EACH", "22000", "20000", True),
        ("100/100 each", "100", "100", True),
    ],
)
def test_a_text_names_a_margin(text: str, initial: str, maintenance: str, is_each: bool) -> None:
    margin = Margin.parse(text)
    assert margin == Margin(D(initial), D(maintenance), is_each)
    assert Margin.parse(str(margin)) == margin


@pytest.mark.parametrize(
    "text", ["", "0", "1.5", "0.1/0.1", "0.1/0.2", "10x", "-1", "0.1 0.2", "each", "5/6 each", "0.1234567", "nan"]
)
def test_what_is_no_margin_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Margin.parse(text)
    assert caught.value.code == "MARGIN_UNKNOWN"
    assert "0.1/0.05" in caught.value.remedy


@given(
    st.integers(-(10**6), 10**6).filter(bool),
    st.integers(-(10**10), 10**10),
    st.sampled_from(["1", "0.5/0.3", "0.02/0.01", "7/5.5 each", "300/300 each"]),
    st.integers(1, 25),
)
def test_the_price_is_the_first_at_which_the_equity_is_the_maintenance_margin(
    position: int, cash: int, text: str, tick: int
) -> None:
    """Position in thousandths, cash in places of its product with a price of two decimals."""
    margin = Margin.parse(text)
    _, kept = margin.terms(2)
    price = liquidation_ticks(position, cash, 1, *kept, tick)

    def is_short_of(ticks: int) -> bool:
        value = abs(position) * ticks
        needed = abs(position) * margin.maintenance * 100 if margin.is_each else value * margin.maintenance
        return cash + position * ticks <= needed

    assert price % tick == 0
    assert is_short_of(price)
    assert not is_short_of(price + (tick if position > 0 else -tick))


@pytest.mark.parametrize(
    ("side", "quantity", "cash", "margin", "entry", "price"),
    [
        # Bodie, Kane, Marcus, Investments, chapter 3: bought for 10,000 with 60 % of it, a margin call at 30 %: 57.14
        (1.0, 100, 6_000, "0.6/0.3", 100.0, "57.14"),
        # there too: 1,000 sold short for 100,000 with 50 % of it, a margin call at 30 %: 115.38, and a tick
        (-1.0, 1_000, 50_000, "0.5/0.3", 100.0, "115.39"),
        # Binance's formula for one position of USD-M futures, maintenance 0.5 %: (1,000 - 10,000) / (0.5 - 100) = 90.45
        (1.0, 100, 1_000, "0.1/0.005", 100.0, "90.45"),
        # two contracts at 22,000 each of 50,000: the equity is 2 x 20,000 after 5,000 a contract
        (1.0, 2, 50_000, "22000/20000 each", 20_000.0, "15000"),
    ],
)
def test_positions_are_closed_by_force_where_the_worked_examples_have_it(
    side: float, quantity: int, cash: int, margin: str, entry: float, price: str
) -> None:
    """Not a tick before: the first bar after the entry stops there, the next one goes on."""
    near, far = float(price) + side * 0.01, float(price) - side * 5.0
    rows = [(entry,) * 4] * 2
    rows += [(entry, max(entry, near), min(entry, near), near), (near, max(near, far), min(near, far), far)]
    result = runs(Given(target=(side,) * len(rows)), by_hand(*rows), on_margin(quantity, cash, margin))
    assert [(fill.role, fill.price) for fill in result.fills] == [(Role.ENTRY, entry), (Role.LIQUIDATION, D(price))]
    assert (result.fills[1].time_ns, result.fills[1].quantity) == (result.bars.time_ns[3], quantity)
    assert [trade.reason for trade in result.trades] == [Role.LIQUIDATION]
    assert result.liquidations == document_of(result)["liquidations"] == 1


def test_a_gap_fills_at_the_open_and_no_entry_follows_at_zero_equity() -> None:
    rows = [(100.0,) * 4] * 2 + [(250.0, 260.0, 240.0, 250.0), (250.0,) * 4, (100.0,) * 4, (100.0,) * 4]
    strategy = Given(target=(-1.0, -1.0, 0.0, 1.0, -1.0, 0.0))
    result = runs(strategy, by_hand(*rows), on_margin(100, 10_000, None))
    assert [(fill.role, fill.price) for fill in result.fills] == [(Role.ENTRY, 100), (Role.LIQUIDATION, 250)]
    assert result.cash == result.equity[-1] == -5_000
    assert [row.code for row in result.denied] == ["MARGIN", "MARGIN"]


def test_a_short_sale_needs_the_equity_that_a_purchase_needs() -> None:
    flat = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 4)
    for side in (1.0, -1.0):
        for quantity, codes in ((100, []), (101, ["MARGIN"])):
            result = runs(Given(target=(side, side, 0.0, 0.0)), flat, on_margin(quantity, 10_000, None))
            assert [row.code for row in result.denied] == codes
            assert len(result.fills) == (0 if codes else 2)
    (denied,) = runs(Given(target=(-1.0, 0.0, 0.0, 0.0)), flat, on_margin(201, 2_000, "0.1/0.05")).denied
    assert denied.detail == "2010 needed (margin 0.1/0.05), limit 2000 USD free as margin"


def test_a_futures_contract_needs_its_margin_on_both_sides() -> None:
    """100,000 USD pay for no contract of 400,000 in full, and for four at 22,000 each."""
    bars = by_hand(*[(20_000.0, 20_010.0, 19_990.0, 20_000.0)] * 4, symbol="NQ 03-26")
    for side in (1.0, -1.0):
        for margin, size, count in ((None, 1, 0), ("22000 each", 4, 2), ("22000 each", 5, 0), ("0.05", 5, 2)):
            setup = setup_for(
                bars, cash=100_000, sizing="quantity", size=size, can_short=True, fee_rate=0, margin=margin
            )
            result = runs(Given(target=(side, side, 0.0, 0.0)), bars, setup)
            assert len(result.fills) == count, (side, margin, size)
            assert [row.code for row in result.denied] == ([] if count else ["MARGIN"])


@pytest.mark.parametrize(
    ("row", "stop", "limit", "roles", "unclear"),
    [
        ((100.0, 100.0, 80.0, 85.0), 95.0, None, [Role.STOP_LOSS], 0),  # nearer than the liquidation at 90.91
        ((100.0, 100.0, 80.0, 85.0), 85.0, None, [Role.LIQUIDATION], 0),
        ((100.0, 120.0, 80.0, 85.0), None, 110.0, [Role.LIQUIDATION], 1),  # which of both came first is not known
        ((115.0, 120.0, 80.0, 85.0), None, 110.0, [Role.TAKE_PROFIT], 0),  # at the open
        ((85.0, 120.0, 80.0, 85.0), 88.0, 110.0, [Role.LIQUIDATION], 1),
    ],
)
def test_a_leg_that_a_bar_reaches_first_fills_first(
    row: tuple[float, float, float, float], stop: float | None, limit: float | None, roles: list[Role], unclear: int
) -> None:
    rows = [(100.0,) * 4, (100.0,) * 4, row, (85.0,) * 4]
    levels = {name: None if v is None else (v,) * 4 for name, v in (("stop", stop), ("limit", limit))}
    result = runs(Given(target=(1.0,) * 4, **levels), by_hand(*rows), on_margin(100, 1_000, "0.1/0.01"))
    assert [fill.role for fill in result.fills[1:]] == roles
    assert result.unclear == unclear


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_members_of_an_account_share_its_margin(side: float) -> None:
    """Also where the first one's sale brought in money."""
    bars = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 5)
    first, second = Given(target=(side, side, side, 0.0, 0.0)), Given(target=(0.0, -side, -side, 0.0, 0.0))
    setup = on_margin(60, 10_000, None)
    other = replace(setup, instrument=replace(SHARE, symbol="OTHER", base="OTHER"))
    others = Bars("OTHER", "1m", bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)
    account = run_account([Member(first, bars, setup), Member(second, others, other)], cash=10_000, check=False)
    assert [len(result.fills) for result in account.results] == [2, 0]
    (denied,) = account.results[1].denied
    assert denied.detail == "6000 needed (margin 1), limit 4000 USD free as margin"
    half = [replace(one, margin=Margin.parse("0.5")) for one in (setup, other)]
    account = run_account([Member(first, bars, half[0]), Member(second, others, half[1])], cash=10_000, check=False)
    assert [len(result.fills) for result in account.results] == [2, 2]


def test_a_margin_is_part_of_the_fingerprint_where_it_can_matter() -> None:
    bars = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 3)
    strategy = Given(target=(1.0, 0.0, 0.0))
    hashes = [run(strategy, bars, on_margin(1, 10_000, margin)).inputs_hash for margin in (None, "1", "0.5", "0.5/0.1")]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
