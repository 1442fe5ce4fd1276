"""The journal of closed trades in the database: its sources, its entries, and the notes of persons."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fks.model.accounting.journal import JournalFill
from fks.model.errors import conflict, not_found
from fks.model.futures import instrument_of_symbol
from fks.model.instrument import assumed_instrument
from fks.model.order import Role
from fks.model.timeframe import TIMEFRAMES
from fks.store.base import SqlStore, query, reads
from fks.store.db import Querier, Row
from fks.store.portfolios import attributed_fill

_LENGTHS = {name: float(seconds) for name, seconds in TIMEFRAMES.items() if seconds}
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_REASONS = {
    Role.ENTRY: "signal",
    Role.EXIT: "signal",
    Role.STOP_LOSS: "stop loss",
    Role.TAKE_PROFIT: "take profit",
    Role.ORDER: "order",
    Role.KILL: "kill switch",
    Role.LIQUIDATION: "liquidation",
}


@dataclass(frozen=True, slots=True)
class JournalPosition:
    """A position with trades to be written: from the execution at `since` on. `currency`: of its account."""

    account_id: int
    venue: str
    symbol: str
    instance: str
    currency: str
    through: int
    since: datetime

    @property
    def key(self) -> tuple[int, str, str, str]:
        """Return account, venue, symbol and instance."""
        return self.account_id, self.venue, self.symbol, self.instance


@dataclass(frozen=True, slots=True)
class JournalSource:
    """Executions of a position with their exchange, and those that were taken back (`closed_trades`)."""

    exchange: str
    fills: list[JournalFill]
    busts: dict[uuid.UUID, tuple[Decimal, Decimal, Decimal]]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry of a position as it is there. `has_notes`: it has tags or a note of a person."""

    id: uuid.UUID
    entry_fill: uuid.UUID
    has_notes: bool


for _class in (JournalPosition, StoredEntry):
    reads(_class)


class TradeJournalStore(SqlStore[Querier], queries="trade_journal"):
    """Reads and writes. Takes a database or a transaction. Errors: OutageError."""

    async def due(self, now_ns: int) -> list[JournalPosition]:
        """Return the positions whose entries are to be written, at most 500."""

    async def base(self, position: JournalPosition) -> tuple[uuid.UUID, datetime, Decimal] | None:
        """Return the execution that closed the last trade before `position.since`, its time, and the rest held."""
        row = await self._db.fetchrow("trade_journal.base", *position.key, position.since)
        return None if row is None else (row["exit_fill"], row["exit_time"], row["rest"])

    async def source(self, position: JournalPosition, since: datetime | None) -> JournalSource:
        """Return the executions of a position from `since` on, None: all; those of before a split in the new shares."""
        splits = await self._db.fetch("corporate_actions.position_splits", *position.key[:3])
        fills: list[JournalFill] = []
        busts: dict[uuid.UUID, tuple[Decimal, Decimal, Decimal]] = {}
        exchange = ""
        for row in await self._db.fetch("trade_journal.fills", *position.key, since or _FIRST):
            if row["source"] == "bust":
                id = uuid.UUID(row["venue_trade_id"].split(":")[1])
                before = busts.get(id, (Decimal(0),) * 3)
                taken = abs(row["quantity"]), -row["fee"], row["realized_pnl"]
                busts[id] = before[0] + taken[0], before[1] + taken[1], before[2] + taken[2]
                continue
            fills.append(_journal_fill(_in_new_shares(row, splits)))
            exchange = row["exchange"] or exchange
        return JournalSource(exchange, fills, busts)

    async def range(
        self, exchange: str, symbol: str, start: datetime, end: datetime
    ) -> tuple[Decimal | None, Decimal | None, int, bool]:
        """Return the lowest and highest price of the whole bars within a time, their number, and whether bars of it may
        still come."""
        row = await self._db.fetchrow(
            "trade_journal.range", exchange, symbol, start, end, list(_LENGTHS), list(_LENGTHS.values())
        )
        if row is None:
            return None, None, 0, False
        low, high = (None if value is None else Decimal(repr(value)) for value in (row["low"], row["high"]))
        return low, high, row["bars"], bool(row["is_missing"])

    async def stored(self, position: JournalPosition, after: datetime | None) -> list[StoredEntry]:
        """Return the entries of a position that end after a moment (None: all), and the void ones."""
        rows = await self._db.fetch("trade_journal.stored", *position.key, after)
        return [StoredEntry(**dict(row)) for row in rows]

    async def write(
        self,
        position: JournalPosition,
        entries: Sequence[Mapping[str, Any]],
        *,
        removed: Sequence[uuid.UUID],
        void: Sequence[uuid.UUID],
    ) -> None:
        """Write entries, remove those that are none any more, and note how far the executions were read. Needs a
        transaction to be all or nothing."""
        if entries:
            await self._db.execute("trade_journal.write", *position.key, [dict(entry) for entry in entries])
        if removed or void:
            await self._db.execute("trade_journal.remove", list(removed), list(void))
        await self._db.execute("trade_journal.read_through", *position.key, position.through)

    async def entries(
        self,
        accounts: list[int] | None,
        *,
        before: int | None = None,
        id: uuid.UUID | None = None,
        account: str | None = None,
        symbols: list[str] | None = None,
        instance: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        result: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1,
    ) -> list[dict[str, Any]]:
        """Return the entries of `accounts` (None: of all) that match, newest first. `result`: won, lost or even."""

    async def entry(self, accounts: list[int] | None, id: uuid.UUID) -> dict[str, Any]:
        """Return one entry. Errors: InputError 404 JOURNAL_UNKNOWN."""
        rows = await self.entries(accounts, id=id)
        if not rows:
            raise not_found("JOURNAL_UNKNOWN", f"the journal has no entry {id}", "see 'fks journal list'")
        return rows[0]

    @query("change_notes")
    async def _change(
        self, id: uuid.UUID, version: int, tags: Sequence[str] | None, note: str | None, by: str
    ) -> int | None:
        """Change tags and note, and return the new version; None if the entry is at another one."""

    async def change(
        self, entry: Mapping[str, Any], version: int, *, tags: Sequence[str] | None, note: str | None, by: str
    ) -> None:
        """Change tags or note of an entry that was read; None stays. Errors: InputError 409 JOURNAL_VERSION."""
        if await self._change(entry["id"], version, tags, note, by) is None:
            raise conflict(
                "JOURNAL_VERSION",
                f"the notes of entry {entry['id']} are not at version {version}: they were changed meanwhile",
                "read it again, and send its version with the change",
            )


def _in_new_shares(row: Row, splits: Sequence[Row]) -> Mapping[str, Any]:
    made = dict(row)
    for split in splits:
        if row["time"] < split["effective_at"]:
            new, old = split["new_shares"], split["old_shares"]
            made["quantity"] = made["quantity"] * new / old
            for name in ("price", "decided"):
                made[name] = None if made[name] is None else made[name] * old / new
    return made


def _journal_fill(row: Row | Mapping[str, Any]) -> JournalFill:
    fill, number = attributed_fill(row), row["venue_trade_id"]
    step = row["lot_step"]
    if step is None:
        item = instrument_of_symbol("", row["symbol"]) or assumed_instrument("", row["symbol"], row["fee_currency"])
        step = item.lot_step
    role = None if row["role"] is None else Role(row["role"])
    reason = "booked by a person" if role is None else _REASONS[role]
    by = row["signal_source"].partition(":")[2] if role is Role.ORDER else row["signal_reason"]
    if role in (Role.ENTRY, Role.EXIT, Role.ORDER) and by:
        reason = f"{reason}: {by}"
    sequence = int(number) if number.isascii() and number.isdigit() else 0
    return JournalFill(fill, row["fill_id"], sequence, step, reason[:500])
