"""A scripted MetaTrader 5 agent on a real socket: one account in lots, which fills at once at the price of the test."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fks.bridge.ninja import strict_json
from tests.support.ninja import EPOCH, status
from tests.support.ninja_server import ScriptedBridge

D = Decimal
ACCOUNT, GROUP = "12", "demo"
EURUSD = {
    "instrument": "EURUSD", "tick_size": "0.00001", "volume_min": "0.01", "volume_max": "50", "volume_step": "0.01",
    "contract_size": "100000", "currency_profit": "USD", "trading": True,
}  # fmt: skip
GOLD = EURUSD | {"instrument": "XAUUSD", "tick_size": "0.01", "contract_size": "100"}


@dataclass
class PlatformOrder:
    """An order at the platform. `lots` of a leg are those of the position that it closes."""

    name: str
    symbol: str
    side: str
    lots: Decimal
    type: str
    price: Decimal | None
    state: str
    action: str = ""


@dataclass
class ScriptedAgent(ScriptedBridge):
    """`prices`: last price by symbol. `executions`: every fill, (name, side, lots). `trading_code`: 10026 or 10027."""

    prices: dict[str, Decimal] = field(default_factory=lambda: {"EURUSD": D("1.10000"), "XAUUSD": D("2400.00")})
    orders: dict[str, PlatformOrder] = field(default_factory=dict)
    lots: dict[str, Decimal] = field(default_factory=dict)
    executions: list[tuple[str, str, Decimal]] = field(default_factory=list)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_halted: bool = False
    trading_code: int | None = None
    ticks: int = 0
    bars: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        account = {
            "name": ACCOUNT,
            "sim": True,
            "mode": "auto",
            "connected": True,
            "currency": "USD",
            "margin_mode": "hedging",
        }
        self.welcome = {
            "platform": "mt5 5.0 build 4885 (scripted)",
            "accounts": [account],
            "features": ["exit_entries"],
        }

    def move(self, symbol: str, price: str) -> None:
        """Trade at a price: working orders at or beyond it fill."""
        self.prices[symbol] = D(price)
        for order in list(self.orders.values()):
            if order.symbol == symbol and order.state == "Working" and _is_reached(order, self.prices[symbol]):
                self._fill(order)

    def tick(self, symbol: str, price: str) -> None:
        """Publish a tick to the sessions of role data."""
        self.ticks += 1
        line = {
            "t": "trade", "instrument": symbol, "n": self.ticks, "at_ms": _now_ms(), "price": D(price), "qty": 1,
            "side": None,
        }  # fmt: skip
        self.write(line)

    def status_line(self, rid: str | None) -> dict[str, Any]:
        """Return the whole status."""
        positions = [
            {"instrument": symbol, "side": "long" if lots > 0 else "short", "qty": f"{abs(lots):f}", "avg": None}
            for symbol, lots in self.lots.items()
            if lots
        ]
        orders = [
            {
                "name": order.name, "order_id": order.name[-8:], "state": order.state, "side": order.side,
                "type": order.type, "qty": f"{order.lots:f}", "filled": "0", "limit": order.price, "stop": None,
                "ours": True,
            }
            for order in self.orders.values()
            if order.state == "Working"
        ]  # fmt: skip
        account = {
            "name": ACCOUNT, "status": "Connected", "price_status": "Connected", "trade_date": None,
            "values": {"CashValue": 10000}, "positions": positions, "orders": orders,
            "trading_code": self.trading_code,
        }  # fmt: skip
        return status(
            rid, accounts=[account], halted=self.is_halted, ready=not self.trading_code, at_ms=_now_ms(), agent="fks-mt5/1.0.0",
            server_offset_s=7200, last_error="10027 autotrading disabled" if self.trading_code else None,
        )  # fmt: skip

    def set_trading(self, code: int | None) -> None:
        """Disable trading with the terminal's code, or enable it, and report it as the agent does."""
        self.trading_code = code
        self._event("risk", code="trading_disabled" if code else "trading_enabled", detail=str(code or ""))
        self.push_status()

    def push_status(self) -> None:
        """Send a status to every session but those of role data."""
        for writer in self.writers:
            if self.roles[writer] != "data":
                writer.write(strict_json.dumps(self.status_line(None)))

    # ── the protocol ─────────────────────────────────────────────────────────────────────────────
    def answers_to(self, found: dict[str, Any], opening: dict[str, Any]) -> list[dict[str, Any]]:
        match found["t"]:
            case "status":
                return [self.status_line(found["rid"])]
            case "signal":
                return self._signal(found)
            case "query":
                known = self.known.get(found["id"])
                state = "unknown_id" if known is None else known["state"]
                return [{"t": "sigstate", "rid": found["rid"], "id": found["id"], "state": state, "filled": "0"}]
            case "cancel":
                order = self.orders.get(f"FKS:{found['id']}:E")
                is_working = order is not None and order.state == "Working"
                if order is not None and is_working:
                    self._report(order, "Cancelled")
                    self._event("signal", id=found["id"], state="cancelled")
                code = {} if is_working else {"code": "nothing_to_do"}
                return [{"t": "result", "rid": found["rid"], "ok": is_working, **code}]
            case "kill":
                self.is_halted = True
                self._event("halt", on=True, reason=found["reason"])
                self._flatten()
                return [{"t": "result", "rid": found["rid"], "ok": True, "flat": True, "remaining": []}]
            case "subscribe":
                state = {"t": "md_status", "price_status": "Connected", "at_ms": _now_ms()}
                listed = {EURUSD["instrument"], GOLD["instrument"]}
                unknown = [name for name in found["instruments"] if name not in listed]
                if unknown:
                    return [{"t": "result", "rid": found["rid"], "ok": False, "code": "unknown_instrument"}]
                return [
                    {"t": "result", "rid": found["rid"], "ok": True},
                    *({**state, "instrument": name} for name in found["instruments"]),
                ]
            case "unsubscribe":
                return [{"t": "result", "rid": found["rid"], "ok": True}]
            case "instruments":
                rows = [{"t": "instrument", "rid": found["rid"], **row} for row in (EURUSD, GOLD)]
                return [*rows, {"t": "result", "rid": found["rid"], "ok": True, "count": len(rows)}]
            case "history":
                rows = [
                    {"t": "bar", "rid": found["rid"], "instrument": found["instrument"], **bar}
                    for bar in self.bars
                    if found["from_ms"] <= bar["at_ms"] < found["to_ms"]
                ]
                return [*rows, {"t": "result", "rid": found["rid"], "ok": True, "count": len(rows)}]
        return super().answers_to(found, opening)

    def welcome_to(self, auth: dict[str, Any], opening: dict[str, Any], now_ms: int) -> list[dict[str, Any]]:
        lines = super().welcome_to(auth, opening, now_ms)
        if lines[0]["t"] != "welcome":
            return lines
        lines[0]["halted"] = self.is_halted
        return lines[:1] if opening["role"] == "data" else [*lines[:-1], self.status_line(None)]

    def _signal(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        id, at_ms = found["id"], _now_ms()
        if (known := self.known.get(id)) is not None:
            return [{**known, "dup": True}]
        if found["action"] != "exit":
            code = "halted" if self.is_halted else "trading_disabled" if self.trading_code else None
            if code is not None:
                return [{"t": "nack", "id": id, "code": code, "detail": "scripted", "final": False, "at_ms": at_ms}]
        ack = {"t": "ack", "id": id, "state": "submitted", "dup": False, "order": f"FKS:{id}:E", "at_ms": at_ms}
        self.known[id] = ack
        lots, symbol, side = D(found["qty"]), found["instrument"], found["action"]
        if side == "exit":
            side = "sell" if self.lots.get(symbol, D(0)) > 0 else "buy"
            for entry in found.get("entries", ()):
                for leg in "ST":
                    if (order := self.orders.get(f"FKS:{entry}:{leg}")) is not None and order.state == "Working":
                        self._report(order, "Cancelled")
        price = None if found["type"] == "market" else D(str(found["price"]))
        order = PlatformOrder(f"FKS:{id}:E", symbol, side, lots, found["type"], price, "Working", found["action"])
        self.orders[order.name] = order
        self._after(lambda: self._fill(order, found) if price is None else self._report(order, "Working"))
        return [ack]

    def _after(self, act: Any) -> None:
        """Run `act` after the answer was written, as a broker does."""
        asyncio.get_running_loop().call_later(0.02, act)

    def _fill(self, order: PlatformOrder, found: dict[str, Any] | None = None) -> None:
        sign = 1 if order.side == "buy" else -1
        self.lots[order.symbol] = self.lots.get(order.symbol, D(0)) + sign * order.lots
        self.executions.append((order.name, order.side, order.lots))
        id, role = order.name.split(":")[1:]
        if self.prices.get(order.symbol) is None:
            raise AssertionError(order.symbol)
        self._report(order, "Filled")
        self._event(
            "exec", name=order.name, exec_id=f"deal{len(self.executions)}", op="add", side=order.side,
            qty=f"{order.lots:f}", price=self.prices[order.symbol], time_ms=_now_ms(), commission=D("0.07"), fee=0,
            id=id, role=role, instrument=order.symbol,
        )  # fmt: skip
        other = {"S": "T", "T": "S"}.get(role)
        if other is not None and (leg := self.orders.get(f"FKS:{id}:{other}")) is not None:
            self._report(leg, "Cancelled")
        if found is None or order.action == "exit":
            return
        opposite = "sell" if order.side == "buy" else "buy"
        for role, key, kind in (("S", "sl_price", "StopMarket"), ("T", "tp_price", "Limit")):
            if found.get(key) is not None:
                leg = PlatformOrder(
                    f"FKS:{id}:{role}", order.symbol, opposite, order.lots, kind, D(str(found[key])), "Working"
                )
                self.orders[leg.name] = leg
                self._report(leg, "Working")

    def _flatten(self) -> None:
        for order in self.orders.values():
            if order.state == "Working":
                self._report(order, "Cancelled")
        for symbol, lots in list(self.lots.items()):
            if lots:
                side = "sell" if lots > 0 else "buy"
                self._fill(
                    PlatformOrder(f"close:{symbol}:x", symbol, side, abs(lots), "Market", None, "Working", "exit")
                )

    def _report(self, order: PlatformOrder, state: str) -> None:
        order.state = state
        id, role = order.name.split(":")[1:]
        ours = {"id": id, "role": role} if order.name.startswith("FKS:") else {}
        is_stop = order.type == "StopMarket"
        self._event(
            "order", name=order.name, order_id=order.name[-8:], state=state, qty=f"{order.lots:f}",
            filled=f"{order.lots:f}" if state == "Filled" else "0", avg_price=None,
            limit=None if is_stop else order.price, stop=order.price if is_stop else None, **ours,
        )  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> None:
        self.publish(
            {
                "t": "ev", "seq": len(self.events) + 1, "epoch": EPOCH, "at_ms": _now_ms(), "kind": kind,
                "account": ACCOUNT, **fields,
            }
        )  # fmt: skip


def _is_reached(order: PlatformOrder, price: Decimal) -> bool:
    if order.price is None:
        return False
    is_below = price <= order.price
    is_stop = order.type == "StopMarket"
    return is_below if (order.side == "buy") is not is_stop else price >= order.price


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
