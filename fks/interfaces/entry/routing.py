"""Account of an order request, and with it the venue: request, account, route of the instrument, default.

A request that names an account or a venue goes there. Another one goes to the first venue of its route (`venue_routes`)
with an account of the caller, without a route to the default venue, without a default to the caller's first account.
What would reduce a position goes to the account that holds it, if that is one. An entry that may fall back goes on to
the next venue that takes entries now, while its signal is not committed: never away from a position that it would
reduce. Neither rule, nor a disabled account, moves an order to an account of another mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from fks.config.settings import Settings
from fks.model.account import Account, Environment
from fks.model.copies import LEADER, is_ninja
from fks.model.errors import InputError, not_found, unprocessable
from fks.model.instrument import folded
from fks.model.ninja import MT5
from fks.model.order import Side
from fks.model.venue import VenueRule, by_priority, is_enabled, route_of
from fks.store.accounts import AccountStore
from fks.store.db import Database
from fks.store.positions import PositionStore
from fks.store.reading import Listed, ReadingStore
from fks.store.venues import VenueStore


class Placeable(Protocol):
    """The fields of an order request that decide about its place."""

    @property
    def symbol(self) -> str: ...
    @property
    def side(self) -> Side | str: ...
    @property
    def account(self) -> str | int | None: ...
    @property
    def venue(self) -> str | None: ...
    @property
    def exchange(self) -> str | None: ...
    @property
    def allow_fallback(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class OrderPlace:
    """An account and an instrument. `note`: why it is not the account's venue that comes first."""

    account: Account
    instrument: Listed
    note: str = ""


def exchange_of(venue: str, settings: Settings) -> str | None:
    """Return the exchange whose instruments a venue trades, also of one that no setting names any more; None: those of
    any, as on paper."""
    others = None if venue == Environment.PAPER or is_ninja(venue) else venue
    return {**settings.venues_at_exchanges(), MT5.name: MT5.name}.get(venue, others)


def exchange_for(account: Account, symbol: str, exchange: str | None, settings: Settings) -> str | None:
    """Return the exchange of an account's orders in `symbol`: that of its venue, or the named one; None on paper.

    Errors: InputError EXCHANGE when another one is named, also in the symbol, than the venue trades.
    """
    home, named = exchange_of(account.venue, settings), exchange or symbol.rpartition(":")[0]
    if home is not None and named.lower() not in ("", home):
        raise unprocessable(
            "EXCHANGE", f"account {account.name} trades at {home}, not at {named}", "name another account"
        )
    return exchange or home


class OrderRouter:
    """Finds the place of order requests. Holds no state."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._settings = settings
        self._accounts = AccountStore(db)
        self._venues = VenueStore(db)
        self._reading = ReadingStore(db)
        self._positions = PositionStore(db)

    async def named(self, request: Placeable, accounts: Collection[int] | None) -> OrderPlace:
        """Return the place of a request without routes, default and fallback: equal requests have an equal one,
        whatever became of the venues. `accounts`: the numbers of the caller's; None for all. Errors: InputError."""
        return await self._at(_account(await self._known(accounts), request, self._named(request)), request)

    async def place(self, request: Placeable, accounts: Collection[int] | None, instance: str = "") -> OrderPlace:
        """Return the place of a request as the rows stand now. `instance`: the one that the caller trades; its own
        positions count then. Errors: InputError."""
        known, named = await self._known(accounts), self._named(request)
        if request.account is not None or (named is not None and not request.allow_fallback):
            return await self._at(_account(known, request, named), request)
        rules = {rule.name: rule for rule in await self._venues.rules()}
        first = [named] if named is not None else await self._first(request, rules)
        found = _of_one_mode(known, first)
        account = found[0] if found else _account(known, request, first[0] if first else None)
        if first and named is None:
            home = await self._home_or_holder(known, account, request, instance)
            if home.account != account:
                return home
        else:
            home = await self._at(account, request)
        if not request.allow_fallback:
            return home
        every = {account.venue: VenueRule(account.venue) for account in known if account.is_enabled} | rules
        others = [_first_of(known, name) for name in by_priority(every.values())]
        after = [one for one in (*found, *others) if one is not None and one != account]
        return await self._usable(home, list(dict.fromkeys(after)), request, rules, instance)

    def _named(self, request: Placeable) -> str | None:
        return None if request.venue is None else self._settings.venue_named(request.venue)

    async def _known(self, accounts: Collection[int] | None) -> list[Account]:
        return [item for item in await self._accounts.page() if accounts is None or item.id in accounts]

    async def _at(self, account: Account, request: Placeable, exchange: str | None = None) -> OrderPlace:
        at = exchange_for(account, request.symbol, request.exchange, self._settings) or exchange
        return OrderPlace(account, await self._reading.find(request.symbol, at, listed=True))

    async def _first(self, request: Placeable, rules: dict[str, VenueRule]) -> list[str]:
        """Return the venues of the request's route, else the default; [] without either."""
        if routes := await self._venues.routes():
            try:
                listed = await self._reading.find(request.symbol, request.exchange, listed=True)
                exchange, symbol = listed.exchange, listed.symbol
            except InputError:  # at several exchanges: patterns of a symbol count
                exchange, _, symbol = request.symbol.rpartition(":")
                symbol = folded(symbol)
            if (route := route_of(routes, request.exchange or exchange, symbol)) is not None:
                return list(route.venues)
        return [rule.name for rule in rules.values() if rule.is_default]

    async def _usable(
        self,
        home: OrderPlace,
        others: Sequence[Account],
        request: Placeable,
        rules: dict[str, VenueRule],
        instance: str,
    ) -> OrderPlace:
        """Return the first place that takes entries now; `home` when none does, or when it holds a position that the
        request would reduce."""
        first = home.account
        ready, named = await self._venues.ready(), self._settings.enabled_venues
        is_taken = (first.venue, first.id) in ready and is_enabled(first.venue, rules, named)
        if is_taken or is_ninja(first.venue) or await self._reduced(home.instrument.symbol, request, [first], instance):
            return home
        for account in others:
            is_open = (account.venue, account.id) in ready and is_enabled(account.venue, rules, named)
            if not is_open or is_ninja(account.venue) or account.mode != first.mode:
                continue
            try:
                found = await self._at(account, request, home.instrument.exchange)
            except InputError:  # it does not trade the symbol
                continue
            if not await self._reduced(found.instrument.symbol, request, [account], instance):
                return OrderPlace(account, found.instrument, f"fell back from {first.venue} to {account.venue}")
        return home

    async def _home_or_holder(
        self, known: Sequence[Account], home: Account, request: Placeable, instance: str
    ) -> OrderPlace:
        """Return the place at the one account of the mode of `home` that holds a position which the request would
        reduce; at `home` when that is it, or when there is none, or several."""
        try:
            place = await self._at(home, request)
            symbol = place.instrument.symbol
        except InputError:  # another account may trade and hold it
            place = None
            symbol = (await self._reading.find(request.symbol, request.exchange, listed=True)).symbol
        same = [one for one in known if one.is_enabled and one.mode == home.mode]
        found = await self._reduced(symbol, request, same, instance)
        if len(found) == 1 and found != [home]:
            with contextlib.suppress(InputError):  # it holds the symbol of another exchange than the one that is named
                return await self._at(found[0], request)
        return place or await self._at(home, request)

    async def _reduced(
        self, symbol: str, request: Placeable, accounts: Sequence[Account], instance: str
    ) -> list[Account]:
        """Return the accounts that hold the symbol on the other side than the request's."""
        sums: dict[tuple[int, str], Decimal] = {}
        for position in await self._positions.page(symbol=symbol):
            if not instance or position.instance == instance:
                key = position.account_id, position.venue
                sums[key] = sums.get(key, Decimal(0)) + position.quantity
        sign = Side(request.side).sign
        return [one for one in accounts if sums.get((one.id, one.venue), Decimal(0)) * sign < 0]


def _of_one_mode(accounts: Sequence[Account], venues: Sequence[str]) -> list[Account]:
    """Return the enabled account at each venue that has one, of the mode of the first venue with an account: one that a
    person disabled moves no order from paper money to real money, or back."""
    at = [one for name in venues if (one := _first_of(accounts, name) or _any_of(accounts, name)) is not None]
    return [one for one in at if one.is_enabled and one.mode == at[0].mode]


def _any_of(accounts: Sequence[Account], venue: str) -> Account | None:
    return next((one for one in accounts if one.venue == venue), None)


def _first_of(accounts: Sequence[Account], venue: str) -> Account | None:
    """Return the enabled account with the lowest number at a venue."""
    return min((one for one in accounts if one.is_enabled and one.venue == venue), key=lambda a: a.id, default=None)


def _account(accounts: Sequence[Account], request: Placeable, venue: str | None) -> Account:
    """Return the account of a request by name or number, else the first enabled one (of `venue`, if there is one)."""
    name = request.account
    found = [
        account
        for account in accounts
        if account.is_enabled
        and (name is None or name in (account.name, str(account.id)))
        and (venue in (None, account.venue) or _is_further(account, name, venue))
    ]
    if found:
        return min(found, key=lambda account: account.id)
    known = ", ".join(f"{account.name} on {account.venue}" for account in accounts if account.is_enabled) or "none"
    wanted = f"{name or 'any account'}{f' on {venue}' if venue else ''}"
    raise not_found("ACCOUNT_UNKNOWN", f"no such account: {wanted}", f"known: {known}")


def _is_further(account: Account, name: str | int | None, venue: str | None) -> bool:
    """Return whether a request for the venue `ninja` names a further account at NinjaTrader."""
    return name is not None and venue == LEADER and is_ninja(account.venue)
