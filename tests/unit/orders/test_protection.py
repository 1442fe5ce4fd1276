"""Protective orders of a position: never more than is held, never two sets, corrected in one direction."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.model.order import Order, OrderType, Role, Side, State
from fks.orders.absence import AbsenceRule, Polls, count_not_found, is_absent, ladder_delay
from fks.orders.build import legs_of
from fks.orders.protection import LegAction, Want, next_action, next_attempt, wanted
from tests.support.order_values import an_instrument, an_order

D = Decimal
INSTRUMENT = an_instrument()


def entry(name: str, filled: Any, **changes: Any) -> Order:
    values = {"stop_loss": D(90), "take_profit": D(120), "state": State.FILLED, "filled": D(filled)}
    return an_order(client_order_id=name, **(values | changes))


def leg(role: Role, state: State, quantity: Any = 5, **changes: Any) -> Order:
    kind = OrderType.STOP if role is Role.STOP_LOSS else OrderType.TAKE_PROFIT
    return an_order(
        client_order_id=f"{role}{state}",
        role=role,
        type=kind,
        side=Side.SELL,
        state=state,
        quantity=D(quantity),
        parent_id="p",
        **changes,
    )


def test_the_newest_entries_make_up_the_position() -> None:
    wants = wanted(D("5.0009"), [entry("new", 3), entry("old", 4), entry("older", 9)], INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants] == [
        ("new", D(3)),
        ("old", D("2.000")),
        ("older", D(0)),
    ]


def test_entries_without_levels_take_their_part_and_want_nothing() -> None:
    wants = wanted(D(5), [entry("plain", 3, stop_loss=None, take_profit=None), entry("old", 4)], INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants] == [("old", D(2))]


@settings(max_examples=100)
@given(position=st.decimals(D(-20), D(20), places=4), fills=st.lists(st.integers(1, 9), max_size=6))
def test_what_is_wanted_never_exceeds_the_position(position: Decimal, fills: list[int]) -> None:
    entries = [entry(str(number), filled) for number, filled in enumerate(fills)]
    assert sum(want.quantity for want in wanted(position, entries, INSTRUMENT)) <= max(position, D(0))


SL, TP = Role.STOP_LOSS, Role.TAKE_PROFIT
W = State.WORKING


@pytest.mark.parametrize(
    ("quantity", "legs", "expected"),
    [
        (5, [leg(SL, State.ACCEPTED), leg(TP, W)], LegAction.NOTHING),
        (5, [leg(SL, State.ACCEPTED, 4), leg(TP, W)], LegAction.CANCEL),
        (5, [leg(SL, State.ACCEPTED, stop_price=D(90)), leg(TP, W)], LegAction.NOTHING),
        (5, [leg(SL, State.ACCEPTED, stop_price=D(89)), leg(TP, W)], LegAction.CANCEL),
        (5, [leg(SL, State.UNKNOWN, stop_price=D(89)), leg(TP, W)], LegAction.WAIT),
        (5, [leg(TP, W)], LegAction.CANCEL),
        (5, [], LegAction.RENEW),
        (5, [leg(SL, State.CANCELLED), leg(TP, State.EXPIRED)], LegAction.RENEW),
        (5, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], LegAction.SEND),
        (5, [leg(SL, State.SENDING), leg(TP, State.INTENDED)], LegAction.WAIT),
        (5, [leg(SL, State.UNKNOWN), leg(TP, W)], LegAction.WAIT),
        (0, [leg(SL, W), leg(TP, W)], LegAction.CANCEL),
        (0, [leg(SL, State.FILLED), leg(TP, State.EXPIRED)], LegAction.NOTHING),
        (0, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], LegAction.ABANDON),
        (0, [], LegAction.NOTHING),
        (5, [leg(SL, State.CANCELLED, reported_cum_qty=D(1))], LegAction.WAIT),
    ],
)
def test_mending_goes_one_way(quantity: int, legs: list[Order], expected: LegAction) -> None:
    assert next_action(Want(entry("p", 5), D(quantity)), legs, has_oco=True)[0] is expected


def test_legs_wait_while_their_entry_may_still_fill() -> None:
    parent = entry("p", 0, state=State.WORKING)
    assert next_action(Want(parent, D(0)), [leg(SL, State.INTENDED)], has_oco=True)[0] is LegAction.NOTHING


def test_without_an_oco_only_the_stop_lives_at_the_venue() -> None:
    want = Want(entry("p", 5), D(5))
    what, about = next_action(want, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], has_oco=False)
    assert (what, [one.role for one in about]) == (LegAction.SEND, [SL])
    assert next_action(want, [leg(SL, W), leg(TP, State.INTENDED)], has_oco=False)[0] is LegAction.NOTHING


def test_generations_have_ids_of_their_own_and_the_same_ones_again() -> None:
    parent = entry("p", 5)
    first, again = (legs_of(parent, quantity=D(5), attempt=0, epoch=e, now_ns=1) for e in (1, 2))
    later = legs_of(parent, quantity=D(5), attempt=1, epoch=1, now_ns=1)
    assert [one.client_order_id for one in first] == [one.client_order_id for one in again]
    assert not {one.client_order_id for one in first} & {one.client_order_id for one in later}
    assert next_attempt([*first, *later]) == 2
    assert next_attempt([]) == 0


def test_absence_needs_enough_polls_spaced_and_old_enough() -> None:
    rule = AbsenceRule(polls=3, spacing_s=2.0, first_s=5.0, age_s=30.0)
    polls = Polls()
    for age_s in (1.0, 4.9, 5.0, 6.0, 7.0, 7.5, 29.0):
        polls = count_not_found(polls, age_s, rule)
        assert not is_absent(polls, rule)
    assert polls.counted == 3
    assert is_absent(count_not_found(polls, 31.0, rule), rule)
    few = count_not_found(count_not_found(Polls(), 40.0, rule), 50.0, rule)
    assert not is_absent(few, rule)


def test_the_ladder_s_last_step_repeats() -> None:
    delays = (0.25, 0.5, 1.0)
    assert [ladder_delay(number, delays) for number in range(5)] == [0.25, 0.5, 1.0, 1.0, 1.0]
