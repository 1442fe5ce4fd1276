"""Coinbase's private REST: orders, their lists, fills and the account, with that exchange's credentials and limits.

One engine, one account and one log stand behind it and Binance's wire. Lists come in pages of a few rows, fewer than
asked for, so that a client that reads one page only misses some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import NAMESPACE_OID, uuid5

from fks.lab.sim.atoms import parse
from fks.lab.sim.calls import Call, RequestRules
from fks.lab.sim.coinbase import market
from fks.lab.sim.coinbase.orders import (
    BRACKET,
    CoinbaseError,
    FailedOrder,
    bracket_of,
    bracket_prices,
    failed,
    fill_row,
    iso,
    order_number,
    order_row,
    order_uuid,
    plain,
    product_of,
    status,
)
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.entry import NewOrder
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.keys import KeyRule
from fks.lab.sim.limits import DecayingCount
from fks.lab.sim.orders import OrderList, SimFill, SimOrder
from fks.lab.sim.params import Params
from fks.lab.sim.trade_api import is_hidden

T = TypeVar("T")
ORDERS = f"{market.PRIVATE}orders"
CANCELS = f"{ORDERS}/batch_cancel"
PAGE_MAX = 20  # rows of a list; the real one gives up to 250 accounts, 100 fills and 1000 orders
CALLS_PER_S = 30
_CANCELS_MAX = 100
_STOP_UP, _STOP_DOWN = "STOP_DIRECTION_STOP_UP", "STOP_DIRECTION_STOP_DOWN"
#: configurations -> time in force; those with a limit, a stop or an end have these parameters
_CONFIGURATIONS = {
    "market_market_ioc": "GTC",
    "limit_limit_gtc": "GTC",
    "limit_limit_gtd": "GTC",
    "limit_limit_fok": "FOK",
    "sor_limit_ioc": "IOC",
    "stop_limit_stop_limit_gtc": "GTC",
    "stop_limit_stop_limit_gtd": "GTC",
    "trigger_bracket_gtc": "GTC",
}
_ATTACHED = "attached_order_configuration"
_OPEN = ("OPEN", "PENDING", "QUEUED")
#: what a repeated request has in common with the first one
_IDENTITY = ("symbol", "side", "type", "tif", "price", "stop_price", "quote_wanted")
_WORST_PCT = 95  # of its trigger is the limit of a bracket's stop that sells, and 105 of one that buys


class CoinbaseRules(RequestRules):
    """The rules of Coinbase's requests."""

    id_name = "order_id"

    def __init__(self, exchange: LocalExchange) -> None:
        monotonic = exchange.clock.monotonic
        self.products = {product.id: product for product in map(product_of, exchange.states.values())}
        self._calls: dict[str, DecayingCount] = defaultdict(lambda: DecayingCount(CALLS_PER_S, monotonic))
        self._is_on = exchange.options.has_rate_limits

    def ids(self, params: Params) -> list[str]:
        """Return the client order id of a request, in a list; none without one."""
        found = dict(params.items()).get("client_order_id", "")
        return [found] if found else []

    def symbol(self, params: Params) -> str:
        """Return the exchange's symbol of the product that the request names, "" for none or an unknown one."""
        product = self.products.get(dict(params.items()).get("product_id", ""))
        return product.state.symbol if product is not None else ""

    def spend(self, exchange: LocalExchange, call: Call) -> None:
        """Count a public request; a private one counts once its credentials are proven."""
        if not call.endpoint.security:
            super().spend(exchange, call)

    def check(self, exchange: LocalExchange, call: Call) -> None:
        """Refuse a wrong key or token, and calls above the key's limit. Errors: ApiError."""
        if not call.endpoint.security:
            return
        exchange.keyring.check_key(call.api_key)
        call.check_signature()
        if self._calls[call.api_key].add(1, 2 * CALLS_PER_S) + 1 > CALLS_PER_S and self._is_on:
            raise exchange.limits.too_much(1)

    def refused(self, error: ApiError, path: str) -> ApiError:
        """Return a refusal in Coinbase's form: by the gateway, or of a new order whose outcome is a failure."""
        if isinstance(error, CoinbaseError | FailedOrder):
            return error
        made = self._by_gateway(error)
        if made is None and path == ORDERS:
            # the text of a fault is a reason, and "" an answer without one
            is_reason = error.code == -1000 and error.text.replace("_", "").isupper()
            return FailedOrder(error.text) if is_reason or not error.text else failed(error)
        made = made or CoinbaseError("internal_server_error", error.text, status=500, is_listed=True)
        made.headers.update(error.headers)
        return made

    @staticmethod
    def _by_gateway(error: ApiError) -> CoinbaseError | None:
        if error.status in (418, 429) or error.code == -1015:
            return CoinbaseError("rate_limit_exceeded", "Rate limit exceeded", status=429, is_listed=True)
        if error.text in _UNAUTHORIZED:
            return CoinbaseError("unauthorized", error.text, status=401)
        if error.status < 500 and error.code in (-1100, -1102, -1105, -1130):
            return CoinbaseError("INVALID_ARGUMENT", error.text)
        return None

    def headers(self, exchange: LocalExchange, call: Call) -> dict[str, str]:
        """Return none: a client would count Binance's headers."""
        return {}


_UNAUTHORIZED = {refusal(name).text for name in ("bad_key", "bad_key_format", "bad_signature", "skewed")}


class CoinbaseAccount:
    """The private endpoints of one exchange. `endpoints` is their table, `rules` are those of every request."""

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        self.rules = CoinbaseRules(exchange)
        self._products = {product.state.symbol: product for product in self.rules.products.values()}
        self._portfolio = str(uuid5(NAMESPACE_OID, exchange.keyring.keys.api_key))
        handlers: dict[tuple[str, str], Callable[[Params], object]] = {
            ("POST", ORDERS): self.new_order,
            ("POST", f"{ORDERS}/preview"): self.preview,
            ("POST", CANCELS): self.cancel_orders,
            ("GET", f"{ORDERS}/historical/batch"): self.list_orders,
            ("GET", f"{ORDERS}/historical/fills"): self.list_fills,
            ("GET", f"{ORDERS}/historical/{{order_id}}"): self.one_order,
            ("GET", f"{market.PRIVATE}accounts"): self.accounts,
            ("GET", f"{market.PRIVATE}key_permissions"): self.key_permissions,
            ("GET", f"{market.PRIVATE}transaction_summary"): self.transaction_summary,
        }
        self.endpoints = {
            place: Endpoint(lambda _exchange, params, handler=handler: handler(params), 1, "signed")  # type: ignore[misc]
            for place, handler in handlers.items()
        }

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    def new_order(self, params: Params) -> object:
        """Place an order; a request repeated with its client id returns the first order, and is not carried out.

        Errors: FailedOrder, DUPLICATE_CLIENT_ORDER_ID when the id is that of another order.
        """
        new, pair = self._read_order(params)
        known = self._exchange.store.orders("client_id = ?", (new.client_id,))
        if known:
            if any(getattr(known[0], name) != getattr(new, name) for name in _IDENTITY):
                raise refusal("duplicate")
            return self._placed(known[0])
        self._exchange.current_state(new.symbol)
        self._exchange.spend_orders(new.symbol, 0)  # the fault; the limit itself is this wire's
        try:
            if pair:
                is_attached = pair[-1] is not new and pair[0] is not new
                _, orders, _ = self._exchange.engine.place_list("", pair, new if is_attached else None)
                order = next(order for order in orders if order.client_id == new.client_id)
            else:
                order, _ = self._exchange.engine.place(new)
        except ApiError as error:
            if error.text != refusal("would_trigger").text:
                raise
            raise FailedOrder(
                f"PREVIEW_STOP_PRICE_{'BELOW' if new.side == 'BUY' else 'ABOVE'}_LAST_TRADE_PRICE"
            ) from None
        return self._placed(order)

    def preview(self, params: Params) -> object:
        """Check a new order and make none; its faults are a list."""
        try:
            new, pair = self._read_order(params, is_preview=True)
            if not pair:
                self._exchange.engine.check(new)
        except FailedOrder as error:
            return {"errs": [error.text], "warning": [], "preview_id": ""}
        except ApiError as error:
            return {"errs": [failed(error).text], "warning": [], "preview_id": ""}
        return {"errs": [], "warning": [], "preview_id": str(uuid5(NAMESPACE_OID, repr(new)))}

    def _placed(self, order: SimOrder) -> object:
        number, product = order_uuid(order.order_id), self._products[order.symbol]
        pair = self._list(order)
        is_origin = pair is not None and order.order_id not in pair.pair_ids
        return {
            "success": True,
            "failure_reason": "UNKNOWN_FAILURE_REASON",
            "order_id": number,
            "success_response": {
                "order_id": number,
                "product_id": product.id,
                "side": order.side,
                "client_order_id": order.client_id,
                "attached_order_id": order_uuid(_leading(pair)) if pair is not None and is_origin else "",
            },
            "order_configuration": None,
        }

    def _read_order(self, params: Params, *, is_preview: bool = False) -> tuple[NewOrder, list[NewOrder]]:
        """Return an order, and the pair of a bracket (above, below), of which it is the stop, or to which it is
        attached."""
        side = params.maybe("side")
        product, client_id = self.rules.products.get(params.maybe("product_id")), params.maybe("client_order_id")
        if not is_preview and (not client_id or len(client_id) > 128):
            raise CoinbaseError("INVALID_ARGUMENT", "client_order_id is required")
        if side not in ("BUY", "SELL"):
            raise FailedOrder("INVALID_SIDE")
        if product is None:
            raise FailedOrder("INVALID_PRODUCT_ID")
        given = {
            name.split("[")[1].rstrip("]") for name, _ in params.items() if name.startswith("order_configuration[")
        }
        attached = {name.removeprefix(_ATTACHED): value for name, value in params.items() if name.startswith(_ATTACHED)}
        if len(given) != 1 or not given <= _CONFIGURATIONS.keys():
            raise FailedOrder("UNSUPPORTED_ORDER_CONFIGURATION")
        kind = given.pop()
        new = NewOrder(
            product.state.symbol,
            side,
            "MARKET" if kind == "market_market_ioc" else "LIMIT",
            tif=_CONFIGURATIONS[kind],
            client_id=client_id,
            fee_asset=product.listing.quote,
        )

        def field(name: str) -> str:
            return params.maybe(f"order_configuration[{kind}][{name}]")

        if attached and (side != "BUY" or not kind.startswith("limit_limit")):
            raise FailedOrder("UNSUPPORTED_ORDER_CONFIGURATION")
        if kind == "market_market_ioc" and field("quote_size"):
            return replace(new, quote_wanted=_amount(field("quote_size"), "INVALID_SIZE_PRECISION")), []
        quantity = _amount(field("base_size"), "INVALID_SIZE_PRECISION")
        if quantity < product.listing.lot_min:
            raise FailedOrder("PREVIEW_INVALID_BASE_SIZE_TOO_SMALL")
        new = replace(new, quantity=quantity)
        if new.type == "MARKET":
            return new, []
        if kind == "trigger_bracket_gtc":
            prices = [_amount(field(name), "INVALID_PRICE_PRECISION") for name in ("limit_price", "stop_trigger_price")]
            return self._bracket(new, prices[0], prices[1])
        new = replace(new, price=_amount(field("limit_price"), "INVALID_PRICE_PRECISION"))
        if field("post_only") == "true":
            new = replace(new, type="LIMIT_MAKER")
        if kind.startswith("stop_limit"):
            direction = field("stop_direction")
            if direction not in (_STOP_UP, _STOP_DOWN):
                raise FailedOrder("INVALID_REQUEST", "stop_direction")
            is_stop = (direction == _STOP_UP) == (side == "BUY")
            stop = _amount(field("stop_price"), "INVALID_PRICE_PRECISION")
            new = replace(new, type="STOP_LOSS_LIMIT" if is_stop else "TAKE_PROFIT_LIMIT", stop_price=stop)
        if kind.endswith("_gtd"):
            new = replace(new, expire_ms=_moment(field("end_time")))
            if new.expire_ms <= self._exchange.wall_ms():
                raise FailedOrder("INVALID_REQUEST", "end_time")
        return new, self._attached(new, attached)

    def _attached(self, new: NewOrder, given: dict[str, str]) -> list[NewOrder]:
        """Return the pair of the bracket that waits for an order's complete fill: it has that order's size."""
        if not given:
            return []
        names = {name: f"[trigger_bracket_gtc][{name}]" for name in ("limit_price", "stop_trigger_price", "base_size")}
        if set(given) - set(names.values()):
            raise FailedOrder("UNSUPPORTED_ORDER_CONFIGURATION")
        if names["base_size"] in given:
            raise FailedOrder("INVALID_REQUEST", "the attached order has the size of its order")
        limit = _amount(given.get(names["limit_price"], ""), "PREVIEW_INVALID_ATTACHED_TAKE_PROFIT_PRICE")
        stop = _amount(given.get(names["stop_trigger_price"], ""), "PREVIEW_INVALID_ATTACHED_STOP_LOSS_PRICE")
        if limit <= new.price:
            raise FailedOrder("PREVIEW_INVALID_ATTACHED_TAKE_PROFIT_PRICE")
        if stop >= new.price:
            raise FailedOrder("PREVIEW_INVALID_ATTACHED_STOP_LOSS_PRICE")
        leg = NewOrder(
            new.symbol,
            "SELL",
            "LIMIT",
            quantity=new.quantity,
            client_id=str(uuid5(NAMESPACE_OID, f"attached{new.client_id}")),
            fee_asset=new.fee_asset,
        )
        return self._pair(leg, limit, stop)

    def _bracket(self, new: NewOrder, limit: int, stop: int) -> tuple[NewOrder, list[NewOrder]]:
        state = self._exchange.state(new.symbol)
        last, is_sell = self._exchange.engine.last_price(state), new.side == "SELL"
        if (limit > stop) is not is_sell:
            raise FailedOrder("PREVIEW_INVALID_BRACKET_PRICES")
        if not min(limit, stop) < last < max(limit, stop):
            is_stop = (stop >= last) is is_sell
            raise FailedOrder(f"PREVIEW_{'STOP_TRIGGER' if is_stop else 'BRACKET_LIMIT'}_PRICE_OUT_OF_BOUNDS")
        pair = self._pair(new, limit, stop)
        return pair[-1 if is_sell else 0], pair

    def _pair(self, leg: NewOrder, limit: int, stop: int) -> list[NewOrder]:
        """Return a bracket's orders, above and below. The stop has the client id, and a limit beyond its trigger."""
        tick, is_sell = self._exchange.state(leg.symbol).market.listing.tick, leg.side == "SELL"
        worst = stop * (_WORST_PCT if is_sell else 200 - _WORST_PCT) // 100 // tick * tick
        profit = replace(leg, type="LIMIT_MAKER", price=limit, client_id="")
        loss = replace(leg, type="STOP_LOSS_LIMIT", price=worst, stop_price=stop)
        return [profit, loss] if is_sell else [loss, profit]

    def cancel_orders(self, params: Params) -> object:
        """Cancel orders by Coinbase's ids; one result for each."""
        names = [name for name in params.maybe("order_ids").split(",") if name]
        if not 0 < len(names) <= _CANCELS_MAX:
            raise CoinbaseError("INVALID_ARGUMENT", "order_ids")
        results = []
        for name in names:
            order = self._named(name)
            if order is not None:
                self._exchange.current_state(order.symbol, is_new=False)
            is_open = order is not None and order.is_open
            if order is not None and is_open:
                pair = self._list(order)
                legs = [self._exchange.order(number) for number in pair.pair_ids] if pair is not None else []
                mine = [leg for leg in legs if leg is not None and leg.is_open and order.type == BRACKET]
                one = mine[0] if mine else self._exchange.order(order.order_id)
                assert one is not None
                self._exchange.engine.cancel(one)
            reason = "UNKNOWN_CANCEL_FAILURE_REASON" if is_open else "UNKNOWN_CANCEL_ORDER"
            results.append({"success": is_open, "failure_reason": reason, "order_id": name})
        return {"results": results}

    # ── lists ────────────────────────────────────────────────────────────────────────────────────
    def _named(self, text: str) -> SimOrder | None:
        number = order_number(text)
        order = None if number is None else self._exchange.order(number)
        return None if order is None else self._shown(order)

    def _list(self, order: SimOrder | SimFill) -> OrderList | None:
        """Return the list of the engine that an order or a fill is of."""
        known = self._exchange.engine.lists.get(order.list_id)
        if known is not None or order.list_id < 0:
            return known
        return next(iter(self._exchange.store.lists("list_id = ?", (order.list_id,))), None)

    def _shown(self, order: SimOrder) -> SimOrder | None:
        """Return an order as this wire has it: both of a pair are one bracket, under the stop's id. None for one that
        waits for the order to which it is attached, or that waited in vain."""
        pair = self._list(order)
        if pair is None or order.order_id not in pair.pair_ids:
            return order
        number, made_ms = _leading(pair), order.time_ms
        origin = self._exchange.order(pair.order_ids[0])
        if origin is not None and origin.order_id not in pair.pair_ids:
            fills = self._exchange.store.fills("order_id = ?", (origin.order_id,))
            if origin.status != "FILLED" or not fills:
                return None
            made_ms = fills[-1].wall_ms
        stop = self._exchange.order(number)
        limit = self._exchange.order(next(other for other in pair.pair_ids if other != number))
        assert stop is not None
        assert limit is not None
        return bracket_of(stop, limit, made_ms)

    def _order_row(self, order: SimOrder) -> dict[str, object]:
        pair, numbers = self._list(order), [order.order_id]
        if pair is not None and order.type == BRACKET:
            numbers = pair.pair_ids
        fills = [fill for number in numbers for fill in self._exchange.store.fills("order_id = ?", (number,))]
        row = order_row(order, self._products[order.symbol], fills if order.executed else [], self._portfolio)
        if pair is None or pair.order_ids[0] in pair.pair_ids:
            return row
        if order.type == BRACKET:
            return row | {"originating_order_id": order_uuid(pair.order_ids[0])}
        legs = [self._exchange.order(number) for number in pair.pair_ids]
        price = next(leg.price for leg in legs if leg is not None and not leg.is_conditional)
        stop = next(leg.stop_price for leg in legs if leg is not None and leg.is_conditional)
        return row | {
            "attached_order_id": order_uuid(_leading(pair)),
            _ATTACHED: {"trigger_bracket_gtc": bracket_prices(price, stop)},
        }

    def list_orders(self, params: Params) -> object:
        """Return orders, the newest first, page by page: of ids, a product, states and times where they are named."""
        values, statuses = dict(params.items()), _names(params, "order_status")
        start_ms, end_ms = (_moment(values.get(name, "")) for name in ("start_date", "end_date"))
        if "OPEN" in statuses and len(statuses) > 1:
            raise CoinbaseError("INVALID_ARGUMENT", "OPEN cannot be combined with other states")
        if statuses and set(statuses) <= set(_OPEN):
            found = self._exchange.open_orders()
        elif names := _names(params, "order_ids"):
            found = [order for order in map(self._named, names) if order is not None]
        else:
            found = self._exchange.store.orders("time_ms >= ?", (start_ms,))
        seen = [order if order.type == BRACKET else self._shown(order) for order in found]
        found = list({order.order_id: order for order in seen if order is not None}.values())
        symbols = self._symbols(params)
        wanted = [
            order
            for order in sorted(found, key=lambda order: -order.order_id)
            if (not symbols or order.symbol in symbols)
            and (not statuses or status(order) in statuses)
            and start_ms <= order.time_ms
            and (not end_ms or order.time_ms < end_ms)
            and not is_hidden(self._exchange, order)
        ]
        page, cursor = _page(wanted, params, lambda order: order.order_id)
        return {
            "orders": [self._order_row(order) for order in page],
            "sequence": "0",
            "has_next": bool(cursor),
            "cursor": cursor,
        }

    def _symbols(self, params: Params) -> set[str]:
        names = [*_names(params, "product_ids"), *_names(params, "product_id")]
        return {market.product_named(self._exchange, name).state.symbol for name in names}

    def one_order(self, params: Params) -> object:
        """Return one order."""
        order = self._named(params.text("order_id"))
        if order is None or is_hidden(self._exchange, order):
            raise CoinbaseError("NOT_FOUND", "order with this orderID was not found", status=404)
        return {"order": self._order_row(order)}

    def list_fills(self, params: Params) -> object:
        """Return fills, the newest first, page by page: of ids, a product and times where they are named."""
        values, symbols = dict(params.items()), self._symbols(params)
        names = [*_names(params, "order_ids"), *_names(params, "order_id")]
        numbers = {order_number(name) for name in names}
        start_ms, end_ms = (_moment(values.get(f"{name}_sequence_timestamp", "")) for name in ("start", "end"))
        wanted = [
            fill
            for fill in self._exchange.store.fills("wall_ms >= ?", (start_ms,), by_time=True)
            if (not symbols or fill.symbol in symbols)
            and (not names or self._number(fill) in numbers)
            and (not end_ms or fill.wall_ms < end_ms)
        ]
        page, cursor = _page(list(enumerate(wanted))[::-1], params, lambda item: item[0])
        rows = [fill_row(fill, self._number(fill), self._products[fill.symbol], self._portfolio) for _, fill in page]
        return {"fills": rows, "cursor": cursor}

    def _number(self, fill: SimFill) -> int:
        """Return the number of the order of a fill, as this wire has it."""
        pair = self._list(fill)
        return _leading(pair) if pair is not None and fill.order_id in pair.pair_ids else fill.order_id

    # ── the account ──────────────────────────────────────────────────────────────────────────────
    def accounts(self, params: Params) -> object:
        """Return the accounts, one an asset, page by page."""
        made = iso(int(self._exchange.keyring.made_s * 1000))
        held = self._exchange.held()
        wanted = list(enumerate(sorted(held), 1))[::-1]
        page, cursor = _page(wanted, params, lambda item: item[0])
        rows = [
            {
                "uuid": str(uuid5(NAMESPACE_OID, self._portfolio + asset)),
                "name": f"{asset} Wallet",
                "currency": asset,
                "available_balance": {"value": plain(held[asset][0] - held[asset][1]), "currency": asset},
                "default": True,
                "active": True,
                "created_at": made,
                "updated_at": made,
                "deleted_at": None,
                "type": "ACCOUNT_TYPE_CRYPTO",
                "ready": True,
                "hold": {"value": plain(held[asset][1]), "currency": asset},
                "retail_portfolio_id": self._portfolio,
            }
            for _, asset in page
        ]
        return {"accounts": rows, "has_next": bool(cursor), "cursor": cursor, "size": len(rows)}

    def key_permissions(self, params: Params) -> object:
        """Return the rights of the key that signed the request, and its portfolio, the same for every key here."""
        rule = self._exchange.keyring.rights.get(params.text("apiKey"), KeyRule())
        return {
            "can_view": True,
            "can_trade": True,
            "can_transfer": rule.may_withdraw,
            "portfolio_uuid": self._portfolio,
            "portfolio_type": "DEFAULT",
        }

    def transaction_summary(self, _params: Params) -> object:
        """Return the commission rates. There are no tiers and no volume."""
        terms = self._exchange.engine.terms
        tier = {
            "pricing_tier": "Local",
            "usd_from": "0",
            "usd_to": "",
            "taker_fee_rate": plain(terms.taker_rate),
            "maker_fee_rate": plain(terms.maker_rate),
        }
        return {"total_volume": 0, "total_fees": 0, "fee_tier": tier, "advanced_trade_only_volume": 0}


def _leading(pair: OrderList) -> int:
    """Return the number of a bracket: that of its stop."""
    return pair.pair_ids[-1 if pair.side == "SELL" else 0]


def _page(wanted: Sequence[T], params: Params, number_of: Callable[[T], int]) -> tuple[Sequence[T], str]:
    """Return the rows below the cursor's number, and the cursor of the next page, "" on the last one. Rows fall by
    number. Errors: CoinbaseError INVALID_ARGUMENT for a foreign cursor."""
    text = dict(params.items()).get("cursor", "")
    if text and not text.isdecimal():
        raise CoinbaseError("INVALID_ARGUMENT", "cursor")
    limit = min(params.limit(PAGE_MAX, PAGE_MAX), PAGE_MAX)
    first = next((at for at, row in enumerate(wanted) if not text or number_of(row) < int(text)), len(wanted))
    page = wanted[first : first + limit]
    return page, str(number_of(page[-1])) if first + limit < len(wanted) else ""


def _names(params: Params, name: str) -> list[str]:
    return [text for text in dict(params.items()).get(name, "").split(",") if text]


def _amount(text: str, reason: str) -> int:
    try:
        atoms = parse(text)
    except ValueError:
        raise FailedOrder(reason) from None
    if not atoms:
        raise FailedOrder(reason)
    return atoms


def _moment(text: str) -> int:
    """Return a time in milliseconds, 0 for none. Errors: CoinbaseError INVALID_ARGUMENT."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise CoinbaseError("INVALID_ARGUMENT", f"{text} is no time") from None
    return 0 if moment is None else int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)
