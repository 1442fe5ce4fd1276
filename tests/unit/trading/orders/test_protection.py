"""Protective orders of a position: never more than is held, never two sets, corrected in one direction."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.clock import ClockSteps, FakeClock
from fks.model.order import (
    OLD_SHARES,
    PENDING,
    Order,
    OrderType,
    Refusal,
    Request,
    Role,
    Side,
    State,
    TimeInForce,
    evolve,
)
from fks.trading.orders.absence import AbsenceProof, AbsenceRule, Polls, count_not_found, is_absent, ladder_delay
from fks.trading.orders.build import legs_of
from fks.trading.orders.protection import Cover, Entries, LegAction, LegStep, Want, desired, diff, made_of, next_attempt
from tests.support.order_values import an_instrument, an_order

D = Decimal
INSTRUMENT = an_instrument()


def entry(name: str, filled: Any, **changes: Any) -> Order:
    values = {"stop_loss": D(90), "take_profit": D(120), "state": State.FILLED, "filled": D(filled)}
    return an_order(client_order_id=name, **(values | changes))


def want_of(parent: Order, quantity: Decimal) -> Want:
    """Return a want that rounding left as it is."""
    return Want(parent, quantity, quantity)


def leg(role: Role, state: State, quantity: Any = 5, **changes: Any) -> Order:
    kind = OrderType.STOP if role is Role.STOP_LOSS else OrderType.TAKE_PROFIT
    if kind is OrderType.TAKE_PROFIT:
        changes = {"price": D(120)} | changes  # that of `entry`
    return an_order(
        client_order_id=f"{role}{state}{changes.get('attempt', 0)}",
        role=role,
        side=Side.SELL,
        state=state,
        quantity=D(quantity),
        parent_id="p",
        **({"type": kind} | changes),
    )


def test_the_newest_entries_make_up_the_position() -> None:
    wants = desired(D("5.0009"), [entry("new", 3), entry("old", 4), entry("older", 9)], D(0), INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants] == [
        ("new", D(3)),
        ("old", D("2.000")),
        ("older", D(0)),
    ]


def test_entries_without_levels_take_their_part_and_want_nothing() -> None:
    wants = desired(D(5), [entry("plain", 3, stop_loss=None, take_profit=None), entry("old", 4)], D(0), INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants] == [("old", D(2))]


@given(position=st.decimals(D(-20), D(20), places=4), fills=st.lists(st.integers(1, 9), max_size=6))
def test_what_is_wanted_never_exceeds_the_position(position: Decimal, fills: list[int]) -> None:
    entries = [entry(str(number), filled) for number, filled in enumerate(fills)]
    assert sum(want.quantity for want in desired(position, entries, D(0), INSTRUMENT)) <= max(position, D(0))


SL, TP = Role.STOP_LOSS, Role.TAKE_PROFIT
W, A = State.WORKING, LegAction


def step_of(want: Want, legs: list[Order], **changes: Any) -> LegStep | None:
    """Return the step for one parent, at a venue that replaces lists unless it is said that it amends."""
    steps = diff([Cover(want, tuple(legs), **changes)], INSTRUMENT)
    return steps[0] if steps else None


def as_text(step: LegStep | None) -> str:
    """Return the step as text: its action, the attempts of its legs, its quantity."""
    if step is None:
        return "nothing"
    attempts = "+".join(str(attempt) for attempt in sorted({leg.attempt for leg in step.legs}))
    return " ".join(part for part in (step.action.name.lower(), attempts, f"{step.quantity.normalize():f}") if part)


def pair(quantity: Any, attempt: int = 0, stop: Any = 90, **changes: Any) -> list[Order]:
    """Return an OCO that lives, with its stop at `stop`."""
    return [
        leg(role, W, quantity, attempt=attempt, stop_price=D(stop) if role is SL else None, **changes)
        for role in (SL, TP)
    ]


@pytest.mark.parametrize(
    ("quantity", "legs", "expected"),
    [
        (5, [leg(SL, State.ACCEPTED), leg(TP, W)], None),
        (3, [leg(SL, State.ACCEPTED), leg(TP, W)], A.CANCEL),
        (5, [leg(SL, State.ACCEPTED, stop_price=D(90)), leg(TP, W)], None),
        (5, [leg(SL, State.ACCEPTED, stop_price=D(89)), leg(TP, W)], A.CANCEL),
        (5, [leg(SL, State.ACCEPTED, stop_price=D(90)), leg(TP, W, price=D(118))], A.CANCEL),
        (5, [leg(SL, State.UNKNOWN, stop_price=D(89)), leg(TP, W)], A.WAIT),
        (5, [leg(TP, W)], A.CANCEL),
        (5, [], A.PLACE),
        (5, [leg(SL, State.CANCELLED), leg(TP, State.EXPIRED)], A.PLACE),
        (5, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], A.PLACE),
        (5, [leg(SL, State.SENDING), leg(TP, State.INTENDED)], A.WAIT),
        (5, [leg(SL, State.UNKNOWN), leg(TP, W)], A.WAIT),
        (0, [leg(SL, W), leg(TP, W)], A.CANCEL),
        (0, [leg(SL, State.FILLED), leg(TP, State.EXPIRED)], None),
        (0, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], A.ABANDON),
        (0, [], None),
        (5, [leg(SL, State.CANCELLED, reported_cum_qty=D(1))], A.WAIT),
    ],
)
def test_legs_that_are_wrong_end_before_others_are_placed(
    quantity: int, legs: list[Order], expected: LegAction | None
) -> None:
    step = step_of(want_of(entry("p", 5), D(quantity)), legs)
    assert (None if step is None else step.action) is expected


@pytest.mark.parametrize(
    ("quantity", "legs", "expected"),
    [
        ("9", pair(4), "place 5"),  # the difference gets a list of its own
        ("9", [*pair(4), *pair(3, 1)], "cancel 1 0"),  # of two lists one is replaced: the smaller
        ("6", [*pair(4), *pair(3, 1)], "amend 0 3"),
        ("3", [*pair(4), *pair(3, 1)], "cancel 0 0"),  # what is too much is a whole list
        ("3", [*pair("4.5"), *pair("1.8", 1)], "amend 0 1.2"),  # one request, where two lists would change
        ("3", pair(4), "amend 0 3"),
        ("0.05", pair(4), "cancel 0 0"),  # the rest could not rest
        ("4.02", pair(4), "amend 0 3.964"),  # enough for a list that can rest: 0.056 at a stop of 90
        ("0.08", pair("0.06"), "cancel 0 0"),  # too little for two lists
        ("5", pair(5, request=Request.REPLACE), "wait 0"),
        ("9", pair(5, request=Request.REPLACE_UNKNOWN), "wait 0"),
        ("5", [leg(SL, W, 5, stop_price=D(90)), leg(TP, State.EXPIRED)], "cancel 0 0"),
        ("5", [leg(SL, W, 5, stop_price=D(90))], "nothing"),  # it was placed alone
    ],
)
def test_legs_follow_the_want_without_ending_the_last_stop(quantity: str, legs: list[Order], expected: str) -> None:
    assert as_text(step_of(want_of(entry("p", 9), D(quantity)), legs, can_amend=True)) == expected


@pytest.mark.parametrize(
    ("quantity", "can_amend", "expected"),
    [
        ("1", True, ["cancel 0+1 0", "amend 2 1"]),  # one way to the venue, where each list would take one
        ("8", True, ["amend 0 3"]),  # one request is enough
        ("5", True, ["cancel 0 0"]),
        ("2.5", True, ["cancel 0 0", "amend 1 0.5"]),
        ("2.02", True, ["cancel 0+2 0", "amend 1 2.02"]),  # of list 1 too little would be left
        ("1", False, ["cancel 0+1 0"]),  # the last list stands until the others have ended
    ],
)
def test_lists_are_ended_and_another_reduced_at_once(quantity: str, can_amend: bool, expected: list[str]) -> None:
    lists = [*pair(4), *pair(3, 1), *pair(2, 2)]
    covers = [Cover(want_of(entry("p", 9), D(quantity)), tuple(lists), can_amend=can_amend)]
    assert [as_text(step) for step in diff(covers, INSTRUMENT)] == expected


A_STOP = {"stop_price": D(90)}


@pytest.mark.parametrize(
    ("level", "quantity", "legs", "expected"),
    [
        (95, "5", [leg(SL, State.ACCEPTED, **A_STOP)], "replace 0 5"),
        (90, "5", [leg(SL, State.ACCEPTED, **A_STOP)], "nothing"),
        (90, "3", [leg(SL, State.ACCEPTED, **A_STOP)], "replace 0 3"),  # too much, where the venue cannot amend
        (90, "5.02", [leg(SL, State.ACCEPTED, **A_STOP)], "replace 0 5.02"),  # too little more for a list of its own
        (90, "0.05", [leg(SL, State.ACCEPTED, **A_STOP)], "cancel 0 0"),  # the rest could not rest
        (95, "5", [leg(SL, State.WORKING, **A_STOP)], "cancel 0 0"),  # it triggered
        (95, "5", [leg(SL, State.ACCEPTED, group_id="g", **A_STOP)], "cancel 0 0"),  # it went out in a list
        (95, "5", [leg(SL, State.ACCEPTED, request=Request.REPLACE, **A_STOP)], "wait 0"),
        (95, "5", [leg(SL, State.ACCEPTED, request=Request.REPLACE_UNKNOWN, **A_STOP)], "wait 0"),
        (95, "5", [leg(SL, State.ACCEPTED, 3, **A_STOP), leg(SL, State.ACCEPTED, 2, attempt=1, **A_STOP)], "replace 1 2"),
    ],
)  # fmt: skip
def test_a_stop_alone_is_replaced_by_one_request(level: int, quantity: str, legs: list[Order], expected: str) -> None:
    parent = entry("p", 9, stop_loss=D(level), take_profit=None)
    assert as_text(step_of(want_of(parent, D(quantity)), legs, can_replace=True)) == expected
    without = as_text(step_of(want_of(parent, D(quantity)), legs))
    attempt = expected.split()[-2:-1]
    assert without == (f"cancel {attempt[0]} 0" if expected.startswith("replace") else expected)


def test_replacements_take_what_is_free_once() -> None:
    """The venue gives back nothing of one entry's stop: the needs of two others may not exceed the rest."""
    kept = entry("c", 2, take_profit=None)
    unclear = leg(SL, State.ACCEPTED, 5, request=Request.CANCEL_UNKNOWN, **A_STOP)
    covers = [Cover(want_of(kept, D(2)), (unclear,), can_replace=True)]
    for name in ("a", "b"):
        parent = entry(name, 5, stop_loss=D(95), take_profit=None)
        covers.append(Cover(want_of(parent, D(5)), (leg(SL, State.ACCEPTED, 3, **A_STOP),), can_replace=True))
    steps = diff(covers, INSTRUMENT)
    assert [as_text(step) for step in steps] == ["cancel 0 0", "replace 0 4", "replace 0 3"]


def test_the_stop_of_a_pair_is_not_replaced_by_one_request() -> None:
    parent = entry("p", 9, stop_loss=D(95))
    assert as_text(step_of(want_of(parent, D(5)), pair(5), can_replace=True)) == "cancel 0 0"


@pytest.mark.parametrize(("attempt", "expected"), [(1, "nothing"), (1000, "cancel 1000 0"), (1001, "nothing")])
def test_a_stop_of_the_guardian_gives_way_to_the_pair(attempt: int, expected: str) -> None:
    """The guardian places the stop alone; one that the order manager placed so was refused as a pair before."""
    stop = leg(SL, State.ACCEPTED, attempt=attempt, stop_price=D(90))
    assert as_text(step_of(want_of(entry("p", 5), D(5)), [stop])) == expected


def test_growth_is_joined_while_legs_live() -> None:
    want = want_of(entry("p", 9), D(9))
    assert step_of(want, pair(4), may_grow=False) is None
    assert as_text(step_of(want, [], may_grow=False)) == "place 9"


def test_a_venue_that_takes_one_list_has_it_replaced() -> None:
    assert as_text(step_of(want_of(entry("p", 9), D(9)), pair(4), lists_max=1)) == "cancel 0 0"
    lists = [leg_ for number, quantity in enumerate((4, 1, 2, 2)) for leg_ in pair(quantity, number)]
    assert as_text(step_of(want_of(entry("p", 9), D(9)), lists, lists_max=2)) == "cancel 1+2+3 0"
    assert step_of(want_of(entry("p", 9), D(9)), lists, lists_max=4) is None


def test_an_added_entry_leaves_the_older_stop_where_it_is() -> None:
    """Position 3.996: each entry bought 2, less a fee of 0.002. The wants are 2 and 1.996."""
    old, new = (want_of(entry(name, 2, take_profit=None), D(q)) for name, q in (("old", "1.996"), ("new", 2)))
    stop = leg(SL, W, "1.998", stop_price=D(90))
    covers = [Cover(new, can_amend=True), Cover(old, (stop,), can_amend=True)]
    assert [as_text(step) for step in diff(covers, INSTRUMENT)] == ["amend 0 1.996", "wait 0"]
    reduced = replace(stop, quantity=D("1.996"))
    covers = [Cover(new, can_amend=True), Cover(old, (reduced,), can_amend=True)]
    assert [as_text(step) for step in diff(covers, INSTRUMENT)] == ["place 2"]


def test_a_venue_that_cannot_amend_gives_back_first() -> None:
    old, new = (want_of(entry(name, 2, take_profit=None), D(q)) for name, q in (("old", "1.996"), ("new", 2)))
    stop = leg(SL, W, "1.998", stop_price=D(90))
    for request, expected in (
        (Request.NONE, ["cancel 0 0", "wait 0"]),
        (Request.CANCEL, ["wait 0", "wait 0"]),
        (Request.CANCEL_UNKNOWN, ["cancel 0 0", "place 1.998"]),  # a cancel that is refused blocks no other
    ):
        covers = [Cover(new), Cover(old, (replace(stop, request=request),))]
        assert [as_text(step) for step in diff(covers, INSTRUMENT)] == expected, request


def test_small_wants_of_one_price_are_joined() -> None:
    """0.05 at a stop of 90 is less than 5 USDT."""
    small = [entry(str(number), "0.05", created_ns=-number) for number in range(4)]
    other = entry("other", "0.05", stop_loss=D(80), created_ns=-9)
    wants = desired(D("0.25"), [*small, other], D(0), INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants if want.quantity] == [
        ("3", D("0.2")),
        ("other", D("0.05")),
    ]
    large = entry("large", 5, created_ns=1)
    joined = desired(D("5.05"), [large, small[0]], D(0), INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in joined] == [("large", D("5.05")), ("0", D(0))]


def test_what_legs_executed_counts_against_their_own_entry() -> None:
    """The newest one's stop closed it. An exit takes from the oldest one that is left."""
    entries = [entry("new", 3, stop_loss=D(95)), entry("old", 5), entry("oldest", 2)]

    def parts(held: Any, **executed: Any) -> dict[str, Decimal]:
        legs = {name: D(quantity) for name, quantity in executed.items()}
        wants = desired(D(held), entries, D(0), INSTRUMENT, legs)
        assert {one.client_order_id for one in made_of(D(held), entries, INSTRUMENT, legs)} == {
            want.parent.client_order_id for want in wants if want.quantity
        }
        return {want.parent.client_order_id: want.quantity for want in wants}

    assert parts(7, new=3) == {"new": 0, "old": 5, "oldest": 2}
    assert parts(5, new=1, old=4) == {"new": 2, "old": 1, "oldest": 2}
    assert parts(4, new=1, old=4) == {"new": 2, "old": 1, "oldest": 1}
    assert parts(9, oldest=1) == {"new": 3, "old": 5, "oldest": 1}


@pytest.mark.parametrize("host", ["first", "last"])
def test_a_stop_that_small_entries_share_closes_all_of_them(host: str) -> None:
    """The stop of a larger entry, older or newer, was also that of three which could not rest alone."""
    prices: dict[str, Any] = {"stop_loss": D(95), "created_ns": 1}
    small = [entry(str(number), "0.05", **prices) for number in range(3)]
    large, other = entry("large", 5, **prices), entry("other", 4)
    entries = [*small, large, other] if host == "first" else [large, *small, other]
    sold = {"large": D("5.15")}
    assert [want.quantity for want in desired(D(4), entries, D(0), INSTRUMENT, sold)] == [0, 0, 0, 0, 4]
    book = Entries()
    for one in entries:
        book.put(one, sold.get(one.client_order_id, D(0)))
    assert {one.client_order_id for one in book.not_held(D(4), ())} == {"0", "1", "2", "large"}
    assert book.not_held(D(4), {"1"}) == []  # the others are needed to know that it holds nothing


def test_the_rest_of_a_closed_entry_makes_no_entry_of_the_position() -> None:
    """0.05 at a stop of 90 is less than 5 USDT; the instrument's lot is 0.001."""
    newest, closed = entry("newest", 5, stop_loss=D(80)), entry("closed", 9)
    small = [entry(str(number), "0.05", created_ns=-number) for number in range(2)]

    def names(position: str, *entries: Order) -> list[str]:
        return [one.client_order_id for one in made_of(D(position), entries, INSTRUMENT)]

    assert names("5.0009", newest, closed) == ["newest"]  # less than a lot
    assert names("5.055", newest, closed) == ["newest"]  # less than the smallest order
    assert names("5.056", newest, closed) == ["newest", "closed"]
    assert names("5.05", entry("same", 5), closed) == ["same"]  # also at the same prices
    assert names("0.05", closed) == []
    assert names("0.1", *small) == ["0", "1"]  # together they can rest
    assert names("0.05", *small) == []
    assert names("5.05", entry("same", 5), small[0]) == ["same", "0"]
    assert names("5", entry("plain", 5, stop_loss=None, take_profit=None), closed) == []
    assert names("-5", newest, closed) == []


@pytest.mark.parametrize(
    ("quantity", "levels", "changes", "expected"),
    [
        ("0.054", {"stop_loss": D(91)}, {}, "nothing"),
        ("0.055", {"stop_loss": D(91)}, {}, "cancel 0 0"),
        ("0.054", {"stop_loss": D(91)}, {"can_reprice": True}, "nothing"),
        ("0.06", {"side": Side.SELL, "stop_loss": D(90), "take_profit": D(80)}, {}, "nothing"),
        ("0.054", {"stop_loss": D(91), "take_profit": None}, {}, "cancel 0 0"),  # its legs are others
    ],
)
def test_a_list_whose_successor_could_not_rest_stays(
    quantity: str, levels: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    """A stop that is behind protects more than none. At its new prices the list is worth less than 5 USDT."""
    want = want_of(entry("p", 5, **levels), D(quantity))
    assert as_text(step_of(want, pair(quantity), **changes)) == expected
    in_old_shares = [evolve(one, code=OLD_SHARES) for one in pair(quantity)]
    assert as_text(step_of(want, in_old_shares, **changes)) == "cancel 0 0"


def test_the_newest_entry_counts_before_its_stop_could_rest() -> None:
    """At the stop 0.06 is worth less than 5 USDT, and at the price that was paid more: a part that filled, or was left
    by an exit of a share. Its stop has to trail until it may rest."""
    small = entry("small", "0.06", stop_loss=D(80), average_price=D(100))
    shared = entry("shared", 5, stop_loss=D(80), average_price=D(100), created_ns=-1)
    below = entry("below", 5, side=Side.SELL, stop_loss=D(120), take_profit=D(80), average_price=D(100))

    def names(position: str, *entries: Order) -> list[str]:
        return [one.client_order_id for one in made_of(D(position), entries, INSTRUMENT)]

    assert names("0.06", small) == ["small"]
    assert names("0.06", shared) == ["shared"]
    assert names("-0.06", below) == ["below"]
    assert names("0.049", shared) == []  # what a close has left could not be sold either
    assert names("0.12", small, shared) == ["small"]
    assert names("5.06", entry("plain", 5, stop_loss=None, take_profit=None), shared) == []
    closed = entry("closed", 3, stop_loss=D(95), average_price=D(100), created_ns=1)
    made = made_of(D("0.06"), [closed, small], INSTRUMENT, {"closed": D(3)})
    assert made == [small]  # the newest that is held: its own stop closed a newer one


LEAST = D("0.056")


@given(data=st.data(), can_amend=st.booleans())
def test_the_last_stop_stands_while_legs_follow_the_want(data: st.DataObject, can_amend: bool) -> None:
    """A venue that answers well: live legs never close more than is wanted at most, and reach what is wanted."""
    parent, legs, stop_was_down = entry("p", 99, take_profit=None), dict[int, Order](), False
    quantities = data.draw(st.lists(st.integers(120, 9000).map(lambda n: D(n) / 1000), min_size=1, max_size=6))
    for quantity in quantities:
        want, is_first, steps = want_of(parent, quantity), not legs, 0
        while steps < 12:
            step = step_of(want, list(legs.values()), can_amend=can_amend)
            if step is None:
                break
            steps += 1
            if step.action is A.PLACE:
                number = next_attempt(list(legs.values()))
                legs[number] = replace(leg(SL, W, step.quantity, stop_price=D(90)), attempt=number)
            elif step.action is A.AMEND:
                legs[step.legs[0].attempt] = replace(step.legs[0], quantity=step.quantity)
            else:
                for ended in step.legs:
                    legs[ended.attempt] = replace(ended, state=State.CANCELLED)
                live = [one for one in legs.values() if one.state is W]
                # without an amendment a single list is replaced to shrink
                stop_was_down |= not live and not is_first and can_amend
            live = [one for one in legs.values() if one.state is W]
            assert len(live) <= 2
        assert sum(one.quantity for one in live) == quantity
        assert all(one.quantity >= LEAST for one in live)
    assert not stop_was_down


@given(quantity=st.integers(120, 9000).map(lambda n: D(n) / 1000), moves=st.integers(1, 4))
def test_a_pair_that_trails_moves_in_two_halves(quantity: Decimal, moves: int) -> None:
    """Half of the position, a lot less at most, has its stop at each moment; a list is ended by none but its turn."""
    lists = {0: pair(quantity)}
    for move in range(1, moves + 1):
        parent = entry("p", 99, stop_loss=D(90 + move))
        for _ in range(8):
            legs = [one for legs in lists.values() for one in legs]
            step = step_of(want_of(parent, quantity), legs, can_amend=True, lists_max=3)
            if step is None:
                break
            if step.action is A.PLACE:
                number = next_attempt(legs)
                lists[number] = pair(step.quantity, number, 90 + move)
            elif step.action is A.AMEND:
                lists[step.legs[0].attempt] = [replace(one, quantity=step.quantity) for one in step.legs]
            else:
                lists[step.legs[0].attempt] = [replace(one, state=State.CANCELLED) for one in step.legs]
            covered = sum((legs[0].quantity for legs in lists.values() if legs[0].state is W), D(0))
            assert quantity / 2 - D("0.001") <= covered <= quantity
        live = [legs[0] for legs in lists.values() if legs[0].state is W]
        assert {(one.stop_price, len(live)) for one in live} == {(D(90 + move), 2)}
        assert sum(one.quantity for one in live) == quantity


@pytest.mark.parametrize(
    ("quantity", "changes"),
    [
        ("0.109", {"can_amend": True, "lists_max": 3}),  # a half could not rest
        (5, {"can_amend": True}),  # the symbol has no room for more lists
        (5, {"lists_max": 3}),  # the venue cannot amend
    ],
)
def test_a_pair_moves_whole_where_its_halves_cannot(quantity: Any, changes: dict[str, Any]) -> None:
    want = want_of(entry("p", 99, stop_loss=D(92)), D(quantity))
    assert as_text(step_of(want, pair(quantity), **changes)) == "cancel 0 0"


def test_legs_wait_while_their_entry_may_still_fill() -> None:
    parent = entry("p", 0, state=State.WORKING)
    assert step_of(want_of(parent, D(0)), [leg(SL, State.INTENDED)]) is None


def test_legs_wait_while_an_execution_of_their_entry_is_not_booked() -> None:
    parent = entry("p", 0, reported_cum_qty=D(5))
    assert step_of(want_of(parent, D(0)), [leg(SL, State.INTENDED)]) is None


def test_without_an_oco_only_the_stop_lives_at_the_venue() -> None:
    want = want_of(entry("p", 5), D(5))
    step = step_of(want, [leg(SL, State.INTENDED), leg(TP, State.INTENDED)], has_oco=False)
    assert step is not None
    assert (step.action, [one.role for one in step.legs]) == (A.PLACE, [SL])
    assert step_of(want, [leg(SL, W), leg(TP, State.INTENDED)], has_oco=False) is None


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


@pytest.mark.parametrize("step_s", [0.0, 60.0, -60.0, 3600.0])
@pytest.mark.parametrize(("role", "steady_s"), [(Role.ENTRY, 131), (SL, 131), (Role.EXIT, 145), (Role.KILL, 145)])
async def test_a_step_of_the_clock_proves_no_absence(role: Role, steady_s: int, step_s: float) -> None:
    """The order left at 100; the step comes at 108. The proof holds after 30 s, that of a close after 45 s, or a minute
    after the step. The answers at 5 to 29 s count, and the last one has to be that old."""
    clock = FakeClock()
    steps = ClockSteps(clock)
    await clock.advance(100.0)
    rule = AbsenceRule(polls=3, spacing_s=2.0, first_s=5.0, age_s=30.0).of(role)
    proof = AbsenceProof(rule, steps, clock.now_ns())
    absent_at = None
    for second in range(101, 200):
        await clock.advance(1.0)
        if second == 108:
            clock.step(step_s)
        if proof.not_found() and absent_at is None:
            absent_at = second
        assert proof.age_s == second - 100
    assert absent_at == (168 if step_s else steady_s)


async def test_a_moment_has_its_age_on_either_side_of_a_step() -> None:
    clock = FakeClock()
    steps, moments = ClockSteps(clock), [clock.now_ns() - 10**9]  # one from before this process
    for step_s in (60.0, 0.0, -60.0, 0.0, 60.0):
        await clock.advance(100.0)
        moments.append(clock.now_ns())
        await clock.advance(100.0)
        clock.step(step_s)
        steps.age_s(0)
    assert [steps.age_s(moment) for moment in moments] == [1001.0, 900.0, 700.0, 500.0, 300.0, 100.0]
    assert (steps.age_s(clock.now_ns() + 10**9), steps.since_s()) == (0.0, 0.0), "nothing is younger than now"


def test_the_ladder_s_last_step_repeats() -> None:
    delays = (0.25, 0.5, 1.0)
    assert [ladder_delay(number, delays) for number in range(5)] == [0.25, 0.5, 1.0, 1.0, 1.0]


LISTED = {"group_id": "list", "code": PENDING}
#: an entry of 10 of a list, its legs, what is held, and the step: None = nothing to do
FROM_THE_ENTRY_ON = [
    ({"state": W, "filled": D(0)}, LISTED, D(0), "nothing"),  # waits with its entry, of which nothing is filled
    # of a part they first give back what is to be covered apart
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED, D(4), "amend 0 6"),
    ({"state": State.PARTIAL, "filled": D(4), "reported_cum_qty": D(5)}, LISTED, D(4), "amend 0 5"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"quantity": 6}, D(4), "place 4"),
    # another part was executed meanwhile: what they gave back is covered before they give back more
    ({"state": State.PARTIAL, "filled": D(7)}, LISTED | {"quantity": 6}, D(7), "place 4"),
    ({"state": State.PARTIAL, "filled": D("4.04")}, LISTED | {"quantity": 6}, D("4.04"), "place 4"),
    ({"state": State.PARTIAL, "filled": D("4.04")}, LISTED | {"quantity": "9.97"}, D("4.04"), "amend 0 5.96"),
    # a part that was sold is not sold again
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED, D(0), "amend 0 6"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED, D(1), "amend 0 6"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"quantity": 6}, D(0), "nothing"),
    ({"state": State.PARTIAL, "filled": D("9.99")}, LISTED, D(0), "cancel p"),
    ({"state": State.PARTIAL, "filled": D("0.04")}, LISTED, D("0.04"), "place 0.04"),  # could not rest, nor be sent
    # an answer is on its way
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"state": State.SENDING}, D(4), "wait 0"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"state": State.UNKNOWN}, D(4), "wait 0"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"request": Request.REPLACE}, D(4), "wait 0"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"request": Request.REPLACE_UNKNOWN}, D(4), "wait 0"),
    # the rest could not rest alone: it is ended
    ({"state": State.PARTIAL, "filled": D("9.99")}, LISTED, D("9.99"), "cancel p"),
    # one that fills at once has no part
    ({"state": State.PARTIAL, "filled": D(4), "time_in_force": TimeInForce.FOK}, LISTED, D(4), "wait 0"),
    # the entry has ended, the report of its legs is on its way
    ({"state": State.FILLED, "filled": D(10)}, LISTED, D(10), "wait 0"),
    ({"state": State.CANCELLED, "filled": D(4)}, LISTED, D(4), "wait 0"),
    # seen on the book before the entry's executions are booked: never ended for being too much
    ({"state": W, "filled": D(0)}, LISTED | {"code": None}, D(0), "wait 0"),
    ({"state": State.PARTIAL, "filled": D(4)}, LISTED | {"code": None}, D(4), "wait 0"),
    ({"state": State.FILLED, "filled": D(10)}, LISTED | {"code": None}, D(10), "nothing"),
]


def listed_step(changes: dict[str, Any], fields: dict[str, Any], held: Decimal, **cover: Any) -> str:
    """Return the step for an entry and the legs that went out with it."""
    parent = entry("p", **({"quantity": D(10), "group_id": "list"} | changes))
    legs = tuple(
        leg(role, **{"state": W if role is TP and fields["code"] is None else State.ACCEPTED, "quantity": 10} | fields)
        for role in (SL, TP)
    )
    (want,) = desired(held, [parent], D(0), INSTRUMENT)
    step = step_of(want, list(legs), **{"can_amend": True} | cover)
    if step is not None and parent in step.legs:
        return f"{step.action.name.lower()} {parent.client_order_id}"
    return as_text(step) if step is None or step.legs or step.quantity else f"{step.action.name.lower()} 0"


def test_exits_that_wait_give_back_a_part_that_was_sold_beside_a_list() -> None:
    """Of 7 executed 4 are covered; the other 3 were sold before they were."""
    parent = entry("p", 7, quantity=D(10), state=State.PARTIAL, group_id="list")
    (want,) = desired(D(4), [parent], D(0), INSTRUMENT)
    waiting = [leg(role, State.ACCEPTED, 6, **LISTED) for role in (SL, TP)]
    step = step_of(want, [*waiting, *pair(4, 1)], can_amend=True)
    assert as_text(step) == "amend 0 3"


def test_a_part_gets_no_list_for_what_another_entry_s_list_and_waiting_exits_close() -> None:
    """Of 7 executed 1 was sold: the older entry's list, which is about to be reduced, is 1 too large."""
    parent = entry("p", 7, quantity=D(10), state=State.PARTIAL, group_id="list")
    new, old = desired(D(11), [parent, entry("old", 5, created_ns=-1)], D(0), INSTRUMENT)
    waiting = [leg(role, State.ACCEPTED, 6, **LISTED) for role in (SL, TP)]
    stop = pair(5, request=Request.REPLACE_UNKNOWN)
    steps = diff([Cover(new, tuple(waiting), can_amend=True), Cover(old, tuple(stop), can_amend=True)], INSTRUMENT)
    assert [as_text(step) for step in steps] == ["wait 0", "place 3"]


@pytest.mark.parametrize(("changes", "fields", "held", "expected"), FROM_THE_ENTRY_ON)
def test_legs_that_went_out_with_their_entry(
    changes: dict[str, Any], fields: dict[str, Any], held: Decimal, expected: str
) -> None:
    assert listed_step(changes, fields, held) == expected


A_PART = {"state": State.PARTIAL, "filled": D(4)}


def test_an_entry_whose_exits_cannot_give_back_a_part_is_ended() -> None:
    assert listed_step(A_PART, LISTED, D(4), can_amend=False) == "cancel p"


def test_parts_that_fill_at_once_leave_the_venue_s_exits_as_they_are() -> None:
    assert listed_step(A_PART, LISTED, D(4), may_grow=False) == "wait 0"


@given(
    st.decimals(D("0.5"), D(9), places=3),
    st.decimals(D(0), D("0.01"), places=5),
    st.sampled_from([D("0.001"), D("0.01")]),
)
def test_parts_and_what_waits_never_close_more_than_the_entry_received(
    part: Decimal, fee_rate: Decimal, lot: Decimal
) -> None:
    """And not a lot less either."""
    instrument = an_instrument(lot_step=lot, qty_min=lot)
    part, waiting = instrument.round_quantity(part), instrument.round_quantity(10 * (1 - fee_rate))
    parent = entry("p", part, quantity=D(10), state=State.PARTIAL, group_id="list")
    (want,) = desired(part * (1 - fee_rate), [parent], D(0), instrument)
    legs = tuple(leg(role, State.ACCEPTED, waiting, **LISTED) for role in (SL, TP))
    (step,) = diff([Cover(want, legs, can_amend=True, fee_rate=fee_rate)], instrument)
    assert step.action is A.AMEND
    less = tuple(replace(one, quantity=step.quantity) for one in legs)
    (placed,) = diff([Cover(want, less, can_amend=True, fee_rate=fee_rate)], instrument)
    assert (placed.action, placed.quantity) == (A.PLACE, want.quantity)
    assert step.quantity + placed.quantity == waiting


def test_a_part_of_an_open_list_is_covered_by_no_other_entry_s_legs() -> None:
    """Its own wait for the whole entry, that part included."""
    small = entry("p", D("0.01"), quantity=D(10), state=State.PARTIAL, group_id="list")
    wants = desired(D("5.01"), [small, entry("old", 5)], D(0), INSTRUMENT)
    assert [(want.parent.client_order_id, want.quantity) for want in wants] == [("p", D("0.01")), ("old", D(5))]


@pytest.mark.parametrize("filled", [D("2.5"), D("0.333333333334")])
def test_lots_that_a_split_leaves_over_at_one_entry_are_covered_at_another(filled: Decimal) -> None:
    """Three entries of 25 shares are 2.5 each after 1:10, and the position is 7; three of one are one after 1:3."""
    instrument = an_instrument(lot_step=D(1), qty_min=D(1), notional_min=D(0))
    entries = [
        an_order(client_order_id=name * 32, state=State.FILLED, quantity=filled, filled=filled, stop_loss=stop)
        for name, stop in (("c", D(92)), ("b", D(91)), ("a", D(90)))
    ]
    held = instrument.round_quantity(3 * filled)
    wants = desired(held, entries, D(0), instrument)
    assert sum(want.quantity for want in wants) == held
    assert sum(want.quantity for want in desired(held, entries, D(1), instrument)) == held - 1


TRIGGERS, MATCHES = Refusal.WOULD_TRIGGER, Refusal.WOULD_MATCH
CLOSED_IN_PART = (
    leg(SL, State.ACCEPTED, stop_price=D(90)),
    leg(SL, State.REJECTED, attempt=1, stop_price=D(90), refusal=TRIGGERS),
    leg(SL, State.EXPIRED, type=OrderType.MARKET, attempt=2),
)


@pytest.mark.parametrize(
    ("changes", "legs", "roles"),
    [
        ({}, [leg(SL, State.REJECTED, stop_price=D(90), refusal=TRIGGERS)], {SL}),
        ({}, [replace(one, state=State.REJECTED, refusal=TRIGGERS) for one in pair(5)], {SL, TP}),
        ({}, [replace(one, state=State.REJECTED, refusal=MATCHES) for one in pair(5)], {TP}),
        ({}, [leg(SL, State.EXPIRED, stop_price=D(90), refusal=TRIGGERS), leg(TP, State.EXPIRED)], {SL}),
        ({}, [leg(SL, State.EXPIRED, stop_price=D(90), refusal=Refusal.PRICE)], {SL}),
        ({}, [leg(SL, State.REJECTED, stop_price=D(90), refusal=Refusal.PRICE)], set()),
        ({}, [leg(SL, State.REJECTED, stop_price=D(90), refusal=TRIGGERS), leg(SL, State.ACCEPTED, attempt=1)], set()),
        ({}, [leg(SL, State.REJECTED, type=OrderType.MARKET, attempt=1)], {SL}),
        ({}, [leg(TP, State.EXPIRED, type=OrderType.MARKET, attempt=1)], {TP}),
        ({}, [leg(SL, State.FILLED, type=OrderType.MARKET, attempt=1)], set()),
        # the entry's stop or target has another price by now
        ({"stop_loss": D(95)}, [leg(SL, State.REJECTED, stop_price=D(90), refusal=TRIGGERS)], set()),
        ({"stop_loss": D(80)}, [leg(SL, State.REJECTED, stop_price=D(90), refusal=TRIGGERS)], set()),
        ({"take_profit": D(130)}, [leg(TP, State.REJECTED, refusal=MATCHES)], set()),
        ({"stop_loss": D(92)}, [*CLOSED_IN_PART], set()),
        ({}, [*CLOSED_IN_PART], {SL}),
        ({}, [leg(SL, State.REJECTED, stop_price=D(90))], set()),  # of before reasons were stored
    ],
)
def test_a_leg_counts_as_passed_while_the_venue_s_refusal_proves_it(
    changes: dict[str, Any], legs: list[Order], roles: set[Role]
) -> None:
    assert Cover(want_of(entry("p", 5, **changes), D(5)), tuple(legs)).passed == roles


def test_a_stop_that_moves_outlives_an_older_proof_that_it_was_passed() -> None:
    """The rest of a close is dust; the other part of the entry keeps its stop."""
    parent = entry("p", 10, stop_loss=D(92), take_profit=None)
    cover = Cover(Want(parent, D(5), D(5)), CLOSED_IN_PART, can_replace=True)
    assert [step.action for step in diff([cover], INSTRUMENT)] == [A.REPLACE]
    ended = replace(CLOSED_IN_PART[0], state=State.CANCELLED)
    assert Cover(cover.want, (ended, *CLOSED_IN_PART[1:])).passed == set()


def test_a_close_at_the_market_takes_no_list_s_place() -> None:
    """The symbol has its most lists: the stop of the other part stays."""
    legs = (
        leg(SL, State.ACCEPTED, 3, stop_price=D(90)),
        leg(SL, State.REJECTED, attempt=1, stop_price=D(90), refusal=TRIGGERS),
    )
    cover = Cover(want_of(entry("p", 5, take_profit=None), D(5)), legs, lists_max=1, can_replace=True)
    assert [(step.action, step.quantity) for step in diff([cover], INSTRUMENT)] == [(A.PLACE, D(2))]
