"""Decisions to signals: each edge while the bars are fresh, at most an exit and a fresh entry after a catch-up."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.settings import Risk
from fks.model.bar import Bars
from fks.model.parent import BreakEven, ParentPlan, ProfitTarget
from fks.model.signal import EntryGroup, Kind
from fks.model.timeframe import NS, bar_end
from fks.store.strategies import Instance
from fks.strategies.base import Decisions
from fks.trading.orders.freshness import max_age_of
from fks.trading.strategy_worker.signals import ages_s, max_age_s, protection_moves, signals_for
from tests.support.strategies import START_NS, bars_of

NOW_NS = START_NS + 10**6 * NS
TARGETS = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=12)


def instance(**changes: Any) -> Instance:
    values: dict[str, Any] = {
        "id": "a",
        "strategy": "s",
        "params": {},
        "params_version": 1,
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "account_id": 1,
        "venue": "paper",
        "sizing": "notional",
        "size": Decimal(100),
        "approval": "auto",
        "valid_for_s": 60.0,
        "is_enabled": True,
        "shard": 0,
        "state": "RUNNING",
        "error": None,
        "anchor_ns": None,
        "cursor_ns": None,
        "last_target": 0.0,
        "epoch": 1,
        "sealed_ns": None,
    }
    return Instance(**(values | changes))


def decided(targets: Sequence[float], ages: Sequence[float], held: float) -> tuple[list[tuple[str, str, int]], Any]:
    """Return (kind, side, bar) of each signal, and the missed ones."""
    bars = bars_of([100.0] * len(targets))
    found, missed = signals_for(
        instance(last_target=held), bars, Decisions(np.array(targets)), first=0, ages=np.array(ages), now_ns=NOW_NS
    )
    for signal in found:
        place = (signal.ts_event_ns - START_NS) // (60 * NS)
        until = None if signal.kind is Kind.EXIT else NOW_NS + round((60 - ages[place]) * NS)
        assert signal.valid_until_ns == until
    return [(s.kind.value, s.side.value, (s.ts_event_ns - START_NS) // (60 * NS)) for s in found], missed


def test_a_growing_target_enters_again_with_the_protections_of_the_first_entry() -> None:
    target, stops = np.array([0.0, 1.0, 2.0, 2.0, 3.0, -1.0, -2.0, 0.0]), np.arange(90.0, 98.0)
    found, _ = signals_for(
        instance(), bars_of([100.0] * 8), Decisions(target, stops), first=0, ages=np.zeros(8), now_ns=NOW_NS
    )
    assert [(s.kind.value, s.side.value, s.stop_loss) for s in found] == [
        ("enter", "buy", 91),
        ("enter", "buy", 91),
        ("enter", "buy", 91),
        ("exit", "sell", None),
        ("enter", "sell", 95),
        ("enter", "sell", 95),
        ("exit", "buy", None),
    ]
    assert [s.is_add for s in found] == [False, True, True, False, False, True, False]


def test_legs_of_one_decision_carry_one_group() -> None:
    """Entries that add, and exits, are of no group."""
    group, target = EntryGroup("both", ("BTCUSDT", "ETHUSDT")), np.array([0.0, 1.0, 2.0, 0.0, -1.0])
    found = []
    for row, side in ((instance(), 1.0), (instance(id="b", symbol="ETHUSDT"), -1.0)):
        bars, decisions = bars_of([100.0] * 5, symbol=row.symbol), Decisions(target * side)
        made, _ = signals_for(row, bars, decisions, first=0, ages=np.zeros(5), now_ns=NOW_NS, group=group)
        found.append([(signal.group_id, signal.group_legs) for signal in made])
    assert found[0] == found[1]
    assert [bool(id) for id, _ in found[0]] == [True, False, False, True]
    assert [legs for _, legs in found[0]] == ["BTCUSDT ETHUSDT", "", "", "BTCUSDT ETHUSDT"]
    assert len({id for id, _ in found[0]}) == 3
    other, _ = signals_for(
        instance(account_id=2), bars_of([100.0] * 5), Decisions(target), first=0, ages=np.zeros(5), now_ns=NOW_NS,
        group=group,
    )  # fmt: skip
    assert {one.group_id for one in other} & {id for id, _ in found[0]} == {None}


def test_each_entry_carries_its_own_share_of_the_size() -> None:
    target, shares = np.array([1.0, 2.0, 0.0, -1.0]), np.array([0.3333333, 1.0, 0.5, np.nan])
    decisions = Decisions(target, size_share=shares)
    found, _ = signals_for(instance(), bars_of([100.0] * 4), decisions, first=0, ages=np.zeros(4), now_ns=NOW_NS)
    assert [(s.kind.value, s.size_share) for s in found] == [
        ("enter", Decimal("0.333333")),
        ("enter", None),
        ("exit", None),
        ("enter", None),
    ]
    assert found[0].reason == "s v1, 33.3333 % of its size"


def test_an_entry_with_several_targets_carries_them_as_a_plan() -> None:
    def columns(*values: float) -> Any:
        return np.array(values)

    decisions = Decisions(
        columns(1.0, 0.0, -1.0, 0.0, 1.0),
        columns(90.0, np.nan, 110.0, np.nan, 95.0),
        targets=(
            (columns(105.5, 1.0, 95.0, 1.0, np.nan), columns(1 / 3, 1.0, 1.0, 1.0, np.nan)),
            (columns(110.0, 1.0, np.nan, 1.0, np.nan), columns(2 / 3, 1.0, np.nan, 1.0, np.nan)),
        ),
        break_even_after=columns(1.0, np.nan, np.nan, np.nan, np.nan),
        break_even_risk=columns(np.nan, np.nan, np.nan, np.nan, 1.5),
        break_even_ticks=columns(3.0, np.nan, np.nan, np.nan, np.nan),
    )
    decisions = Decisions.of(decisions.columns())  # as a confined process sends them
    found, _ = signals_for(instance(), bars_of([100.0] * 5), decisions, first=0, ages=np.zeros(5), now_ns=NOW_NS)
    first, second, third = (signal for signal in found if signal.kind is Kind.ENTER)
    targets = (
        ProfitTarget(Decimal("105.5"), Decimal("0.333333")),
        ProfitTarget(Decimal("110.0"), Decimal("0.666667")),
    )
    assert first.plan == ParentPlan(Decimal("90.0"), targets, BreakEven(after_target=1, offset_ticks=3))
    assert first.take_profit is None
    assert first.reason == "s v1, 33.3333 % at 105.5, 66.6667 % at 110.0, to break-even"
    assert (second.plan, second.take_profit) == (None, 95)  # one target is an ordinary take profit
    assert third.plan == ParentPlan(Decimal("95.0"), (), BreakEven(at_risk=Decimal("1.5")))


def test_stops_and_targets_are_moved_on_the_new_bars_that_hold() -> None:
    target, moves = np.array([0.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0]), np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.5, 7.0])
    bars = bars_of([100.0] * 7)

    def found(first: int, **columns: Any) -> list[tuple[int, str, str]]:
        moved = protection_moves(bars, Decisions(target, **columns), first=first)
        return [((one.time_ns - START_NS) // (60 * NS), str(one.stop_loss), str(one.take_profit)) for one in moved]

    assert found(1, stop_move=moves) == [(2, "3.0", "None"), (5, "6.5", "None")]
    assert found(3, stop_move=moves) == [(5, "6.5", "None")]
    assert found(0) == []
    no_prices = np.array([np.nan, -1.0, 0.0, np.inf, -np.inf, -2.0, 0.0])
    assert found(0, stop_move=no_prices, take_profit_move=no_prices) == []
    profits = np.array([120.0, 120.0, 120.0, 100.0, 90.0, 90.0, 90.0])  # at bar 3 the close has reached it
    rows = [(2, "3.0", "120.0"), (5, "6.5", "90.0")]
    assert found(0, stop_move=moves, take_profit_move=profits) == rows


def test_prices_of_an_order_are_moved_while_its_target_stays() -> None:
    target = np.array([0.0, 1.0, 1.0, 1.0, -1.0, -1.0, -0.5, -0.5])
    placed, none = np.array([np.nan, 95.0, 1.0, 1.0, np.nan, 1.0, 1.0, 1.0]), np.full(8, np.nan)
    moves = np.array([96.0, 96.0, 97.0, -1.0, 98.0, 98.0, 98.0, 98.0])
    bars = bars_of([100.0] * 8)

    def found(**columns: Any) -> list[tuple[int, str, str]]:
        moved = protection_moves(bars, Decisions(target, **columns), first=0)
        return [((one.time_ns - START_NS) // (60 * NS), str(one.entry_limit), str(one.entry_stop)) for one in moved]

    assert found(entry_limit=placed, entry_limit_move=moves) == [(2, "97.0", "None")]
    shorts = np.array([np.nan, np.nan, np.nan, np.nan, 105.0, np.nan, np.nan, np.nan])
    assert found(entry_stop=shorts, entry_stop_move=moves) == [(5, "None", "98.0")]
    assert found(entry_limit=none, entry_limit_move=moves) == []
    assert found(entry_limit_move=moves) == []


def test_an_entry_more_takes_profit_where_the_position_does_by_then() -> None:
    target = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 0.0, 1.0])
    profits, moves = np.full(7, 110.0), np.array([np.nan, np.nan, 105.0, np.nan, 120.0, np.nan, np.nan])
    decisions = Decisions(target, take_profit=profits, take_profit_move=moves)
    found, _ = signals_for(instance(), bars_of([100.0] * 7), decisions, first=0, ages=np.zeros(7), now_ns=NOW_NS)
    assert [one.take_profit for one in found if one.kind is Kind.ENTER] == [110, 105, 120, 110]


def test_a_falling_target_closes_its_share_at_any_age() -> None:
    target = np.array([1.0, 0.5, 0.5, 0.125, 0.1249999999, -2.0, -1.5, 0.0])
    for age in (0.0, 1e6):
        found, _ = signals_for(
            instance(), bars_of([100.0] * 8), Decisions(target), first=0, ages=np.full(8, age), now_ns=NOW_NS
        )
        if not age:
            assert [(s.kind.value, s.side.value, s.size_share) for s in found] == [
                ("enter", "buy", None),
                ("exit", "sell", Decimal("0.5")),
                ("exit", "sell", Decimal("0.75")),
                ("exit", "sell", None),
                ("enter", "sell", None),
                ("exit", "buy", Decimal("0.25")),
                ("exit", "buy", None),
            ]
            assert found[1].reason == "s v1, 50 % of what is held"
            assert found[1].valid_until_ns is None
        else:
            assert found == []  # flat before, and flat now


@pytest.mark.parametrize(
    ("held", "target", "expected"),
    [
        (1.0, [0.5, 0.5, 0.25], [("exit", "0.75", 2)]),  # one signal for all the parts
        (1.0, [1.0, 0.5, 0.5], [("exit", "0.5", 1)]),
        (
            2.0,
            [1.0, 2.0, 1.5],
            [("exit", "0.625", 2)],
        ),  # what is held was not added to: half, and a quarter of the rest
        (1.0, [0.5, 0.25, 0.0], [("exit", None, 2)]),
        (1.0, [0.5, 0.0, 1.0], []),  # left and wanted again
        (1.0, [0.5, 0.0, -1.0], [("exit", None, 1)]),
        (1.0, [0.001, 0.000001, 0.000000001], [("exit", "0.999999", 2)]),
        (0.5, [0.5, 0.0, 1.0, 0.5], []),
    ],
)
def test_parts_that_were_missed_are_one_signal(
    held: float, target: list[float], expected: list[tuple[str, str | None, int]]
) -> None:
    bars, decisions = bars_of([100.0] * len(target)), Decisions(np.array(target))
    found, missed = signals_for(
        instance(last_target=held), bars, decisions, first=0, ages=np.full(len(target), 1e6), now_ns=NOW_NS
    )
    rows = [(s.ts_event_ns - START_NS) // (60 * NS) for s in found]
    shares = [None if s.size_share is None else str(s.size_share) for s in found]
    assert list(zip([s.kind.value for s in found], shares, rows, strict=True)) == expected
    assert missed is not None


@pytest.mark.parametrize(
    ("held", "target", "expected"),
    [
        (0.0, [0.0, 1.0, 2.0, 2.0], [("enter", True)]),  # in the middle of a position that was never opened
        (1.0, [0.0, 3.0, 2.0, 2.0], []),  # the new parameters hold more, and leave some
        (1.0, [0.0, 1.0, 2.0, 3.0], [("enter", True), ("enter", True)]),
        (-1.0, [0.0, 1.0, 2.0, 2.0], [("exit", False), ("enter", True)]),
        (0.0, [0.0, 0.0, 1.0, 2.0], [("enter", False), ("enter", True)]),
    ],
)
def test_an_entry_that_the_decisions_grow_by_is_one_that_adds(
    held: float, target: list[float], expected: list[tuple[str, bool]]
) -> None:
    found, _ = signals_for(
        instance(last_target=held),
        bars_of([100.0] * 4),
        Decisions(np.array(target)),
        first=2,
        ages=np.zeros(2),
        now_ns=NOW_NS,
    )
    assert [(s.kind.value, s.is_add) for s in found] == expected


@given(TARGETS, st.sampled_from([-1.0, 0.0, 1.0]))
def test_every_edge_of_fresh_bars_is_a_signal(targets: list[float], held: float) -> None:
    found, missed = decided(targets, [1.0] * len(targets), held)
    expected, before = [], held
    for place, target in enumerate(targets):
        if target != before and before:
            expected.append(("exit", "sell" if before > 0 else "buy", place))
        if target != before and target:
            expected.append(("enter", "buy" if target > 0 else "sell", place))
        before = target
    assert (found, missed) == (expected, None)


@given(TARGETS, st.sampled_from([-1.0, 0.0, 1.0]), st.floats(0, 200))
def test_after_a_catch_up_there_is_at_most_an_exit_and_a_fresh_entry(
    targets: list[float], held: float, newest_s: float
) -> None:
    ages = [newest_s + 60.0 * (len(targets) - 1 - place) for place in range(len(targets))]
    found, missed = decided(targets, ages, held)
    if ages[0] <= 60:
        assert missed is None
        return
    assert missed is not None
    assert missed.bars == sum(age > 60 for age in ages)
    wanted = targets[-1]
    exits = [signal for signal in found if signal[0] == "exit"]
    entries = [signal for signal in found if signal[0] == "enter"]
    assert found == exits + entries
    assert len(exits) == (1 if held and wanted != held else 0)
    assert all(side == ("sell" if held > 0 else "buy") for _, side, _ in exits)
    for _, side, place in entries:
        assert ages[place] <= 60
        assert (side, targets[place:]) == ("buy" if wanted > 0 else "sell", [wanted] * (len(targets) - place))
    if wanted and wanted != held:
        edge = next(p for p in range(len(targets) - 1, -1, -1) if (targets[p - 1] if p else held) != wanted)
        assert len(entries) == (1 if ages[edge] <= 60 else 0)
    else:
        assert entries == []


@pytest.mark.parametrize(
    ("timeframe", "valid_for_s", "approval", "expected"),
    [
        ("1s", 60, "auto", 5),
        ("5s", 60, "auto", 5),
        ("15s", 60, "auto", 15),
        ("1m", 60, "auto", 60),
        ("1h", 60, "auto", 60),
        ("1h", 300, "auto", 300),
        ("1m", 300, "auto", 60),
        ("1m", 2, "auto", 2),
        ("1s", 600, "manual", 600),
    ],
)
def test_a_decision_is_fresh_for_a_bar_and_at_most_valid_for_s(
    timeframe: str, valid_for_s: float, approval: str, expected: float
) -> None:
    assert max_age_s(instance(timeframe=timeframe, valid_for_s=float(valid_for_s), approval=approval)) == expected


NAN = float("nan")


def ages(live: Sequence[float], *, wall_s: float, is_tape: bool) -> list[float]:
    """Return the ages of bars of a minute, `wall_s` after the end of the last one by our clock."""
    bars: Bars = bars_of([100.0] * len(live))
    now_ns = bar_end(int(bars.time_ns[-1]), "1m") + round(wall_s * NS)
    return [float(age) for age in ages_s(bars, live_age_s=np.array(live), now_ns=now_ns, is_tape=is_tape)]


def test_the_age_of_a_bar_counts_from_its_end_on_the_clock_of_the_exchange() -> None:
    assert ages([NAN, NAN], wall_s=30, is_tape=False) == [90, 30]
    assert ages([2.0, 1.0], wall_s=1, is_tape=False) == [61, 1]
    assert ages([2.0, 1.0], wall_s=40, is_tape=False) == [100, 40]  # it came late over the network
    assert ages([2.0, 1.0], wall_s=1e8, is_tape=True) == [61, 1]
    assert ages([2.0, 1.0], wall_s=-1e8, is_tape=True) == [61, 1]
    assert ages([600.0, 500.0], wall_s=1e8, is_tape=True) == [560, 500]  # the worker was away, the tape played on
    assert ages([1.0, NAN, NAN], wall_s=1e8, is_tape=True) == [120, 60, 0]
    assert ages([NAN, NAN], wall_s=0, is_tape=True) == [float("inf")] * 2


@pytest.mark.parametrize(("timeframe", "expected"), [("1s", 5), ("15s", 15), ("1m", 60), ("1h", 60)])
def test_the_order_manager_has_the_same_limit(timeframe: str, expected: float) -> None:
    """A bar of a second is sealed up to 1.5 s after its end: neither side may call its decision old before that."""
    held = signals_for(
        instance(timeframe=timeframe),
        bars_of([100.0], timeframe=timeframe),
        Decisions(np.array([1.0])),
        first=0,
        ages=np.array([0.0]),
        now_ns=NOW_NS,
    )
    (signal,), _ = held
    assert signal.valid_until_ns == NOW_NS + round(expected * NS)
    assert max_age_of(signal, None, Risk()) == (bar_end(START_NS, timeframe), expected)


@pytest.mark.parametrize(
    ("approval", "expected"),
    [("auto", ["ready", "ready"]), ("manual", ["ready", "pending"]), ("all", ["pending", "pending"])],
)
def test_an_exit_waits_for_a_person_only_when_the_account_asks_for_it(approval: str, expected: list[str]) -> None:
    flip, ages = Decisions(np.array([-1.0])), np.array([1.0])
    found, _ = signals_for(
        instance(last_target=1.0, approval=approval), bars_of([100.0]), flip, first=0, ages=ages, now_ns=NOW_NS
    )
    assert [signal.kind for signal in found] == [Kind.EXIT, Kind.ENTER]
    assert [signal.state.value for signal in found] == expected


def test_an_entry_by_a_limit_or_stop_order_is_such_a_signal() -> None:
    nan, count = np.nan, 4
    decisions = Decisions(
        np.array([1.0, -1.0, 1.0, 0.0]),
        entry_limit=np.array([99.0, nan, 98.0, 97.0]),
        entry_stop=np.array([nan, 95.0, 98.5, 96.0]),
    )
    found, _ = signals_for(
        instance(), bars_of([100.0] * count), decisions, first=0, ages=np.zeros(count), now_ns=NOW_NS
    )
    assert [(s.kind.value, s.type.value, s.limit_price, s.stop_price) for s in found] == [
        ("enter", "limit", Decimal(99), None),
        ("exit", "market", None, None),
        ("enter", "stop", None, Decimal(95)),
        ("exit", "market", None, None),
        ("enter", "stop_limit", Decimal(98), Decimal("98.5")),
        ("exit", "market", None, None),
    ]


@pytest.mark.parametrize("age_s", [0.0, 3_600.0])
def test_an_instance_that_is_leaving_sends_exits_alone(age_s: float) -> None:
    target = np.array([1.0, -1.0, 0.0, 0.0])
    bars = bars_of([100.0] * 4)
    leaving = instance(last_target=1.0, is_leaving=True)
    made, _ = signals_for(leaving, bars, Decisions(target), first=0, ages=np.full(4, age_s), now_ns=NOW_NS)
    assert made, "what it held is left"
    assert {signal.kind for signal in made} == {Kind.EXIT}
    staying = instance(last_target=1.0)
    both, _ = signals_for(staying, bars, Decisions(target), first=0, ages=np.zeros(4), now_ns=NOW_NS)
    assert {signal.kind for signal in both} == {Kind.EXIT, Kind.ENTER}


def after_new_parameters(target: Sequence[float], held: float, *, age_s: float = 0.0) -> list[tuple[str, str]]:
    """Return (kind, side) of the signals of the last two bars, where `held` is the target of the old parameters."""
    bars, first = bars_of([100.0] * len(target)), len(target) - 2
    found, _ = signals_for(
        instance(last_target=held),
        bars,
        Decisions(np.array(target), stop_loss=np.full(len(target), NAN)),
        first=first,
        ages=np.full(2, age_s),
        now_ns=NOW_NS,
    )
    return [(signal.kind.value, signal.side.value) for signal in found]


@pytest.mark.parametrize("age_s", [0.0, 3_600.0])
def test_new_parameters_in_the_middle_of_a_position_enter_nothing(age_s: float) -> None:
    """The prices of their entry stand on an earlier bar: an entry now would have no stop."""
    assert after_new_parameters([0.0, 1.0, 1.0, 1.0], 0.0, age_s=age_s) == []
    assert after_new_parameters([0.0, -1.0, -1.0, -1.0], 1.0, age_s=age_s) == [("exit", "sell")]


def test_new_parameters_enter_on_their_own_change_of_target_and_exit_as_before() -> None:
    assert after_new_parameters([0.0, 0.0, 1.0, 1.0], 0.0) == [("enter", "buy")]
    assert after_new_parameters([0.0, -1.0, 1.0, 1.0], 0.0) == [("enter", "buy")]
    assert after_new_parameters([0.0, 1.0, 1.0, -1.0], 0.0) == [("exit", "sell"), ("enter", "sell")]
    assert after_new_parameters([0.0, 0.0, 0.0, 0.0], 1.0) == [("exit", "sell")]
    assert after_new_parameters([0.0, 1.0, 1.0, 1.0], 1.0) == []


@pytest.mark.parametrize(
    ("newest_s", "expected"),
    [(1.0, [("exit", "sell", 1), ("enter", "buy", 2)]), (3_600.0, [("exit", "sell", 1)])],
)
def test_after_a_catch_up_the_exit_of_an_entry_that_may_rest_is_kept(
    newest_s: float, expected: list[tuple[str, str, int]]
) -> None:
    """The old order would rest for ever at the price that the strategy gave up."""
    target, limit = np.array([1.0, 0.0, 1.0]), np.array([99.0, NAN, 95.0])
    found, missed = signals_for(
        instance(last_target=1.0),
        bars_of([100.0] * 3),
        Decisions(target, entry_limit=limit),
        first=0,
        ages=newest_s + np.array([120.0, 60.0, 0.0]),
        now_ns=NOW_NS,
    )
    assert missed is not None
    assert [(s.kind.value, s.side.value, (s.ts_event_ns - START_NS) // (60 * NS)) for s in found] == expected


def rests_s(
    entry_bars: Sequence[float], *, timeframe: str = "1m", ages: Sequence[float] = (0.0,)
) -> list[float | None]:
    """Return for how many seconds from now the order of an entry on each second bar may rest."""
    count = 2 * len(entry_bars)
    wide = np.array([[value, NAN] for value in entry_bars]).ravel()
    decisions = Decisions(
        np.tile([1.0, 0.0], len(entry_bars)), entry_limit=np.tile([99.0, NAN], len(entry_bars)), entry_bars=wide
    )
    bars = bars_of([100.0] * count, timeframe=timeframe)
    row = instance(timeframe=timeframe, valid_for_s=10.0**9)
    found, _ = signals_for(row, bars, decisions, first=0, ages=np.resize(ages, count), now_ns=NOW_NS)
    entries = [signal for signal in found if signal.kind is Kind.ENTER]
    assert all(signal.rests_until_ns is None for signal in found if signal.kind is Kind.EXIT)
    return [None if one.rests_until_ns is None else (one.rests_until_ns - NOW_NS) / NS for one in entries]


def test_the_order_of_an_entry_ends_a_bar_after_its_own_bars() -> None:
    """Without a worker nothing else ends it: three bars, and one of margin, after the deciding one (on our clock)."""
    assert rests_s([3.0, NAN, 0.0]) == [240.0, None, 120.0]
    assert rests_s([3.0], ages=[20.0]) == [220.0], "it counts from the end of the deciding bar"


def test_the_end_of_an_order_leaves_time_for_short_and_long_bars() -> None:
    assert rests_s([2.0], timeframe="1s") == [7.0], "a bar may be sealed seconds late"
    assert rests_s([1.0], timeframe="1M") == [2 * 31 * 86_400.0], "no month is longer"
    assert rests_s([1e300]) == [None], "no clock counts so far"


def test_an_entry_at_the_market_has_no_end_of_an_order() -> None:
    decisions = Decisions(np.array([1.0]), entry_bars=np.array([3.0]))
    found, _ = signals_for(instance(), bars_of([100.0]), decisions, first=0, ages=np.zeros(1), now_ns=NOW_NS)
    assert [signal.rests_until_ns for signal in found] == [None]
