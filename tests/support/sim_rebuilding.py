"""Klines rebuilt from aggregate trades, both over REST: they must be the same, field by field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.support.sim_process import Sim


def rebuilt_from(sim: Sim, start_ms: int, end_ms: int, symbol: str = "BTCUSDT", interval: str = "1m") -> int:
    """Check klines of [start, end) against the aggregate trades of the same time; return how many trades there were."""
    trades: list[dict[str, Any]] = sim.get(f"/api/v3/aggTrades?symbol={symbol}&startTime={start_ms}&limit=1000")
    while trades and trades[-1]["T"] < end_ms:
        more = sim.get(f"/api/v3/aggTrades?symbol={symbol}&fromId={trades[-1]['a'] + 1}&limit=1000")
        if not more:
            break
        trades += more
    last = trades[-1]["T"]
    bars = sim.get(
        f"/api/v3/klines?symbol={symbol}&interval={interval}&startTime={start_ms}&endTime={end_ms - 1}&limit=1000"
    )
    assert bars
    for bar in bars:
        part = [trade for trade in trades if bar[0] <= trade["T"] <= bar[6]]
        if bar[6] > last:
            continue  # still open
        prices = [Decimal(trade["p"]) for trade in part]
        volumes = [Decimal(trade["q"]) for trade in part]
        assert bar[8] == len(part)
        if part:
            assert [Decimal(x) for x in bar[1:6]] == [prices[0], max(prices), min(prices), prices[-1], sum(volumes)]
            assert Decimal(bar[7]) == sum(p * q for p, q in zip(prices, volumes, strict=True))
            assert Decimal(bar[9]) == sum(q for q, t in zip(volumes, part, strict=True) if not t["m"])
    return len(trades)
