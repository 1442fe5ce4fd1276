"""Binance spot's words for our orders, and its answers as our values. Pure; numbers come from the venue's strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from fks.model import ids
from fks.model.account import Balance, VenueIdentity
from fks.model.decimals import number_of, plain
from fks.model.errors import PeerError
from fks.model.order import PENDING, Fill, Order, OrderType, Report, Side, State
from fks.trading.venues.binance.classify import expiry_refusal, reject_refusal

TYPES: dict[OrderType, str] = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "STOP_LOSS",
    OrderType.STOP_LIMIT: "STOP_LOSS_LIMIT",
    OrderType.TAKE_PROFIT: "LIMIT",
}
_TIMED = frozenset({"LIMIT", "STOP_LOSS_LIMIT"})
_HELD = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
STATES: dict[str, State] = {
    "NEW": State.WORKING,
    "PENDING_NEW": State.ACCEPTED,
    "PARTIALLY_FILLED": State.PARTIAL,
    "FILLED": State.FILLED,
    "CANCELED": State.CANCELLED,
    "PENDING_CANCEL": State.WORKING,
    "REJECTED": State.REJECTED,
    "EXPIRED": State.EXPIRED,
    "EXPIRED_IN_MATCH": State.EXPIRED,
}
_MS = 1_000_000


def order_params(order: Order) -> dict[str, str]:
    """Return the parameters of `POST /api/v3/order`. A market order never carries a price: ccxt would make it a
    quote amount; ours go to the endpoint as they are."""
    kind = TYPES[order.type]
    params = {
        "symbol": order.symbol,
        "side": order.side.value.upper(),
        "type": kind,
        "quantity": plain(order.quantity),
        "newClientOrderId": order.client_order_id,
        "newOrderRespType": "FULL",
    }
    if kind in _TIMED:
        params["timeInForce"] = order.time_in_force.value.upper()
        params["price"] = plain(_needed(order.price))
    if kind in _HELD:
        params["stopPrice"] = plain(_needed(order.stop_price))
    return params


def oco_params(stop: Order, limit: Order) -> dict[str, str]:
    """Return the parameters of `POST /api/v3/orderList/oco`. For a sell the limit is above and the stop below."""
    limit_side, stop_side = ("above", "below") if stop.side is Side.SELL else ("below", "above")
    return {
        "symbol": stop.symbol,
        "side": stop.side.value.upper(),
        "quantity": plain(stop.quantity),
        "listClientOrderId": f"oco{stop.client_order_id}"[:36],
        "newOrderRespType": "FULL",
        **_leg_params(limit, limit_side),
        **_leg_params(stop, stop_side),
    }


def entry_params(entry: Order, legs: Sequence[Order], *, sells_received: bool) -> dict[str, str]:
    """Return the parameters of an entry with the exits that wait for its fill: `orderList/oto` and `opo` with one leg,
    `otoco` and `opoco` with stop and limit. With `sells_received` (opo) the exits have no quantity."""
    first = legs[0]
    params = {
        "symbol": entry.symbol,
        "listClientOrderId": f"oto{entry.client_order_id}"[:36],
        "newOrderRespType": "FULL",
        "workingType": TYPES[entry.type],
        "workingSide": entry.side.value.upper(),
        "workingClientOrderId": entry.client_order_id,
        "workingPrice": plain(_needed(entry.price)),
        "workingQuantity": plain(entry.quantity),
        "workingTimeInForce": entry.time_in_force.value.upper(),
        "pendingSide": first.side.value.upper(),
    }
    if not sells_received:
        params["pendingQuantity"] = plain(first.quantity)
    if len(legs) == 1:
        return params | _leg_params(first, "pending")
    stop, limit = legs
    limit_side, stop_side = ("Above", "Below") if stop.side is Side.SELL else ("Below", "Above")
    return params | _leg_params(limit, f"pending{limit_side}") | _leg_params(stop, f"pending{stop_side}")


def _leg_params(leg: Order, where: str) -> dict[str, str]:
    """Return the parameters of one exit of a list, whose names begin with `where`."""
    params = {f"{where}ClientOrderId": leg.client_order_id}
    if leg.type in (OrderType.STOP, OrderType.STOP_LIMIT):
        params |= {f"{where}Type": TYPES[leg.type], f"{where}StopPrice": plain(_needed(leg.stop_price))}
    else:
        params |= {f"{where}Type": "LIMIT_MAKER", f"{where}Price": plain(_needed(leg.price))}
    if leg.type is OrderType.STOP_LIMIT:
        params[f"{where}Price"] = plain(_needed(leg.price))
        params[f"{where}TimeInForce"] = leg.time_in_force.value.upper()
    return params


def report_of(info: Mapping[str, Any], *, source: str, client_order_id: str | None = None) -> Report:
    """Return a REST order object as a report. A cancel's answer carries the cancel's own id: `origClientOrderId` wins.

    Errors: PeerError when a field is missing or is no number.
    """
    try:
        status = str(info["status"])
        filled = number_of(info.get("executedQty", "0"))
        quantity = number_of(info["origQty"]) if "origQty" in info else None
        price = number_of(info["price"]) if "price" in info else None
        stop_price = number_of(info["stopPrice"]) if "stopPrice" in info else None
        stamp = info.get("updateTime") or info.get("transactTime") or info.get("time") or 0
        state = _state(status, str(info.get("type", "")), info.get("isWorking"), info.get("workingTime"))
        return Report(
            client_order_id=client_order_id or str(info.get("origClientOrderId") or info["clientOrderId"]),
            venue_order_id=str(info["orderId"]),
            symbol=str(info["symbol"]),
            state=state,
            filled=filled,
            time_ns=int(stamp) * _MS,
            side=Side(str(info["side"]).lower()) if "side" in info else None,
            quantity=quantity,
            price=price or None,
            source=source,
            code=(code := _code(status, info.get("expiryReason"))),
            refusal=reject_refusal(None) if state is State.REJECTED else expiry_refusal(code),
            stop_price=stop_price or None,
        )
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise PeerError(f"an order answer cannot be read ({type(error).__name__}: {error}): {_short(info)}") from error


def report_of_event(event: Mapping[str, Any]) -> Report:
    """Return an executionReport as a report. `C` is our id when the event is about a cancel. Errors: PeerError."""
    try:
        reason = str(event.get("r", "NONE"))
        state = _state(str(event["X"]), str(event["o"]), event.get("w"), None)
        return Report(
            client_order_id=str(event.get("C") or event["c"]),
            venue_order_id=str(event["i"]),
            symbol=str(event["s"]),
            state=state,
            filled=number_of(event["z"]),
            time_ns=int(event["T"]) * _MS,
            side=Side(str(event["S"]).lower()),
            quantity=number_of(event["q"]),
            price=number_of(event["p"]) or None,
            source="stream",
            code=(code := _code(str(event["X"]), event.get("eR"))) or (None if reason == "NONE" else reason),
            refusal=reject_refusal(reason) if state is State.REJECTED else expiry_refusal(code, reason),
        )
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise PeerError(
            f"an executionReport cannot be read ({type(error).__name__}: {error}): {_short(event)}"
        ) from error


def _code(status: str, expiry: object) -> str | None:
    """Return the code of a report: PENDING of an exit that waits for its entry's fill, the venue's reason of an
    expiry."""
    if status == "PENDING_NEW":
        return PENDING
    return str(expiry) if status == "EXPIRED" and expiry not in (None, "NONE") else None


def _state(status: str, kind: str, is_working: object, working_time: object) -> State:
    """Return our state. A stop that was not triggered is NEW at Binance and ACCEPTED here: held, not in the book."""
    try:
        state = STATES[status]
    except KeyError:
        raise ValueError(f"unknown status {status!r}") from None
    if state is State.WORKING and kind in _HELD:
        is_triggered = (
            bool(is_working) if is_working is not None else (isinstance(working_time, int) and working_time > 0)
        )
        return State.WORKING if is_triggered else State.ACCEPTED
    return state


class FillReader:
    """Makes fills of whatever shows them. Answer, history and stream give one execution one id: it is built from the
    session's identity, the symbol and the trade id, which all three carry (C2). Without an identity there are no fills:
    the answer and the stream leave them out, and the history, which is read with one, brings them."""

    def __init__(self, *, venue: str, account_id: int) -> None:
        self._venue = venue
        self._account_id = account_id
        self.identity: VenueIdentity | None = None

    def _fill(self, trade_id: str, symbol: str, **fields: Any) -> Fill:
        known = self.identity
        assert known is not None, "the readers ask for the identity first"
        return Fill(
            fill_id=ids.fill_id_v2(known.uid, known.environment.value, known.network_epoch, symbol, trade_id),
            venue_trade_id=trade_id,
            symbol=symbol,
            venue=self._venue,
            account_id=self._account_id,
            **fields,
        )

    def from_answer(self, info: Mapping[str, Any], client_order_id: str) -> tuple[Fill, ...]:
        """Return the fills that ride on a FULL answer. Errors: PeerError."""
        if self.identity is None:
            return ()
        try:
            return tuple(
                self._fill(
                    str(part["tradeId"]),
                    str(info["symbol"]),
                    client_order_id=client_order_id,
                    venue_order_id=str(info["orderId"]),
                    side=Side(str(info["side"]).lower()),
                    quantity=number_of(part["qty"]),
                    price=number_of(part["price"]),
                    fee=number_of(part["commission"]),
                    fee_currency=str(part["commissionAsset"]),
                    time_ns=int(info["transactTime"]) * _MS,
                    source="rest",
                )
                for part in info.get("fills") or ()
            )
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise PeerError(
                f"fills of an answer cannot be read ({type(error).__name__}: {error}): {_short(info)}"
            ) from error

    def from_event(self, event: Mapping[str, Any]) -> Fill | None:
        """Return the execution in an executionReport, or None when it carries none. Errors: PeerError."""
        if event.get("x") != "TRADE" or self.identity is None:
            return None
        try:
            return self._fill(
                str(event["t"]),
                str(event["s"]),
                client_order_id=str(event.get("C") or event["c"]),
                venue_order_id=str(event["i"]),
                side=Side(str(event["S"]).lower()),
                quantity=number_of(event["l"]),
                price=number_of(event["L"]),
                fee=number_of(event.get("n") or "0"),
                fee_currency=str(event.get("N") or ""),
                time_ns=int(event["T"]) * _MS,
                is_maker=bool(event.get("m")),
                source="stream",
            )
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise PeerError(
                f"an execution cannot be read ({type(error).__name__}: {error}): {_short(event)}"
            ) from error

    def from_history(self, row: Mapping[str, Any], client_order_id: str | None) -> Fill:
        """Return a row of myTrades, which carries no client id: the caller knows it, or None. Errors: PeerError."""
        try:
            return self._fill(
                str(row["id"]),
                str(row["symbol"]),
                client_order_id=client_order_id,
                venue_order_id=str(row["orderId"]),
                side=Side.BUY if row["isBuyer"] else Side.SELL,
                quantity=number_of(row["qty"]),
                price=number_of(row["price"]),
                fee=number_of(row["commission"]),
                fee_currency=str(row["commissionAsset"]),
                time_ns=int(row["time"]) * _MS,
                is_maker=bool(row.get("isMaker")),
                source="rest",
            )
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise PeerError(f"a trade cannot be read ({type(error).__name__}: {error}): {_short(row)}") from error


def balances_of(
    rows: Sequence[Mapping[str, Any]], *, keys: tuple[str, str, str] = ("asset", "free", "locked")
) -> list[Balance]:
    """Return balances from an account answer, or from a stream event with `keys` ("a", "f", "l"). Errors: PeerError."""
    asset, free, locked = keys
    try:
        return [Balance(str(row[asset]), number_of(row[free]), number_of(row[locked])) for row in rows]
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise PeerError(f"balances cannot be read ({type(error).__name__}: {error})") from error


def _needed(value: Decimal | None) -> Decimal:
    assert value is not None, "the venue checks the order's fields before it makes parameters"
    return value


def _short(value: object) -> str:
    return str(value)[:300]
