"""The calls of Binance spot that FKS makes: WebSocket API method, REST endpoint and request weight in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `socket` is its method of the WebSocket API, None where there is none; weights as documented, read
    2026-07."""

    socket: str | None
    method: str
    path: str
    weight: int
    is_signed: bool = True

    @property
    def ccxt(self) -> str:
        """Return the name of ccxt's implicit method: `private_post_orderlist_oco`."""
        _, kind, _, *parts = self.path.lower().split("/")
        access = kind if kind != "api" else "private" if self.is_signed else "public"
        return "_".join((access, self.method.lower(), *parts))


PLACE = Call("order.place", "POST", "/api/v3/order", 1)
PLACE_OCO = Call("orderList.place.oco", "POST", "/api/v3/orderList/oco", 1)
PLACE_OTO = Call("orderList.place.oto", "POST", "/api/v3/orderList/oto", 1)
PLACE_OTOCO = Call("orderList.place.otoco", "POST", "/api/v3/orderList/otoco", 1)
PLACE_OPO = Call("orderList.place.opo", "POST", "/api/v3/orderList/opo", 1)
PLACE_OPOCO = Call("orderList.place.opoco", "POST", "/api/v3/orderList/opoco", 1)
CANCEL = Call("order.cancel", "DELETE", "/api/v3/order", 1)
REPLACE = Call("order.cancelReplace", "POST", "/api/v3/order/cancelReplace", 1)
AMEND = Call("order.amend.keepPriority", "PUT", "/api/v3/order/amend/keepPriority", 4)
QUERY = Call("order.status", "GET", "/api/v3/order", 4)
OPEN_ORDERS = Call("openOrders.status", "GET", "/api/v3/openOrders", 80)
ALL_ORDERS = Call("allOrders", "GET", "/api/v3/allOrders", 20)
TRADES = Call("myTrades", "GET", "/api/v3/myTrades", 20)
ACCOUNT = Call("account.status", "GET", "/api/v3/account", 20)
TIME = Call("time", "GET", "/api/v3/time", 1, is_signed=False)
PRICE = Call("ticker.price", "GET", "/api/v3/ticker/price", 2, is_signed=False)
# the wallet's calls have limits of their own, far away
RIGHTS = Call(None, "GET", "/sapi/v1/account/apiRestrictions", 1)
DEPOSITS = Call(None, "GET", "/sapi/v1/capital/deposit/hisrec", 1)
WITHDRAWALS = Call(None, "GET", "/sapi/v1/capital/withdraw/history", 1)
# of the connection itself
SUBSCRIBE = Call("userDataStream.subscribe.signature", "", "", 2)
SUBSCRIPTIONS = Call("session.subscriptions", "", "", 2, is_signed=False)
