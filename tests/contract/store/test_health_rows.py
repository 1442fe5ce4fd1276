"""The rows of `component_health`: whole when something changed, else only their beat; a row that went is written
again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fks.model.timeframe import to_ns
from fks.store.db import Database
from fks.store.supervision import HealthRow, TreeJournal

NOW = 1_800_000_000_000_000_000
ROWS = [
    HealthRow(name, "actor", "ready", 7, "n", 0, NOW, NOW, epoch=2, detail={"open": 1})
    for name in ("orders", "guardian")
]


def at(seconds: int, **changes: Any) -> list[HealthRow]:
    """Return the rows some seconds later; only the first changed otherwise."""
    beats = [replace(row, beat_ns=NOW + seconds * 10**9) for row in ROWS]
    return [replace(beats[0], **changes), *beats[1:]]


async def found(db: Database) -> dict[str, Any]:
    return {row["name"]: row for row in await db.sql("SELECT * FROM component_health")}


async def test_steady_rows_are_only_touched(database: Database) -> None:
    journal = TreeJournal(database)
    await journal.write_health(at(0))
    await database.sql("UPDATE component_health SET version = 'as it was written'")
    await journal.write_health(at(1, state="degraded"))
    rows = await found(database)
    assert {name: to_ns(row["beat_at"]) for name, row in rows.items()} == dict.fromkeys(rows, NOW + 10**9)
    assert (rows["orders"]["state"], rows["orders"]["version"]) == ("degraded", "")
    assert (rows["guardian"]["state"], rows["guardian"]["version"]) == ("ready", "as it was written")


async def test_a_row_that_went_is_written_again(database: Database) -> None:
    journal = TreeJournal(database)
    await journal.write_health(at(0))
    await database.sql("DELETE FROM component_health WHERE name = 'guardian'")
    for seconds in (1, 2):
        await journal.write_health(at(seconds))
    rows = await found(database)
    assert to_ns(rows["guardian"]["beat_at"]) == NOW + 2 * 10**9


async def test_a_row_of_a_newer_epoch_is_left_alone(database: Database) -> None:
    journal = TreeJournal(database)
    await journal.write_health(at(0))
    await database.sql("UPDATE component_health SET epoch = 3, state = 'starting' WHERE name = 'orders'")
    for seconds in (1, 2, 3):
        await journal.write_health(at(seconds))
    row = (await found(database))["orders"]
    assert (row["epoch"], row["state"], to_ns(row["beat_at"])) == (3, "starting", NOW)
