"""Prices of a signal on the tick: entry, stop and target, rounded to the trader's side, and what a bracket may be. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fks.sim.nt8.checks import Nack
from fks.sim.nt8.contracts import Contract

Message = dict[str, Any]


def used_prices(message: Message, contract: Contract) -> dict[str, Decimal]:
    """Return the prices on the tick: an entry's limit is never worse than asked, its stop never earlier."""
    if message["action"] == "exit":
        return {}
    is_buy = message["action"] in ("buy", "long")
    used: dict[str, Decimal] = {}
    if message.get("price") is not None and message["type"] in ("limit", "stop_limit"):
        price = Decimal(message["price"])
        used["price_used"] = contract.floor(price) if is_buy else contract.ceiling(price)
    if message.get("stop_price") is not None and message["type"] in ("stop", "stop_limit"):
        price = Decimal(message["stop_price"])
        used["stop_used"] = contract.ceiling(price) if is_buy else contract.floor(price)
    anchor = used.get("price_used", used.get("stop_used"))
    if anchor is not None or "sl_price" in message or "tp_price" in message:
        base = anchor if anchor is not None else Decimal(0)
        absolute = {name: value for name, value in message.items() if anchor is not None or name.endswith("_price")}
        stop, target = bracket_prices(absolute, contract, base, is_buy=is_buy)
        used |= {"sl_used": stop} if stop is not None else {}
        used |= {"tp_used": target} if target is not None else {}
    return used


def bracket_prices(
    fields: Message, contract: Contract, fill: Decimal, *, is_buy: bool
) -> tuple[Decimal | None, Decimal | None]:
    """Return stop and target of a fill at `fill`, on the tick, rounded toward the entry."""
    sign = 1 if is_buy else -1
    stop = fields.get("sl_price")
    if stop is None and fields.get("sl_points") is not None:
        stop = fill - sign * fields["sl_points"]
    target = fields.get("tp_price")
    if target is None and fields.get("tp_points") is not None:
        target = fill + sign * fields["tp_points"]
    up, down = contract.ceiling, contract.floor
    return (
        None if stop is None else (up if is_buy else down)(Decimal(stop)),
        None if target is None else (down if is_buy else up)(Decimal(target)),
    )


def check_bracket(message: Message, contract: Contract, last: Decimal) -> Nack | None:
    """Return why a bracket cannot be: below a tick, or on the wrong side of the entry; None when it can."""
    is_buy = message["action"] in ("buy", "long")
    for name in ("sl_points", "tp_points"):
        value = message.get(name)
        if value is not None and value < contract.tick:
            return "bad_bracket", f"{name} {value} is below one tick of {contract.tick}"
    anchor = Decimal(message.get("price") or message.get("stop_price") or last)
    stop, target = bracket_prices(message, contract, anchor, is_buy=is_buy)
    for what, value, is_above in (("stop", stop, not is_buy), ("target", target, is_buy)):
        if value is not None and (value <= anchor if is_above else value >= anchor):
            return "bad_bracket", f"the {what} {value} is on the wrong side of {anchor}"
    return None
