"""The audit of backtest results: random runs of both engines and of paper hold up, and wrong results are found."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.order import Role, Side
from fks.model.timeframe import NS
from fks.research.backtest import FillRow, Result, Setup
from fks.research.backtest.limits import UNLIMITED
from fks.strategies.base import evaluate
from fks.trading.matching import CostModel, Slippage
from tests.support import result_audit
from tests.support.backtests import run
from tests.support.given import Given
from tests.support.paper_bars import on_paper
from tests.support.random_runs import RandomRun
from tests.support.result_audit import AuditedRun, audit, checks_of
from tests.support.soak_cases import soaked
from tests.support.strategies import START_NS

D, NAN = Decimal, float("nan")
BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5))
#: situations that 300 runs have to reach, each so often
SITUATIONS = (
    "entry: open",
    "entry: limit",
    "entry: stop",
    "entry by a limit after its stop",
    "own bar: the stop is passed",
    "own bar: the target is passed",
    "own bar: opened beyond the stop",
    "own bar after open: the stop",
    "own bar after limit: the stop",
    "own bar after stop: the stop",
    "own bar after open: the target",
    "own bar after limit: the target",
    "own bar after stop: the target",
    "own bar after open: both legs",
    "later: the stop is passed",
    "later: the target is passed",
    "later: the stop",
    "later: the target",
    "later: both legs",
    "paper",
    "refused",
    "expired",
    "liquidation",
    "tp",
    "exit",
)


def is_same(left: Result, right: Result) -> bool:
    """Return whether two results have the same fills, denials, trades and equity."""
    parts = ("fills", "denied", "expired", "trades", "cash", "position", "unclear")
    return all(getattr(left, part) == getattr(right, part) for part in parts) and np.array_equal(
        left.equity, right.equity
    )


def judged(seed: int, seen: Counter[str]) -> list[str]:
    """Return what is wrong with the run of a seed on both engines, and on paper with every sixth one."""
    is_plain = seed % 6 == 0
    random = RandomRun(seed, is_plain=is_plain)
    compiled = run(random.decided, random.bars, random.setup, engine="compiled")
    reference = run(random.decided, random.bars, random.setup, engine="reference")
    found = audit(AuditedRun.of(compiled, random.decided), seen)
    if not is_same(compiled, reference):
        found.append("the engines differ")
    if is_plain:
        fills = [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in reference.fills]
        ended = [row.code for row in reference.expired]
        if asyncio.run(on_paper(reference, evaluate(random.decided, random.bars))) != (fills, ended):
            found.append("paper differs")
    seen.update(fill.role.value for fill in compiled.fills)
    seen["paper"] += is_plain and len(compiled.fills) > 1
    seen["refused"] += len(compiled.denied)
    seen["expired"] += len(compiled.expired)
    return found


@pytest.mark.parametrize(
    "seeds", soaked([range(300), *(range(s, s + 970) for s in range(300, 10_000, 970))], 1), ids=str
)
def test_results_on_random_tapes_hold_up(seeds: range) -> None:
    """Tapes with gaps, flat and huge bars; entries, exits and sizes of every kind."""
    seen = Counter[str]()
    wrong = {seed: found[:2] for seed in seeds if (found := judged(seed, seen))}
    assert wrong == {}, (
        f"{len(wrong)} of {len(seeds)} runs: {Counter(c for w in wrong.values() for c in checks_of(w[:1]))}"
    )
    assert min(seen[situation] for situation in SITUATIONS) >= 5, seen


#: bars, and decisions, that trade a market entry with a target, a limit entry with a stop that the market gaps through,
#: a reversal of a stop entry, and an exit
ROWS = (
    (100, 101, 99, 100),
    (101, 102, 100, 101),
    (101, 106, 101, 105),
    (105, 106, 104, 105),
    (104, 105, 101, 102),
    (98, 99, 96, 97),
    (97, 98, 96, 97),
    (98, 103, 97, 102),
    (102, 104, 101, 103),
    (105, 107, 104, 106),
    (106, 108, 105, 107),
    (107, 108, 106, 107),
)
DECIDED = Given(
    target=(1, 1, 0, 1, 1, 0, 1, 1, -1, -1, 0, 0),
    stop=(97, NAN, NAN, 99, NAN, NAN, NAN, NAN, 115, NAN, NAN, NAN),
    limit=(104, *[NAN] * 11),
    entry_limit=(NAN, NAN, NAN, 103, *[NAN] * 8),
    entry_stop=(*[NAN] * 6, 100, *[NAN] * 5),
)


def by_hand(*rows: tuple[float, float, float, float]) -> Bars:
    times = START_NS + np.arange(len(rows), dtype=np.int64) * 3600 * NS
    return Bars("BTCUSDT", "1h", times, *np.array(rows, dtype=float).T, np.ones(len(rows)))


def traded(sizing: str, size: int) -> AuditedRun:
    costs = CostModel(D("0.001"), "quote", D("0.0002"), Slippage.parse("1 tick"))
    setup = Setup(BTC, costs, sizing, D(size), D(10_000), True, limits=UNLIMITED)
    return AuditedRun.of(run(DECIDED, by_hand(*ROWS), setup, engine="reference"), DECIDED)


@pytest.fixture
def right() -> AuditedRun:
    return traded("quantity", 10)


def rebooked(run: AuditedRun) -> AuditedRun:
    """Return a run whose equity, cash and profit are those of its fills, which may be wrong."""
    cash, held, equity, trades = run.setup.cash, D(0), [], list(run.fills)
    for time_ns, close in zip(run.bars.time_ns.tolist(), run.bars.close.tolist(), strict=True):
        while trades and trades[0].time_ns == time_ns:
            fill = trades.pop(0)
            cash -= fill.side.sign * fill.quantity * fill.price + fill.fee
            held += fill.side.sign * fill.quantity
        equity.append(float(cash + held * D(repr(close))))
    return replace(run, equity=tuple(equity), cash=cash, profit=None)


def test_the_auditor_shares_no_code_with_the_rule() -> None:
    source = Path(result_audit.__file__).read_text()
    imported = set(re.findall(r"^from (\S+) import", source, flags=re.MULTILINE))
    own = {name for name in imported if name.startswith(("fks", "tests"))}
    assert own == {"fks.research.backtest", "fks.model.bar", "fks.model.order", "tests.support.given"}
    assert re.findall(r"from fks.research.backtest import (.*)", source) == ["FillRow, Result, Setup"]


def test_a_right_result_has_no_findings(right: AuditedRun) -> None:
    assert [(fill.role.value, fill.side.value, f"{fill.price.normalize():f}") for fill in right.fills] == [
        ("entry", "buy", "101.01"),
        ("tp", "sell", "104"),
        ("entry", "buy", "103"),
        ("sl", "sell", "97.99"),
        ("entry", "buy", "100.01"),
        ("exit", "sell", "104.99"),
        ("entry", "sell", "104.99"),
        ("exit", "buy", "107.01"),
    ]
    assert audit(right) == []
    assert audit(rebooked(right)) == []


def changed(number: int, **fields: object) -> Callable[[AuditedRun], AuditedRun]:
    """Return a change of one fill, booked as if it were right: with the fee of what it has become, unless given."""

    def change(run: AuditedRun) -> AuditedRun:
        fills = list(run.fills)
        fill = replace(fills[number], **fields)
        if "fee" not in fields:
            rate = D("0.0002") if fill.role is Role.TAKE_PROFIT or number == 2 else D("0.001")
            fill = replace(fill, fee=round(fill.quantity * fill.price * rate, 8))
        return rebooked(replace(run, fills=(*fills[:number], fill, *fills[number + 1 :])))

    return change


def late(number: int) -> Callable[[AuditedRun], AuditedRun]:
    def change(run: AuditedRun) -> AuditedRun:
        return changed(number, time_ns=run.fills[number].time_ns + 3600 * NS)(run)

    return change


def without(number: int) -> Callable[[AuditedRun], AuditedRun]:
    return lambda run: rebooked(replace(run, fills=(*run.fills[:number], *run.fills[number + 1 :])))


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (changed(3, price=D("99.50")), {"range", "price"}),  # a stop above its bar's high
        (changed(3, price=D("98.99")), {"price"}),  # and one at a price of its bar, better than the open
        (changed(3, price=D("105")), {"range", "price", "win"}),  # and one that beats its entry
        (changed(3, price=D("98.00")), {"price"}),  # without slippage
        (changed(1, price=D("105")), {"price"}),  # a target at a better price of its bar
        (changed(2, price=D("101")), {"price"}),  # a limit entry at its bar's low
        (changed(4, price=D("98.01")), {"price"}),  # a stop entry at the open, which its stop is above
        (late(0), {"missing"}),
        (late(1), {"missing"}),  # a target that the close had passed
        (late(3), {"missing"}),
        (without(1), {"missing"}),
        (without(7), {"missing"}),
        (changed(0, quantity=D("9.9")), {"quantity"}),
        (changed(0, fee=D(0)), {"fee"}),
        (changed(1, fee=D("1.04")), {"fee"}),  # the taker's
        (changed(5, role=Role.STOP_LOSS), {"missing", "unexpected"}),
        (changed(7, role=Role.LIQUIDATION), {"missing", "price"}),
        (lambda run: replace(run, equity=(*run.equity[:5], run.equity[5] - 5.0, *run.equity[6:])), {"equity"}),
        (lambda run: replace(run, cash=run.cash + 1), {"cash"}),
        (lambda run: replace(run, profit=run.profit + D("0.01")), {"profit"}),
    ],
)
def test_a_planted_fault_is_found(
    right: AuditedRun, change: Callable[[AuditedRun], AuditedRun], checks: set[str]
) -> None:
    found = audit(change(right))
    first = [line for line in found if line.split(": ")[1] == found[0].split(": ")[1]]  # of its bar: the rest follows
    assert checks_of(first) == checks, found


def test_a_quantity_by_a_price_that_is_not_known_yet_is_found() -> None:
    """The entry of the reversal has half of the equity at the open of 105 after the exit, not at the close before."""
    run = traded("equity_pct", 50)
    assert audit(run) == []
    paid = sum((fill.side.sign * fill.quantity * fill.price + fill.fee for fill in run.fills[:6]), D(0))
    quantity = ((run.setup.cash - paid) / 2 / 105).quantize(BTC.lot_step)
    found = audit(changed(7, quantity=quantity)(changed(6, quantity=quantity)(run)))
    assert [line.partition(":")[0] for line in found] == ["quantity"], found
    assert f"entry of {quantity}" in found[0]


def wrong_run(
    decided: Given, rows: list[tuple[float, float, float, float]], *fills: tuple[int, Side, str, Role]
) -> AuditedRun:
    """Return a run of one unit without costs that filled so (bar, side, price, role)."""
    bars = by_hand(*rows)
    setup = Setup(BTC, CostModel(D(0), "quote"), "quantity", D(1), D(1000), limits=UNLIMITED)
    booked = tuple(
        FillRow(int(bars.time_ns[at]), side, D(1), D(price), D(0), "USDT", role) for at, side, price, role in fills
    )
    return rebooked(AuditedRun(bars, setup, decided, booked, frozenset()))


def collared(rows: list[tuple[float, float, float, float]], price: float) -> AuditedRun:
    """Return a run whose market entry, with a collar of 0.5 %, filled at the last bar's open."""
    last = len(rows) - 1
    decided = Given(target=(*[0.0] * (last - 1), 1.0, 1.0), stop=(90.0,) * len(rows))
    run = wrong_run(decided, rows, (last, Side.BUY, str(price), Role.ENTRY))
    return replace(run, setup=replace(run.setup, instrument=replace(BTC, has_oto=True), collar_pct=D("0.5")))


ENTRY, STOP, TARGET = Role.ENTRY, Role.STOP_LOSS, Role.TAKE_PROFIT
BUY, SELL = Side.BUY, Side.SELL
GAP = [(100, 101, 99, 100), (90, 91, 88, 89), (89, 90, 88, 89)]
THROUGH = [(100, 100.5, 99.5, 100), (100, 105, 98, 105), (105, 106, 104, 105), (105, 105.5, 104.5, 105)]
TRIGGERED = [(100, 100, 100, 100), (100, 112, 94, 95), (95, 96, 94, 95)]
JUMPED = [(100, 100.5, 99.5, 100), (100, 120, 100, 120), (120, 131, 119, 130)]


@pytest.mark.parametrize(
    ("run", "checks"),
    [
        # a stop that the market gapped through is closed at the open
        (wrong_run(Given(target=(1, 1, 1), stop=(95,) * 3), GAP, (1, BUY, "90", ENTRY), (1, SELL, "95", STOP)), {"win", "price", "range"}),
        (wrong_run(Given(target=(1, 1, 1), stop=(95,) * 3), GAP, (1, BUY, "90", ENTRY), (1, SELL, "90", STOP)), set()),
        (wrong_run(Given(target=(1, 1, 1), stop=(95,) * 3), GAP, (1, BUY, "90", ENTRY)), {"missing"}),
        # a target that the close proves is filled in the bar of its limit entry
        (wrong_run(Given(target=(1,) * 4, limit=(101,) * 4, entry_limit=(99,) * 4), THROUGH, (1, BUY, "99", ENTRY), (2, SELL, "105", TARGET)), {"missing", "unexpected"}),
        (wrong_run(Given(target=(1,) * 4, limit=(101,) * 4, entry_limit=(99,) * 4), THROUGH, (1, BUY, "99", ENTRY), (1, SELL, "101", TARGET)), set()),
        # a stop-limit whose limit the close proves
        (wrong_run(Given(target=(1,) * 3, entry_stop=(110,) * 3, entry_limit=(105,) * 3), TRIGGERED, (2, BUY, "95", ENTRY)), {"missing", "unexpected"}),
        (wrong_run(Given(target=(1,) * 3, entry_stop=(110,) * 3, entry_limit=(105,) * 3), TRIGGERED, (1, BUY, "105", ENTRY)), set()),
        # an open beyond the stop of a stop entry is a price from before the entry
        (wrong_run(Given(target=(1,) * 3, entry_stop=(110,) * 3, stop=(105,) * 3), JUMPED, (1, BUY, "110", ENTRY), (1, SELL, "105", STOP)), {"unexpected"}),
        (wrong_run(Given(target=(1,) * 3, entry_stop=(110,) * 3, stop=(105,) * 3), JUMPED, (1, BUY, "110", ENTRY)), set()),
        # a market entry with exits expires beyond its collar
        (collared([(100, 101, 99, 100), (100.51, 101, 99, 100)], 100.51), {"missing"}),
        (collared([(100, 101, 99, 100), (100.5, 101, 99, 100)], 100.5), set()),
        # cash pays for what is bought
        (replace(wrong_run(Given(target=(1, 1, 1)), GAP, (1, BUY, "90", ENTRY)), cash=None, setup=Setup(BTC, CostModel(D(0), "quote"), "quantity", D(1), D(80), limits=UNLIMITED), equity=()), {"cash"}),
    ],
)  # fmt: skip
def test_the_rule_of_entry_bars_and_of_cash_is_judged(run: AuditedRun, checks: set[str]) -> None:
    found = audit(run)
    assert checks_of(found) == checks, found
