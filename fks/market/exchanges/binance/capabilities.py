"""Capabilities of Binance spot.

Source: developers.binance.com/docs/binance-spot-api-docs (limits, websocket streams), read 2026-07.
"""

from __future__ import annotations

from fks.market.exchanges.binance.wire import KLINES
from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

CAPABILITIES = ExchangeCapabilities(
    timeframes=KLINES,
    channels=frozenset(Channel),
    trade_ids=TradeIds.CONTIGUOUS,
    trades_from=TradesFrom.ID,
    streams_max=1024,
    has_empty_bars=True,
    limits=RateLimits(
        requests=Allowance(6000, 60),
        connects=Allowance(60, 60),  # documented as 300 in 5 minutes; by the minute, so that no connect waits for five
        orders=Allowance(100, 10),
    ),
)
