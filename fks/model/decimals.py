"""Decimals: their text, and their places."""

from __future__ import annotations

from decimal import Decimal

_DIGITS_MAX = 20  # before the point, and zeros behind it before the first digit


def plain(value: Decimal) -> str:
    """Return a finite Decimal in its one canonical text: no exponent, no trailing zeros, no negative zero."""
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def places(value: Decimal) -> int:
    """Return the decimal places of a value, 0 for whole numbers."""
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def number_of(value: object) -> Decimal:
    """Return a number that an exchange sent. Errors: ValueError for one that is not finite, too large or too small for
    an amount (`_DIGITS_MAX`), InvalidOperation for anything else."""
    number = Decimal(str(value))
    if not number.is_finite() or (number and abs(number.adjusted()) > _DIGITS_MAX):
        raise ValueError(f"{str(value)[:40]} is no number of an exchange")
    return number
