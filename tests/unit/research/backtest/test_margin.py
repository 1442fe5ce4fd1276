"""The margin of positions: who may enter, and at which price a position is closed by force, in both engines."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.margin import Margin, liquidation_ticks
from fks.model.order import Role
from fks.model.timeframe import NS
from fks.research.backtest import Member, Result, Setup, run_account, setup_for
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.metrics import metrics_of
from fks.research.backtest.report import document_of
from fks.research.jobs.backtest import LoadedBars, parse_spec, setup_of
from fks.trading.matching import CostModel
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.strategies import START_NS

D = Decimal
SHARE = Instrument("x", "TAPE", "TAPE", "USD", D("0.01"), D(1), D(1), D(10**6), D(1))
ENGINES = ("compiled", "reference")
BRACKETS = "0.1/0.02; above 1000 0.1/0.025 less 5; above 2000 0.1/0.03; above 3000 0.1/0.035"


def by_hand(*rows: tuple[float, float, float, float], symbol: str = "TAPE") -> Bars:
    columns = np.array(rows, dtype=float).T
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 60 * NS
    return Bars(symbol, "1m", times, *columns, np.ones(len(rows)))


def on_margin(quantity: int, cash: Decimal | int, margin: str | None, **changes: Any) -> Setup:
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
    ("text", "canonical"),
    [
        ("Reg-T", "0.5/0.25; short 0.3"),
        ("reg-t; fee .010", "0.5/0.25; short 0.3; fee 0.01"),
        (f"# of a table\n{BRACKETS}\nfee 0.0125", f"{BRACKETS.replace(' less 5', '')}; fee 0.0125"),
        ("1000/900 each;Overnight 15 m 22000/20000 each", "1000/900 each; overnight 15m 22000/20000 each"),
    ],
)
def test_a_text_names_brackets_other_margins_and_a_fee(text: str, canonical: str) -> None:
    """One text is one margin, whether it comes from a command, a request, a job or Python."""
    margin = Margin.parse(text)
    assert str(margin) == str(Margin.parse(canonical)) == canonical
    assert margin == Margin.parse(canonical)
    spec = parse_spec({"strategy": "sma_cross", "symbol": "TAPE", "margin": text})
    assert spec.margin == canonical
    made = setup_of(spec, LoadedBars(by_hand((100.0,) * 4), SHARE, ""), None)
    assert made.margin == setup_for(by_hand((100.0,) * 4), margin=text).margin == margin


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "1.5", "0.1/0.1", "0.1/0.2", "10x", "-1", "0.1 0.2", "each", "5/6 each", "0.1234567", "nan"),
        "fee 0.1",
        "0.1; fee 1",
        "0.1; fee 0.01; fee 0.01",
        "0.1; short 0.1",
        "9 each; short 0.1",
        "0.1; overnight 0m 0.5",
        "0.1; overnight 9m 0.5; overnight 8m 0.5",
        "0.1/0.01; above 50 0.1/0.01",  # the same maintenance margin
        "0.1/0.01; above 50 0.05/0.02",
        "0.1/0.01; above 50 0.2/0.05; above 40 0.3/0.1",
        "0.1/0.01; above 50 0.2/0.05 less 1",  # 2
        "reg-t; above 50 0.6/0.5",
        "9 each; above 50 0.6/0.5",
        pytest.param("9" * 30, id="digits"),
        *(pytest.param(f"0.1; {part} {'9' * 30}", id=part) for part in ("fee", "short", "overnight 9m")),
        pytest.param(f"0.1/0.01; above {'9' * 30} 0.2/0.05", id="above"),
        pytest.param(f"1{' ' * 300_000}x", id="spaces"),  # read once, and not once for each of them
    ],
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
    (row,) = margin.terms(2, 5)
    price = liquidation_ticks(position, cash * row.over + row.less, 1, row.long, row.over, row.kept, tick)

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
        # a documented perpetual contract, bybit.com/en/help-center/article/Maintenance-Margin-USDT-Contract: 100
        # contracts at 35 keep 1,000 at 2 %, at 2.5 % and at 3 % and 500 at 3.5 %, which is 92.50: bought at 40 with 592.50
        (1.0, 100, D("592.50"), BRACKETS, 40.0, "35"),
        (1.0, 100, D("592.51"), BRACKETS, 40.0, "34.99"),
        # the brackets and the formula of Binance's BTCUSDT in 2021, quantity in hundredths of a price in hundreds: a
        # position of 300,000 with 10,000: (10,000 + 1,300 - 300,000) / (500 x 0.01 - 500) = 583.23
        (
            1.0,
            500,
            10_000,
            "0.008/0.004; above 50000 0.01/0.005 less 50; above 250000 0.02/0.01 less 1300",
            600.0,
            "583.23",
        ),
        # Regulation T: the same short sale; and sec.gov/about/reports-publications/investorpubsmargin: 16,000 bought
        # with 8,000, of 160 shares; 25 % are left at 10,666.67
        (-1.0, 1_000, 50_000, "reg-t", 100.0, "115.39"),
        (1.0, 160, 8_000, "reg-t", 100.0, "66.66"),
        # two contracts at 22,000 each of 50,000: the equity is 2 x 20,000 after 5,000 a contract
        (1.0, 2, 50_000, "22000/20000 each", 20_000.0, "15000"),
    ],
)
def test_positions_are_closed_by_force_where_the_worked_examples_have_it(
    side: float, quantity: int, cash: Decimal | int, margin: str, entry: float, price: str
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


def test_an_entry_needs_the_margin_of_the_bracket_of_the_whole_position() -> None:
    """Half of 10,000 is needed up to there, and all of more."""
    flat = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 4)
    for quantity, cash, codes in (
        (100, 5_000, []),
        (100, 4_999, ["MARGIN"]),
        (101, 10_099, ["MARGIN"]),
        (101, 10_100, []),
    ):
        setup = on_margin(quantity, cash, "0.5; above 10000 1/0.1")
        result = runs(Given(target=(1.0, 1.0, 0.0, 0.0)), flat, setup)
        assert [row.code for row in result.denied] == codes
    # 60 and 50 more are above it: 11,000 are needed, and 3,000 of them for the first
    grows, setup = Given(target=(1.0, 2.0, 2.0, 0.0), most=2), on_margin(60, 10_999, "0.5; above 10000 1/0.1")
    for engine in ENGINES:
        (denied,) = run(grows, flat, setup, engine=engine).denied
        assert denied.detail == "9000 needed (margin 0.5; above 10000 1/0.1), limit 7999 USD free as margin"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_entry_to_just_above_a_floor_has_more_equity_than_64_bits_hold(engine: Any) -> None:
    """Equity of 94,000 at 1e-8, times the denominator of a rate with six decimals."""
    setup = on_margin(750, 94_000, "0.013334/0.006667; above 149999 0.020001/0.010001")
    bars = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 5)
    result = run(Given(target=(1.0, 1.0, 2.0, 2.0, 2.0), most=2), bars, setup, engine=engine)
    assert (len(result.fills), result.denied_count, result.engine.name) == (2, {}, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_highest_bracket_is_read_in_the_smallest_units(engine: Any) -> None:
    item = replace(SHARE, tick=D("1e-8"), lot_step=D("1e-8"), qty_min=D("1e-8"))
    setup = replace(on_margin(1, 10_000, "0.5/0.25; above 1000000000000 0.6/0.5"), instrument=item)
    result = run(Given(target=(1.0, 0.0, 0.0)), by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 3), setup, engine=engine)
    assert len(result.fills) == 2


def test_a_fee_of_what_is_closed_by_force_is_paid_and_counted() -> None:
    """5,714 by the first of the examples above, 1.25 % of them."""
    rows = [(100.0,) * 4] * 2 + [(100.0, 100.0, 57.0, 57.0)] * 2
    result = runs(Given(target=(1.0,) * 4), by_hand(*rows), on_margin(100, 6_000, "0.6/0.3; fee 0.0125"))
    assert (result.fills[1].fee, result.fills[1].fee_currency) == (D("71.425"), "USD")
    assert result.cash == 6_000 - 10_000 + 5_714 - D("71.425")
    assert result.liquidation_fees == D(document_of(result)["liquidation_fees"]) == D("71.425")
    assert metrics_of(result).fees == 71.425
    assert result.trades[0].pnl == 5_714 - 10_000 - D("71.425")


def new_york(*times: str) -> np.ndarray[Any, Any]:
    zone = ZoneInfo("America/New_York")
    return np.array([int(datetime.fromisoformat(one).replace(tzinfo=zone).timestamp()) * NS for one in times])


def nasdaq(count: int, first: str) -> Bars:
    """Return flat bars of 15 minutes of the hours of CME, over one end of a session at 17:00."""
    made, times = new_york(first)[0] + np.arange(count) * 900 * NS, new_york("2026-03-03T17:00", "2026-03-03T18:00")
    made += np.where(made >= times[0], times[1] - times[0], 0)
    bars = by_hand(*[(20_000.0,) * 4] * count, symbol="NQ 03-26")
    return replace(bars, timeframe="15m", time_ns=made, calendar="CMES")


def test_the_overnight_margin_counts_from_before_the_end_of_a_session_until_the_next() -> None:
    """15:45, 16:00, 16:15, 16:30, 16:45, 18:00, 18:15: one of two contracts is open at 16:45, by each engine."""
    bars = nasdaq(8, "2026-03-03T15:45")
    for cash, roles, at in ((40_001, [Role.ENTRY], None), (40_000, [Role.ENTRY, Role.LIQUIDATION], 4)):
        setup = setup_for(
            bars,
            cash=cash,
            sizing="quantity",
            size=2,
            fee_rate=0,
            can_short=True,
            margin="1000/900 each; overnight 15m 22000/20000 each",
        )
        for side in (1.0, -1.0):
            result = runs(Given(target=(side,) * 8), bars, setup)
            assert [fill.role for fill in result.fills] == roles
            assert at is None or (result.fills[1].time_ns, result.fills[1].price) == (bars.time_ns[at], 20_000)
    setup = replace(setup, cash=D(43_999))
    for start, codes in ((2, []), (3, ["MARGIN"]), (4, [])):  # filled at 16:30, 16:45 and 18:00
        target = tuple(float(start <= at <= start + (start == 3)) for at in range(8))
        for result in (
            runs(Given(target=target), bars, setup),
            run_account([Member(Given(target=target), bars, setup)], cash=43_999, check=False).results[0],
        ):
            assert [row.code for row in result.denied] == codes
            assert len(result.fills) == (0 if codes else 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"calendar": "24/7"},
        {"timeframe": "1h", "time_ns": new_york("2026-03-03T15:00", "2026-03-03T16:00", "2026-03-03T18:00")},
    ],
)
def test_bars_that_do_not_show_when_the_overnight_margin_begins_are_refused(changes: dict[str, Any]) -> None:
    bars = replace(nasdaq(3, "2026-03-03T15:45"), **changes)
    setup = setup_for(bars, cash=10**6, allow_gaps=True, margin="1000 each; overnight 15m 22000 each")
    for engine in ENGINES:
        with pytest.raises(InputError, match="begins, 15 minutes before") as caught:
            run(Given(target=(1.0, 0.0, 0.0)), bars, setup, engine=engine)
        assert caught.value.code == "MARGIN_SESSIONS"


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


@pytest.mark.parametrize(
    ("order", "row", "cash", "forced", "unclear"),
    [
        # a stop at 110 of a bar that opens at 100; the equity is 0 at 105, beyond which only the open surely lies
        ({"entry_stop": 110.0}, (100.0, 112.0, 100.0, 111.0), 50, None, 0),
        ({"entry_stop": 110.0}, (100.0, 112.0, 100.0, 105.0), 50, 105.0, 1),
        ({"entry_stop": 110.0}, (100.0, 112.0, 100.0, 104.0), 50, 104.0, 1),
        ({"entry_stop": 110.0}, (106.0, 112.0, 104.0, 111.0), 50, 105.0, 0),
        # a limit at 99 that fills inside the bar; the fee leaves less than the margin there
        ({"entry_limit": 99.0}, (100.0, 100.0, 98.0, 99.0), 99, 99.0, 0),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_forced_close_in_its_entrys_bar_meets_the_entrys_price(
    order: dict[str, float],
    row: tuple[float, float, float, float],
    cash: int,
    forced: float | None,
    unclear: int,
    side: float,
    engine: Any,
) -> None:
    def mirrored(price: float) -> float:
        return price if side > 0 else 200.0 - price

    open_, high, low, close = (mirrored(price) for price in row)
    bars = by_hand((100.0,) * 4, (open_, max(high, low), min(high, low), close), (close,) * 4)
    columns = {name: (mirrored(price),) * 3 for name, price in order.items()}
    setup = on_margin(10, cash, "0.04") if "entry_stop" in order else on_margin(10, cash, "0.098/0.097")
    setup = replace(setup, costs=CostModel(D(0) if "entry_stop" in order else D("0.004"), "quote"))
    result = run(Given(target=(side,) * 3, **columns), bars, setup, engine=engine)
    wanted = [] if forced is None else [(Role.LIQUIDATION, D(str(mirrored(forced))))]
    assert [(fill.role, fill.price) for fill in result.fills[1:]] == wanted
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


def with_symbol(setup: Setup, symbol: str) -> Setup:
    return replace(setup, instrument=replace(SHARE, symbol=symbol, base=symbol))


def test_positions_of_several_members_are_closed_by_force_one_by_one() -> None:
    """By hand: 1,000 USD hold 100 at 50 and 100 at 40, 10 % margin, 5 % kept: 95 × (50 + 40) is 8,000 at 84.21.

    In the bar in which they fall to 46 and 36 neither reaches its price, 44.21 and 34.21 with the other as before it.
    The next bar begins with 82, so the first listed is closed at its open, 46. That leaves -3,400 + 100 × 36 for the
    second, enough down to 35.78. Were it listed first it would be closed at 36, and -4,400 + 100 × 46 would not keep
    the other one.
    """
    first = by_hand(*[(50.0,) * 4] * 2, (50.0, 50.0, 46.0, 46.0), *[(46.0,) * 4] * 3)
    rows = (*[(40.0,) * 4] * 2, (40.0, 40.0, 36.0, 36.0), (36.0,) * 4, (36.0, 36.0, 35.79, 36.0))
    second = by_hand(*rows, (36.0, 36.0, 35.5, 36.0), symbol="OTHER")
    setup, strategy = on_margin(100, 1_000, "0.1/0.05"), Given(target=(1.0,) * 6)
    members = [Member(strategy, first, setup), Member(strategy, second, with_symbol(setup, "OTHER"))]
    for order, expected in (
        (members, [("TAPE", 3, D(46)), ("OTHER", 5, D("35.78"))]),
        (members[::-1], [("OTHER", 3, D(36)), ("TAPE", 3, D(46))]),
    ):
        account = run_account(order, cash=1_000, check=False)
        forced = [row for row in account.fills if row.fill.role is Role.LIQUIDATION]
        places = [(row.symbol, (row.fill.time_ns - START_NS) // (60 * NS), row.fill.price) for row in forced]
        assert places == expected


MARGINS = (None, "1", "0.5", "0.5/0.1", "0.5/0.1; fee 0.01", "0.5/0.1; short 0.2", "0.5/0.1; above 9 1/0.2")


def test_a_margin_is_part_of_the_fingerprint_where_it_can_matter() -> None:
    bars = by_hand(*[(100.0, 101.0, 99.0, 100.0)] * 3)
    strategy = Given(target=(1.0, 0.0, 0.0))
    hashes = [run(strategy, bars, on_margin(1, 10_000, margin)).inputs_hash for margin in MARGINS]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == len(hashes) - 1
