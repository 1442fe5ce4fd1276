"""Kraken spot, REST.

Source: docs.kraken.com/api (AddOrder, CancelOrder, OpenOrders, ClosedOrders, QueryOrders, TradesHistory, BalanceEx,
GetApiKeyInfo, Spot Error Messages, Spot Client Order Identifiers, rate limits), read 2026-11; bodies of ccxt's static
fixtures. Kraken answers HTTP 200 with a list of errors, "E<category>:<text>"; one that begins with W is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.model.account import Balance, Transfer, TransferKind
from fks.model.decimals import plain
from fks.model.errors import PeerError
from fks.model.order import Order, OrderType, Outcome, Refusal, Report, Side, State, TimeInForce
from fks.model.ports import KeyRights
from fks.trading.venues.ccxt.brackets import Closes
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
    mapping_in,
    needed,
    read_row,
    refused_rows,
    text_in,
)

_NS = 1_000_000_000
#: documented counters: each private read raises the key's counter by 1, one of the history by 2; the lowest tier falls
#: by 0.33 a second. In units of the address's request a second: three and six
_READ, _HISTORY = 3, 6
PAGE = 50  # rows of one answer of ClosedOrders and TradesHistory
IDS_MAX = 50  # ids of one QueryOrders
_PAGED = {"privatePostTradesHistory": "trades", "privatePostLedgers": "ledger", "privatePostClosedOrders": "closed"}
_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP: "stop-loss",
    OrderType.STOP_LIMIT: "stop-loss-limit",
    OrderType.TAKE_PROFIT: "limit",
}
_TIMED = frozenset({"limit", "stop-loss-limit"})
#: bounds of a good-till-date, 5 s and a month, from the deadline on: so long an order may be on its way
_GOOD_TILL_NS = (5 * _NS, 30 * 86_400 * _NS)
_TRIGGERED = frozenset({"stop-loss", "stop-loss-limit", "take-profit", "take-profit-limit"})
_UNPRICED = frozenset({"stop-loss", "take-profit"})
_STATES = {
    "pending": State.ACCEPTED,
    "open": State.WORKING,
    "closed": State.FILLED,
    "canceled": State.CANCELLED,
    "expired": State.EXPIRED,
}
#: names that the websocket's version 2 and our market data do not use
_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}
#: the suffix of a balance that earns rewards and pays for orders like the currency itself
_REWARDS = ".F"

_ERRORS: tuple[FaultRow, ...] = (
    # no page gives the refusal's text for a client id that an open order has: after any error about one FKS queries
    FaultRow("E", Outcome.EXISTS, text="cl_ord_id", is_prefix=True),
    FaultRow("E", Outcome.EXISTS, text="duplicate", is_prefix=True),
    *refused_rows(Refusal.CLOCK_SKEW, "EAPI:Invalid nonce"),
    *refused_rows(Refusal.PERMISSION, "EAPI:Invalid key", "EAPI:Invalid signature", "EGeneral:Permission denied"),
    *refused_rows(Refusal.PERMISSION, "EAccount:Invalid permissions", "EAuth:Account temporary disabled"),
    *refused_rows(Refusal.PERMISSION, "EAuth:Account unconfirmed", "ETrade:User Locked", "ETrade:Invalid request"),
    *refused_rows(Refusal.RATE_LIMITED, "EAPI:Rate limit exceeded", "EOrder:Rate limit exceeded"),
    *refused_rows(Refusal.RATE_LIMITED, "EOrder:Domain rate limit exceeded", "EAuth:Rate limit exceeded"),
    *refused_rows(Refusal.RATE_LIMITED, "EAuth:Too many requests", "EGeneral:Too many requests"),
    *refused_rows(Refusal.BANNED, "EGeneral:Temporary lockout"),
    *refused_rows(Refusal.HALTED, "EService:Market in cancel_only mode", "EService:Market in post_only mode"),
    *refused_rows(Refusal.UNKNOWN_ORDER, "EOrder:Unknown order"),
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "EOrder:Insufficient funds", "EOrder:Insufficient margin"),
    *refused_rows(Refusal.QUANTITY, "EOrder:Order minimum not met", "EOrder:Cost minimum not met"),
    *refused_rows(Refusal.QUANTITY, "EGeneral:Invalid arguments:volume"),
    *refused_rows(Refusal.PRICE, "EOrder:Tick size check failed"),
    *refused_rows(Refusal.PRICE, "EOrder:Invalid price", "EGeneral:Invalid arguments:price", is_prefix=True),
    *refused_rows(Refusal.TOO_MANY_ORDERS, "EOrder:Orders limit exceeded", "EOrder:Scheduled orders limit exceeded"),
    *refused_rows(Refusal.WOULD_MATCH, "EOrder:Post only order"),
    *refused_rows(Refusal.PERMISSION, "EOrder:Cannot open", "EOrder:Margin", "EOrder:Reduce only", is_prefix=True),
    *refused_rows(Refusal.OTHER, "EQuery:Unknown asset pair", "EQuery:Invalid asset pair", "EQuery:Unknown asset"),
    *refused_rows(Refusal.OTHER, "EGeneral:Invalid arguments", "EBM:limit exceeded", is_prefix=True),
    # the request reached Kraken, and it is not known whether the engine took it before the deadline or the failure
    *ambiguous_rows("EService:", "EGeneral:Internal error", "EDatabase:", is_prefix=True),
)


def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the errors of a body; warnings are none."""
    errors = body.get("error") if isinstance(body, Mapping) else None
    found = (item for item in (errors if isinstance(errors, list) else [errors]) if isinstance(item, str))
    return tuple(VenueFault(text, text) for text in found if text[:1] not in ("", "W"))


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the id of the order that a body acknowledges. Kraken does not echo the client id; the description has
    side and quantity, and must be of this order."""
    result = mapping_in(body, "result")
    numbers = result.get("txid")
    if faults_of(body) or not isinstance(numbers, list) or len(numbers) != 1 or not isinstance(numbers[0], str):
        return None
    described = text_in(mapping_in(result, "descr"), "order").split()
    try:
        is_ours = described[0] == order.side.value and Decimal(described[1]) == order.quantity
    except (IndexError, InvalidOperation):
        return None
    return numbers[0] if is_ours and numbers[0] else None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of AddOrder. Fees are asked for in the quote currency, so that a position is
    the quantity bought."""
    kind = _TYPES[order.type]
    params = {"pair": pair, "type": order.side.value, "ordertype": kind, "volume": plain(order.quantity)}
    if kind in _TRIGGERED:
        params |= {"price": plain(needed(order.stop_price)), "trigger": "last"}
        if kind == "stop-loss-limit":
            params["price2"] = plain(needed(order.price))
    elif kind == "limit":
        params["price"] = plain(needed(order.price))
    if kind in _TIMED:
        params["timeinforce"] = order.time_in_force.value.upper()
        until_ns = order.valid_until_ns
        if until_ns is not None and ends_order(order.type, order.time_in_force, deadline_ns, until_ns):
            params |= {"timeinforce": "GTD", "expiretm": str(-(-until_ns // _NS))}  # never before its time
    params |= {"oflags": "fciq", "cl_ord_id": order.client_order_id, "deadline": _rfc3339(deadline_ns)}
    return CcxtCall("privatePostAddOrder", params, weight=0, is_write=True)  # orders have a counter of their own


def place_closing(entry: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of AddOrder whose fills each make a stop over their quantity (conditional close)."""
    call = place(entry, pair, deadline_ns)
    close = {"close[ordertype]": "stop-loss", "close[price]": plain(needed(entry.stop_loss))}
    return replace(call, params={**call.params, **close})


def ended(since_ns: int) -> CcxtCall:
    """Return the read of the orders that ended from `since_ns` on, newest first."""
    since = {"start": str(max(since_ns // _NS - 1, 0)), "closetime": "close", "ofs": "0", "without_count": "true"}
    return CcxtCall("privatePostClosedOrders", since | {"trades": "true"}, weight=_READ)


def origins_of(body: Any) -> dict[str, str]:
    """Return the ids of orders that a fill made and of the orders that it was of (`refid`), from a list of orders."""
    result = mapping_in(body, "result")
    rows = next((result[name] for name in ("open", "closed") if isinstance(result.get(name), Mapping)), result)
    found = {number: text_in(row, "refid") for number, row in rows.items() if not text_in(row, "cl_ord_id")}
    return {number: origin for number, origin in found.items() if origin}


def validate(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of AddOrder that only checks the order."""
    call = place(order, pair, deadline_ns)
    return replace(call, params={**call.params, "validate": "true"}, is_write=False)


def ends_order(kind: OrderType, time_in_force: TimeInForce, from_ns: int, until_ns: int) -> bool:
    """Return whether Kraken ends such an order at `until_ns`: one with a limit that rests, and not too near or too far
    an end."""
    is_timed = _TYPES[kind] in _TIMED and time_in_force is TimeInForce.GTC
    return is_timed and _GOOD_TILL_NS[0] <= until_ns - from_ns <= _GOOD_TILL_NS[1]


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of CancelOrder."""
    return CcxtCall("privatePostCancelOrder", _named(order), weight=0, is_write=True)


def _named(order: Order) -> dict[str, str]:
    """Return the parameter that names an order: Kraken's id, which is unique for ever, or ours while that one is not
    known."""
    if order.venue_order_id is not None:
        return {"txid": order.venue_order_id}
    return {"cl_ord_id": order.client_order_id}


def reprice(order: Order, price: Decimal, deadline_ns: int) -> CcxtCall:
    """Return the request of AmendOrder that moves a trigger, or a limit: the order keeps its ids."""
    name = "trigger_price" if _TYPES[order.type] in _TRIGGERED else "limit_price"
    params = {**_named(order), name: plain(price), "deadline": _rfc3339(deadline_ns)}
    return CcxtCall("privatePostAmendOrder", params, weight=0, is_write=True)


def repriced_of(body: Any) -> bool:
    """Return whether a body acknowledges an amendment: by its id."""
    return not faults_of(body) and bool(text_in(mapping_in(body, "result"), "amend_id"))


def cancelled_of(body: Any, order: Order) -> bool:
    """Return whether a body says that one order was cancelled, and not that its cancel is pending."""
    result = mapping_in(body, "result")
    return not faults_of(body) and result.get("count") == 1 and result.get("pending") in (None, False)


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the reads by our id: open orders first, since an order moves from there to the closed ones. QueryOrders
    takes only Kraken's own id."""
    wanted = {"cl_ord_id": client_order_id, "trades": "true"}
    return (
        CcxtCall("privatePostOpenOrders", wanted, weight=_READ),
        CcxtCall("privatePostClosedOrders", wanted | {"without_count": "true"}, weight=_READ),
    )


# ── readers ──────────────────────────────────────────────────────────────────────────────────────
def _time_ns(row: Mapping[str, Any], name: str) -> int:
    """Return a time in seconds, a number or text, as ns."""
    return int(amount_in(row, name) * _NS)


def _result(body: Any) -> Mapping[str, Any]:
    result = body.get("result") if isinstance(body, Mapping) else None
    if not isinstance(result, Mapping):
        raise PeerError(f"kraken: an answer without a result: {str(body)[:300]}")
    return result


def markets_of(body: Any) -> list[PairNames]:
    """Return the pairs of AssetPairs that have a name of the websocket. Errors: PeerError."""
    rows = _result(body).items()
    found = [read_row("kraken: a pair", row, lambda key=key, row=row: _pair(key, row)) for key, row in rows]  # type: ignore[misc]
    return [pair for pair in found if pair is not None]


def _pair(key: str, row: Mapping[str, Any]) -> PairNames | None:
    base, quote = (_RENAMED.get(part, part) for part in str(row.get("wsname", "")).partition("/")[::2])
    if not (base and quote):
        return None
    names = (key, str(row["altname"]), str(row["wsname"]))
    return PairNames(f"{base}/{quote}", names[1], names, base, quote, str(row["base"]), str(row["quote"]))


def orders_of(body: Any, pairs: Mapping[str, PairNames]) -> list[Report]:
    """Return the orders of OpenOrders, ClosedOrders or QueryOrders. An order of a pair that `pairs` does not know keeps
    Kraken's name for it. Errors: PeerError."""
    result = _result(body)
    rows = next((result[name] for name in ("open", "closed") if isinstance(result.get(name), Mapping)), result)
    return [
        read_row("kraken: an order", row, lambda number=number, row=row: _report(number, row, pairs))  # type: ignore[misc]
        for number, row in rows.items()
        if number != "count"
    ]


def _report(number: str, row: Mapping[str, Any], pairs: Mapping[str, PairNames]) -> Report:
    described = row["descr"]
    kind, status = str(described["ordertype"]), str(row["status"])
    quantity, filled = amount_in(row, "vol"), amount_in(row, "vol_exec")
    state = _STATES[status]
    if state is State.WORKING:
        is_waiting = kind in _TRIGGERED and not {"stopped", "touched"} & set(str(row.get("misc", "")).split(","))
        state = State.ACCEPTED if is_waiting else State.PARTIAL if filled else state
    elif state is State.FILLED and filled < quantity:
        state = State.EXPIRED  # the rest of an order that takes what is there
    price = amount_in(described, "price2" if kind.endswith("-limit") else "price") if kind not in _UNPRICED else None
    is_ended = state in (State.FILLED, State.CANCELLED, State.EXPIRED)
    reason = row.get("reason")
    pair = pairs.get(str(described["pair"]))
    return Report(
        client_order_id=str(row.get("cl_ord_id") or number),
        venue_order_id=number,
        symbol=pair.symbol if pair is not None else str(described["pair"]),
        state=state,
        filled=filled,
        time_ns=_time_ns(row, "closetm" if is_ended and row.get("closetm") else "opentm"),
        side=Side(str(described["type"])),
        quantity=quantity,
        price=price or None,
        source="rest",
        code=str(reason) if reason and state is State.EXPIRED else None,
        detail=str(reason) if reason else None,
        stop_price=amount_in(described, "price") if kind in _TRIGGERED else None,
    )


def history(since_ns: int) -> CcxtCall:
    """Return the read of executions from `since_ns` on, newest first. Unconsolidated: a consolidated row would grow
    under one id while its order goes on."""
    params = {"start": str(max(since_ns // _NS - 1, 0)), "ofs": "0", "consolidate_taker": "false"}
    return CcxtCall("privatePostTradesHistory", params, weight=_HISTORY)


def next_page(call: CcxtCall, body: Any) -> CcxtCall | None:
    """Return the read of the rows behind those of a full page of a history. Pages shift while the list grows: a row may
    come twice, none is left out."""
    rows = mapping_in(body, "result", _PAGED.get(call.endpoint, ""))
    if len(rows) < PAGE:
        return None
    return replace(call, params={**call.params, "ofs": str(int(call.params["ofs"]) + len(rows))})


def history_of(body: Any, pairs: Mapping[str, PairNames]) -> list[VenueExecution]:
    """Return one page of TradesHistory; executions in unknown pairs are left out. Errors: PeerError."""
    rows = _result(body).get("trades")
    if not isinstance(rows, Mapping):
        raise PeerError(f"kraken: a history without trades: {str(body)[:300]}")
    return [
        read_row("kraken: an execution", row, lambda number=number, row=row: _execution(number, row, pairs))  # type: ignore[misc]
        for number, row in rows.items()
        if isinstance(row, Mapping) and str(row.get("pair")) in pairs
    ]


def _execution(number: str, row: Mapping[str, Any], pairs: Mapping[str, PairNames]) -> VenueExecution:
    pair = pairs[str(row["pair"])]
    quantity, price = amount_in(row, "vol"), amount_in(row, "price")
    if quantity <= 0 or price <= 0:
        raise ValueError(f"quantity {quantity} at {price}")
    return VenueExecution(
        trade_id=number,
        venue_order_id=str(row["ordertxid"]),
        symbol=pair.symbol,
        side=Side(str(row["type"])),
        quantity=quantity,
        price=price,
        fee=amount_in(row, "fee"),
        fee_currency=pair.quote,
        time_ns=_time_ns(row, "time"),
        is_maker=row.get("maker") is True,
    )


def by_ids(numbers: Sequence[str]) -> CcxtCall:
    """Return the read of orders by Kraken's ids, at most IDS_MAX."""
    return CcxtCall("privatePostQueryOrders", {"txid": ",".join(numbers), "trades": "true"}, weight=_READ)


def balances_of(body: Any, currencies: Mapping[str, str]) -> list[Balance]:
    """Return the balances of BalanceEx under our currency codes. Rewards balances (.F) count to their currency: Kraken
    pays orders from them; staked ones (.S, .B, .M) keep a name of their own. Errors: PeerError."""
    total: dict[str, Decimal] = {}
    locked: dict[str, Decimal] = {}
    names = ("balance", "hold_trade")
    for asset, row in _result(body).items():
        held = read_row("kraken: a balance", row, lambda row=row: [amount_in(row, name) for name in names])  # type: ignore[misc]
        name = _currency(asset, currencies)
        total[name] = total.get(name, Decimal(0)) + held[0]
        locked[name] = locked.get(name, Decimal(0)) + held[1]
    return [Balance(name, total[name] - locked[name], locked[name]) for name in total]


def transfers(kind: TransferKind, since_ns: int) -> CcxtCall:
    """Return the read of the account's ledger for one kind from `since_ns` on, newest first."""
    params = {"type": kind.value, "start": str(max(since_ns // _NS - 1, 0)), "ofs": "0"}
    return CcxtCall("privatePostLedgers", params, weight=_HISTORY)


def transfers_of(body: Any, currencies: Mapping[str, str]) -> list[Transfer]:
    """Return one page of Ledgers. A withdrawal that came back is a deposit; a deposit's fee is taken from its amount.
    Errors: PeerError."""
    rows = _result(body).get("ledger")
    if not isinstance(rows, Mapping):
        raise PeerError(f"kraken: a ledger without rows: {str(body)[:300]}")
    return [
        read_row("kraken: a transfer", row, lambda number=number, row=row: _transfer(number, row, currencies))  # type: ignore[misc]
        for number, row in rows.items()
    ]


def _transfer(number: str, row: Mapping[str, Any], currencies: Mapping[str, str]) -> Transfer:
    amount, fee, asset = amount_in(row, "amount"), amount_in(row, "fee"), str(row["asset"])
    name, time_ns = _currency(asset, currencies), _time_ns(row, "time")
    if amount < 0:
        return Transfer(TransferKind.WITHDRAWAL, number, name, -amount, time_ns, fee)
    return Transfer(TransferKind.DEPOSIT, number, name, amount - fee, time_ns)


def _currency(asset: str, currencies: Mapping[str, str]) -> str:
    name = asset.removesuffix(_REWARDS)
    return currencies.get(name, _RENAMED.get(name, name))


def owner_of(body: Any) -> str:
    """Return the account's number (IIBAN). Errors: PeerError without one."""
    number = text_in(_result(body), "iban").replace(" ", "")
    if not number:
        raise PeerError("kraken: the key's description carries no account number")
    return number


def rights_of(body: Any) -> KeyRights:
    """Return the rights of the key; `may_withdraw` is None if the answer lists no permissions. Errors: PeerError."""
    result = _result(body)
    permissions, addresses = result.get("permissions"), result.get("ipAllowlist")
    return KeyRights(
        "withdraw-funds" in permissions if isinstance(permissions, list) else None,
        bool(addresses) if isinstance(addresses, list) else None,
    )


def clock_of(body: Any) -> tuple[int, int]:
    """Return the bounds of Kraken's clock: it reports whole seconds. Errors: PeerError."""
    result = _result(body)
    second = read_row("kraken: the time", result, lambda: int(result["unixtime"]))
    return second * _NS, (second + 1) * _NS


def price_of(body: Any) -> Decimal:
    """Return the last price of the one pair in a Ticker answer. Errors: PeerError."""
    rows = list(_result(body).values())
    return read_row("kraken: the price", rows, lambda: _one_price(rows))


def _one_price(rows: Sequence[Any]) -> Decimal:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} pairs")
    return amount_in({"last": rows[0]["c"][0]}, "last")


def _rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / _NS, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


DIALECT = Dialect(
    name="kraken",
    is_key_exclusive=True,
    source="docs.kraken.com/api, read 2026-11",
    types=_TYPES,
    times_in_force=frozenset(TimeInForce),
    faults_of=faults_of,
    order_id_of=order_id_of,
    errors=_ERRORS,
    place=place,
    validate=validate,
    cancel=cancel,
    cancelled_of=cancelled_of,
    unknown_order=frozenset({"EOrder:Unknown order"}),
    key_refused=frozenset({"EAPI:Invalid key", "EAPI:Invalid signature"}),
    lookups=lookups,
    # Kraken takes 2 to 60 s by its own clock. Ours may differ by the second that its clock does not show, and the
    # request is on its way meanwhile.
    deadline_s=(4.0, 59.0),
    ends_order=ends_order,
    amend="privatePostAmendOrder",
    closes=Closes(place_closing, origins_of, ended),
    reprice=reprice,
    repriced_of=repriced_of,
    timer="privatePostCancelAllOrdersAfter",
    facts=(
        VenueFact(
            "success",
            "HTTP 200, no error that begins with E, one txid, and side and quantity of the order",
            Basis.RECORDED,
        ),
        VenueFact("client id", "cl_ord_id, 32 hex characters; unique among open orders only", Basis.DOCUMENTED),
        VenueFact(
            "duplicate",
            "any error that names cl_ord_id is evidence of the order: no text is documented",
            Basis.DOCUMENTED,
        ),
        VenueFact(
            "ambiguous", "EService, EGeneral:Internal error, EDatabase, and each error without a row", Basis.DOCUMENTED
        ),
        VenueFact(
            "nonce",
            "grows with each request of a key: one process a key; EAPI:Invalid nonce is a refusal",
            Basis.DOCUMENTED,
        ),
        VenueFact(
            "deadline", "the engine refuses an order after it: 2 to 60 s, always sent, as 4 to 59", Basis.DOCUMENTED
        ),
        VenueFact(
            "good till date",
            "expiretm with timeinforce GTD, limit and stop-limit orders, 5 s to a month after the deadline",
            Basis.STAND_IN,
        ),
        VenueFact("absence", "OpenOrders, then ClosedOrders, both by cl_ord_id, both without it", Basis.DOCUMENTED),
        VenueFact(
            "stops",
            "stop-loss by the last price, in the list of orders; no OCO: an entry with a stop and a target is denied",
            Basis.RECORDED,
        ),
        VenueFact(
            "entry protection",
            "close[ordertype], close[price]: each fill makes its own stop of that size, without a client id; its refid "
            "is the order",
            Basis.STAND_IN,
        ),
        VenueFact(
            "amend",
            "AmendOrder moves trigger_price or limit_price in place, answered by an amend_id; not used for quantities: "
            "the answer does not show them",
            Basis.STAND_IN,
        ),
        VenueFact("fees", "in the quote currency (oflags fciq)", Basis.RECORDED),
        VenueFact("history", "50 executions an answer, newest first, of all pairs", Basis.DOCUMENTED),
    ),
    reads=AccountReads(
        markets=CcxtCall("publicGetAssetPairs"),
        markets_of=markets_of,
        open_orders=CcxtCall("privatePostOpenOrders", {"trades": "true"}, weight=_READ),
        orders_of=orders_of,
        by_ids=by_ids,
        ids_max=IDS_MAX,
        history=history,
        history_of=history_of,
        next_page=next_page,
        balances=CcxtCall("privatePostBalanceEx", weight=_READ),
        balances_of=balances_of,
        owner=CcxtCall("privatePostGetApiKeyInfo", weight=_READ),
        owner_of=owner_of,
        rights_of=rights_of,
        clock=CcxtCall("publicGetTime"),
        clock_of=clock_of,
        price=lambda pair: CcxtCall("publicGetTicker", {"pair": pair}),
        price_of=price_of,
        transfers=transfers,
        transfers_of=transfers_of,
    ),
)

STAND_IN = StandIn(
    symbol="BTC/USDT",
    place="/0/private/AddOrder",
    open_orders="/0/private/OpenOrders",
    guardian_key="guardian_",
)
