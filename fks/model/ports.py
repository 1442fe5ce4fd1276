"""Ports: interfaces that one package needs and another implements. No code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Protocol, runtime_checkable

from fks.model.account import Balance, Transfer, VenueIdentity
from fks.model.bar import Bar, PublicTrade
from fks.model.instrument import Instrument
from fks.model.market import ConnectionCounters, ExchangeCapabilities, MarketEvent, Subscription
from fks.model.order import Answer, Fill, Lookup, Order, OrderType, Report, TimeInForce


class Meter(Protocol):
    """Counters, gauges and histograms of a process. Names and labels are rows of fks.model.metrics; an unknown one is a
    BugError."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def remove(self, name: str, **labels: str) -> None:
        """Forget a gauge's series: its object is gone, and a last value would look like a living one."""
        ...


class Log(Protocol):
    """Structured logging: a named event and key-values (`order.denied`, symbol=…)."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class VenueCapabilities:
    """Capabilities of a venue; pre-trade checks and the order manager read them."""

    types: frozenset[OrderType]
    times_in_force: frozenset[TimeInForce]
    has_oco: bool = False
    can_amend: bool = False  # `amend` reduces a live order, and with it the other leg of its OCO
    can_replace: bool = False  # `replace` ends an order and places another by one request (ReplacesOrders)
    can_reprice: bool = False  # `reprice` moves the price of a live order in place (RepricesOrders)
    has_entry_lists: bool = False  # takes a buy with its exits as one request, where the instrument allows it
    attaches_exits: bool = False  # takes a buy (no IOC) with both its exits, never with one, as one request
    closes_fills: bool = False  # makes a stop for each fill of an entry that goes out so (ClosesFills)
    can_short: bool = False
    fee_in_received_asset: bool = True
    has_collar: bool = False  # ends an order that fills at once or expires (FOK) by the collar of the fill rule
    keeps_bracket: bool = False  # the venue alone places, resizes and cancels SL and TP; it reports their orders
    # contracts on margin: a position is no asset that was paid for, the broker checks the margin
    is_margin: bool = False
    has_good_till_date: bool = False  # ends a resting order at its `valid_until`, with or without FKS
    waits_for_session: bool = False  # an entry with `valid_until` waits for a session that is away; else it is denied
    is_in_process: bool = False  # its book dies with this process: an order that it does not know never arrived
    has_guardian: bool = True  # the guardian has a session of its own there, and flattens in a kill


class Budget(Protocol):
    """Rate limit of one exchange key or address, shared by all processes of the cluster."""

    async def take(self, weight: int = 1) -> None:
        """Return when a request of this weight may be sent. Without Redis each process keeps to a share of its own."""
        ...

    async def take_connect(self) -> None:
        """Return when a connection may be opened. Connects have a budget of their own for each address."""
        ...

    def seen(self, used: int) -> None:
        """Record the weight that the exchange reports as used in the window of this task's request."""
        ...

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, as the exchange demanded (429, Retry-After)."""
        ...


class Priority(IntEnum):
    """Purpose of a request to a venue. The higher, the more of the shared rate limit it may use."""

    ENTRY = 0
    READ = 1
    RESERVE = 2  # cancels, exits, protection and kills


class VenueBudget(Protocol):
    """Rate limits of a venue: request weight by address, new orders by key, shared by all processes that send there."""

    def wait_s(self, weight: int, priority: Priority, orders: int = 0) -> float:
        """Return how long such a request would wait now, 0 for not at all. Spends nothing, does no I/O, takes
        microseconds."""
        ...

    async def take(self, weight: int, priority: Priority, orders: int = 0, *, wait_max_s: float) -> float:
        """Spend, waiting at most `wait_max_s`: return 0.0, or the seconds still missing, with nothing spent."""
        ...

    def seen(self, weight: int | None, orders: int | None = None, *, sent_s: float) -> None:
        """Record the venue's own count of the present windows, from the answer to a request sent at `sent_s`
        (monotonic)."""
        ...

    def pause(self, seconds: float, status: int) -> None:
        """Pause all processes: the venue answered 429 or 418 with Retry-After."""
        ...

    @property
    def paused_by(self) -> int:
        """Return the status (429 or 418) of the newest pause."""
        ...

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Exchange(Protocol):
    """Market data in. One object per collector; not shared."""

    name: str
    capabilities: ExchangeCapabilities

    @property
    def counters(self) -> ConnectionCounters:
        """Return the counters of its connections; they only rise."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def instruments(self) -> list[Instrument]: ...
    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars, oldest first, at most `limit`: from `since_ns` on, or the last ones when it is None.

        A bar is closed when it ends at or before `until_ns` (the venue's present when None).
        """
        ...

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return public trades, oldest first, in the id range that `watch` uses: from an id, from a time (ns), or
        only the newest ones (`capabilities.trades_from`; both None works everywhere)."""
        ...

    def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches of one new connection, the first one (maybe empty) once the subscriptions stand.

        Closing the iterator closes the connection; several may be open at once. Raises OutageError when connecting or
        subscribing is not answered within seconds or the connection ends, and PeerError when a message broke the
        protocol of the exchange beyond quarantine. Call again to reconnect, each time after `connect_permit`.
        """
        ...

    async def connect_permit(self) -> None:
        """Return when `watch` may be called once; raises nothing.

        Exchanges limit connects, and all processes of the cluster share the limit.
        """
        ...

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these on every connection that carries them, soon and without waiting; other subscriptions stand.

        Messages on their way may still come. Closing the iterator of `watch` unsubscribes, too.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The venue's event stream broke: open orders and fills are read again once it is back."""

    detail: str


@dataclass(frozen=True, slots=True)
class SessionBack:
    """The venue's event stream is subscribed (again)."""


@dataclass(frozen=True, slots=True)
class BalancesSeen:
    """The venue pushed balances of some currencies."""

    balances: tuple[Balance, ...]


VenueEvent = Report | Fill | BalancesSeen | SessionLost | SessionBack


@runtime_checkable
class TakesEntryLists(Protocol):
    """A venue that takes an entry and the exits that wait for its complete fill as one request."""

    async def submit_entry(self, entry: Order, legs: Sequence[Order], *, sells_received: bool) -> tuple[Answer, ...]:
        """Submit an entry by a limit order with its stop, its take profit or both (stop first): all of them exist, or
        none. Returns one answer an order, the entry's first.

        `sells_received`: the exits sell what the entry receives, whatever their quantity says.
        """
        ...


@runtime_checkable
class ClosesFills(Protocol):
    """A venue where each fill of an entry makes a stop over its quantity at the entry's stop loss, without a client id
    of ours: `Report.leg` joins it to its entry. Only where capabilities.closes_fills."""

    async def submit_closing(self, entry: Order) -> Answer:
        """Submit an entry whose fills make their own stops."""
        ...

    async def closes_made(self, entry: Order) -> list[Report]:
        """Return all stops that fills of an entry made until now, open or ended. Errors: OutageError."""
        ...

    async def query_close(self, close: Order) -> Lookup:
        """Ask for such a stop by the venue's id. It exists: one that is not shown is NO_ANSWER."""
        ...


@runtime_checkable
class ReplacesOrders(Protocol):
    """A venue that ends an order and places another by one request. Only where capabilities.can_replace."""

    async def replace(self, old: Order, new: Order) -> tuple[Answer, Answer]:
        """Cancel `old`, and submit `new` if that succeeded, by one request that is sent once. Returns the answer about
        each: the cancel of `old`, the send of `new`. The new order may be refused after the old one has ended."""
        ...


@runtime_checkable
class RepricesOrders(Protocol):
    """A venue that moves the price of a live order in place. Only where capabilities.can_reprice."""

    async def reprice(self, order: Order, price: Decimal) -> Answer:
        """Move the trigger of a stop, or the limit of another order, to `price`; the order keeps its ids. Written once.
        After AMBIGUOUS a query shows the price that counts: a request that comes behind it changes nothing."""
        ...


@runtime_checkable
class ChecksOrders(Protocol):
    """A venue that has the exchange check an order and makes none."""

    async def validate(self, order: Order) -> Answer:
        """Have the exchange check an order that it does not make. ACK: it found no fault."""
        ...


@dataclass(frozen=True, slots=True)
class KeyRights:
    """Rights of an API key, as its exchange states them. None: it did not state them, or was not asked."""

    may_withdraw: bool | None = None
    is_address_bound: bool | None = None


@runtime_checkable
class KeyedVenue(Protocol):
    """A venue whose requests are signed with an API key. `key_fault`: why its key may send no entry, "" if it may."""

    name: str

    @property
    def key_fault(self) -> str: ...
    async def read_rights(self) -> KeyRights:
        """Ask the exchange for the rights of the key in use. Errors: KeyRefusedError, OutageError."""
        ...

    async def identity(self) -> VenueIdentity: ...
    async def close(self) -> None: ...
    def use_key(self, api_key: str, api_secret: str) -> None:
        """Sign with this key from now on; requests that are on their way keep the one before."""
        ...


class Venue(Protocol):
    """Orders out. Every answer of a venue is a value, never an exception; OutageError means that a read got no answer.
    One object per (venue, account, role); never shared."""

    name: str
    capabilities: VenueCapabilities

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once. Never retries. An unclear outcome is AMBIGUOUS."""
        ...

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Submit both legs as one native OCO. Only where capabilities.has_oco."""
        ...

    async def cancel(self, order: Order) -> Answer:
        """Cancel by client order id. REFUSED with code UNKNOWN_ORDER is no proof of absence: query."""
        ...

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Reduce a live order to `quantity` in place, keeping its ids; of an OCO both legs. Only where
        capabilities.can_amend."""
        ...

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return how long an order submitted now would wait for the venue's rate limit, 0: not at all. Cheap."""
        ...

    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        """Ask for an order by our id. It was sent no earlier than `since_ns` (ns UTC; 0: not known): a venue that has
        to look through its list reads it from then on."""
        ...

    async def open_orders(self) -> list[Report]: ...
    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]: ...
    async def balances(self) -> dict[str, Balance]: ...
    async def identity(self) -> VenueIdentity:
        """Fetch the session's owner again and return it. It is answered while the session is refused."""
        ...

    def refuse(self, reason: str) -> None:
        """Send nothing and answer no read of orders, executions or transfers from now on: the session is not known to
        be the account's own. A session that was neither refused nor admitted answers everything."""
        ...

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal: the session is the account's own. Executions are named after `identity` from now on."""
        ...

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        """Return deposits and withdrawals that were carried out from `since_ns` on, oldest first."""
        ...

    async def skew_ms(self) -> float:
        """Return venue time minus ours, in milliseconds, corrected by the round trip."""
        ...

    def events(self) -> AsyncIterator[VenueEvent]:
        """Yield the venue's events, for ever; SessionLost and SessionBack mark interruptions."""
        ...

    def on_bar(self, bar: Bar) -> None:
        """Feed market data to venues that fill from it (paper); others ignore it."""
        ...

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return the venue's own last price: the guardian has no other source."""
        ...


class Pager(Protocol):
    """Sends pages without PostgreSQL."""

    async def run(self) -> None:
        """Keep current what `page` needs, for ever."""
        ...

    def page(self, event: str, message: str) -> None:
        """Send a page to a person. Never waits, never raises."""
        ...


class Lease(Protocol):
    """The right to act in a role. `holds` is a monotonic deadline: cheap, checked before every send. `held_within`: it
    held at most so many seconds ago (None: at any time), and no newer epoch is known."""

    name: str
    epoch: int

    def holds(self) -> bool: ...
    def held_within(self, seconds: float | None) -> bool: ...
