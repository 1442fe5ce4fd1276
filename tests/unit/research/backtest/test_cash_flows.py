"""Dividends, funding and delistings in a backtest: worked examples to the cent, and the rules of docs/backtest.md."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.market.bars.splits import SplitDay, adjusted
from fks.model.bar import Bars
from fks.model.cash_flows import Dividend, FundingRate, InstrumentEvents, is_perpetual
from fks.model.errors import InputError
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.timeframe import NS
from fks.research.backtest import Backtest, Member, Setup
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.report import document_of
from fks.trading.matching import Borrow, CostModel
from tests.support.backtests import run, run_account
from tests.support.given import Given

D = Decimal
ENGINES = ("compiled", "reference")
HOUR = 3600 * NS
XYZ = Instrument("nyse", "XYZ", "XYZ", "USD", D("0.01"), D(1), D(1), D(10**6), D(1))
PERP = Instrument("binanceusdm", "BTCUSDT", "BTC", "USDT", D("0.1"), D("0.001"), D("0.001"), D(1000), D(5))


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def days_from(first: str, closes: list[float], symbol: str = "XYZ") -> Bars:
    """Return bars of business days; each opens at the close of the day before."""
    day, times = date.fromisoformat(first), list[int]()
    while len(times) < len(closes):
        if day.weekday() < 5:
            times.append(at(day.isoformat()))
        day += timedelta(days=1)
    close = np.array(closes)
    open_ = np.array([closes[0], *closes[:-1]])
    columns = (open_, np.maximum(open_, close), np.minimum(open_, close), close, np.ones(len(closes)))
    return Bars(symbol, "1d", np.array(times, dtype=np.int64), *columns, exchange="nyse")


def hours_from(first: str, closes: list[float]) -> Bars:
    times = at(first) + np.arange(len(closes), dtype=np.int64) * HOUR
    close = np.array(closes)
    open_ = np.array([closes[0], *closes[:-1]])
    columns = (open_, np.maximum(open_, close), np.minimum(open_, close), close, np.ones(len(closes)))
    return Bars("BTCUSDT", "1h", times, *columns, exchange="binanceusdm")


def free(item: Instrument, quantity: int | str, events: InstrumentEvents, **changes: Any) -> Setup:
    costs = CostModel(D(0), "quote")
    made = Setup(item, costs, "quantity", D(quantity), D(10**6), True, True, UNLIMITED, events=events)
    return replace(made, **changes)


def held(bars: Bars, first: int, last: int, side: float = 1.0) -> Given:
    """Return decisions that are filled at the open of bar `first`, and closed at that of bar `last`."""
    return Given(target=tuple(side * (first - 1 <= index < last - 1) for index in range(len(bars))))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shares", "bought", "sold", "side", "paid"),
    [
        (1000, 2, 99, 1.0, "2000"),  # held since 2 February
        (500, 3, 99, 1.0, "1000"),  # bought on 5 February
        (2000, 6, 7, 1.0, "4000"),  # bought on 8 February and sold on the ex-day
        (1000, 7, 99, 1.0, "0"),  # bought on the ex-day
        (1000, 6, 99, -1.0, "-2000"),  # sold short before the ex-day
        (1000, 2, 6, 1.0, "0"),  # sold on the day before the ex-day
    ],
)
def test_the_ex_day_decides_who_gets_a_dividend(
    engine: Any, shares: int, bought: int, sold: int, side: float, paid: str
) -> None:
    """2.00 a share, announced on 2 February with the ex-day 9 February (2018). Source: futurefinanciers.com, "Dividend
    Dates - Some examples", read 2026-11; the one about a short sale is Investopedia's rule, read 2026-11."""
    bars = days_from("2018-01-31", [50.0] * 7 + [48.0] * 4)
    events = InstrumentEvents((Dividend(date(2018, 2, 9), D(2), "USD", date(2018, 2, 14)),))
    result = run(held(bars, bought, sold, side), bars, free(XYZ, shares, events), engine=engine)
    assert (result.engine.name, result.dividends, result.funding) == (engine, D(paid), 0)
    worth = D(48) if sold == 99 else D(50)  # at the last close, or at the open of the day on which it was closed
    assert result.cash + result.position * 48 == 10**6 + int(side) * shares * (worth - 50) + D(paid)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dividend_is_of_a_share_of_its_ex_day(engine: Any) -> None:
    """Apple paid 0.82 on 2020-08-07 (ex-day) and split 4 for 1 on 2020-08-31. Source: Apple's dividend history, in
    which 0.82 is 0.205 of the new shares."""
    raw = days_from("2020-08-03", [440.0] * 20 + [110.0] * 5)
    bars = adjusted(raw, [SplitDay(date(2020, 8, 31), 4)])
    events = InstrumentEvents((Dividend(date(2020, 8, 7), D("0.82")),))
    item = replace(XYZ, tick=D("0.001"))
    result = run(held(bars, 1, 99), bars, free(item, 400, events), engine=engine)  # 100 shares of before
    (flow,) = result.cash_flows
    assert (flow.quantity, flow.rate, flow.amount) == (400, D("0.82"), 82)
    thirds = adjusted(raw, [SplitDay(date(2020, 8, 31), 3)])
    result = run(held(thirds, 1, 99), thirds, free(item, 100, events), engine=engine)
    assert result.dividends == D("27.33333333")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("side", "paid"), [(1.0, ["1285.78298249", "-3.42875462"]), (-1.0, ["-1285.78298249", "3.42875462"])]
)
def test_funding_is_paid_on_the_mark_price(engine: Any, side: float, paid: list[str]) -> None:
    """The rates and mark prices of Binance's documentation (USDⓈ-M, Get Funding Rate History, read 2026-11) on a
    position of 1 BTC: its value at the mark price times the rate, which a long position pays where it is positive."""
    bars = hours_from("2019-10-09T12:00", [30_000.0] * 16)
    mark = D("34287.54619963")
    rates = (
        FundingRate(at("2019-10-10T00:00"), D("0.00010000"), mark),
        FundingRate(at("2019-10-09T16:00"), D("-0.03750000"), mark),
    )
    result = run(held(bars, 1, 99, side), bars, free(PERP, 1, InstrumentEvents(funding=rates)), engine=engine)
    assert [row.amount for row in result.cash_flows] == [D(text) for text in paid]
    assert result.cash + result.position * 30_000 == 10**6 + sum(map(D, paid))
    assert [row.time_ns for row in result.cash_flows] == [at("2019-10-09T16:00"), at("2019-10-10T00:00")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("bought", "sold", "paid"),
    [
        (1, 99, "-20.2"),  # the close of 15:00 is 20,200
        (4, 99, "0"),  # bought at the open of 16:00, the funding time
        (3, 4, "-20.2"),  # sold at the open of 16:00
        (3, 99, "-20.2"),
    ],
)
def test_funding_without_a_mark_price_takes_the_close_before(engine: Any, bought: int, sold: int, paid: str) -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0, 20_050.0, 20_100.0, 20_200.0, 20_400.0, 20_400.0])
    events = InstrumentEvents(funding=(FundingRate(at("2019-10-09T16:00"), D("0.001")),))
    result = run(held(bars, bought, sold), bars, free(PERP, 1, events), engine=engine)
    assert result.funding == D(paid)


@pytest.mark.parametrize("engine", ENGINES)
def test_funding_inside_a_bar_is_paid_at_its_end(engine: Any) -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0] * 6)
    inside = InstrumentEvents(funding=(FundingRate(at("2019-10-09T14:30"), D("0.001")),))
    paid = [run(held(bars, 2, sold), bars, free(PERP, 1, inside), engine=engine).funding for sold in (99, 3)]
    assert paid == [-20, -20]
    stopped = Given(target=(0.0, *(1.0,) * 5), stop=(19_000.0,) * 6)
    falling = replace(bars, low=np.array([20_000.0, 20_000.0, 18_000.0, *(20_000.0,) * 3]))
    assert run(stopped, falling, free(PERP, 1, inside), engine=engine).funding == 0, "its stop ended it inside the bar"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cash_flow_is_part_of_the_trades_profit_and_of_the_equity(engine: Any) -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0] * 8)
    events = InstrumentEvents(funding=(FundingRate(at("2019-10-09T15:00"), D("0.001"), D(21_000)),))
    result = run(held(bars, 1, 6), bars, free(PERP, 2, events), engine=engine)
    assert [trade.pnl for trade in result.trades] == [-42]
    assert result.equity.tolist() == [1e6] * 3 + [1e6 - 42] * 5
    document = document_of(result)
    assert (document["funding"], document["dividends"], document["cash_flows_count"]) == ("-42", "0", 1)
    assert document["trades"][0]["pnl"] == "-42"
    assert document["statistics"]["net_profit"] == -42


@pytest.mark.parametrize("engine", ENGINES)
def test_funding_can_take_the_margin_of_a_position(engine: Any) -> None:
    """1 BTC on 0.1 margin with 2,100 of cash and a maintenance margin of 0.099: 200 of funding leave 1,900, so that the
    bar of the funding closes it at its open."""
    bars = hours_from("2019-10-09T12:00", [20_000.0] * 6)
    events = InstrumentEvents(funding=(FundingRate(at("2019-10-09T15:00"), D("0.01"), D(20_000)),))
    setup = free(PERP, 1, events, cash=D(2100), margin=Margin.parse("0.1/0.099"))
    result = run(held(bars, 1, 99), bars, setup, engine=engine)
    assert [(fill.role.value, fill.time_ns) for fill in result.fills] == [
        ("entry", at("2019-10-09T13:00")),
        ("liquidation", at("2019-10-09T15:00")),
    ]
    assert result.cash == 1900


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_delisting_closes_at_the_last_close_and_ends_the_run(engine: Any, side: float) -> None:
    bars = days_from("2018-01-31", [50.0, 50.0, 50.0, 45.0, 44.0, 3.0, 2.0])
    for day in (date(2018, 2, 6), date(2018, 2, 12)):  # within the bars, and after them
        setup = free(XYZ, 10, InstrumentEvents(delisted=day))
        strategy = held(bars, 1, 99, side)
        length = 4 if day.day == 6 else 7
        if length == 4:
            strategy = Given(target=strategy.target[:length])
        result = run(strategy, bars, setup, engine=engine)
        assert len(result.bars) == length
        last = result.bars.close[-1]
        assert [(fill.price, fill.role.value) for fill in result.fills] == [(50, "entry"), (D(last), "exit")]
        assert result.position == 0
        assert result.cash == 10**6 + int(side) * 10 * (D(last) - 50) == D(result.equity[-1])
        assert document_of(result)["delisted"] == str(day)
    later = free(XYZ, 10, InstrumentEvents(delisted=date(2018, 3, 1)))
    result = run(held(bars, 1, 99, side), bars, later, engine=engine)
    assert (len(result.fills), result.position) == (1, 10 * int(side)), "the run ends before it"


def hashes(result: Backtest) -> tuple[str, str]:
    return result.inputs_hash, result.fills_hash


def test_only_events_of_the_run_are_part_of_its_fingerprint() -> None:
    bars = days_from("2018-01-31", [50.0] * 8)
    strategy = held(bars, 1, 99)
    plain = run(strategy, bars, free(XYZ, 10, InstrumentEvents()))
    for outside in (date(2018, 1, 31), date(2018, 2, 1), date(2018, 2, 12)):
        result = run(strategy, bars, free(XYZ, 10, InstrumentEvents((Dividend(outside, D(1)),))))
        assert hashes(result) == hashes(plain), outside
        assert "cash_flows" not in document_of(result)
    inside = [run(strategy, bars, free(XYZ, 10, InstrumentEvents((Dividend(date(2018, 2, 6), D(n)),)))) for n in (1, 2)]
    assert len({plain.inputs_hash, *(result.inputs_hash for result in inside)}) == 3


def test_a_dividend_in_another_currency_is_refused() -> None:
    bars = days_from("2018-01-31", [50.0] * 8)
    events = InstrumentEvents((Dividend(date(2018, 2, 6), D(1), "CHF"),))
    with pytest.raises(InputError, match="is in CHF, its prices are in USD") as raised:
        run(held(bars, 1, 99), bars, free(XYZ, 10, events))
    assert raised.value.code == "EVENT_CURRENCY"


@pytest.mark.parametrize(
    ("hours", "known", "missing"),
    [
        (48, [], "2019-10-09T13:00:00Z to 2019-10-11T11:00:00Z"),
        (4, [], "2019-10-09T13:00:00Z to 2019-10-09T15:00:00Z"),
        (48, ["2019-10-09T16:00", "2019-10-10T00:00"], "2019-10-10T00:00:00Z to 2019-10-11T11:00:00Z"),
        (48, ["2019-10-09T16:00", "2019-10-10T16:00"], None),
        (4, ["2019-10-09T08:00"], None),  # none is due
    ],
)
def test_a_perpetual_without_funding_is_refused(hours: int, known: list[str], missing: str | None) -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0] * hours)
    events = InstrumentEvents(funding=tuple(FundingRate(at(text), D("0.0001")) for text in known))
    if missing is None:
        run(held(bars, 1, 99), bars, free(PERP, 1, events))
        return
    for go in (run, lambda s, b, made: run_account([Member(s, b, made)])):
        with pytest.raises(InputError) as raised:
            go(held(bars, 1, 99), bars, free(PERP, 1, events))
        assert (raised.value.code, missing in raised.value.message) == ("FUNDING_MISSING", True), raised.value
        assert "--funding none" in raised.value.remedy
    run(held(bars, 1, 99), bars, free(PERP, 1, InstrumentEvents(is_funding_left_out=True)))


@pytest.mark.parametrize(
    ("exchange", "symbol", "expected"),
    [
        ("binance", "BTCUSDT", False),
        ("binanceusdm", "BTCUSDT", True),
        ("binanceusdm", "BTCUSDT_260327", False),
        ("binancecoinm", "BTCUSD_PERP", True),
        ("bybitlinear", "BTC-27MAR26", False),
        ("okx", "BTC-USDT-SWAP", True),
        ("nyse", "SWAPS", False),
    ],
)
def test_a_name_says_whether_it_is_a_perpetual(exchange: str, symbol: str, expected: bool) -> None:
    assert is_perpetual(exchange, symbol) is expected


def test_a_rate_beyond_64_bits_runs_on_the_reference() -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0] * 6)
    rate = FundingRate(at("2019-10-09T15:00"), D("0.000123456789012345678901"), D("20000.123456789"))
    result = run(held(bars, 1, 99), bars, free(PERP, 1, InstrumentEvents(funding=(rate,))), engine="compiled")
    assert result.engine.name == "reference"
    assert "a cash flow may not fit 64 bits" in result.engine.reason
    assert result.funding == D("-2.46915102")


def test_members_of_an_account_share_what_one_is_paid() -> None:
    """A dividend of 100 on one share pays for the entry of the other, which is denied without it."""
    paying = days_from("2018-01-31", [50.0] * 8)
    other = replace(paying, symbol="ABC")
    dividend = InstrumentEvents((Dividend(date(2018, 2, 6), D(10)),))
    found = []
    for events in (dividend, InstrumentEvents()):
        members = [
            Member(held(paying, 1, 99), paying, free(XYZ, 10, events, can_short=False)),
            Member(
                held(other, 5, 99),
                other,
                free(replace(XYZ, symbol="ABC", base="ABC"), 1, InstrumentEvents(), can_short=False),
            ),
        ]
        found.append(run_account(members, cash=520))
    paid, unpaid = found
    assert [len(one.fills) for one in found] == [2, 1]
    assert unpaid.denied_count == {"BALANCE": 1}
    assert (paid.cash, unpaid.cash) == (70, 20)
    assert float(paid.equity[-1]) == 620.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("close", "shares", "rate", "side", "cost"),
    [
        (14.0, 1000, "0.06", -1.0, ["2.33", "2.33", "2.33", "7.00"]),  # Webull: 840 a year, 2.33 a day
        (12.0, 10_000, "0.05", -1.0, ["16.67", "16.67", "16.67", "50.00"]),  # Ally: 6,000 a year, 16.67 a day
        (14.0, 1000, "0.06", 1.0, []),
    ],
)
def test_a_short_position_pays_borrow_for_each_night(
    engine: Any, close: float, shares: int, rate: str, side: float, cost: list[str]
) -> None:
    """Source: "How hard to borrow fees are calculated?", Webull help, and "How are hard-to-borrow fees calculated?",
    Ally, read 2026-11: the value times the yearly rate over 360 days, of each day. Their value is that of a price of
    13.00 or 11.00 which brokers raise by 2 % and round up to a dollar; of a Friday there are three nights."""
    bars = days_from("2018-02-05", [close] * 8)  # held from Tuesday's open to the next Monday's
    setup = free(XYZ, shares, InstrumentEvents(), borrow=Borrow.parse(rate))
    result = run(held(bars, 1, 5, side), bars, setup, engine=engine)
    assert (result.engine.name, [str(round(-row.amount, 2)) for row in result.cash_flows]) == (engine, cost)
    assert result.borrow == sum((-row.amount for row in result.cash_flows), D(0)) == 10**6 - result.cash
    assert [trade.pnl for trade in result.trades] == [-result.borrow]
    assert {row.time_ns for row in result.cash_flows} <= set(bars.time_ns[2:6].tolist())


@pytest.mark.parametrize("engine", ENGINES)
def test_cash_below_zero_pays_interest_for_each_night(engine: Any) -> None:
    """30,000 borrowed at 6 % for 10 days are 50.00. Source: Investopedia, "How is margin interest calculated?", read
    2026-11. Here each day's charge is borrowed as well, so that it is four cents more in the end."""
    bars = days_from("2018-02-05", [60.0] * 10)
    setup = free(
        XYZ, 1000, InstrumentEvents(), cash=D(30_000), margin=Margin.parse("0.5"), borrow=Borrow.parse("0/0.06")
    )
    result = run(held(bars, 1, 99), bars, setup, engine=engine)
    rows = [(row.kind, str(round(-row.amount, 2))) for row in result.cash_flows]
    assert [kind for kind, _ in rows] == ["interest"] * 8
    assert [text for _, text in rows] == ["5.00", "5.00", "5.00", "15.01", "5.01", "5.01", "5.01", "5.01"]
    assert round(result.interest, 2) == D("50.04")
    document = document_of(result)
    assert (document["borrow"], document["interest_cost"], "borrow_cost" in document) == (
        "0/0.06",
        str(result.interest),
        False,
    )
    plain = run(held(bars, 1, 99), bars, replace(setup, borrow=Borrow()), engine=engine)
    assert plain.inputs_hash != result.inputs_hash
    assert plain.cash - result.interest == result.cash


def test_a_contract_is_not_borrowed() -> None:
    bars = hours_from("2019-10-09T12:00", [20_000.0] * 6)
    with pytest.raises(InputError, match="BTCUSDT is a contract") as caught:
        run(held(bars, 1, 3), bars, free(PERP, 1, InstrumentEvents(), borrow=Borrow.parse("0.03")))
    assert caught.value.code == "BORROW_CONTRACT"


@pytest.mark.parametrize(
    "text", ["x", "-0.01", "0.03/", "0.03/x", "11", "0.000000001", "3 %", "9" * 40, "0/" + "9" * 40]
)
def test_a_text_that_is_no_borrow_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Borrow.parse(text)
    assert caught.value.code == "BORROW_UNKNOWN"
    assert str(Borrow.parse(" 0.030 / 0.05830 ")) == "0.03/0.0583"


def test_members_pay_the_interest_on_the_cash_that_they_spent() -> None:
    """Two members spend 900 and 600 of 1,000, one sells short for 300 and pays 0.30 of borrow a night: the proceeds of
    that stay with the lender, so that 500.30 are below 0, of which the two pay 3 and 2 parts."""
    closes = {"AAA": 90.0, "BBB": 60.0, "CCC": 30.0}
    members, starts = [], {"AAA": 1, "BBB": 2, "CCC": 1}
    for symbol, close in closes.items():
        bars = days_from("2018-02-05", [close] * 5, symbol)
        item, side = replace(XYZ, symbol=symbol, base=symbol), -1.0 if symbol == "CCC" else 1.0
        made = free(item, 10, InstrumentEvents(), margin=Margin.parse("0.1"), borrow=Borrow.parse("0.36/0.36"))
        members.append(Member(held(bars, starts[symbol], 99, side), bars, made))
    account = run_account(members, cash=1000)
    rows = [[(row.kind, row.amount) for row in result.cash_flows] for result in account.results]
    assert rows[2] == [("borrow", D("-0.3"))] * 3
    assert [one[0] for one in rows[:2]] == [("interest", D("-0.30018")), ("interest", D("-0.20012"))]
    assert [len(one) for one in rows] == [2, 2, 3], "nothing is below 0 on the first night"
    assert account.cash == 1000 - 900 - 600 + 300 + sum(amount for one in rows for _, amount in one)
    assert float(account.equity[-1]) == pytest.approx(float(account.cash) + 900 + 600 - 300)


def test_one_member_pays_what_the_run_alone_pays() -> None:
    bars = days_from("2018-02-05", [60.0] * 9)
    setup = free(XYZ, 1000, InstrumentEvents(), margin=Margin.parse("0.5"), borrow=Borrow.parse("0.02/0.06"))
    single = run(held(bars, 1, 99), bars, replace(setup, cash=D(30_000)))
    account = run_account([Member(held(bars, 1, 99), bars, setup)], cash=30_000)
    assert single.cash_flows == account.results[0].cash_flows != ()
    assert account.cash == single.cash


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("fee_in", "rate", "rebates", "fees", "cash"),
    [
        ("quote", "0", "0.275", -0.275, "2050.275"),  # 10 are sold at 110 by the take profit
        ("received", "0.001", "0.274725", 0.725275, "2049.174725"),  # 0.01 of the 10 is paid, so that 9.99 are sold
    ],
)
def test_a_rebate_of_makers_is_income_and_apart_from_the_fees(
    engine: Any, fee_in: str, rate: str, rebates: str, fees: float, cash: str
) -> None:
    bars = days_from("2018-01-31", [100.0, 100.0, 100.0, 120.0, 120.0])
    item = replace(XYZ, lot_step=D("0.01"), qty_min=D("0.01"))
    costs = CostModel(D(rate), fee_in, D("-0.00025"))
    setup = free(item, 10, InstrumentEvents(), costs=costs, cash=D(1950), can_short=False)
    result = run(Given(target=(1.0,) * 5, limit=(110.0,) * 5), bars, setup, engine=engine)
    document = document_of(result)
    assert (document["rebates"], document["statistics"]["fees"], document["final_cash"]) == (rebates, fees, cash)
