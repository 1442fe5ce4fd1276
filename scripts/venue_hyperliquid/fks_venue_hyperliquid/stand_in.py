"""The wire of Hyperliquid's spot markets before the engine, account, log and faults of `fks sim exchange`.

Written from the vendor's documents. Where they are silent it does what is harder for a client: short pages, a token
with the name of a coin, empty answers for a foreign address, and refusals for numbers that are not canonical.
All requests go to two paths; a `Call` gets the type of its request at the end of its path, for faults and the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
from ccxt.hyperliquid import hyperliquid

from fks.lab.sim.atoms import show
from fks.lab.sim.calls import Call, RequestRules
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.entry import NewOrder
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Arrived, Front
from fks.lab.sim.orders import SimFill, SimOrder
from fks.lab.sim.params import Params
from fks.model.decimals import plain

PAGE = 10  # executions of one answer, and those of its last millisecond: fewer than a client expects
NONCES = 100  # kept of a wallet
_DAY_MS = 86_400_000
_FIRST, _SPOT = 107, 10_000
_DIGITS, _LOT_PLACES = 5, 5
_TOKENS = {"BTC": "UBTC", "ETH": "UETH", "SOL": "USOL", "USDT": "USDT0"}
_MISSING = "Order was never placed, already canceled, or filled."
_NO_MATCH = "Order could not immediately match against any resting orders."
_TEXTS = {
    refusal("no_funds").text: "Insufficient spot balance",
    refusal("unknown_order").text: _MISSING,
    refusal("market_closed").text: "Only post-only orders allowed immediately after a network upgrade",
}


class HyperliquidError(ApiError):
    """A refusal with the status 200: of the whole request, or of its one order or cancel (`kind`)."""

    def __init__(self, error: ApiError, text: str, status: int, kind: str) -> None:
        super().__init__(error.code, text, status=status, headers=error.headers)
        self._kind = kind

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer."""
        if not self._kind:
            return {"status": "err", "response": self.text}
        return _done(self._kind, {"error": f"{self.text} asset={_SPOT + _FIRST}"})


def _done(kind: str, status: object) -> dict[str, object]:
    return {"status": "ok", "response": {"type": kind, "data": {"statuses": [status]}}}


class HyperliquidRules(RequestRules):
    """The rules of a request. `coins`: the engine's markets by their names here."""

    id_name = "oid"

    def __init__(self) -> None:
        self.coins: dict[str, str] = {}

    def ids(self, params: Params) -> list[str]:
        """Return our client id of the order that a request is about."""
        found = dict(params.items()).get("cloid", "")
        return [found] if found else []

    def symbol(self, params: Params) -> str:
        """Return the engine's name of the market."""
        return self.coins.get(dict(params.items()).get("coin", ""), "")

    def check(self, exchange: LocalExchange, call: Call) -> None:
        """Refuse a wrong signature or a used nonce."""
        if call.endpoint.security:
            call.check_signature()

    def refused(self, error: ApiError, path: str) -> ApiError:
        """Return a refusal of the engine or of a fault in this wire's form."""
        if isinstance(error, HyperliquidError):
            return error
        kind = {"/exchange/order": "order"}.get(path, "cancel" if path.startswith("/exchange") else "")
        text = _TEXTS.get(error.text, error.text)
        if error.text.startswith("Filter failure"):
            text = "Price must be divisible by tick size." if "PRICE" in error.text else "Order has invalid size."
            text = "Order must have minimum value of 10 USDT0." if "NOTIONAL" in error.text else text
        status = error.status if error.status in (418, 429) or error.status >= 500 else 200
        return HyperliquidError(error, text, status, kind if status == 200 else "")

    def headers(self, exchange: LocalExchange, call: Call) -> dict[str, str]:
        """Return none."""
        return {}


def _refuse(text: str) -> HyperliquidError:
    return HyperliquidError(refusal("bad_combination"), text, 200, "")


class HyperliquidFront(Front):
    """The wire."""

    prefixes = ("/exchange", "/info")

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange, self.rules = exchange, HyperliquidRules()
        self._nonces: set[int] = set()
        self._wallet: Any = None
        self._names = {symbol: f"@{_FIRST + place}" for place, symbol in enumerate(exchange.states)}
        self.rules.coins = {name: symbol for symbol, name in self._names.items()}
        self._handlers: dict[str, Callable[[Params], object]] = {
            "/exchange/order": self.new_order,
            "/exchange/cancelByCloid": self.cancel,
            "/exchange/cancel": self.cancel,
            "/info/spotMeta": self.markets,
            "/info/l2Book": self.book,
            "/info/exchangeStatus": lambda _: {"time": exchange.wall_ms(), "specialStatuses": None},
            "/info/activeAssetData": lambda params: {"user": params.text("user"), "coin": params.text("coin")},
            "/info/frontendOpenOrders": lambda params: [
                self._row(x) for x in exchange.open_orders() if self._is(params)
            ],
            "/info/orderStatus": self.order,
            "/info/userFillsByTime": self.executions,
            "/info/spotClearinghouseState": self.balances,
        }
        unnamed = Endpoint(lambda _, params: self.unnamed(params))
        self.endpoints = {("POST", "/exchange"): unnamed, ("POST", "/info"): unnamed}

    def call(self, sent: Arrived, endpoint: Endpoint, named: Mapping[str, str]) -> Call:
        """Return a request, under its path and its type; an action signs over what the exchange understood of it."""
        try:
            message = orjson.loads(sent.body)
            is_action = sent.path == "/exchange"
            values = _action_values(message) if is_action else {k: str(v) for k, v in message.items()}
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            return self._call(sent, endpoint, {}, "", lambda: None)
        kind = message["action"]["type"] if is_action else message["type"]
        if values.get("oid", "").startswith("0x"):
            values["cloid"] = values.pop("oid").removeprefix("0x")
        at = replace(sent, path=f"{sent.path}/{kind}")
        handler = self._handlers.get(at.path, self.unnamed)
        known = Endpoint(lambda _, params: handler(params), 1, "signed" if is_action else "")
        key = self._exchange.keyring.keys.api_key if is_action else ""
        return self._call(at, known, values, key, lambda: self.check_signature(message))

    def unknown(self, path: str) -> object | None:
        """Return None: the answer is a page."""
        return None

    def made(self, path: str, params: Mapping[str, str]) -> list[str]:
        """Return the client id of a new order."""
        return [params["cloid"]] if path == "/exchange/order" and "cloid" in params else []

    def check_signature(self, message: Mapping[str, Any]) -> None:
        """Refuse an action that the account's wallet did not sign for the test network, or with a used nonce."""
        if self._wallet is None:
            make: Any = hyperliquid  # ccxt is untyped
            self._wallet = make({"privateKey": self._exchange.keyring.keys.api_secret})
            self._wallet.options["sandboxMode"] = True
        nonce, now_ms = message["nonce"], self._exchange.wall_ms()
        wanted = self._wallet.sign_l1_action(_canonical(message["action"]), nonce, None, message.get("expiresAfter"))
        given = message["signature"]
        if [int(given["r"], 16), int(given["s"], 16), given["v"]] != [
            int(wanted["r"], 16),
            int(wanted["s"], 16),
            wanted["v"],
        ]:
            raise _refuse("User or API Wallet 0x0123456789abcdef0123456789abcdef01234567 does not exist.")
        if not now_ms - 2 * _DAY_MS < nonce < now_ms + _DAY_MS:
            raise _refuse(f"Invalid nonce: {nonce} is not near {now_ms}")
        if nonce in self._nonces or (len(self._nonces) == NONCES and nonce < min(self._nonces)):
            raise _refuse(f"Invalid nonce: duplicate nonce {nonce}")
        self._nonces = set(sorted({*self._nonces, nonce})[-NONCES:])
        if message.get("expiresAfter", now_ms) < now_ms:
            raise _refuse("Action expired")

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────
    def unnamed(self, _params: Params) -> object:
        """Refuse a request that cannot be read."""
        raise _refuse("Failed to deserialize the JSON body into the target type")

    def markets(self, _params: Params) -> object:
        """List tokens and markets, among them one of a token that only calls itself BTC."""
        listed = [state.market.listing for state in self._exchange.states.values()]
        names = list(dict.fromkeys(["USDC", "USDT0", "BTC", *(_token(a) for x in listed for a in (x.base, x.quote))]))
        pairs = [(_token(x.base), _token(x.quote)) for x in listed]
        markets = [(_FIRST - 1, "BTC", "USDT0")] + [(_FIRST + place, *pair) for place, pair in enumerate(pairs)]
        return {
            "tokens": [
                {"name": name, "index": 3 * place, "szDecimals": _LOT_PLACES} for place, name in enumerate(names)
            ],
            "universe": [
                {"name": f"@{at}", "tokens": [3 * names.index(base), 3 * names.index(quote)], "index": at}
                for at, base, quote in markets
            ],
        }

    def book(self, params: Params) -> object:
        """Return a book of one level."""
        state = self._exchange.current_state(self.rules.symbol(params), is_new=False)
        level = {"px": show(state.market.last_price), "sz": "1.0", "n": 1}
        return {"coin": params.text("coin"), "time": self._exchange.wall_ms(), "levels": [[level], [level]]}

    def new_order(self, params: Params) -> object:
        """Place an order."""
        symbol, client_id, is_ioc = self.rules.symbol(params), params.text("cloid"), params.text("tif") == "Ioc"
        self._exchange.current_state(symbol)
        price, size = Decimal(params.text("price")), Decimal(params.text("size"))
        if price != price.to_integral_value() and len(price.normalize().as_tuple().digits) > _DIGITS:
            raise refusal("bad_combination") if price <= 0 else ApiError(-1013, "Filter failure: PRICE_FILTER")
        if size.normalize() != round(size, _LOT_PLACES).normalize():
            raise ApiError(-1013, "Filter failure: LOT_SIZE")
        if self._exchange.store.orders("client_id = ?", (client_id,)):
            raise _refuse("A reason that no document has: this cloid is known")
        new = NewOrder(
            symbol,
            "BUY" if params.text("is_buy") == "True" else "SELL",
            "LIMIT",
            tif="IOC" if is_ioc else "GTC",
            quantity=params.atoms("size"),
            price=params.atoms("price"),
            client_id=client_id,
        )
        self._exchange.spend_orders(symbol)
        order, _ = self._exchange.engine.place(new)
        if is_ioc and not order.executed:
            raise ApiError(-2010, _NO_MATCH)
        named = {"oid": order.order_id, "cloid": f"0x{client_id}"}
        if order.is_open:
            return _done("order", {"resting": named})
        average = plain(Decimal(show(order.quote)) / Decimal(show(order.executed)))
        return _done("order", {"filled": {"totalSz": show(order.executed), "avgPx": average, **named}})

    def cancel(self, params: Params) -> object:
        """Cancel an open order, by our id or by the exchange's."""
        values = dict(params.items())
        for order in self._exchange.open_orders():
            if order.client_id == values.get("cloid") or str(order.order_id) == values.get("number"):
                self._exchange.current_state(order.symbol, is_new=False)
                if order.is_open:
                    self._exchange.engine.cancel(order)
                    return _done("cancel", "success")
        raise refusal("unknown_order")

    def order(self, params: Params) -> object:
        """Return an order, whatever became of it."""
        store = self._exchange.store
        if "cloid" in params:
            found = store.orders("client_id = ?", (params.text("cloid"),))
        else:
            found = [x for x in [self._exchange.order(params.number("oid") or 0)] if x is not None]
        if not found or not self._is(params):
            return {"status": "unknownOid"}
        order = found[0]
        status = {"FILLED": "filled", "CANCELED": "canceled"}.get(order.status, "open")
        if order.status == "EXPIRED":
            status = "filled" if order.executed else "iocCancelRejected"
        shown = {"order": self._row(order), "status": status, "statusTimestamp": order.update_ms or order.time_ms}
        return {"status": "order", "order": shown}

    def executions(self, params: Params) -> object:
        """Return executions from a time on, oldest first, as many as fit."""
        if not self._is(params):
            return []
        found = self._exchange.store.fills("wall_ms >= ?", (params.number("startTime") or 0,), by_time=True)
        last = found[min(PAGE, len(found)) - 1].wall_ms if found else 0
        return [self._execution(fill) for fill in found if fill.wall_ms <= last]

    def balances(self, params: Params) -> object:
        """Return what the account holds."""
        held = self._exchange.held().items() if self._is(params) else ()
        return {"balances": [{"coin": _token(a), "total": show(n), "hold": show(busy)} for a, (n, busy) in held]}

    def _is(self, params: Params) -> bool:
        return params.text("user") == self._exchange.keyring.keys.api_key

    def _row(self, order: SimOrder) -> dict[str, Any]:
        has_cloid = len(order.client_id) == 32
        return {
            "coin": self._names[order.symbol],
            "side": "B" if order.side == "BUY" else "A",
            "limitPx": show(order.price),
            "sz": show(order.quantity - order.executed),
            "origSz": show(order.quantity),
            "oid": order.order_id,
            "cloid": f"0x{order.client_id}" if has_cloid else None,
            "timestamp": order.time_ms,
            "tif": order.tif.capitalize(),
        }

    def _execution(self, fill: SimFill) -> dict[str, Any]:
        place = list(self._names).index(fill.symbol)
        return {
            "coin": self._names[fill.symbol],
            "px": show(fill.price),
            "sz": show(fill.quantity),
            "side": "B" if fill.is_buyer else "A",
            "time": fill.wall_ms,
            "oid": fill.order_id,
            "tid": fill.trade_id * 1000 + place,
            "crossed": not fill.is_maker,
            "fee": show(fill.commission),
            "feeToken": _token(fill.commission_asset),
        }


def _token(asset: str) -> str:
    return _TOKENS.get(asset, asset)


def _number(text: str) -> str:
    return plain(Decimal(text))


def _canonical(action: Mapping[str, Any]) -> dict[str, Any]:
    """Return an action as the exchange writes it: known fields in their order, numbers without zeros at the end."""
    if action["type"] != "order":
        return {"type": action["type"], "cancels": action["cancels"]}
    rows = [
        {name: _number(row[name]) if name in "ps" else row[name] for name in "abpsrtc" if name in row}
        for row in action["orders"]
    ]
    return {"type": "order", "orders": rows, "grouping": action["grouping"]}


def _action_values(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of an action about one order."""
    action = message["action"]
    (row,) = action["orders"] if action["type"] == "order" else action["cancels"]
    names = {"a": "asset", "b": "is_buy", "p": "price", "s": "size", "c": "cloid", "o": "number"}
    values = {names.get(name, name): str(value) for name, value in row.items() if name not in "rt"}
    values["coin"] = f"@{int(values['asset']) - _SPOT}"
    if "cloid" in values:
        values["cloid"] = values["cloid"].removeprefix("0x")
    if action["type"] == "order":
        values["tif"] = row["t"]["limit"]["tif"]
    return values
