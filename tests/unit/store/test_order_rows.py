"""The journal's statements carry every column of their tables."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fks.model.account import Position
from fks.store import schema
from fks.store.order_rows import EVENT, ORDER, POSITION, TRADE, EventRow, ExecutionRow, RowForm, State, statement
from tests.support.order_values import a_fill, an_order

D = Decimal
#: filled by PostgreSQL
OWN = {"order_events": {"id"}, "trades": {"id", "created_at"}}


@pytest.mark.parametrize("form", [ORDER, EVENT, TRADE, POSITION], ids=lambda form: form.table)
def test_each_column_of_the_table_is_written(form: RowForm[Any]) -> None:
    table = schema.metadata.tables[form.table]
    assert {column.name for column in table.columns} - OWN.get(form.table, set()) == {name for name, _ in form.columns}


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (ORDER, an_order(created_ns=1_800_000_000 * 10**9)),
        (EVENT, EventRow("c" * 32, "send:1:1", "Acked", None, State.SENDING, "us", 1, 1)),
        (TRADE, ExecutionRow(a_fill(), "one", D(1))),
        (
            POSITION,
            Position(
                account_id=1,
                venue="ccxt",
                symbol="BTCUSDT",
                instance="one",
                quantity=D(1),
                average_price=D(1),
                realized_pnl=D(0),
                fees=D(0),
            ),
        ),
    ],
    ids=lambda value: getattr(value, "table", ""),
)
def test_row_type_has_the_order_of_the_table(form: RowForm[Any], value: Any) -> None:
    assert len(form.values(value)) == len(form.columns)
    named = dict(zip([name for name, _ in form.columns], form.values(value), strict=True))
    table = [column.name for column in schema.metadata.tables[form.table].columns][::-1]
    assert form.packer([*table, "added_later"])(value) == (*(named.get(name) for name in table), None)


def test_order_without_a_time_of_sending_has_none_in_its_row() -> None:
    row = dict(zip([name for name, _ in ORDER.columns], ORDER.values(an_order(created_ns=5 * 10**9)), strict=True))
    assert row["sent_at"] is None
    assert row["valid_until"] is None
    assert row["created_at"] is not None


def test_statement_has_no_placeholder_left() -> None:
    for name, first in (("orders.place_one", 10), ("orders.place_many", 1), ("orders.apply", 1)):
        assert "{" not in statement(name, first=first)
