"""The entries of a position: kept in order, they say what going through all of them at each event would say."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fks.model.order import Order, Role, Side, State
from fks.trading.orders import messages as m
from fks.trading.orders.core import OrderCore
from fks.trading.orders.protection import Entries, desired
from tests.support.order_values import an_instrument, an_order

D = Decimal
INSTRUMENT = an_instrument()


def executed_of(number: int, entry: Order) -> tuple[Order, Decimal]:
    """Return an entry and what its legs executed."""
    return entry, D(min(number, int(entry.filled)))


def an_entry(number: int, filled: int, *, side: Side = Side.BUY, stop: int | None = None) -> Order:
    """Return an executed entry; the same number is the same order."""
    return an_order(
        client_order_id=f"{number:032x}",
        role=Role.ENTRY,
        side=side,
        state=State.FILLED,
        quantity=D(10),
        filled=D(filled),
        stop_loss=None if stop is None else D(stop),
        created_ns=number // 2,
    )


changes = st.lists(
    st.one_of(
        st.builds(
            executed_of,
            st.integers(0, 9),
            st.builds(
                an_entry,
                st.integers(0, 12),
                st.integers(0, 9),
                side=st.sampled_from(Side),
                stop=st.one_of(st.none(), st.just(90)),
            ),
        ),
        st.integers(0, 12).map(lambda number: f"{number:032x}"),
    ),
    max_size=30,
)


@given(changes, st.integers(-40, 40), st.booleans())
def test_entries_give_what_all_of_them_gone_through_give(
    steps: list[tuple[Order, Decimal] | str], position: int, is_rounded: bool
) -> None:
    entries, known, held, executed = Entries(), dict[str, Order](), D(position), dict[str, Decimal]()
    instrument = INSTRUMENT if is_rounded else None
    for step in steps:
        if isinstance(step, str):
            entries.pop(step)
            known.pop(step, None)
        else:
            order, executed[order.client_order_id] = step
            entries.put(*step)
            known[order.client_order_id] = order
            if not order.filled:
                del known[order.client_order_id]
        newest_first = sorted(known.values(), key=lambda o: (o.created_ns, o.client_order_id), reverse=True)
        rests = [order.filled - executed[order.client_order_id] for order in newest_first]
        same = [rest for order, rest in zip(newest_first, rests, strict=True) if order.side.sign * held > 0]
        assert entries.newest_first() == newest_first
        assert len(entries) == len(known)
        assert entries.covers(held) == (sum(same, D(0)) >= abs(held))
        assert entries.desired(held, D(1), instrument) == desired(held, newest_first, D(1), instrument, executed)
        covered, is_left = D(0), False
        for order, rest in zip(newest_first, rests, strict=True):
            is_opposite = order.side.sign * held < 0
            is_left |= is_opposite or covered >= abs(held) or not rest
            covered += D(0) if is_opposite else rest
        assert not known or entries.may_drop(held) or not is_left


def test_an_entry_whose_executions_were_all_taken_back_protects_nothing() -> None:
    first, second = an_entry(1, 10, stop=90), an_entry(4, 5, stop=95)
    core, facts = OrderCore((1, "ccxt", "BTCUSDT"), m.Limits()), m.Facts(instruments={"binance": INSTRUMENT})
    core.handle(m.Restored((), (second, first), {"one": D(15)}), m.Now(0, 0.0), facts)
    assert core.held_entries(facts.instruments) == {"one": [second, first]}
    core.handle(m.OrderChanged(an_entry(4, 0, stop=95), {"one": D(10)}), m.Now(1, 0.1), facts)
    assert core.held_entries(facts.instruments) == {"one": [first]}


def test_entries_are_held_as_soon_as_metadata_is_known() -> None:
    """No event of the position need come between: its stop trails at the next bar."""
    first = an_entry(1, 10, stop=90)
    core = OrderCore((1, "ccxt", "BTCUSDT"), m.Limits())
    core.handle(m.Restored((), (first,), {"one": D(10)}), m.Now(0, 0.0), m.Facts())
    assert core.held_entries({}) == {}
    assert core.held_entries({"binance": INSTRUMENT}) == {"one": [first]}


moves = st.lists(
    st.tuples(st.sampled_from(["0.006", "0.06", "0.2", "5"]), st.sampled_from([90, 95]), st.sampled_from([0, 50, 100])),
    max_size=8,
)


@given(moves, st.sampled_from(["0.001", "0.05"]))
def test_a_restored_core_holds_the_entries_of_a_running_one(steps: list[tuple[str, int, int]], lot: str) -> None:
    """Each step buys, with a fee of the bought asset, and then sells a share of what is held, in whole lots."""
    instrument, held, entries = an_instrument(lot_step=D(lot)), D(0), list[Order]()
    running, facts = OrderCore((1, "ccxt", "BTCUSDT"), m.Limits()), m.Facts(instruments={"binance": instrument})
    for number, (quantity, stop, share) in enumerate(steps):
        bought = an_order(
            client_order_id=f"{number:032x}",
            state=State.FILLED,
            filled=D(quantity),
            average_price=D(100),
            stop_loss=D(stop),
            created_ns=number,
        )
        entries.insert(0, bought)
        held += bought.filled * D("0.999")
        running.handle(m.OrderChanged(bought, {"one": held}), m.Now(number, float(number)), facts)
        held -= instrument.round_quantity(held * share / 100)
        running.handle(m.PositionsChanged({"one": held}), m.Now(number, number + 0.5), facts)
        newer = [sum((one.filled for one in entries[:at]), D(0)) for at in range(len(entries))]
        rows = tuple(one for one, covered in zip(entries, newer, strict=True) if covered < held)
        restored = OrderCore((1, "ccxt", "BTCUSDT"), m.Limits())
        restored.handle(m.Restored((), rows, {"one": held}), m.Now(number, 0.0), facts)
        assert restored.held_entries(facts.instruments) == running.held_entries(facts.instruments)
