"""The order API of Hyperliquid's spot markets.

Sources, read 2026-11-27: the vendor's pages below `source` (exchange and info endpoint, errors, nonces, ticks, ids),
hyperliquid-dex/hyperliquid-python-sdk (signing, market orders), ccxt 4.5 (forms of answers, names of tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
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
    amount_in,
    mapping_in,
    needed,
    read_row,
    refused_rows,
    text_in,
)

_MS = 1_000_000
_SPOT = 10_000  # an asset is this plus the index of the market
_ID_HEX = 32
_PAGE_MIN = 500  # "responses that take a time range will only return 500 elements": fills come 2000 at a time
_TYPES = {OrderType.MARKET: "market", OrderType.LIMIT: "limit", OrderType.TAKE_PROFIT: "limit"}
_TIMES = {TimeInForce.GTC: "Gtc", TimeInForce.IOC: "Ioc"}
_SIDES = {"B": Side.BUY, "A": Side.SELL}
#: tokens that stand for a coin under another name; another token that calls itself like one of the coins is not listed
_COINS = {"UBTC": "BTC", "UETH": "ETH", "USOL": "SOL", "UFART": "FARTCOIN", "UPUMP": "PUMP", "USDT0": "USDT"}
_STATES = {
    "open": State.WORKING,
    "triggered": State.WORKING,
    "filled": State.FILLED,
    "scheduledCancel": State.CANCELLED,
}
_ENDS = {"ejected": State.REJECTED, "anceled": State.CANCELLED}  # of canceled, marginCanceled, tickRejected …
_MISSING = "Order was never placed, already canceled, or filled"
_NO_WALLET = "User or API Wallet"
#: documented errors by the begin of their text, which goes on with an asset, a price or an address
_ERRORS = (
    *refused_rows(Refusal.INSUFFICIENT_BALANCE, "Insufficient spot balance", "Insufficient margin to place order"),
    *refused_rows(
        Refusal.QUANTITY, "Order must have minimum value of", "Order has zero size", "Order has invalid size"
    ),
    *refused_rows(Refusal.PRICE, "Price must be divisible by tick size", "Order price", "Order has invalid price"),
    *refused_rows(Refusal.WOULD_MATCH, "Post only order would have immediately matched"),
    *refused_rows(Refusal.OTHER, "Order could not immediately match", "No liquidity available for market order"),
    *refused_rows(Refusal.HALTED, "Only post-only orders allowed immediately after a network upgrade"),
    *refused_rows(Refusal.RATE_LIMITED, "Too many cumulative requests sent"),
    *refused_rows(Refusal.CLOCK_SKEW, "Invalid nonce"),
    *refused_rows(Refusal.PERMISSION, _NO_WALLET),
    *refused_rows(Refusal.UNKNOWN_ORDER, _MISSING),
)


def _statuses(body: Any) -> list[Any]:
    found = mapping_in(body, "response", "data").get("statuses")
    return found if isinstance(found, list) else []


def faults_of(body: Any) -> tuple[VenueFault, ...]:
    """Return the errors of a body: one of the whole request, or one of each order, both with the status 200."""
    texts = [text_in(row, "error") for row in _statuses(body)]
    if text_in(body, "status") == "err":
        texts.append(text_in(body, "response") or "err")
    return tuple(VenueFault(_code(text), text) for text in texts if text)


def _code(text: str) -> str:
    return next((row.code for row in _ERRORS if text.lower().startswith(row.code.lower())), text[:100])


def order_id_of(body: Any, order: Order) -> str | None:
    """Return the exchange's id, if the body acknowledges one order, under our client id."""
    rows = _statuses(body)
    for state in ("resting", "filled") if len(rows) == 1 else ():
        taken = mapping_in(rows[0], state)
        if text_in(taken, "cloid").lower() == f"0x{order.client_order_id}":
            return text_in(taken, "oid") or None
    return None


def place(order: Order, pair: str, deadline_ns: int) -> CcxtCall:
    """Return the request of a new order; the venue gives a market order its limit price (`market_range`)."""
    is_market = order.type is OrderType.MARKET
    price = Decimal(f"{needed(order.price):.2e}") if is_market else needed(order.price)  # five digits at most
    row = {
        "a": _asset(pair),
        "b": order.side is Side.BUY,
        "p": plain(price),
        "s": plain(order.quantity),
        "r": False,
        "t": {"limit": {"tif": "Ioc" if is_market else _TIMES[order.time_in_force]}},
        "c": f"0x{order.client_order_id}",
    }
    action = {"type": "order", "orders": [row], "grouping": "na", "expiresAfter": deadline_ns // _MS}
    return CcxtCall("privatePostExchange", action, is_write=True)


def _asset(pair: str) -> int:
    """Return the number of a market in actions: PURR/USDC, the only one with a name, is the first."""
    return _SPOT + (int(pair[1:]) if pair[:1] == "@" and pair[1:].isdecimal() else 0)


def cancel(order: Order, pair: str) -> CcxtCall:
    """Return the request of a cancel by our id, or by the exchange's of an order that is not ours."""
    asset, number, is_ours = _asset(pair), order.client_order_id, len(order.client_order_id) == _ID_HEX
    other = {"a": asset, "o": order.venue_order_id and int(order.venue_order_id)}
    row = {"asset": asset, "cloid": f"0x{number}"} if is_ours else other
    kind = "cancelByCloid" if is_ours else "cancel"
    return CcxtCall("privatePostExchange", {"type": kind, "cancels": [row]}, is_write=True)


def cancelled_of(body: Any, order: Order) -> bool:
    """Return whether the body says that the one cancel was done."""
    return text_in(body, "status") == "ok" and _statuses(body) == ["success"]


def lookups(client_order_id: str, pair: str) -> tuple[CcxtCall, ...]:
    """Return the one read of an order by our id, in whatever state: `unknownOid` is its absence."""
    number: str | int = f"0x{client_order_id}" if len(client_order_id) == _ID_HEX else int(client_order_id)
    return (CcxtCall("privatePostInfo", {"type": "orderStatus", "oid": number}, weight=2),)


def _read(kind: str, weight: int = 20, **params: Any) -> CcxtCall:
    return CcxtCall("privatePostInfo", {"type": kind, **params}, weight=weight)


def _list(body: Any, what: str) -> list[Any]:
    if not isinstance(body, list):
        raise PeerError(f"hyperliquid: {what} are no list: {str(body)[:300]}")
    return body


def markets_of(body: Any) -> list[PairNames]:
    """Return the spot markets."""

    def read() -> list[PairNames]:
        tokens = {row["index"]: str(row["name"]) for row in body["tokens"]}
        found = []
        for row in body["universe"]:
            base_id, quote_id = (tokens[index] for index in row["tokens"])
            if not {base_id, quote_id} & set(_COINS.values()):
                base, quote = _COINS.get(base_id, base_id), _COINS.get(quote_id, quote_id)
                name, index = str(row["name"]), f"@{int(row['index'])}"
                found.append(PairNames(f"{base}/{quote}", name, (name, index), base, quote, base_id, quote_id))
        return found

    return read_row("hyperliquid: the markets", body, read)


def orders_of(body: Any, pairs: Mapping[str, PairNames]) -> list[Report]:
    """Return open orders, or the one order of a status; none for `unknownOid`."""
    status = text_in(body, "status")
    if status == "unknownOid":
        return []
    if status != "order":
        shown = [(row, row, "open") for row in _list(body, "orders")]
    else:
        outer = mapping_in(body, "order")
        shown = [(outer, mapping_in(outer, "order"), text_in(outer, "status"))]
    return [
        read_row("hyperliquid: an order", outer, partial(_report, outer, row, at, pairs)) for outer, row, at in shown
    ]


def _report(outer: Mapping[str, Any], row: Mapping[str, Any], status: str, pairs: Mapping[str, PairNames]) -> Report:
    quantity, filled = amount_in(row, "origSz"), amount_in(row, "origSz") - amount_in(row, "sz")
    coin, number, name = str(row["coin"]), str(int(row["oid"])), text_in(row, "cloid").lower().removeprefix("0x")
    state = next((known for end, known in _ENDS.items() if status.endswith(end)), None) or _STATES[status]
    if state is State.WORKING and filled:
        state = State.PARTIAL
    elif state is State.FILLED and filled != quantity:
        state = State.CANCELLED  # the rest of an order that may not rest
    return Report(
        client_order_id=name or number,
        venue_order_id=number,
        symbol=pairs[coin].symbol if coin in pairs else coin,
        state=state,
        filled=filled,
        time_ns=int(amount_in(outer, "statusTimestamp" if "statusTimestamp" in outer else "timestamp")) * _MS,
        side=_SIDES[str(row["side"])],
        quantity=quantity,
        price=amount_in(row, "limitPx"),
        source="rest",
    )


def history_of(body: Any, pairs: Mapping[str, PairNames]) -> list[VenueExecution]:
    """Return one page of executions; those of perpetuals and of unknown markets are left out."""
    return [
        read_row("hyperliquid: an execution", row, lambda row=row: _execution(row, pairs[str(row["coin"])]))  # type: ignore[misc]
        for row in _list(body, "executions")
        if not isinstance(row, Mapping) or str(row.get("coin")) in pairs
    ]


def _execution(row: Mapping[str, Any], pair: PairNames) -> VenueExecution:
    token = str(row["feeToken"])
    return VenueExecution(
        trade_id=str(int(row["tid"])),
        venue_order_id=str(int(row["oid"])),
        symbol=pair.symbol,
        side=_SIDES[str(row["side"])],
        quantity=amount_in(row, "sz"),
        price=amount_in(row, "px"),
        fee=amount_in(row, "fee"),
        fee_currency={pair.base_id: pair.base, pair.quote_id: pair.quote}.get(token, token),
        time_ns=int(amount_in(row, "time")) * _MS,
        is_maker=row["crossed"] is False,
    )


def next_page(call: CcxtCall, body: Any) -> CcxtCall | None:
    """Return the read from the last execution's time on: it comes again, so a page that holds no later one is the last.

    Errors: PeerError for a full page of one millisecond, behind which nothing can be read.
    """
    if call.params["type"] != "userFillsByTime" or not body:
        return None
    last = read_row("hyperliquid: a time", body, lambda: max(int(row["time"]) for row in body))
    if last > call.params["startTime"]:
        return replace(call, params={**call.params, "startTime": last})
    if len(body) >= _PAGE_MIN:
        raise PeerError("hyperliquid: more executions in one millisecond than one answer holds")
    return None


def balances_of(body: Any, currencies: Mapping[str, str]) -> list[Balance]:
    """Return the balances of the spot account."""
    rows = _list(body.get("balances") if isinstance(body, Mapping) else body, "balances")
    return [read_row("hyperliquid: a balance", row, lambda row=row: _balance(row, currencies)) for row in rows]  # type: ignore[misc]


def _balance(row: Mapping[str, Any], currencies: Mapping[str, str]) -> Balance:
    coin, held = str(row["coin"]), amount_in(row, "hold")
    return Balance(currencies.get(coin, coin), amount_in(row, "total") - held, held)


def owner_of(body: Any) -> str:
    """Return the address of the account."""
    if not (owner := text_in(body, "user")):
        raise PeerError("hyperliquid: the answer names no account")
    return owner.lower()


def clock_of(body: Any) -> tuple[int, int]:
    """Return the bounds of the exchange's clock: whole milliseconds."""
    first = read_row("hyperliquid: the time", body, lambda: int(amount_in(body, "time")) * _MS)
    return first, first + _MS


def price_of(body: Any) -> Decimal:
    """Return the middle of the best bid and the best ask."""
    return read_row("hyperliquid: a book", body, lambda: sum(amount_in(body["levels"][i][0], "px") for i in (0, 1)) / 2)  # type: ignore[return-value]


def _client() -> type:
    from fks_venue_hyperliquid.client import Hyperliquid  # ccxt is imported when a session is made

    return Hyperliquid


DIALECT = Dialect(
    name="hyperliquid",
    source="https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api",
    types=_TYPES,
    times_in_force=frozenset(_TIMES),
    faults_of=faults_of,
    order_id_of=order_id_of,
    errors=_ERRORS,
    place=place,
    cancel=cancel,
    cancelled_of=cancelled_of,
    unknown_order=frozenset({_MISSING}),
    lookups=lookups,
    deadline_s=(1.0, 60.0),
    key_refused=frozenset({_NO_WALLET}),
    client=_client,
    test_hosts=frozenset({"api.hyperliquid-testnet.xyz"}),
    fee_in_received_asset=True,
    market_range=Decimal("0.05"),
    facts=(
        VenueFact("success", "resting or filled with an oid, and cloid is ours", Basis.STAND_IN),
        VenueFact("duplicate", "no error for it is documented: any unknown text is ambiguous", Basis.DOCUMENTED),
        VenueFact("absence", "orderStatus by cloid: unknownOid", Basis.STAND_IN),
        VenueFact("market orders", "IOC limits 5% from the middle of the book, as in the vendor's SDK", Basis.STAND_IN),
        VenueFact("stops, FOK", "missing: trigger orders reduce a position, and spot has none", Basis.DOCUMENTED),
        VenueFact("ticks", "five significant digits, or a whole number: orders are not rounded", Basis.DOCUMENTED),
        VenueFact("nonces", "ms; 100 kept per wallet: one wallet per process is advised", Basis.STAND_IN),
        VenueFact(
            "key", "the account's address; secret: the wallet's. Reads do not prove the secret", Basis.DOCUMENTED
        ),
        VenueFact("fees", "of the token in feeToken: on spot the received one", Basis.DOCUMENTED),
        VenueFact("history", "the newest 10 000 executions; transfers are not read", Basis.DOCUMENTED),
    ),
    reads=AccountReads(
        markets=CcxtCall("publicPostInfo", {"type": "spotMeta"}, weight=20),
        markets_of=markets_of,
        open_orders=_read("frontendOpenOrders"),
        orders_of=orders_of,
        by_ids=lambda numbers: _read("orderStatus", 2, oid=int(numbers[0])),
        ids_max=1,
        history=lambda since_ns: _read("userFillsByTime", startTime=since_ns // _MS),
        history_of=history_of,
        next_page=next_page,
        balances=_read("spotClearinghouseState", 2),
        balances_of=balances_of,
        owner=_read("activeAssetData", coin="BTC"),  # the one answer that repeats the account's address
        owner_of=owner_of,
        rights_of=lambda body: KeyRights(None, None),  # a wallet's rights are not shown
        clock=CcxtCall("publicPostInfo", {"type": "exchangeStatus"}, weight=2),
        clock_of=clock_of,
        price=lambda pair: CcxtCall("publicPostInfo", {"type": "l2Book", "coin": pair}, weight=2),
        price_of=price_of,
    ),
)
