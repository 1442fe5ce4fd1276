"""Coinbase Advanced Trade, spot. Held to recorded bodies only: not traded.

Source: ccxt 4.5.90, whose comments quote bodies of Advanced Trade, and its failure reasons as client libraries publish
them, read 2026-11. A refusal is HTTP 200 with `success: false`; without `error_response` ccxt would return an order
that has no id. A repeated request with one client id returns the first order: an order is never posted twice here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.model.decimals import plain
from fks.model.order import Order, OrderType, Refusal, Side, TimeInForce
from fks.venues.ccxt.dialect import (
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

#: there is no stop that becomes a market order
_TYPES = {
    OrderType.MARKET: "market_market_ioc",
    OrderType.LIMIT: "limit_limit",
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
    name, sizes = _TYPES[order.type], {"base_size": plain(order.quantity)}
    if name == "limit_limit":
        name = _LIMITS[order.time_in_force]
        sizes["limit_price"] = plain(needed(order.price))
    elif order.type is OrderType.STOP_LIMIT:
        sizes |= {
            "limit_price": plain(needed(order.price)),
            "stop_price": plain(needed(order.stop_price)),
            "stop_direction": f"STOP_DIRECTION_STOP_{'UP' if order.side is Side.BUY else 'DOWN'}",
        }
    params = {
        "client_order_id": order.client_order_id,
        "product_id": pair,
        "side": order.side.value.upper(),
        "order_configuration": {name: sizes},
    }
    return CcxtCall("v3PrivatePostBrokerageOrders", params, is_write=True)


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of a cancel: only the exchange's own id is taken."""
    return CcxtCall(
        "v3PrivatePostBrokerageOrdersBatchCancel", {"order_ids": [order.venue_order_id or ""]}, is_write=True
    )


def cancelled_of(body: Any, order: Order) -> bool:
    """Return False: a cancel is queued when it is acknowledged."""
    return False


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the reads in which an order is found: there is none by our id, so the product's orders are listed to the
    last page, then its executions."""
    return (
        CcxtCall("v3PrivateGetBrokerageOrdersHistoricalBatch", {"product_id": pair, "limit": 250}),
        CcxtCall("v3PrivateGetBrokerageOrdersHistoricalFills", {"product_id": pair, "limit": 250}),
    )


DIALECT = Dialect(
    name="coinbase",
    source="docs.cdp.coinbase.com/advanced-trade, as quoted by ccxt 4.5.90",
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
    amend="v3PrivatePostBrokerageOrdersEdit",
    facts=(
        VenueFact("success", "success true, order_id, and client_order_id is ours", Basis.RECORDED),
        VenueFact("client id", "client_order_id; a repeated request returns the first order", Basis.DOCUMENTED),
        VenueFact(
            "duplicate", "DUPLICATE_CLIENT_ORDER_ID: the order exists; nothing is posted twice", Basis.DOCUMENTED
        ),
        VenueFact(
            "ambiguous",
            "UNKNOWN_FAILURE_REASON, success false without a reason, each reason without a row",
            Basis.RECORDED,
        ),
        VenueFact(
            "absence",
            "orders of the product and time to the last page, then executions; none by our id",
            Basis.DOCUMENTED,
        ),
        VenueFact("stops", "stop limit only: no stop becomes a market order", Basis.RECORDED),
        VenueFact("deadline", "none", Basis.DOCUMENTED),
    ),
)
