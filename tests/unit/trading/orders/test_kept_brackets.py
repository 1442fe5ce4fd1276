"""The order core where the venue keeps the bracket: it compares SL and TP with the position, and never touches them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fks.model.ids import leg_id
from fks.model.order import OPEN, BracketLeg, Order, OrderType, Role, Side, State
from fks.model.signal import Kind, Signal
from fks.trading.orders import messages as m
from fks.trading.orders.build import reported_leg
from fks.trading.orders.core import OrderCore
from tests.support.order_values import a_report, an_instrument, an_order

D = Decimal
KEY = (1, "ninja", "ES 03-25")
CONTRACT = replace(
    an_instrument(),
    exchange="ninja",
    symbol="ES 03-25",
    base="ESH25",
    quote="USD",
    tick=D("0.25"),
    lot_step=D(1),
    qty_min=D(1),
    notional_min=D(0),
    multiplier=D(50),
)
FACTS = m.Facts(
    instruments={"ninja": CONTRACT}, marks={"ninja": D(4500)}, keeps_bracket=True, can_short=True, closes_on_kill=True
)
SECOND = 1_000_000_000


def an_entry(side: Side = Side.BUY, quantity: int = 2, **changes: Any) -> Order:
    """Return a filled entry with a stop and a target."""
    values: dict[str, Any] = {
        "client_order_id": "e" * 32,
        "venue": "ninja",
        "exchange": "ninja",
        "symbol": "ES 03-25",
        "side": side,
        "state": State.FILLED,
        "quantity": D(quantity),
        "filled": D(quantity),
        "stop_loss": D(4500) - side.sign * 10,
        "take_profit": D(4500) + side.sign * 20,
        "created_ns": 1,
    }
    return an_order(**(values | changes))


def a_leg(parent: Order, name: str, quantity: int, **changes: Any) -> Order:
    """Return what becomes of a reported leg: `name` is S, T, S2 and so on."""
    role = Role.STOP_LOSS if name[0] == "S" else Role.TAKE_PROFIT
    leg = BracketLeg(parent.client_order_id, role, int(name[1:] or 1), D(4490) if name[0] == "S" else None)
    report = a_report(
        State.WORKING, client_order_id=leg_id(parent.client_order_id, name), quantity=D(quantity), symbol="ES 03-25"
    )
    order = reported_leg(parent, report, leg, epoch=1, now_ns=2)
    return replace(order, **({"state": State.WORKING, "is_acknowledged": True} | changes))


def a_signal(kind: Kind = Kind.EXIT, **changes: Any) -> Signal:
    values: dict[str, Any] = {
        "id": uuid.uuid4(),
        "source": "strategy:one",
        "instance": "one",
        "params_version": 1,
        "account_id": 1,
        "venue": "ninja",
        "exchange": "ninja",
        "symbol": "ES 03-25",
        "timeframe": "1m",
        "ts_event_ns": 0,
        "ordinal": 0,
        "kind": kind,
        "side": Side.SELL,
    }
    return Signal(**(values | changes))


class Driven:
    """A core with a clock; `commands` are those of the last event."""

    def __init__(self, *orders: Order, held: int = 2) -> None:
        self.core, self.now_s, self.facts = OrderCore(KEY, m.Limits()), 0.0, FACTS
        self.all: list[m.CoreCommand] = []
        self.commands: list[m.CoreCommand] = []
        entries = tuple(order for order in orders if order.role is Role.ENTRY)
        self.give(m.Restored(orders, entries, {"one": D(held)}))

    def give(self, event: m.CoreEvent) -> list[m.CoreCommand]:
        now = m.Now(int(self.now_s * SECOND), self.now_s)
        self.commands = self.core.handle(event, now, self.facts)
        self.all += self.commands
        return self.commands

    def wait(self, seconds: float) -> list[m.CoreCommand]:
        self.now_s += seconds
        return self.give(m.Tick())

    @property
    def alerts(self) -> list[str]:
        return [command.event for command in self.all if isinstance(command, m.RaiseAlert)]


def both_legs(entry: Order, quantity: int = 2) -> tuple[Order, Order]:
    return a_leg(entry, "S", quantity), a_leg(entry, "T", quantity)


def test_a_missing_stop_pages_after_five_seconds_and_is_not_placed() -> None:
    run = Driven(an_entry())
    assert run.wait(4.9) == []
    assert run.alerts == []
    run.wait(0.2)
    assert run.alerts == ["position.unprotected"]
    assert all(isinstance(command, m.RaiseAlert) for command in run.all)


def test_a_position_under_live_stops_of_two_lots_is_protected() -> None:
    entry = an_entry(quantity=3)
    run = Driven(
        entry, a_leg(entry, "S", 1), a_leg(entry, "T", 1), a_leg(entry, "S2", 2), a_leg(entry, "T2", 2), held=3
    )
    for _ in range(20):
        run.wait(1.0)
    assert run.all == []


def test_a_stop_that_covers_too_little_pages_and_is_not_replaced() -> None:
    entry = an_entry(quantity=3)
    run = Driven(entry, a_leg(entry, "S", 1), a_leg(entry, "T", 1), held=3)
    run.wait(6.0)
    page = next(command for command in run.all if isinstance(command, m.RaiseAlert))
    assert (page.severity, page.message) == ("page", "ES 03-25: 2 of the position has had no stop for 5 s")
    assert len(run.all) == 1


def test_a_stop_of_unknown_outcome_protects_nothing() -> None:
    entry = an_entry()
    run = Driven(entry, a_leg(entry, "S", 2, state=State.UNKNOWN), a_leg(entry, "T", 2))
    run.wait(6.0)
    assert run.alerts == ["position.unprotected"]


def test_a_short_position_without_its_stop_pages() -> None:
    run = Driven(an_entry(Side.SELL), held=-2)
    run.wait(6.0)
    assert run.alerts == ["position.unprotected"]


def test_an_exit_goes_at_once_and_no_leg_is_cancelled_first() -> None:
    entry = an_entry()
    run = Driven(entry, *both_legs(entry))
    signal = a_signal()
    assert run.give(m.SignalReady(signal, 0, None)) == [
        m.SubmitClose(signal.id, "one", Side.SELL, D(2), 0, takes_signal=True)
    ]


def test_an_exit_of_a_short_position_buys_at_once() -> None:
    entry = an_entry(Side.SELL)
    run = Driven(entry, *both_legs(entry), held=-2)
    (command,) = run.give(m.SignalReady(a_signal(), 0, None))
    assert isinstance(command, m.SubmitClose)
    assert (command.side, command.quantity) == (Side.BUY, D(2))


def test_while_the_exit_closes_the_legs_that_the_venue_ends_do_not_page() -> None:
    entry = an_entry()
    legs = both_legs(entry)
    run = Driven(entry, *legs)
    signal = a_signal()
    run.give(m.SignalReady(signal, 0, None))
    close = an_order(
        client_order_id="a" * 32,
        venue="ninja",
        exchange="ninja",
        symbol="ES 03-25",
        role=Role.EXIT,
        side=Side.SELL,
        quantity=D(2),
        state=State.WORKING,
        signal_id=signal.id,
    )
    run.give(m.OrderChanged(close, {"one": D(2)}))
    run.give(m.CloseDone("one", close.client_order_id))
    for leg in legs:
        run.give(m.OrderChanged(replace(leg, state=State.CANCELLED), {"one": D(2)}))
    run.wait(8.0)
    run.give(m.OrderChanged(replace(close, state=State.FILLED, filled=D(2)), {"one": D(0)}))
    run.wait(8.0)
    assert run.alerts == []
    assert run.core.is_idle


def test_a_person_closes_what_the_legs_protect_without_their_cancel() -> None:
    entry = an_entry()
    run = Driven(entry, *both_legs(entry))
    signal = a_signal(Kind.ORDER, source="principal:ann", size=D(2))
    assert run.give(m.SignalReady(signal, 0, None)) == [m.SubmitEntry(signal.id)]


def test_a_kill_cancels_the_entry_and_closes_at_once_but_touches_no_leg() -> None:
    entry = an_entry()
    resting = an_entry(client_order_id="f" * 32, state=State.WORKING, filled=D(0), type=OrderType.LIMIT)
    run = Driven(entry, resting, *both_legs(entry))
    run.facts = replace(FACTS, kill=m.KillMode.FLATTEN, kill_id="k")
    assert run.give(m.Recheck()) == [
        m.CancelOrder(resting.client_order_id, "kill"),
        m.SubmitKill("k", "one", "ninja", Side.SELL, D(2), 0),
    ]


def test_a_kill_closes_a_short_position_by_a_buy() -> None:
    entry = an_entry(Side.SELL)
    run = Driven(entry, *both_legs(entry), held=-2)
    run.facts = replace(FACTS, kill=m.KillMode.FLATTEN, kill_id="k")
    assert run.give(m.Recheck()) == [m.SubmitKill("k", "one", "ninja", Side.BUY, D(2), 0)]


def test_a_held_kill_leaves_the_legs_and_cancels_the_entry() -> None:
    entry = an_entry()
    resting = an_entry(client_order_id="f" * 32, state=State.WORKING, filled=D(0), type=OrderType.LIMIT)
    run = Driven(entry, resting, *both_legs(entry))
    run.facts = replace(FACTS, kill=m.KillMode.HELD)
    assert run.give(m.Recheck()) == [m.CancelOrder(resting.client_order_id, "kill")]
    assert run.wait(20.0) == [], "the owner of the order's requests repeats its cancel"


_TOUCHES = (m.PlaceProtection, m.AbandonOrder)


@given(data=st.data())
def test_whatever_happens_no_leg_is_placed_abandoned_or_cancelled(data: st.DataObject) -> None:
    side = data.draw(st.sampled_from(list(Side)))
    entry = an_entry(side, quantity=3)
    legs = {name: a_leg(entry, name, quantity) for name, quantity in (("S", 1), ("T", 1), ("S2", 2), ("T2", 2))}
    run = Driven(entry, *legs.values(), held=3 * side.sign)
    held, names = 3, {leg.client_order_id for leg in legs.values()}
    closes: dict[str, Order] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        step = data.draw(st.sampled_from(["leg", "exit", "wait", "kill", "away", "close"]))
        if step == "leg":
            name = data.draw(st.sampled_from(sorted(legs)))
            state = data.draw(st.sampled_from([State.WORKING, State.UNKNOWN, State.CANCELLED, State.REJECTED]))
            legs[name] = replace(legs[name], state=state)
            run.give(m.OrderChanged(legs[name], {"one": D(held * side.sign)}))
        elif step == "exit":
            run.give(m.SignalReady(a_signal(), 0, None))
        elif step == "kill":
            run.facts = replace(run.facts, kill=data.draw(st.sampled_from(list(m.KillMode))), kill_id="k")
            run.give(m.Recheck())
        elif step == "away":
            run.facts = replace(run.facts, is_connected=data.draw(st.booleans()), can_commit=data.draw(st.booleans()))
            run.give(m.Recheck())
        elif step == "close" and held:
            held -= 1
            run.give(m.PositionsChanged({"one": D(held * side.sign)}))
        else:
            run.wait(data.draw(st.sampled_from([0.1, 3.0, 30.0])))
        for command in run.commands:
            assert not isinstance(command, _TOUCHES)
            assert not (isinstance(command, m.CancelOrder | m.QueryOrder) and command.client_order_id in names)
            if isinstance(command, m.SubmitClose | m.SubmitKill):
                # never more than is held beyond the closing orders that may still fill
                pending = sum((order.remaining for order in closes.values() if order.state in OPEN), D(0))
                assert command.quantity + pending <= held
                assert command.side is side.opposite
                name = f"{len(closes):032}"
                signal_id = command.signal_id if isinstance(command, m.SubmitClose) else None
                role = Role.KILL if signal_id is None else Role.EXIT
                closes[name] = an_order(
                    client_order_id=name,
                    venue="ninja",
                    exchange="ninja",
                    symbol="ES 03-25",
                    role=role,
                    side=command.side,
                    quantity=command.quantity,
                    state=data.draw(st.sampled_from([State.REJECTED, State.WORKING])),
                    signal_id=signal_id,
                    attempt=command.attempt,
                )
                run.give(m.OrderChanged(closes[name], {"one": D(held * side.sign)}))
                run.give(m.CloseDone("one", name, is_used=role is Role.KILL))
                break
