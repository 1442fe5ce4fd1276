"""The policy over every combination of request, kill, person, venue and journal."""

from __future__ import annotations

from itertools import product

import pytest

from fks.model.codes import Code
from fks.model.kill import KillMode, strongest
from fks.model.order import Role
from fks.trading.risk.policy import (
    POLICY,
    Action,
    Allow,
    Circumstances,
    Deny,
    JournalState,
    Permission,
    Reach,
    Wait,
    action_of,
    allowed,
    is_ended,
    journals_of,
    stopped_by,
)

EVERY = [
    (action, Circumstances(*values))
    for action, *values in product(Action, KillMode, (False, True), Reach, JournalState)
]
A, J, K, R = Action, JournalState, KillMode, Reach


def answers(action: Action, **fixed: object) -> set[Permission]:
    """Return what an action gets under every circumstance that has these values."""
    return {
        allowed(action, now)
        for each, now in EVERY
        if each is action and all(getattr(now, name) == value for name, value in fixed.items())
    }


def test_every_combination_has_a_row_and_every_row_decides_one() -> None:
    first = {next(row for row in POLICY if row.applies(action, now)) for action, now in EVERY}
    assert first == set(POLICY)


def test_an_entry_goes_only_where_nothing_speaks_against_it() -> None:
    going = [now for action, now in EVERY if action is A.ENTRY and isinstance(allowed(action, now), Allow)]
    assert going == [Circumstances(is_by_person=by) for by in (False, True)]


def test_exits_legs_and_kill_orders_are_never_denied_and_cancels_go_by_either_journal() -> None:
    for action in (A.EXIT, A.LEG, A.KILL):
        assert not any(isinstance(answer, Deny) for answer in answers(action))
    for journal in (J.COMMITS, J.SIDE):
        assert answers(A.CANCEL, journal=journal) == {Allow()}
    assert answers(A.CANCEL, journal=J.AWAY) == {Wait("the lease or the journal is away", Code.JOURNAL_DOWN)}


def test_under_a_kill_that_closes_only_its_own_orders_and_cancels_go() -> None:
    going = {a for a, now in EVERY if now.kill is K.FLATTEN and isinstance(allowed(a, now), Allow)}
    assert going == {A.KILL, A.CANCEL}
    assert not any(isinstance(answer, Allow) for mode in (K.NONE, K.HELD) for answer in answers(A.KILL, kill=mode))


def test_under_a_held_kill_protection_and_a_persons_exit_go() -> None:
    at_hand = {"kill": K.HELD, "venue": R.READY, "journal": J.COMMITS}
    assert answers(A.LEG, **at_hand) == {Allow()}
    assert answers(A.EXIT, is_by_person=True, **at_hand) == {Allow()}
    assert answers(A.EXIT, is_by_person=False, **at_hand) == {Wait("the kill switch is engaged", Code.KILLED)}


def test_by_the_side_journal_protection_and_exits_go_without_a_kill() -> None:
    for action in (A.EXIT, A.LEG):
        assert answers(action, kill=K.NONE, venue=R.READY, journal=J.SIDE) == {Allow()}
        assert not any(isinstance(answer, Allow) for answer in answers(action, kill=K.HELD, journal=J.SIDE))
    for action in (A.ENTRY, A.KILL):
        assert not any(isinstance(answer, Allow) for answer in answers(action, journal=J.SIDE))


def test_a_venue_that_is_not_reconciled_holds_up_entries_alone() -> None:
    for action in (A.EXIT, A.LEG):
        assert answers(action, venue=R.UNRECONCILED) == answers(action, venue=R.READY)
    assert answers(A.ENTRY, kill=K.NONE, venue=R.UNRECONCILED, journal=J.COMMITS) == {Deny(Code.VENUE_NOT_RECONCILED)}
    assert answers(A.ENTRY, kill=K.NONE, venue=R.AWAY, journal=J.COMMITS) == {Deny(Code.VENUE_DOWN)}


@pytest.mark.parametrize(
    ("action", "is_by_person", "modes"),
    [
        (A.ENTRY, False, {K.HELD, K.FLATTEN}),
        (A.ENTRY, True, {K.HELD, K.FLATTEN}),
        (A.EXIT, False, {K.HELD, K.FLATTEN}),
        (A.EXIT, True, {K.FLATTEN}),
        (A.LEG, False, {K.FLATTEN}),
        (A.KILL, False, {K.HELD}),
    ],
)
def test_the_statement_looks_for_the_kills_that_stop_it(
    action: Action, is_by_person: bool, modes: set[KillMode]
) -> None:
    assert stopped_by(action, is_by_person=is_by_person) == modes


@pytest.mark.parametrize(
    ("action", "journals"),
    [
        (A.ENTRY, {J.COMMITS}),
        (A.EXIT, {J.COMMITS, J.SIDE}),
        (A.LEG, {J.COMMITS, J.SIDE}),
        (A.CANCEL, {J.COMMITS, J.SIDE}),
        (A.KILL, {J.COMMITS}),
    ],
)
def test_the_last_look_asks_for_the_right_to_send(action: Action, journals: set[JournalState]) -> None:
    assert journals_of(action) == journals


def test_a_kill_ends_entries_and_with_the_positions_everything_else() -> None:
    entries = {(role, False) for role in (Role.ENTRY, Role.ORDER)}
    every = set(product(Role, (False, True)))
    ended = {
        mode: {(role, reduces) for role, reduces in every if is_ended(action_of(role, is_reduce_only=reduces), mode)}
        for mode in K
    }
    assert ended == {K.NONE: set(), K.HELD: entries, K.FLATTEN: every}


def test_of_several_kills_the_one_that_closes_decides() -> None:
    assert [strongest(modes) for modes in ((), (K.NONE, K.HELD), (K.HELD, K.FLATTEN, K.NONE))] == list(K)
