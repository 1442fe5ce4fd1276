"""Parent orders: several targets and break-even, against a model of a venue that locks coins for one list only."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.order import LIVE, OPEN, Order, OrderType, Refusal, Request, Role, Side, State
from fks.model.parent import BreakEven, ParentPlan, ProfitTarget, plan_json, plan_of
from fks.trading.orders import messages as m
from fks.trading.orders.build import group_of, legs_of, target_legs
from fks.trading.orders.core import OrderCore
from fks.trading.orders.protection import Cover, LegAction, LegStep, Want, desired, diff, split, target_of
from tests.support.order_values import an_instrument, an_order

D = Decimal
KEY = (1, "ccxt", "BTCUSDT")
SIGNAL = uuid.UUID(int=3)
SECOND = 1_000_000_000
INSTRUMENT = replace(
    an_instrument(), symbol="BTCUSDT", exchange="binance", lot_step=D("0.001"), qty_min=D("0.01"), notional_min=D(1)
)
PLAN = ParentPlan(
    D(90),
    (ProfitTarget(D(110), D("0.5")), ProfitTarget(D(120), D("0.3")), ProfitTarget(D(130), D("0.2"))),
    BreakEven(after_target=1, offset_ticks=2),
)


def an_entry(filled: Any, state: State = State.FILLED, **changes: Any) -> Order:
    values = {
        "symbol": "BTCUSDT",
        "instance": "",
        "stop_loss": D(90),
        "filled": D(filled),
        "average_price": D(100),
        "created_ns": 1,
    }
    return an_order(**(values | {"client_order_id": "e" * 32, "state": state} | changes))


def parts(entry: Order, held: Any, plan: ParentPlan = PLAN, legs: tuple[Order, ...] = ()) -> list[Decimal]:
    """Return what each target of the entry wants."""
    wants = split(
        desired(D(held), [entry], D(0), INSTRUMENT),
        {SIGNAL: plan},
        {entry.client_order_id: {leg.client_order_id: leg for leg in legs}},
        INSTRUMENT,
    )
    return [want.quantity for want in wants]


def executed(target: int, filled: Any) -> Order:
    leg = target_legs(an_entry(10), PLAN, instrument=INSTRUMENT, epoch=1, now_ns=0)[target * 2 + 1]
    return replace(leg, filled=D(filled), state=State.FILLED)


def test_each_target_closes_its_share_and_the_last_one_the_rest() -> None:
    assert parts(an_entry(10), 10) == [5, 3, 2]
    assert parts(an_entry(10), D("9.99")) == [5, 3, D("1.99")]  # a fee was taken in base
    assert parts(an_entry(10), 5, legs=(executed(0, 5),)) == [0, 3, 2]
    assert parts(an_entry(10), 7, legs=(executed(0, 3),)) == [2, 3, 2]


def test_targets_reported_in_another_order_are_not_wanted_again() -> None:
    assert parts(an_entry(10), 8, legs=(executed(2, 2),)) == [5, 3, 0]
    assert parts(an_entry(10), 7, legs=(executed(1, 3),)) == [5, 0, 2]


def test_an_open_entry_fills_its_targets_one_after_the_other() -> None:
    assert parts(an_entry(4, State.PARTIAL), 4) == [4, 0, 0]
    assert parts(an_entry(9, State.PARTIAL), 9) == [5, 3, 1]
    assert parts(an_entry(4, State.CANCELLED), 4) == [2, D("1.2"), D("0.8")]  # each closes its share of what was filled


def test_a_position_that_others_reduced_leaves_the_nearest_targets() -> None:
    assert parts(an_entry(10), 6) == [5, 1, 0]


def test_shares_that_cannot_rest_go_to_their_neighbour() -> None:
    assert parts(an_entry("0.03"), "0.03") == [D("0.015"), 0, D("0.015")]
    assert parts(an_entry("0.012"), "0.012") == [0, 0, D("0.012")]
    plan = replace(PLAN, targets=(ProfitTarget(D(110), D("0.9")), ProfitTarget(D(120), D("0.1"))))
    assert parts(an_entry("0.09"), "0.09", plan) == [D("0.09"), 0]


def test_a_target_that_rests_keeps_a_rest_below_the_minimum() -> None:
    stop, limit = target_legs(an_entry(10), PLAN, instrument=INSTRUMENT, epoch=1, now_ns=0)[:2]
    legs = (replace(stop, state=State.ACCEPTED), replace(limit, state=State.PARTIAL, filled=D("4.999")))
    assert parts(an_entry(10), "5.001", legs=legs)[0] == D("0.001")


def test_ids_of_targets_differ_by_their_number() -> None:
    legs = target_legs(an_entry(10), PLAN, instrument=INSTRUMENT, epoch=1, now_ns=0)
    assert len({leg.client_order_id for leg in legs}) == 6
    assert [target_of(leg) for leg in legs] == [0, 0, 1, 1, 2, 2]
    assert {leg.client_order_id for leg in legs[:2]} == {
        leg.client_order_id
        for leg in legs_of(replace(an_entry(10), take_profit=D(110)), quantity=D(5), attempt=0, epoch=1, now_ns=0)
    }


def test_a_plan_is_the_same_after_it_was_stored() -> None:
    for plan in (PLAN, ParentPlan(D("0.1"), (), BreakEven(at_risk=D("1.50"))), ParentPlan(D(1))):
        assert plan_of(plan_json(plan)) == plan


def covers_of(quantities: list[int], stop: Any = 90, **changes: Any) -> list[Cover]:
    """Return covers of the three targets whose lists rest, with their stops at 90."""
    made = target_legs(an_entry(10), PLAN, instrument=INSTRUMENT, epoch=1, now_ns=0)
    entry, found = an_entry(10, stop_loss=D(stop)), []
    for at, quantity in enumerate(quantities):
        parent = replace(entry, take_profit=PLAN.targets[at].price)
        states = (State.ACCEPTED, State.WORKING)
        legs = (
            replace(leg, state=state, quantity=D(quantity), group_id=f"g{at}")
            for leg, state in zip(made[at * 2 : at * 2 + 2], states, strict=True)
        )
        share = D([5, 3, 2][at])
        found.append(Cover(Want(parent, share, share, at), tuple(legs) if quantity else (), lists_max=1, **changes))
    return found


def acts(steps: list[LegStep]) -> list[tuple[LegAction, int | None]]:
    return [(step.action, step.cover.want.target) for step in steps]


def test_a_moved_stop_ends_one_list_at_a_time() -> None:
    assert acts(diff(covers_of([5, 3, 2]), INSTRUMENT)) == []
    first = diff(covers_of([5, 3, 2], stop=100), INSTRUMENT)
    assert [act for act in acts(first) if act[0] is not LegAction.WAIT] == [(LegAction.CANCEL, 0)]
    second = diff(covers_of([0, 3, 2], stop=100), INSTRUMENT)  # its end is proven: it is placed before the next one
    assert [act for act in acts(second) if act[0] is not LegAction.WAIT] == [(LegAction.PLACE, 0)]


def test_an_amended_target_gets_a_list_at_its_new_price() -> None:
    (first, *others) = covers_of([5, 3, 2])
    moved = replace(first, want=replace(first.want, parent=replace(first.want.parent, take_profit=D(111))))
    assert acts(diff([moved, *others], INSTRUMENT)) == [(LegAction.CANCEL, 0)]


# ── the model ────────────────────────────────────────────────────────────────────────────────────
class ParentModel:
    """A spot venue with OCO lists, and a driver. `choose` decides each answer; what must always hold is checked after
    each step."""

    def __init__(self, choose: Callable[[list[str]], str], plan: ParentPlan = PLAN, *, can_amend: bool = True) -> None:
        self.choose, self.plan = choose, plan
        self.facts = m.Facts(
            instruments={"binance": INSTRUMENT}, marks={"binance": D(100)}, has_oco=True, can_amend=can_amend
        )
        self.now_s, self.position = 0.0, D(0)
        self.entry = an_entry(0, State.WORKING, is_acknowledged=True)
        self.orders: dict[str, Order] = {}
        self.used: set[str] = set()
        self.moves: list[Decimal] = []
        self.alerts: list[str] = []
        self.pending: list[m.CoreEvent] = []
        self.losses = False  # whether commands of the core are lost, as by a kill
        for leg in target_legs(self.entry, plan, instrument=INSTRUMENT, epoch=1, now_ns=0):
            self.orders[leg.client_order_id] = leg
        self.restart()

    def restart(self) -> None:
        """Replace the core by one that knows the journal alone; a send without an answer is UNKNOWN."""
        self.core = OrderCore(KEY, m.Limits())
        self.pending = []
        for name, order in self.orders.items():
            if order.state is State.SENDING:
                self.orders[name] = replace(order, state=State.UNKNOWN)
        open_ = tuple(o for o in self.orders.values() if o.state in OPEN)
        rest = tuple(o for o in self.orders.values() if o.state not in OPEN)
        entries = (self.entry,) if self.entry.filled else ()
        orders = (*open_, *rest) if self.entry.filled else (self.entry, *open_, *rest)
        self.give(m.Restored(orders, entries, {self.entry.instance: self.position}, plans={SIGNAL: self.plan}))

    def give(self, event: m.CoreEvent) -> None:
        self.pending.append(event)
        while self.pending:
            now = m.Now(int(self.now_s * SECOND), self.now_s)
            for command in self.core.handle(self.pending.pop(0), now, self.facts):
                if not self.losses:
                    self.carry_out(command)
            self.check()

    def changed(self, order: Order) -> None:
        self.orders[order.client_order_id] = order
        self.pending.append(m.OrderChanged(order, {self.entry.instance: self.position}))

    def lists(self, states: frozenset[State] = OPEN - {State.INTENDED}) -> dict[str, list[Order]]:
        found: dict[str, list[Order]] = {}
        for order in self.orders.values():
            if order.state in states:
                found.setdefault(order.group_id or order.client_order_id, []).append(order)
        return found

    def check(self) -> None:
        """Exits never exceed the position, targets never what was filled, and the stop never moves back."""
        closing = sum((max(leg.remaining for leg in legs) for legs in self.lists().values()), D(0))
        assert closing <= self.position, (closing, self.position)
        profits = [o for o in self.orders.values() if o.role is Role.TAKE_PROFIT]
        sent = (o for o in profits if o.state is not State.INTENDED)
        assert sum((o.filled + o.remaining for o in sent), D(0)) <= self.entry.filled
        assert self.moves == sorted(self.moves)
        assert all(move > 90 for move in self.moves)

    # ── the venue ────────────────────────────────────────────────────────────────────────────────
    def carry_out(self, command: m.CoreCommand) -> None:
        if isinstance(command, m.PlaceProtection):
            self.protect(command)
        elif isinstance(command, m.CancelOrder):
            self.cancel(self.orders[command.client_order_id])
        elif isinstance(command, m.AmendLegs):
            self.amend([self.orders[name] for name in command.client_order_ids], command.quantity)
        elif isinstance(command, m.AbandonOrder):
            self.changed(replace(self.orders[command.client_order_id], state=State.ABANDONED))
        elif isinstance(command, m.WithdrawCancel):
            self.changed(replace(self.orders[command.client_order_id], request=Request.NONE))
        elif isinstance(command, m.MoveStop):
            assert self.entry.stop_loss is not None
            if command.stop_loss > self.entry.stop_loss:
                self.moves.append(command.stop_loss)
                self.entry = replace(self.entry, stop_loss=command.stop_loss)
            self.pending.append(m.OrderChanged(self.entry, {self.entry.instance: self.position}))
        elif isinstance(command, m.RaiseAlert):
            self.alerts.append(command.event)
        else:
            assert isinstance(command, m.EndAlert | m.QueryOrder | m.RefreshBalances | m.ReadEntries), command

    def protect(self, command: m.PlaceProtection) -> None:
        if command.waiting:
            legs = [replace(self.orders[name], quantity=command.quantity) for name in command.waiting]
        else:
            legs = legs_of(command.parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=0)
            legs = [leg for leg in legs if leg.role in command.roles]
        group = group_of(command.parent, legs[0].attempt) if len(legs) == 2 else None
        for leg in legs:
            assert leg.client_order_id not in self.used, "an id was used twice"
            self.used.add(leg.client_order_id)
            assert leg.role is Role.STOP_LOSS or leg.price in [target.price for target in self.plan.targets]
            self.changed(replace(leg, state=State.SENDING, group_id=group))
        self.check()
        answer = self.choose(["rest", "rest", "refuse", "unknown"])
        for leg in legs:
            sent = self.orders[leg.client_order_id]
            if answer == "refuse":
                self.changed(replace(sent, state=State.REJECTED, refusal=Refusal.RATE_LIMITED))
            elif answer == "unknown":
                self.changed(replace(sent, state=State.UNKNOWN))
            else:
                state = State.ACCEPTED if leg.type is OrderType.STOP else State.WORKING
                self.changed(replace(sent, state=state, is_acknowledged=True))
        refusals = (Refusal.RATE_LIMITED,) if answer == "refuse" else ()
        target = target_of(legs[0])
        self.pending.append(m.ProtectionDone(command.parent.client_order_id, refusals, target=target))

    def siblings(self, order: Order) -> list[Order]:
        if order.group_id is None:
            return [order]
        return [o for o in self.orders.values() if o.group_id == order.group_id and o.state in OPEN]

    def cancel(self, order: Order) -> None:
        if self.choose(["acked", "unanswered"]) == "unanswered":
            self.changed(replace(order, request=Request.CANCEL_UNKNOWN))
            return
        for leg in self.siblings(order):
            self.changed(replace(leg, state=State.CANCELLED, request=Request.NONE))

    def amend(self, legs: list[Order], quantity: Decimal) -> None:
        answer = self.choose(["acked", "refused"])
        for leg in legs:
            self.changed(replace(leg, request=Request.REPLACE))
        for leg in legs:
            self.changed(replace(leg, quantity=quantity) if answer == "acked" else leg)

    def executes(self, order: Order, quantity: Decimal) -> None:
        """Execute a part of a leg, which ends the other leg of its list."""
        self.position -= quantity
        is_done = quantity == order.remaining
        others = [leg for leg in self.siblings(order) if leg is not order]
        self.orders[order.client_order_id] = after = replace(
            order,
            state=State.FILLED if is_done else State.PARTIAL,
            filled=order.filled + quantity,
            reported_cum_qty=order.filled + quantity,
            average_price=order.price or order.stop_price,
            is_acknowledged=True,
            request=Request.NONE if is_done else order.request,
        )
        reports = [after]
        for other in others:
            left = replace(other, state=State.CANCELLED, request=Request.NONE)
            self.orders[other.client_order_id] = left
            reports.append(left)
        for report in reports:
            self.give(m.OrderChanged(report, {self.entry.instance: self.position}))

    # ── the market ───────────────────────────────────────────────────────────────────────────────
    def fills(self, quantity: Decimal) -> None:
        """Execute a part of the entry."""
        filled = min(self.entry.filled + quantity, self.entry.quantity)
        self.position += filled - self.entry.filled
        state = State.FILLED if filled == self.entry.quantity else State.PARTIAL
        self.entry = replace(self.entry, filled=filled, reported_cum_qty=filled, state=state)
        self.give(m.OrderChanged(self.entry, {self.entry.instance: self.position}))

    def ends(self) -> None:
        """End the entry, with what it has filled."""
        if self.entry.state in OPEN:
            self.entry = replace(self.entry, state=State.CANCELLED)
            self.give(m.OrderChanged(self.entry, {self.entry.instance: self.position}))

    def happens(self, event: str) -> None:
        live = sorted(
            (o for o in self.orders.values() if o.state in LIVE and o.remaining), key=lambda o: o.price or D(0)
        )
        profits = [o for o in live if o.role is Role.TAKE_PROFIT]
        stops = [o for o in live if o.role is Role.STOP_LOSS]
        if event == "entry fills" and self.entry.state in OPEN:
            self.fills(self.size(self.entry.quantity))
        elif event == "entry ends":
            self.ends()
        elif event == "target" and profits:
            self.executes(profits[0], self.size(profits[0].remaining))
        elif event == "later target" and profits:
            self.executes(profits[-1], profits[-1].remaining)
        elif event == "stop" and stops:
            self.executes(stops[0], self.size(stops[0].remaining))
        elif event == "kill":
            self.restart()
        elif event == "kill before its commands":
            self.losses = True
            self.time_passes()
            self.losses = False
            self.restart()
        else:
            self.time_passes()

    def size(self, of: Decimal) -> Decimal:
        return max(INSTRUMENT.round_quantity(of * D(self.choose(["1", "0.5", "0.1"]))), D("0.001"))

    def time_passes(self) -> None:
        """Let a second pass: what is not answered is settled, as by the queries of the order manager."""
        self.now_s += 1.0
        for order in list(self.orders.values()):
            if order.state is State.UNKNOWN:
                self.changed(replace(order, state=State.ABSENT))
            elif order.request is Request.CANCEL_UNKNOWN:
                for leg in self.siblings(order):
                    self.changed(replace(leg, state=State.CANCELLED, request=Request.NONE))
        self.give(m.Tick())

    def settle(self) -> None:
        self.choose = lambda answers: answers[0]
        for _ in range(90):
            self.time_passes()


EVENTS = (
    "entry fills",
    "entry fills",
    "entry ends",
    "target",
    "later target",
    "stop",
    "kill",
    "kill before its commands",
    "time",
)


@pytest.mark.parametrize("can_amend", [True, False])
@given(data=st.data(), events=st.lists(st.sampled_from(EVENTS), max_size=14))
def test_a_parent_is_covered_and_never_sells_twice(data: st.DataObject, events: list[str], can_amend: bool) -> None:
    model = ParentModel(lambda answers: data.draw(st.sampled_from(answers)), can_amend=can_amend)
    for event in events:
        model.happens(event)
    model.settle()
    lists = model.lists(LIVE)
    covered = sum((legs[0].remaining for legs in lists.values()), D(0))
    assert model.position - covered < INSTRUMENT.qty_min, (model.position, covered)
    for legs in lists.values():
        stop = next(leg for leg in legs if leg.role is Role.STOP_LOSS)
        assert stop.stop_price == model.entry.stop_loss
    first = [o for o in model.orders.values() if o.role is Role.TAKE_PROFIT and target_of(o) == 0]
    share = D(5) if model.entry.state is State.FILLED else model.entry.filled * D("0.5")
    if model.position > 0 and sum((o.filled for o in first), D(0)) >= share > 0 and model.entry.state not in OPEN:
        assert model.entry.stop_loss == D("100.02")


def a_model(plan: ParentPlan = PLAN) -> ParentModel:
    """Return a model with a filled entry of 10 whose lists rest."""
    model = ParentModel(lambda answers: answers[0], plan)
    model.fills(D(10))
    return model


def resting(model: ParentModel) -> list[tuple[Decimal | None, Decimal]]:
    """Return the live stops: their price and quantity, by target."""
    stops = [o for o in model.orders.values() if o.role is Role.STOP_LOSS and o.state in LIVE]
    return [(o.stop_price, o.remaining) for o in sorted(stops, key=target_of)]


def profits(model: ParentModel) -> dict[Decimal, Decimal]:
    """Return what live take profits close, by price."""
    found: dict[Decimal, Decimal] = {}
    for order in model.orders.values():
        if order.role is Role.TAKE_PROFIT and order.state in LIVE and order.price is not None:
            found[order.price] = found.get(order.price, D(0)) + order.remaining
    return found


def test_three_targets_are_three_lists_each_with_its_part_of_the_stop() -> None:
    model = a_model()
    assert resting(model) == [(D(90), 5), (D(90), 3), (D(90), 2)]
    assert all(len(legs) == 2 for legs in model.lists(LIVE).values())


def test_the_stop_moves_to_break_even_after_the_first_target() -> None:
    model = a_model()
    model.happens("target")
    model.settle()
    assert model.moves == [D("100.02")]
    assert resting(model) == [(D("100.02"), 3), (D("100.02"), 2)]


def test_break_even_survives_a_kill_before_its_move() -> None:
    model = a_model()
    model.losses = True
    model.happens("target")
    model.losses = False
    assert model.moves == []
    model.restart()
    model.settle()
    assert model.moves == [D("100.02")]


@pytest.mark.parametrize(("mark", "moves"), [("114.99", []), ("115", [D(100)])])
def test_the_stop_moves_to_break_even_at_a_multiple_of_the_risk(mark: str, moves: list[Decimal]) -> None:
    model = a_model(replace(PLAN, break_even=BreakEven(at_risk=D("1.5"))))
    assert model.core.wake_at_s is not None, "it looks at the price again"
    model.facts = replace(model.facts, marks={"binance": D(mark)})
    model.settle()
    assert model.moves == moves
    model.facts = replace(model.facts, marks={"binance": D(95)})
    model.settle()
    assert model.entry.stop_loss == (moves[0] if moves else D(90))


def test_break_even_waits_while_a_split_is_due() -> None:
    model = a_model(replace(PLAN, break_even=BreakEven(at_risk=D("1.5"))))
    model.facts = replace(model.facts, marks={"binance": D(300)}, split_ns=1)  # 1:3, and the entry is at 100 still
    model.settle()
    assert model.moves == []


def test_parts_of_targets_are_whole_lots_after_a_split() -> None:
    """After 1:3, of which a target had executed a part before."""
    filled, done = D("3.333333333334"), D("0.111333333334")
    entry = an_order(state=State.FILLED, quantity=filled, filled=filled, stop_loss=D(270), signal_id=uuid.uuid4())
    leg = an_order(client_order_id="b" * 32, parent_id=entry.client_order_id, state=State.CANCELLED, filled=done)
    plan = ParentPlan(D(270), (ProfitTarget(D(330), D("0.5")), ProfitTarget(D(360), D("0.5"))))
    wants = desired(D("3.222"), [entry], D(0), INSTRUMENT)
    assert entry.signal_id is not None
    legs = {entry.client_order_id: {leg.client_order_id: leg}}
    parts = [want.quantity for want in split(wants, {entry.signal_id: plan}, legs, INSTRUMENT)]
    assert (sum(parts), parts) == (D("3.222"), [INSTRUMENT.round_quantity(part) for part in parts])


def test_a_price_moves_no_stop_of_a_strategy_whose_closes_do() -> None:
    model = ParentModel(lambda answers: answers[0], replace(PLAN, break_even=BreakEven(at_risk=D("1.5"))))
    model.entry = replace(model.entry, instance="one")
    model.fills(D(10))
    model.facts = replace(model.facts, marks={"binance": D(130)})
    model.settle()
    assert model.moves == []


def test_break_even_never_loosens_a_stop_that_is_nearer() -> None:
    model = a_model()
    model.entry = replace(model.entry, stop_loss=D(105))
    model.give(m.OrderChanged(model.entry, {model.entry.instance: model.position}))
    model.happens("target")
    model.settle()
    assert model.moves == []
    assert resting(model) == [(D(105), 3), (D(105), 2)]


def test_an_amended_plan_moves_its_targets() -> None:
    model = a_model()
    model.plan = replace(PLAN, targets=(ProfitTarget(D(111), D("0.5")), ProfitTarget(D(121), D("0.5"))))
    model.give(m.PlanChanged(SIGNAL, model.plan))
    model.settle()
    assert profits(model) == {D(111): 5, D(121): 5}


def test_an_entry_that_ends_in_part_shares_out_what_it_filled() -> None:
    model = ParentModel(lambda answers: answers[0])
    model.fills(D(4))
    assert resting(model) == [(D(90), 4)]
    model.ends()
    model.settle()
    assert resting(model) == [(D(90), 2), (D(90), D("1.2")), (D(90), D("0.8"))]
    assert {o.side for legs in model.lists(LIVE).values() for o in legs} == {Side.SELL}


def test_a_late_fill_of_a_forgotten_parent_still_has_its_targets() -> None:
    model = ParentModel(lambda answers: answers[0])
    model.ends()
    model.settle()
    model.fills(D(10))
    assert resting(model) == [(D(90), 5), (D(90), 3), (D(90), 2)]
