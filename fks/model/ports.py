"""Ports: what one room needs and another provides. Shapes of behaviour only; no code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from fks.model.account import Balance
from fks.model.bar import Bar, PublicTrade
from fks.model.instrument import Instrument
from fks.model.market import MarketEvent, Subscription, Tally, Traits
from fks.model.order import Answer, Fill, Lookup, Order, OrderType, Report, TimeInForce


class Meter(Protocol):
    """Where rooms count. Names and labels are rows of fks.model.metrics; an unknown one is a BugError."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...


class Log(Protocol):
    """Structured logging: a named event and key-values (`order.denied`, symbol=…)."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a venue can do; pre-trade checks and the order manager read it."""

    types: frozenset[OrderType]
    times_in_force: frozenset[TimeInForce]
    has_oco: bool = False
    can_short: bool = False
    fee_in_received_asset: bool = True


class Budget(Protocol):
    """Leave to ask an exchange: one purse a key or address, shared by everybody in the cluster who asks there."""

    async def take(self, weight: int = 1) -> None:
        """Return when a request of this weight may be sent. Redis away: every process keeps to a share of its own."""
        ...

    async def dial(self) -> None:
        """Return when a socket may be dialled. Dials have a purse of their own, one an address, whatever the key."""
        ...

    def seen(self, used: int) -> None:
        """Note what the exchange says was used of the window this task asked in (a response header)."""
        ...

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the exchange said so (429, Retry-After)."""
        ...


class Exchange(Protocol):
    """Market data in. One object per collector; not shared."""

    name: str
    traits: Traits

    @property
    def tally(self) -> Tally:
        """Return what its connections counted; it only rises."""
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

    async def fetch_trades(self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int) -> list[PublicTrade]:
        """Return public trades, oldest first, in the id range that `watch` uses: as `traits.trades_from` says, from an id, from
        a time (ns), or only the newest ones (both None works everywhere)."""
        ...

    def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches as they come over one socket of its own, the first one (maybe empty) once the subscriptions stand.

        Leaving the iterator drops the socket; several may be open at once. It waits some seconds for answers to the dial and
        the subscriptions. Raises OutageError when these do not come or the connection is gone, and PeerError when a message
        broke the exchange's own rules beyond quarantine; call again to reconnect, each time after `may_dial`.
        """
        ...

    async def may_dial(self) -> None:
        """Return when `watch` may be called once; raises nothing.

        Exchanges count dials, and everybody in the cluster shares what they allow.
        """
        ...

    def leave(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these wherever they are watched now, soon and without waiting; the others on their sockets stand.

        What is on its way may still come. Who leaves an iterator need not say so.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The venue's event stream broke: re-read open orders and fills once it is back (C7)."""

    detail: str


@dataclass(frozen=True, slots=True)
class SessionBack:
    """The venue's event stream is subscribed (again)."""


@dataclass(frozen=True, slots=True)
class BalancesSeen:
    """The venue pushed balances of some currencies."""

    balances: tuple[Balance, ...]


VenueEvent = Report | Fill | BalancesSeen | SessionLost | SessionBack


class Venue(Protocol):
    """Orders out. Methods never raise for what a venue can say: the value tells. They raise OutageError when a
    read could not be answered. One object per (venue, account, role); never shared (peers.md §6.8)."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once. Never retries. Anything unclear is AMBIGUOUS."""
        ...

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Submit both legs as one native OCO. Only where capabilities.has_oco."""
        ...

    async def cancel(self, order: Order) -> Answer:
        """Ask to cancel by client order id. REFUSED with code UNKNOWN_ORDER is no proof of absence: query."""
        ...

    async def query(self, symbol: str, client_order_id: str) -> Lookup: ...
    async def open_orders(self) -> list[Report]: ...
    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]: ...
    async def balances(self) -> dict[str, Balance]: ...
    async def skew_ms(self) -> float:
        """Return venue time minus ours, in milliseconds, round trip taken out."""
        ...

    def events(self) -> AsyncIterator[VenueEvent]:
        """Yield what the venue pushes, for ever; SessionLost and SessionBack mark the holes."""
        ...

    def on_bar(self, bar: Bar) -> None:
        """Feed market data to venues that fill from it (paper); others ignore it."""
        ...

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return the venue's own last price: the guardian has no other."""
        ...


class Lease(Protocol):
    """The right to act in a role. `holds` is a monotonic deadline: cheap, checked before every send."""

    name: str
    epoch: int

    def holds(self) -> bool: ...
