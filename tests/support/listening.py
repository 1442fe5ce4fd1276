"""A real client of `WS /ws`, and bars for it to ask for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.gateway import Running

#: bars of BTCUSDT, 1m, from one number to another
STORED = (
    "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
    " SELECT '2026-05-01T00:00:00Z'::timestamptz + n * interval '1 minute', 'BTCUSDT', '1m', 1.5, 2.5, 0.5, 2, n"
    " FROM generate_series($1::int, $2::int) n"
)


def open_socket(gateway: Running, query: str = "?channels=-") -> Any:
    """Return a connection with the scope to read, to be entered."""
    headers = {"Authorization": f"Bearer {gateway.tokens['read']}"}
    return connect(gateway.ws + query, additional_headers=headers, proxy=None, compression=None)


async def next_of(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """Return the next message of one of these types."""
    async with asyncio.timeout(5):
        while True:
            found: dict[str, Any] = json.loads(await socket.recv())
            if found["type"] in kinds:
                return found


async def say(socket: ClientConnection, **message: object) -> None:
    """Send a message."""
    await socket.send(json.dumps(message))


def bar_message(n: int, **other: object) -> dict[str, object]:
    """Return the message of the bar of minute `n`, as STORED has it."""
    prices = {"open": "1.5", "high": "2.5", "low": "0.5", "close": "2.0", "volume": f"{n}.0"}
    names = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m"}
    return {"type": "bar", **names, "time": f"2026-05-01T00:{n:02}:00Z", **prices, **other}
