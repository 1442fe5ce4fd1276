"""The seed dialect: a line without a type that asks for an order, as a signal of fks1, and the reply to it.

The same line within two seconds is the same order, so it gets the same id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.sim.nt8.platform import Account
from fks.sim.nt8.signals import content

Message = dict[str, Any]
_SAME_MS = 2_000
_VALID_MS = 30_000
_FIELDS = frozenset({"action", "instrument", "price", "tp_points", "sl_points", "quantity", "account"})


class SeedOrders:
    """The orders of the last two seconds, by their content. The arguments are those of the bridge's configuration."""

    def __init__(self, account: str, entry_type: str, unauthenticated: str) -> None:
        self._account, self._entry_type, self._unauthenticated = account, entry_type, unauthenticated
        self._lately: dict[str, tuple[str, int]] = {}  # content -> id, when

    def signal_of(
        self, order: Message, accounts: Mapping[str, Account], now_ms: int, *, is_authenticated: bool
    ) -> Message:
        """Return the signal that a line stands for, or the failure (with `success`) that answers it."""
        if unknown := sorted(order.keys() - _FIELDS):
            return _failure("unknown_field", f"unknown field {unknown[0]!r}")
        if order.get("action") not in ("buy", "sell", "long", "short"):
            return _failure("bad_field", "action: one of buy, sell, long, short")
        account = order.get("account", self._account)
        found = accounts.get(account) if isinstance(account, str) else None
        if not is_authenticated and (found is None or not found.is_sim or self._unauthenticated != "sim_only"):
            return _failure("auth_required", "without the secret only a simulation account takes orders")
        message = {
            "t": "signal",
            "id": self._id_of(order, now_ms),
            "account": account,
            "instrument": order.get("instrument"),
            "action": order["action"],
            "qty": order.get("quantity", 1),
            "type": self._entry_type,
            "price": order.get("price"),
            "sl_points": order.get("sl_points"),
            "tp_points": order.get("tp_points"),
            "created_ms": now_ms,
            "valid_until": now_ms + _VALID_MS,
        }
        return {name: value for name, value in message.items() if value is not None}

    def _id_of(self, order: Message, now_ms: int) -> str:
        digest = content(order)
        known_id, at_ms = self._lately.get(digest, ("", 0))
        if known_id and 0 <= now_ms - at_ms <= _SAME_MS:
            return known_id
        signal_id = f"s{digest[:12]}-{now_ms // 1000:x}"
        self._lately[digest] = (signal_id, now_ms)
        for old in [one for one, (_, at) in self._lately.items() if now_ms - at > _SAME_MS]:
            del self._lately[old]
        return signal_id


def seed_reply(signal_id: str, reply: Message) -> Message:
    """Return the reply of the dialect for the reply that the signal got."""
    if reply["t"] == "nack":
        return _failure(reply["code"], reply["detail"], signal_id)
    prefix = "duplicate " if reply.get("dup") else ""
    state = reply.get("state", "indeterminate")
    return {"success": True, "message": f"{prefix}{state} FKS:{signal_id}:E", "signal_id": signal_id}


def _failure(code: str, detail: str, signal_id: str | None = None) -> Message:
    return {"success": False, "message": f"{code}: {detail}", "signal_id": signal_id}
