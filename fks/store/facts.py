"""Facts for the order manager from other writers' rows, and its own rows on venues and alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.account import PortfolioLimit
from fks.model.bar import Bar
from fks.model.instrument import Instrument
from fks.model.kill import EngagedKill, KillMode, Kills, KillScope
from fks.model.order import ExecutedOrder
from fks.model.timeframe import to_datetime, to_ns
from fks.model.venue import VenueRule
from fks.store.alerting import settle
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier
from fks.store.instruments import instrument_of
from fks.store.supervision import MONEY

#: seconds: older feed rows of a collector are out of date; it writes several times in that time
FEED_ROW_MAX_AGE_S = 2.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Last price of a live feed and the time of its last message (ns UTC; None = never)."""

    exchange: str
    symbol: str
    price: Decimal | None
    message_ns: int | None


@dataclass(frozen=True, slots=True)
class Gates:
    """The facts that hold up every order."""

    kills: Kills  # engaged, newest first
    rules: Mapping[str, VenueRule]  # persons' decisions, by venue
    is_guardian_alive: bool
    escalated: tuple[str, str] | None  # a child that orders depend on, and why
    venue_state: str  # of the account's session at the venue, of one without its own that of the venue


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """The fields of a strategy instance that the order path needs."""

    id: str
    sizing: str
    size: Decimal
    is_enabled: bool
    state: str
    account_id: int
    venue: str
    exchange: str
    symbol: str
    timeframe: str
    cursor_ns: int | None = None
    pyramiding: int = 1
    strategy: str = ""


@dataclass(frozen=True, slots=True)
class StoredTrade:
    """A public trade, which a resting paper order may match."""

    time_ns: int
    trade_id: int
    price: Decimal


@dataclass(frozen=True, slots=True)
class Turnover:
    """Amounts that executions on one side of a symbol moved, with the fees of one currency, and the time of the newest
    of them."""

    symbol: str
    is_buy: bool
    fee_currency: str
    quantity: Decimal
    value: Decimal
    fee: Decimal
    newest_ns: int


@dataclass(frozen=True, slots=True)
class StopMoves:
    """The best of some moves of a stop (None: none of them moves it), the open time of the last one's bar and its
    number, and the newest move of the take profit among them."""

    price: Decimal | None
    last_ns: int
    number: int
    take_profit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class BestClose:
    """The best close of some bars, in quote, and the open time of the last of them."""

    close: Decimal
    last_ns: int


reads(Bar, time_ns="time")
_portfolio_limit = reads(PortfolioLimit, portfolio="name", currency="base_currency")
reads(Mark, price="last_price", message_ns="last_message_at")
reads(InstanceFacts, cursor_ns="cursor_time")
reads(StoredTrade, time_ns="time")
reads(Turnover, is_buy=lambda row: row["trade_type"] == "BUY")


class FactStore(FencedStore[Querier], queries="facts"):
    """Reads of instruments, feeds, instances, kill switch and lease; writes of venue_states and alerts."""

    @query(row=instrument_of)
    async def instruments(self) -> list[Instrument]:
        """Return every instrument."""

    async def marks(self, age_max_s: float = FEED_ROW_MAX_AGE_S) -> list[Mark]:
        """Return the last price and message time of every live feed. `age_max_s`: older feed rows are not live."""

    async def instances(self) -> list[InstanceFacts]:
        """Return every strategy instance."""

    async def is_killed(self) -> bool:
        """Return whether the kill switch is engaged in the database (the guardian's own file may know sooner)."""

    async def gates(self, guardian_age_max_s: float, venue: str = "", account_id: int = 0) -> Gates:
        """Return the facts that hold up every order, of one moment, by the server's clock.

        `guardian_age_max_s`: an older lease of the guardian is lost. A kill whose row does not say whether it closes
        positions counts as one that does, and has no id: nothing is closed under it before a guardian says so.
        """
        row = await self._db.fetchrow("facts.gates", guardian_age_max_s, list(MONEY), venue, account_id)
        assert row is not None  # a select without a table
        kills = Kills(
            EngagedKill(
                kill_id if flatten else "",
                KillScope.parse(scope),
                KillMode.HELD if flatten is False else KillMode.FLATTEN,
            )
            for kill_id, scope, flatten in row["kills"]
        )
        rules = {rule[0]: VenueRule(*rule) for rule in row["rules"]}
        escalated = None if row["escalated"] is None else (row["escalated"][0], row["escalated"][1])
        return Gates(kills, rules, row["is_guardian_alive"], escalated, row["venue_state"] or "COLD")

    async def portfolio_limits(self) -> dict[int | str, tuple[PortfolioLimit, ...]]:
        """Return the limits of active portfolios, by member: the number of an account or the id of an instance."""
        found: dict[int | str, tuple[PortfolioLimit, ...]] = {}
        for row in await self._db.fetch("facts.portfolio_limits"):
            member = row["account_id"] if row["instance_id"] is None else row["instance_id"]
            found[member] = (*found.get(member, ()), _portfolio_limit(row))
        return found

    @query(is_fenced=True)
    async def halt(self, instance: str, reason: str) -> None:
        """Hold an instance until a person enables it again: its entries are denied (STRATEGY_CRASHED)."""

    async def lease_epoch(self, name: str) -> int:
        """Return the epoch that owns a role; 0 when it never had an owner."""
        return await self._db.fetchval("facts.lease_epoch", name) or 0

    @query(is_fenced=True)
    async def save_venue_state(
        self, venue: str, account_id: int, state: str, detail: str, skew_ms: float | None, now_ns: int
    ) -> None:
        """Write the order manager's state of a venue."""

    @query(is_fenced=True)
    async def drop_venue_states(self, kept: Sequence[str]) -> None:
        """Remove the states of venues that the order manager does not have, but for these."""

    async def note_alert(
        self,
        severity: str,
        event: str,
        message: str,
        component: str,
        payload: Mapping[str, object],
        condition: str | None = None,
    ) -> int | None:
        """Store an alert (severity info, warning, error or page) and return its number.

        Of one `condition` (a key that names it) one alert is open: while it is, nothing is stored and None returned.
        """
        number: int | None = await self._db.fetchval(
            "alerting.raise", None, severity, event, message, component, dict(payload), None, condition, None
        )
        return number

    async def end_alert(self, message: str, *conditions: str) -> None:
        """End the open alerts of conditions, if there are any."""
        await settle(self._db, keys=conditions, message=message)

    async def open_conditions(self, event: str) -> list[str]:
        """Return the conditions of an event's open alerts."""

    async def sealed_bars(
        self, exchange: str, symbol: str, timeframe: str, after_ns: int, limit: int = 1000
    ) -> list[Bar]:
        """Return sealed bars opening after a moment, oldest first: the input of a venue that fills from bars."""

    async def best_close(
        self,
        exchange: str,
        symbol: str,
        timeframe: str,
        *,
        after_ns: int,
        through_ns: int | None,
        is_highest: bool,
    ) -> BestClose | None:
        """Return the highest close (or the lowest) of the sealed bars that open after one moment and at most at
        another (None: any); None without such a bar."""
        row = await self._db.fetchrow(
            "facts.best_close",
            exchange,
            symbol,
            timeframe,
            to_datetime(after_ns),
            None if through_ns is None else to_datetime(through_ns),
        )
        if row is None or row["last"] is None:
            return None
        return BestClose(Decimal(repr(row["highest" if is_highest else "lowest"])), to_ns(row["last"]))

    async def stop_moves(
        self, instance: str, *, after: int, since_ns: int, through_ns: int | None, is_highest: bool
    ) -> StopMoves | None:
        """Return the highest price (or the lowest) that a strategy moved its stop to, and the newest of its take
        profit, of the moves after a number and of bars that open after one moment and at most at another (None: any);
        None without such a move."""
        row = await self._db.fetchrow(
            "facts.stop_moves",
            instance,
            after,
            to_datetime(since_ns),
            None if through_ns is None else to_datetime(through_ns),
        )
        if row is None or row["number"] is None:
            return None
        price = row["highest" if is_highest else "lowest"]
        return StopMoves(price, to_ns(row["last"]), row["number"], row["take_profit"])

    async def trades_after(
        self, exchange: str, symbol: str, time_ns: int, trade_id: int, limit: int
    ) -> list[StoredTrade]:
        """Return stored public trades after one of them (time and id), oldest first."""

    async def turnover(self, account_id: int, venue: str) -> list[Turnover]:
        """Return the amounts that all executions of an account at a venue moved."""

    async def sealed_through(self, exchange: str, symbol: str, timeframe: str) -> int | None:
        """Return the open time of the last sealed bar of a feed, or None."""

    @query("undecided")
    async def is_undecided(self, venue: str, symbol: str, before_ns: int) -> bool:
        """Return whether a signal of a bar before that moment still waits for its outcome at a venue, unless it waits
        for an exit that rests there."""

    async def oldest_decisions(self, venue: str) -> dict[str, int]:
        """Return the time (ns) of the bar on which each symbol's oldest open order was decided."""

    async def decisions(self, venue: str) -> dict[str, int]:
        """Return the bar (ns) on which each open order at a venue was decided, for those that were decided on one."""

    async def executed(self, venue: str) -> list[ExecutedOrder]:
        """Return the executed entries that have open legs at a venue, or are held there and should have some, and the
        last exit of each of their positions."""

    async def oldest_ready(self, venue: str, symbol: str) -> int | None:
        """Return the bar time (ns) of the oldest signal in a symbol that waits for its outcome at a venue."""
