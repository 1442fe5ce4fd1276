"""Capabilities of Bybit spot.

Source: bybit-exchange.github.io/docs/v5 (rate limits, websocket connect), read 2026-11.
"""

from __future__ import annotations

from fks.market.exchanges.bybit.wire import INTERVALS
from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset(INTERVALS),
    channels=frozenset(Channel),
    trade_ids=TradeIds.OPAQUE,
    trades_from=TradesFrom.NEWEST,
    streams_max=200,  # our choice: such a connection is quick to open again; Bybit allows 21,000 characters of topics
    has_empty_bars=True,
    newest_max=60,
    limits=RateLimits(
        requests=Allowance(600, 5),
        connects=Allowance(100, 60),  # documented as 500 in 5 minutes; by the minute, so that no connect waits for five
    ),
)
