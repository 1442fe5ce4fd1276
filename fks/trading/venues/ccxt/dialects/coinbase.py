"""Coinbase Advanced Trade, spot, REST.

Source: ccxt 4.5.90, whose comments quote bodies of Advanced Trade, its failure reasons as client libraries publish
them, and docs.cdp.coinbase.com/advanced-trade (List Orders, List Fills, List Accounts, Get API Key Permissions), read
2026-11. A refusal is HTTP 200 with `success: false`; without `error_response` ccxt would return an order that has no
id. A repeated request with one client id returns the first order: an order is never posted twice here. No read and no
cancel takes a client id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from fks.model.account import Balance
from fks.model.decimals import plain
from fks.model.errors import PeerError
from fks.model.order import Order, OrderType, Refusal, Report, Side, State, TimeInForce
from fks.model.ports import KeyRights
from fks.trading.venues.ccxt.brackets import TRIGGERED, Brackets, wire_id
from fks.trading.venues.ccxt.dialect import (
    AccountReads,
    Basis,
    CcxtCall,
    Dialect,
    FaultRow,
    PairNames,
    StandIn,
    VenueExecution,
    VenueFact,
    VenueFault,
    ambiguous_rows,
    amount_in,
    known_rows,
    mapping_in,
    needed,
    read_row,
    refused_rows,
    text_in,
)

_NS, _MS = 1_000_000_000, 1_000_000
IDS_MAX = 20  # ids of one request: an address has a few kilobytes
_LIMIT = 250
_BATCH = "v3PrivateGetBrokerageOrdersHistoricalBatch"
_STATES = {
    "PENDING": State.ACCEPTED,
    "QUEUED": State.ACCEPTED,
    "OPEN": State.WORKING,
    "CANCEL_QUEUED": State.WORKING,
    "FILLED": State.FILLED,
    "CANCELLED": State.CANCELLED,
    "EXPIRED": State.EXPIRED,
    "FAILED": State.REJECTED,
}
#: a stop's limit is so far beyond its trigger: there is no stop that becomes a market order, and Coinbase gives the
#: stop of its own brackets as much
_BEYOND = Decimal("0.05")
_TYPES = {
    OrderType.MARKET: "market_market_ioc",
    OrderType.LIMIT: "limit_limit",
    OrderType.STOP: "stop_limit_stop_limit_gtc",
    OrderType.STOP_LIMIT: "stop_limit_stop_limit_gtc",
    OrderType.TAKE_PROFIT: "limit_limit",
}
_LIMITS = {TimeInForce.GTC: "limit_limit_gtc", TimeInForce.IOC: "sor_limit_ioc", TimeInForce.FOK: "limit_limit_fok"}
_REASONS = ("new_order_failure_reason", "preview_failure_reason", "error")
#: reasons that say nothing beside another one; alone they are ambiguous
_NO_REASON = frozenset({"", "UNKNOWN_FAILURE_REASON", "UNKNOWN_PREVIEW_FAILURE_REASON"})
_UNKNOWN_ORDER = frozenset({"UNKNOWN_CANCEL_ORDER", "not_found", "NOT_FOUND"})

_ERRORS: tuple[FaultRow, ...] = (
    *known_rows("DUPLICATE_CLIENT_ORDER_ID"),
    *ambiguous_rows("UNKNOWN_FAILURE_REASON", "UNKNOWN_PREVIEW_FAILURE_REASON", "internal_server_error", "unknown"),
    *refused_rows(Refusal.RATE_LIMITED, "rate_limit_exceeded", "resource_exhausted", "RATE_LIMIT_EXCEEDED"),
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "INSUFFICIENT_FUND", "PREVIEW_INSUFFICIENT_FUND"),
    *refused_rows(Refusal.QUANTITY, "INVALID_SIZE_PRECISION", "PREVIEW_INVALID_SIZE_PRECISION"),
    *refused_rows(Refusal.QUANTITY, "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE"),
    *refused_rows(Refusal.QUANTITY, "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL", "PREVIEW_INVALID_QUOTE_SIZE_TOO_LARGE"),
    *refused_rows(Refusal.PRICE, "INVALID_PRICE_PRECISION", "PREVIEW_INVALID_PRICE_PRECISION", "INVALID_LIMIT_PRICE"),
    *refused_rows(Refusal.PRICE, "PREVIEW_INVALID_LIMIT_PRICE", "PREVIEW_BREACHED_PRICE_LIMIT"),
    *refused_rows(Refusal.WOULD_MATCH, "INVALID_LIMIT_PRICE_POST_ONLY", "PREVIEW_INVALID_LIMIT_PRICE_POST_ONLY"),
    *refused_rows(Refusal.WOULD_TRIGGER, "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE"),
    *refused_rows(Refusal.WOULD_TRIGGER, "PREVIEW_STOP_PRICE_BELOW_LAST_TRADE_PRICE"),
    # documented without a meaning: no proof that the market has passed the price, which is compared with it
    *refused_rows(Refusal.PRICE, "PREVIEW_STOP_TRIGGER_PRICE_OUT_OF_BOUNDS"),
    *refused_rows(Refusal.PRICE, "PREVIEW_BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS"),
    *refused_rows(Refusal.PRICE, "PREVIEW_INVALID_BRACKET_PRICES", "PREVIEW_INVALID_BRACKET_LIMIT_PRICE"),
    *refused_rows(Refusal.PRICE, "PREVIEW_INVALID_BRACKET_STOP_TRIGGER_PRICE"),
    *refused_rows(Refusal.QUANTITY, "PREVIEW_INVALID_ATTACHED_TAKE_PROFIT_SIZE_BELOW_MIN"),
    *refused_rows(Refusal.PRICE, "PREVIEW_INVALID_ATTACHED_", is_prefix=True),
    *refused_rows(Refusal.OTHER, "PREVIEW_BRACKET_ORDER_NOT_SUPPORTED"),
    *refused_rows(Refusal.HALTED, "ORDER_ENTRY_DISABLED", "UNTRADABLE_PRODUCT", "INELIGIBLE_PAIR"),
    *refused_rows(Refusal.PERMISSION, "PERMISSION_DENIED", "unauthorized", "authentication_error", "invalid_token"),
    *refused_rows(Refusal.PERMISSION, "GEOFENCING_RESTRICTION", "FOK_DISABLED", "UNSUPPORTED_ORDER_CONFIGURATION"),
    *refused_rows(Refusal.UNKNOWN_ORDER, *sorted(_UNKNOWN_ORDER)),
    *refused_rows(Refusal.OTHER, "INVALID_ARGUMENT", "INVALID_SIDE", "INVALID_PRODUCT_ID", "INVALID_REQUEST"),
)


def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the errors of a body: the most exact reason of a failed order, of each failed cancel, the gateway's."""
    if not isinstance(body, Mapping):
        return ()
    if isinstance(results := body.get("results"), list):
        return tuple(
            VenueFault(text_in(row, "failure_reason") or "UNKNOWN_FAILURE_REASON")
            for row in results
            if not (isinstance(row, Mapping) and row.get("success") is True)
        )
    given = mapping_in(body, "error_response")
    if body.get("success") is False or given:
        reasons = [text_in(given, name) for name in _REASONS]
        code = next((reason for reason in reasons if reason not in _NO_REASON), "UNKNOWN_FAILURE_REASON")
        return (VenueFault(code, text_in(given, "message")),)
    if isinstance(errors := body.get("errors"), list):
        return tuple(VenueFault(text_in(row, "id") or "unknown", text_in(row, "message")) for row in errors)
    if isinstance(faults := body.get("errs"), list):  # of a preview
        return tuple(VenueFault(row if isinstance(row, str) else "unknown") for row in faults)
    code = text_in(body, "error")
    return (VenueFault(code, text_in(body, "message")),) if code else ()


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the id of the order that a body acknowledges under our client id."""
    found = mapping_in(body, "success_response")
    is_ours = isinstance(body, Mapping) and body.get("success") is True and not mapping_in(body, "error_response")
    is_ours = is_ours and text_in(found, "client_order_id") == order.client_order_id
    return (text_in(found, "order_id") or None) if is_ours else None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of a new order, in units of the base currency. ccxt drops `clientOrderId` and sends an id of
    its own: the exchange's own name is used."""
    name, sizes = _configured(order)
    return _new(order.client_order_id, order, pair, {"order_configuration": {name: sizes}})


def validate(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of a preview, which answers with the cost of a new order and its faults in `errs`."""
    call = place(order, pair, deadline_ns)
    params = {name: value for name, value in call.params.items() if name != "client_order_id"}
    return CcxtCall("v3PrivatePostBrokerageOrdersPreview", params)


def _new(client_id: str, order: Order, pair: str, configured: Mapping[str, Any]) -> CcxtCall:
    params = {"client_order_id": client_id, "product_id": pair, "side": order.side.value.upper(), **configured}
    return CcxtCall("v3PrivatePostBrokerageOrders", params, is_write=True)


def _configured(order: Order) -> tuple[str, dict[str, str]]:
    name, sizes = _TYPES[order.type], {"base_size": plain(order.quantity)}
    if name == "limit_limit":
        name = _LIMITS[order.time_in_force]
        sizes["limit_price"] = plain(needed(order.price))
    elif order.type in (OrderType.STOP, OrderType.STOP_LIMIT):
        stop_price = needed(order.stop_price)
        limit = beyond(stop_price, order.side) if order.type is OrderType.STOP else needed(order.price)
        sizes |= {
            "limit_price": plain(limit),
            "stop_price": plain(stop_price),
            "stop_direction": f"STOP_DIRECTION_STOP_{'UP' if order.side is Side.BUY else 'DOWN'}",
        }
    return name, sizes


def place_bracket(stop: Order, limit: Order, pair: str) -> CcxtCall:
    """Return the request of a stop and a take profit as one order."""
    sizes = {"base_size": plain(stop.quantity), **_exits(stop, limit)}
    return _new(wire_id((stop, limit)), stop, pair, {"order_configuration": {"trigger_bracket_gtc": sizes}})


def attach(entry: Order, stop: Order, limit: Order, pair: str) -> CcxtCall:
    """Return the request of an entry with its exits. These have no size: it is the entry's."""
    name, sizes = _configured(entry)
    exits = {"trigger_bracket_gtc": _exits(stop, limit)}
    configured = {"order_configuration": {name: sizes}, "attached_order_configuration": exits}
    return _new(wire_id((entry, stop, limit)), entry, pair, configured)


def _exits(stop: Order, limit: Order) -> dict[str, str]:
    return {"limit_price": plain(needed(limit.price)), "stop_trigger_price": plain(needed(stop.stop_price))}


def origins_of(body: Any) -> dict[str, str]:
    """Return the ids of attached orders and of the entries that they are attached to, from a list of orders."""
    found: dict[str, str] = {}
    rows = body.get("orders") if isinstance(body, Mapping) else None
    for row in rows if isinstance(rows, list) else ():
        number = text_in(row, "order_id")
        if number and (origin := text_in(row, "originating_order_id")):
            found[number] = origin
        if number and (attached := text_in(row, "attached_order_id")):
            found[attached] = number
    return found


def beyond(stop_price: Decimal, side: Side) -> Decimal:
    """Return the limit of a stop: _BEYOND beyond its trigger, away from it on the digits that the trigger has."""
    unit = Decimal(1).scaleb(min(int(stop_price.as_tuple().exponent), 0))
    if side is Side.BUY:
        return (stop_price * (1 + _BEYOND)).quantize(unit, ROUND_CEILING)
    return max((stop_price * (1 - _BEYOND)).quantize(unit, ROUND_FLOOR), unit)


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of a cancel: only the exchange's own id is taken."""
    return CcxtCall(
        "v3PrivatePostBrokerageOrdersBatchCancel", {"order_ids": [order.venue_order_id or ""]}, is_write=True
    )


def cancelled_of(body: Any, order: Order) -> bool:
    """Return False: a cancel is queued when it is acknowledged."""
    return False


# ── readers ──────────────────────────────────────────────────────────────────────────────────────
def _rows(body: Any, name: str) -> list[Any]:
    rows = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        raise PeerError(f"coinbase: an answer without {name}: {str(body)[:300]}")
    return rows


def _time_ns(row: Mapping[str, Any], name: str) -> int:
    moment = datetime.fromisoformat(str(row[name]))
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no zone")
    return int(moment.timestamp()) * _NS + moment.microsecond * 1000


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // _MS / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def next_page(call: CcxtCall, body: Any) -> CcxtCall | None:
    """Return the read of the page that an answer's cursor names. Errors: PeerError for one that goes on without."""
    cursor = text_in(body, "cursor")
    if isinstance(body, Mapping) and body.get("has_next") is True and not cursor:
        raise PeerError(f"coinbase: a page that goes on without a cursor: {str(body)[-300:]}")
    if not cursor or body.get("has_next") is False:
        return None
    if cursor == call.params.get("cursor"):
        raise PeerError("coinbase: a page names itself as the next one")
    return replace(call, params={**call.params, "cursor": cursor})


def markets_of(body: Any) -> list[PairNames]:
    """Return the spot products. An alias of another product is left out: its orders may be listed under either name.
    Errors: PeerError."""
    rows = _rows(body, "products")
    found = [read_row("coinbase: a product", row, lambda row=row: _pair(row)) for row in rows]  # type: ignore[misc]
    return [pair for pair in found if pair is not None]


def _pair(row: Mapping[str, Any]) -> PairNames | None:
    name, base, quote = (str(row[key]) for key in ("product_id", "base_currency_id", "quote_currency_id"))
    if row.get("product_type") != "SPOT" or row.get("alias") or name != f"{base}-{quote}":
        return None
    return PairNames(name, name, (name,), base, quote, base, quote)


def listing(pair: str, since_ns: int) -> CcxtCall:
    """Return the read of a product's orders made from `since_ns` on, of each state, newest first."""
    params: dict[str, Any] = {"product_ids": [pair], "limit": _LIMIT}
    if since_ns:
        params["start_date"] = _rfc3339(since_ns)
    return CcxtCall(_BATCH, params)


def by_ids(numbers: Sequence[str]) -> CcxtCall:
    """Return the read of orders by Coinbase's ids, at most IDS_MAX."""
    return CcxtCall(_BATCH, {"order_ids": list(numbers), "limit": _LIMIT})


def orders_of(body: Any, pairs: Mapping[str, PairNames]) -> list[Report]:
    """Return the orders of one page. Errors: PeerError."""
    rows = _rows(body, "orders")
    return [read_row("coinbase: an order", row, lambda row=row: _report(row, pairs)) for row in rows]  # type: ignore[misc]


def _report(row: Mapping[str, Any], pairs: Mapping[str, PairNames]) -> Report:
    number, product, status = (str(row[name]) for name in ("order_id", "product_id", "status"))
    ((kind, sizes),) = row["order_configuration"].items()
    filled, state = amount_in(row, "filled_size"), _STATES[status]
    is_bracket = kind.startswith("trigger_bracket")
    if state is State.WORKING:
        is_waiting = kind.startswith(("stop_limit", "trigger_bracket")) and row.get("trigger_status") != TRIGGERED
        is_waiting = is_waiting and not (is_bracket and filled)
        state = State.ACCEPTED if is_waiting else State.PARTIAL if filled else state
    # an order in the quote currency has no quantity of its own: it is that of its executions
    quantity = amount_in(sizes, "base_size") if sizes.get("base_size") else filled
    reason = next((str(row[name]) for name in ("reject_message", "cancel_message") if row.get(name)), None)
    code = row.get("reject_reason") if state is State.REJECTED else None
    if is_bracket and row.get("trigger_status") == TRIGGERED:
        code = TRIGGERED
    stop_price = next((sizes[name] for name in ("stop_price", "stop_trigger_price") if sizes.get(name)), None)
    pair = pairs.get(product)
    return Report(
        client_order_id=str(row.get("client_order_id") or number),
        venue_order_id=number,
        symbol=pair.symbol if pair is not None else product,
        state=state,
        filled=filled,
        time_ns=_time_ns(row, "last_fill_time" if filled and row.get("last_fill_time") else "created_time"),
        side=Side(str(row["side"]).lower()),
        quantity=quantity,
        price=amount_in(sizes, "limit_price") if sizes.get("limit_price") else None,
        source="rest",
        code=str(code) if code else None,
        detail=reason,
        stop_price=None if stop_price is None else amount_in({"stop_price": stop_price}, "stop_price"),
    )


def history(since_ns: int) -> CcxtCall:
    """Return the read of executions in all products from a second before `since_ns` on, newest first."""
    params = {"start_sequence_timestamp": _rfc3339(max(since_ns - _NS, 0)), "limit": _LIMIT}
    return CcxtCall("v3PrivateGetBrokerageOrdersHistoricalFills", params)


def history_of(body: Any, pairs: Mapping[str, PairNames]) -> list[VenueExecution]:
    """Return one page of executions; those in unknown products are left out. Errors: PeerError, also for a row that
    takes an execution back: the account must be looked at."""
    return [
        read_row("coinbase: an execution", row, lambda row=row: _execution(row, pairs[str(row["product_id"])]))  # type: ignore[misc]
        for row in _rows(body, "fills")
        if not isinstance(row, Mapping) or str(row.get("product_id")) in pairs
    ]


def _execution(row: Mapping[str, Any], pair: PairNames) -> VenueExecution:
    if row["trade_type"] != "FILL":
        raise ValueError(f"trade_type {row['trade_type']}")
    quantity, price = amount_in(row, "size"), amount_in(row, "price")
    if quantity <= 0 or price <= 0:
        raise ValueError(f"size {quantity} at {price}")
    return VenueExecution(
        trade_id=str(row["trade_id"]),
        venue_order_id=str(row["order_id"]),
        symbol=pair.symbol,
        side=Side(str(row["side"]).lower()),
        quantity=quantity / price if row.get("size_in_quote") is True else quantity,
        price=price,
        fee=amount_in(row, "commission"),
        fee_currency=pair.quote,
        time_ns=_time_ns(row, "trade_time"),
        is_maker=row.get("liquidity_indicator") == "MAKER",
    )


def balances_of(body: Any, currencies: Mapping[str, str]) -> list[Balance]:
    """Return the balances of one page of accounts. Errors: PeerError."""
    rows = _rows(body, "accounts")
    return [read_row("coinbase: an account", row, lambda row=row: _balance(row)) for row in rows]  # type: ignore[misc]


def _balance(row: Mapping[str, Any]) -> Balance:
    return Balance(str(row["currency"]), amount_in(row["available_balance"], "value"), amount_in(row["hold"], "value"))


def owner_of(body: Any) -> str:
    """Return the portfolio that the key belongs to: orders and balances are its own. Errors: PeerError without one."""
    number = text_in(body, "portfolio_uuid")
    if not number:
        raise PeerError("coinbase: the key's description names no portfolio")
    return number


def rights_of(body: Any) -> KeyRights:
    """Return the rights of the key; `may_withdraw` is None if the answer does not say. Whether an address is demanded
    is not shown."""
    can = body.get("can_transfer") if isinstance(body, Mapping) else None
    return KeyRights(can if isinstance(can, bool) else None, None)


def clock_of(body: Any) -> tuple[int, int]:
    """Return the bounds of Coinbase's clock: it reports whole milliseconds. Errors: PeerError."""
    first = read_row("coinbase: the time", body, lambda: int(body["epochMillis"]) * _MS)
    return first, first + _MS


def price_of(body: Any) -> Decimal:
    """Return the last price of a product. Errors: PeerError."""
    return read_row("coinbase: the price", body, lambda: amount_in(body, "price"))


DIALECT = Dialect(
    name="coinbase",
    source="docs.cdp.coinbase.com/advanced-trade, as quoted by ccxt 4.5.90",
    types=_TYPES,
    times_in_force=frozenset(TimeInForce),
    faults_of=faults_of,
    order_id_of=order_id_of,
    errors=_ERRORS,
    place=place,
    validate=validate,
    cancel=cancel,
    cancelled_of=cancelled_of,
    unknown_order=_UNKNOWN_ORDER,
    lookups=None,
    amend="v3PrivatePostBrokerageOrdersEdit",
    key_refused=frozenset({"unauthorized", "authentication_error", "invalid_token"}),
    brackets=Brackets(place=place_bracket, attach=attach, origins_of=origins_of),
    facts=(
        VenueFact("success", "success true, order_id, and client_order_id is ours", Basis.RECORDED),
        VenueFact("client id", "client_order_id; a repeated request returns the first order", Basis.STAND_IN),
        VenueFact("duplicate", "DUPLICATE_CLIENT_ORDER_ID: the order exists; nothing is posted twice", Basis.STAND_IN),
        VenueFact(
            "ambiguous",
            "UNKNOWN_FAILURE_REASON, success false without a reason, each reason without a row",
            Basis.RECORDED,
        ),
        VenueFact(
            "absence",
            "orders of the product from the send on, to the last page; then executions, each of a listed order",
            Basis.STAND_IN,
        ),
        VenueFact("pages", "lists of orders, executions and accounts go on while there is a cursor", Basis.STAND_IN),
        VenueFact("cancel", "by Coinbase's id only; queued when it is acknowledged, then read", Basis.STAND_IN),
        VenueFact("stops", "stop limit only: a stop's limit is 5 % beyond its trigger", Basis.STAND_IN),
        VenueFact("bracket", "stop and take profit are one order, trigger_bracket_gtc", Basis.STAND_IN),
        VenueFact(
            "protection",
            "held by the exchange from the entry's complete fill on: a buy goes out with its stop and take profit",
            Basis.STAND_IN,
        ),
        VenueFact("fees", "in the quote currency, beside the amount", Basis.RECORDED),
        VenueFact("deadline", "none", Basis.DOCUMENTED),
        VenueFact("key", "ES256 token for each request; can_transfer is the right to withdraw", Basis.STAND_IN),
        VenueFact("transfers", "not read: their amounts count as drift", Basis.DOCUMENTED),
    ),
    reads=AccountReads(
        markets=CcxtCall("v3PublicGetBrokerageMarketProducts", {"product_type": "SPOT"}),
        markets_of=markets_of,
        open_orders=CcxtCall(_BATCH, {"order_status": "OPEN", "limit": _LIMIT}),
        orders_of=orders_of,
        by_ids=by_ids,
        ids_max=IDS_MAX,
        history=history,
        history_of=history_of,
        next_page=next_page,
        balances=CcxtCall("v3PrivateGetBrokerageAccounts", {"limit": _LIMIT}),
        balances_of=balances_of,
        owner=CcxtCall("v3PrivateGetBrokerageKeyPermissions"),
        owner_of=owner_of,
        rights_of=rights_of,
        clock=CcxtCall("v3PublicGetBrokerageTime"),
        clock_of=clock_of,
        price=lambda pair: CcxtCall("v3PublicGetBrokerageMarketProductsProductId", {"product_id": pair}),
        price_of=price_of,
        listing=listing,
    ),
)

STAND_IN = StandIn(
    symbol="BTC-USDT",
    place="/api/v3/brokerage/orders",
    open_orders="/api/v3/brokerage/orders/historical/batch",
    unkind=(
        ({"kind": "error", "msg": ""}, False),  # success: false without a reason
        ({"kind": "error", "msg": "UNKNOWN_FAILURE_REASON"}, False),
        ({"kind": "error", "msg": "A_REASON_OF_TOMORROW"}, False),
        ({"kind": "without_id"}, True),
    ),
)
