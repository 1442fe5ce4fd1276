"""Signals to NinjaTrader in the form of the replaced service: action, instrument, price, stop and target in points.

A signal becomes an order request of the venue `ninja` and goes through order entry like any other: this module only
reads its form and gives the answer that form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from fks.interfaces.entry.execution import ACTIONS, canonical_hash, result_of, wrong
from fks.interfaces.entry.order_entry import Draft, EntryAnswer, OrderEntry, OrderRequest, positive
from fks.model.futures import contract_of
from fks.model.order import OrderType
from fks.model.signal import Signal
from fks.model.untrusted import shown

#: A signal without `valid_until` is given up after so long, as the AddOn does with the same form.
VALID_S: Final = 30
FIELDS: Final = ("action", "instrument", "price", "tp_points", "sl_points", "quantity", "account", "valid_until")
_WAITING: Final = frozenset({None, "INTENDED", "SENDING"})
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class NinjaSignal:
    """A signal in the form of the replaced service, as an order request."""

    order: OrderRequest
    body_hash: str

    @staticmethod
    def parse(body: Mapping[str, object]) -> NinjaSignal:
        """Return the signal in a JSON body: a limit order at `price`, stop and target so many points from it.

        `*_points` are price units: 10 on ES are 40 ticks. Without `quantity` it is one contract.
        Errors: InputError naming the field and a valid form.
        """
        unknown = sorted(set(body) - set(FIELDS))
        if unknown:
            raise wrong(f"unknown field {shown(unknown[0])}", f"use {', '.join(FIELDS)}", "FIELD_UNKNOWN")
        action = body.get("action")
        side = ACTIONS.get(action.strip().lower()) if isinstance(action, str) else None
        if side is None:
            raise wrong(f"action {shown(action)} is unknown", f"use one of {', '.join(ACTIONS)}", "ACTION")
        instrument = body.get("instrument")
        contract = contract_of(instrument) if isinstance(instrument, str) else None
        if contract is None:
            raise wrong(f"instrument {shown(instrument)} is no contract", "write it as ES 03-25", "SYMBOL")
        price = positive("price", body.get("price"))
        if price is None:
            raise wrong("price is missing", "give the limit price", "PRICE")
        stop, target = (positive(name, body.get(name)) for name in ("sl_points", "tp_points"))
        order = OrderRequest.parse(
            {
                "symbol": contract.name,
                "side": side.value,
                "type": OrderType.LIMIT.value,
                "quantity": positive("quantity", body.get("quantity")) or _ONE,
                "price": price,
                "stop_loss": None if stop is None else price - side.sign * stop,
                "take_profit": None if target is None else price + side.sign * target,
                "account": body.get("account"),
                "venue": "ninja",
                "exchange": "ninja",
                "valid_until": body.get("valid_until"),
            }
        )
        return NinjaSignal(order, canonical_hash(body))

    def draft(
        self,
        entry: OrderEntry,
        principal: str,
        arrived_ns: int,
        trace_id: str,
        *,
        must_reduce: bool = False,
        instance: str = "",
    ) -> Draft:
        """Return the signal on its way to order entry, valid for VALID_S from its arrival unless it says otherwise.

        One in a contract that takes no entries any more is refused there, naming the current contract.
        """

        async def make(principal: str, key: str, arrived_ns: int) -> Signal:
            until_ns = self.order.valid_until_ns or arrived_ns + VALID_S * 10**9
            order = replace(self.order, valid_until_ns=until_ns)
            return await entry.signal_of(order, principal, key, arrived_ns, instance=instance)

        return Draft(principal, self.body_hash, arrived_ns, entry.reducing(make) if must_reduce else make, trace_id)


def answer_of(answer: EntryAnswer, now_ns: int) -> dict[str, Any]:
    """Return order entry's answer in the form of the replaced service: success, message, signal_id, order_id, error.

    `success` true means committed; `message` states whether it was sent or waits.
    """
    result = result_of(answer, now_ns)
    state = result["state"]
    if not result["success"]:
        message = f"not executed: {result['error']}"
    elif state in _WAITING:
        message = "queued: committed, and sent as soon as NinjaTrader takes it; after its time it is given up"
    else:
        message = f"sent: the order is {state}"
    found = {"success": result["success"], "message": message, "signal_id": result["signal_id"]}
    found |= {"order_id": result["order_id"], "state": state}
    if not result["success"]:
        found |= {"error": result["error"], "code": result["code"]}
    return found | {
        name: result[name] for name in ("idempotency_key", "is_repeat", "instances", "accounts") if name in result
    }
