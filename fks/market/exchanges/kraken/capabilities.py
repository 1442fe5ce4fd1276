"""Capabilities of Kraken spot.

Source: docs.kraken.com/api (REST limits, WebSocket v2), read 2026-07.
"""

from __future__ import annotations

from fks.market.exchanges.kraken.wire import INTERVALS
from fks.model.market import Allowance, Channel, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom

CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset(INTERVALS),
    channels=frozenset(Channel),
    trade_ids=TradeIds.RISING,  # they rise by one, and the wire reports where they do not; but REST knows only times
    trades_from=TradesFrom.TIME,
    streams_max=200,
    has_empty_bars=True,
    bars_newest_max=720,
    separator="/",
    renamed={"XBT": "BTC", "XDG": "DOGE"},  # REST's old names and those of the websocket's version 2
    limits=RateLimits(
        requests=Allowance(60, 60),
        orders=Allowance(60, 60),  # of one pair and account, the lowest tier: 60, falling by one a second
        connects=Allowance(15, 60),  # documented as 150 in 10 minutes; by the minute, so that no connect waits for ten
        is_account_by_key=True,
    ),
)
