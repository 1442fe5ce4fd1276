"""Comparison of an account's balances at a venue with the expected ones: opening, executions, transfers.

A difference that stays the same for `risk.drift_confirm_s`, seen in calm moments only, opens an incident; while it is
open, entries in that asset are denied INCIDENT_OPEN. A difference that goes ends its incident; a person adopts,
explains or books the others (`fks incidents`).
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from fks.model.account import Account, Environment, Transfer
from fks.model.errors import OutageError
from fks.model.order import Side, State
from fks.model.ports import Venue
from fks.model.timeframe import NS
from fks.store.incidents import IncidentKind
from fks.trading.order_manager.balances import AccountBalances, AccountStores
from fks.trading.order_manager.cache import VenueStatus
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.lost_orders import LostOrders
from fks.trading.portfolio.drift import Executed, differences, is_drift, moved_by, total

_READ_S = 15.0
_PERIOD_S = 5.0
_OVERLAP_NS = 86_400 * NS  # a transfer is listed under the time of its request, however late it is carried out
_ZERO = Decimal(0)


class DriftWatch:
    """The watch over one venue's account. Hard state: account_assets, transfers, incidents."""

    def __init__(
        self,
        context: OrderManagerContext,
        venue: Venue,
        status: VenueStatus,
        stores: AccountStores,
        balances: AccountBalances,
        lost: LostOrders,
    ) -> None:
        self._venue = venue
        self._status = status
        self._stores = stores
        self._balances, self._lost = balances, lost
        self._cache, self._publisher = context.cache, context.publisher
        self._settings, self._clock, self._log = context.settings, context.clock, context.log
        self._seen: dict[str, tuple[Decimal, float]] = {}  # asset -> its difference, and since when it is that
        self._compared = -1  # which comparison of orders and executions the last look followed
        self._listed_s = float("-inf")

    async def run(self) -> None:
        """Look for ever; an outage skips a turn. A venue in the order manager alone cannot differ from the journal."""
        period_s = min(_PERIOD_S, self._settings.risk.drift_confirm_s)
        while True:
            try:
                await self._turn()
            except (OutageError, TimeoutError) as error:
                self._log.debug("drift.skipped", venue=self._venue.name, error=str(error))
            await self._clock.sleep(period_s)

    async def _turn(self) -> None:
        account = self._cache.accounts.get(self._status.account_id)
        if account is None or self._status.refusal or self._status.state != "READY":
            return
        if self._status.compares_done != self._compared or self._seen or self._balances.is_unexplained:
            identity = await self._stores.accounts.identity(account.id)
            if identity is None or identity.environment is Environment.PAPER:
                self._compared = self._status.compares_done
                return
            await self.compare(account)
        await self._read_incidents(account)

    async def compare(self, account: Account) -> None:
        """Compare once, unless executions are under way. Errors: OutageError, TimeoutError."""
        found = await self._calm_look(account)
        if found is None:
            return
        held, moved = found
        known = await self._stores.holdings.known(account.id)
        if not known:
            await self._open(account, held, moved)
            return
        self._compared = self._status.compares_done
        expected = total(known, moved, await self._stores.holdings.transferred(account.id))
        drifts = self._drifts(account, differences(expected, held))
        is_listed = self._clock.monotonic() - self._listed_s < self._settings.venue.transfers_s
        if ((drifts and not self._seen) or not is_listed) and await self._list_transfers(account):
            expected = total(known, moved, await self._stores.holdings.transferred(account.id))
            drifts = self._drifts(account, differences(expected, held))
        await self._update_drifts(account, drifts, expected, held)

    async def _calm_look(self, account: Account) -> tuple[dict[str, Decimal], dict[str, Decimal]] | None:
        """Return what the venue holds and what executions moved, of one moment; None while orders are under way."""
        before = await self._moved(account)
        async with asyncio.timeout(_READ_S):
            balances = await self._venue.balances()
        if before is None or before != await self._moved(account):
            return None
        return {asset: balance.total for asset, balance in balances.items()}, before

    async def _moved(self, account: Account) -> dict[str, Decimal] | None:
        orders = [order for order in self._cache.orders.values() if order.venue == self._venue.name]
        if any(o.state in (State.SENDING, State.UNKNOWN) or o.reported_cum_qty > o.filled for o in orders):
            return None
        rows = await self._stores.facts.turnover(account.id, self._venue.name)
        lost = list(self._lost.fills())
        assets = {symbol: (i.base, i.quote) for (_, symbol), i in self._cache.instruments.items()}
        try:
            executed = [Executed(r.symbol, r.is_buy, r.quantity, r.value, r.fee, r.fee_currency) for r in rows]
            executed += [
                Executed(f.symbol, f.side is Side.BUY, f.quantity, f.quantity * f.price, f.fee, f.fee_currency)
                for f in lost
            ]
            return moved_by(executed, assets)
        except KeyError:  # metadata of a symbol are not here yet
            return None

    async def _open(self, account: Account, held: dict[str, Decimal], moved: dict[str, Decimal]) -> None:
        """Note what the account held before FKS: all that no execution explains. Transfers listed so far are part of
        it."""
        await self._list_transfers(account)
        opening = differences(moved, {account.currency: _ZERO} | held)
        await self._stores.holdings.set_opening(account.id, opening)
        kept = {asset: str(amount) for asset, amount in opening.items() if amount}
        self._log.info("account.opened", venue=self._venue.name, account_id=account.id, **kept)

    async def _list_transfers(self, account: Account) -> list[Transfer]:
        """Book deposits and withdrawals that the venue lists; return the new ones."""
        last_ns = await self._stores.holdings.last_transfer_ns(account.id)
        self._listed_s = self._clock.monotonic()
        try:
            async with asyncio.timeout(_READ_S):
                listed = await self._venue.transfers_since(0 if last_ns is None else last_ns - _OVERLAP_NS)
        except (OutageError, TimeoutError) as error:  # a key may lack the right: what they moved is drift then
            self._log.warning("account.transfers_unread", venue=self._venue.name, error=str(error))
            return []
        new = await self._stores.holdings.add_transfers(account.id, listed)
        is_opened = bool(await self._stores.holdings.known(account.id))
        for item in new if is_opened else ():
            self._log.info(
                "account.transfer",
                venue=self._venue.name,
                kind=item.kind.value,
                asset=item.asset,
                amount=str(item.amount),
                reference=item.reference,
            )
            await self._balances.note_transfer(item)
        return new

    def _drifts(self, account: Account, found: dict[str, Decimal]) -> dict[str, Decimal]:
        tolerance = self._settings.risk.drift_tolerance
        # contracts are compared; money moves with profit that is not booked here
        if self._venue.capabilities.is_margin:
            money = {instrument.quote for instrument in self._cache.instruments.values()} | {account.currency}
            found = {asset: amount for asset, amount in found.items() if asset not in money}
        return {
            asset: amount
            for asset, amount in found.items()
            if is_drift(amount, self._balances.price_in(asset, account.currency), tolerance)
        }

    async def _update_drifts(
        self, account: Account, drifts: dict[str, Decimal], expected: dict[str, Decimal], held: dict[str, Decimal]
    ) -> None:
        now_s = self._clock.monotonic()
        self._seen = {
            asset: seen if (seen := self._seen.get(asset)) is not None and seen[0] == amount else (amount, now_s)
            for asset, amount in drifts.items()
        }
        for asset, (amount, since_s) in self._seen.items():
            if now_s - since_s >= self._settings.risk.drift_confirm_s:
                await self._report(account, asset, amount, expected.get(asset, _ZERO), held.get(asset, _ZERO))
        for asset in self._status.drifting:
            if asset not in drifts:
                await self._stores.incidents.end(
                    account.id,
                    IncidentKind.DRIFT,
                    asset,
                    now_ns=self._clock.now_ns(),
                    resolution="the difference is gone",
                )

    async def _report(self, account: Account, asset: str, amount: Decimal, expected: Decimal, held: Decimal) -> None:
        what = "more" if amount > 0 else "less"
        detail = (
            f"{self._venue.name} holds {held.normalize():f} {asset} of account {account.name}, "
            f"{abs(amount).normalize():f} "
            f"{what} than executions and transfers explain"
        )
        found = await self._stores.incidents.open(
            account.id,
            IncidentKind.DRIFT,
            asset,
            detail=detail,
            now_ns=self._clock.now_ns(),
            payload={"difference": f"{amount:f}", "expected": f"{expected:f}", "held": f"{held:f}"},
        )
        # one that this process has not read yet: it is new, or the answer to its opening was lost
        if found is not None and self._status.drifting.get(asset) != found[0].id:
            self._publisher.alert(
                "error",
                "account.drift",
                f"{detail}; entries in {asset} are denied until it is adopted, explained or booked",
                account_id=account.id,
                venue=self._venue.name,
                asset=asset,
                difference=f"{amount:f}",
                incident=found[0].id,
            )

    async def _read_incidents(self, account: Account) -> None:
        """Learn which assets entries are denied in: those of the open incidents, whichever process or person closed
        one."""
        page = await self._stores.incidents.page(account_id=account.id, is_open=True, limit=1000)
        self._status.drifting = {item.subject: item.id for item in page if item.kind == IncidentKind.DRIFT}
