"""A venue that could not be made, for the time until it can: nothing leaves, no read is answered, nothing is invented.

Each `make` tries again. Once it succeeds every call goes to the venue that it made. What was decided about the session
before that (a refusal, a new key) holds for the new one before anything else reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

from fks.model.account import Balance, Transfer, VenueIdentity
from fks.model.bar import Bar
from fks.model.codes import Code
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.order import Answer, Fill, Lookup, Order, Refusal, Report
from fks.model.ports import KeyedVenue, KeyRights, Priority, Venue, VenueCapabilities, VenueEvent
from fks.trading.venues.base import refused


def unconfigured_venue(name: str) -> ClosedVenue:
    """Return a venue that no setting names any more, or that is not enabled and has no key, for what is held there:
    it stays closed until the next start."""
    error = ConfigError(
        f"no setting names the venue {name} any more, or it has no key",
        remedy="name it in venues.exchanges, [venue], [ninja] or [mt5] again and store its key ('fks secrets set'), "
        "then 'fks restart orders' and 'fks restart guardian'",
    )

    async def again() -> Venue:
        raise error

    return ClosedVenue(name, VenueCapabilities(frozenset(), frozenset()), again, error)


class ClosedVenue:
    """`error`: why the first try failed. `again` makes the venue, or raises why it still cannot."""

    def __init__(
        self, name: str, capabilities: VenueCapabilities, again: Callable[[], Awaitable[Venue]], error: FksError
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self._again, self._error = again, error
        self._made: Venue | None = None
        self._refusal = ""
        self._key: tuple[str, str] | None = None

    @property
    def is_made(self) -> bool:
        """Return whether the venue could be made."""
        return self._made is not None

    async def make(self) -> Venue:
        """Return the venue, made now unless it is there already. Errors: ConfigError, OutageError."""
        if self._made is not None:
            return self._made
        try:
            venue = await self._again()
        except (ConfigError, OutageError) as error:
            self._error = error
            raise
        if self._refusal:
            venue.refuse(self._refusal)
        if self._key is not None and isinstance(venue, KeyedVenue):
            venue.use_key(*self._key)
        self._made, self.capabilities = venue, venue.capabilities
        return venue

    def _venue(self) -> Venue:
        if self._made is None:
            raise OutageError(f"{self.name} is closed: {self._error.message}", remedy=self._error.remedy)
        return self._made

    def _not_sent(self) -> Answer:
        return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, f"nothing was sent: {self._error.message}")

    async def open(self) -> None:
        """Make it, and open its session. Errors: as `make`, or as the venue's own."""
        await (await self.make()).open()

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        return self._not_sent() if self._made is None else await self._made.submit(order)

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        if self._made is None:
            return self._not_sent(), self._not_sent()
        return await self._made.submit_oco(stop, limit)

    async def cancel(self, order: Order) -> Answer:
        return self._not_sent() if self._made is None else await self._made.cancel(order)

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        return self._not_sent() if self._made is None else await self._made.amend(order, quantity)

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        return 0.0 if self._made is None else self._made.wait_s(priority)

    # ── reads ────────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        return await self._venue().query(symbol, client_order_id, since_ns)

    async def open_orders(self) -> list[Report]:
        return await self._venue().open_orders()

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        return await self._venue().fills_since(symbol, since_ns)

    async def balances(self) -> dict[str, Balance]:
        return await self._venue().balances()

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        return await self._venue().transfers_since(since_ns)

    async def skew_ms(self) -> float:
        return await self._venue().skew_ms()

    async def last_price(self, symbol: str) -> Decimal | None:
        return await self._venue().last_price(symbol)

    def events(self) -> AsyncIterator[VenueEvent]:
        return self._venue().events()

    def on_bar(self, bar: Bar) -> None:
        if self._made is not None:
            self._made.on_bar(bar)

    # ── whose session it is ──────────────────────────────────────────────────────────────────────
    async def identity(self) -> VenueIdentity:
        return await self._venue().identity()

    def refuse(self, reason: str) -> None:
        self._refusal = reason
        if self._made is not None:
            self._made.refuse(reason)

    def admit(self, identity: VenueIdentity) -> None:
        self._venue().admit(identity)
        self._refusal = ""

    @property
    def key_fault(self) -> str:
        return "" if self._made is None else str(getattr(self._made, "key_fault", ""))

    async def read_rights(self) -> KeyRights:
        venue = self._venue()
        return await venue.read_rights() if isinstance(venue, KeyedVenue) else KeyRights()

    def use_key(self, api_key: str, api_secret: str) -> None:
        self._key = api_key, api_secret
        if isinstance(self._made, KeyedVenue):
            self._made.use_key(api_key, api_secret)
