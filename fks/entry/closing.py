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
from fks.entry.order_entry import Draft, OrderEntry, exchange_of
from fks.model.copies import copied_instance
from fks.model.errors import InputError
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

    async def held(self, symbol: str, caller: Principal) -> list[dict[str, Any]]:
        """Return the positions in a symbol, in any spelling, that this caller may close. Errors: InputError 404."""
        listed = await ReadingStore(self._db).spelled(symbol)
        symbols = sorted({item.symbol for item in listed})
        home = self._settings.venue.exchange
        rows = await self._db.fetch("gateway.positions", symbols, False, home, caller.account_list)
        own = caller.instance
        return [
            dict(row)
            for row in rows
            if row["instance"] != EXTERNAL and own in ("", copied_instance(row["instance"]) or row["instance"])
        ]

    async def close(
        self, symbol: str, caller: Principal, key: str, *, wait_s: float | None = None
    ) -> list[dict[str, Any]]:
        """Commit an exit for each position in `symbol`, and return what became of each within `http.order_wait_s`.

        The same `key` again makes no second exit. Errors: InputError 404 for an unknown symbol, 409 NOTHING_HELD;
        OutageError.
        """
        rows = await self.held(symbol, caller)
        if not rows:
            by = f" by {caller.instance}" if caller.instance else ""
            raise InputError(
                f"nothing is held in {symbol}{by}", code="NOTHING_HELD", status=409, remedy="see GET /positions"
            )
        accounts = {row["name"]: row["id"] for row in await self._db.fetch("gateway.account_names")}
        arrived_ns = self._clock.now_ns()
        found = []
        for row in rows:
            place = f"{row['account']}|{row['venue']}|{row['symbol']}|{row['instance']}"
            own = f"{key}:{hashlib.sha256(place.encode()).hexdigest()[:16]}"
            signal = await self._signal(row, accounts[row["account"]], caller.name, own, arrived_ns)

            async def make(principal: str, key: str, arrived_ns: int, signal: Signal = signal) -> Signal:
                return signal

            hashed = hashlib.sha256(f"close|{place}".encode()).hexdigest()
            answer = await self._entry.enter(Draft(caller.name, hashed, arrived_ns, make), own, wait_s=wait_s)
            names = ("account", "venue", "symbol", "instance", "quantity")
            found.append({**{name: row[name] for name in names}, "order": answer.body, "status": answer.status})
        return found

    async def _signal(
        self, row: Mapping[str, Any], account_id: int, principal: str, key: str, arrived_ns: int
    ) -> Signal:
        listed = await ReadingStore(self._db).find(
            row["symbol"], exchange_of(row["venue"], self._settings), listed=False
        )
        id = request_signal_id(principal, key)
        return Signal(
            id=id,
            source=f"principal:{principal}",
            instance=row["instance"],
            params_version=0,
            account_id=account_id,
            venue=row["venue"],
            exchange=listed.exchange,
            symbol=row["symbol"],
            timeframe=None,
            ts_event_ns=arrived_ns,
            ordinal=0,
            kind=Kind.EXIT,
            side=Side.SELL if row["quantity"] > 0 else Side.BUY,
            reason=f"closed by {principal}",
            trace_id=id.hex[:16],
        )
