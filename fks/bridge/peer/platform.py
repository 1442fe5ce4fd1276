"""The port between the bridge and its trading platform: `Platform`, and the values that cross it.

Names and states are those of NinjaTrader's `Account` class; another platform maps its own on them. Quantities are whole
contracts, or Decimal lots where `Platform.has_lots`. Prices are Decimal, times Unix milliseconds UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Protocol

TERMINAL = frozenset({"Filled", "Cancelled", "Rejected"})
CONNECTED = "Connected"
LOST = "ConnectionLost"
Quantity = int | Decimal
_ZERO = Decimal(0)


class PlatformError(Exception):
    """An order call failed, and it is open whether the broker has the order."""


class RefusedError(PlatformError):
    """The platform refused an order call, and the broker does not have the order. `code` is the wire's."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class PlatformContract:
    """One instrument. Units: `tick` and prices in price units. `expiry` is None where it has no end."""

    name: str
    tick: Decimal
    expiry: date | None

    def floor(self, price: Decimal) -> Decimal:
        """Return the nearest multiple of the tick at or below `price`."""
        return (price / self.tick).to_integral_value(ROUND_FLOOR) * self.tick

    def ceiling(self, price: Decimal) -> Decimal:
        """Return the nearest multiple of the tick at or above `price`."""
        return (price / self.tick).to_integral_value(ROUND_CEILING) * self.tick


@dataclass(slots=True)
class PlatformOrder:
    """A live order: the platform changes it while others hold it. Prices are None where the type has none.

    As an event (OrderUpdate) it is a copy: the order as it was then, with `error` and `comment`. `attached`: stop and
    target that go with an entry, where the platform holds exits. `closes`: by signal, the quantity that an exit closes.
    """

    name: str
    account: str
    instrument: str
    action: str
    type: str
    tif: str
    qty: Quantity
    limit: Decimal | None
    stop: Decimal | None
    oco: str = ""
    order_id: str = ""
    state: str = "Initialized"
    filled: Quantity = 0
    avg_price: Decimal = _ZERO
    created_ms: int = 0
    automated: bool = True
    error: str = "NoError"
    comment: str = ""
    attached: tuple[Decimal | None, Decimal | None] = (None, None)
    closes: tuple[tuple[str, Quantity], ...] = ()

    @property
    def is_buy(self) -> bool:
        return self.action in ("Buy", "BuyToCover")

    @property
    def is_live(self) -> bool:
        return self.state not in TERMINAL and self.state != "Initialized"

    @property
    def left(self) -> Quantity:
        return max(self.qty - self.filled, 0)


@dataclass(frozen=True, slots=True)
class PlatformExecution:
    """One execution. `name` is empty when the platform gives no order with it. `op`: add, update or remove."""

    account: str
    instrument: str
    exec_id: str
    name: str
    order_id: str
    is_buy: bool
    qty: Quantity
    price: Decimal
    at_ms: int
    op: str = "add"
    is_sod: bool = False
    commission: Decimal = _ZERO
    fee: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class PlatformPosition:
    """A position: `qty` is signed, positive when long. Also the arguments of PositionUpdate."""

    account: str
    instrument: str
    qty: Quantity
    avg_price: Decimal


@dataclass(frozen=True, slots=True)
class ConnectionUpdate:
    """The arguments of ConnectionStatusUpdate, once for each account of the connection."""

    account: str
    status: str
    price_status: str
    previous: str
    native_error: str = ""


@dataclass(frozen=True, slots=True)
class LastTrade:
    """One trade of the market data: NinjaTrader's Last. `side` is empty when it is not known."""

    instrument: str
    at_ms: int
    price: Decimal
    qty: Quantity
    side: str = ""


@dataclass(frozen=True, slots=True)
class PlatformQuote:
    """Best bid and ask of one instrument with their sizes; None where the platform gives none."""

    instrument: str
    at_ms: int
    bid: Decimal
    bid_qty: Quantity | None
    ask: Decimal
    ask_qty: Quantity | None


@dataclass(frozen=True, slots=True)
class PlatformBar:
    """One bar of the history, stamped as NinjaTrader does: at its close, in the platform's time zone."""

    close: datetime
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741 - the name on the wire
    c: Decimal
    v: Quantity


MarketEvent = LastTrade | PlatformQuote | ConnectionUpdate
Event = PlatformOrder | PlatformExecution | PlatformPosition | MarketEvent


@dataclass(slots=True)
class PlatformAccount:
    """One account, with the states of its order feed and of its price feed."""

    name: str
    is_sim: bool = True
    status: str = CONNECTED
    price_status: str = CONNECTED
    connected_ms: int = 0
    features: tuple[str, ...] = ("NativeOcoOrders",)


class Platform(Protocol):
    """A trading platform as the bridge needs it: place, change, cancel, flatten; orders, positions, prices.

    Every method returns at once. Events go to the handlers of `subscribe`; a handler only copies and enqueues.
    """

    @property
    def label(self) -> str:
        """Return the platform's name in `welcome`."""

    @property
    def bridge_version(self) -> str:
        """Return the name and version of the bridge in `challenge`."""

    @property
    def has_lots(self) -> bool:
        """Return whether quantities are lots: decimals, texts on the wire."""

    @property
    def holds_exits(self) -> bool:
        """Return whether stop and target are fields of the position: its orders S and T only show them."""

    @property
    def now_ms(self) -> int:
        """Return the platform's clock."""

    @property
    def zone(self) -> tzinfo:
        """Return the time zone in which bars are stamped."""

    @property
    def accounts(self) -> Mapping[str, PlatformAccount]: ...

    def subscribe(self, handler: Callable[[Event], None]) -> Callable[[], None]:
        """Attach `handler` to every event and return what detaches it."""

    def introduce(self, signal_id: str) -> None:
        """Take note of a signal's id: a platform that keeps only a hash of it can name its orders then."""

    def trading_disabled(self) -> str:
        """Return why the platform takes no orders from programs; empty where it does."""

    def refusal(self, order: PlatformOrder) -> tuple[str, str] | None:
        """Return why the platform's rules do not allow an entry now, as code and detail, or None."""

    def create(self, order: PlatformOrder) -> bool:
        """Make an order without sending it; False or PlatformError: it cannot be made."""

    def submit(self, order: PlatformOrder) -> None:
        """Send a created order. Errors: RefusedError; PlatformError, which leaves open whether the broker has it."""

    def change(self, order: PlatformOrder, *, qty: Quantity, limit: Decimal | None, stop: Decimal | None) -> None:
        """Ask for another quantity or price of a live order."""

    def cancel(self, order: PlatformOrder) -> None:
        """Ask for the cancellation of a live order."""

    def flatten(self, account: str, instruments: Sequence[str]) -> None:
        """Cancel the orders and close the positions of `instruments`; returns before either is done."""

    def refresh(self, account: str) -> bool:
        """Bring the lists of an account up to date; return whether they are complete."""

    def orders(self, account: str) -> list[PlatformOrder]: ...

    def executions(self, account: str) -> list[PlatformExecution]: ...

    def positions(self, account: str) -> list[PlatformPosition]: ...

    def held(self, account: str, instrument: str, *, is_buy: bool) -> Quantity:
        """Return the quantity that may be closed on the long or the short side, never below 0."""

    def values(self, account: str) -> dict[str, Decimal | None]:
        """Return the account items that the broker reports; None where it reports none."""

    def contract(self, name: str) -> PlatformContract | None: ...

    def instruments(self) -> list[dict[str, object]]:
        """Return the fields of the `instrument` messages; empty where the client knows the instruments."""

    def status_fields(self) -> dict[str, object]:
        """Return the platform's own fields of `status`."""

    def account_fields(self, account: str) -> dict[str, object]:
        """Return the platform's own fields of an account in `welcome` and `status`."""

    def last_trade(self, instrument: str) -> LastTrade | None: ...

    def price_status(self) -> str: ...

    def bars(self, instrument: str, period: str, begin_ms: int, end_ms: int) -> list[PlatformBar]:
        """Return the bars that begin in the range, oldest first; the caller drops others. Errors: PlatformError."""
