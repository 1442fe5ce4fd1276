"""Orders, fills and order lists of the exchange's accounts, and how REST and the user stream write them."""

from __future__ import annotations

from dataclasses import dataclass

from fks.lab.sim.atoms import show

OPEN_STATES = ("PENDING_NEW", "NEW", "PARTIALLY_FILLED")
STOPS = ("STOP_LOSS", "STOP_LOSS_LIMIT")
PROFITS = ("TAKE_PROFIT", "TAKE_PROFIT_LIMIT")
CONDITIONAL = STOPS + PROFITS


@dataclass(frozen=True, slots=True)
class SimFill:
    """One execution. `time_ms` is its event time (tape time on a tape), `wall_ms` when it was made. Atoms."""

    trade_id: int
    symbol: str
    order_id: int
    list_id: int
    time_ms: int
    wall_ms: int
    price: int
    quantity: int
    quote: int
    commission: int
    commission_asset: str
    is_buyer: bool
    is_maker: bool
    place: int

    def row(self) -> dict[str, object]:
        """Return the row of `myTrades`."""
        return {
            "symbol": self.symbol,
            "id": self.trade_id,
            "orderId": self.order_id,
            "orderListId": self.list_id,
            "price": show(self.price),
            "qty": show(self.quantity),
            "quoteQty": show(self.quote),
            "commission": show(self.commission),
            "commissionAsset": self.commission_asset,
            "time": self.time_ms,
            "isBuyer": self.is_buyer,
            "isMaker": self.is_maker,
            "isBestMatch": True,
        }

    def brief(self) -> dict[str, object]:
        """Return the entry of `fills` in the FULL answer to a new order."""
        return {
            "price": show(self.price),
            "qty": show(self.quantity),
            "commission": show(self.commission),
            "commissionAsset": self.commission_asset,
            "tradeId": self.trade_id,
        }


@dataclass(frozen=True, slots=True)
class Amendment:
    """One reduction of an order's quantity. Atoms."""

    execution_id: int
    symbol: str
    order_id: int
    old_id: str
    new_id: str
    old_quantity: int
    new_quantity: int
    time_ms: int

    def row(self) -> dict[str, object]:
        """Return the row of `order/amendments`."""
        return {
            "symbol": self.symbol,
            "orderId": self.order_id,
            "executionId": self.execution_id,
            "origClientOrderId": self.old_id,
            "newClientOrderId": self.new_id,
            "origQty": show(self.old_quantity),
            "newQty": show(self.new_quantity),
            "time": self.time_ms,
        }


@dataclass(slots=True)
class SimOrder:
    """One order. Prices and amounts in atoms; `locked` is the amount reserved for this order.

    `is_working` is false while a conditional order waits for its trigger. `placed_row` is the tape's bar that was open
    when the order came (−1 without a tape), `queue` the lots before it at its price (not kept over a restart).
    `amends` counts the reductions of its quantity, `former_id` is its client id before the last one.
    `expiry` is the reason of an expiry, `reject` of a refusal by the book. A pending order that sells what another
    one receives has the quantity 0 until that order is filled.

    `is_named`: the client chose the client id, which the exchange makes otherwise. `user_ref` is a number of the
    client's that orders may share. `expire_ms` is the wall time at which it expires (0: never). `fee_asset` pays the
    commission ("": the asset received), `fee` is the commission so far. `close_type`, `close_price` and `close_stop`
    describe the order that each fill makes ("": none), `parent_id` is the order whose fill made this one.
    """

    order_id: int
    symbol: str
    client_id: str
    side: str
    type: str
    tif: str
    price: int
    quantity: int
    quote_wanted: int
    stop_price: int
    stp: str
    time_ms: int
    list_id: int = -1
    status: str = "NEW"
    executed: int = 0
    quote: int = 0
    locked: int = 0
    update_ms: int = 0
    working_ms: int = -1
    is_working: bool = True
    placed_row: int = -1
    is_triggered: bool = False
    queue: int = 0
    cancel_id: str = ""
    strategy_id: int = 0
    strategy_type: int = 0
    amends: int = 0
    former_id: str = ""
    expiry: str = "NONE"
    reject: str = "NONE"
    is_named: bool = True
    user_ref: int = 0
    expire_ms: int = 0
    fee_asset: str = ""
    fee: int = 0
    close_type: str = ""
    close_price: int = 0
    close_stop: int = 0
    parent_id: int = 0

    @property
    def is_open(self) -> bool:
        """Return whether it can still fill."""
        return self.status in OPEN_STATES

    @property
    def is_pending(self) -> bool:
        """Return whether it waits for another order of its list to be filled."""
        return self.status == "PENDING_NEW"

    @property
    def is_buy(self) -> bool:
        """Return whether it buys."""
        return self.side == "BUY"

    @property
    def remaining(self) -> int:
        """Return the quantity not yet executed."""
        return self.quantity - self.executed

    @property
    def is_conditional(self) -> bool:
        """Return whether it waits, or waited, for a trigger."""
        return self.type in CONDITIONAL

    @property
    def has_limit(self) -> bool:
        """Return whether it has a price of its own."""
        return self.type in ("LIMIT", "LIMIT_MAKER", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT")

    def _core(self) -> dict[str, object]:
        found: dict[str, object] = {
            "price": show(self.price),
            "origQty": show(self.quantity),
            "executedQty": show(self.executed),
            "origQuoteOrderQty": show(self.quote_wanted),
            "cummulativeQuoteQty": show(self.quote),
            "status": self.status,
            "timeInForce": self.tif,
            "type": self.type,
            "side": self.side,
        }
        if self.is_pending and not self.quantity:
            del found["origQty"]
        if self.is_conditional:
            found["stopPrice"] = show(self.stop_price)
        if self.status == "EXPIRED":
            found["expiryReason"] = self.expiry
        if self.strategy_id:
            found |= {"strategyId": self.strategy_id, "strategyType": self.strategy_type}
        return found

    def ack(self) -> dict[str, object]:
        """Return the ACK answer to a new order."""
        return {
            "symbol": self.symbol,
            "orderId": self.order_id,
            "orderListId": self.list_id,
            "clientOrderId": self.client_id,
            "transactTime": self.time_ms,
        }

    def result(self) -> dict[str, object]:
        """Return the RESULT answer to a new order."""
        found = self.ack() | self._core()
        if self.working_ms >= 0 or self.is_pending:
            found["workingTime"] = self.working_ms
        return found | {"selfTradePreventionMode": self.stp}

    def row(self) -> dict[str, object]:
        """Return the order as queries show it."""
        return {
            "symbol": self.symbol,
            "orderId": self.order_id,
            "orderListId": self.list_id,
            "clientOrderId": self.client_id,
            **self._core(),
            "stopPrice": show(self.stop_price),
            "icebergQty": show(0),
            "time": self.time_ms,
            "updateTime": self.update_ms,
            "isWorking": self.is_working,
            "workingTime": self.working_ms,
            "selfTradePreventionMode": self.stp,
        }

    def cancelled(self) -> dict[str, object]:
        """Return the answer to a cancel: `clientOrderId` is the cancel's, ours is `origClientOrderId`."""
        return {
            "symbol": self.symbol,
            "origClientOrderId": self.client_id,
            "orderId": self.order_id,
            "orderListId": self.list_id,
            "clientOrderId": self.cancel_id or self.client_id,
            "transactTime": self.update_ms,
            **self._core(),
            "selfTradePreventionMode": self.stp,
        }

    def amended(self) -> dict[str, object]:
        """Return the order as the answer to its amendment shows it."""
        core = self._core()
        found: dict[str, object] = {
            "symbol": self.symbol,
            "orderId": self.order_id,
            "orderListId": self.list_id,
            "origClientOrderId": self.former_id,
            "clientOrderId": self.client_id,
            "price": core.pop("price"),
            "qty": core.pop("origQty"),
            "executedQty": core.pop("executedQty"),
            "preventedQty": show(0),
            "quoteOrderQty": core.pop("origQuoteOrderQty"),
            "cumulativeQuoteQty": core.pop("cummulativeQuoteQty"),
            **core,
        }
        if self.working_ms >= 0:
            found["workingTime"] = self.working_ms
        return found | {"selfTradePreventionMode": self.stp}

    def report(self, what: str, event_ms: int, fill: SimFill | None, time_ms: int, report_id: int) -> dict[str, object]:
        """Return the `executionReport`. `what` is NEW, CANCELED, REPLACED, TRADE, EXPIRED or REJECTED."""
        is_cancel = what == "CANCELED" and bool(self.cancel_id)
        original = self.client_id if is_cancel else self.former_id if what == "REPLACED" else ""
        report: dict[str, object] = {
            "e": "executionReport",
            "E": event_ms,
            "s": self.symbol,
            "c": self.cancel_id if is_cancel else self.client_id,
            "S": self.side,
            "o": self.type,
            "f": self.tif,
            "q": show(self.quantity),
            "p": show(self.price),
            "P": show(self.stop_price),
            "F": show(0),
            "g": self.list_id,
            "C": original,
            "x": what,
            "X": self.status,
            "r": self.reject,
            "i": self.order_id,
            "l": show(fill.quantity if fill else 0),
            "z": show(self.executed),
            "L": show(fill.price if fill else 0),
            "n": show(fill.commission if fill else 0),
            "N": fill.commission_asset if fill else None,
            "T": time_ms,
            "t": fill.trade_id if fill else -1,
            "I": report_id,
            "w": self.is_open and self.is_working,
            "m": bool(fill and fill.is_maker),
            "M": fill is not None,
            "O": self.time_ms,
            "Z": show(self.quote),
            "Y": show(fill.quote if fill else 0),
            "Q": show(self.quote_wanted),
            "V": self.stp,
        }
        if self.working_ms >= 0:
            report["W"] = self.working_ms
        if self.status == "EXPIRED":
            report["eR"] = self.expiry
        if self.strategy_id:
            report |= {"j": self.strategy_id, "J": self.strategy_type}
        return report


@dataclass(slots=True)
class OrderList:
    """A pair of orders of which at most one fills, and in an OTO list first the order for whose complete fill it waits;
    there a single order may stand for the pair.

    `locked` is held for both of the pair until one of them needs it. `is_pending`: the pair is not on the book yet.
    `is_opo`: the pair sells what the first order receives, which is locked until then. `side` is the pair's.
    """

    list_id: int
    symbol: str
    client_id: str
    side: str
    order_ids: list[int]
    client_ids: list[str]
    time_ms: int
    locked: int = 0
    status_type: str = "EXEC_STARTED"
    order_status: str = "EXECUTING"
    contingency: str = "OCO"
    is_pending: bool = False
    is_opo: bool = False

    @property
    def pair_ids(self) -> list[int]:
        """Return the ids of the pair."""
        return self.order_ids[1:] if self.contingency == "OTO" else self.order_ids

    def row(self) -> dict[str, object]:
        """Return the list as REST shows it."""
        return {
            "orderListId": self.list_id,
            "contingencyType": self.contingency,
            "listStatusType": self.status_type,
            "listOrderStatus": self.order_status,
            "listClientOrderId": self.client_id,
            "transactionTime": self.time_ms,
            "symbol": self.symbol,
            "orders": self.members(),
        }

    def members(self) -> list[dict[str, object]]:
        """Return the orders by their ids."""
        return [
            {"symbol": self.symbol, "orderId": order, "clientOrderId": client}
            for order, client in zip(self.order_ids, self.client_ids, strict=True)
        ]

    def status(self) -> dict[str, object]:
        """Return the list as the answer to an amendment shows it."""
        return {name: value for name, value in self.row().items() if name not in ("listStatusType", "transactionTime")}

    def event(self, event_ms: int, time_ms: int, status_type: str = "") -> dict[str, object]:
        """Return the `listStatus` event, with the list's own status type or another."""
        return {
            "e": "listStatus",
            "E": event_ms,
            "s": self.symbol,
            "g": self.list_id,
            "c": self.contingency,
            "l": status_type or self.status_type,
            "L": self.order_status,
            "r": "NONE",
            "C": self.client_id,
            "T": time_ms,
            "O": [{"s": m["symbol"], "i": m["orderId"], "c": m["clientOrderId"]} for m in self.members()],
        }
