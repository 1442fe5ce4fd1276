"""The class that signs and sends. An exchange that ccxt knows needs none: its class is found by the dialect's name."""

from __future__ import annotations

import hashlib
from typing import Any

from ccxt.async_support.base.exchange import Exchange
from ccxt.base.types import Entry

PREFIX = "/template/v1/"


class Template(Exchange):  # type: ignore[misc]  # ccxt is untyped
    """HMAC-SHA256 over time, method, path with query, and body."""

    public_get_time = publicGetTime = Entry("time", "public", "GET", {})
    public_get_markets = publicGetMarkets = Entry("markets", "public", "GET", {})
    public_get_price = publicGetPrice = Entry("price", "public", "GET", {})
    private_post_orders = privatePostOrders = Entry("orders", "private", "POST", {})
    private_post_cancel = privatePostCancel = Entry("cancel", "private", "POST", {})
    private_get_open_orders = privateGetOpenOrders = Entry("open_orders", "private", "GET", {})
    private_get_order = privateGetOrder = Entry("order", "private", "GET", {})
    private_get_executions = privateGetExecutions = Entry("executions", "private", "GET", {})
    private_get_balances = privateGetBalances = Entry("balances", "private", "GET", {})
    private_get_key = privateGetKey = Entry("key", "private", "GET", {})

    def describe(self) -> Any:
        """Return the description that ccxt's base class merges."""
        api = {"public": "https://api.template.example", "private": "https://api.template.example"}
        return self.deep_extend(super().describe(), {"id": "template", "name": "Template", "urls": {"api": api}})

    def sign(
        self,
        path: str,
        api: Any = "public",
        method: str = "GET",
        params: Any = None,
        headers: Any = None,
        body: Any = None,
    ) -> Any:
        """Return the request with its signature."""
        target = PREFIX + path + (f"?{self.urlencode(params)}" if method == "GET" and params else "")
        body = self.json(params) if method == "POST" else None
        if api == "private":
            stamp = str(self.nonce())
            signed = f"{stamp}{method}{target}{body or ''}"
            signature = self.hmac(self.encode(signed), self.encode(self.secret), hashlib.sha256)
            headers = {"X-Key": self.apiKey, "X-Time": stamp, "X-Sign": signature, "Content-Type": "application/json"}
        return {"url": self.urls["api"][api] + target, "method": method, "body": body, "headers": headers}
