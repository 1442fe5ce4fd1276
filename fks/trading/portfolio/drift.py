"""Drift: a venue's holdings of an account compared with the expected ones, asset by asset.

Expected is the opening (the holding before FKS) with adopted differences, the account's executions less their fees, and
deposits and withdrawals. Executions that no order of ours explains are booked as external and count like the others;
the rest is unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

_ZERO = Decimal(0)
#: of an asset without a price, a difference up to this quantity is rounding
DUST = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Executed:
    """Amounts that executions on one side of a symbol moved, with the fees of one currency; sums over any number of
    executions."""

    symbol: str
    is_buy: bool
    quantity: Decimal
    value: Decimal
    fee: Decimal
    fee_currency: str


def moved_by(executed: Iterable[Executed], assets: Mapping[str, tuple[str, str]]) -> dict[str, Decimal]:
    """Return the amounts that executions moved, by asset, fees included. `assets`: symbol -> (base, quote).

    Errors: KeyError for a symbol that is not in `assets`.
    """
    found: dict[str, Decimal] = {}
    for part in executed:
        base, quote = assets[part.symbol]
        sign = 1 if part.is_buy else -1
        for asset, amount in (
            (base, sign * part.quantity),
            (quote, -sign * part.value),
            (part.fee_currency, -part.fee),
        ):
            if asset and amount:
                found[asset] = found.get(asset, _ZERO) + amount
    return found


def total(*parts: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return the sum of amounts by asset."""
    found: dict[str, Decimal] = {}
    for part in parts:
        for asset, amount in part.items():
            found[asset] = found.get(asset, _ZERO) + amount
    return found


def differences(expected: Mapping[str, Decimal], held: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return held minus expected of each asset of either, zero included."""
    assets = sorted({*expected, *held})
    return {asset: held.get(asset, _ZERO) - expected.get(asset, _ZERO) for asset in assets}


def is_drift(difference: Decimal, price: Decimal | None, tolerance: Decimal) -> bool:
    """Return whether a difference is more than `tolerance` (in the account's currency), or without a price more than
    dust."""
    if price is None:
        return abs(difference) > DUST
    return abs(difference) * price > tolerance
