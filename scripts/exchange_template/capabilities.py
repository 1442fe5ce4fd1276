"""Capabilities of an exchange that does not exist.

Source: nothing; it is made up.
"""

from __future__ import annotations

from fks.model.market import Allowance, ExchangeCapabilities, RateLimits, TradeIds, TradesFrom
from scripts.exchange_template.wire import STREAMS, TIMEFRAMES

CAPABILITIES = ExchangeCapabilities(
    timeframes=TIMEFRAMES,
    channels=frozenset(STREAMS),
    trade_ids=TradeIds.CONTIGUOUS,  # only where the documentation promises it: a gap stops the feed
    trades_from=TradesFrom.ID,
    streams_max=200,
    has_empty_bars=True,
    separator="-",
    limits=RateLimits(requests=Allowance(1200, 60), connects=Allowance(60, 60)),
)
