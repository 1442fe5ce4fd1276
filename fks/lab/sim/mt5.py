"""A stand-in for the package MetaTrader5: the functions, named tuples and return codes of it, on a simulated broker.

The package exists for Windows only. A `SimulatedTerminal` takes its place: the agent calls it as it calls the package.
The broker's state is a file, so that it goes on while the agent is killed. Every order that it accepted is in that file
too: a kill never leaves an order in the log that the broker does not have. Numbers are floats and times are the trade
server's, not UTC, as in the package. Each bad behaviour has a switch and is drawn from a seed.

Source: the package's documentation (mql5.com/en/docs/python_metatrader5), read 2026-11.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {
    "none_not_accepted": "order_send returns None with -10000 to -10005, and the order did not reach the broker",
    "none_accepted": "order_send returns None with -10000 to -10005 after the broker accepted the order",
    "none_late": "order_send returns None, and the broker accepts the order 2 s later",
    "timeout_accepted": "order_send returns 10012 after the broker accepted the order",
    "connection_not_accepted": "order_send returns 10031, and the order did not reach the broker",
    "error_accepted": "order_send returns 10011 after the broker accepted the order",
    "requote": "an entry at market gets a new price: 10004",
    "rejected": "the dealer rejects an entry: 10006",
    "partial_fills": "an order fills in part: 10010, the rest is cancelled or waits",
    "comment_rewritten": "the broker replaces the comment of an order",
    "placed_first": "an order at market is answered 10008 and fills 300 ms later",
    "stops_refused": "the broker refuses a change of stop and target: 10016",
    "autotrading_off": "the button in the terminal is off for 3 s: 10027",
    "server_disables": "the server refuses orders of programs for 3 s: 10026",
    "symbol_disabled": "trading of the symbol is off for 3 s: 10017",
    "market_closed": "the market is closed for 3 s: 10018",
    "history_unreadable": "the lists of orders and deals are None for 2 s",
    "terminal_lost": "every call returns None for 2 s",
    "deal_cancelled": "the broker cancels a deal: its type changes, its position is reduced",
}
_TEMPORARY_S = {
    "autotrading_off": 3.0, "server_disables": 3.0, "symbol_disabled": 3.0, "market_closed": 3.0,
    "history_unreadable": 2.0, "terminal_lost": 2.0,
}  # fmt: skip
_STEP_MS = 250
_CATCH_UP_STEPS_MAX = 2_400  # ten minutes; a longer absence is jumped over
_TEXTS = {
    10004: "Requote", 10006: "Rejected", 10008: "Placed", 10009: "Request executed", 10010: "Executed partially",
    10011: "Error", 10012: "Timeout", 10013: "Invalid request", 10014: "Invalid volume", 10015: "Invalid price",
    10016: "Invalid stops", 10017: "Trade disabled", 10018: "Market closed", 10019: "No money", 10025: "No changes",
    10026: "Autotrading disabled by server", 10027: "AutoTrading disabled by client", 10029: "Frozen",
    10030: "Unsupported filling mode", 10031: "No connection", 10034: "Volume limit", 10035: "Invalid order",
    10036: "Position closed", 10038: "Invalid close volume",
}  # fmt: skip

AccountInfo = namedtuple(
    "AccountInfo",
    "login trade_mode leverage trade_allowed trade_expert margin_mode balance credit profit equity margin "
    "margin_free name server currency company",
)
TerminalInfo = namedtuple("TerminalInfo", "connected trade_allowed tradeapi_disabled build name path ping_last company")
SymbolInfo = namedtuple(
    "SymbolInfo",
    "name description visible select digits point trade_tick_size trade_tick_value trade_contract_size "
    "volume_min volume_max volume_step volume_limit trade_stops_level trade_freeze_level trade_exemode "
    "trade_mode filling_mode order_mode expiration_mode expiration_time currency_base currency_profit "
    "currency_margin bid ask last time",
)
Tick = namedtuple("Tick", "time bid ask last volume time_msc flags volume_real")
TradeOrder = namedtuple(
    "TradeOrder",
    "ticket time_setup time_setup_msc time_done time_done_msc time_expiration type type_time type_filling "
    "state magic position_id position_by_id reason volume_initial volume_current price_open sl tp "
    "price_current price_stoplimit symbol comment external_id",
)
TradePosition = namedtuple(
    "TradePosition",
    "ticket time time_msc time_update time_update_msc type magic identifier reason volume price_open sl "
    "tp price_current swap profit symbol comment external_id",
)
TradeDeal = namedtuple(
    "TradeDeal",
    "ticket order time time_msc type entry magic position_id reason volume price commission swap profit "
    "fee symbol comment external_id",
)
OrderCheckResult = namedtuple(
    "OrderCheckResult",
    "retcode balance equity profit margin margin_free margin_level comment request",
)
OrderSendResult = namedtuple(
    "OrderSendResult",
    "retcode deal order volume price bid ask comment request_id retcode_external request",
)
_RATES = [
    ("time", "i8"),
    ("open", "f8"),
    ("high", "f8"),
    ("low", "f8"),
    ("close", "f8"),
    ("tick_volume", "u8"),
    ("spread", "i4"),
    ("real_volume", "u8"),
]
_TICKS = [
    ("time", "i8"),
    ("bid", "f8"),
    ("ask", "f8"),
    ("last", "f8"),
    ("volume", "u8"),
    ("time_msc", "i8"),
    ("flags", "u4"),
    ("volume_real", "f8"),
]


@dataclass(frozen=True, slots=True)
class SimulatedSymbol:
    """One instrument of the simulated broker. Levels are in points; `filling`: 1 FOK, 2 IOC, 4 BOC."""

    name: str
    price: float
    digits: int
    tick: float
    size: float
    profit: str
    volume_min: float = 0.01
    volume_max: float = 100.0
    volume_step: float = 0.01
    volume_limit: float = 0.0
    stops_level: int = 10
    freeze_level: int = 5
    filling: int = 3
    exemode: int = 2  # market execution

    @property
    def point(self) -> float:
        return float(10**-self.digits)


COMPANY = "Simulated Broker"
SYMBOLS = (
    SimulatedSymbol("EURUSD", 1.08, 5, 0.00001, 100_000.0, "USD"),
    SimulatedSymbol("USDJPY", 151.2, 3, 0.001, 100_000.0, "JPY", filling=2),
    SimulatedSymbol("XAUUSD", 2000.0, 2, 0.01, 100.0, "USD"),
    # its tick is 25 points: prices that are only multiples of the point are refused
    SimulatedSymbol(
        "US500", 4500.0, 2, 0.25, 1.0, "USD", volume_min=0.1, volume_step=0.1, volume_limit=50.0, filling=1
    ),
)


@dataclass(frozen=True, slots=True)
class TerminalOptions:
    """The account and the bad behaviours. `offset_s`: the server's clock minus UTC."""

    seed: int = 1
    login: int = 5001
    password: str = ""
    is_hedging: bool = True
    is_demo: bool = True
    offset_s: int = 7_200
    on: frozenset[str] = frozenset()
    chance: float = 0.3
    swing: float = 1.0  # of the prices; 0: they stand still


class SimulatedTerminal:
    """One terminal and the broker behind it. Its methods are the package's functions; `log` has the accepted orders."""

    def __init__(self, folder: Path, now_ms: Callable[[], int], options: TerminalOptions) -> None:
        """Load the broker's state of `folder`, or begin it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self._file = folder / "broker.json"
        self._now_ms = now_ms
        self._symbols = {one.name: one for one in SYMBOLS}
        self._error = (1, "Success")
        self._is_up = False
        self._state: dict[str, Any] = {
            "ticket": 1_000, "calls": 0, "at_ms": now_ms(), "balance": 100_000.0, "orders": [], "history": [],
            "deals": [], "positions": [], "late": [], "until": {}, "accepted": [],
        }  # fmt: skip
        if self._file.exists():
            self._state |= json.loads(self._file.read_text())

    # ── the terminal ──────────────────────────────────────────────────────────────────────────────

    def initialize(self, path: str | None = None, **account: Any) -> bool:
        """Connect to the terminal. `account`: login, password, server, timeout, portable."""
        self._is_up = True
        return self.login(account["login"], account.get("password", "")) if "login" in account else True

    def login(self, login: int, password: str = "", server: str = "", timeout: int = 60_000) -> bool:
        is_good = login == self.options.login and password == self.options.password
        self._error = (1, "Success") if is_good else (-6, "Terminal: Authorization failed")
        return is_good

    def shutdown(self) -> None:
        self._is_up = False

    def version(self) -> tuple[int, int, str]:
        return 500, 5120, "1 Nov 2026"

    def last_error(self) -> tuple[int, str]:
        return self._error

    def account_info(self) -> Any:
        if not self._begin():
            return None
        profit = sum(self._profit(one) for one in self._state["positions"])
        equity = self._state["balance"] + profit
        options = self.options
        return AccountInfo(
            options.login, 0 if options.is_demo else 2, 100, True, not self._is_on("server_disables"),
            2 if options.is_hedging else 0, round(self._state["balance"], 2), 0.0, round(profit, 2), round(equity, 2),
            0.0, round(equity, 2), "simulated", "Simulated-Demo", "USD", COMPANY,
        )  # fmt: skip

    def terminal_info(self) -> Any:
        if not self._is_up:
            return None
        is_allowed = not self._is_on("autotrading_off")
        return TerminalInfo(
            not self._is_on("terminal_lost"), is_allowed, False, 5120, "simulated MetaTrader 5", "", 1000, "sim"
        )

    # ── prices ────────────────────────────────────────────────────────────────────────────────────

    def symbols_get(self, group: str = "*") -> Any:
        return tuple(self.symbol_info(name) for name in self._symbols) if self._begin() else None

    def symbol_select(self, symbol: str, enable: bool = True) -> bool:
        return symbol in self._symbols

    def symbol_info(self, symbol: str) -> Any:
        one = self._symbols.get(symbol)
        if one is None or not self._begin():
            self._error = (-4, "Terminal: Not found")
            return None
        tick = self.symbol_info_tick(symbol)
        trade_mode = 0 if self._is_on("symbol_disabled") else 4
        return SymbolInfo(
            one.name, one.name, True, True, one.digits, one.point, one.tick, one.tick * one.size, one.size,
            one.volume_min, one.volume_max, one.volume_step, one.volume_limit, one.stops_level, one.freeze_level,
            one.exemode, trade_mode, one.filling, 127, 15, 0, one.name[:3], one.profit, one.name[:3], tick.bid,
            tick.ask, 0.0, tick.time,
        )  # fmt: skip

    def symbol_info_tick(self, symbol: str) -> Any:
        if symbol not in self._symbols or not self._begin():
            return None
        return self._tick(symbol, self._now_ms())

    def _tick(self, symbol: str, at_ms: int) -> Any:
        one, at_ms = self._symbols[symbol], at_ms - at_ms % _STEP_MS
        bid, ask = self._bid(one, at_ms), self._ask(one, at_ms)
        server_ms = at_ms + self.options.offset_s * 1000
        return Tick(server_ms // 1000, bid, ask, 0.0, 0, server_ms, 6, 0.0)

    def _bid(self, one: SimulatedSymbol, at_ms: int) -> float:
        """Return the price of a moment: waves around the first price, the same for the same seed."""
        second = at_ms / 1000
        wave = math.sin(second / 7 + self.options.seed) + 0.6 * math.sin(second / 1.9) + 2 * math.sin(second / 97)
        return round(round(one.price * (1 + 0.0002 * self.options.swing * wave) / one.tick) * one.tick, one.digits)

    def _ask(self, one: SimulatedSymbol, at_ms: int) -> float:
        return round(self._bid(one, at_ms) + 2 * one.tick, one.digits)

    def copy_rates_range(self, symbol: str, timeframe: int, date_from: Any, date_to: Any) -> Any:
        if symbol not in self._symbols or not self._begin():
            return None
        length = 60 if timeframe == 1 else 86_400
        first, last = math.ceil(_seconds(date_from) / length) * length, _seconds(date_to)
        newest = (self._now_ms() // 1000 + self.options.offset_s) // length * length
        rows = [self._bar(symbol, at, length) for at in range(first, min(last, newest) + 1, length)][:50_000]
        return np.array(rows, dtype=_RATES)

    def _bar(self, symbol: str, at: int, length: int) -> tuple[Any, ...]:
        one, utc = self._symbols[symbol], (at - self.options.offset_s) * 1000
        end = min(utc + length * 1000, self._now_ms())
        step = max((end - utc) // 20 // _STEP_MS * _STEP_MS, _STEP_MS)
        prices = [self._bid(one, moment) for moment in range(utc, max(end, utc + 1), step)]
        return at, prices[0], max(prices), min(prices), prices[-1], len(prices), 2, 0

    def copy_ticks_from(self, symbol: str, date_from: Any, count: int, flags: int) -> Any:
        if symbol not in self._symbols or not self._begin():
            return None
        begin = (_seconds(date_from) - self.options.offset_s) * 1000
        moments = range(math.ceil(begin / _STEP_MS) * _STEP_MS, self._now_ms() + 1, _STEP_MS)[:count]
        return np.array([tuple(self._tick(symbol, at)) for at in moments], dtype=_TICKS)

    # ── lists ─────────────────────────────────────────────────────────────────────────────────────

    def orders_get(self, **wanted: Any) -> Any:
        return self._list("orders", TradeOrder, wanted)

    def positions_get(self, **wanted: Any) -> Any:
        found = self._list("positions", TradePosition, wanted)
        return found and tuple(one._replace(profit=round(self._profit(one._asdict()), 2)) for one in found)

    def history_orders_get(self, date_from: Any = 0, date_to: Any = 0, **wanted: Any) -> Any:
        found = self._list("history", TradeOrder, wanted)
        begin, end = _seconds(date_from), _seconds(date_to)
        return found and tuple(one for one in found if wanted or begin <= one.time_done <= end)

    def history_deals_get(self, date_from: Any = 0, date_to: Any = 0, **wanted: Any) -> Any:
        found = self._list("deals", TradeDeal, wanted)
        begin, end = _seconds(date_from), _seconds(date_to)
        return found and tuple(one for one in found if wanted or begin <= one.time <= end)

    def _list(self, name: str, kind: Any, wanted: dict[str, Any]) -> Any:
        if not self._begin() or self._is_on("history_unreadable"):
            self._error = (-10004, "No IPC connection")
            return None
        rows = self._state[name]
        return tuple(kind(**one) for one in rows if all(one[key] == value for key, value in wanted.items()))

    # ── orders ────────────────────────────────────────────────────────────────────────────────────

    def order_check(self, request: dict[str, Any]) -> Any:
        if not self._begin():
            return None
        code = self._refusal(request)
        return OrderCheckResult(code, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, _TEXTS.get(code, "Done"), request)

    def order_send(self, request: dict[str, Any]) -> Any:
        """Execute a request of one of the actions 1 deal, 5 pending, 6 stop and target, 7 modify, 8 remove."""
        if not self._begin():
            return None
        dice = self._dice()
        request = dict(request)
        if code := self._refusal(request):
            return self._result(code, request)
        is_entry = request["action"] in (1, 5) and not request.get("position")
        for name in _TEMPORARY_S:
            if self._strikes(name, dice, 0.2):
                self.switch_on(name, _TEMPORARY_S[name])
        if is_entry and request["action"] == 1 and self._strikes("requote", dice):
            return self._result(10004, request)
        if is_entry and self._strikes("rejected", dice):
            return self._result(10006, request)
        if request["action"] == 6 and self._strikes("stops_refused", dice):
            return self._result(10016, request)
        if self._strikes("none_not_accepted", dice):
            return self._lost(dice)
        if self._strikes("connection_not_accepted", dice):
            return self._result(10031, request)
        if request["action"] in (1, 5) and self._strikes("none_late", dice):
            self._state["late"].append([self._now_ms() + 2_000, request])
            return self._lost(dice)
        result = self._execute(request, dice)
        if self._strikes("none_accepted", dice):
            return self._lost(dice)
        for name, code in (("timeout_accepted", 10012), ("error_accepted", 10011)):
            if self._strikes(name, dice):
                return self._result(code, request)
        if self._state["deals"] and self._strikes("deal_cancelled", dice, 0.2):
            self._cancel_deal(dice)
        return result

    def log(self) -> list[dict[str, Any]]:
        """Return every order that the broker accepted: ticket, magic, symbol, position, volume."""
        return [dict(line) for line in self._state["accepted"]]

    def fill_order(self, ticket: int, price: float) -> None:
        """Fill a pending order now, as a script asks. Errors: StopIteration where there is no such order."""
        order = next(one for one in self._state["orders"] if one["ticket"] == ticket)
        self._fill(order, order["volume_current"], price, 3)
        self._save()

    def switch_on(self, name: str, seconds: float) -> None:
        """Switch a temporary behaviour on."""
        assert name in _TEMPORARY_S, name
        self._state["until"][name] = self._now_ms() + seconds * 1000

    def _lost(self, dice: random.Random) -> None:
        self._save()
        self._error = (-10000 - dice.randint(0, 5), "Internal IPC error")

    def _result(
        self, code: int, request: dict[str, Any], order: int = 0, volume: float = 0.0, price: float = 0.0
    ) -> Any:
        self._save()
        self._error = (1, "Success")
        return OrderSendResult(code, 0, order, volume, price, 0.0, 0.0, _TEXTS[code], 1, 0, request)

    def _refusal(self, request: dict[str, Any]) -> int:
        """Return the return code for a request that the broker does not take, or 0."""
        for name, code in (
            ("autotrading_off", 10027), ("server_disables", 10026), ("symbol_disabled", 10017), ("market_closed", 10018)
        ):  # fmt: skip
            if self._is_on(name):
                return code
        action = request.get("action")
        if action == 8:
            return 0 if self._find("orders", request["order"]) else 10035
        if action == 6:
            return self._stops_refusal(request)
        one = self._symbols.get(request.get("symbol", ""))
        if one is None or action not in (1, 5):
            return 10013
        volume = request["volume"]
        is_step = abs(volume / one.volume_step - round(volume / one.volume_step)) < 1e-6
        if not is_step or not one.volume_min <= volume <= one.volume_max:
            return 10014
        if request.get("position"):
            position = self._find("positions", request["position"])
            return 10036 if position is None else 10038 if volume > position["volume"] + 1e-9 else 0
        held = sum(one_["volume"] for one_ in self._state["positions"] if one_["symbol"] == one.name)
        if one.volume_limit and held + volume > one.volume_limit:
            return 10034
        filling = request.get("type_filling", 2)
        if action == 1 and (filling == 2 or not one.filling & (1 << filling)):
            return 10030
        price = request.get("price", 0.0) or self._bid(one, self._now_ms())
        if action == 5 and not _is_multiple(price, one.tick):
            return 10015
        return self._check_stops(
            one, price, request.get("sl", 0.0), request.get("tp", 0.0), request["type"] in (0, 2, 4, 6)
        )

    def _check_stops(self, one: SimulatedSymbol, price: float, sl: float, tp: float, is_buy: bool) -> int:
        level, sign = one.stops_level * one.point, 1 if is_buy else -1
        for value, side in ((sl, -1), (tp, 1)):
            if value and (not _is_multiple(value, one.tick) or (value - price) * sign * side < level - 1e-9):
                return 10016
        return 0

    def _stops_refusal(self, request: dict[str, Any]) -> int:
        position = self._find("positions", request["position"])
        if position is None:
            return 10036
        sl, tp = request.get("sl", 0.0), request.get("tp", 0.0)
        if (sl, tp) == (position["sl"], position["tp"]):
            return 10025
        one, now = self._symbols[position["symbol"]], self._now_ms()
        is_buy = position["type"] == 0
        price = self._bid(one, now) if is_buy else self._ask(one, now)
        near = [
            old for old in (position["sl"], position["tp"]) if old and abs(old - price) < one.freeze_level * one.point
        ]
        return 10029 if near else self._check_stops(one, price, sl, tp, is_buy)

    def _execute(self, request: dict[str, Any], dice: random.Random) -> Any:
        if request["action"] == 6:
            position = self._find("positions", request["position"])
            assert position is not None
            position["sl"], position["tp"] = request.get("sl", 0.0), request.get("tp", 0.0)
            return self._result(10009, request)
        if request["action"] == 8:
            order = self._find("orders", request["order"])
            assert order is not None
            self._end(order, 2)
            return self._result(10009, request, order["ticket"])
        order = self._accept(request, dice)
        if request["action"] == 5:
            return self._result(10009, request, order["ticket"], order["volume_initial"])
        if self._strikes("placed_first", dice):
            self._state["late"].append([self._now_ms() + 300, order["ticket"]])
            return self._result(10008, request, order["ticket"])
        filled = self._fill_at_market(order, dice)
        code = 10009 if filled == order["volume_initial"] else 10010
        return self._result(code, request, order["ticket"], filled)

    def _accept(self, request: dict[str, Any], dice: random.Random) -> dict[str, Any]:
        self._state["ticket"] += 1
        ticket, at_ms = self._state["ticket"], self._now_ms() + self.options.offset_s * 1000
        comment = "[broker]" if self._strikes("comment_rewritten", dice) else str(request.get("comment", ""))[:31]
        order = {
            "ticket": ticket, "time_setup": at_ms // 1000, "time_setup_msc": at_ms, "time_done": 0, "time_done_msc": 0,
            "time_expiration": 0, "type": request["type"], "type_time": request.get("type_time", 0),
            "type_filling": request.get("type_filling", 2), "state": 1, "magic": request.get("magic", 0),
            "position_id": request.get("position", 0), "position_by_id": 0, "reason": 3,
            "volume_initial": request["volume"], "volume_current": request["volume"],
            "price_open": request.get("price", 0.0), "sl": request.get("sl", 0.0), "tp": request.get("tp", 0.0),
            "price_current": 0.0, "price_stoplimit": request.get("stoplimit", 0.0), "symbol": request["symbol"],
            "comment": comment, "external_id": "",
        }  # fmt: skip
        self._state["orders"].append(order)
        names = ("ticket", "magic", "symbol", "volume_initial", "position_id", "type")
        self._state["accepted"].append({name: order[name] for name in names})
        self._save()
        return order

    def _fill_at_market(self, order: dict[str, Any], dice: random.Random) -> float:
        one, now = self._symbols[order["symbol"]], self._now_ms()
        volume = order["volume_initial"]
        if order["type_filling"] == 1 and not order["position_id"] and self._strikes("partial_fills", dice):
            volume = max(round(volume / 2 / one.volume_step) * one.volume_step, one.volume_min)
        volume = min(round(volume, 8), order["volume_initial"])
        price = self._ask(one, now) if order["type"] == 0 else self._bid(one, now)
        self._fill(order, volume, price, 3)
        if order["volume_current"]:
            self._end(order, 2)
        return float(volume)

    # ── the broker ────────────────────────────────────────────────────────────────────────────────

    def _fill(self, order: dict[str, Any], volume: float, price: float, reason: int) -> None:
        """Book a deal of an order and move its position."""
        is_buy = order["type"] in (0, 2, 4, 6)
        position = self._position_of(order)
        if self.options.is_hedging and order["position_id"]:  # it closes that position, and opens none
            volume = min(volume, position["volume"]) if position is not None else 0.0
        order["volume_current"] = round(order["volume_current"] - volume, 8)
        left = volume
        if position is not None and (position["type"] == 0) != is_buy:
            closed = min(left, position["volume"])
            self._reduce(position, closed, price)
            self._deal(order, closed, price, 1, reason, position["identifier"])
            left = round(left - closed, 8)
            position = None
        if left:
            if position is None:
                position = self._open(order, price, is_buy)
            total = round(position["volume"] + left, 8)
            position["price_open"] = (position["price_open"] * position["volume"] + price * left) / total
            position["volume"] = total
            for name in ("sl", "tp"):
                position[name] = order[name] or position[name]
            self._deal(order, left, price, 0, reason, position["identifier"])
        if not order["volume_current"]:
            self._end(order, 4)

    def _position_of(self, order: dict[str, Any]) -> dict[str, Any] | None:
        positions = self._state["positions"]
        if order["position_id"]:
            return self._find("positions", order["position_id"])
        if self.options.is_hedging:
            return self._find("positions", order["ticket"])
        return next((one for one in positions if one["symbol"] == order["symbol"]), None)

    def _open(self, order: dict[str, Any], price: float, is_buy: bool) -> dict[str, Any]:
        at_ms = self._now_ms() + self.options.offset_s * 1000
        position = {
            "ticket": order["ticket"], "time": at_ms // 1000, "time_msc": at_ms, "time_update": at_ms // 1000,
            "time_update_msc": at_ms, "type": 0 if is_buy else 1, "magic": order["magic"],
            "identifier": order["ticket"], "reason": 3, "volume": 0.0, "price_open": price, "sl": 0.0, "tp": 0.0,
            "price_current": price, "swap": 0.0, "profit": 0.0, "symbol": order["symbol"], "comment": order["comment"],
            "external_id": "",
        }  # fmt: skip
        self._state["positions"].append(position)
        return position

    def _reduce(self, position: dict[str, Any], volume: float, price: float) -> None:
        one = self._symbols[position["symbol"]]
        sign = 1 if position["type"] == 0 else -1
        self._state["balance"] += (price - position["price_open"]) * sign * volume * one.size
        position["volume"] = round(position["volume"] - volume, 8)
        if position["volume"] <= 0:
            self._state["positions"].remove(position)

    def _deal(
        self, order: dict[str, Any], volume: float, price: float, entry: int, reason: int, position_id: int
    ) -> None:
        self._state["ticket"] += 1
        at_ms = self._now_ms() + self.options.offset_s * 1000
        self._state["deals"].append({
            "ticket": self._state["ticket"], "order": order["ticket"], "time": at_ms // 1000, "time_msc": at_ms,
            "type": 0 if order["type"] in (0, 2, 4, 6) else 1, "entry": entry, "magic": order["magic"],
            "position_id": position_id, "reason": reason, "volume": round(volume, 8), "price": price,
            "commission": -0.04, "swap": 0.0, "profit": 0.0, "fee": 0.0, "symbol": order["symbol"],
            "comment": order["comment"], "external_id": "",
        })  # fmt: skip

    def _end(self, order: dict[str, Any], state: int) -> None:
        at_ms = self._now_ms() + self.options.offset_s * 1000
        order["state"], order["time_done"], order["time_done_msc"] = state, at_ms // 1000, at_ms
        self._state["orders"].remove(order)
        self._state["history"].append(order)

    def _cancel_deal(self, dice: random.Random) -> None:
        entries = [one for one in self._state["deals"] if one["entry"] == 0 and one["type"] < 2]
        held = [one for one in entries if self._find("positions", one["position_id"])]
        if held:
            deal = dice.choice(held)
            position = self._find("positions", deal["position_id"])
            assert position is not None
            deal["type"], deal["profit"] = deal["type"] + 13, 0.0
            self._reduce(position, min(deal["volume"], position["volume"]), position["price_open"])

    def _profit(self, position: dict[str, Any]) -> float:
        one, now = self._symbols[position["symbol"]], self._now_ms()
        price = self._bid(one, now) if position["type"] == 0 else self._ask(one, now)
        return float(
            (price - position["price_open"]) * (1 if position["type"] == 0 else -1) * position["volume"] * one.size
        )

    def _begin(self) -> bool:
        """Let the market move up to now; return whether the terminal answers."""
        if not self._is_up or self._is_on("terminal_lost"):
            self._error = (-10004, "No IPC connection")
            return False
        now = self._now_ms()
        first = max(self._state["at_ms"], now - _CATCH_UP_STEPS_MAX * _STEP_MS)
        if now - first >= _STEP_MS:
            moments = range(first + _STEP_MS, now + 1, _STEP_MS)
            for moment in moments:
                self._step(moment)
            self._state["at_ms"] = moments[-1]
            self._save()
        return True

    def _step(self, at_ms: int) -> None:
        state = self._state
        for due in [one for one in state["late"] if one[0] <= at_ms]:
            state["late"].remove(due)
            if isinstance(due[1], dict):
                if not self._refusal(due[1]):
                    self._execute(due[1], random.Random(0))  # noqa: S311
            elif (order := self._find("orders", due[1])) is not None:
                self._fill_at_market(order, random.Random(0))  # noqa: S311
        for order in [one for one in state["orders"] if one["type"] > 1]:
            one = self._symbols[order["symbol"]]
            is_buy = order["type"] in (2, 4, 6)
            price = self._ask(one, at_ms) if is_buy else self._bid(one, at_ms)
            is_limit = order["type"] in (2, 3)
            gap = (price - order["price_open"]) * (1 if is_buy == is_limit else -1)
            if gap <= 0:
                self._fill(order, order["volume_current"], order["price_open"] if is_limit else price, 3)
        for position in list(state["positions"]):
            self._try_exits(position, at_ms)

    def _try_exits(self, position: dict[str, Any], at_ms: int) -> None:
        one, is_buy = self._symbols[position["symbol"]], position["type"] == 0
        price, sign = (self._bid(one, at_ms), 1) if is_buy else (self._ask(one, at_ms), -1)
        for reason, level, side in ((4, position["sl"], -1), (5, position["tp"], 1)):
            if level and (price - level) * sign * side >= 0:
                self._state["ticket"] += 1
                server_ms = self._now_ms() + self.options.offset_s * 1000
                order = dict.fromkeys(TradeOrder._fields, 0) | {
                    "ticket": self._state["ticket"], "type": 1 if is_buy else 0, "magic": position["magic"],
                    "position_id": position["ticket"], "reason": reason, "volume_initial": position["volume"],
                    "volume_current": position["volume"], "symbol": position["symbol"], "comment": f"[{reason}]",
                    "time_setup": server_ms // 1000, "time_setup_msc": server_ms, "external_id": "", "state": 1,
                }  # fmt: skip
                self._state["orders"].append(order)
                self._fill(order, position["volume"], price, reason)
                return

    # ── faults and state ──────────────────────────────────────────────────────────────────────────

    def _dice(self) -> random.Random:
        self._state["calls"] += 1
        return random.Random(f"{self.options.seed}:{self._state['calls']}")  # noqa: S311 (faults, not secrets)

    def _strikes(self, name: str, dice: random.Random, share: float = 1.0) -> bool:
        assert name in KINDS, name
        return name in self.options.on and dice.random() < self.options.chance * share

    def _is_on(self, name: str) -> bool:
        return bool(self._state["until"].get(name, 0) > self._now_ms())

    def _find(self, name: str, ticket: int) -> dict[str, Any] | None:
        return next((one for one in self._state[name] if one["ticket"] == ticket), None)

    def _save(self) -> None:
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps(self._state))
        os.replace(made, self._file)


def _seconds(when: Any) -> int:
    return int(when.timestamp()) if isinstance(when, datetime) else int(when)


def _is_multiple(price: float, tick: float) -> bool:
    return abs(price / tick - round(price / tick)) < 1e-6
