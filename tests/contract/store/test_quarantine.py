"""Suspect messages and bars are stored with reason and numbers, once, until they are settled."""

from __future__ import annotations

import math

import asyncpg
import pytest

from fks.model.bar import Bar
from fks.model.market import Suspect
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.store.quarantine import TEXT_MAX, QuarantinedRow, QuarantineStore, SettledAs, numbers_of

T0 = 1_767_225_600 * NS
BAR = Bar("binance", "BTCUSDT", "1m", T0, 0.1, 1e9, 1e-8, 0.30000000000000004, 5.0, 3)


def held(minute: int = 0, reason: str = "outlier") -> QuarantinedRow:
    bar = Bar("binance", "BTCUSDT", "1m", T0 + minute * 60 * NS, 1.0, 2.0, 0.5, 1.5, 5.0)
    return QuarantinedRow.bar(bar, reason, "far away", source="sync")


async def test_a_held_bar_keeps_every_digit_and_is_kept_once(database: Database) -> None:
    store = QuarantineStore(database)
    item = QuarantinedRow.bar(BAR, "outlier", "far away", source="sync")
    assert await store.add([item, item]) == 1
    assert await store.add([item]) == 0
    (row,) = await store.rows("binance", "BTCUSDT")
    assert row.held == item
    assert row.held.payload["close"] == "0.30000000000000004"
    assert (row.verdict, row.settled_ns) == (None, None)


async def test_numbers_that_are_none_are_kept_as_well(database: Database) -> None:
    store = QuarantineStore(database)
    bar = Bar("binance", "BTCUSDT", "1m", T0, math.nan, math.inf, -1.0, 1.0, 1.0)
    assert await store.add([QuarantinedRow.bar(bar, "not_a_number", "", source="import")]) == 1
    (row,) = await store.rows()
    assert (row.held.payload["open"], row.held.payload["high"]) == ("nan", "inf")


async def test_a_message_is_kept_as_it_was_and_a_long_one_is_cut(database: Database) -> None:
    store = QuarantineStore(database)
    text = '{"p":"abc\0"}' + "x" * 2 * TEXT_MAX
    assert await store.add([QuarantinedRow.suspect("kraken", Suspect("trades", "XBTUSD", "malformed", text))]) == 1
    (row,) = await store.rows("kraken")
    assert row.held.channel == "trades"
    assert row.held.payload["text"].startswith('{"p":"abc')
    assert row.held.payload["text"].endswith("x…")
    assert (row.held.timeframe, row.held.time_ns) == (None, None)


async def test_characters_that_postgresql_cannot_hold_are_replaced_in_every_text(database: Database) -> None:
    store = QuarantineStore(database)
    strange = "a\0b\ud800c"
    long = strange + "x" * 5000
    payload = {"text": strange, "nested": [{strange: strange}], "number": 1.5}
    item = QuarantinedRow(strange, long, strange, strange, payload, source=strange)
    assert await store.add([item, held()]) == 2
    assert await store.add([item]) == 0
    assert (
        await store.add([QuarantinedRow.suspect("kraken", Suspect("trades", strange, f"no {strange}", strange))]) == 1
    )
    (row,) = await store.rows("a�b?c")
    assert row.held.symbol.startswith("a�b?cxxx")
    assert row.held.reason == row.held.channel == row.held.source == "a�b?c"
    assert row.held.payload == {"text": "a�b?c", "nested": [{"a�b?c": "a�b?c"}], "number": 1.5}


async def test_a_row_that_postgresql_does_not_take_costs_no_other(database: Database) -> None:
    received: list[tuple[QuarantinedRow, Exception]] = []
    store = QuarantineStore(database, lambda item, error: received.append((item, error)))
    no_json = QuarantinedRow("binance", "BTCUSDT", "trades", "odd", {"number": 2**70})
    await database.sql("ALTER TABLE quarantine ADD CHECK (reason <> 'hated')")
    assert await store.add([held(0), no_json, held(1, "hated"), held(2)]) == 2
    assert [item for item, _ in received] == [no_json, held(1, "hated")]
    assert await store.add([no_json]) == 0
    with pytest.raises(asyncpg.DataError):
        await QuarantineStore(database).add([no_json])


async def test_the_first_verdict_stands_and_settled_rows_are_out_of_the_way(database: Database) -> None:
    store = QuarantineStore(database)
    await store.add([held(0), held(1), held(2), held(2, "off_session")])
    newest = await store.rows(limit=1)
    assert await store.settle([newest[0].id], SettledAs.REFUSED) == 1
    assert await store.settle([newest[0].id], SettledAs.CONFIRMED) == 0
    assert await store.settle_bars("binance", "BTCUSDT", "1m", [T0, T0 + 60 * NS], SettledAs.CONFIRMED) == 2
    assert len(await store.rows()) == 1
    assert {row.verdict for row in await store.rows(with_settled=True)} == {
        None,
        SettledAs.REFUSED,
        SettledAs.CONFIRMED,
    }
    assert [(row["reason"], row["held"]) for row in await store.counts()] == [("outlier", 1)]
    assert await store.add([held(0)]) == 0  # it comes again with the next sync: it is known


async def test_what_was_let_in_is_known_by_its_numbers(database: Database) -> None:
    store = QuarantineStore(database)
    await store.add([QuarantinedRow.bar(BAR, "outlier", "", source="sync"), held(1)])
    await store.settle_bars("binance", "BTCUSDT", "1m", [T0], SettledAs.CONFIRMED)
    known = await store.confirmed("binance", "BTCUSDT", "1m", T0, T0 + 3600 * NS)
    assert known == {numbers_of(BAR)}


async def test_old_rows_are_dropped(database: Database) -> None:
    store = QuarantineStore(database)
    await store.add([held(0)])
    (row,) = await store.rows()
    assert await store.forget(row.received_ns) == 0
    assert await store.forget(row.received_ns + 1000) == 1
