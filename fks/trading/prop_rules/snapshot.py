"""State of a prop account from the bridge's snapshot, as the link stores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.trading.prop_rules.account import AccountState, Holding, WorkingEntry

#: the add-on's own value beside NinjaTrader's: the highest value that a trailing limit counts from, kept in its journal
HIGHEST = "FksHighest"


def account_in(snapshot: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """Return an account of a stored `status`, or None."""
    accounts: Iterable[Mapping[str, Any]] = () if snapshot is None else snapshot.get("accounts", ())
    return next((account for account in accounts if account.get("name") == name), None)


def state_of(account: Mapping[str, Any] | None, entries: tuple[WorkingEntry, ...] = ()) -> AccountState:
    """Return the state of an account of a `status`; without one, or without a value in it, that is not known.

    Equity is the net liquidation, the balance at the day's start that less the realised and the open result, which
    NinjaTrader's connections reset at the session's roll. Positions are the platform's, a person's included.
    """
    if account is None:
        return AccountState(entries=entries)
    values: Mapping[str, Any] = account.get("values") or {}
    equity = _number(values.get("NetLiquidation"))
    realized, unrealized = (_number(values.get(f"{kind}ProfitLoss")) for kind in ("Realized", "Unrealized"))
    start = None if equity is None or realized is None or unrealized is None else equity - realized - unrealized
    return AccountState(
        equity=equity,
        day_start_balance=start,
        day=_day(account.get("trade_date")),
        highest=_number(values.get(HIGHEST)),
        holdings=tuple(_holding(position) for position in account.get("positions", ())),
        entries=entries,
    )


def _holding(position: Mapping[str, Any]) -> Holding:
    sign = {"long": 1, "short": -1}.get(str(position["side"]), 0)
    return Holding(str(position["instrument"]).split(" ")[0], sign * int(position["qty"]))


def _number(value: object) -> Decimal | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        return None
