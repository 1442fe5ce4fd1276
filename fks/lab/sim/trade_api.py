"""The signed endpoints: orders, order lists, the account and its history. Each takes parameters and returns JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from fks.lab.sim.atoms import SCALE, show
from fks.lab.sim.entry import NewOrder, check_positive, read_order
from fks.lab.sim.errors import ApiError, missing, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import Target
from fks.lab.sim.keys import KeyRule
from fks.lab.sim.orders import PROFITS, STOPS, OrderList, SimFill, SimOrder
from fks.lab.sim.params import Params
from fks.lab.sim.symbol_state import SymbolState

_DAY_MS = 86_400_000


# -- orders ----------------------------------------------------------------------------------------------------------


def new_order(exchange: LocalExchange, params: Params) -> object:
    """Place an order."""
    state = exchange.current_state(params.text("symbol"))
    new = read_order(params, state.symbol)
    exchange.spend_orders(state.symbol)
    order, fills = exchange.engine.place(new)
    return _answer(new, order, fills)


def _answer(new: NewOrder, order: SimOrder, fills: list[SimFill]) -> dict[str, object]:
    if new.resp_type == "ACK":
        return order.ack()
    if new.resp_type == "RESULT":
        return order.result()
    return order.result() | _executed(fills)


def _executed(fills: list[SimFill]) -> dict[str, object]:
    """Return the fills of a FULL answer and the moment the engine acted: in the time of the market, as in the fill's
    own report and in the history of trades."""
    acted = {"transactTime": fills[-1].time_ms} if fills else {}
    return acted | {"fills": [fill.brief() for fill in fills]}


def test_order(exchange: LocalExchange, params: Params) -> object:
    """Check an order and do nothing."""
    state = exchange.current_state(params.text("symbol"))
    exchange.engine.check(read_order(params, state.symbol))
    if params.flag("computeCommissionRates"):
        return {
            "standardCommissionForOrder": _rates(exchange),
            "specialCommissionForOrder": _zero_rates(),
            "taxCommissionForOrder": _zero_rates(),
            "discount": _discount(),
        }
    return {}


def is_hidden(exchange: LocalExchange, order: SimOrder) -> bool:
    """Return whether a fault hides an order from the query that asks for it now."""
    at = Target(symbol=order.symbol, client_order_id=order.client_id)
    age_s = (exchange.wall_ms() - order.time_ms) / 1000
    return exchange.faults.strike(("hide_order",), at, age_s=age_s) is not None


def find_order(exchange: LocalExchange, params: Params, error: str) -> SimOrder:
    """Return the order that `orderId` or `origClientOrderId` names, open or not. Errors: −1102, or the one named."""
    symbol = exchange.state(params.text("symbol")).symbol
    order_id, client_id = params.number("orderId"), params.client_id("origClientOrderId")
    if order_id is None and not client_id:
        raise ApiError(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
    open_orders = exchange.states[symbol].orders
    found: list[SimOrder] = []
    if order_id is not None:
        found = (
            [open_orders[order_id]]
            if order_id in open_orders
            else exchange.store.orders("symbol = ? AND order_id = ?", (symbol, order_id))
        )
        found = [order for order in found if not client_id or order.client_id == client_id]
    elif client_id:
        match = exchange.states[symbol].by_client_id(client_id)
        found = (
            [match]
            if match
            else exchange.store.orders("symbol = ? AND client_id = ?", (symbol, client_id), limit=1, last=True)
        )
    if not found:
        raise refusal(error)
    return found[0]


def query_order(exchange: LocalExchange, params: Params) -> object:
    """Return one order."""
    order = find_order(exchange, params, "no_order")
    if is_hidden(exchange, order):
        raise refusal("no_order")
    return order.row()


def cancel_order(exchange: LocalExchange, params: Params) -> object:
    """Cancel one order (and the list it belongs to)."""
    order = _cancellable(exchange, params)
    pair = exchange.engine.lists.get(order.list_id)
    members = exchange.engine.cancel(order, params.client_id("newClientOrderId"))
    if pair is not None:
        return _list_answer(pair, [member.cancelled() for member in members])
    return order.cancelled()


def _cancellable(exchange: LocalExchange, params: Params) -> SimOrder:
    exchange.current_state(params.text("symbol"), is_new=False)
    order = find_order(exchange, params, "unknown_order")
    if not order.is_open:
        raise refusal("unknown_order")
    wanted = {"ONLY_NEW": "NEW", "ONLY_PARTIALLY_FILLED": "PARTIALLY_FILLED"}.get(params.maybe("cancelRestrictions"))
    if wanted is not None and order.status != wanted:
        raise ApiError(-2011, "Order was not canceled due to cancel restrictions.")
    return order


def open_orders(exchange: LocalExchange, params: Params) -> object:
    """Return the open orders of a symbol, or all."""
    symbol = params.maybe("symbol")
    states = [exchange.state(symbol)] if symbol else list(exchange.states.values())
    return [order.row() for state in states for order in state.orders.values() if not is_hidden(exchange, order)]


def cancel_open_orders(exchange: LocalExchange, params: Params) -> object:
    """Cancel all open orders of a symbol. Errors: −2011 when there is none."""
    state = exchange.current_state(params.text("symbol"), is_new=False)
    if not state.orders:
        raise refusal("unknown_order")
    found: list[object] = []
    while state.orders:
        order = next(iter(state.orders.values()))
        pair = exchange.engine.lists.get(order.list_id)
        members = [member.cancelled() for member in exchange.engine.cancel(order)]
        found += [_list_answer(pair, members)] if pair is not None else members
    return found


def all_orders(exchange: LocalExchange, params: Params) -> object:
    """Return orders of a symbol from an id or a time on, else the last ones."""
    symbol, limit = exchange.state(params.text("symbol")).symbol, params.limit(500, 1000)
    from_id, (start, end) = params.number("orderId"), _window(params)
    if from_id is not None:
        return [o.row() for o in exchange.store.orders("symbol = ? AND order_id >= ?", (symbol, from_id), limit=limit)]
    found = exchange.store.orders(
        "symbol = ? AND time_ms BETWEEN ? AND ?", (symbol, start or 0, end or 1 << 60), limit=limit, last=start is None
    )
    return [order.row() for order in found]


def _window(params: Params) -> tuple[int | None, int | None]:
    start, end = params.number("startTime"), params.number("endTime")
    if start is not None and end is not None and (end < start or end - start > _DAY_MS):
        raise ApiError(-1127, "More than 24 hours between startTime and endTime.")
    return start, end


def my_trades(exchange: LocalExchange, params: Params) -> object:
    """Return fills of a symbol. On a tape a fill is in the window by its tape time or by the wall time it was made
    at."""
    symbol, limit = exchange.state(params.text("symbol")).symbol, params.limit(500, 1000)
    from_id, order_id, (start, end) = params.number("fromId"), params.number("orderId"), _window(params)
    if from_id is not None and (start is not None or end is not None):
        raise refusal("bad_combination")
    where, values = "symbol = ?", [symbol] + [x for x in (order_id, from_id) if x is not None]
    where += " AND order_id = ?" if order_id is not None else ""
    where += " AND trade_id >= ?" if from_id is not None else ""
    if start is not None or end is not None:
        low, high = start or 0, end or 1 << 60
        where += " AND (time_ms BETWEEN ? AND ? OR wall_ms BETWEEN ? AND ?)"
        values += [low, high, low, high]
    newest = from_id is None and start is None
    return [fill.row() for fill in exchange.store.fills(where, tuple(values), limit=limit, last=newest)]


# -- cancel and replace ----------------------------------------------------------------------------------------------


def cancel_replace(exchange: LocalExchange, params: Params) -> object:
    """Cancel an order and place another. Errors: −2022 when both fail or nothing was tried, −2021 when one failed."""
    state = exchange.current_state(params.text("symbol"))
    mode = params.choice("cancelReplaceMode", ("STOP_ON_FAILURE", "ALLOW_FAILURE"), "bad_combination")
    new = read_order(params, state.symbol)
    exchange.spend_orders(state.symbol)
    names = {"cancelOrderId": "orderId", "cancelOrigClientOrderId": "origClientOrderId", "symbol": "symbol"}
    aimed = Params({names[name]: value for name, value in params.items() if name in names})
    answer: dict[str, object] = {
        "cancelResult": "FAILURE",
        "newOrderResult": "NOT_ATTEMPTED",
        "cancelResponse": None,
        "newOrderResponse": None,
    }
    try:
        order = exchange.engine.cancel(_cancellable(exchange, aimed), params.client_id("cancelNewClientOrderId"))[0]
        answer |= {"cancelResult": "SUCCESS", "cancelResponse": order.cancelled()}
    except ApiError as error:
        answer["cancelResponse"] = error.body()
    if answer["cancelResult"] == "SUCCESS" or mode == "ALLOW_FAILURE":
        try:
            placed, fills = exchange.engine.place(new)
            answer |= {"newOrderResult": "SUCCESS", "newOrderResponse": _answer(new, placed, fills)}
        except ApiError as error:
            answer |= {"newOrderResult": "FAILURE", "newOrderResponse": error.body()}
    results = {answer["cancelResult"], answer["newOrderResult"]}
    if results == {"SUCCESS"}:
        return answer
    if "SUCCESS" in results:
        raise ApiError(-2021, "Order cancel-replace partially failed.", status=409, data=answer)
    raise ApiError(-2022, "Order cancel-replace failed.", data=answer)


# -- amendments ------------------------------------------------------------------------------------------------------


def amend_order(exchange: LocalExchange, params: Params) -> object:
    """Reduce an order's quantity; it keeps its id and its place in the queue."""
    exchange.current_state(params.text("symbol"))
    params.text("newQty")
    order, quantity = find_order(exchange, params, "amend_unknown"), params.atoms("newQty")
    if not quantity:
        raise ApiError(-1013, "Invalid quantity.")
    if not order.is_open:
        raise refusal("amend_unknown")
    pair = exchange.engine.lists.get(order.list_id)
    done = exchange.engine.amend(order, quantity, params.client_id("newClientOrderId"))
    found = {"transactTime": done.time_ms, "executionId": done.execution_id, "amendedOrder": order.amended()}
    return found | ({"listStatus": pair.status()} if pair is not None else {})


def amendments(exchange: LocalExchange, params: Params) -> object:
    """Return the amendments of one order."""
    params.text("orderId")
    order = find_order(exchange, params, "no_order")
    first, limit = params.number("fromExecutionId") or 0, params.limit(500, 1000)
    return [item.row() for item in exchange.store.amendments(order.order_id, first, limit)]


# -- order lists -----------------------------------------------------------------------------------------------------


def _list_answer(pair: OrderList, reports: list[dict[str, object]]) -> dict[str, object]:
    return pair.row() | {"orderReports": reports}


def new_oco(exchange: LocalExchange, params: Params) -> object:
    """Place a pair of which one cancels the other: `above…` and `below…`."""
    state = exchange.current_state(params.text("symbol"))
    shared = {name: params.text(name) for name in ("side", "quantity")}
    legs = [_part(params, state.symbol, where, shared) for where in ("above", "below")]
    return _place_oco(exchange, state, params, legs)


def new_oto(exchange: LocalExchange, params: Params) -> object:
    """Place an order, `working…`, and the one that goes to the book when it is filled: `pending…`."""
    return _place_oto(
        exchange, params, {"side": params.text("pendingSide"), "quantity": params.text("pendingQuantity")}, ("",)
    )


def new_opo(exchange: LocalExchange, params: Params) -> object:
    """Place an order that buys, and the one that sells what it receives."""
    return _place_opo(exchange, params, ("",))


def new_otoco(exchange: LocalExchange, params: Params) -> object:
    """Place an order, `working…`, and the pair that goes to the book when it is filled: `pendingAbove…`,
    `pendingBelow…`."""
    return _place_oto(
        exchange, params, {"side": params.text("pendingSide"), "quantity": params.text("pendingQuantity")}
    )


def new_opoco(exchange: LocalExchange, params: Params) -> object:
    """Place an order that buys, and the pair that sells what it receives."""
    return _place_opo(exchange, params)


def _place_opo(exchange: LocalExchange, params: Params, parts: tuple[str, ...] = ("Above", "Below")) -> object:
    if "pendingQuantity" in params:
        raise refusal("opo_quantity")
    return _place_oto(exchange, params, {"side": params.text("pendingSide")}, parts)


def _place_oto(
    exchange: LocalExchange, params: Params, shared: dict[str, str], parts: tuple[str, ...] = ("Above", "Below")
) -> object:
    state, is_opo = exchange.current_state(params.text("symbol")), "quantity" not in shared
    params.choice("workingType", ("LIMIT", "LIMIT_MAKER"), "bad_type")
    working = _part(params, state.symbol, "working", {})
    legs = [_part(params, state.symbol, f"pending{where}", shared, is_opo=is_opo) for where in parts]
    if not state.market.listing.oto_allowed:
        raise refusal("no_oto")
    if is_opo:
        for refused, error in (
            (not state.market.listing.opo_allowed, "no_opo"),
            (working.side != "BUY", "opo_buys"),
            (legs[0].side != "SELL", "opo_sells"),
        ):
            if refused:
                raise refusal(error)
    if len(legs) > 1:
        upper, lower = _check_pair(state, legs)
        if lower >= upper:
            raise refusal("bad_oco_prices")
    return _place_list(exchange, params, legs, working)


def _part(params: Params, symbol: str, where: str, shared: dict[str, str], *, is_opo: bool = False) -> NewOrder:
    """Return the order of a list whose parameters begin with `where`; `shared` are those of both orders of a pair."""
    names = {
        "Type": "type",
        "Side": "side",
        "Quantity": "quantity",
        "ClientOrderId": "newClientOrderId",
        "Price": "price",
        "StopPrice": "stopPrice",
        "TimeInForce": "timeInForce",
        "IcebergQty": "icebergQty",
        "TrailingDelta": "trailingDelta",
        "StrategyId": "strategyId",
        "StrategyType": "strategyType",
    }
    values = {short: params.maybe(where + long) for long, short in names.items() if where + long in params}
    if not values.get("type"):
        raise missing(f"{where}Type")
    if where in ("above", "below") and values["type"].endswith("_LIMIT"):
        values.setdefault("timeInForce", "GTC")
    return read_order(Params(values | shared), symbol, is_opo=is_opo)


def old_oco(exchange: LocalExchange, params: Params) -> object:
    """Place a pair by the deprecated endpoint: a limit maker and a stop."""
    state = exchange.current_state(params.text("symbol"))
    side = params.choice("side", ("BUY", "SELL"), "bad_side")
    shared = NewOrder(state.symbol, side, "LIMIT_MAKER", quantity=params.atoms("quantity"))
    profit = replace(shared, price=params.atoms("price"), client_id=params.client_id("limitClientOrderId"))
    has_limit = "stopLimitPrice" in params
    stop = replace(
        shared,
        type="STOP_LOSS_LIMIT" if has_limit else "STOP_LOSS",
        price=params.atoms("stopLimitPrice"),
        stop_price=params.atoms("stopPrice"),
        client_id=params.client_id("stopClientOrderId"),
        tif=params.choice("stopLimitTimeInForce", ("GTC", "IOC", "FOK"), "bad_tif", default="GTC"),
    )
    for leg in (profit, stop):
        check_positive(leg)
    return _place_oco(exchange, state, params, [profit, stop] if side == "SELL" else [stop, profit])


def _place_oco(exchange: LocalExchange, state: SymbolState, params: Params, legs: list[NewOrder]) -> object:
    upper, lower = _check_pair(state, legs)
    if not lower < exchange.engine.last_price(state) < upper:
        raise refusal("bad_oco_prices")
    return _place_list(exchange, params, legs)


def _check_pair(state: SymbolState, legs: list[NewOrder]) -> tuple[int, int]:
    """Return the price levels of a pair, above and below. Errors: −1128, −2010."""
    if not state.market.listing.oco_allowed:
        raise refusal("no_oco")
    above, below = legs
    profit, stop = (above, below) if above.side == "SELL" else (below, above)
    if profit.type not in ("LIMIT_MAKER", *PROFITS) or stop.type not in STOPS:
        raise refusal("bad_combination")
    return above.stop_price or above.price, below.stop_price or below.price


def _place_list(
    exchange: LocalExchange, params: Params, legs: list[NewOrder], working: NewOrder | None = None
) -> object:
    resp = params.choice("newOrderRespType", ("ACK", "RESULT", "FULL"), "bad_resp_type", default="FULL")
    exchange.spend_orders(legs[0].symbol, len(legs) + (working is not None))
    pair, orders, fills = exchange.engine.place_list(params.client_id("listClientOrderId"), legs, working)
    reports = [order.ack() if resp == "ACK" else order.result() for order in orders]
    if working is not None and resp == "FULL":
        reports[0] |= _executed(fills)
    return _list_answer(pair, reports)


def _find_list(exchange: LocalExchange, params: Params, names: tuple[str, str], error: str) -> OrderList:
    list_id, client_id = params.number(names[0]), params.client_id(names[1])
    if list_id is None and not client_id:
        raise missing(names[0])
    where, value = ("list_id = ?", list_id) if list_id is not None else ("client_id = ?", client_id)
    found = exchange.store.lists(where, (value,))
    if not found:
        raise refusal(error)
    return exchange.engine.lists.get(found[-1].list_id, found[-1])


def query_list(exchange: LocalExchange, params: Params) -> object:
    """Return one order list."""
    return _find_list(exchange, params, ("orderListId", "origClientOrderId"), "no_list").row()


def cancel_list(exchange: LocalExchange, params: Params) -> object:
    """Cancel an order list."""
    state = exchange.current_state(params.text("symbol"), is_new=False)
    pair = _find_list(exchange, params, ("orderListId", "listClientOrderId"), "unknown_order")
    member = next((state.orders[i] for i in pair.order_ids if i in state.orders), None)
    if member is None:
        raise refusal("unknown_order")
    members = exchange.engine.cancel(member, params.client_id("newClientOrderId"))
    return _list_answer(pair, [order.cancelled() for order in members])


def open_lists(exchange: LocalExchange, _params: Params) -> object:
    """Return the order lists that still execute."""
    return [pair.row() for pair in exchange.engine.lists.values()]


def all_lists(exchange: LocalExchange, params: Params) -> object:
    """Return order lists from an id or a time on."""
    from_id, (start, end) = params.number("fromId"), _window(params)
    found = exchange.store.lists(
        "list_id >= ? AND time_ms BETWEEN ? AND ?",
        (from_id or 0, start or 0, end or 1 << 60),
        limit=params.limit(500, 1000),
    )
    return [pair.row() for pair in found]


# -- the account -----------------------------------------------------------------------------------------------------


def _rates(exchange: LocalExchange) -> dict[str, str]:
    terms = exchange.engine.terms
    return {
        "maker": _rate_of(terms.maker_rate),
        "taker": _rate_of(terms.taker_rate),
        "buyer": show(0),
        "seller": show(0),
    }


def _zero_rates() -> dict[str, str]:
    return {"maker": show(0), "taker": show(0), "buyer": show(0), "seller": show(0)}


def _discount() -> dict[str, object]:
    return {"enabledForAccount": False, "enabledForSymbol": False, "discountAsset": "BNB", "discount": show(0)}


def account(exchange: LocalExchange, params: Params) -> object:
    """Return the account with its balances."""
    terms = exchange.engine.terms
    hidden = exchange.faults.strike(("hide_balances",), Target())
    balances = [
        row
        for row in exchange.engine.ledger.rows(omit_zero=params.flag("omitZeroBalances"))
        if hidden is None or hidden.symbol not in ("", row["asset"])
    ]
    return {
        "makerCommission": terms.maker_rate // 10_000,
        "takerCommission": terms.taker_rate // 10_000,
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": _rates(exchange),
        "canTrade": True,
        "canWithdraw": False,
        "canDeposit": False,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": exchange.wall_ms(),
        "accountType": "SPOT",
        "balances": balances,
        "permissions": ["SPOT"],
        "uid": exchange.keyring.uid,
        # the real exchange never sends this field: it identifies this simulator, and a reset of it
        "environment": "sim",
        "networkEpoch": exchange.network_epoch,
    }


def commission(exchange: LocalExchange, params: Params) -> object:
    """Return the commission rates of a symbol."""
    return {
        "symbol": exchange.state(params.text("symbol")).symbol,
        "standardCommission": _rates(exchange),
        "specialCommission": _zero_rates(),
        "taxCommission": _zero_rates(),
        "discount": _discount(),
    }


def order_counts(exchange: LocalExchange, _params: Params) -> object:
    """Return how many orders were placed in the current windows."""
    rows = exchange.limits.counts(with_orders=True)
    return [row for row in rows if row["rateLimitType"] == "ORDERS"]


def _rate_of(text_atoms: int) -> str:
    """Return a commission rate as the wire writes it."""
    return show(text_atoms) if text_atoms < SCALE else show(0)


# -- deposits and withdrawals ----------------------------------------------------------------------------------------


def key_rights(exchange: LocalExchange, params: Params) -> object:
    """Return the rights of the key that signed the request."""
    rule = exchange.keyring.rights.get(params.text("apiKey"), KeyRule())
    return {
        "ipRestrict": rule.is_address_bound,
        "createTime": int(exchange.keyring.made_s * 1000),
        "enableReading": True,
        "enableWithdrawals": rule.may_withdraw,
        "enableInternalTransfer": False,
        "permitsUniversalTransfer": False,
        "enableSpotAndMarginTrading": True,
    }


def deposits(exchange: LocalExchange, params: Params) -> object:
    """Return credited deposits, newest first."""
    return [
        {
            "id": number,
            "coin": asset,
            "amount": show(amount),
            "status": 1,
            "network": "SIM",
            "txId": f"sim-{number}",
            "insertTime": time_ms,
            "walletType": 0,
        }
        for number, asset, amount, _, time_ms in _transfers(exchange, params, "deposit")
    ]


def withdrawals(exchange: LocalExchange, params: Params) -> object:
    """Return completed withdrawals, newest first."""
    return [
        {
            "id": number,
            "coin": asset,
            "amount": show(amount),
            "transactionFee": show(fee),
            "status": 6,
            "network": "SIM",
            "txId": f"sim-{number}",
            "walletType": 0,
            "applyTime": datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        }
        for number, asset, amount, fee, time_ms in _transfers(exchange, params, "withdrawal")
    ]


def _transfers(exchange: LocalExchange, params: Params, kind: str) -> list[tuple[str, str, int, int, int]]:
    start, end = params.number("startTime"), params.number("endTime")
    rows = exchange.store.transfers(kind, start or 0, end or 1 << 60)
    coin = params.maybe("coin")
    return [row for row in rows if not coin or row[1] == coin][: params.limit(1000, 1000)]
