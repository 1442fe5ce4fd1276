"""The order API of the exchange `template`. State here the source of every fact, and its date.

Source: fks_venue_template/stand_in.py; read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from fks.model.account import Balance
from fks.model.decimals import plain
from fks.model.errors import PeerError
from fks.model.order import Order, OrderType, Refusal, Report, Side, State, TimeInForce
from fks.model.ports import KeyRights
from fks.trading.venues.ccxt.dialect import (
    AccountReads,
    Basis,
    CcxtCall,
    Dialect,
    PairNames,
    VenueExecution,
    VenueFact,
    VenueFault,
    ambiguous_rows,
    amount_in,
    known_rows,
    needed,
    read_row,
    refused_rows,
    text_in,
)

_MS = 1_000_000
_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP: "stop",
    OrderType.TAKE_PROFIT: "limit",
}
_STATES = {
    "waiting": State.ACCEPTED,
    "open": State.WORKING,
    "filled": State.FILLED,
    "cancelled": State.CANCELLED,
    "expired": State.EXPIRED,
}
#: every documented error; one without a row is ambiguous
_ERRORS = (
    *known_rows("duplicate_client_id"),
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "insufficient_funds"),
    *refused_rows(Refusal.QUANTITY, "wrong_quantity"),
    *refused_rows(Refusal.PRICE, "wrong_price"),
    *refused_rows(Refusal.WOULD_TRIGGER, "stop_would_trigger"),
    *refused_rows(Refusal.HALTED, "market_halted"),
    *refused_rows(Refusal.RATE_LIMITED, "too_many_requests"),
    *refused_rows(Refusal.PERMISSION, "unauthorized"),
    *refused_rows(Refusal.CLOCK_SKEW, "clock_skew"),
    *refused_rows(Refusal.UNKNOWN_ORDER, "unknown_order"),
    *refused_rows(Refusal.OTHER, "invalid_request", "unknown_market"),
    *ambiguous_rows("timeout", "internal_error"),
)


# ── requests and their answers ───────────────────────────────────────────────────────────────────
def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the error of a body."""
    code = text_in(body, "error")
    return (VenueFault(code, text_in(body, "message")),) if code else ()


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the exchange's id, if the body is about our client id."""
    is_ours = text_in(body, "client_id") == order.client_order_id and not faults_of(body)
    return (text_in(body, "id") or None) if is_ours else None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of a new order."""
    params = {
        "client_id": order.client_order_id,
        "market": pair,
        "side": order.side.value,
        "type": _TYPES[order.type],
        "quantity": plain(order.quantity),
        "deadline": str(deadline_ns // _MS),
    }
    if params["type"] == "limit":
        params |= {"price": plain(needed(order.price)), "time_in_force": order.time_in_force.value}
    elif params["type"] == "stop":
        params["stop_price"] = plain(needed(order.stop_price))
    return CcxtCall("privatePostOrders", params, is_write=True)


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of a cancel by our id."""
    return CcxtCall("privatePostCancel", {"client_id": order.client_order_id}, is_write=True)


def cancelled_of(body: Any, order: Order) -> bool:
    """Return whether the body shows our order as ended."""
    return order_id_of(body, order) is not None and text_in(body, "status") == "cancelled"


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the reads that prove together whether the exchange knows our id: one, of every order it ever took."""
    return (CcxtCall("privateGetOrder", {"client_id": client_order_id}),)


# ── readers: PeerError for whatever cannot be read ───────────────────────────────────────────────
def _rows(body: Any, name: str) -> list[Any]:
    rows = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        raise PeerError(f"template: an answer without {name}: {str(body)[:300]}")
    return rows


def _time_ns(row: Mapping[str, Any]) -> int:
    return int(amount_in(row, "time")) * _MS


def markets_of(body: Any) -> list[PairNames]:
    """Return the markets."""
    return [
        read_row("template: a market", row, lambda row=row: _pair(row))  # type: ignore[misc]
        for row in _rows(body, "markets")
    ]


def _pair(row: Mapping[str, Any]) -> PairNames:
    name, base, quote = str(row["name"]), str(row["base"]), str(row["quote"])
    return PairNames(name, name, (name,), base, quote, base, quote)


def orders_of(body: Any, pairs: Mapping[str, PairNames]) -> list[Report]:
    """Return the orders of a body."""
    return [
        read_row("template: an order", row, lambda row=row: _report(row, pairs))  # type: ignore[misc]
        for row in _rows(body, "orders")
    ]


def _report(row: Mapping[str, Any], pairs: Mapping[str, PairNames]) -> Report:
    state, filled = _STATES[str(row["status"])], amount_in(row, "filled")
    pair = pairs.get(str(row["market"]))
    return Report(
        client_order_id=str(row["client_id"] or row["id"]),  # an order of a person has no client id
        venue_order_id=str(row["id"]),
        symbol=pair.symbol if pair is not None else str(row["market"]),
        state=State.PARTIAL if state is State.WORKING and filled else state,
        filled=filled,
        time_ns=_time_ns(row),
        side=Side(str(row["side"])),
        quantity=amount_in(row, "quantity"),
        price=amount_in(row, "price") if row.get("price") else None,
        stop_price=amount_in(row, "stop_price") if row.get("stop_price") else None,
        source="rest",
    )


def history_of(body: Any, pairs: Mapping[str, PairNames]) -> list[VenueExecution]:
    """Return one page of executions; those in unknown markets are left out."""
    return [
        read_row("template: an execution", row, lambda row=row: _execution(row, pairs[str(row["market"])]))  # type: ignore[misc]
        for row in _rows(body, "executions")
        if not isinstance(row, Mapping) or str(row.get("market")) in pairs
    ]


def _execution(row: Mapping[str, Any], pair: PairNames) -> VenueExecution:
    return VenueExecution(
        trade_id=str(row["id"]),
        venue_order_id=str(row["order_id"]),
        symbol=pair.symbol,
        side=Side(str(row["side"])),
        quantity=amount_in(row, "quantity"),
        price=amount_in(row, "price"),
        fee=amount_in(row, "fee"),
        fee_currency=pair.quote,
        time_ns=_time_ns(row),
        is_maker=row["is_maker"] is True,
    )


def next_page(call: CcxtCall, body: Any) -> CcxtCall | None:
    """Return the read of the next page, named by the cursor of this one."""
    cursor = text_in(body, "cursor")
    return replace(call, params={**call.params, "cursor": cursor}) if cursor else None


def balances_of(body: Any, currencies: Mapping[str, str]) -> list[Balance]:
    """Return the balances."""
    return [
        read_row("template: a balance", row, lambda row=row: _balance(row))  # type: ignore[misc]
        for row in _rows(body, "balances")
    ]


def _balance(row: Mapping[str, Any]) -> Balance:
    return Balance(str(row["currency"]), amount_in(row, "free"), amount_in(row, "locked"))


def owner_of(body: Any) -> str:
    """Return the account that the key belongs to."""
    if not (owner := text_in(body, "account")):
        raise PeerError("template: the key names no account")
    return owner


def rights_of(body: Any) -> KeyRights:
    """Return the rights of the key; None where the exchange does not say."""
    can = body.get("can_withdraw") if isinstance(body, Mapping) else None
    return KeyRights(can if isinstance(can, bool) else None, None)


def clock_of(body: Any) -> tuple[int, int]:
    """Return the bounds of the exchange's clock: whole milliseconds."""
    first = read_row("template: the time", body, lambda: _time_ns(body))
    return first, first + _MS


def price_of(body: Any) -> Decimal:
    """Return the last price."""
    return read_row("template: the price", body, lambda: amount_in(body, "price"))


def _client() -> type:
    from fks_venue_template.client import Template  # ccxt is imported when a session is made

    return Template


DIALECT = Dialect(
    name="template",
    source="fks_venue_template/stand_in.py",
    types=_TYPES,
    times_in_force=frozenset(TimeInForce),
    faults_of=faults_of,
    order_id_of=order_id_of,
    errors=_ERRORS,
    place=place,
    cancel=cancel,
    cancelled_of=cancelled_of,
    unknown_order=frozenset({"unknown_order"}),
    lookups=lookups,
    deadline_s=(1.0, 60.0),
    key_refused=frozenset({"unauthorized"}),
    client=_client,
    test_hosts=frozenset({"api.test.template.example"}),
    facts=(
        VenueFact("success", "id, and client_id is ours", Basis.STAND_IN),
        VenueFact("duplicate", "duplicate_client_id: the order exists", Basis.STAND_IN),
        VenueFact("absence", "order by client_id: an empty list", Basis.STAND_IN),
        VenueFact("fees", "in the quote currency, beside the amount", Basis.STAND_IN),
        VenueFact("transfers", "not read: their amounts count as drift", Basis.STAND_IN),
    ),
    reads=AccountReads(
        markets=CcxtCall("publicGetMarkets"),
        markets_of=markets_of,
        open_orders=CcxtCall("privateGetOpenOrders"),
        orders_of=orders_of,
        by_ids=lambda numbers: CcxtCall("privateGetOrder", {"ids": ",".join(numbers)}),
        ids_max=20,
        history=lambda since_ns: CcxtCall("privateGetExecutions", {"since": str(since_ns // _MS)}),
        history_of=history_of,
        next_page=next_page,
        balances=CcxtCall("privateGetBalances"),
        balances_of=balances_of,
        owner=CcxtCall("privateGetKey"),
        owner_of=owner_of,
        rights_of=rights_of,
        clock=CcxtCall("publicGetTime"),
        clock_of=clock_of,
        price=lambda pair: CcxtCall("publicGetPrice", {"market": pair}),
        price_of=price_of,
    ),
)
