"""A market that goes on, in OKX's documented wire: on both of its sockets and by REST.

Ids have holes, so only the time shows missed trades.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from fks.clock import RealClock
from tests.support.exchange_peer import Peer

MS = 1_000_000


@dataclass
class Market:
    """Trades every 40 ms, ids by threes; REST has them all, sockets those of their time."""

    trades: list[dict[str, str]] = field(default_factory=list)

    def trade(self) -> dict[str, str]:
        """Return the next trade."""
        number, now_ms = 1000 + 3 * len(self.trades), RealClock().now_ns() // MS
        price = f"{100 + len(self.trades) % 17}.{len(self.trades) % 10}"
        row = {
            "instId": "BTC-USDT",
            "tradeId": str(number),
            "px": price,
            "sz": "0.5",
            "side": "buy",
            "source": "0",
            "ts": str(now_ms),
        }
        self.trades.append(row)
        return row

    def bars(self, length_ms: int) -> dict[int, list[str]]:
        """Return open time -> candle of all bars that traded."""
        groups: dict[int, list[dict[str, str]]] = {}
        for row in self.trades:
            groups.setdefault(int(row["ts"]) // length_ms * length_ms, []).append(row)
        made = {}
        for start, rows in groups.items():
            prices = [float(row["px"]) for row in rows]
            ohlcv = (prices[0], max(prices), min(prices), prices[-1], 0.5 * len(rows))
            over = int(RealClock().now_ns() // MS >= start + length_ms)
            made[start] = [str(start), *(repr(value) for value in ohlcv), "1", "1", str(over)]
        return made

    def rest(self, request: web.Request) -> web.Response | None:
        """Answer as OKX does: newest first, neither end included."""
        q = request.query
        below, above = int(q.get("after", 2**62)), int(q.get("before", -1))
        if request.path.endswith("history-trades"):
            key = "ts" if q.get("type") == "2" else "tradeId"
            rows: list[Any] = [row for row in reversed(self.trades) if int(row[key]) < below][:100]
        elif "candles" in request.path:
            length = {"1s": 1_000, "1m": 60_000}.get(q["bar"])
            found = self.bars(length) if length else {}
            rows = [found[start] for start in sorted(found, reverse=True) if above < start < below][: int(q["limit"])]
        else:
            return None
        return web.json_response({"code": "0", "msg": "", "data": rows})


def frame(channel: str, row: Any) -> str:
    """Return a message of a channel."""
    return json.dumps({"arg": {"channel": channel, "instId": "BTC-USDT"}, "data": [row]})


@contextlib.asynccontextmanager
async def trading(peer: Peer) -> AsyncIterator[Market]:
    """Have a market go on at `peer`."""
    made = Market()
    peer.rest = made.rest

    async def go_on() -> None:
        while True:
            texts = [frame("trades-all", made.trade())]
            for bar, length_ms in (("1s", 1_000), ("1m", 60_000)):
                texts += [frame(f"candle{bar}", row) for row in list(made.bars(length_ms).values())[-2:]]
            for path, socket in list(peer.sockets):
                for text in texts if path.endswith("business") else ():
                    with contextlib.suppress(ConnectionError):
                        await socket.send_str(text)
            await asyncio.sleep(0.04)

    task = asyncio.create_task(go_on())
    try:
        yield made
    finally:
        task.cancel()
