"""The order core against a model of a venue: whatever is refused, lost or late, it never sells twice and ends flat."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.model.ids import client_order_id, intent_id
from fks.model.order import OPEN, PENDING, Order, OrderType, Refusal, Request, Role, Side, State, TimeInForce
from fks.model.signal import Kind, Signal
from fks.trading.orders import messages as m
from fks.trading.orders.build import leg_of, legs_of
from fks.trading.orders.core import OrderCore
from tests.support.order_values import an_instrument, an_order

D = Decimal
KEY = (1, "ccxt", "BTCUSDT")
INSTRUMENT = replace(
    an_instrument(), symbol="BTCUSDT", exchange="binance", lot_step=D("0.001"), qty_min=D("0.001"), notional_min=D(1)
)
FACTS = m.Facts(instruments={"binance": INSTRUMENT}, marks={"binance": D(100)})
SECOND = 1_000_000_000
SECOND_ID = uuid.UUID(int=77)
#: of a close at the market, with the reason of what ended without a whole execution
ENDS = {"fill": Refusal.OTHER, "part": Refusal.PRICE, "refuse": Refusal.RATE_LIMITED, "barred": Refusal.QUANTITY}


def a_signal(kind: Kind = Kind.EXIT, **changes: Any) -> Signal:
    values: dict[str, Any] = {
        "id": uuid.uuid4(),
        "source": "strategy:one",
        "instance": "one",
        "params_version": 1,
        "account_id": 1,
        "venue": "ccxt",
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "ts_event_ns": 0,
        "ordinal": 0,
        "kind": kind,
        "side": Side.SELL,
    }
    return Signal(**(values | changes))


class Model:
    """A venue and a driver in one: carries commands out as `choose` says, and keeps what must always hold."""

    def __init__(self, choose: Callable[[list[str]], str], held: Decimal = D(5), *, passes_stops: bool = False) -> None:
        self.core = OrderCore(KEY, m.Limits(exit_retry_s=0.5))
        self.choose = choose
        self.refusals = {"refuse": Refusal.RATE_LIMITED} | ({"passed": Refusal.WOULD_TRIGGER} if passes_stops else {})
        self.orders: dict[str, Order] = {}
        self.position = held
        self.now_s = 0.0
        self.facts = FACTS
        self.used: set[str] = set()
        self.finished: list[m.CoreCommand] = []
        self.alerts: list[str] = []
        self.ended: list[str] = []
        self.pending: list[m.CoreEvent] = []
        self.submitted: list[uuid.UUID] = []
        self.reduced: dict[str, Decimal | None] = {}  # by amendments without an answer
        self.swaps: dict[str, str] = {}  # stops that one request ends, and their successors
        self.placed_at_s: list[float] = []
        self.signal = a_signal()
        entry = an_order(
            client_order_id="e" * 32,
            symbol="BTCUSDT",
            exchange="binance",
            venue="ccxt",
            account_id=1,
            instance="one",
            role=Role.ENTRY,
            side=Side.BUY,
            state=State.FILLED,
            quantity=held,
            filled=held,
            stop_loss=D(90),
            take_profit=None,
            created_ns=1,
        )
        self.entry = entry
        self.give(m.Restored((entry,), (entry,), {"one": held}))

    def give(self, event: m.CoreEvent) -> None:
        self.pending.append(event)
        while self.pending:
            now = m.Now(int(self.now_s * SECOND), self.now_s)
            for command in self.core.handle(self.pending.pop(0), now, self.facts):
                self.carry_out(command)
            self.check()

    def check(self) -> None:
        """At the venue, orders that may sell never sum to more than is held."""
        open_ = {name: o for name, o in self.orders.items() if o.side is Side.SELL and o.state in OPEN}
        for old, new in self.swaps.items():  # of a stop and its successor one is at the venue
            if old in open_ and self.orders[new].state in (State.SENDING, State.UNKNOWN):
                open_.pop(new, None)
        selling = sum((o.remaining for o in open_.values()), D(0))
        assert selling <= self.position, (selling, self.position)

    def changed(self, order: Order) -> None:
        self.orders[order.client_order_id] = order
        self.pending.append(m.OrderChanged(order, {"one": self.position}))

    def end(self, order: Order, state: State, filled: Decimal | None = None, refusal: Refusal | None = None) -> None:
        more = (filled or order.filled) - order.filled
        self.position -= more
        self.changed(
            replace(
                order,
                state=state,
                filled=order.filled + more,
                reported_cum_qty=order.filled + more,
                request=Request.NONE,
                refusal=refusal,
            )
        )

    def carry_out(self, command: m.CoreCommand) -> None:
        if isinstance(command, m.SubmitClose):
            self.close(command)
        elif isinstance(command, m.CloseAtMarket):
            self.close_passed(command)
        elif isinstance(command, m.PlaceProtection):
            self.protect(command)
        elif isinstance(command, m.AmendLegs):
            self.amend(command)
        elif isinstance(command, m.ReplaceStop):
            self.swap(command)
        elif isinstance(command, m.SubmitEntry):
            self.submitted.append(command.signal_id)
        elif isinstance(command, m.CancelOrder):
            order = self.orders[command.client_order_id]
            if self.choose(["acked", "unanswered"]) == "acked":
                self.end(order, State.CANCELLED)
            else:
                self.changed(replace(order, request=Request.CANCEL_UNKNOWN))
        elif isinstance(command, m.WithdrawCancel):
            self.changed(replace(self.orders[command.client_order_id], request=Request.NONE))
        elif isinstance(command, m.FinishSignal):
            self.finished.append(command)
        elif isinstance(command, m.RaiseAlert):
            self.alerts.append(command.event)
        elif isinstance(command, m.EndAlert):
            self.ended.append(command.event)
        else:
            assert isinstance(command, m.RefreshBalances | m.AbandonOrder | m.QueryOrder), command

    def amend(self, command: m.AmendLegs) -> None:
        (name,) = command.client_order_ids
        order = self.orders[name]
        assert order.filled < command.quantity < order.quantity
        self.changed(replace(order, request=Request.REPLACE))
        answer = self.choose(["acked", "refused", "unanswered"])
        if answer == "unanswered":
            self.changed(replace(order, request=Request.REPLACE_UNKNOWN))
            self.reduced[name] = command.quantity if self.choose(["reduced", "as it was"]) == "reduced" else None
        else:
            after = replace(order, quantity=command.quantity) if answer == "acked" else order
            self.changed(replace(after, request=Request.REPLACE))  # the stream's report comes before the answer
            self.changed(after)

    def swap(self, command: m.ReplaceStop) -> None:
        old, parent = self.orders[command.client_order_id], command.parent
        new = legs_of(parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=int(self.now_s))[0]
        assert new.client_order_id not in self.used, "an id was used twice"
        assert (old.state, old.request) == (State.ACCEPTED, Request.NONE)
        self.used.add(new.client_order_id)
        self.swaps[old.client_order_id] = new.client_order_id
        self.changed(replace(old, request=Request.REPLACE))
        sent = replace(new, state=State.SENDING)
        self.changed(sent)
        answer = self.choose(["both", "halfway", "neither", "unanswered"])
        refusals: tuple[Refusal, ...] = ()
        if answer == "both":
            self.changed(replace(sent, state=State.ACCEPTED, is_acknowledged=True))
        elif answer == "unanswered":
            self.changed(replace(sent, state=State.UNKNOWN))
        else:
            refusals = (self.refusals.get("passed", Refusal.OTHER),)
            self.end(sent, State.REJECTED, refusal=refusals[0])
        if answer in ("both", "halfway"):
            self.end(old, State.CANCELLED)
        else:
            request = Request.REPLACE_UNKNOWN if answer == "unanswered" else Request.NONE
            self.changed(replace(old, request=request))
        self.pending.append(m.ProtectionDone(parent.client_order_id, refusals))

    def answer_swaps(self) -> None:
        """Let the venue say what became of stops and successors: one of the two is there."""
        for name, successor in list(self.swaps.items()):
            old, new = self.orders[name], self.orders[successor]
            if new.state is not State.UNKNOWN:
                continue
            if old.state in OPEN and self.choose(["done", "never arrived"]) == "done":
                self.orders[successor] = new = replace(new, state=State.ACCEPTED, is_acknowledged=True)
                self.end(old, State.CANCELLED)
                self.changed(new)
            elif old.request is Request.REPLACE_UNKNOWN:
                self.changed(replace(old, request=Request.NONE))

    def close(self, command: m.SubmitClose) -> None:
        name = client_order_id(intent_id(command.signal_id), Role.EXIT, command.attempt)
        assert name not in self.used, "an id was used twice"
        self.used.add(name)
        order = an_order(
            client_order_id=name,
            symbol="BTCUSDT",
            exchange="binance",
            venue="ccxt",
            account_id=1,
            instance="one",
            role=Role.EXIT,
            side=command.side,
            type=OrderType.MARKET,
            time_in_force=TimeInForce.GTC,
            state=State.SENDING,
            attempt=command.attempt,
            quantity=command.quantity,
            stop_loss=None,
            take_profit=None,
            signal_id=command.signal_id,
            is_reduce_only=True,
        )
        answer = self.choose(["fill", "part", "refuse", "short", "other", "unknown"])
        self.changed(order)
        self.check()
        if answer == "fill":
            self.end(order, State.FILLED, order.quantity)
        elif answer == "part":
            self.end(order, State.EXPIRED, INSTRUMENT.round_quantity(order.quantity / 2))
        elif answer == "unknown":
            self.changed(replace(order, state=State.UNKNOWN))
        else:
            refusals = {"refuse": Refusal.RATE_LIMITED, "short": Refusal.INSUFFICIENT_BALANCE, "other": Refusal.OTHER}
            self.end(order, State.REJECTED, refusal=refusals[answer])
        self.pending.append(m.CloseDone("one", name))

    def protect(self, command: m.PlaceProtection) -> None:
        self.placed_at_s.append(self.now_s)
        refusals: tuple[Refusal, ...] = ()
        for leg in legs_of(
            command.parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=int(self.now_s * SECOND)
        ):
            if leg.role not in command.roles:
                continue
            assert leg.client_order_id not in self.used, "an id was used twice"
            self.used.add(leg.client_order_id)
            sent = replace(leg, state=State.SENDING)
            self.changed(sent)
            self.check()
            answer = self.choose(["rest", "rest", "unknown", *self.refusals])
            if answer == "rest":
                self.changed(replace(sent, state=State.ACCEPTED, is_acknowledged=True))
            elif answer == "unknown":
                self.changed(replace(sent, state=State.UNKNOWN))
            else:
                refusals = (self.refusals[answer],)
                self.end(sent, State.REJECTED, refusal=refusals[0])
        self.pending.append(m.ProtectionDone(command.parent.client_order_id, refusals))

    def close_passed(self, command: m.CloseAtMarket) -> None:
        self.placed_at_s.append(self.now_s)
        (role,) = command.roles
        leg = leg_of(command.parent, role, OrderType.MARKET, command.quantity, command.attempt, 1, 0)
        assert leg.client_order_id not in self.used, "an id was used twice"
        self.used.add(leg.client_order_id)
        sent, answer = replace(leg, state=State.SENDING), self.choose([*ENDS, "unknown"])
        refusals: tuple[Refusal, ...] = ()
        self.changed(sent)
        self.check()
        if answer == "fill":
            self.end(sent, State.FILLED, sent.quantity)
        elif answer == "unknown":
            self.changed(replace(sent, state=State.UNKNOWN))
        else:
            refusals = (ENDS[answer],)
            part = INSTRUMENT.round_quantity(sent.quantity / 2) if answer == "part" else D(0)
            self.end(sent, State.EXPIRED if part else State.REJECTED, part, refusals[0])
        self.pending.append(m.ProtectionDone(command.parent.client_order_id, refusals))

    def trail(self, stop_loss: Decimal) -> None:
        """Move the stop loss of the entry."""
        self.entry = replace(self.entry, stop_loss=stop_loss)
        self.give(m.OrderChanged(self.entry, {"one": self.position}))

    def time_passes(self) -> None:
        """Let a second pass: unanswered orders are settled, as the queries of an order manager do."""
        self.now_s += 1.0
        self.answer_swaps()
        for order in list(self.orders.values()):
            if order.state is State.UNKNOWN:
                if order.type is OrderType.MARKET:
                    self.end(order, *self.choose_end(order))
                else:
                    self.end(order, State.ABSENT)
            elif order.request is Request.CANCEL_UNKNOWN:
                self.end(order, State.CANCELLED)
            elif order.request is Request.REPLACE_UNKNOWN:
                quantity = self.reduced.pop(order.client_order_id, None) or order.quantity
                self.changed(replace(order, request=Request.NONE, quantity=quantity))
        self.give(m.Tick())

    def choose_end(self, order: Order) -> tuple[State, Decimal | None]:
        return (State.FILLED, order.quantity) if self.choose(["filled", "absent"]) == "filled" else (State.ABSENT, None)

    @property
    def covered(self) -> Decimal:
        return sum(
            (o.remaining for o in self.orders.values() if o.role is Role.STOP_LOSS and o.state is State.ACCEPTED), D(0)
        )


def good(answers: list[str]) -> str:
    return answers[0]


@given(data=st.data(), seconds=st.integers(0, 12), when=st.integers(0, 3))
def test_an_exit_never_sells_twice_and_ends_flat(data: st.DataObject, seconds: int, when: int) -> None:
    model = Model(lambda answers: data.draw(st.sampled_from(answers)), passes_stops=True)
    for second in range(seconds):
        if second == when:
            model.give(m.SignalReady(model.signal, 0, None))
        if data.draw(st.integers(0, 5)) == 0:
            halted = replace(INSTRUMENT, is_trading=data.draw(st.booleans()))
            model.facts = replace(model.facts, instruments={"binance": halted})
        model.time_passes()
    model.choose, model.facts = good, FACTS
    model.give(m.SignalReady(model.signal, 0, None))
    for _ in range(60):
        model.time_passes()
    assert model.position == 0
    assert not [order for order in model.orders.values() if order.state in OPEN]
    assert model.core.is_idle


@given(
    data=st.data(),
    seconds=st.integers(0, 12),
    share=st.sampled_from(["0.5", "0.333333", "0.000001", "0.0021", "0.999999"]),
    can_amend=st.booleans(),
)
def test_a_part_is_closed_once_and_the_rest_keeps_its_stop(
    data: st.DataObject, seconds: int, share: str, can_amend: bool
) -> None:
    """After every answer of the venue, the rest of the part is in the end below its smallest order."""
    model = Model(lambda answers: data.draw(st.sampled_from(answers)))
    model.facts = facts = replace(FACTS, can_amend=can_amend)
    part = D(5) * D(share) // D("0.001") * D("0.001")
    signal = replace(model.signal, size_share=D(share))
    for second in range(seconds):
        if second == 1:
            model.give(m.SignalReady(signal, 0, None))
        if data.draw(st.integers(0, 5)) == 0:
            halted = replace(INSTRUMENT, is_trading=data.draw(st.booleans()))
            model.facts = replace(facts, instruments={"binance": halted})
        model.time_passes()
    model.choose, model.facts = good, facts
    model.give(m.SignalReady(signal, 0, None))
    for _ in range(60):
        model.time_passes()
    assert D(0) <= part - (D(5) - model.position) < D("0.01")  # at 100, the least notional is 1
    assert model.covered == (model.position if model.position * 90 >= 1 else 0)  # less cannot rest at 90
    assert model.core.is_idle
    assert model.core.exit_of("one") is None


@given(data=st.data(), seconds=st.integers(1, 12), when=st.integers(0, 6), can_amend=st.booleans())
def test_an_exit_of_all_behind_a_part_ends_flat_whatever_the_answers_are(
    data: st.DataObject, seconds: int, when: int, can_amend: bool
) -> None:
    model = Model(lambda answers: data.draw(st.sampled_from(answers)))
    model.facts = facts = replace(FACTS, can_amend=can_amend)
    part, whole = replace(model.signal, size_share=D("0.5")), a_signal()
    model.give(m.SignalReady(part, 0, None))
    for second in range(seconds):
        if second == when:
            model.give(m.SignalReady(whole, 0, None))
        if data.draw(st.integers(0, 5)) == 0:
            halted = replace(INSTRUMENT, is_trading=data.draw(st.booleans()))
            model.facts = replace(facts, instruments={"binance": halted})
        model.time_passes()
    model.choose, model.facts = good, facts
    model.give(m.SignalReady(whole, 0, None))
    for _ in range(60):
        model.time_passes()
    assert model.position == 0
    assert not [order for order in model.orders.values() if order.state in OPEN]
    assert model.core.is_idle


def test_an_exit_of_all_waits_for_the_order_of_a_part_that_is_on_its_way() -> None:
    model = Model(lambda answers: "unknown" if "part" in answers else good(answers))
    part, whole = replace(model.signal, size_share=D("0.4")), a_signal()
    model.give(m.SignalReady(part, 0, None))
    model.give(m.SignalReady(whole, 0, None))
    exits = [order for order in model.orders.values() if order.role is Role.EXIT]
    assert [(order.signal_id, order.quantity, order.state) for order in exits] == [(part.id, D(2), State.UNKNOWN)]
    model.choose = lambda answers: "filled" if "filled" in answers else good(answers)
    for _ in range(3):
        model.time_passes()
    exits = [order for order in model.orders.values() if order.role is Role.EXIT]
    assert [(order.signal_id, order.filled) for order in exits] == [(part.id, D(2)), (whole.id, D(3))]


def test_an_exit_of_all_takes_the_place_of_a_part_that_waits() -> None:
    """The part waits for an entry whose outcome is not known; the exit of all goes at once, as without it."""
    model = Model(good)
    part, whole = replace(model.signal, size_share=D("0.4")), a_signal()
    unclear = replace(
        model.entry, client_order_id="f" * 32, created_ns=2, filled=D(0), state=State.UNKNOWN, intent_id=SECOND_ID
    )
    model.changed(unclear)
    model.choose = lambda answers: "unanswered" if "unanswered" in answers else answers[0]
    model.give(m.SignalReady(part, 0, None))
    exit_ = model.core.exit_of("one")
    assert exit_ is not None
    assert (model.position, exit_.last_problem) == (D(5), "an entry may still fill: the size of the part is not known")
    model.choose = good
    model.give(m.SignalReady(whole, 0, None))
    assert model.position == 0
    assert [(c.signal_id, c.state.value) for c in model.finished if isinstance(c, m.FinishSignal)] == [
        (part.id, "nothing")
    ]
    model.give(m.SignalReady(part, 0, None))  # reported again: it has its outcome
    exit_ = model.core.exit_of("one")
    assert exit_ is None or exit_.signal.id == whole.id


def test_a_part_that_is_closed_leaves_a_reduced_stop() -> None:
    model = Model(good)
    model.facts = replace(FACTS, can_amend=True)
    stop = next(order for order in model.orders.values() if order.role is Role.STOP_LOSS)
    model.give(m.SignalReady(replace(model.signal, size_share=D("0.4")), 0, None))
    assert (model.position, model.covered, model.orders[stop.client_order_id].quantity) == (D(3), D(3), D(3))
    model.give(m.SignalReady(a_signal(size_share=D("0.5")), 0, None))
    assert (model.position, model.covered) == (D("1.5"), D("1.5"))
    model.give(m.SignalReady(a_signal(), 0, None))
    assert (model.position, model.covered) == (D(0), D(0))


@pytest.mark.parametrize(("closed", "expected"), [("1", D("1.5")), ("2.495", None), ("2.5", None)])
def test_a_resumed_part_goes_on_to_the_quantity_that_it_had(closed: str, expected: Decimal | None) -> None:
    held = an_order(client_order_id="e" * 32, state=State.FILLED, quantity=D(5), filled=D(5))
    core, signal = OrderCore(KEY, m.Limits()), a_signal(size_share=D("0.5"))
    closes = [
        an_order(
            client_order_id=client_order_id(intent_id(signal.id), Role.EXIT, attempt),
            role=Role.EXIT,
            side=Side.SELL,
            state=State.EXPIRED,
            quantity=D("2.5"),
            filled=filled,
            attempt=attempt,
            signal_id=signal.id,
            is_reduce_only=True,
        )
        for attempt, filled in ((0, D("0.25")), (1, D(closed) - D("0.25")))
    ]
    exits = (m.ResumedExit(signal, closes[-1], tuple(closes)),)
    restored = m.Restored((), (held,), {"one": D(5) - D(closed)}, exits)
    commands = core.handle(restored, m.Now(0, 0.0), FACTS)
    made = [(command.attempt, command.quantity) for command in commands if isinstance(command, m.SubmitClose)]
    assert made == ([] if expected is None else [(2, expected)])
    assert (core.exit_of("one") is None) is (expected is None)


def test_a_venue_that_closes_a_position_as_a_whole_denies_a_part() -> None:
    core, signal = OrderCore(KEY, m.Limits()), a_signal(size_share=D("0.5"))
    held = an_order(client_order_id="e" * 32, state=State.FILLED, quantity=D(5), filled=D(5))
    facts = replace(FACTS, keeps_bracket=True)
    core.handle(m.Restored((), (held,), {"one": D(5)}), m.Now(0, 0.0), facts)
    commands = core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), facts)
    assert [command.code for command in commands if isinstance(command, m.DenySignal)] == ["TYPE_UNSUPPORTED"]
    assert not [command for command in commands if isinstance(command, m.SubmitClose)]


@given(data=st.data(), seconds=st.integers(1, 10), has_exit=st.booleans())
def test_trailed_stops_are_replaced_whatever_the_answers_are(data: st.DataObject, seconds: int, has_exit: bool) -> None:
    """Never more is sold than is held; in the end the stop is where it came to, or an exit left nothing."""
    model = Model(lambda answers: data.draw(st.sampled_from(answers)))
    model.facts = replace(FACTS, can_replace=True)
    for second in range(seconds):
        if data.draw(st.booleans()):
            model.trail(D(91 + second))
        if has_exit and second == seconds // 2:
            model.give(m.SignalReady(model.signal, 0, None))
        model.time_passes()
    model.choose = good
    for _ in range(60):
        model.time_passes()
    stops = [o for o in model.orders.values() if o.role is Role.STOP_LOSS and o.state in OPEN]
    if has_exit:
        assert (model.position, stops) == (0, [])
    else:
        assert model.covered == model.position == D(5)
        assert {stop.stop_price for stop in stops} == {model.entry.stop_loss}
    assert model.core.is_idle


CLOSING = replace(FACTS, closes_fills=True, has_oco=False)


def closing_core() -> tuple[OrderCore, list[m.CoreCommand]]:
    """Return a core with an entry of 5 whose fills make their own stops at the venue, and its first commands."""
    core = OrderCore(KEY, m.Limits())
    entry = an_order(
        client_order_id="e" * 32, state=State.FILLED, quantity=D(5), filled=D(5), stop_loss=D(90), group_id="list"
    )
    return core, core.handle(m.Restored((entry,), (entry,), {"one": D(5)}), m.Now(0, 0.0), CLOSING)


def a_close(number: int, quantity: int, state: State = State.ACCEPTED) -> m.OrderChanged:
    stop = an_order(
        client_order_id=f"{number:032x}",
        parent_id="e" * 32,
        role=Role.STOP_LOSS,
        type=OrderType.STOP,
        side=Side.SELL,
        stop_price=D(90),
        state=state,
        quantity=D(quantity),
        attempt=-number,
        venue_order_id=f"O{number}",
    )
    return m.OrderChanged(stop, {"one": D(5)})


def placed(commands: Sequence[m.CoreCommand]) -> list[Decimal]:
    return [command.quantity for command in commands if isinstance(command, m.PlaceProtection)]


def asked(commands: Sequence[m.CoreCommand]) -> list[str]:
    return [command.parent.client_order_id for command in commands if isinstance(command, m.ReadCloses)]


@pytest.mark.parametrize(("reported", "lacking"), [([], [D(5)]), ([3], [D(2)]), ([3, 2], [])])
def test_a_fill_gets_a_stop_once_the_venue_has_proven_that_it_made_none(
    reported: list[int], lacking: list[Decimal]
) -> None:
    """However long it gives no answer: both stops might trigger."""
    core, commands = closing_core()
    for number, quantity in enumerate(reported, start=1):
        commands += core.handle(a_close(number, quantity), m.Now(0, 0.5), CLOSING)
    assert asked(commands) == []
    due = ["e" * 32] if lacking else []
    without_journal = replace(CLOSING, can_commit=False, has_side_journal=True)
    for now_s in (1.0, 20.0, 600.0):
        commands = core.handle(m.Tick(), m.Now(0, now_s), without_journal)
        assert (asked(commands), placed(commands)) == (due, [])
        assert asked(core.handle(m.Tick(), m.Now(0, now_s + 0.1), CLOSING)) == []
        core.handle(m.ClosesRead("e" * 32, None), m.Now(0, now_s + 0.2), CLOSING)
        assert core.wake_at_s == (pytest.approx(now_s + 1.2) if lacking else None)
    assert placed(core.handle(m.ClosesRead("e" * 32, D(5)), m.Now(0, 601.3), CLOSING)) == lacking


def test_a_proof_of_before_a_fill_says_nothing_about_it() -> None:
    core, _ = closing_core()
    core.handle(m.Tick(), m.Now(0, 1.0), CLOSING)
    commands = core.handle(m.ClosesRead("e" * 32, D(3)), m.Now(0, 1.1), CLOSING)
    assert placed(commands) == []
    assert asked(core.handle(m.Tick(), m.Now(0, 2.2), CLOSING)) == ["e" * 32]
    assert placed(core.handle(m.ClosesRead("e" * 32, D(5)), m.Now(0, 2.3), CLOSING)) == [D(5)]


def test_a_stop_that_the_venue_shows_after_the_position_is_closed_is_cancelled() -> None:
    """The core knows its entry no more: it would rest on coins that are not of the position."""
    core = OrderCore(KEY, m.Limits())
    core.handle(m.Restored((), (), {}), m.Now(0, 0.0), CLOSING)
    commands = core.handle(msgspec.structs.replace(a_close(1, 5), positions={}), m.Now(SECOND, 1.0), CLOSING)
    commands += core.handle(m.Tick(), m.Now(2 * SECOND, 2.0), CLOSING)
    assert [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)] == [f"{1:032x}"]


@pytest.mark.parametrize("booked", [0, 3])
def test_a_stop_that_is_reported_before_its_fill_is_left_alone(booked: int) -> None:
    """It was cancelled, as more than is held, and placed again once the fill was booked."""
    core = OrderCore(KEY, m.Limits())
    state = State.PARTIAL if booked else State.ACCEPTED
    entry = an_order(
        client_order_id="e" * 32, state=state, quantity=D(5), filled=D(booked), stop_loss=D(90), group_id="list"
    )
    held = {"one": D(booked)} if booked else {}
    core.handle(m.Restored((entry,), (entry,) if booked else (), held), m.Now(0, 0.0), CLOSING)
    commands = core.handle(msgspec.structs.replace(a_close(1, 3), positions=held), m.Now(0, 0.1), CLOSING)
    commands += core.handle(msgspec.structs.replace(a_close(2, 2), positions=held), m.Now(0, 0.2), CLOSING)
    commands += core.handle(m.Tick(), m.Now(0, 5.0), CLOSING)
    filled = replace(entry, state=State.FILLED, filled=D(5))
    commands += core.handle(m.OrderChanged(filled, {"one": D(5)}), m.Now(0, 5.1), CLOSING)
    assert [c for c in commands if isinstance(c, m.CancelOrder | m.PlaceProtection)] == []


def test_an_ended_stop_of_the_venue_is_replaced_at_once() -> None:
    core, _ = closing_core()
    core.handle(a_close(1, 5), m.Now(SECOND, 1.0), CLOSING)
    ended = a_close(1, 5, State.CANCELLED)
    assert placed(core.handle(ended, m.Now(2 * SECOND, 2.0), CLOSING)) == [D(5)]


def test_an_exit_waits_for_stops_that_the_venue_has_not_reported() -> None:
    core, _ = closing_core()
    out = m.SignalReady(a_signal(), 0, None)
    commands = core.handle(out, m.Now(SECOND, 1.0), CLOSING)
    assert [c for c in commands if isinstance(c, m.SubmitClose)] == []
    commands = core.handle(a_close(1, 5), m.Now(2 * SECOND, 2.0), CLOSING)
    assert [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)] == [f"{1:032x}"]
    assert [c for c in commands if isinstance(c, m.SubmitClose)] == []
    commands = core.handle(a_close(1, 5, State.CANCELLED), m.Now(3 * SECOND, 3.0), CLOSING)
    assert [c.quantity for c in commands if isinstance(c, m.SubmitClose)] == [D(5)]


def test_a_replaced_stop_is_never_ended_before_its_successor() -> None:
    model = Model(lambda answers: "both" if "both" in answers else answers[0])
    model.facts = replace(FACTS, can_replace=True)
    for level in (92, 95, 99):
        model.trail(D(level))
        assert model.covered == D(5)
    assert (len(model.placed_at_s), len(model.swaps)) == (1, 3)


def test_a_successor_that_is_refused_after_the_end_is_placed_at_once() -> None:
    model = Model(lambda answers: "halfway" if "halfway" in answers else answers[0])
    model.facts = replace(FACTS, can_replace=True)
    model.trail(D(92))
    assert (model.placed_at_s, model.covered) == ([0.0, 0.0], D(5))


def test_two_refused_replacements_lead_to_a_cancel() -> None:
    model = Model(lambda answers: "neither" if "neither" in answers else answers[0])
    model.facts = replace(FACTS, can_replace=True)
    model.trail(D(92))
    assert (len(model.swaps), model.covered) == (1, D(5))
    for _ in range(3):
        model.time_passes()
    stops = [o for o in model.orders.values() if o.role is Role.STOP_LOSS]
    assert [o.stop_price for o in stops if o.state in OPEN] == [D(92)]
    assert [o.attempt for o in stops if o.state is State.REJECTED] == [1, 2]


def test_a_refused_replacement_is_tried_again_after_a_stop_was_placed() -> None:
    model = Model(lambda answers: "neither" if "neither" in answers else answers[0])
    model.facts = replace(FACTS, can_replace=True)
    model.trail(D(92))
    for _ in range(3):
        model.time_passes()
    model.choose = good
    model.trail(D(95))
    assert (len(model.swaps), model.covered) == (2, D(5))


class SlowSwaps(Model):
    """A venue whose answer to a replacement takes 0.15 s."""

    asked: m.ReplaceStop | None = None

    def swap(self, command: m.ReplaceStop) -> None:
        old, parent = self.orders[command.client_order_id], command.parent
        new = legs_of(parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=0)[0]
        self.asked, self.swaps[old.client_order_id] = command, new.client_order_id
        self.changed(replace(old, request=Request.REPLACE))
        self.changed(replace(new, state=State.SENDING))

    def answer(self) -> None:
        assert self.asked is not None
        self.now_s += 0.15
        new = self.orders[self.swaps[self.asked.client_order_id]]
        self.changed(replace(new, state=State.ACCEPTED, is_acknowledged=True))
        self.end(self.orders[self.asked.client_order_id], State.CANCELLED)
        self.pending.append(m.ProtectionDone(self.asked.parent.client_order_id))
        self.give(m.Tick())


def test_a_replacement_on_its_way_is_no_time_without_a_stop() -> None:
    model = SlowSwaps(good)
    model.facts = replace(FACTS, can_replace=True)
    for second in range(60):
        model.now_s += 0.85
        model.trail(D(91) + D(second) / 10)
        model.answer()
    assert len(model.swaps) == 60
    assert model.alerts == []


def test_an_exit_of_another_instance_is_not_cut_by_a_replacement_on_its_way() -> None:
    model = SlowSwaps(good)
    model.facts = replace(FACTS, can_replace=True)
    model.trail(D(92))
    assert [o.state for o in model.orders.values() if o.role is Role.STOP_LOSS] == [State.ACCEPTED, State.SENDING]
    now, held = m.Now(SECOND, 1.0), {"one": D(5), "two": D(3)}
    model.core.handle(m.OrderChanged(model.entry, held), now, model.facts)
    commands = model.core.handle(m.SignalReady(a_signal(instance="two"), 0, None), now, model.facts)
    assert [command.quantity for command in commands if isinstance(command, m.SubmitClose)] == [D(3)]


@pytest.mark.parametrize("executed", [Role.STOP_LOSS, Role.TAKE_PROFIT])
def test_an_exit_is_not_cut_by_the_leg_of_another_whose_sibling_has_executed(executed: Role) -> None:
    """The end of an OCO's other leg is reported apart, and may come later."""
    core, now, held = OrderCore(KEY, m.Limits()), m.Now(SECOND, 1.0), {"one": D(5), "two": D(3)}
    entry = replace(Model(good).entry, instance="two", quantity=D(3), filled=D(3), take_profit=D(120))
    legs = [
        replace(leg, state=State.ACCEPTED, group_id="two", is_acknowledged=True)
        for leg in legs_of(entry, quantity=D(3), attempt=0, epoch=1, now_ns=0)
    ]
    core.handle(m.Restored((entry, *legs), (entry,), held), now, FACTS)
    done = next(leg for leg in legs if leg.role is executed)
    done = replace(done, state=State.FILLED, filled=D(3), reported_cum_qty=D(3))
    over = replace(FACTS, lists_over=frozenset({"two"}))
    core.handle(m.OrderChanged(done, held | {"two": D(0)}), now, over)
    commands = core.handle(m.SignalReady(a_signal(), 0, None), now, over)
    assert [command.quantity for command in commands if isinstance(command, m.SubmitClose)] == [D(5)]


def test_a_replacement_without_an_answer_pages_as_a_missing_stop() -> None:
    model = Model(lambda answers: "unanswered" if "unanswered" in answers else answers[0])
    model.facts = replace(FACTS, can_replace=True)
    model.trail(D(92))
    for now_s in (1.0, 4.0, 6.0):
        assert "position.unprotected" not in model.alerts
        model.now_s = now_s
        model.give(m.Tick())
    assert "position.unprotected" in model.alerts


@given(data=st.data(), seconds=st.integers(0, 12))
def test_without_an_exit_the_stop_is_there_in_the_end(data: st.DataObject, seconds: int) -> None:
    model = Model(lambda answers: data.draw(st.sampled_from(answers)))
    for _ in range(seconds):
        model.time_passes()
    model.choose = good
    for _ in range(40):
        model.time_passes()
    assert model.covered == model.position == D(5)


@given(data=st.data(), parts=st.lists(st.integers(1, 300), min_size=1, max_size=8), can_amend=st.booleans())
def test_entries_that_fill_in_parts_are_covered_in_the_end(
    data: st.DataObject, parts: list[int], can_amend: bool
) -> None:
    """Two entries, each part less a fee, whatever the venue answers."""
    model = Model(lambda answers: data.draw(st.sampled_from(answers)))
    model.facts = replace(FACTS, can_amend=can_amend)
    second = replace(
        model.entry, client_order_id="f" * 32, created_ns=2, quantity=D(30), filled=D(0), intent_id=SECOND_ID
    )
    for part in parts:
        second = replace(second, filled=second.filled + D(part) / 10, state=State.PARTIAL)
        model.position += D(part) / 10 * D("0.999")
        model.changed(second)
        model.give(m.Tick())
        if data.draw(st.booleans()):
            model.time_passes()
    model.choose = good
    for _ in range(40):
        model.time_passes()
    assert model.covered == INSTRUMENT.round_quantity(model.position)


class Pyramid(Model):
    """Entries with stops of their own, and beside the venue a plain account of what each of them holds."""

    def __init__(self, *, can_amend: bool) -> None:
        super().__init__(good, held=D(0))
        self.facts = replace(FACTS, can_amend=can_amend)
        self.entries: list[Order] = []  # oldest first
        self.held: dict[str, Decimal] = {}

    def enter(self, quantity: int, stop: int) -> None:
        number = len(self.entries) + 1
        values: dict[str, Any] = {"client_order_id": f"{number:032x}", "intent_id": uuid.UUID(int=number)}
        values |= {"quantity": D(quantity), "filled": D(quantity), "stop_loss": D(stop), "created_ns": number}
        self.entries.append(replace(self.entry, **values))
        self.held[self.entries[-1].client_order_id] = D(quantity)
        self.position += quantity
        self.give(m.OrderChanged(self.entries[-1], {"one": self.position}))

    def execute(self, quantity: int, at: int) -> None:
        """Execute some of a live stop, which then ends."""
        live = [order for order in self.orders.values() if order.state is State.ACCEPTED]
        if live:
            stop = live[at % len(live)]
            filled = min(D(quantity), stop.quantity)
            self.held[stop.parent_id or ""] -= filled
            self.end(stop, State.FILLED if filled == stop.quantity else State.CANCELLED, filled)
            self.give(m.Tick())

    def sell(self, quantity: int, _: int) -> None:
        """Take a part of the position elsewhere, of its oldest entries."""
        for name, held in self.held.items():
            sold = min(D(quantity), held)
            self.held[name], self.position, quantity = held - sold, self.position - sold, quantity - int(sold)
        self.give(m.PositionsChanged({"one": self.position}))

    def restart(self, _: int, __: int) -> None:
        """Begin again from the rows that the store gives."""
        rows, left = list[Order](), self.position
        for entry in reversed(self.entries):
            name = entry.client_order_id
            rest = entry.filled - sum((leg.filled for leg in self.orders.values() if leg.parent_id == name), D(0))
            if rest and left > 0:
                rows.append(entry)
                left -= rest
        names = {row.client_order_id for row in rows}
        legs = tuple(leg for leg in self.orders.values() if leg.state in OPEN or leg.parent_id in names)
        self.core = OrderCore(KEY, m.Limits(exit_retry_s=0.5))
        self.give(m.Restored(legs, tuple(rows), {"one": self.position}))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([Pyramid.enter, Pyramid.enter, Pyramid.execute, Pyramid.sell, Pyramid.restart]),
            st.integers(1, 5),
            st.integers(80, 95),
        ),
        max_size=12,
    ),
    can_amend=st.booleans(),
)
@example(steps=[(Pyramid.enter, 5, 90), (Pyramid.enter, 3, 95), (Pyramid.execute, 3, 1)], can_amend=False)
def test_each_entry_keeps_stops_over_exactly_what_it_holds(
    steps: list[tuple[Callable[[Pyramid, int, int], None], int, int]], can_amend: bool
) -> None:
    """A stop that executed counts against its own entry, everything else against the oldest ones."""
    model = Pyramid(can_amend=can_amend)
    for act, quantity, number in steps:
        act(model, quantity, number)
        for _ in range(4):
            model.time_passes()
        live = {name: D(0) for name in model.held}
        for order in model.orders.values():
            live[order.parent_id or ""] += order.remaining
        assert live == model.held
        assert sum(live.values(), D(0)) == model.position
    assert model.alerts == []


def test_a_closed_entry_that_is_reported_again_gets_no_stop() -> None:
    """The venue's answer to the entry may arrive after its stop has executed."""
    model = Pyramid(can_amend=False)
    model.enter(5, 90)
    model.enter(3, 95)
    model.execute(3, 1)
    model.give(m.OrderChanged(replace(model.entries[1], venue_order_id="7"), {"one": D(5)}))
    model.time_passes()
    assert [(o.stop_price, o.remaining) for o in model.orders.values() if o.is_open] == [(D(90), D(5))]
    assert model.core.held_entries(FACTS.instruments) == {"one": [model.entries[0]]}


@pytest.mark.parametrize("can_amend", [True, False])
def test_an_entry_that_fills_in_parts_is_covered_at_once_and_then_by_the_quarter_second(can_amend: bool) -> None:
    model = Model(good, held=D(1))
    model.facts = replace(FACTS, can_amend=can_amend)
    assert model.covered == D(1)  # the first part at once
    for filled, at_s, covered in ((2, 1.0, 2), (3, 1.1, 2), (4, 1.2, 2), (4, 1.25, 4), (4.02, 9, 4.02)):
        model.now_s, model.position = at_s, D(str(filled))
        model.changed(replace(model.entry, quantity=D(9), filled=model.position, state=State.PARTIAL))
        model.give(m.Tick())
        assert model.covered == D(str(covered)), at_s
    stops = [order.state for order in model.orders.values() if order.role is Role.STOP_LOSS]
    assert stops == [State.ACCEPTED] * 4


def test_a_person_that_sells_a_part_leaves_a_stop_over_the_rest() -> None:
    model = Model(good)
    model.facts = replace(FACTS, can_amend=True)
    stop = next(order for order in model.orders.values() if order.role is Role.STOP_LOSS)
    sale = a_signal(Kind.ORDER, size=D(2), type=OrderType.MARKET, source="principal:ann")
    model.submitted.clear()
    model.give(m.SignalReady(sale, 0, None))
    assert model.submitted == [sale.id]
    assert (model.covered, model.orders[stop.client_order_id].quantity) == (D(3), D(3))


def test_stops_are_amended_however_often_though_reports_come_before_answers() -> None:
    model = Model(good, held=D(9))
    model.facts = replace(FACTS, can_amend=True)
    stop = next(order for order in model.orders.values() if order.role is Role.STOP_LOSS)
    for held in (7, 5, 3, 2):
        model.position = D(held)
        model.give(m.PositionsChanged({"one": D(held)}))
        assert model.orders[stop.client_order_id].quantity == model.covered == D(held)
    assert model.orders[stop.client_order_id].state is State.ACCEPTED


def test_a_leg_whose_cancel_is_refused_blocks_no_newer_entry() -> None:
    model = Model(lambda answers: "unanswered" if "unanswered" in answers else answers[0])
    newer = replace(
        model.entry, client_order_id="f" * 32, created_ns=2, intent_id=SECOND_ID, filled=D(2), quantity=D(2)
    )
    model.position = D("6.998")
    model.give(m.OrderChanged(newer, {"one": model.position}))
    assert model.covered == model.position


def test_a_stop_on_its_way_when_its_entry_is_sold_is_cancelled() -> None:
    """The position is made of the newer entry alone by the time that the older one's stop is in the journal."""
    model, waiting = Model(good), list[m.CoreCommand]()
    model.end(next(iter(model.orders.values())), State.CANCELLED)
    carry_out, model.carry_out = model.carry_out, waiting.append  # type: ignore[method-assign]
    model.give(m.Tick())
    (placing,) = waiting
    model.carry_out = carry_out  # type: ignore[method-assign]
    newer = replace(
        model.entry, client_order_id="f" * 32, intent_id=SECOND_ID, quantity=D(3), filled=D(3), created_ns=2
    )
    model.position = D(8)
    model.give(m.OrderChanged(newer, {"one": D(8)}))
    model.position = D(3)
    model.give(m.PositionsChanged({"one": D(3)}))
    model.check = lambda: None  # type: ignore[method-assign]
    carry_out(placing)
    model.give(m.Tick())
    assert (model.covered, model.position) == (3, 3)


def passing(answers: list[str]) -> str:
    return next((answer for answer in ("passed", "neither", "rest") if answer in answers), answers[0])


def test_a_passed_stop_is_closed_at_once_and_no_stop_follows() -> None:
    """The rest of a close that executed in part is closed as well, after a wait, and after a restart."""
    closes = iter(["refuse", "part", "unknown", "fill"])
    model = Model(lambda answers: next(closes) if "fill" in answers else passing(answers), held=D(0), passes_stops=True)
    model.position = D(5)
    model.give(m.OrderChanged(replace(model.entry, quantity=D(5), filled=D(5)), {"one": D(5)}))
    assert model.placed_at_s == [0.0, 0.0]
    model.core = OrderCore(KEY, m.Limits())
    entry = replace(model.entry, quantity=D(5), filled=D(5))
    model.give(m.Restored((entry, *model.orders.values()), (entry,), {"one": D(5)}))
    for _ in range(10):
        model.time_passes()
    assert model.position == 0
    types = [order.type for order in model.orders.values()]
    assert types == [OrderType.STOP] + [OrderType.MARKET] * (len(types) - 1)


@pytest.mark.parametrize("can_replace", [True, False])
def test_a_moved_stop_that_was_passed_ends_the_old_one_and_is_closed(can_replace: bool) -> None:
    model = Model(good, passes_stops=True)
    model.facts, model.choose = replace(FACTS, can_replace=can_replace), passing
    model.trail(D(95))
    assert (model.position, model.placed_at_s[1:]) == (0, [0.0] * (1 if can_replace else 2))
    assert [o.state for o in model.orders.values()] == [State.CANCELLED, State.REJECTED, State.FILLED]


def test_a_passed_part_of_an_entry_leaves_the_stop_of_the_other_part() -> None:
    """The next part, which arrives where the price has come back, gets its stop."""
    model = Model(good, held=D(0), passes_stops=True)
    for held, choose in ((D(2), good), (D(5), passing), (D(6), good)):
        model.choose, before = choose, sum((o.filled for o in model.orders.values()), D(0))
        model.now_s += 1.0
        model.position = held - before
        entry = replace(model.entry, state=State.PARTIAL, quantity=D(9), filled=held)
        model.give(m.OrderChanged(entry, {"one": model.position}))
    assert (model.position, model.covered) == (D(3), D(3))
    assert [(o.type, o.quantity) for o in model.orders.values() if o.filled] == [(OrderType.MARKET, D(3))]


def test_a_close_that_was_not_sent_is_tried_again_after_a_wait() -> None:
    model, tries = Model(passing, held=D(0), passes_stops=True), list[float]()

    def unsent(command: m.CloseAtMarket) -> None:
        tries.append(model.now_s)
        assert len(tries) < 9, "it is tried again and again at once"
        model.pending.append(m.ProtectionDone(command.parent.client_order_id, (Refusal.NOT_SENT,)))

    model.close_passed = unsent  # type: ignore[method-assign]
    model.position = D(5)
    model.give(m.OrderChanged(replace(model.entry, quantity=D(5), filled=D(5)), {"one": D(5)}))
    assert tries == [0.0]
    model.time_passes()
    assert tries == [0.0, 1.0]


def test_a_stop_rests_again_where_the_venue_takes_no_close() -> None:
    """The market is back, and each order at the market is refused for its size."""
    steps = iter(["passed", "barred"])
    model = Model(lambda answers: next(steps, "rest"), held=D(0), passes_stops=True)
    model.position = D(5)
    model.give(m.OrderChanged(replace(model.entry, quantity=D(5), filled=D(5)), {"one": D(5)}))
    assert (model.placed_at_s, model.covered) == ([0.0, 0.0], 0)
    model.time_passes()
    assert model.covered == model.position == 5


def test_a_stop_that_triggered_and_was_cancelled_is_closed_without_a_look() -> None:
    model = Model(good)
    (stop,) = model.orders.values()
    model.changed(replace(stop, state=State.WORKING))
    for _ in range(5):
        model.time_passes()
    assert model.position == 0
    assert [(o.type, o.state) for o in model.orders.values()] == [
        (OrderType.STOP, State.CANCELLED),
        (OrderType.MARKET, State.FILLED),
    ]


@given(
    data=st.data(),
    can_amend=st.booleans(),
    can_replace=st.booleans(),
    steps=st.lists(st.sampled_from(["grow", "trail", "trigger", "fill", "exit", "time"]), max_size=12),
)
def test_passed_stops_sell_once_and_leave_the_rest_covered(
    data: st.DataObject, can_amend: bool, can_replace: bool, steps: list[str]
) -> None:
    """An entry fills in parts, its stop trails, triggers or executes, and an exit comes, in any order."""
    model = Model(lambda answers: data.draw(st.sampled_from(answers)), held=D(0), passes_stops=True)
    model.facts = replace(FACTS, can_amend=can_amend, can_replace=can_replace)
    model.entry = replace(model.entry, state=State.PARTIAL, quantity=D(99))
    for step in ["grow", *steps, "end"]:
        resting = [o for o in model.orders.values() if (o.state, o.request) == (State.ACCEPTED, Request.NONE)]
        before = len(model.placed_at_s)
        if step == "grow" and model.entry.state is State.PARTIAL:
            model.position += 2
            model.entry = replace(model.entry, filled=model.entry.filled + 2)
            model.give(m.OrderChanged(model.entry, {"one": model.position}))
        elif step == "trail" and model.entry.stop_loss is not None:
            model.trail(model.entry.stop_loss + 1)
        elif step == "trigger" and resting:
            model.changed(replace(resting[0], state=State.WORKING))
        elif step == "fill" and resting and resting[0].client_order_id not in model.swaps:
            model.end(resting[0], State.FILLED, resting[0].quantity)
        elif step in ("exit", "end") and model.entry.state is State.PARTIAL:
            model.entry = replace(model.entry, state=State.CANCELLED)
            model.give(m.OrderChanged(model.entry, {"one": model.position}))
            if step == "exit":
                model.give(m.SignalReady(model.signal, 0, None))
        elif step == "time":
            model.time_passes()
        model.give(m.Tick())
        assert len(model.placed_at_s) <= before + 9, "it is tried again and again at once"
    model.choose = good
    for _ in range(40):
        model.time_passes()
    assert model.covered == model.position


def test_a_pair_that_was_passed_is_closed_without_a_warning_about_its_target() -> None:
    """It was refused for its price before; the second refusal proves that the market has passed its stop."""
    core, held, alerts = OrderCore(KEY, m.Limits()), {"one": D(5)}, list[str]()
    parent, refusals = replace(Model(good).entry, take_profit=D(110)), [Refusal.PRICE, Refusal.WOULD_TRIGGER]
    pending: list[m.CoreEvent] = [m.Restored((parent,), (parent,), held)]
    closes = list[m.CloseAtMarket]()
    for second in range(20):
        while pending:
            for command in core.handle(pending.pop(0), m.Now(0, float(second)), FACTS):
                if isinstance(command, m.RaiseAlert):
                    alerts.append(command.event)
                if isinstance(command, m.CloseAtMarket):
                    closes.append(command)
                elif isinstance(command, m.PlaceProtection):
                    made = legs_of(parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=0)
                    refusal = refusals.pop(0)
                    ended = [replace(leg, state=State.REJECTED, refusal=refusal) for leg in made]
                    pending += [m.OrderChanged(leg, held) for leg in ended]
                    pending.append(m.ProtectionDone(parent.client_order_id, (refusal,) * 2))
        pending.append(m.Tick())
    assert [command.quantity for command in closes] == [D(5)]
    assert "position.stop_alone" not in alerts


def test_an_oco_refused_twice_leaves_the_stop_alone_with_one_warning() -> None:
    """The venue refuses the take profit; after a restart the stop stays as it is."""
    core, held, placed = OrderCore(KEY, m.Limits()), {"one": D(5)}, list[tuple[float, m.PlaceProtection]]()
    parent = replace(Model(good).entry, take_profit=D(110))
    pending: list[m.CoreEvent] = [m.Restored((parent,), (parent,), held)]
    alerts, legs, now_s = list[str](), dict[str, Order](), 0.0
    for second in range(20):
        now_s = float(second)
        while pending:
            for command in core.handle(pending.pop(0), m.Now(0, now_s), FACTS):
                if isinstance(command, m.RaiseAlert):
                    alerts.append(f"{command.severity} {command.event}")
                assert not isinstance(command, m.CancelOrder)
                if not isinstance(command, m.PlaceProtection):
                    continue
                placed.append((now_s, command))
                made = legs_of(parent, quantity=command.quantity, attempt=command.attempt, epoch=1, now_ns=0)
                made = [leg for leg in made if leg.role in command.roles]
                is_pair = len(made) == 2
                refusal = Refusal.PRICE if is_pair else None
                state = State.REJECTED if is_pair else State.ACCEPTED
                legs |= {leg.client_order_id: replace(leg, state=state, refusal=refusal) for leg in made}
                pending += [m.OrderChanged(legs[leg.client_order_id], held) for leg in made]
                pending.append(m.ProtectionDone(parent.client_order_id, (Refusal.PRICE,) * 2 if is_pair else ()))
        pending.append(m.Tick())
    assert [len(command.roles) for _, command in placed] == [2, 2, 1]
    assert alerts == ["warning position.stop_alone"]
    again = OrderCore(KEY, m.Limits())
    orders = (parent, *legs.values())
    assert again.handle(m.Restored(orders, (parent,), held), m.Now(0, 0.0), FACTS) == []


@pytest.mark.parametrize(("stops", "expected"), [((90, 80), ["page position.unprotected"]), ((90, 90), [])])
def test_small_entries_that_together_could_rest_are_joined_or_page(stops: tuple[int, int], expected: list[str]) -> None:
    """4 USDT each at the stop, 5 is the venue's minimum."""
    model = Model(good, held=D(0))
    model.facts = replace(FACTS, instruments={"binance": replace(INSTRUMENT, notional_min=D(5))})
    for number, stop in enumerate(stops):
        name, bought = f"{number}" * 32, D("0.045")
        entry = replace(model.entry, client_order_id=name, created_ns=number, filled=bought, stop_loss=D(stop))
        model.position += bought
        model.give(
            m.OrderChanged(replace(entry, quantity=bought, intent_id=uuid.UUID(int=number)), {"one": model.position})
        )
    for _ in range(10):
        model.time_passes()
    assert [alert for alert in model.alerts if alert != "position.unprotectable"] == [
        text.removeprefix("page ") for text in expected
    ]
    assert model.covered == (0 if expected else model.position)


def test_an_exit_that_cannot_go_touches_no_leg() -> None:
    model = Model(good)
    model.facts = replace(FACTS, instruments={"binance": replace(INSTRUMENT, is_trading=False)})
    model.give(m.SignalReady(model.signal, 0, None))
    for _ in range(40):
        model.time_passes()
        assert model.covered == D(5)
    assert model.alerts == ["exit.waiting"]


def test_an_exit_while_flat_is_nothing_at_once() -> None:
    model = Model(good, held=D(0))
    model.give(m.SignalReady(model.signal, 0, None))
    assert [command.detail for command in model.finished if isinstance(command, m.FinishSignal)] == [
        "nothing is held that an order could close"
    ]


@pytest.mark.parametrize("how", ["a person ends it", "it gives up"])
@pytest.mark.parametrize("request_", [Request.CANCEL, Request.CANCEL_UNKNOWN])
def test_no_cancel_of_a_stop_outlives_its_exit(how: str, request_: Request) -> None:
    """The stop lives, its cancel has no clear answer: nothing repeats it once no exit wants it."""
    core, stop = OrderCore(KEY, m.Limits()), Model(good).orders
    (leg,) = stop.values()
    entry, held, signal = Model(good).entry, {"one": D(5)}, a_signal()
    core.handle(m.Restored((leg, entry), (entry,), held), m.Now(0, 0.0), FACTS)
    commands = core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), FACTS)
    assert [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)] == [leg.client_order_id]
    unclear = replace(leg, request=request_)
    commands = core.handle(m.OrderChanged(unclear, held), m.Now(0, 0.0), FACTS)
    assert not [c for c in commands if isinstance(c, m.WithdrawCancel)], "the exit wants it gone"
    event = m.ExitEndRequested(signal.id, "ann") if how == "a person ends it" else m.Tick()
    for at_s in (3.0, 3.1):
        commands += core.handle(event, m.Now(int(at_s * SECOND), at_s), FACTS)
    assert [c.client_order_id for c in commands if isinstance(c, m.WithdrawCancel)] == [leg.client_order_id]
    assert not [c for c in commands if isinstance(c, m.CancelOrder)]


def test_the_core_commands_a_cancel_once() -> None:
    """The journal takes the request late: the owner of the order's requests sends it, and repeats it, by itself."""
    core, entry, held, signal = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}, a_signal()
    (leg,) = Model(good).orders.values()
    core.handle(m.Restored((leg, entry), (entry,), held), m.Now(0, 0.0), FACTS)
    commands = core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), FACTS)
    for second in range(1, 30):
        commands += core.handle(m.Tick(), m.Now(second * SECOND, float(second)), FACTS)
    assert [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)] == [leg.client_order_id]


def test_a_stop_whose_cancel_is_not_proven_is_no_cover() -> None:
    """The cancel took effect, its answer is lost and no query gets one: books and cover differ until that is known."""
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    wrong = replace(leg, quantity=D(3), request=Request.CANCEL_UNKNOWN)  # over another quantity: it is replaced
    commands = core.handle(m.Restored((wrong, entry), (entry,), held), m.Now(0, 0.0), FACTS)
    for second in range(1, 7):
        commands += core.handle(m.Tick(), m.Now(second * SECOND, float(second)), FACTS)
    pages = [c.message for c in commands if isinstance(c, m.RaiseAlert)]
    assert pages == ["BTCUSDT: 5 of the position has had no stop for 5 s"]


@pytest.mark.parametrize(
    ("ended_s", "leg_state", "paged_s"),
    [
        (2.0, State.CANCELLED, 3.0),
        (4.0, State.CANCELLED, 2.5),
        (60.0, State.CANCELLED, 1.0),
        (60.0, State.REJECTED, 1.0),
        (-9.0, State.CANCELLED, 5.0),
    ],
    ids=["2 s before", "4 s before", "a minute before", "never placed", "the clock was set back"],
)
def test_a_gap_of_an_earlier_process_pages_by_its_own_start(ended_s: float, leg_state: State, paged_s: float) -> None:
    """A restart in the middle of a gap does not give it five seconds more."""
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    wall_ns, keeps = 1000 * SECOND, replace(FACTS, has_positions=False, is_connected=False, can_commit=False)
    ended = replace(leg, state=leg_state, updated_ns=wall_ns - int(ended_s * SECOND))
    entry = replace(entry, updated_ns=wall_ns - int(max(ended_s, 0) * SECOND) - SECOND)
    pages, event = list[float](), m.Restored((ended, entry), (entry,), held)
    for tick in range(70):
        now_s = tick / 10
        commands = core.handle(event if not tick else m.Tick(), m.Now(wall_ns + int(now_s * SECOND), 50 + now_s), keeps)
        pages += [now_s for command in commands if isinstance(command, m.RaiseAlert)]
    assert pages == [paged_s]


def test_a_gap_is_as_old_as_the_execution_though_each_process_dies_young() -> None:
    """The stop was sent and never reported; the exit wants it cancelled, and each bar moves the price of the stop."""
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    wall_ns, keeps = 1000 * SECOND, replace(FACTS, has_positions=False, is_connected=False, can_commit=False)
    lost = replace(leg, state=State.UNKNOWN, request=Request.CANCEL_WANTED, is_acknowledged=False, updated_ns=wall_ns)
    entry = replace(entry, venue_time_ns=wall_ns - 11 * SECOND, updated_ns=wall_ns - SECOND)
    pages, event = list[float](), m.Restored((lost, entry), (entry,), held)
    for tick in range(20):
        now_s = tick / 10
        commands = core.handle(event if not tick else m.Tick(), m.Now(wall_ns + int(now_s * SECOND), 50 + now_s), keeps)
        pages += [now_s for command in commands if isinstance(command, m.RaiseAlert)]
    assert pages == [1.0]


@pytest.mark.parametrize("is_closing", [False, True], ids=["a stop", "a close on its way"])
def test_a_gap_that_begins_after_a_start_pages_by_its_own_start(is_closing: bool) -> None:
    """The entry is an hour old; the stop, or the close in its place, ends 20 s after the start."""
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    wall_ns, away = 10_000 * SECOND, replace(FACTS, is_connected=False, can_commit=False)
    entry = replace(entry, updated_ns=wall_ns - 3600 * SECOND)
    close = replace(leg, client_order_id="c" * 32, role=Role.EXIT, parent_id=None, signal_id=SECOND_ID)
    kept = close if is_closing else leg
    exits = (m.ResumedExit(a_signal(id=SECOND_ID), close),) if is_closing else ()
    pages = list[int]()
    for second in range(30):
        event: m.CoreEvent = m.Tick()
        if second == 0:
            event = m.Restored((kept, entry), (entry,), held, exits)
        elif second == 20:
            event = m.OrderChanged(replace(kept, state=State.CANCELLED, updated_ns=wall_ns + 20 * SECOND), held)
        commands = core.handle(event, m.Now(wall_ns + second * SECOND, float(second)), away)
        named = [command.event for command in commands if isinstance(command, m.RaiseAlert)]
        pages += [second] * named.count("position.unprotected")
    assert pages == [25]


def test_a_stop_whose_cancel_was_on_its_way_at_a_restart_is_missing_since_the_cancel() -> None:
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    wall_ns = 10_000 * SECOND
    asked = replace(leg, request=Request.CANCEL_UNKNOWN, updated_ns=wall_ns - SECOND)
    entry = replace(entry, updated_ns=wall_ns - 7200 * SECOND)
    pages = list[int]()
    for tick in range(8):
        event = m.Tick() if tick else m.Restored((asked, entry), (entry,), held)
        commands = core.handle(event, m.Now(wall_ns + tick * SECOND, float(tick)), FACTS)
        pages += [tick for command in commands if isinstance(command, m.RaiseAlert)]
    assert pages == [4]


@pytest.mark.parametrize("step_s", [0, 3600, -3600], ids=["no step", "an hour on", "an hour back"])
def test_an_unknown_order_holds_up_an_exit_for_a_minute_whatever_the_clock_shows(step_s: int) -> None:
    """The stop has rested for two hours when the venue no longer lists it; the clock is set right after that."""
    core, entry, held = OrderCore(KEY, m.Limits()), Model(good).entry, {"one": D(5)}
    (leg,) = Model(good).orders.values()
    core.handle(m.Restored((leg, entry), (entry,), held), m.Now(SECOND, 0.0), FACTS)
    rested_s, closed_s = 7200, []
    lost = replace(leg, state=State.UNKNOWN)
    events = [m.OrderChanged(lost, held), m.SignalReady(a_signal(), 0, None), *(m.Tick() for _ in range(70))]
    for second, event in enumerate(events):
        now = m.Now((1 + rested_s + second + (step_s if second > 1 else 0)) * SECOND, float(rested_s + second))
        closes = [c for c in core.handle(event, now, FACTS) if isinstance(c, m.SubmitClose)]
        closed_s += [second for _ in closes]
        assert core.unresolvable("one") == ({leg.client_order_id} if second > m.Limits().unresolved_s else set())
    assert closed_s
    assert m.Limits().unresolved_s < closed_s[0] < m.Limits().unresolved_s + 5


ALL_GONE, AGAIN = {"one": D(5), "external": D(-5)}, {"one": D(5), "external": D(0)}
PASSING = {
    "coins gone for two sweeps": (ALL_GONE, {}),
    "a part of the coins gone, less than an order": (ALL_GONE | {"external": D("-4.9999")}, {}),
    "a halt": (AGAIN, {"instruments": {"binance": replace(INSTRUMENT, is_trading=False)}}),
}


@pytest.mark.parametrize(("positions", "changes"), PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("is_resumed", [False, True], ids=["new", "resumed"])
def test_no_passing_fact_ends_an_exit(
    positions: dict[str, Decimal], changes: dict[str, Any], *, is_resumed: bool
) -> None:
    """The venue shows less than our books, or no market: the exit waits, pages on its schedule, and then closes."""
    core, signal, commands = OrderCore(KEY, m.Limits()), a_signal(), list[m.CoreCommand]()
    facts = replace(FACTS, **changes)
    last = an_order(
        client_order_id=client_order_id(intent_id(signal.id), Role.EXIT),
        signal_id=signal.id,
        role=Role.EXIT,
        side=Side.SELL,
        state=State.EXPIRED,
        quantity=D(5),
    )
    exits = (m.ResumedExit(signal, last),) if is_resumed else ()
    core.handle(m.Restored((), (), positions, exits), m.Now(0, 0.0), facts)
    commands += core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), facts)
    for second in range(1, 700):
        commands += core.handle(m.Tick(), m.Now(second * SECOND, float(second)), facts)
    assert [c.event for c in commands if isinstance(c, m.RaiseAlert) and "exit" in c.event] == ["exit.waiting"] * 3
    assert not [c for c in commands if isinstance(c, m.FinishSignal | m.SubmitClose)]
    closing = core.handle(m.PositionsChanged(AGAIN), m.Now(700 * SECOND, 700.0), FACTS)
    assert [c.quantity for c in closing if isinstance(c, m.SubmitClose)] == [D(5)]


#: held, marks, average price -> what the exit of it does
DUST = {
    "worth an order": ("5", {"binance": D(100)}, "100", "closes"),
    "a bad mark": ("5", {"binance": D("0.0001")}, "100", "closes"),
    "no fresh mark": ("5", {}, "100", "closes"),
    "below the least value": ("0.005", {"binance": D(100)}, "100", "ends"),
    "below the least value at the mark alone": ("0.005", {"binance": D(100)}, "400", "closes"),
    "below the least value at an old price": ("0.005", {}, "100", "waits"),
    "below the least lot, no fresh mark": ("0.0005", {}, "100", "ends"),
}


@pytest.mark.parametrize(("held", "marks", "average", "expected"), DUST.values(), ids=DUST)
def test_dust_is_by_a_fresh_mark_and_the_worse_price(
    held: str, marks: dict[str, Decimal], average: str, expected: str
) -> None:
    core = OrderCore(KEY, m.Limits())
    facts = replace(FACTS, marks=marks, averages={"one": D(average)})
    core.handle(m.PositionsChanged({"one": D(held)}), m.Now(0, 0.0), facts)
    commands = core.handle(m.SignalReady(a_signal(), 0, None), m.Now(0, 0.0), facts)
    kinds = {m.SubmitClose: "closes", m.FinishSignal: "ends"}
    assert next((kinds[type(c)] for c in commands if type(c) in kinds), "waits") == expected


def test_an_exit_behind_its_own_entry_pages_on_the_schedule() -> None:
    """The submission of the entry takes as long as the journal or the venue does."""
    core, entry, out = OrderCore(KEY, m.Limits()), a_signal(Kind.ENTER, side=Side.BUY), a_signal()
    core.handle(m.PositionsChanged({"one": D(5)}), m.Now(0, 0.0), FACTS)
    core.handle(m.SignalReady(entry, 0, None), m.Now(0, 0.0), FACTS)
    commands = core.handle(m.SignalReady(out, 0, None), m.Now(0, 0.0), FACTS)
    for second in range(1, 400):
        commands += core.handle(m.Tick(), m.Now(second * SECOND, float(second)), FACTS)
    assert [c.event for c in commands if isinstance(c, m.RaiseAlert) and "exit" in c.event] == ["exit.waiting"] * 2
    assert not [c for c in commands if isinstance(c, m.SubmitClose)]
    commands = core.handle(m.EntryDone(entry.id), m.Now(400 * SECOND, 400.0), FACTS)
    assert [c.signal_id for c in commands if isinstance(c, m.SubmitClose)] == [out.id]


@pytest.mark.parametrize(
    ("waiting", "request_", "leaves"),
    [
        (None, Request.NONE, False),  # its cancel is not in the journal: a successor would not know that it is wanted
        (None, Request.CANCEL, True),
        (None, Request.CANCEL_UNKNOWN, True),
        ("6", Request.CANCEL, True),  # they sell what the entry may still receive
        ("6.001", Request.CANCEL, False),  # they would sell other coins once the entry is filled
        ("10", Request.CANCEL_UNKNOWN, False),
    ],
)
def test_a_close_leaves_once_its_resting_entry_can_do_no_harm(
    waiting: str | None, request_: Request, leaves: bool
) -> None:
    """An entry of 10 rests, of which 4 are executed; exits may wait with it at the venue, which has just come back."""
    model, core, held, away = Model(good), OrderCore(KEY, m.Limits()), {"one": D(4)}, replace(FACTS, is_connected=False)
    values: dict[str, Any] = {"state": State.PARTIAL, "quantity": D(10), "filled": D(4), "reported_cum_qty": D(4)}
    entry = replace(model.entry, group_id="list", **values)
    (stop,) = legs_of(entry, quantity=D(waiting or 1), attempt=0, epoch=1, now_ns=0)
    listed = replace(stop, state=State.ACCEPTED, group_id="list", code=PENDING)
    core.handle(m.Restored((entry, *([listed] if waiting else [])), (entry,), held), m.Now(0, 0.0), away)
    commands = core.handle(m.SignalReady(a_signal(), 0, None), m.Now(0, 0.0), away)
    assert [type(c) for c in commands] == [m.CancelOrder]
    known = replace(entry, request=request_)
    commands = core.handle(m.OrderChanged(known, held), m.Now(0, 0.0), FACTS)
    assert [c.quantity for c in commands if isinstance(c, m.SubmitClose)] == ([D(4)] if leaves else [])
    if not waiting:
        ended = replace(entry, state=State.CANCELLED)
        commands += core.handle(m.OrderChanged(ended, held), m.Now(0, 0.0), FACTS)
        assert [c.quantity for c in commands if isinstance(c, m.SubmitClose)] == [D(4)]


def half_filled(exits: str, waiting: str, **facts: Any) -> tuple[OrderCore, Order, list[Order], m.Facts]:
    """Return a core with an entry of 10 that rests, of which 4 are executed: `exits` of it cover these, and others over
    `waiting` went out with it and wait at the venue."""
    core, known = OrderCore(KEY, m.Limits()), replace(FACTS, **facts)
    values: dict[str, Any] = {"state": State.PARTIAL, "quantity": D(10), "filled": D(4), "reported_cum_qty": D(4)}
    entry = replace(Model(good).entry, group_id="list", **values)
    (listed,) = legs_of(entry, quantity=D(waiting), attempt=0, epoch=1, now_ns=0)
    legs = [replace(listed, state=State.ACCEPTED, group_id="list", code=PENDING)]
    if D(exits):
        (stop,) = legs_of(entry, quantity=D(exits), attempt=1, epoch=1, now_ns=0)
        legs.append(replace(stop, state=State.ACCEPTED))
    core.handle(m.Restored((entry, *legs), (entry,), {"one": D(4)}), m.Now(0, 0.0), known)
    return core, entry, legs, known


@pytest.mark.parametrize("exits", ["0", "4"])
@pytest.mark.parametrize("can_amend", [True, False])
def test_a_sale_of_a_person_waits_for_exits_that_would_sell_too_much(can_amend: bool, exits: str) -> None:
    """Its resting entry stays where its exits can be reduced to what it may still receive, else it ends."""
    core, entry, (listed, *stops), facts = half_filled(exits, "10", can_amend=can_amend)
    sale = a_signal(Kind.ORDER, size=D(4), type=OrderType.MARKET, source="principal:ann")
    held, now = {"one": D(4)}, m.Now(SECOND, 1.0)
    commands = core.handle(m.SignalReady(sale, 0, None), now, facts)
    for stop in stops:
        assert not [c for c in commands if isinstance(c, m.SubmitEntry)]
        commands += core.handle(m.OrderChanged(replace(stop, state=State.CANCELLED), held), now, facts)
    assert not [c for c in commands if isinstance(c, m.SubmitEntry)]
    if can_amend:
        assert [c.quantity for c in commands if isinstance(c, m.AmendLegs)] == [D(6)]
        changed = [replace(listed, quantity=D(6))]
    else:
        assert entry.client_order_id in [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)]
        changed = [replace(listed, state=State.CANCELLED), replace(entry, state=State.CANCELLED)]
    commands = [c for order in changed for c in core.handle(m.OrderChanged(order, held), now, facts)]
    assert [c.signal_id for c in commands if isinstance(c, m.SubmitEntry)] == [sale.id]


@pytest.mark.parametrize("held", ["4", "0"])
def test_a_resting_entry_whose_cancel_fails_pages_on_the_schedule(held: str) -> None:
    """It is half filled, at a venue that cannot reduce the exits that wait with it: they would sell other coins. Its
    part may be sold already."""
    core, entry, _, facts = half_filled("0", "10")
    core.handle(m.PositionsChanged({"one": D(held)}), m.Now(0, 0.0), facts)
    alerts: list[tuple[int, str]] = []
    for second in range(1, 700):
        commands = core.handle(m.Tick(), m.Now(second * SECOND, float(second)), facts)
        alerts += [(second, c.client_order_id) for c in commands if isinstance(c, m.RaiseAlert) and "exit" in c.event]
        if any(isinstance(c, m.CancelOrder) for c in commands):  # the venue refuses it each time
            for request in (Request.CANCEL, Request.NONE):
                change = m.OrderChanged(replace(entry, request=request), {"one": D(held)})
                core.handle(change, m.Now(second * SECOND, float(second)), facts)
    assert [second // 300 for second, _ in alerts] == [0, 1, 2]
    assert {name for _, name in alerts} == {entry.client_order_id}
    ended = m.OrderChanged(replace(entry, state=State.CANCELLED), {"one": D(held)})
    core.handle(ended, m.Now(700 * SECOND, 700.0), facts)
    later = core.handle(m.Tick(), m.Now(2000 * SECOND, 2000.0), facts)
    assert not [c for c in later if isinstance(c, m.RaiseAlert) and "exit" in c.event]


def test_what_waits_behind_an_exit_begins_when_that_ends() -> None:
    """After that no event may come for hours: nothing is held, no order is open."""
    core, signals = OrderCore(KEY, m.Limits()), [a_signal() for _ in range(3)]
    halted = replace(FACTS, instruments={"binance": replace(INSTRUMENT, is_trading=False)})
    core.handle(m.PositionsChanged({"one": D(5)}), m.Now(0, 0.0), halted)
    for signal in signals:
        assert core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), halted) == []
    entry = a_signal(Kind.ENTER, side=Side.BUY)
    core.handle(m.SignalReady(entry, 0, None), m.Now(0, 0.0), halted)
    commands = core.handle(m.PositionsChanged({"one": D(0)}), m.Now(SECOND, 1.0), FACTS)
    ended = [command.signal_id for command in commands if isinstance(command, m.FinishSignal)]
    assert ended == [signal.id for signal in signals]
    assert [command.signal_id for command in commands if isinstance(command, m.SubmitEntry)] == [entry.id]


def test_a_late_event_of_an_earlier_attempt_is_not_the_newest_order() -> None:
    core, signal, held = OrderCore(KEY, m.Limits(exit_retry_s=0.5)), a_signal(), {"one": D(5)}
    core.handle(m.PositionsChanged(held), m.Now(0, 0.0), FACTS)
    core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), FACTS)
    first, second = (
        an_order(
            client_order_id=client_order_id(intent_id(signal.id), Role.EXIT, attempt),
            signal_id=signal.id,
            role=Role.EXIT,
            side=Side.SELL,
            attempt=attempt,
            quantity=D(5),
            state=State.SENDING,
        )
        for attempt in (0, 1)
    )
    expired = replace(first, state=State.EXPIRED)
    core.handle(m.OrderChanged(first, held), m.Now(0, 0.0), FACTS)
    core.handle(m.OrderChanged(expired, held), m.Now(0, 0.0), FACTS)
    core.handle(m.CloseDone("one", first.client_order_id), m.Now(0, 0.0), FACTS)
    core.handle(m.Tick(), m.Now(SECOND, 1.0), FACTS)
    rejected = replace(second, state=State.REJECTED, code="-1013", refusal=Refusal.OTHER)
    core.handle(m.OrderChanged(rejected, held), m.Now(SECOND, 1.0), FACTS)
    late = replace(first, state=State.FILLED, filled=D(1), reported_cum_qty=D(1), is_late=True)
    core.handle(m.OrderChanged(late, {"one": D(4)}), m.Now(SECOND, 1.0), FACTS)
    commands = core.handle(m.CloseDone("one", second.client_order_id), m.Now(SECOND, 1.0), FACTS)
    alerts = [(c.event, c.client_order_id) for c in commands if isinstance(c, m.RaiseAlert)]
    assert alerts == [("exit.rejected", second.client_order_id)]
    assert not [command for command in commands if isinstance(command, m.SubmitClose)]
    again = core.handle(m.Tick(), m.Now(3 * SECOND, 3.0), FACTS)
    assert [(c.quantity, c.attempt) for c in again if isinstance(c, m.SubmitClose)] == [(D(4), 2)]


KILLED = replace(FACTS, kill=m.KillMode.FLATTEN, kill_id="k", closes_on_kill=True)


def test_a_kill_on_paper_that_closes_nothing_pages_and_goes_on_slower() -> None:
    """Like the guardian's: at waits that double, up to the longest one of an exit."""
    core, held, tries = OrderCore(KEY, m.Limits()), {"one": D(5)}, list[tuple[float, int]]()
    pages: list[tuple[float, str]] = []
    pending: list[m.CoreEvent] = [m.PositionsChanged(held)]
    for second in range(60):
        while pending:
            for command in core.handle(pending.pop(0), m.Now(second * SECOND, float(second)), KILLED):
                if isinstance(command, m.SubmitKill):
                    tries.append((float(second), command.attempt))
                    pending.append(m.CloseDone("one", f"{command.attempt:032}", is_used=True))
                elif isinstance(command, m.RaiseAlert):
                    pages.append((float(second), f"{command.severity} {command.event}"))
        pending.append(m.Tick())
    assert pages == [(16.0, "page kill.stuck")], "after five in a row"
    assert tries == [
        (at_s, attempt) for attempt, at_s in enumerate((0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 26.0, 36.0, 46.0, 56.0))
    ]
    assert core.handle(m.Tick(), m.Now(99 * SECOND, 99.0), KILLED)  # and it does not give up


@pytest.mark.parametrize(
    ("kill", "ended"), [(m.KillMode.HELD, "eo"), (m.KillMode.FLATTEN, "eors")], ids=["held", "flatten"]
)
def test_a_kill_on_paper_ends_the_orders_that_the_guardian_ends(kill: m.KillMode, ended: str) -> None:
    """An entry, a person's order, one of a person's that only reduces, a stop: a person's resting buy ends as well."""
    core, facts = OrderCore(KEY, m.Limits()), replace(KILLED, kill=kill)
    given = {"e": (Role.ENTRY, False), "o": (Role.ORDER, False), "r": (Role.ORDER, True), "s": (Role.STOP_LOSS, True)}
    orders = [
        an_order(client_order_id=name * 32, role=role, is_reduce_only=reduces, state=State.WORKING)
        for name, (role, reduces) in given.items()
    ]
    core.handle(m.Restored(tuple(orders), (), {}), m.Now(0, 0.0), FACTS)
    commands = core.handle(m.Tick(), m.Now(0, 0.0), facts)
    assert {c.client_order_id[0] for c in commands if isinstance(c, m.CancelOrder)} == set(ended)


def test_a_kill_on_paper_puts_the_stop_back_while_a_close_is_refused() -> None:
    """Each closing order is refused for a minute: the stop ends for it, and rests again until the next one."""
    model, tries, covered = Model(good), list[float](), 0
    refuses = True

    def kill(command: m.SubmitKill) -> None:
        assert not any(o.role is Role.STOP_LOSS and o.state in OPEN for o in model.orders.values()), "never both"
        tries.append(model.now_s)
        order = an_order(
            client_order_id=f"k{command.attempt:031}",
            instance="one",
            role=Role.KILL,
            side=Side.SELL,
            state=State.SENDING,
            quantity=command.quantity,
        )
        if refuses:
            model.end(order, State.REJECTED, refusal=Refusal.UNAVAILABLE)
        else:
            model.end(order, State.FILLED, command.quantity)
        model.pending.append(m.CloseDone("one", order.client_order_id, is_used=True))

    carry_out = model.carry_out
    model.carry_out = lambda c: kill(c) if isinstance(c, m.SubmitKill) else carry_out(c)  # type: ignore[method-assign]
    model.facts = KILLED
    for tick in range(240):
        model.now_s = tick / 4
        model.give(m.Tick())
        covered += sum(o.remaining for o in model.orders.values() if o.role is Role.STOP_LOSS and o.state in OPEN) == 5
    assert (len(tries), tries[:4]) == (10, [0.0, 0.5, 1.5, 3.5])
    assert covered > 225, "each try takes it down for less than a look"
    refuses = False
    model.now_s += 10
    model.give(m.Tick())
    assert (model.position, [o for o in model.orders.values() if o.state in OPEN]) == (0, [])


def test_a_passed_stop_is_put_back_after_waits_while_a_kill_s_close_is_refused() -> None:
    model, before = Model(good, passes_stops=True), 1
    carry_out, model.facts, model.choose = model.carry_out, KILLED, passing

    def killing(command: m.CoreCommand) -> None:
        assert len(model.placed_at_s) <= before, "it is tried again and again at once"
        if isinstance(command, m.SubmitKill):
            model.pending.append(m.CloseDone("one", f"k{command.attempt:031}", is_used=True))
        else:
            carry_out(command)

    model.carry_out = killing  # type: ignore[method-assign]
    for second in range(20):
        model.now_s, before = float(second), len(model.placed_at_s) + 1
        model.give(m.Tick())
    assert before > 3


def test_answers_of_a_kill_and_of_an_exit_are_distinguished_by_the_order() -> None:
    """The close of an exit is on its way to the journal when a kill begins: each waits for the answer to its own."""
    core, signal = OrderCore(KEY, m.Limits()), a_signal()
    core.handle(m.PositionsChanged({"one": D(5)}), m.Now(0, 0.0), FACTS)
    (close,) = core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), FACTS)
    (kill,) = core.handle(m.Tick(), m.Now(0, 0.0), KILLED)
    assert (type(close), type(kill)) == (m.SubmitClose, m.SubmitKill)
    used = m.CloseDone("one", client_order_id(intent_id(signal.id), Role.EXIT, 0), "KILLED", is_used=True)
    assert core.handle(used, m.Now(0, 0.0), KILLED) == [], "the kill's first order is still on its way"
    later = core.handle(m.CloseDone("one", "0" * 32), m.Now(SECOND, 1.0), KILLED)
    again = [command.attempt for command in later if isinstance(command, m.SubmitKill)]
    assert again == [0], "an exit's id that was taken is none of the kill's"


def test_a_kill_on_paper_that_closes_in_parts_does_not_page() -> None:
    core, held, tries = OrderCore(KEY, m.Limits()), D(50), list[Decimal]()
    small = replace(INSTRUMENT, qty_max=D(1))
    facts = replace(KILLED, instruments={"binance": small})
    pending: list[m.CoreEvent] = [m.PositionsChanged({"one": held})]
    while pending:
        for command in core.handle(pending.pop(0), m.Now(0, 0.0), facts):
            assert isinstance(command, m.SubmitKill), command
            tries.append(command.quantity)
            held -= command.quantity
            pending += [m.PositionsChanged({"one": held}), m.CloseDone("one", str(command.attempt), is_used=True)]
    assert (held, len(tries)) == (0, 50)


def test_entries_wait_behind_an_exit_and_are_denied_when_they_grow_old() -> None:
    core, entry = OrderCore(KEY, m.Limits()), a_signal(Kind.ENTER, side=Side.BUY)
    halted = replace(FACTS, instruments={"binance": replace(INSTRUMENT, is_trading=False)})
    core.handle(m.PositionsChanged({"one": D(5)}), m.Now(0, 0.0), halted)
    core.handle(m.SignalReady(a_signal(), 0, None), m.Now(0, 0.0), halted)
    assert core.handle(m.SignalReady(entry, 0, 60.0), m.Now(0, 0.0), halted) == []
    late = replace(halted, exchange_now_ns=61 * SECOND)
    denied = [c for c in core.handle(m.Tick(), m.Now(61 * SECOND, 61.0), late) if isinstance(c, m.DenySignal)]
    assert [(command.signal_id, command.code) for command in denied] == [(entry.id, "STALE_DECISION")]


def test_a_resumed_exit_goes_on_under_an_id_of_its_own() -> None:
    """Its order that has ended keeps its id; one that may still fill is waited for."""
    held = an_order(client_order_id="e" * 32, state=State.FILLED, quantity=D(5), filled=D(5))
    for state, expected in ((State.EXPIRED, [1]), (State.WORKING, [])):
        core, signal = OrderCore(KEY, m.Limits()), a_signal()
        last = an_order(
            client_order_id=client_order_id(intent_id(signal.id), Role.EXIT),
            role=Role.EXIT,
            side=Side.SELL,
            state=state,
            quantity=D(5),
            signal_id=signal.id,
            is_reduce_only=True,
        )
        orders = (last,) if state in OPEN else ()
        restored = m.Restored(orders, (held,), {"one": D(5)}, (m.ResumedExit(signal, last),))
        commands = core.handle(restored, m.Now(0, 0.0), FACTS)
        assert [command.attempt for command in commands if isinstance(command, m.SubmitClose)] == expected


def test_missing_metadata_leaves_the_stop_at_the_venue() -> None:
    model = Model(good)
    assert model.covered == D(5)
    model.facts = replace(FACTS, instruments={})
    for _ in range(10):
        model.time_passes()
    assert (model.covered, model.alerts) == (D(5), [])


def test_missing_metadata_leaves_a_stop_that_was_rounded_to_the_lot() -> None:
    """Without the lot the position is a little more than the stop covers: that is no reason to take it down."""
    model = Model(good)
    model.position = D("4.9995")
    model.give(m.PositionsChanged({"one": model.position}))
    for _ in range(5):
        model.time_passes()
    assert model.covered == INSTRUMENT.round_quantity(model.position) < model.position
    model.facts, before = replace(FACTS, instruments={}), len(model.used)
    for _ in range(10):
        model.time_passes()
    assert (model.covered, len(model.used)) == (D("4.999"), before)


def test_a_position_without_metadata_and_stop_pages() -> None:
    model = Model(good)
    for order in list(model.orders.values()):
        model.end(order, State.CANCELLED)
    model.facts = replace(FACTS, instruments={})
    model.pending, events = [], list(model.pending)
    for event in events:
        model.give(event)
    for _ in range(10):
        model.time_passes()
    assert model.alerts == ["position.unprotected"]


def test_a_stop_that_comes_and_goes_is_one_alert_which_ends_with_its_condition() -> None:
    model = Model(good)
    for _ in range(5):
        model.facts = replace(FACTS, instruments={})  # nothing can be placed
        for order in [order for order in model.orders.values() if order.state in OPEN]:
            model.end(order, State.CANCELLED)
        model.give(m.Tick())
        for _ in range(10):
            model.time_passes()
        model.facts = FACTS
        model.give(m.Recheck())
        model.time_passes()
        assert sum(order.state in OPEN for order in model.orders.values()) == 1
    assert (model.alerts, model.ended) == (["position.unprotected"], [])
    for _ in range(10):
        model.time_passes()
    assert (model.alerts, model.ended) == (["position.unprotected"], ["position.unprotected"])


class Covered:
    """A core whose position of 5 has its stop over a part. Time passes up to each moment at which the core wakes."""

    def __init__(self) -> None:
        self.core, self.now_s, self.alerts = OrderCore(KEY, m.Limits()), 0.0, list[tuple[float, str]]()
        (self.leg,) = Model(good).orders.values()
        entry = Model(good).entry
        self.give(m.Restored((self.leg, entry), (entry,), {"one": D(5)}))

    def give(self, event: m.CoreEvent) -> None:
        facts = replace(FACTS, instruments={})  # nothing can be placed or reduced
        for command in self.core.handle(event, m.Now(int(self.now_s * SECOND), self.now_s), facts):
            if isinstance(command, m.RaiseAlert | m.EndAlert):
                self.alerts.append((round(self.now_s, 3), type(command).__name__))

    def cover(self, quantity: str, seconds: float) -> None:
        until_s, state = self.now_s + seconds, State.ACCEPTED if D(quantity) else State.CANCELLED
        self.give(m.OrderChanged(replace(self.leg, quantity=D(quantity) or D(5), state=state), {"one": D(5)}))
        while self.core.wake_at_s is not None and self.core.wake_at_s < until_s:
            self.now_s = self.core.wake_at_s
            self.give(m.Tick())
        self.now_s = until_s


@pytest.mark.parametrize("part", ["0", "3"], ids=["no stop", "a stop over a part"])
def test_cover_that_comes_and_goes_pages_once_its_gaps_sum_to_the_limit(part: str) -> None:
    """Gaps of 1.5 s every ten seconds: the fourth completes 5 s in a minute."""
    run = Covered()
    for _ in range(12):
        run.cover("5", 8.5)
        run.cover(part, 1.5)
    assert run.alerts == [(39.0, "RaiseAlert")]
    run.cover("5", 60.0)
    # of the last gaps 1.5 s each: a minute after the third last of them ended, less than 5 s are left
    assert [name for _, name in run.alerts] == ["RaiseAlert", "EndAlert"]
    assert 145 < run.alerts[1][0] < 152


def test_short_gaps_that_sum_to_less_than_the_limit_page_nothing() -> None:
    run = Covered()
    for _ in range(30):
        run.cover("5", 14.0)
        run.cover("0", 1.0)
    assert run.alerts == []


def test_cover_of_a_part_pages_in_time_after_forty_minutes_of_trading() -> None:
    """Entries that fill in two parts, each with its stop, and exits; then the venue takes no stop over a second part for
    5.4 s."""
    refused = list[str]()
    model = Model(lambda answers: "refuse" if refused and "rest" in answers else answers[0], held=D(0))

    def bought(number: int, quantity: int) -> None:
        state = State.FILLED if quantity == 5 else State.PARTIAL
        name, filled, at_ns = f"{number:032x}", D(quantity), int(model.now_s * SECOND)
        entry = replace(model.entry, client_order_id=name, intent_id=uuid.UUID(int=number), created_ns=at_ns)
        entry = replace(entry, quantity=D(5), filled=filled, reported_cum_qty=filled, state=state)
        model.position = filled
        model.give(m.OrderChanged(entry, {"one": filled}))

    for number in range(240):
        bought(number, 3)
        model.time_passes()
        bought(number, 5)
        for _ in range(4):
            model.time_passes()
        assert model.covered == D(5)
        model.give(m.SignalReady(a_signal(), 0, None))
        for _ in range(5):
            model.time_passes()
        assert model.position == 0
    assert (model.now_s, model.alerts) == (2400.0, [])
    bought(240, 3)
    refused.append("stops")
    model.now_s += 0.5
    bought(240, 5)
    for second in range(5):
        assert (model.covered, model.alerts) == (D(3), []), second
        model.time_passes()
    assert (model.covered, model.alerts) == (D(3), ["position.unprotected"])
    refused.clear()
    for _ in range(15):
        model.time_passes()
    assert (model.covered, model.ended) == (D(5), ["position.unprotected"])


def test_the_stop_of_one_entry_does_not_count_for_another() -> None:
    """Position 5, of which 3 are a newer entry's without a stop; the older one's stop is still over 5."""
    model = Model(good)
    model.facts = replace(FACTS, instruments={})  # nothing can be placed or reduced
    newer = replace(model.entry, client_order_id="f" * 32, filled=D(3), created_ns=model.entry.created_ns + 1)
    model.give(m.OrderChanged(newer, {"one": D(5)}))
    for _ in range(10):
        model.time_passes()
    assert model.covered == D(5)
    assert model.alerts == ["position.unprotected"]


def test_an_entry_of_another_exchange_without_metadata_ends_nothing() -> None:
    model = Model(good)
    other = replace(model.entry, client_order_id="f" * 32, exchange="kraken", created_ns=0)
    model.position = D(10)
    model.give(m.OrderChanged(other, {"one": D(10)}))
    for _ in range(10):
        model.time_passes()
    assert model.alerts == ["position.unprotected"]


def test_a_resting_sale_of_a_person_does_not_shrink_the_stop() -> None:
    model = Model(good)
    model.position = D(7)
    newer = replace(model.entry, client_order_id="f" * 32, quantity=D(2), filled=D(2), stop_loss=None, created_ns=2)
    model.give(m.OrderChanged(newer, {"one": D(7)}))
    model.changed(
        an_order(
            client_order_id="d" * 32,
            symbol="BTCUSDT",
            exchange="binance",
            venue="ccxt",
            account_id=1,
            instance="one",
            role=Role.ORDER,
            side=Side.SELL,
            state=State.WORKING,
            type=OrderType.LIMIT,
            price=D(1000),
            quantity=D(2),
            filled=D(0),
            stop_loss=None,
            take_profit=None,
            created_ns=3,
        )
    )
    for _ in range(5):
        model.time_passes()
    assert model.covered == D(5)


def test_a_sibling_that_outlives_its_query_is_cancelled_at_the_next_try() -> None:
    core, parent = OrderCore(KEY, m.Limits()), replace(Model(good).entry, take_profit=D(110))
    stop, profit = (
        replace(leg, state=State.ACCEPTED, is_acknowledged=True, group_id=parent.intent_id)
        for leg in legs_of(parent, quantity=D(5), attempt=0, epoch=1, now_ns=0)
    )
    held = {"one": D(5)}
    core.handle(m.Restored((stop, profit, parent), (parent,), held), m.Now(0, 0.0), FACTS)
    core.handle(m.SignalReady(a_signal(), 0, None), m.Now(0, 0.0), FACTS)
    core.handle(m.OrderChanged(replace(stop, state=State.CANCELLED), held), m.Now(0, 0.0), FACTS)
    core.handle(m.OrderChanged(profit, held), m.Now(0, 0.0), FACTS)  # queried: it lives
    commands: list[m.CoreCommand] = []
    for second in range(1, 8):
        commands += core.handle(m.Tick(), m.Now(second * SECOND, float(second)), FACTS)
    assert profit.client_order_id in [c.client_order_id for c in commands if isinstance(c, m.CancelOrder)]


SPLIT_DUE = replace(FACTS, split_ns=1)


def in_new_shares(model: Model, factor: int) -> m.SplitApplied:
    """Return the event of a split of the model's position, which is made of one entry."""
    model.position *= factor
    held = model.entry.quantity * factor
    model.entry = replace(model.entry, quantity=held, filled=held, stop_loss=D(90) / factor)
    return m.SplitApplied((model.entry,), {"one": model.position})


def test_an_exit_in_progress_sells_nothing_while_a_split_is_due() -> None:
    """It was refused before the split; its next order would be of the old shares."""
    model, answers = Model(lambda options: "refuse" if "refuse" in options and "fill" in options else options[0]), good
    model.give(m.SignalReady(model.signal, 0, None))
    assert model.core.exit_of("one") is not None
    model.choose = answers
    model.facts = SPLIT_DUE
    for _ in range(5):
        model.time_passes()
    assert model.position == 5
    model.facts = FACTS
    model.give(in_new_shares(model, 4))
    for _ in range(5):
        model.time_passes()
    assert (model.position, [o for o in model.orders.values() if o.state in OPEN]) == (0, [])


def test_a_kill_on_paper_closes_the_position_in_the_shares_after_a_split() -> None:
    core, due = OrderCore(KEY, m.Limits()), replace(KILLED, split_ns=1)
    commands = core.handle(m.PositionsChanged({"one": D(5)}), m.Now(0, 0.0), due)
    assert not [c for c in commands if isinstance(c, m.SubmitKill)]
    commands = core.handle(m.SplitApplied((), {"one": D(20)}), m.Now(SECOND, 1.0), KILLED)
    assert [c.quantity for c in commands if isinstance(c, m.SubmitKill)] == [D(20)]


def test_an_entry_of_before_a_split_is_denied_after_it_too() -> None:
    """A bar of before may be decided on once the split is applied: size and stop are of the old shares."""
    core, split_ns = OrderCore(KEY, m.Limits()), 100 * SECOND
    core.handle(m.SplitApplied((), {}, {}, effective_ns=split_ns), m.Now(split_ns, 1.0), FACTS)
    old, new = (a_signal(Kind.ENTER, side=Side.BUY, ts_event_ns=split_ns + by) for by in (-SECOND, SECOND))
    (denied,) = core.handle(m.SignalReady(old, split_ns, 60.0), m.Now(split_ns, 2.0), FACTS)
    assert isinstance(denied, m.DenySignal)
    assert (denied.signal_id, denied.code) == (old.id, "STALE_DECISION")
    taken = core.handle(m.SignalReady(new, split_ns, 60.0), m.Now(split_ns + SECOND, 3.0), FACTS)
    assert [c.signal_id for c in taken if isinstance(c, m.SubmitEntry)] == [new.id]


def test_an_entry_that_is_being_submitted_is_not_denied_by_a_split() -> None:
    """Its order may be at the venue: that is cancelled, and the split waits for its end."""
    core, signal = OrderCore(KEY, m.Limits()), a_signal(Kind.ENTER, side=Side.BUY)
    taken = core.handle(m.SignalReady(signal, 0, None), m.Now(0, 0.0), FACTS)
    assert [c.signal_id for c in taken if isinstance(c, m.SubmitEntry)] == [signal.id]
    assert core.handle(m.Recheck(), m.Now(SECOND, 1.0), SPLIT_DUE) == []
    assert not core.is_idle
