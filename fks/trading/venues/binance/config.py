"""The configuration of one session at Binance spot."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

_REST, _SOCKET = "https://api.binance.com", "wss://ws-api.binance.com:443/ws-api/v3"
#: hosts whose WebSocket API is at another host
_SOCKETS = {"testnet.binance.vision": "wss://ws-api.testnet.binance.vision/ws-api/v3"}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """One (venue, account, role). The URLs are bases without a path (`http://127.0.0.1:9000`); None = the real
    exchange.

    Times in seconds, `recv_window_ms` and `keepalive_ms` in milliseconds. `account_id` goes into every fill's id: two
    sessions of one account must have the same. `is_key_in_use`: orders were sent with the key before. `poll_s`:
    between two polls of events, where they are polled (None: the session's own). The secrets never show in a repr.
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
    is_key_in_use: bool = False
    order_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    recv_window_ms: int = 10_000
    keepalive_ms: int = 15_000
    probe_s: float = 30.0
    probe_timeout_s: float = 5.0
    echo_s: float = 5.0
    backoff_first_s: float = 0.2
    backoff_max_s: float = 10.0
    poll_s: float | None = None

    def own_addresses(self) -> tuple[str, str]:
        """Return the REST base and the address of the WebSocket API."""
        if self.rest_url is None:
            return _REST, self.ws_api_url or _SOCKET
        rest = self.rest_url.rstrip("/")
        known = _SOCKETS.get(urlsplit(rest).hostname or "")
        base = (self.ws_url or rest).rstrip("/")
        base = base.replace("http", "ws", 1) if base.startswith("http") else base
        return rest, self.ws_api_url or known or f"{base}/ws-api/v3"
