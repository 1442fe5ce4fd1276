"""Capabilities of Polygon US stocks.

Source: polygon.io/docs (stocks; knowledge base: request limits), read 2026-11.
"""

from __future__ import annotations

from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

#: timeframe -> REST's name of it; both are streamed, too. An answer counts minutes, so 5m would return no more bars
SPANS = {"1s": "1/second", "1m": "1/minute"}
CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset(SPANS),
    channels=frozenset({Channel.TRADES, Channel.BARS, Channel.QUOTES}),
    trade_ids=TradeIds.RISING,
    trades_from=TradesFrom.TIME,
    streams_max=1_000,  # our choice
    connections_max=1,  # of a key, in most plans
    has_empty_bars=False,
    calendar="XNYS",
    bars_page_max=50_000,
    separator=None,
    key_setting="polygon_api_key",
    # plans with a websocket have no limit, and Polygon asks to stay below 100 a second: half of that. The free plan is
    # configured with data.requests_per_minute. No limit of connects is documented
    limits=RateLimits(requests=Allowance(50, 1)),
)
