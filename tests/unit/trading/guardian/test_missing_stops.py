"""Stops that the guardian finds missing at the venue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.model.order import PENDING, Order, Report, Role, Side, State
from fks.model.parent import ParentPlan, ProfitTarget
from fks.model.timeframe import NS
from fks.trading.guardian.missing_stops import ReadVenue, missing_stops
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, VenueRules
from fks.trading.orders.build import legs_of, target_legs
from fks.trading.orders.protection import Cover, LegAction, can_rest, desired, diff, next_attempt
from tests.support.order_values import a_fill, a_report, an_order

D = Decimal
AT_NS = 10**18
ENTRY, STOP, EXIT, TAKE, OTHER = (letter * 12 + "5" + "a" * 19 for letter in "01234")
HOLDER = Holder("ccxt", 1, "BTCUSDT", "one")
RULES = VenueRules("binance", "BTC", "USDT", D("0.001"), D("0.001"), D(5))


def an_entry(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "client_order_id": ENTRY,
        "state": State.WORKING,
        "stop_loss": D(90),
        "created_ns": AT_NS - NS,
    }
    return an_order(**(values | changes))


def known(role: Role, state: State = State.WORKING, *, parent_id: str = "", filled: str = "0") -> Known:
    return Known(HOLDER, "binance", D(filled), role.value, state.value, AT_NS - NS, AT_NS - NS, parent_id=parent_id)


def live(id: str, quantity: Any, filled: Any = 0, **changes: Any) -> Report:
    values: dict[str, Any] = {"client_order_id": id, "side": Side.SELL, "quantity": quantity and D(quantity)}
    return a_report(State.WORKING, filled, **(values | changes))


def a_view(
    orders: dict[str, Known] | None = None,
    reports: list[Report] | None = None,
    *,
    sold: str = "0",
    ended: dict[str, str] | None = None,
    unclear: tuple[str, ...] = (),
    rules: VenueRules = RULES,
    stranger: str | None = None,
) -> ReadVenue:
    """Return a venue at which the entry was executed over 4, and `sold` of an exit."""
    fills = [a_fill(1, client_order_id=ENTRY, time_ns=AT_NS)]
    if sold != "0":
        fills.append(a_fill(2, client_order_id=EXIT, side=Side.SELL, quantity=D(sold), time_ns=AT_NS + 1))
    if stranger is not None:
        fills.append(a_fill(3, client_order_id=stranger, time_ns=AT_NS + 2))
    ours = {ENTRY: known(Role.ENTRY), STOP: known(Role.STOP_LOSS, parent_id=ENTRY), EXIT: known(Role.EXIT)}
    ours |= {TAKE: known(Role.TAKE_PROFIT, parent_id=ENTRY)} | (orders or {})
    snapshot = DatabaseSnapshot(AT_NS, {}, {"BTCUSDT": rules}, ours, frozenset())
    sums = {id: D(filled) for id, filled in (ended or {}).items()}
    since = {"BTCUSDT": snapshot.history_from_ns("ccxt", "BTCUSDT")}
    return ReadVenue(snapshot, {r.client_order_id: r for r in reports or []}, sums, unclear, fills, since)


CASES: list[tuple[str, ReadVenue, dict[str, str], bool]] = [
    ("an entry without a stop", a_view(), {ENTRY: "4"}, False),
    ("a stop over all of it", a_view(reports=[live(STOP, 4)]), {}, False),
    ("a stop over a part", a_view(reports=[live(STOP, 3)]), {ENTRY: "1"}, False),
    ("a stop of which a part is executed and not yet in the history", a_view(reports=[live(STOP, 4, 1)]), {}, True),
    ("a live exit closes the rest", a_view(reports=[live(EXIT, 3)]), {ENTRY: "1"}, False),
    ("a take profit alone closes it", a_view(reports=[live(TAKE, 4)]), {}, False),
    ("a take profit is tied to its stop", a_view(reports=[live(STOP, 3), live(TAKE, 3)]), {ENTRY: "1"}, False),
    ("an exit that was executed", a_view(sold="1", ended={EXIT: "1"}), {ENTRY: "3"}, False),
    ("an exit whose executions are missing", a_view(ended={EXIT: "1"}), {}, True),
    ("an entry whose executions are missing", a_view(ended={ENTRY: "10"}), {}, True),
    ("an exit of unknown outcome", a_view(unclear=(EXIT,)), {}, True),
    ("a live order of unknown size", a_view(reports=[live(EXIT, None)]), {}, True),
    ("a live order of ours that is not known", a_view(reports=[live(OTHER, 1)]), {}, True),
    ("a live order of the account's owner", a_view(reports=[live("by hand", 1)]), {ENTRY: "4"}, False),
    ("an execution of ours that is not known", a_view(stranger=OTHER), {}, True),
    ("a stop of another entry covers too much", a_view({OTHER: known(Role.STOP_LOSS, parent_id="x")}, [live(OTHER, 3)]), {ENTRY: "1"}, False),
    ("a rest below a lot", a_view(rules=VenueRules("binance", "BTC", "USDT", D(3), D(1), D(5))), {ENTRY: "3"}, False),
    ("less than the smallest order", a_view(rules=VenueRules("binance", "BTC", "USDT", D(1), D(5), D(5))), {}, False),
    ("less than the smallest value", a_view(rules=VenueRules("binance", "BTC", "USDT", D(1), D(1), D(361))), {}, False),
]  # fmt: skip


@pytest.mark.parametrize(("view", "missing", "is_unclear"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_stops_are_missing_over_what_no_live_order_may_close(
    view: ReadVenue, missing: dict[str, str], is_unclear: bool
) -> None:
    found, left = missing_stops(view, [an_entry()])
    assert {parent.client_order_id: quantity for parent, quantity in found} == {
        id: D(quantity) for id, quantity in missing.items()
    }
    assert left == is_unclear


@pytest.mark.parametrize(
    ("waiting", "is_resting", "missing"),
    [
        ("10", True, ""),  # the rest may fill at any time: all of it is closed then
        ("0", True, ""),  # it sells what the entry receives
        ("6", True, "4"),  # the order manager has reduced them to what is still to come
        ("7", True, "3"),  # to less: a part of it has room
        ("", False, "4"),  # the entry was cancelled or expired, and they with it
        ("10", False, ""),  # they come to the book, or end, at any moment
    ],
)
def test_exits_that_wait_with_their_entry_cover_no_part_of_it(waiting: str, is_resting: bool, missing: str) -> None:
    """An entry of 10 that went out with its exits, of which 4 were executed."""
    entry = an_entry(group_id="g", take_profit=D(120))
    reports = [live(ENTRY, 10, 4, side=Side.BUY)] if is_resting else []
    reports += [live(id, waiting, code=PENDING) for id in (STOP, TAKE) if waiting]
    expected = [(ENTRY, D(missing))] if missing else []
    found, is_unclear = missing_stops(a_view(reports=reports, ended=None if is_resting else {ENTRY: "4"}), [entry])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == expected
    assert not is_unclear


def test_exits_that_wait_with_one_entry_leave_another_to_be_covered() -> None:
    older = an_entry(client_order_id=OTHER, filled=D(2), state=State.FILLED, created_ns=AT_NS - 5 * NS)
    reports = [live(ENTRY, 10, 4, side=Side.BUY), live(STOP, 10, code=PENDING)]
    view = a_view(reports=reports)
    view = replace(view, snapshot=replace(view.snapshot, positions={HOLDER: D(2)}))
    found, _ = missing_stops(view, [older, an_entry(group_id="g")])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(OTHER, D(2))]


def test_newest_entries_are_protected_first() -> None:
    older = an_entry(client_order_id=OTHER, filled=D(2), created_ns=AT_NS - 5 * NS)
    found, _ = missing_stops(a_view(sold="3", ended={EXIT: "3"}), [older, an_entry()])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(ENTRY, D(1))]


def test_no_stop_waits_for_another_that_the_guardian_does_not_end() -> None:
    """The stop of the older entry covers 1 too much, which only the order manager would give back: of the newer entry's
    3 the other 2 are covered."""
    older = an_entry(client_order_id=OTHER, filled=D(2), state=State.FILLED, created_ns=AT_NS - 5 * NS)
    newer = an_entry(filled=D(3), state=State.FILLED)
    (stop,) = legs_of(older, quantity=D(3), attempt=0, epoch=1, now_ns=AT_NS)
    found, _ = missing_stops(a_world(D(5), [older, newer], [replace(stop, state=State.WORKING)]), [older, newer])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(ENTRY, D(2))]


def test_small_entries_of_one_price_are_protected_together() -> None:
    """A stop over 0.04 at 90 is worth less than 5 USDT; the order manager joins them, and so does the guardian."""
    entries = [
        an_entry(client_order_id=id, filled=D("0.04"), created_ns=AT_NS - (5 + n) * NS)
        for n, id in enumerate((OTHER, ENTRY))
    ]
    view = a_world(D("0.08"), entries, [])
    assert [(parent.client_order_id, quantity) for parent, quantity in missing_stops(view, entries)[0]] == [
        (OTHER, D("0.08"))
    ]


def test_a_target_without_its_list_gets_its_part_of_the_stop() -> None:
    entry = an_entry(state=State.FILLED, filled=D(10), take_profit=None)
    targets = tuple(ProfitTarget(D(price), D(share)) for price, share in ((110, "0.5"), (120, "0.3"), (130, "0.2")))
    made = target_legs(entry, ParentPlan(D(90), targets), instrument=RULES.instrument("BTCUSDT"), epoch=1, now_ns=AT_NS)
    legs = [replace(leg, state=State.WORKING) for leg in made]

    def missing(live: list[Order]) -> list[Decimal]:
        found, is_unclear = missing_stops(a_world(D(10), [entry], live), [entry, *made])
        assert not is_unclear
        return [quantity for _, quantity in found]

    assert missing(legs) == []
    assert missing(legs[2:]) == [D(5)]
    assert missing(legs[1:]) == []  # the first target's take profit alone closes its part
    assert missing([]) == [D(10)]


# ── order manager and guardian on one position ──────────────────────────────────────────────────
def a_world(position: Decimal, entries: Sequence[Order], legs: Sequence[Order]) -> ReadVenue:
    """Return what the guardian reads: all booked, and the live legs at the venue."""
    ours = {one.client_order_id: Known.of(one) for one in (*entries, *legs)}
    ours = {id: replace(known, filled=D(10**6)) for id, known in ours.items()}
    live_ = [leg for leg in legs if leg.state is State.WORKING]
    reports = {one.client_order_id: live(one.client_order_id, one.quantity) for one in live_}
    snapshot = DatabaseSnapshot(AT_NS, {HOLDER: position}, {"BTCUSDT": RULES}, ours, frozenset())
    return ReadVenue(snapshot, reports, {}, (), (), {"BTCUSDT": AT_NS})


class Legs:
    """The stops of a position at a venue that answers well, moved by the steps of whoever may."""

    def __init__(self, *, can_amend: bool) -> None:
        self.entries: list[Order] = []  # newest first
        self.legs: list[Order] = []
        self.can_amend = can_amend

    @property
    def position(self) -> Decimal:
        return sum((entry.filled for entry in self.entries), D(0))

    @property
    def live(self) -> dict[str, list[Decimal]]:
        """Return the quantities of the live stops by entry."""
        found: dict[str, list[Decimal]] = {}
        for leg in self.legs:
            if leg.state is State.WORKING:
                found.setdefault(leg.parent_id or "", []).append(leg.quantity)
        return found

    @property
    def covered(self) -> Decimal:
        return sum((sum(quantities, D(0)) for quantities in self.live.values()), D(0))

    def place(self, parent: Order, quantity: Decimal, attempt: int) -> None:
        stop = legs_of(parent, quantity=quantity, attempt=attempt, epoch=1, now_ns=AT_NS)[0]
        self.legs.append(replace(stop, state=State.WORKING))

    def of(self, parent: Order) -> list[Order]:
        return [leg for leg in self.legs if leg.parent_id == parent.client_order_id]

    def by_order_manager(self) -> bool:
        """Take its next steps; return whether there was one."""
        instrument = RULES.instrument("BTCUSDT")
        wants = desired(self.position, self.entries, D(0), instrument)
        covers = [Cover(want, tuple(self.of(want.parent)), can_amend=self.can_amend) for want in wants]
        steps = [step for step in diff(covers, instrument) if step.action is not LegAction.WAIT]
        is_any = False
        for step in steps:
            parent = step.cover.want.parent
            if step.action is LegAction.PLACE:
                if not can_rest(parent, step.quantity, instrument):
                    continue
                self.place(parent, step.quantity, next_attempt(self.of(parent)))
            ended = {leg.client_order_id for leg in step.legs}
            changes: dict[str, Any] = {"state": State.CANCELLED}
            if step.action is LegAction.AMEND:
                changes = {"quantity": step.quantity}
            self.legs = [replace(leg, **changes) if leg.client_order_id in ended else leg for leg in self.legs]
            is_any = True
        return is_any

    def by_guardian(self) -> bool:
        found, is_unclear = missing_stops(a_world(self.position, self.entries, self.legs), self.entries[::-1])
        assert not is_unclear
        for parent, quantity in found:
            self.place(parent, quantity, (next_attempt(self.of(parent)) // 1000 + 1) * 1000)
        return bool(found)


def a_turn(is_guardian: st.SearchStrategy[bool]) -> st.SearchStrategy[tuple[bool, bool, Decimal]]:
    """Return whether the guardian places stops, and before that a sale, or else a new entry, of a quantity."""
    return st.tuples(is_guardian, st.booleans(), st.integers(60, 5000).map(lambda n: D(n) / 1000))


SMALL = D("0.060")


@given(
    turns=st.lists(a_turn(st.booleans()), max_size=4),
    last=st.tuples(a_turn(st.just(True)), a_turn(st.just(False))),
    can_amend=st.booleans(),
)
@example(  # as many entries and legs as before the sale: an id made of their number was given twice
    turns=[(False, False, SMALL), (False, False, SMALL)],
    last=((True, True, SMALL), (False, False, SMALL)),
    can_amend=False,
)
def test_cover_never_shrinks_before_it_grows_whoever_places_it(
    turns: list[tuple[bool, bool, Decimal]], last: Sequence[tuple[bool, bool, Decimal]], can_amend: bool
) -> None:
    """Live stops never close more than is held, or was. The guardian takes none of them down. The order manager never
    takes the only one of an entry down where it can amend and half of the entry could rest. Both end with the cover
    wanted."""
    world = Legs(can_amend=can_amend)
    for number, (is_guardian, is_sale, quantity) in enumerate((*turns, *last)):
        if is_sale and world.entries:  # of the oldest entries
            left = quantity
            while world.entries and left > 0:
                oldest = world.entries[-1]
                sold = min(left, oldest.filled)
                world.entries[-1:] = [replace(oldest, filled=oldest.filled - sold)] if sold < oldest.filled else []
                left -= sold
            kept = {entry.client_order_id for entry in world.entries}
            # the stops that a sale leaves over are of entries that the position no longer has
            world.legs = [leg for leg in world.legs if leg.parent_id in kept]
        else:
            intent = uuid.uuid5(uuid.NAMESPACE_OID, str(number))
            values: dict[str, Any] = {"client_order_id": intent.hex, "intent_id": intent, "state": State.FILLED}
            world.entries.insert(0, an_entry(filled=quantity, quantity=quantity, **values))
        most = max(world.position, world.covered)
        for _ in range(60):
            before = world.live
            if not (world.by_guardian() if is_guardian else world.by_order_manager()):
                break
            assert world.covered <= most
            for entry in world.entries:
                was, now = (lists.get(entry.client_order_id, []) for lists in (before, world.live))
                if is_guardian:
                    assert now[: len(was)] == was
                elif was and can_amend and entry.filled >= D("0.12"):  # two lists of it could rest
                    assert now, "the last stop of an entry stands"
            most = max(world.position, world.covered)
        else:
            raise AssertionError("the steps do not end")
        lacks = world.position - world.covered
        if is_guardian:  # beside a list it adds none that could not rest
            assert lacks < D("0.056") * max(len(world.entries), 1)
        else:
            assert abs(lacks) < D("0.056")


def test_a_stop_is_missing_beside_the_live_take_profit_of_a_newer_entry() -> None:
    """The take profit closes the part of its own entry alone, and that has no stop."""
    older = an_entry(client_order_id=OTHER, filled=D(4), created_ns=AT_NS - 5 * NS)
    newer = an_entry(filled=D(4), stop_loss=None, take_profit=D(120))
    take = legs_of(newer, quantity=D(4), attempt=0, epoch=1, now_ns=AT_NS)[0]
    view = a_world(D(8), [older, newer], [replace(take, state=State.WORKING)])
    found, _ = missing_stops(view, [older, newer])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(OTHER, D(4))]
    found, _ = missing_stops(a_world(D(8), [older, newer], []), [older, newer])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(OTHER, D(4))]


def test_an_executed_stop_counts_against_its_own_entry() -> None:
    """The newer entry's stop closed it, half of that after the rows were read, or was placed without PostgreSQL: the
    rest is the older one's."""
    older = an_entry(client_order_id=OTHER, filled=D(5), created_ns=AT_NS - 5 * NS)
    newer = an_entry(filled=D(3), stop_loss=D(95))
    (stop,) = legs_of(newer, quantity=D(3), attempt=0, epoch=1, now_ns=AT_NS - NS)
    stop = replace(stop, state=State.PARTIAL, filled=D("1.5"))
    view = a_world(D(5), [older, newer], [])
    fills = [
        a_fill(number, client_order_id=stop.client_order_id, side=Side.SELL, quantity=D("1.5")) for number in (1, 2)
    ]
    for orders in ([older, newer, stop], [older, newer, replace(stop, filled=D(0))], [older, newer]):
        ours = {**view.snapshot.orders, stop.client_order_id: replace(Known.of(stop), filled=D(3))}
        found, _ = missing_stops(replace(view, snapshot=replace(view.snapshot, orders=ours), fills=fills), orders)
        assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(OTHER, D(5))]
