"""Formats of times and numbers in the tables of orders, fills and signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

TEXT_MAX = 48


def time_of(text: str | None) -> str:
    """Return an ISO time as `MM-DD HH:MM:SS`, UTC; empty for none."""
    return "" if text is None else text[5:19].replace("T", " ")


def at(name: str, otherwise: str = "") -> Callable[[Mapping[str, Any]], str]:
    """Return a column that shows the time in the field `name` of an item."""
    return lambda item: time_of(item[name]) or otherwise


def money_of(text: str | None) -> str:
    """Return an amount of quote currency with two decimals; empty for none. For reading: `--json` has every digit."""
    return "" if text is None else f"{Decimal(text).quantize(Decimal('0.01')) + 0:f}"  # + 0: no -0.00


def price_of(text: str | None) -> str:
    """Return a price with about seven significant digits, two decimals at least; empty for none."""
    if text is None:
        return ""
    price = Decimal(text)
    decimals = min(max(2, 6 - price.adjusted()), 12) if price else 2
    whole, _, rest = f"{price:.{decimals}f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"


def brief(text: str | None) -> str:
    """Return a text that fits a column."""
    found = text or ""
    return found if len(found) <= TEXT_MAX else found[: TEXT_MAX - 1] + "…"
