"""From the exchange to a listener: a collector, Redis, PostgreSQL, the gateway and a socket, all real."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.collecting import make_collector, running, settings_for
from tests.support.gateway import Running, hold_lease
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.waiting import until

WANTED = {
    "type": "subscribe",
    "channels": ["bars", "prices", "quotes", "book"],
    "symbols": ["BTC/USDT"],
    "timeframes": ["1s"],
    "bars": 3,
}


async def test_client_gets_every_exchange_message_in_order(
    gateway: Running, seeded: Database, bus: Bus, log: CollectingLog, tmp_path: Path
) -> None:
    exchange = LocalExchange(tmp_path / "exchange", ["--seed", "5", "--rate-limits", "off"]).start()
    await hold_lease(seeded, epoch=1)
    await seeded.sql("UPDATE assets SET channels = ARRAY['trades', 'quotes', 'book'], timeframes = ARRAY['1s', '1m']")
    settings = settings_for(exchange.info, symbols=("BTCUSDT",), timeframes=("1s", "1m"), backfill_bars=5)
    headers = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    try:
        async with running(make_collector(settings, seeded, bus, log)), gateway.client("read") as client:

            async def is_live() -> bool:
                answer = await client.get("/market-data/BTCUSDT")
                return (
                    answer.status_code == 200
                    and answer.json()["state"] == "LIVE"
                    and bool(answer.json()["bars"].get("1s"))
                )

            await until(is_live)
            async with connect(gateway.ws + "?channels=-", additional_headers=headers, proxy=None) as socket:
                await socket.send(json.dumps(WANTED))
                events: dict[str, list[Any]] = defaultdict(list)
                async with asyncio.timeout(30):
                    while len(events["bar"]) < 5 or not (events["price"] and events["quote"] and events["book"]):
                        message = json.loads(await socket.recv())
                        if message["type"] == "snapshot" and message["channel"] == "bars":
                            assert not events["bar"], "the snapshot comes first"
                            events["bar"] += message["items"]
                        events[message["type"]].append(message)
            found = (await client.get("/market-data/BTC/USDT")).json()
    finally:
        exchange.stop()
    times = [datetime.fromisoformat(bar["time"]).timestamp() for bar in events["bar"]]
    assert times == [times[0] + n for n in range(len(times))], "no second is missing, none is told twice"
    assert (found["source"], found["state"]) == ("redis", "LIVE")
    assert found["age_ms"] < 5000
    assert float(found["quote"]["bid"]) < float(found["quote"]["ask"])
    assert float(found["book"]["bids"][0][0]) < float(found["book"]["asks"][0][0])
