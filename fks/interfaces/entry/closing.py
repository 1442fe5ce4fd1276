"""Closing of a symbol's positions: an exit signal for each that the caller may close, through order entry.

A person closes every instance's position, a program its own instance's alone, with what repeats that on other accounts.

An exit closes the position of one instance whatever it is when the order is made, and ends its own protection first;
an order of the opposite side could do neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.order_entry import Draft, OrderEntry
from fks.interfaces.entry.routing import exchange_of
from fks.model.copies import copied_instance
from fks.model.errors import conflict
from fks.model.ids import request_signal_id
from fks.model.order import Side
from fks.model.signal import Kind, Signal
from fks.store.db import Database
from fks.store.reading import ReadingStore
from fks.store.tokens import Principal

#: The instance of holdings that FKS did not buy: it does not sell them.
EXTERNAL = "external"


class Closing:
    """Closes positions. Holds no state; many may exist."""

    def __init__(self, db: Database, entry: OrderEntry, clock: Clock, settings: Settings) -> None:
        self._db = db
        self._entry = entry
        self._clock = clock
        self._settings = settings

    async def held(self, symbol: str, caller: Principal, exchange: str | None = None) -> list[dict[str, Any]]:
        """Return the positions in a symbol, in any spelling, that this caller may close, with their `exchange`; of a
        symbol with an exchange those at it, and those on paper of which no order says one. Errors: InputError 404."""
        listed = await ReadingStore(self._db).spelled(symbol, exchange)
        at = {None, *(item.exchange for item in listed)} if exchange or ":" in symbol else None
        symbols = sorted({item.symbol for item in listed})
        home = self._settings.venue.exchange
        rows = await self._db.fetch("gateway.positions", symbols, False, home, caller.account_list)
        own = caller.instance
        found = [
            row | {"exchange": await self._exchange(row)}
            for row in map(dict, rows)
            if row["instance"] != EXTERNAL and own in ("", copied_instance(row["instance"]) or row["instance"])
        ]
        return [row for row in found if at is None or row["exchange"] in at]

    async def _exchange(self, row: Mapping[str, Any]) -> str | None:
        place = [row[name] for name in ("account", "venue", "symbol", "instance")]
        return exchange_of(row["venue"], self._settings) or await self._db.fetchval("gateway.position_exchange", *place)

    async def close(
        self, symbol: str, caller: Principal, key: str, exchange: str | None = None
    ) -> list[dict[str, Any]]:
        """Commit an exit for each position in `symbol`, and return what became of each within `http.order_wait_s`.

        The same `key` again makes no second exit. `exchange`: of a position on paper without an order, in a symbol that
        several collect; without it none is closed there. Errors: InputError 404 for an unknown symbol,
        400 SYMBOL_AMBIGUOUS, 409 NOTHING_HELD; OutageError.
        """
        rows = await self.held(symbol, caller, exchange)
        if not rows:
            by = f" by {caller.instance}" if caller.instance else ""
            raise conflict("NOTHING_HELD", f"nothing is held in {symbol}{by}", "see GET /positions")
        accounts = {row["name"]: row["id"] for row in await self._db.fetch("gateway.account_names")}
        arrived_ns = self._clock.now_ns()
        exits, found = [], []
        for row in rows:  # each is named before the first one is committed
            place = f"{row['account']}|{row['venue']}|{row['symbol']}|{row['instance']}"
            own = f"{key}:{hashlib.sha256(place.encode()).hexdigest()[:16]}"
            at = row["exchange"] or exchange or symbol.rpartition(":")[0] or None
            listed = await ReadingStore(self._db).find(row["symbol"], at, listed=False)
            signal = self._signal(row, listed.exchange, accounts[row["account"]], caller.name, own, arrived_ns)
            exits.append((row, place, own, signal))
        for row, place, own, signal in exits:

            async def make(principal: str, key: str, arrived_ns: int, signal: Signal = signal) -> Signal:
                return signal

            hashed = hashlib.sha256(f"close|{place}".encode()).hexdigest()
            answer = await self._entry.enter(Draft(caller.name, hashed, arrived_ns, make), own)
            names = ("account", "venue", "symbol", "instance", "quantity")
            found.append({**{name: row[name] for name in names}, "order": answer.body, "status": answer.status})
        return found

    def _signal(
        self, row: Mapping[str, Any], exchange: str, account_id: int, principal: str, key: str, arrived_ns: int
    ) -> Signal:
        id = request_signal_id(principal, key)
        return Signal(
            id=id,
            source=f"principal:{principal}",
            instance=row["instance"],
            params_version=0,
            account_id=account_id,
            venue=row["venue"],
            exchange=exchange,
            symbol=row["symbol"],
            timeframe=None,
            ts_event_ns=arrived_ns,
            ordinal=0,
            kind=Kind.EXIT,
            side=Side.SELL if row["quantity"] > 0 else Side.BUY,
            reason=f"closed by {principal}",
            trace_id=id.hex[:16],
        )
