"""Copies of signals at NinjaTrader as one document: rules, outcomes of each account, and differences in position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from fks.config.settings import Ninja
from fks.model.account import Account
from fks.model.copies import LEADER, CopyRule, expected, venue_of
from fks.model.ids import copy_signal_id, intent_id
from fks.store.accounts import AccountStore
from fks.store.db import Database

_ZERO = Decimal(0)
Row = Mapping[str, Any]


class Copies:
    """Reads what became of copied signals. Errors: OutageError."""

    def __init__(self, db: Database, ninja: Ninja) -> None:
        self._db, self._ninja = db, ninja

    async def document(self, limit: int) -> dict[str, Any]:
        """Return leader, followers, positions that differ and the newest `limit` signals."""
        accounts = await AccountStore(self._db).page()
        leading = await self._db.fetch("ninja.leading_signals", limit)
        followers = [account for account in accounts if account.venue.startswith(f"{LEADER}:")]
        ids = {row["id"]: [copy_signal_id(intent_id(row["id"]), each.id) for each in followers] for row in leading}
        wanted = [id for id, copies in ids.items() for id in (id, *copies)]
        outcomes = {row["id"]: dict(row) for row in await self._db.fetch("ninja.outcomes", wanted)}
        held = [dict(row) for row in await self._db.fetch("ninja.held")]
        rules = self._ninja.copy_rules()
        return {
            "leader": self._place(LEADER, accounts),
            "followers": [
                {
                    "name": name,
                    **self._place(venue_of(name), accounts),
                    **_rule(next((rule for rule in rules if rule.name == name), None)),
                }
                for name in self._ninja.accounts
            ],
            "positions": _positions(rules, held),
            "signals": [
                {
                    **{key: row[key] for key in ("id", "symbol", "kind", "side", "created_at")},
                    "orders": _orders(row["id"], ids[row["id"]], outcomes),
                }
                for row in leading
            ],
        }

    def _place(self, venue: str, accounts: Sequence[Account]) -> dict[str, Any]:
        group, account = self._ninja.sessions().get(venue, (None, None))
        ours = next((each.name for each in accounts if each.venue == venue and each.is_enabled), None)
        return {"venue": venue, "account": ours, "group": group, "platform_account": account}


def _rule(rule: CopyRule | None) -> dict[str, Any]:
    if rule is None:
        return {"size": None, "is_ratio": False, "mode": "off"}
    return {"size": rule.size, "is_ratio": rule.is_ratio, "mode": rule.mode}


def _positions(rules: Sequence[CopyRule], held: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what each follower holds and should hold, by symbol, where it or the leader holds something."""
    by_venue: dict[str, dict[str, Decimal]] = {}
    for row in held:
        symbols = by_venue.setdefault(row["venue"], {})
        symbols[row["symbol"]] = symbols.get(row["symbol"], _ZERO) + row["quantity"]
    leader, found = by_venue.get(LEADER, {}), []
    for rule in rules:
        follower = by_venue.get(rule.venue, {})
        for symbol in sorted(leader.keys() | follower.keys()):
            quantity, ours = leader.get(symbol, _ZERO), follower.get(symbol, _ZERO)
            wanted = ours if rule.mode == "off" else expected(rule, quantity, ours)
            found.append(
                {
                    "name": rule.name,
                    "symbol": symbol,
                    "leader": quantity,
                    "expected": wanted,
                    "held": ours,
                    "difference": ours - wanted,
                }
            )
    return found


def _orders(leader: Any, copies: Sequence[Any], outcomes: Mapping[Any, Row]) -> list[dict[str, Any]]:
    """Return the outcome on each account, the leader's first."""
    found = []
    price = outcomes[leader]["average_price"] if leader in outcomes else None
    for id in (leader, *copies):
        row = outcomes.get(id)
        if row is None:
            continue
        own = row["average_price"]
        found.append(
            {
                "signal_id": id,
                "venue": row["venue"],
                "account": row["account"],
                "state": row["order_state"] or row["state"],
                "code": row["order_code"] or row["code"],
                "detail": row["order_detail"] or row["detail"],
                "client_order_id": row["client_order_id"],
                "quantity": row["quantity"] if row["quantity"] is not None else row["size"],
                "filled": row["filled"],
                "average_price": own,
                "price_difference": None if own is None or price is None or id == leader else own - price,
            }
        )
    return found
