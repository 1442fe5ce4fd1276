"""A small server that answers like Kraken's REST: signature and nonce checked, orders in memory, bodies of the tapes.

It checks what a session must get right on the wire (signature, growing nonce, form) and keeps every request. It has no
matching: `fill` and `end` change an order. It is no stand-in for the exchange's rules.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from fks.clock import Clock

SECRET = base64.b64encode(b"kraken-peer-secret").decode()
PAIRS = {
    "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD"},
    "LTCUSDT": {"altname": "LTCUSDT", "wsname": "LTC/USDT", "base": "XLTC", "quote": "USDT"},
}
Answer = Callable[[web.Request, dict[str, str]], Awaitable[web.StreamResponse | None]]


@dataclass
class KrakenPeer:
    """`before`: answers of tests, by method, taken once each, oldest first; None from one of them lets the peer answer."""

    clock: Clock
    key: str = "peer-key"
    guardian_key: str = "guardian-key"
    iban: str = "AA88 N84G WOAK NMOI"
    permissions: list[str] = field(default_factory=lambda: ["query-funds", "modify-trades"])
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    trades: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, list[Answer]] = field(default_factory=dict)
    shift_s: float = 0.0
    ignores_ids: bool = False
    market_price: str | None = None  # at which market orders execute at once
    balances: dict[str, Decimal] = field(default_factory=lambda: {"ZUSD": Decimal("1000.5"), "XXBT": Decimal(0)})
    nonces: dict[str, int] = field(default_factory=dict)  # newest of each key
    url: str = ""

    def named(self, method: str) -> list[dict[str, str]]:
        """Return the forms that a method was asked with."""
        return [form for name, form in self.asked if name == method]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        kind, method = request.path.split("/")[-2:]
        raw = await request.text()
        form = dict(request.query) if kind == "public" else dict(parse_qsl(raw))
        self.asked.append((method, form))
        for answer in [self.before[method].pop(0)] if self.before.get(method) else []:
            if (made := await answer(request, form)) is not None:
                return made
        if kind == "private" and (wrong := self._unsigned(request, raw, form)):
            return errors(wrong)
        found = getattr(self, f"_{method.lower()}", None)
        return errors("EGeneral:Unknown method") if found is None else result(found(form))

    def _unsigned(self, request: web.Request, raw: str, form: dict[str, str]) -> str:
        nonce = form.get("nonce", "")
        digest = request.path.encode() + hashlib.sha256((nonce + raw).encode()).digest()
        signature = base64.b64encode(hmac.new(base64.b64decode(SECRET), digest, hashlib.sha512).digest()).decode()
        key = request.headers.get("API-Key", "")
        if key not in (self.key, self.guardian_key):
            return "EAPI:Invalid key"
        if request.headers.get("API-Sign") != signature:
            return "EAPI:Invalid signature"
        if not nonce.isdigit() or int(nonce) <= self.nonces.get(key, 0):
            return "EAPI:Invalid nonce"
        self.nonces[key] = int(nonce)
        return ""

    # ── the account ──────────────────────────────────────────────────────────────────────────────
    def place(self, form: dict[str, str]) -> str:
        """Take an order; return its number."""
        number = f"O{len(self.orders):05d}-PEER0-ORDERS"
        row = {name: form.get(name, "0") for name in ("price", "price2")}
        self.orders[number] = {
            "refid": None,
            "userref": None,
            "cl_ord_id": form.get("cl_ord_id"),
            "status": "open",
            "opentm": self.clock.now_ns() / 1e9 + self.shift_s,
            "descr": {"pair": form["pair"], "type": form["type"], "ordertype": form["ordertype"], **row},
            "vol": form["volume"],
            "vol_exec": "0",
            "misc": "",
            "oflags": form.get("oflags", ""),
        }
        if self.market_price is not None and form["ordertype"] == "market":
            self.fill(number, form["volume"], self.market_price)
        return number

    def fill(self, number: str, quantity: str, price: str) -> str:
        """Execute a part of an order; return the execution's number."""
        row = self.orders[number]
        row["vol_exec"] = str(Decimal(row["vol_exec"]) + Decimal(quantity))
        trade = f"T{len(self.trades):05d}-PEER0-TRADES"
        pair = next(key for key, names in PAIRS.items() if row["descr"]["pair"] in (key, names["altname"]))
        self.trades[trade] = {
            "ordertxid": number,
            "pair": pair,
            "time": self.clock.now_ns() / 1e9 + self.shift_s,
            "type": row["descr"]["type"],
            "ordertype": row["descr"]["ordertype"],
            "price": price,
            "cost": str(Decimal(quantity) * Decimal(price)),
            "fee": "0.10",
            "vol": quantity,
            "maker": False,
        }
        sign = 1 if row["descr"]["type"] == "buy" else -1
        self.balances[PAIRS[pair]["base"]] += sign * Decimal(quantity)
        self.balances[PAIRS[pair]["quote"]] -= sign * Decimal(quantity) * Decimal(price) + Decimal("0.10")
        if Decimal(row["vol_exec"]) >= Decimal(row["vol"]):
            self.end(number, "closed")
        return trade

    def end(self, number: str, status: str) -> None:
        """End an order."""
        self.orders[number] |= {"status": status, "closetm": self.clock.now_ns() / 1e9 + self.shift_s}

    def numbers(self, client_order_id: str) -> list[str]:
        """Return the numbers of the orders that were taken under a client id."""
        return [number for number, row in self.orders.items() if row["cl_ord_id"] == client_order_id]

    # ── methods ──────────────────────────────────────────────────────────────────────────────────
    def _time(self, form: dict[str, str]) -> Any:
        return {"unixtime": int(self.clock.now_ns() / 1e9 + self.shift_s)}

    def _assetpairs(self, form: dict[str, str]) -> Any:
        return PAIRS

    def _ticker(self, form: dict[str, str]) -> Any:
        return {form["pair"]: {"c": ["50000.10000", "0.1"]}}

    def _getapikeyinfo(self, form: dict[str, str]) -> Any:
        return {"apiKey": self.key, "iban": self.iban, "permissions": self.permissions, "nonceWindow": 0}

    def _balanceex(self, form: dict[str, str]) -> Any:
        held = {name: {"balance": str(amount), "hold_trade": "0"} for name, amount in self.balances.items()}
        return held | {"USDT": {"balance": "10", "hold_trade": "0.5"}}

    def _ledgers(self, form: dict[str, str]) -> Any:
        row = {"time": self.clock.now_ns() / 1e9, "asset": "ZUSD", "amount": "100", "fee": "0"}
        return {"ledger": {"L1": row} if form["type"] == "deposit" else {}, "count": 1}

    def _addorder(self, form: dict[str, str]) -> Any:
        number = self.place(form)
        described = f"{form['type']} {Decimal(form['volume']):.8f} {form['pair']} @ {form['ordertype']}"
        return {"txid": [number], "descr": {"order": described}}

    def _cancelorder(self, form: dict[str, str]) -> Any:
        self.end(self._open(form), "canceled")
        return {"count": 1}

    def _amendorder(self, form: dict[str, str]) -> Any:
        row = self.orders[self._open(form)]["descr"]
        is_limit = row["ordertype"] == "limit"
        row["price"] = form["limit_price" if is_limit else "trigger_price"]
        return {"amend_id": "TJSMEH-AA67V-YUSQ6O"}

    def _open(self, form: dict[str, str]) -> str:
        """Return the number of the open order that a request names by number or client id."""
        named = [form["txid"]] if "txid" in form else self.numbers(form["cl_ord_id"])
        number = next((n for n in named if self.orders.get(n, {}).get("status") == "open"), None)
        if number is None:
            raise web.HTTPOk(text=json.dumps({"error": ["EOrder:Unknown order"]}), content_type="application/json")
        return number

    def _listed(self, form: dict[str, str], *, is_open: bool) -> dict[str, Any]:
        wanted = None if self.ignores_ids else form.get("cl_ord_id")
        return {
            number: row
            for number, row in self.orders.items()
            if (row["status"] == "open") is is_open and wanted in (None, row["cl_ord_id"])
        }

    def _openorders(self, form: dict[str, str]) -> Any:
        return {"open": self._listed(form, is_open=True)}

    def _closedorders(self, form: dict[str, str]) -> Any:
        newest, offset = [*self._listed(form, is_open=False).items()][::-1], int(form.get("ofs", "0"))
        return {"closed": dict(newest[offset : offset + 50])}

    def _queryorders(self, form: dict[str, str]) -> Any:
        return {number: self.orders[number] for number in form["txid"].split(",") if number in self.orders}

    def _tradeshistory(self, form: dict[str, str]) -> Any:
        newest = sorted(self.trades.items(), key=lambda item: item[1]["time"], reverse=True)
        found = [item for item in newest if item[1]["time"] > float(form["start"])]
        offset = int(form["ofs"])
        return {"trades": dict(found[offset : offset + 50]), "count": len(found)}


def result(value: Any) -> web.Response:
    """Return a successful answer."""
    return web.json_response({"error": [], "result": value})


def errors(*texts: str) -> web.Response:
    """Return an answer with errors, status 200 as Kraken's."""
    return web.json_response({"error": list(texts)})


def saying(*texts: str) -> Answer:
    """Return errors in place of the peer's answer."""

    async def answer(request: web.Request, form: dict[str, str]) -> web.StreamResponse:
        return errors(*texts)

    return answer


def with_body(text: str, status: int = 200, content_type: str = "text/html") -> Answer:
    """Return a body in place of the peer's answer."""

    async def answer(request: web.Request, form: dict[str, str]) -> web.StreamResponse:
        return web.Response(text=text, status=status, content_type=content_type)

    return answer


def taken_then(peer: KrakenPeer, after: Answer) -> Answer:
    """Take the order, and answer otherwise."""

    async def answer(request: web.Request, form: dict[str, str]) -> web.StreamResponse | None:
        peer.place(form)
        return await after(request, form)

    return answer


async def cut(request: web.Request, form: dict[str, str]) -> web.StreamResponse | None:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(0)
    raise ConnectionResetError


def waiting(seconds: float) -> Answer:
    """Let the peer answer so much later."""

    async def answer(request: web.Request, form: dict[str, str]) -> web.StreamResponse | None:
        await asyncio.sleep(seconds)
        return None

    return answer


def held(until: asyncio.Event) -> Answer:
    """Let the peer answer once the event is set."""

    async def answer(request: web.Request, form: dict[str, str]) -> web.StreamResponse | None:
        await until.wait()
        return None

    return answer
