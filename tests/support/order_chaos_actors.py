"""Actors beside the strategies of an order chaos run: a person's session and a webhook, through the code of the HTTP
routes. Each message has one key, and is sent again under it until it is answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

from fks.clock import RealClock
from fks.config.settings import Http, Settings
from fks.interfaces.entry.execution import ExecutionEntry
from fks.interfaces.entry.order_entry import EntryAnswer, OrderEntry, OrderRequest
from fks.interfaces.entry.webhooks import Webhooks
from fks.lab.chaos.auditor import RequestEvidence as Promise
from fks.model.errors import OutageError
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.webhooks import WebhookStore

D = Decimal
WEBHOOK, PERSON = "desk", "ann"
WORTH = D(30_000)


class Actors:
    """A person `ann` and a webhook `desk`. `promises` are their messages with the signals that were answered."""

    def __init__(self, db: Database, bus: Bus) -> None:
        clock, settings = RealClock(), Settings(http=Http(order_wait_s=0.1))
        self._db = db
        self._entry = OrderEntry(db, bus, clock, settings)
        self._store = WebhookStore(db)
        self._webhooks = Webhooks(
            self._store, self._entry, ExecutionEntry(db, self._entry, clock, settings), clock, "key"
        )
        self.promises: list[Promise] = []

    async def open(self, symbols: list[str]) -> None:
        """Make the webhook."""
        salt, check = self._webhooks.new_salt()
        await self._store.add(
            WEBHOOK,
            salt=salt,
            key_check=check,
            account_id=1,
            symbols=symbols,
            sizing="notional",
            size=WORTH,
            quota_per_hour=1_000_000,
            confidence_min=D(0),
            is_tradingview_only=False,
            by="me",
        )

    async def alert(self, symbol: str, price: Decimal, tick: Decimal) -> bool:
        """Have the webhook close what its instance holds in a symbol, or buy with a stop; return whether an order was
        promised."""
        webhook = await self._store.get(WEBHOOK)
        is_long = await self._held(webhook.principal, symbol) * price > 10
        body: dict[str, object] = {"symbol": symbol, "timenow": datetime.now(UTC).isoformat()}
        body |= (
            {"action": "close"} if is_long else {"action": "buy", "stop_loss": f"{(price * D('0.98')).quantize(tick)}"}
        )
        arrived_ns = time.time_ns()
        return await self._send(lambda: self._webhooks.take(webhook, body, "127.0.0.1", arrived_ns))

    async def order(self, symbol: str, price: Decimal, step: Decimal, dice: random.Random) -> bool:
        """Have the person sell all that persons hold in a symbol, or buy; return whether an order was promised."""
        held = await self._held("", symbol) // step * step
        is_long = held * price > 10
        quantity = held if is_long else (WORTH / price // step + 1) * step
        request = OrderRequest(symbol, "sell" if is_long else "buy", "market", quantity, account=1, venue="ccxt")
        key = f"chaos-{dice.random()}-{len(self.promises)}"
        return await self._send(lambda: self._entry.submit(request, PERSON, key))

    async def _held(self, instance: str, symbol: str) -> Decimal:
        while True:
            try:
                rows = await self._db.sql(
                    "SELECT quantity FROM positions WHERE instance = $1 AND symbol = $2 AND venue = 'ccxt'",
                    instance,
                    symbol,
                )
                return rows[0]["quantity"] if rows else D(0)
            except OutageError:
                await asyncio.sleep(0.05)

    async def _send(self, send: Callable[[], Awaitable[EntryAnswer]]) -> bool:
        while True:
            try:
                answer = await send()
                break
            except OutageError:  # the same key again
                await asyncio.sleep(0.05)
        self.promises.append(Promise(f"{len(self.promises)}", (str(answer.body["id"]),)))
        return answer.status == 202
