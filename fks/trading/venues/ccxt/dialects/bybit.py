"""Bybit spot, v5. Held to recorded bodies only: not traded.

Source: ccxt 4.5.90, whose error table and comments quote bybit-exchange.github.io/docs/v5, and bodies of its static
fixtures, read 2026-11. An answer of order/create acknowledges asynchronously: the order may still
be rejected, so it is ACCEPTED until the stream or a query shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.model.decimals import plain
from fks.model.order import Order, OrderType, Refusal, Side, TimeInForce
from fks.trading.venues.ccxt.dialect import (
    Basis,
    CcxtCall,
    Dialect,
    FaultRow,
    VenueFact,
    VenueFault,
    ambiguous_rows,
    known_rows,
    mapping_in,
    needed,
    refused_rows,
    text_in,
)

_TYPES = {
    OrderType.MARKET: "Market",
    OrderType.LIMIT: "Limit",
    OrderType.STOP: "Market",
    OrderType.STOP_LIMIT: "Limit",
    OrderType.TAKE_PROFIT: "Limit",
}
_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT)
_UNKNOWN_ORDER = frozenset({"110001", "170213"})

_ERRORS: tuple[FaultRow, ...] = (
    *known_rows("110072", "170141", "12141"),
    *ambiguous_rows("10000", "10016", "10019", "170001", "170007", "170032", "170146", "170147", "170149", "170234"),
    *refused_rows(Refusal.RATE_LIMITED, "10006", "10018", "170005", "170222"),
    *refused_rows(Refusal.CLOCK_SKEW, "10002"),
    *refused_rows(Refusal.PERMISSION, "10003", "10004", "10005", "10007", "10010", "10024", "10027", "10028", "10029"),
    *refused_rows(Refusal.PERMISSION, "33004", "170201", "170209", "170224", "170241", "170227"),
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "110004", "110007", "110012", "170033", "170131"),
    *refused_rows(Refusal.QUANTITY, "170124", "170135", "170136", "170137", "170140", "170148", "170228", "170229"),
    *refused_rows(Refusal.PRICE, "110003", "170132", "170133", "170134", "170192", "170193", "170194", "170218"),
    *refused_rows(Refusal.PRICE, "170204", "170206", "170371", "170372"),
    *refused_rows(Refusal.TOO_MANY_ORDERS, "110009", "110020"),
    *refused_rows(Refusal.HALTED, "170031", "170151", "170157", "170159", "140066"),
    *refused_rows(Refusal.UNKNOWN_ORDER, *sorted(_UNKNOWN_ORDER)),
    *refused_rows(
        Refusal.OTHER, "10001", "170003", "170105", "170115", "170116", "170117", "170121", "170130", "170210"
    ),
)


def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the error of a body whose retCode is not 0."""
    code = text_in(body, "retCode")
    return (VenueFault(code, text_in(body, "retMsg")),) if code not in ("", "0") else ()


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the id of the order that a body acknowledges under our client id."""
    result = mapping_in(body, "result")
    is_ours = text_in(body, "retCode") == "0" and text_in(result, "orderLinkId") == order.client_order_id
    return (text_in(result, "orderId") or None) if is_ours else None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of order/create. A market order's quantity is in the base currency. A stop names the direction
    from which its trigger is reached."""
    params: dict[str, Any] = {
        "category": "spot",
        "symbol": pair,
        "side": order.side.value.capitalize(),
        "orderType": _TYPES[order.type],
        "qty": plain(order.quantity),
        "orderLinkId": order.client_order_id,
    }
    if _TYPES[order.type] == "Market":
        params["marketUnit"] = "baseCoin"
    else:
        params |= {"price": plain(needed(order.price)), "timeInForce": order.time_in_force.value.upper()}
    if order.type in _STOPS:
        # a tpslOrder reserves what it sells: the balance cannot be gone when it triggers
        params |= {
            "triggerPrice": plain(needed(order.stop_price)),
            "triggerDirection": 1 if order.side is Side.BUY else 2,
            "orderFilter": "tpslOrder" if order.is_reduce_only else "StopOrder",
        }
    return CcxtCall("privatePostV5OrderCreate", params, is_write=True)


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of order/cancel by our id."""
    params = {"category": "spot", "symbol": pair, "orderLinkId": order.client_order_id}
    return CcxtCall("privatePostV5OrderCancel", params, is_write=True)


def cancelled_of(body: Any, order: Order) -> bool:
    """Return False: a cancel is acknowledged before it happens."""
    return False


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the reads by our id. order/realtime keeps the newest 500 closed orders and loses them when the service
    restarts; order/history has the others."""
    wanted: Mapping[str, Any] = {"category": "spot", "symbol": pair, "orderLinkId": client_order_id}
    return CcxtCall("privateGetV5OrderRealtime", wanted), CcxtCall("privateGetV5OrderHistory", wanted)


DIALECT = Dialect(
    name="bybit",
    source="bybit-exchange.github.io/docs/v5, as quoted by ccxt 4.5.90",
    types=_TYPES,
    times_in_force=frozenset(TimeInForce),
    faults_of=faults_of,
    order_id_of=order_id_of,
    errors=_ERRORS,
    place=place,
    cancel=cancel,
    cancelled_of=cancelled_of,
    unknown_order=_UNKNOWN_ORDER,
    lookups=lookups,
    stop_namespace="orderFilter",
    amend="privatePostV5OrderAmend",
    facts=(
        VenueFact(
            "success", "retCode 0, orderId, and orderLinkId is ours: accepted, not yet in the book", Basis.RECORDED
        ),
        VenueFact("client id", "orderLinkId, at most 36 letters, digits, - and _", Basis.DOCUMENTED),
        VenueFact("duplicate", "110072, 170141: the order exists", Basis.DOCUMENTED),
        VenueFact("ambiguous", "10016, 170007, 170146, and each code without a row", Basis.DOCUMENTED),
        VenueFact("absence", "order/realtime, then order/history", Basis.DOCUMENTED),
        VenueFact("stops", "orderFilter tpslOrder; triggerDirection is named", Basis.RECORDED),
        VenueFact("deadline", "none; recvWindow bounds the way to the gateway only", Basis.DOCUMENTED),
    ),
)
