"""The wire of the exchange `template` before the engine, account, log and faults of `fks sim exchange`.

Write it from the exchange's documents, not from the dialect. Where they are silent, choose what is harder for a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from fks.lab.sim.atoms import show
from fks.lab.sim.calls import Call, RequestRules
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.entry import NewOrder
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Arrived, Front, json_values
from fks.lab.sim.keys import KeyRule
from fks.lab.sim.orders import SimFill, SimOrder
from fks.lab.sim.params import Params

PREFIX = "/template/v1/"
PAGE = 10  # executions of one answer: fewer than a client expects
_TYPES = {"market": "MARKET", "limit": "LIMIT", "stop": "STOP_LOSS"}
_CODES = {
    refusal("no_funds").text: "insufficient_funds",
    refusal("duplicate").text: "duplicate_client_id",
    refusal("would_trigger").text: "stop_would_trigger",
    refusal("market_closed").text: "market_halted",
    refusal("bad_symbol").text: "unknown_market",
    refusal("skewed").text: "clock_skew",
    refusal("unknown_order").text: "unknown_order",
    refusal("timeout").text: "timeout",
    refusal("busy").text: "internal_error",
}


class TemplateError(ApiError):
    """A refusal: {"error": code, "message": text}."""

    def body(self) -> dict[str, object]:
        """Return the JSON object of the answer."""
        return {"error": str(self.data), "message": self.text}


class TemplateRules(RequestRules):
    """The rules of a request."""

    id_name = "id"

    def ids(self, params: Params) -> list[str]:
        """Return our client id of the order that a request is about."""
        found = dict(params.items()).get("client_id", "")
        return [found] if found else []

    def symbol(self, params: Params) -> str:
        """Return the engine's name of the market."""
        return dict(params.items()).get("market", "").replace("-", "")

    def check(self, exchange: LocalExchange, call: Call) -> None:
        """Refuse a wrong key or signature."""
        if call.endpoint.security:
            exchange.keyring.check_key(call.api_key)
            call.check_signature()

    def refused(self, error: ApiError, path: str) -> ApiError:
        """Return a refusal of the engine or of a fault in this wire's form."""
        if error.status in (418, 429) or error.code == -1015:
            code = "too_many_requests"
        elif error.code in (-1022, -2014, -2015):
            code = "unauthorized"
        elif error.text.startswith("Filter failure"):
            code = "wrong_price" if "PRICE" in error.text else "wrong_quantity"
        else:
            code = _CODES.get(error.text, "internal_error" if error.status >= 500 else "invalid_request")
        return TemplateError(error.code, error.text, status=error.status, data=code, headers=error.headers)

    def headers(self, exchange: LocalExchange, call: Call) -> dict[str, str]:
        """Return none."""
        return {}


class TemplateFront(Front):
    """The wire."""

    prefixes = (PREFIX,)

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange, self.rules = exchange, TemplateRules()
        public: dict[str, Callable[[Params], object]] = {
            "time": lambda _: {"time": exchange.wall_ms()},
            "markets": self.markets,
            "price": self.price,
        }
        private: dict[tuple[str, str], Callable[[Params], object]] = {
            ("POST", "orders"): self.new_order,
            ("POST", "cancel"): self.cancel,
            ("GET", "open_orders"): lambda _: {"orders": [self._row(order) for order in exchange.open_orders()]},
            ("GET", "order"): self.order,
            ("GET", "executions"): self.executions,
            ("GET", "balances"): self.balances,
            ("GET", "key"): self.key,
        }
        named = [(("GET", name), handler, "") for name, handler in public.items()]
        named += [(place, handler, "signed") for place, handler in private.items()]
        self.endpoints = {
            (method, PREFIX + name): Endpoint(lambda _, params, handler=handler: handler(params), 1, security)  # type: ignore[misc]
            for (method, name), handler, security in named
        }

    def call(self, sent: Arrived, endpoint: Endpoint, named: Mapping[str, str]) -> Call:
        """Return a request: parameters in the query or in the JSON body, credentials in headers."""
        values = dict(parse_qsl(sent.query)) | (json_values(sent.body) if sent.method == "POST" else {})
        key, stamp = sent.headers.get("X-Key", ""), sent.headers.get("X-Time", "")
        target = sent.path + (f"?{sent.query}" if sent.query else "")
        signed = f"{stamp}{sent.method}{target}".encode() + sent.body
        signature = sent.headers.get("X-Sign", "")
        check = self._exchange.keyring.check_signature
        return self._call(sent, endpoint, values, key, lambda: check(signed, signature, key))

    def unknown(self, path: str) -> object | None:
        """Return None: the answer is a page."""
        return None

    def made(self, path: str, params: Mapping[str, str]) -> list[str]:
        """Return the client id of a new order."""
        return [params["client_id"]] if path == f"{PREFIX}orders" and "client_id" in params else []

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────
    def markets(self, _params: Params) -> object:
        """List the markets."""
        listed = [state.market.listing for state in self._exchange.states.values()]
        return {"markets": [{"name": f"{x.base}-{x.quote}", "base": x.base, "quote": x.quote} for x in listed]}

    def price(self, params: Params) -> object:
        """Return the last price of a market."""
        state = self._exchange.current_state(self.rules.symbol(params), is_new=False)
        return {"price": show(state.market.last_price)}

    def new_order(self, params: Params) -> object:
        """Place an order, before its deadline."""
        if (params.number("deadline") or 0) < self._exchange.wall_ms():
            raise refusal("skewed")
        symbol, client_id = self.rules.symbol(params), params.text("client_id")
        self._exchange.current_state(symbol)
        if self._exchange.store.orders("client_id = ?", (client_id,)):
            raise refusal("duplicate")
        new = NewOrder(
            symbol,
            params.choice("side", ("BUY", "SELL"), "bad_side"),
            _TYPES.get(params.text("type"), ""),
            tif=(params.maybe("time_in_force") or "gtc").upper(),
            quantity=params.atoms("quantity"),
            price=params.atoms("price"),
            stop_price=params.atoms("stop_price"),
            client_id=client_id,
            fee_asset=self._exchange.state(symbol).market.listing.quote,
        )
        if not new.type:
            raise refusal("bad_type")
        self._exchange.spend_orders(symbol)
        order, _ = self._exchange.engine.place(new)
        return self._row(order)

    def cancel(self, params: Params) -> object:
        """Cancel an open order by our id."""
        order = next((x for x in self._exchange.open_orders() if x.client_id == params.text("client_id")), None)
        if order is None:
            raise refusal("unknown_order")
        self._exchange.current_state(order.symbol, is_new=False)
        if order.is_open:
            self._exchange.engine.cancel(order)
        return self._row(order)

    def order(self, params: Params) -> object:
        """Return the order of a client id, or those of ids, in a list."""
        store = self._exchange.store
        if "client_id" in params:
            found = store.orders("client_id = ?", (params.text("client_id"),))
        else:
            wanted = [name for name in params.text("ids").split(",") if name.isdecimal()]
            found = [order for order in map(self._exchange.order, map(int, wanted)) if order is not None]
        return {"orders": [self._row(order) for order in found]}

    def executions(self, params: Params) -> object:
        """Return executions from a time on, oldest first, page by page."""
        found = self._exchange.store.fills("wall_ms >= ?", (params.number("since") or 0,), by_time=True)
        first = params.number("cursor") or 0
        end = first + PAGE
        return {
            "executions": [self._execution(x) for x in found[first:end]],
            "cursor": str(end) if end < len(found) else "",
        }

    def balances(self, _params: Params) -> object:
        """Return what the account holds."""
        held = self._exchange.held().items()
        return {"balances": [{"currency": a, "free": show(n - busy), "locked": show(busy)} for a, (n, busy) in held]}

    def key(self, params: Params) -> object:
        """Return the account and the rights of the key."""
        rule = self._exchange.keyring.rights.get(params.text("apiKey"), KeyRule())
        return {"account": str(self._exchange.keyring.uid), "can_withdraw": rule.may_withdraw}

    def _row(self, order: SimOrder) -> dict[str, Any]:
        listing = self._exchange.state(order.symbol).market.listing
        status = {"FILLED": "filled", "CANCELED": "cancelled", "EXPIRED": "expired"}.get(order.status, "open")
        if order.is_open and order.is_conditional and not order.is_triggered:
            status = "waiting"
        return {
            "id": str(order.order_id),
            "client_id": order.client_id,
            "market": f"{listing.base}-{listing.quote}",
            "side": order.side.lower(),
            "status": status,
            "quantity": show(order.quantity),
            "filled": show(order.executed),
            "price": show(order.price) if order.has_limit else None,
            "stop_price": show(order.stop_price) if order.is_conditional else None,
            "time": order.update_ms or order.time_ms,
        }

    def _execution(self, fill: SimFill) -> dict[str, Any]:
        listing = self._exchange.state(fill.symbol).market.listing
        return {
            "id": f"{fill.symbol}-{fill.trade_id}",
            "order_id": str(fill.order_id),
            "market": f"{listing.base}-{listing.quote}",
            "side": "buy" if fill.is_buyer else "sell",
            "quantity": show(fill.quantity),
            "price": show(fill.price),
            "fee": show(fill.commission),
            "time": fill.wall_ms,
            "is_maker": fill.is_maker,
        }
