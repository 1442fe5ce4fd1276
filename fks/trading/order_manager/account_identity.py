"""Identity of the account behind a venue session: fixed at the account's first session, checked at every one after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from fks.model.account import Account, Environment, VenueIdentity
from fks.model.errors import FksError
from fks.model.ports import Venue
from fks.model.timeframe import NS
from fks.store.incidents import IncidentKind
from fks.trading.order_manager.balances import AccountStores
from fks.trading.order_manager.cache import VenueStatus
from fks.trading.order_manager.context import OrderManagerContext

_READ_S = 15.0
_MARGIN_NS = NS
PENDING = "whose account the session is was not checked yet"


class IdentityRefusedError(FksError):
    """The venue's session is not the account's own: nothing is sent through it."""


def session_accounts(accounts: Iterable[Account], *, is_live: bool) -> dict[str, Account]:
    """Return the account that each venue's session belongs to: the first enabled one that trades there and whose mode
    fits (`live` at a venue with real money, `paper` elsewhere), else the first."""

    def rank(account: Account) -> tuple[bool, bool, int]:
        wanted = "live" if is_live and account.venue != "paper" else "paper"
        return not account.is_enabled, account.mode != wanted, account.id

    found: dict[str, Account] = {}
    for account in sorted(accounts, key=rank):
        found.setdefault(account.venue, account)
    return found


def objection(
    account: Account,
    reported: VenueIdentity,
    *,
    is_live: bool,
    fixed: VenueIdentity | None,
    earlier: Environment | None,
) -> str:
    """Return why a session of `reported` may not trade for `account`, "" when it may. `is_live` is `venue.live`.

    `fixed` is the identity in the account's row, None before its first session. `earlier` is where an account that
    traded before identities were kept has traded, None when it never did.
    """
    is_real = reported.environment is Environment.LIVE
    if is_real and not is_live:
        return (
            f"the session is {reported}, where orders move real money, and venue.live is false; set venue.live = true"
        )
    if is_live and reported.environment in (Environment.SIM, Environment.TEST):
        return f"venue.live is true and the session is {reported}; set venue.live = false, or unset venue.rest_url"
    if is_real and account.mode != "live":
        return (
            f"account {account.name} has mode {account.mode} and the session is {reported}, where orders move real "
            "money; "
            f"make an account for it: fks accounts create NAME --venue {account.venue} --mode live"
            + (f" (or, when this one is it: fks accounts set {account.name} --mode live)" if fixed is None else "")
        )
    if not is_real and account.mode == "live":
        return (
            f"account {account.name} has mode live and the session is {reported}; set venue.live = true and "
            "sim.enabled = false, or trade with an account of mode paper"
        )
    known = fixed or (None if earlier is None else replace(reported, environment=earlier))
    if known is None or known == reported:
        return ""
    if known.environment is not reported.environment:
        remedy = "another environment is another account: make one with fks accounts create"
    elif known.uid != reported.uid:
        remedy = "check the API key; another account at the venue is another account here: fks accounts create"
    else:
        remedy = (
            "the network was reset and counts its trades anew: disable this account (fks accounts set) and "
            "make "
            "another one"
        )
    return f"account {account.name} is {known}, and the session is {reported}; {remedy}"


class AccountIdentity:
    """The check of one venue session. Hard state: the account's row, and an incident while the session is refused."""

    def __init__(self, context: OrderManagerContext, venue: Venue, status: VenueStatus, stores: AccountStores) -> None:
        self._context = context
        self._venue = venue
        self._status = status
        self._stores = stores
        self._is_clean = False

    def hold(self) -> None:
        """Let nothing through the session until `verify` has admitted it."""
        self._venue.refuse(PENDING)

    async def verify(self) -> None:
        """Admit the session when it is the account's own; the account's first session says whose it is from now on.

        Errors: IdentityRefusedError when it is another's; OutageError, TimeoutError when that cannot be found out.
        """
        async with asyncio.timeout(_READ_S):
            reported = await self._venue.identity()
        account = self._context.cache.accounts.get(self._status.account_id)
        if account is None:  # no account trades here: every order is denied ACCOUNT_UNKNOWN
            self._venue.admit(reported)
            return
        if reported.environment is Environment.TEST and not reported.network_epoch:
            # a test network is reset without notice, and its trade ids start again: each account there is an epoch of
            # its own
            reported = replace(reported, network_epoch=str(account.id))
        fixed = await self._stores.accounts.identity(account.id)
        earlier = None if fixed is not None else await self._earlier(account)
        reason = objection(account, reported, is_live=self._context.settings.venue.live, fixed=fixed, earlier=earlier)
        if not reason and reported.environment is Environment.TEST:
            reason = await self._reset(account, reported)
        if reason:
            await self._refuse(account, reported, reason)
        fixed = await self._stores.accounts.fix_identity(account.id, reported)
        assert fixed == reported, "another order manager fixed it meanwhile"
        self._venue.admit(reported)
        self._status.refusal = ""
        if not self._is_clean:
            now_ns = self._context.clock.now_ns()
            await self._stores.incidents.end(
                account.id, IncidentKind.IDENTITY, "", now_ns=now_ns, resolution="the session is the account's own"
            )
            self._is_clean = True

    async def _earlier(self, account: Account) -> Environment | None:
        """Return where an account without an identity has traded: before there were identities, on the local exchange
        unless `venue.live` is set."""
        if account.venue == "paper" or not await self._stores.accounts.has_traded(account.id):
            return None
        return Environment.LIVE if self._context.settings.venue.live else Environment.SIM

    async def _reset(self, account: Account, reported: VenueIdentity) -> str:
        """Return why a test network is not the one the account traded on: it does not know the newest execution any
        more."""
        newest = await self._stores.orders.newest_fill(account.id, self._venue.name)
        if newest is None:
            return ""
        self._venue.admit(reported)
        async with asyncio.timeout(_READ_S):
            listed = await self._venue.fills_since(newest.symbol, newest.time_ns - _MARGIN_NS)
        if any(fill.venue_trade_id == newest.venue_trade_id for fill in listed):
            return ""
        return (
            f"the test network does not know trade {newest.venue_trade_id} in {newest.symbol} of account "
            f"{account.name} any "
            "more: it was reset; disable this account and make another one"
        )

    async def _refuse(self, account: Account, reported: VenueIdentity, reason: str) -> None:
        self._venue.refuse(reason)
        self._status.has_positions = self._is_clean = False
        if self._status.refusal != reason:
            self._status.refusal = reason
            self._context.publisher.alert(
                "page",
                "account.identity_refused",
                reason,
                account_id=account.id,
                venue=self._venue.name,
                session=str(reported),
            )
        await self._stores.incidents.open(
            account.id,
            IncidentKind.IDENTITY,
            "",
            detail=reason,
            now_ns=self._context.clock.now_ns(),
            payload={
                "environment": reported.environment.value,
                "uid": reported.uid,
                "network_epoch": reported.network_epoch,
            },
        )
        raise IdentityRefusedError(reason)
