"""What one ccxt session is told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CcxtConfig:
    """One (venue, account, role). The URLs are bases without a path (`http://127.0.0.1:9000`); None = the real exchange.

    Times in seconds, `recv_window_ms` and `keepalive_ms` in milliseconds. `account_id` goes into every fill's id: two
    sessions of one account must be told the same. The secrets never show in a repr.
    """

    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)
    account_id: int = 0
    name: str = "ccxt"
    exchange: str = "binance"
    rest_url: str | None = None
    ws_url: str | None = None
    ws_api_url: str | None = None
    is_live: bool = False
    order_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    recv_window_ms: int = 10_000
    keepalive_ms: int = 15_000
    probe_s: float = 30.0
    probe_timeout_s: float = 5.0
    echo_s: float = 5.0
    backoff_first_s: float = 0.2
    backoff_max_s: float = 10.0
