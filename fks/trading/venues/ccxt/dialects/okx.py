"""OKX spot, v5. Held to recorded bodies only: not traded.

Source: ccxt 4.5.90, whose error table and comments quote www.okx.com/docs-v5, and bodies of its static fixtures, read
2026-11. An answer has a code of its own and one for each order (`sCode`); both must be 0.

A stop and a take profit are one algo order (`oco`), by themselves or attached to an entry. Its id, as each id at OKX,
has at most 32 characters: it is the stop's, and the take profit has none of its own there. So a reader of brackets,
which OKX needs before it is traded, must find the take profit's id by the stop's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.model.decimals import plain
from fks.model.order import Order, OrderType, Refusal, TimeInForce
from fks.trading.venues.ccxt.brackets import Brackets, ids_in
from fks.trading.venues.ccxt.dialect import (
    Basis,
    CcxtCall,
    Dialect,
    FaultRow,
    VenueFact,
    VenueFault,
    ambiguous_rows,
    known_rows,
    needed,
    refused_rows,
    text_in,
)

_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP: "conditional",
    OrderType.STOP_LIMIT: "conditional",
    OrderType.TAKE_PROFIT: "limit",
}
_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT)
_TIMED = {TimeInForce.GTC: "limit", TimeInForce.IOC: "ioc", TimeInForce.FOK: "fok"}
_UNKNOWN_ORDER = frozenset({"51400", "51401", "51402", "51410", "51603"})

_ERRORS: tuple[FaultRow, ...] = (
    *known_rows("51016"),
    *ambiguous_rows("50001", "50004", "50005", "50013", "50026", "50062", "51149"),
    *refused_rows(Refusal.RATE_LIMITED, "50011", "50061", "51113"),
    *refused_rows(Refusal.CLOCK_SKEW, "50102", "50112"),
    *refused_rows(Refusal.PERMISSION, "50007", "50008", "50009", "50012", "50027", "50028", "50100", "50101", "50103"),
    *refused_rows(Refusal.PERMISSION, "50104", "50105", "50106", "50107", "50110", "50111", "50113", "50114"),
    *refused_rows(Refusal.PERMISSION, "51009", "51010", "51024"),
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "51008", "51119", "51127", "51131"),
    *refused_rows(Refusal.QUANTITY, "51004", "51005", "51007", "51020", "51100", "51101", "51118", "51120", "51121"),
    *refused_rows(Refusal.PRICE, "51006", "51031", "51116", "51122", "51136", "51137", "51138"),
    *refused_rows(Refusal.PRICE, "51046", "51047", "51051"),
    *refused_rows(Refusal.WOULD_TRIGGER, "51277", "51278", "51279", "51280"),
    *refused_rows(Refusal.TOO_MANY_ORDERS, "51025", "51102", "51103"),
    *refused_rows(Refusal.HALTED, "51021", "51022", "51027", "51028", "51029", "51030"),
    *refused_rows(Refusal.UNKNOWN_ORDER, *sorted(_UNKNOWN_ORDER)),
    *refused_rows(Refusal.OTHER, "50000", "50002", "50006", "50014", "50015", "50016", "51000", "51001", "51003"),
    *refused_rows(Refusal.OTHER, "51012", "51014", "51015"),
)
_SUMMARIES = frozenset({"1", "2"})


def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the errors of a body: of each order, and the answer's own where it is not only their summary."""
    code = text_in(body, "code")
    rows = body.get("data") if isinstance(body, Mapping) else None
    of_orders = tuple(
        VenueFault(found, text_in(row, "sMsg"))
        for row in (rows if isinstance(rows, list) else ())
        if (found := text_in(row, "sCode")) not in ("", "0")
    )
    if code in ("", "0") or (code in _SUMMARIES and of_orders):
        return of_orders
    return (VenueFault(code, text_in(body, "msg")), *of_orders)


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the id of the one order that a body acknowledges under our client id: an algo id for a stop. Of an order
    that stands for several of ours, OKX has the id of the first."""
    rows = body.get("data") if isinstance(body, Mapping) else None
    if text_in(body, "code") != "0" or not isinstance(rows, list) or len(rows) != 1:
        return None
    ours, theirs = ("algoClOrdId", "algoId") if order.type in _STOPS else ("clOrdId", "ordId")
    is_ours = text_in(rows[0], "sCode") == "0" and text_in(rows[0], ours) == ids_in(order.client_order_id)[0]
    return (text_in(rows[0], theirs) or None) if is_ours else None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of trade/order, or of trade/order-algo for a stop. Quantities are in the base currency."""
    params = {
        "instId": pair,
        "tdMode": "cash",
        "side": order.side.value,
        "sz": plain(order.quantity),
        "tgtCcy": "base_ccy",
        "clOrdId": order.client_order_id,
    }
    headers = {"expTime": str(deadline_ns // 1_000_000)}
    if order.type in _STOPS:
        # ccxt adds a client id and a tag of its own where `clOrdId` is missing, and OKX names algo orders elsewhere
        params |= {
            "ordType": "conditional",
            "algoClOrdId": order.client_order_id,
            **_stop(order),
        }
        return CcxtCall("privatePostTradeOrderAlgo", params, headers=headers, is_write=True)
    if order.type is OrderType.MARKET:
        params["ordType"] = "market"
    else:
        params |= {"ordType": _TIMED[order.time_in_force], "px": plain(needed(order.price))}
    return CcxtCall("privatePostTradeOrder", params, headers=headers, is_write=True)


def _stop(order: Order) -> dict[str, str]:
    limit = "-1" if order.type is OrderType.STOP else plain(needed(order.price))
    return {"slTriggerPx": plain(needed(order.stop_price)), "slTriggerPxType": "last", "slOrdPx": limit}


def _exits(stop: Order, limit: Order) -> dict[str, str]:
    """Return a stop and a take profit as one algo order: the limit order is placed when the price reaches its limit."""
    price = plain(needed(limit.price))
    return {**_stop(stop), "tpTriggerPx": price, "tpTriggerPxType": "last", "tpOrdPx": price}


def place_bracket(stop: Order, limit: Order, pair: str) -> CcxtCall:
    """Return the request of a stop and a take profit as one algo order, under the stop's id."""
    params = {
        "instId": pair,
        "tdMode": "cash",
        "side": stop.side.value,
        "sz": plain(stop.quantity),
        "tgtCcy": "base_ccy",
        "ordType": "oco",
        "clOrdId": stop.client_order_id,
        "algoClOrdId": stop.client_order_id,
        **_exits(stop, limit),
    }
    return CcxtCall("privatePostTradeOrderAlgo", params, is_write=True)


def attach(entry: Order, stop: Order, limit: Order, pair: str) -> CcxtCall:
    """Return the request of an entry with its exits, which OKX places as one algo order at the entry's complete fill,
    over its size. It has no `expTime`: `Brackets` knows no deadline."""
    call = place(entry, pair, 0)
    exits = {"attachAlgoClOrdId": stop.client_order_id, **_exits(stop, limit)}
    return CcxtCall(call.endpoint, {**call.params, "attachAlgoOrds": [exits]}, is_write=True)


def origins_of(body: Any) -> dict[str, str]:
    """Return nothing: OKX gives an attached algo order the id that we sent with the entry, which joins the two."""
    return {}


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of trade/cancel-order by our id. A stop is cancelled by its algo id."""
    if order.type in _STOPS:
        params = {"instId": pair, "algoClOrdId": order.client_order_id}
        return CcxtCall("privatePostTradeCancelAlgos", params, is_write=True)
    return CcxtCall("privatePostTradeCancelOrder", {"instId": pair, "clOrdId": order.client_order_id}, is_write=True)


def cancelled_of(body: Any, order: Order) -> bool:
    """Return False: an answer says that the cancel was accepted, not that the order has ended."""
    return False


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the reads by our id: orders, then algo orders. A cancelled order without an execution vanishes after two
    hours, and with it the proof."""
    return (
        CcxtCall("privateGetTradeOrder", {"instId": pair, "clOrdId": client_order_id}),
        CcxtCall("privateGetTradeOrderAlgo", {"algoClOrdId": client_order_id}),
    )


DIALECT = Dialect(
    name="okx",
    source="www.okx.com/docs-v5, as quoted by ccxt 4.5.90",
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
    deadline_s=(1.0, 60.0),
    stop_namespace="algoClOrdId",
    amend="privatePostTradeAmendOrder",
    timer="privatePostTradeCancelAllAfter",
    brackets=Brackets(place=place_bracket, attach=attach, origins_of=origins_of),
    facts=(
        VenueFact(
            "success", "code 0 and sCode 0, ordId, and clOrdId is ours (algoId, algoClOrdId for a stop)", Basis.RECORDED
        ),
        VenueFact("client id", "clOrdId, 1 to 32 letters and digits", Basis.DOCUMENTED),
        VenueFact("duplicate", "51016: the order exists", Basis.DOCUMENTED),
        VenueFact("ambiguous", "50004, 50013, 50026, 51149, and each code without a row", Basis.DOCUMENTED),
        VenueFact(
            "absence",
            "trade/order, then trade/order-algo; unfilled cancelled orders vanish after 2 h",
            Basis.DOCUMENTED,
        ),
        VenueFact("stops", "algo orders, under algoClOrdId", Basis.RECORDED),
        VenueFact("bracket", "stop and take profit are one algo order, oco, under the stop's id", Basis.DOCUMENTED),
        VenueFact(
            "protection",
            "attachAlgoOrds: held by the exchange from the entry's complete fill on, under attachAlgoClOrdId; no "
            "stand-in, requests and answers only",
            Basis.DOCUMENTED,
        ),
        VenueFact("deadline", "header expTime, milliseconds", Basis.DOCUMENTED),
    ),
)
