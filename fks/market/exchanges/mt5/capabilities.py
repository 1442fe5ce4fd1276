"""Capabilities of MetaTrader 5's prices.

Source: docs/mt5-wire.md#platform, and the documentation of the MetaTrader5 package for Python (copy_rates_range,
symbol_info). The terminal reports no trading hours, so that the week of currencies stands for all instruments.
"""

from __future__ import annotations

from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset({"1m"}),
    channels=frozenset({Channel.TRADES, Channel.QUOTES}),
    trade_ids=TradeIds.CONTIGUOUS,  # made of the agent's own count of ticks
    trades_from=TradesFrom.STREAM,
    streams_max=200,  # our choice; all share one session
    has_empty_bars=False,
    calendar="24/5",
    bars_page_max=10_000,
    separator=None,
    # the agent counts no requests; it performs one history request at a time
    limits=RateLimits(requests=Allowance(120, 60), connects=Allowance(60, 60)),
)
