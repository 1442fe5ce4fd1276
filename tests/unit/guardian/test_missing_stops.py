"""Stops that the guardian finds missing at the venue."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.guardian.missing_stops import ReadVenue, missing_stops
from fks.guardian.positions import DatabaseSnapshot, Holder, Known, VenueRules
from fks.model.order import Order, Report, Role, Side, State
from fks.model.timeframe import NS
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


def test_no_stop_is_missing_while_the_venue_holds_the_exits_of_an_entry() -> None:
    """They went out with the entry, and wait for its complete fill."""
    assert missing_stops(a_view(), [an_entry(group_id="g")]) == ([], False)
    assert missing_stops(a_view(), [an_entry(group_id="g", quantity=D(4))])[0] != []


def test_newest_entries_are_protected_first() -> None:
    older = an_entry(client_order_id=OTHER, filled=D(2), created_ns=AT_NS - 5 * NS)
    found, _ = missing_stops(a_view(sold="3", ended={EXIT: "3"}), [older, an_entry()])
    assert [(parent.client_order_id, quantity) for parent, quantity in found] == [(ENTRY, D(1))]
