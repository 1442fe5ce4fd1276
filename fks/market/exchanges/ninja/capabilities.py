"""Capabilities of NinjaTrader's prices.

Source: the bridge in `nt8/` (FKSMarket.cs) and its conversations C21 to C24; docs/connect-ninjatrader.md#prices.
"""

from __future__ import annotations

from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

#: bars of the platform; its days are trade dates (17:00 in Chicago), so FKS makes every larger bar from minutes itself
TIMEFRAMES = frozenset({"1m"})
HISTORY_DAYS = 31  # of one request
CAPABILITIES = ExchangeCapabilities(
    timeframes=TIMEFRAMES,
    channels=frozenset({Channel.TRADES, Channel.QUOTES}),
    trade_ids=TradeIds.CONTIGUOUS,  # made of the bridge's own count of trades: see `stream`
    trades_from=TradesFrom.STREAM,
    streams_max=200,  # our choice; all share one session
    has_empty_bars=False,
    calendar="CMES",  # of every contract in fks.model.futures
    bars_page_max=10_000,  # a week of minutes: the platform answers more in seconds, but nothing else meanwhile
    separator=None,
    # the bridge counts no requests; it performs one history request at a time
    limits=RateLimits(requests=Allowance(120, 60), connects=Allowance(60, 60)),
)
