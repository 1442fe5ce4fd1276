"""Signals that were shown to a person at NinjaTrader, with the trades then made by hand."""

from __future__ import annotations

import uuid
from typing import Any

from fks.model.ids import client_order_id, intent_id
from fks.model.order import Role
from fks.model.untrusted import decimal_of
from fks.store.db import Database

_ROLES = (Role.ENTRY, Role.EXIT, Role.ORDER)


async def relay_of(db: Database, signal_id: uuid.UUID) -> dict[str, Any] | None:
    """Return when and where a signal was shown, and the executions by hand that followed; None when it was not.

    Errors: OutageError.
    """
    names = [client_order_id(intent_id(signal_id), role) for role in _ROLES]
    row = await db.fetchrow("ninja.relayed", names)
    if row is None:
        return None
    group, account, symbol = row["group_name"], row["account"], row["instrument"]
    events = await db.fetch("ninja.by_hand", group, account, symbol, row["shown_at"])
    return {
        "group": group,
        "account": account,
        "symbol": symbol,
        "shown_at": row["shown_at"],
        "shown_until": row["valid_until"],
        "executions": [_execution(event["body"], event["at"]) for event in events if event["body"].get("op") == "add"],
    }


def _execution(body: dict[str, Any], at: Any) -> dict[str, Any]:
    return {
        "exec_id": str(body["exec_id"]),
        "side": body["side"],
        "quantity": decimal_of(body["qty"]),
        "price": decimal_of(body["price"]),
        "at": at,
    }
