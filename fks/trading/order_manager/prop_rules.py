"""Rules of a prop firm before each entry at NinjaTrader: the link's last snapshot, judged by fks.trading.prop_rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from fks.config.settings import Settings
from fks.model.codes import Code, Denial
from fks.model.copies import LEADER
from fks.model.errors import FksError
from fks.model.futures import contract_of
from fks.model.ninja import LinkRecord
from fks.model.order import Order
from fks.store.ninja import NinjaStore
from fks.trading.prop_rules import ORDER_CODES, EntryRequest, Holding, RuleGroup, WorkingEntry, check_entry
from fks.trading.prop_rules.groups import FOLDER, files_stamp, find_group, stored_groups
from fks.trading.prop_rules.snapshot import account_in, state_of
from fks.trading.risk.intent import Intent

SNAPSHOT_AGE_MAX_S = 60.0  # the bridge pushes one every 30 s, and after each reconnect
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class GuardedAccount:
    """An account under rules. `rules` None: its file cannot be used, `fault` says why, and every entry is denied."""

    link: str
    account: str
    rules_name: str
    rules: RuleGroup | None
    fault: str = ""


def guarded_account(settings: Settings, home: Path, link: str, account: str) -> GuardedAccount | None:
    """Return the account with the rules that it, or its group, names in the settings; None when neither names any.

    A file that cannot be used denies every entry: rules that are not known are broken.
    """
    name = settings.ninja.rules_of(link, account)
    if name is None:
        return None
    try:
        groups = [group for group, _ in stored_groups(home / FOLDER)]
        return GuardedAccount(link, account, name, find_group(groups, name))
    except (FksError, OSError, UnicodeDecodeError) as error:
        return GuardedAccount(link, account, name, None, str(error))


class PropGate:
    """Verdicts for entries of the account that `venue` trades. `refresh` reads its values, at least every second.

    `changed` gives the account with its rules when their files have changed; it is asked at each refresh.
    """

    def __init__(
        self,
        guarded: GuardedAccount,
        links: NinjaStore,
        venue: str = LEADER,
        changed: Callable[[], GuardedAccount | None] = lambda: None,
    ) -> None:
        self._guarded, self._links, self._venue, self._changed = guarded, links, venue, changed
        self._link: LinkRecord | None = None

    @property
    def fault(self) -> str:
        """Return why every entry is denied; "" where the rules can be used."""
        return self._guarded.fault

    async def refresh(self) -> None:
        """Read the link's row, and the rules if a file has changed. Errors: OutageError; the values that are known
        then grow old."""
        self._guarded = self._changed() or self._guarded
        self._link = await self._links.link(self._guarded.link)

    def denial(
        self, intent: Intent, open_orders: Iterable[Order], positions: Mapping[str, Decimal], now_ns: int
    ) -> Denial | None:
        """Return why an entry breaks a rule, or None. Not to be asked for what only reduces.

        `positions`: of the journal, by symbol: a fill may be newer than the snapshot.
        """
        guarded = self._guarded
        if intent.venue != self._venue:
            return None
        if guarded.rules is None:
            return self._denied(Code.PROP_OFF, guarded.fault)
        # an intent that is checked again before its bytes is journaled already
        entries = tuple(
            _entry(order.symbol, order.remaining * order.side.sign, order.price or order.stop_price, order.stop_loss)
            for order in open_orders
            if order.venue == self._venue
            and not order.is_reduce_only
            and order.parent_id is None
            and order.intent_id != intent.intent_id
        )
        state = state_of(self._account(now_ns), entries)
        state = replace(state, holdings=_more(state.holdings, positions))
        price = intent.price or intent.stop_price or intent.reference_price
        asked = _entry(intent.symbol, intent.quantity * intent.side.sign, price, intent.stop_loss)
        request = EntryRequest(asked.root, asked.quantity, asked.worst_loss)
        found = check_entry(guarded.rules, state, request, now_ns)
        return None if found is None else self._denied(ORDER_CODES[found.code], found.detail)

    def _account(self, now_ns: int) -> Mapping[str, Any] | None:
        link = self._link
        if link is None or not link.is_fresh or link.report.snapshot_ns is None:
            return None
        if now_ns - link.report.snapshot_ns > SNAPSHOT_AGE_MAX_S * _NS:
            return None
        return account_in(link.report.snapshot, self._guarded.account)

    def _denied(self, code: Code, why: str) -> Denial:
        guarded = self._guarded
        return Denial(
            code,
            f"rules of {guarded.rules_name}",
            why,
            f"account {guarded.account}",
            f"see fks ninja rules --group {guarded.rules_name}",
        )


def prop_gates(settings: Settings, home: Path, links: NinjaStore) -> dict[str, PropGate]:
    """Return the gate of each account at NinjaTrader that has rules, by venue: each is judged by its own values."""
    found = {}
    for venue, (link, account) in settings.ninja.sessions().items():
        rules = _Rules(settings, home, link, account)
        if rules.guarded is not None:
            found[venue] = PropGate(rules.guarded, links, venue, rules.changed)
    return found


class _Rules:
    """The rules of one account, read again when a rule file has changed."""

    def __init__(self, settings: Settings, home: Path, link: str, account: str) -> None:
        self._read = partial(guarded_account, settings, home, link, account)
        self._folder = home / FOLDER
        self._stamp = files_stamp(self._folder.glob("*"))
        self.guarded = self._read()

    def changed(self) -> GuardedAccount | None:
        stamp = files_stamp(self._folder.glob("*"))
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        return self._read()


def _more(reported: tuple[Holding, ...], positions: Mapping[str, Decimal]) -> tuple[Holding, ...]:
    """Return the holdings by root, of platform and journal the larger one."""
    found: dict[str, int] = {}
    for holding in reported:
        found[holding.root] = found.get(holding.root, 0) + holding.quantity
    ours: dict[str, int] = {}
    for symbol, quantity in positions.items():
        root = _entry(symbol, quantity, None, None).root
        ours[root] = ours.get(root, 0) + int(quantity)
    for root, held in ours.items():
        if abs(held) > abs(found.get(root, 0)):
            found[root] = held
    return tuple(Holding(root, held) for root, held in found.items())


def _entry(symbol: str, quantity: Decimal, price: Decimal | None, stop: Decimal | None) -> WorkingEntry:
    """Return an entry as the rules count it; its loss is not known without a stop, a price or a specification."""
    contract = contract_of(symbol)
    root = symbol.split(" ")[0] if contract is None else contract.root
    worst = None
    if contract is not None and price is not None and stop is not None:
        worst = (price - stop) * quantity * contract.spec.point_value
    return WorkingEntry(root, int(quantity), worst)
