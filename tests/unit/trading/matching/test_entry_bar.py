"""Protections in the bar that fills their entry: both engines, paper and the value of an entry that was not made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fks.clock import FakeClock
from fks.model.bar import Bar, Bars
from fks.model.instrument import Instrument
from fks.model.order import ExecutedOrder, OrderType, Role, Side, State
from fks.model.timeframe import NS
from fks.research.backtest import Setup
from fks.research.backtest.counterfactual import Ending, UnmadeEntry, value
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.report import findings_of
from fks.trading.matching import CostModel, Slippage
from fks.trading.venues.paper import PaperVenue
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.strategies import START_NS
from tests.support.venue_orders import order

D = Decimal
BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))
SETUP = Setup(BTC, CostModel(D(0)), "quantity", D(1), D(10**6), limits=UNLIMITED, allow_gaps=True, can_short=True)
MINUTE_NS = 60 * NS
ENDINGS = {Role.STOP_LOSS: Ending.STOP_LOSS, Role.TAKE_PROFIT: Ending.TAKE_PROFIT}


@dataclass(frozen=True)
class Case:
    """An entry of a long decided at a close of 100, and the bar (open, high, low, close) that fills it: at `price`; its
    protection fills there at `exit`, None for none."""

    bar: tuple[float, float, float, float]
    price: float
    exit: tuple[Role, float] | None
    sl: float | None = None
    tp: float | None = None
    trail: float | None = None
    limit: float | None = None
    stop: float | None = None

    def mirrored(self) -> Case:
        """Return the same entry of a short."""
        o, h, low, c = (200 - price for price in self.bar)
        names = ("sl", "tp", "limit", "stop")
        levels = {name: None if (v := getattr(self, name)) is None else 200 - v for name in names}
        left = None if self.exit is None else (self.exit[0], 200 - self.exit[1])
        return replace(self, bar=(o, low, h, c), price=200 - self.price, exit=left, **levels)

    @property
    def type(self) -> OrderType:
        if self.stop is not None:
            return OrderType.STOP if self.limit is None else OrderType.STOP_LIMIT
        return OrderType.MARKET if self.limit is None else OrderType.LIMIT


SL, TP = Role.STOP_LOSS, Role.TAKE_PROFIT
CASES = {
    "market, the open is beyond the stop": Case((90, 91, 88, 89), 90, (SL, 90), sl=95),
    "market, the open is the stop": Case((95, 97, 95, 96), 95, (SL, 95), sl=95),
    "market, the open is beyond the first level of the trail": Case((90, 91, 88, 89), 90, (SL, 90), trail=5),
    "market, the open is beyond the target": Case((110, 112, 108, 111), 110, (TP, 110), tp=105),
    "market, the open is the target": Case((105, 105, 104, 105), 105, (TP, 105), tp=105),
    "market, beyond the target, and the stop later": Case((110, 112, 90, 111), 110, (TP, 110), sl=95, tp=105),
    "market, both inside": Case((100, 106, 94, 100), 100, (SL, 95), sl=95, tp=105),
    "market, neither": Case((100, 104, 96, 100), 100, None, sl=95, tp=105),
    "limit, the open is beyond its stop": Case((90, 92, 89, 91), 90, (SL, 90), sl=95, limit=98),
    "limit, filled inside": Case((99, 101, 94, 97), 98, (SL, 95), sl=95, limit=98),
    "stop, the open is beyond its target": Case((110, 112, 108, 111), 110, (TP, 110), tp=105, stop=103),
    "stop, filled inside": Case((102, 106, 102, 104), 103, (TP, 105), sl=101, tp=105, stop=103),
    "stop-limit, its trigger is beyond the stop": Case(
        (102, 105, 99, 105), 103, (SL, 103), sl=104, limit=106, stop=103
    ),
    "limit, the close is beyond its target": Case((100, 105, 98, 105), 99, (TP, 101), tp=101, limit=99),
    "limit, the close is its target": Case((100, 105, 98, 101), 99, (TP, 101), tp=101, limit=99),
    "limit, only the high is beyond its target": Case((100, 105, 98, 100), 99, None, tp=101, limit=99),
    "limit, the close is beyond its target, and its stop": Case(
        (100, 105, 94, 105), 99, (SL, 95), sl=95, tp=101, limit=99
    ),
    "stop-limit, its limit is better than its stop": Case((100, 112, 94, 95), 105, None, limit=105, stop=110),
    "stop-limit, its limit is better, and its stop": Case(
        (100, 112, 94, 95), 105, (SL, 96), sl=96, limit=105, stop=110
    ),
    "stop-limit, the open is beyond its limit": Case((112, 114, 100, 104), 106, None, tp=113, limit=106, stop=103),
    "stop-limit, the open is its limit": Case((105, 112, 104, 105), 105, None, tp=109, limit=105, stop=110),
    "stop, the open is behind its stop loss": Case((100, 120, 100, 120), 110, None, sl=105, stop=110),
    "stop, the open and the close are": Case((100, 120, 100, 103), 110, (SL, 103), sl=105, stop=110),
    "stop, the close is its stop loss": Case((100, 120, 100, 105), 110, (SL, 105), sl=105, stop=110),
    "stop, the open is its stop loss": Case((105, 120, 104, 106), 110, None, sl=105, stop=110),
    "stop, the open is behind, its target": Case((100, 120, 100, 112), 110, (TP, 115), sl=105, tp=115, stop=110),
    "stop, the open is behind, both": Case((100, 120, 100, 103), 110, (SL, 103), sl=105, tp=115, stop=110),
    "stop, the open is not behind": Case((106, 120, 104, 118), 110, (SL, 105), sl=105, stop=110),
    "stop-limit at its limit, the open is behind": Case((100, 112, 94, 104), 105, None, sl=103, limit=105, stop=110),
    "stop-limit at its limit, the open and the close are": Case(
        (100, 112, 94, 95), 105, (SL, 95), sl=103, limit=105, stop=110
    ),
}
BOTH = pytest.mark.parametrize("is_short", [False, True])


def columns(case: Case, count: int) -> dict[str, Any]:
    names = {"stop": case.sl, "limit": case.tp, "trail": case.trail, "entry_limit": case.limit, "entry_stop": case.stop}
    return {name: None if level is None else (float(level),) * count for name, level in names.items()}


def tape(*rows: tuple[float, ...]) -> Bars:
    times = START_NS + np.arange(len(rows), dtype=np.int64) * MINUTE_NS
    return Bars("BTCUSDT", "1m", times, *np.array(rows, float).T, np.ones(len(rows)))


def of(case: Case, is_short: bool) -> tuple[Case, float, Side]:
    return (case.mirrored(), -1.0, Side.SELL) if is_short else (case, 1.0, Side.BUY)


@BOTH
@pytest.mark.parametrize("engine", ["reference", "compiled"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_protection_meets_the_price_of_its_entry(case: Case, engine: Any, is_short: bool) -> None:
    case, target, _ = of(case, is_short)
    bars = tape((100, 101, 99, 100), case.bar)
    result = run(Given(target=(target,) * 2, **columns(case, 2)), bars, SETUP, engine=engine)
    assert result.engine.name == engine
    wanted = [(Role.ENTRY, case.price), *([] if case.exit is None else [case.exit])]
    assert [(fill.role, float(fill.price)) for fill in result.fills] == wanted
    assert [fill.time_ns for fill in result.fills] == [bars.time_ns[1]] * len(wanted)


@BOTH
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.trail is None], ids=str)
def test_value_of_an_entry_not_made_is_by_the_same_rule(case: Case, is_short: bool) -> None:
    case, _, side = of(case, is_short)
    levels = (None if v is None else D(str(v)) for v in (case.limit, case.stop, case.sl, case.tp))
    found = value(UnmadeEntry(side, D(1), START_NS, case.type, *levels), tape(case.bar), SETUP.costs, BTC)
    left = None if found.ending is Ending.OPEN else (found.ending, float(found.exit_price or 0))
    assert float(found.entry_price or 0) == case.price
    assert left == (None if case.exit is None else (ENDINGS[case.exit[0]], case.exit[1]))


@pytest.mark.parametrize("is_restored", [False, True])
@BOTH
@pytest.mark.parametrize("case", [c for c in CASES.values() if c.trail is None], ids=str)
async def test_paper_on_bars_fills_legs_by_the_same_rule(case: Case, is_short: bool, is_restored: bool) -> None:
    """The legs come when the bar is over; after a restart it is fed again."""
    case, _, side = of(case, is_short)
    prices = [None if v is None else D(str(v)) for v in (case.limit, case.stop)]
    entry = order("1", side=side, type=case.type, price=prices[0], stop_price=prices[1], role=Role.ENTRY)
    venue = PaperVenue([BTC], CostModel(D(0)), {"USDT": D(10**6), "BTC": D(10)}, FakeClock(), mode="bar")
    filling = Bar("binance", "BTCUSDT", "1m", MINUTE_NS, *case.bar, 1.0)
    if is_restored:
        row = ExecutedOrder(entry.client_order_id, "BTCUSDT", "", Role.ENTRY, MINUTE_NS, side, case.type, *prices)
        done = replace(entry, state=State.FILLED, filled=D(1))
        venue.restore([done], [], {"USDT": D(10**6), "BTC": D(10)}, executed=[row])
    else:
        await venue.submit(entry)
    venue.on_bar(filling)
    if not is_restored:
        (fill,) = await venue.fills_since("BTCUSDT", 0)
        assert float(fill.price) == case.price
    legs = {"side": side.opposite, "parent_id": entry.client_order_id}
    stop = order("1", type=OrderType.STOP, stop_price=str(case.sl or 1), role=SL, **legs)
    limit = order("1", type=OrderType.TAKE_PROFIT, price=str(case.tp or 1), role=TP, **legs)
    if case.sl is not None and case.tp is not None:
        answers = await venue.submit_oco(*(replace(leg, group_id="g") for leg in (stop, limit)))
    else:
        wanted = [leg for leg, level in ((stop, case.sl), (limit, case.tp)) if level is not None]
        answers = tuple([await venue.submit(leg) for leg in wanted])
    roles = {stop.client_order_id: SL, limit.client_order_id: TP}
    found = [(roles[f.client_order_id or ""], float(f.price)) for answer in answers for f in answer.fills]
    assert found == ([] if case.exit is None else [case.exit])


@BOTH
async def test_restored_stop_limit_that_rested_before_its_bar_met_the_open(is_short: bool) -> None:
    """It filled at the open of 104, and not at its limit of 105, to which the bar came back after its stop of 110."""
    case, _, side = of(Case((104, 112, 103, 104.5), 104, None, sl=104, tp=150), is_short)
    limit, stop = (D(95), D(90)) if is_short else (D(105), D(110))
    entry = order("1", side=side, type=OrderType.STOP_LIMIT, price=limit, stop_price=stop, role=Role.ENTRY)
    venue = PaperVenue([BTC], CostModel(D(0)), {"USDT": D(10**6), "BTC": D(10)}, FakeClock(), mode="bar")
    terms = ("BTCUSDT", "", Role.ENTRY, MINUTE_NS, side, OrderType.STOP_LIMIT, limit, stop, D(str(case.price)))
    row = ExecutedOrder(entry.client_order_id, *terms)
    venue.restore(
        [replace(entry, state=State.FILLED, filled=D(1))], [], {"USDT": D(10**6), "BTC": D(10)}, executed=[row]
    )
    venue.on_bar(Bar("binance", "BTCUSDT", "1m", MINUTE_NS, *case.bar, 1.0))
    leg = order(
        "1", side=side.opposite, parent_id=entry.client_order_id, type=OrderType.STOP, stop_price=str(case.sl), role=SL
    )
    assert [float(fill.price) for fill in (await venue.submit(leg)).fills] == [case.price]


@BOTH
@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_passed_stop_fills_as_a_taker_at_the_entry_before_slippage(engine: Any, is_short: bool) -> None:
    case, target, side = of(CASES["market, the open is beyond the stop"], is_short)
    setup = replace(SETUP, costs=CostModel(D(0), slippage=Slippage.parse("2 ticks")))
    result = run(
        Given(target=(target,) * 2, **columns(case, 2)), tape((100, 101, 99, 100), case.bar), setup, engine=engine
    )
    assert [fill.price for fill in result.fills] == [
        D(str(case.price)) + s * D("0.02") for s in (side.sign, -side.sign)
    ]


@BOTH
@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_further_entry_beyond_the_target_fills_it_with_the_others(engine: Any, is_short: bool) -> None:
    target = -1.0 if is_short else 1.0
    rows = [of(Case(row, 0, None), is_short)[0].bar for row in [(100, 101, 99, 100)] * 2 + [(110, 112, 108, 111)]]
    wanted = Given(target=(target, 2 * target, 2 * target), limit=(95.0 if is_short else 105.0,) * 3, most=2)
    result = run(wanted, tape(*rows), SETUP, engine=engine)
    prices = [100, 110, 110, 110]
    assert [float(f.price) for f in result.fills] == [200 - price if is_short else price for price in prices]


@pytest.mark.parametrize(("clear", "is_named"), [(19, True), (20, False)])
def test_finding_names_5_unclear_bars_or_more_for_100_trades(clear: int, is_named: bool) -> None:
    """One trade reaches both legs in one bar, the others only the target."""
    rows, target = [(100.0, 106.0, 94.0, 100.0)], [1.0, 0.0]
    for _ in range(clear):
        rows += [(100, 101, 99, 100), (100, 106, 99, 100)]
        target += [1.0, 0.0]
    bars = tape((100, 101, 99, 100), *rows)
    decisions = Given(target=tuple(target), stop=(95.0,) * len(bars), limit=(105.0,) * len(bars))
    result = run(decisions, bars, SETUP)
    assert (len(result.trades), result.unclear) == (clear + 1, 1)
    assert any("1 unclear bars for" in text for text in findings_of(result)) == is_named
