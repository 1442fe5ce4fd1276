"""Comparing the fills of two runs, field by field, as G6 demands: time, side, quantity, price, fee."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from fks.model.timeframe import iso, to_ns
from tests.support.invariants import InvariantError

FIELDS = ("time", "side", "quantity", "price", "fee", "fee_currency")


@dataclass(frozen=True)
class PlainFill:
    """A fill of any mode in one form."""

    time: str
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    role: str = ""


def _time_of(value: Any) -> str:
    if isinstance(value, datetime):
        return iso(to_ns(value))
    return iso(value) if isinstance(value, int) else str(value)


def plain_fill(fill: Any) -> PlainFill:
    """Return a fill of a backtest (FillRow), a venue (model.Fill), a table row of `trades` or a JSON document as one
    form."""

    def get(*names: str, default: Any = None) -> Any:
        for name in names:
            if isinstance(fill, Mapping) or hasattr(fill, "keys"):
                if name in fill.keys():  # noqa: SIM118 - asyncpg's rows answer `in` over values
                    return fill[name]
            elif hasattr(fill, name):
                return getattr(fill, name)
        if default is not None:
            return default
        raise KeyError(f"{names} in {fill!r}")

    return PlainFill(
        _time_of(get("time_ns", "time")),
        str(get("side", "trade_type")).rsplit(".", 1)[-1].lower(),
        Decimal(str(get("quantity"))).normalize(),
        Decimal(str(get("price"))).normalize(),
        Decimal(str(get("fee"))).normalize(),
        str(get("fee_currency")),
        str(get("role", default="")),
    )


def differences(
    left: Iterable[Any], right: Iterable[Any], *, most: int = 5, fields: Sequence[str] = FIELDS
) -> list[str]:
    """Return the first differences of two ordered lists of fills, one sentence each; empty when they are the same.

    Fills of one time, side and price (protections of several entries) have no order between them: they are compared by
    quantity.
    """
    a, b = _ordered(left), _ordered(right)
    found = [
        f"fill {index}: {name} is {getattr(x, name)} and {getattr(y, name)} ({x} / {y})"
        for index, (x, y) in enumerate(zip(a, b, strict=False))
        for name in fields
        if getattr(x, name) != getattr(y, name)
    ]
    if len(a) != len(b):
        longer: Sequence[PlainFill] = a if len(a) > len(b) else b
        found.append(f"{len(a)} fills and {len(b)} fills; the first one more is {longer[min(len(a), len(b))]}")
    return found[:most]


def _ordered(fills: Iterable[Any]) -> list[PlainFill]:
    runs = groupby((plain_fill(fill) for fill in fills), key=lambda fill: (fill.time, fill.side, fill.price))
    return [fill for _, run in runs for fill in sorted(run, key=lambda fill: fill.quantity)]


def assert_same_fills(
    left: Iterable[Any],
    right: Iterable[Any],
    *,
    fields: Sequence[str] = FIELDS,
    why: str = "",
    is_settled: bool = True,
) -> None:
    """Errors: InvariantError with the first differing fields and `why`, unless both lists hold the same fills in the same
    order (see `differences`). AssertionError if only the end of one is missing, or if `is_settled` is False: time decides
    what is booked then."""
    a, b = list(left), list(right)
    if found := differences(a, b, fields=fields):
        count = min(len(a), len(b))
        is_late = not differences(_ordered(a)[:count], _ordered(b)[:count], fields=fields)
        raise (InvariantError if is_settled and not is_late else AssertionError)("\n".join([*found, why]))
