"""Capabilities of Coinbase Advanced Trade, spot.

Source: docs.cdp.coinbase.com/advanced-trade (rate limits, candles), read 2026-07.
"""

from __future__ import annotations

from fks.market.exchanges.coinbase.wire import LIVE_TIMEFRAME
from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

#: timeframe -> REST's name of it
GRANULARITIES = {
    "1m": "ONE_MINUTE",
    "5m": "FIVE_MINUTE",
    "15m": "FIFTEEN_MINUTE",
    "30m": "THIRTY_MINUTE",
    "1h": "ONE_HOUR",
    "1d": "ONE_DAY",
}
CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset(GRANULARITIES),
    channels=frozenset(Channel),
    trade_ids=TradeIds.RISING,
    trades_from=TradesFrom.TIME,
    streams_max=100,
    has_empty_bars=False,
    live_bars=frozenset({LIVE_TIMEFRAME}),
    separator="-",
    limits=RateLimits(
        requests=Allowance(10, 1),
        # documented as 8 a second, and 8 messages before a login, of which a connection sends three; less here, since
        # two windows of ours meet in one second of theirs
        connects=Allowance(2, 1),
    ),
)
