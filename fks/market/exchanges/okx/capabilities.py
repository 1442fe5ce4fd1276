"""Capabilities of OKX spot.

Source: www.okx.com/docs-v5/en (rate limits, websocket connect), read 2026-11.
"""

from __future__ import annotations

from fks.market.exchanges.okx.wire import BARS
from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset(BARS),
    channels=frozenset(Channel),
    trade_ids=TradeIds.RISING,
    trades_from=TradesFrom.TIME,  # from an id would work too, if OKX promised that ids have no gaps
    streams_max=200,  # our choice: such a connection is quick to open again; OKX allows 64 KB of subscriptions
    has_empty_bars=True,
    separator="-",
    limits=RateLimits(
        requests=Allowance(20, 2),
        connects=Allowance(2, 1),  # documented as 3 a second; two windows of ours meet in one second of theirs
    ),
)
