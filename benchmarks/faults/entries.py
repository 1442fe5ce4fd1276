"""Entries requested over HTTP during a fault, and their reception by the local exchange, by its own log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import httpx

from benchmarks.faults.rig import Missed, Rig
from benchmarks.faults.serving import ENDED, Entry, served_at
from fks.lab.chaos.auditor import made_by

VENUE, SYMBOL = "ccxt", "BTCUSDT"
CLIENTS = 4
PAUSE_S, ADMITTED_PAUSE_S = 0.05, 0.5  # after a denial; after an order, which rests at the exchange
SERVED_S = 120.0


async def small(rig: Rig, symbol: str = SYMBOL) -> dict[str, str]:
    """Return a limit buy that follows the instrument's filters: about 15 quote units, 8 % below the market."""
    query = (
        "SELECT tick, lot_step AS lot, last_price AS price FROM instruments JOIN feeds USING (exchange, symbol)"
        " WHERE symbol = $1 AND timeframe = 'trades'"
    )
    rules = (await rig.rows(query, symbol))[0]
    price = Decimal(rules["price"]) * Decimal("0.92") // rules["tick"] * rules["tick"]
    quantity = (15 / price // rules["lot"] + 1) * rules["lot"]
    return {
        "symbol": symbol,
        "side": "buy",
        "type": "limit",
        "price": format(price, "f"),
        "quantity": format(quantity, "f"),
    }


@contextlib.asynccontextmanager
async def requested(rig: Rig, body: dict[str, str]) -> AsyncIterator[list[Entry]]:
    """Request entries all the while, each decided before its client requests the next; cancel the orders at the end."""
    entries: list[Entry] = []
    async with rig.client() as client:
        tasks = [asyncio.create_task(_request(rig, client, body, entries)) for _ in range(CLIENTS)]
        try:
            yield entries
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for entry in entries:
                if entry.client_order_id:
                    with contextlib.suppress(httpx.HTTPError):
                        await client.delete(f"{rig.system.url}/orders/{entry.client_order_id}")


async def _request(rig: Rig, client: httpx.AsyncClient, body: dict[str, str], entries: list[Entry]) -> None:
    """Request one entry after the other. One without an answer is repeated with its key."""
    while True:
        entry, key = Entry(time.time()), rig.key()
        entries.append(entry)
        while entry.outcome == "undecided":
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.post(f"{rig.system.url}/orders", json=body, headers={"Idempotency-Key": key})
                found = answer.json() if answer.status_code in (202, 422) else {}
                is_refused = found.get("state") in ("REJECTED", "ABSENT")
                entry.code = str(found.get("code") or (found["state"] if is_refused else ""))
                entry.client_order_id = str(found["client_order_id"]) if found.get("state") else ""
            await asyncio.sleep(ADMITTED_PAUSE_S if entry.client_order_id else PAUSE_S)


async def look_up(rig: Rig, entries: list[Entry]) -> None:
    """Record when the exchange received each admitted entry: the end of the millisecond in its log."""
    for entry in entries:
        if entry.outcome == "admitted" and entry.sent is None:
            path = f"/sim/received?client_order_id={entry.client_order_id}"
            rows = (await rig.outside.exchange("GET", path))["items"]
            times = [row["time_ms"] for row in rows if entry.client_order_id in made_by(row)]
            entry.sent = (min(times) + 1) / 1000 if times else None


@contextlib.asynccontextmanager
async def serving(
    rig: Rig, body: dict[str, str], fault: float, *, is_ended: bool = True
) -> AsyncIterator[asyncio.Task[float]]:
    """Run a task that requests entries from a fault on, and returns the seconds until the exchange received the first
    that the READY venue sent. `is_ended`: the fault struck the order manager's process, whose venue state counts no
    more. Errors of the task: Missed."""
    task = asyncio.create_task(_served(rig, body, fault, is_ended=is_ended))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _served(rig: Rig, body: dict[str, str], fault: float, *, is_ended: bool) -> float:
    async with requested(rig, body) as entries:

        async def look() -> float | None:
            await look_up(rig, entries)
            if all(entry.sent is None for entry in entries):
                return None
            states = [
                (line["at"], line["state"])
                for line in rig.lines("orders", 0.0)
                if line["event"] == "venue.state" and line["venue"] == VENUE
            ]
            return served_at(fault, [*states, (fault, ENDED)] if is_ended else states, entries)

        what = f"entry admitted by the READY venue {VENUE}"
        try:
            return await rig.until(look, SERVED_S, what, every_s=PAUSE_S) - fault
        except Missed as error:
            raise Missed(f"{error}: {Counter(entry.outcome for entry in entries)}") from None
