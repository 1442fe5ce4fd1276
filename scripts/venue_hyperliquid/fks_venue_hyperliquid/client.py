"""The class that signs and sends: ccxt's, with our nonce, a deadline, and the account's address in its own reads."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ccxt.async_support.hyperliquid import hyperliquid
from ccxt.base.types import Entry

MAINNET = "api.hyperliquid.xyz"


class Hyperliquid(hyperliquid):  # type: ignore[misc]  # ccxt is untyped
    """`apiKey` is the address of the account, `secret` the private key of the wallet that signs for it."""

    private_post_info = privatePostInfo = Entry("info", "private", "POST", {})
    private_post_exchange = privatePostExchange = Entry("exchange", "private", "POST", {})

    def describe(self) -> Any:
        """Return ccxt's description with each base address whole."""
        api = dict.fromkeys(("public", "private"), f"https://{MAINNET}")
        return self.deep_extend(super().describe(), {"urls": {"api": api}})

    def sign(self, path: str, api: Any = "public", method: str = "GET", params: Any = None, *_: Any, **__: Any) -> Any:
        """Return the request: an action with nonce, deadline and signature, or a read with the account's address."""
        name = api if isinstance(api, str) else api[0]  # ccxt's own endpoints give a list
        base = self.urls["api"][name]
        message = dict(params or {})
        if path == "exchange":
            nonce, expires = self.nonce(), message.pop("expiresAfter", None)
            self.privateKey = self.secret
            # a signature that the main network takes is made for the main network alone
            self.options["sandboxMode"] = urlsplit(base).hostname != MAINNET
            message = {"action": message, "nonce": nonce}
            message["signature"] = self.sign_l1_action(message["action"], nonce, None, expires)
            message |= {} if expires is None else {"expiresAfter": expires}
        elif name == "private":
            message["user"] = self.apiKey
        headers = {"Content-Type": "application/json"}
        return {"url": f"{base}/{path}", "method": method, "body": self.json(message), "headers": headers}

    def action_hash(self, action: Any, vaultAddress: Any, nonce: int, expiresAfter: int | None = None) -> Any:
        """Return the hash of action, nonce, no vault, and deadline."""
        data = self.packb(action) + nonce.to_bytes(8, "big") + b"\x00"
        data += b"" if expiresAfter is None else b"\x00" + expiresAfter.to_bytes(8, "big")
        return self.hash(data, "keccak", "binary")

    def handle_errors(self, *_: Any) -> None:
        """Raise nothing: the dialect reads the answer, in which an order that is not known is no error."""
