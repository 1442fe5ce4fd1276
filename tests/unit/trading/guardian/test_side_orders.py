"""The order manager's side journal as the guardian reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.model.order import Order, Role, Side, State, evolve
from fks.model.timeframe import NS
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, Known, SideOrders
from fks.trading.orders import events as e
from fks.trading.orders.side_lines import happened_line, placed_line
from fks.trading.risk.policy import Action
from tests.support.order_values import a_fill, a_report, an_order
from tests.support.ports import CollectingLog

D = Decimal
AT_NS = 10**18
EXIT = "e" * 32
HOLDER = Holder("ccxt", 1, "BTCUSDT", "one")
SENT = e.IntendedAndSent(event_id="1", recv_ns=AT_NS)
LOST = e.Ambiguous(event_id="2", recv_ns=AT_NS + 1, sent_ns=AT_NS)


def an_exit(client_order_id: str = EXIT) -> Order:
    order = an_order(client_order_id=client_order_id, side=Side.SELL, role=Role.EXIT, state=State.SENDING)
    return evolve(order, created_ns=AT_NS, updated_ns=AT_NS, is_reduce_only=True)


def written(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps({"at": "2026-01-01T00:00:00Z", **line}) + "\n" for line in lines))


def reading(path: Path | None) -> tuple[SideOrders, CollectingLog]:
    log = CollectingLog()
    return SideOrders(path, log), log


def states(side: SideOrders) -> list[tuple[str, str]]:
    return [(id[0], order.state.value) for id, order in side.orders.items()]


def test_order_of_the_side_journal_has_the_state_of_its_last_event(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    side, log = reading(path)
    for without in (side, reading(None)[0]):
        assert (without.read(), without.orders) == (set(), {})
    written(path, placed_line([an_exit()], [SENT], None), happened_line([(EXIT, LOST)]))
    for _ in range(2):  # the file is read whole each time
        side.read()
        assert states(side) == [("e", "UNKNOWN")]
    assert log.lines == []


def test_line_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """The last line is cut short by a crash, another one is of a later version."""
    path = tmp_path / "orders.jsonl"
    written(
        path,
        {"act": "placed", "orders": [{"shape": "new"}], "events": [], "signal_id": None},
        {"act": "moved"},
        placed_line([an_exit()], [SENT], None),
        happened_line([(EXIT, LOST)]),
    )
    path.write_bytes(path.read_bytes()[:-20])
    side, log = reading(path)
    for _ in range(2):
        side.read()
    assert states(side) == [("e", "SENDING")]
    assert [event for _, event, _ in log.lines] == ["guardian.side_journal_unreadable"]
    path.unlink()
    path.mkdir()
    assert side.read() == set()
    assert states(side) == [("e", "SENDING")]


def test_orders_that_left_the_file_count_until_the_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    side, _ = reading(path)
    written(path, placed_line([an_exit()], [SENT], None), happened_line([("w" * 32, a_release())]))
    assert side.read() == set()
    path.write_text("")
    gone = side.read()
    assert gone == {EXIT, "w" * 32}
    assert (states(side), list(side.sent)) == ([("e", "SENDING")], ["w" * 32])
    side.forget(gone)
    assert (side.orders, side.sent, side.read()) == ({}, {}, set())


def a_release() -> e.Sent:
    return e.Sent(event_id="3", recv_ns=AT_NS + 7)


def test_snapshot_counts_the_orders_that_were_sent_without_the_database(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    side, _ = reading(path)
    ended = e.Refused(event_id="4", code="-2010", recv_ns=AT_NS)
    written(
        path,
        placed_line([an_exit(), an_exit("x" * 32), an_exit("k" * 32)], [SENT] * 3, None),
        happened_line([(EXIT, LOST), ("x" * 32, ended), ("w" * 32, a_release()), ("k" * 32, a_release())]),
    )
    side.read()
    waiting = Known(HOLDER, "binance", D(0), "sl", "INTENDED", AT_NS, AT_NS, parent_id="p")
    booked = Known(HOLDER, "binance", D(1), "exit", "FILLED")
    before = DatabaseSnapshot(AT_NS + 3600 * NS, {}, {}, {"w" * 32: waiting, "k" * 32: booked}, frozenset())
    after = before.with_side_orders(side)
    assert after.orders["k" * 32] == booked, "the database knows it better"
    assert after.orders["w" * 32] == replace(waiting, state="SENDING", changed_ns=AT_NS + 7)
    unknown = after.orders[EXIT]
    assert (unknown.holder, unknown.filled, unknown.is_unresolved, unknown.role) == (HOLDER, D(0), True, "exit")
    assert (unknown.action is Action.EXIT, after.orders["x" * 32].is_ended) == (True, True)
    assert before.with_side_orders(reading(None)[0]) is before


def test_exit_executed_long_before_the_snapshot_is_counted(tmp_path: Path) -> None:
    """PostgreSQL is back, and does not have the exit yet."""
    path = tmp_path / "orders.jsonl"
    side, _ = reading(path)
    acked = e.Acked(event_id="5", recv_ns=AT_NS, report=a_report(State.FILLED, 10, client_order_id=EXIT))
    written(path, placed_line([an_exit()], [SENT], None), happened_line([(EXIT, acked)]))
    side.read()
    snapshot = DatabaseSnapshot(AT_NS + 3600 * NS, {HOLDER: D(10)}, {}, {}, frozenset()).with_side_orders(side)
    assert snapshot.orders[EXIT].is_ended
    fill = a_fill(client_order_id=EXIT, side=Side.SELL, quantity=D(10), time_ns=AT_NS + NS)
    since = {"BTCUSDT": snapshot.history_from_ns("ccxt", "BTCUSDT")}
    assert snapshot.with_fills([fill], frozenset(), since) == {HOLDER: D(0)}
