"""The calls of Binance spot that FKS makes: WebSocket API method, REST endpoint and request weight in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VenueCall:
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


PLACE = VenueCall("order.place", "POST", "/api/v3/order", 1)
PLACE_OCO = VenueCall("orderList.place.oco", "POST", "/api/v3/orderList/oco", 1)
PLACE_OTO = VenueCall("orderList.place.oto", "POST", "/api/v3/orderList/oto", 1)
PLACE_OTOCO = VenueCall("orderList.place.otoco", "POST", "/api/v3/orderList/otoco", 1)
PLACE_OPO = VenueCall("orderList.place.opo", "POST", "/api/v3/orderList/opo", 1)
PLACE_OPOCO = VenueCall("orderList.place.opoco", "POST", "/api/v3/orderList/opoco", 1)
CANCEL = VenueCall("order.cancel", "DELETE", "/api/v3/order", 1)
REPLACE = VenueCall("order.cancelReplace", "POST", "/api/v3/order/cancelReplace", 1)
AMEND = VenueCall("order.amend.keepPriority", "PUT", "/api/v3/order/amend/keepPriority", 4)
QUERY = VenueCall("order.status", "GET", "/api/v3/order", 4)
OPEN_ORDERS = VenueCall("openOrders.status", "GET", "/api/v3/openOrders", 80)
ALL_ORDERS = VenueCall("allOrders", "GET", "/api/v3/allOrders", 20)
TRADES = VenueCall("myTrades", "GET", "/api/v3/myTrades", 20)
ACCOUNT = VenueCall("account.status", "GET", "/api/v3/account", 20)
TIME = VenueCall("time", "GET", "/api/v3/time", 1, is_signed=False)
PRICE = VenueCall("ticker.price", "GET", "/api/v3/ticker/price", 2, is_signed=False)
# the wallet's calls have limits of their own, far away
RIGHTS = VenueCall(None, "GET", "/sapi/v1/account/apiRestrictions", 1)
DEPOSITS = VenueCall(None, "GET", "/sapi/v1/capital/deposit/hisrec", 1)
WITHDRAWALS = VenueCall(None, "GET", "/sapi/v1/capital/withdraw/history", 1)
# of the connection itself
SUBSCRIBE = VenueCall("userDataStream.subscribe.signature", "", "", 2)
SUBSCRIPTIONS = VenueCall("session.subscriptions", "", "", 2, is_signed=False)
