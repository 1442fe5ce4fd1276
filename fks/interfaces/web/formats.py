"""Texts for numbers, times and ages, as the pages show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EM DASH}"
#: Digits after the point of prices and quantities of a symbol whose steps are not known.
PLACES_MAX = 8
#: Digits after the point of `tick` and `lot_step`, by exchange and symbol; those of exchange "" are of any.
Places = Mapping[tuple[str, str], Mapping[str, int]]


def number(value: object, places: int | None = None, *, sign: bool = False) -> str:
    """Return a number in plain digits with thousands grouped; NOTHING for none.

    `places`: digits after the point, rounded half-even; None keeps them as they are. `sign`: a plus before gains.
    """
    if value is None or value == "":
        return NOTHING
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    if not found.is_finite():
        return str(value)
    if places is not None:
        found = found.quantize(Decimal(1).scaleb(-places)) if found.adjusted() + places < 27 else found
    text = f"{abs(found):,f}"
    before = MINUS if found < 0 else "+" if sign and found > 0 else ""
    return before + text


def at_step(value: object, places: int | None, more: int = 0) -> str:
    """Return a price or a quantity with the `places` of its tick or lot, and `more` for an average of several.

    With None, and for a value below the last of these digits: its own digits, PLACES_MAX at most, without zeros at the
    end. What is left of a position is then not shown as nothing, nor as a whole lot.
    """
    if places is not None and (tone(value) == "" or Decimal(str(value)).adjusted() >= -places - more):
        return number(value, places + more)
    text = number(value, PLACES_MAX)
    return text.rstrip("0").rstrip(".") if "." in text else text


def places_of(step: object) -> int:
    """Return the digits after the point of a step, a tick or a lot: 2 of 0.25, 0 of 5."""
    exponent = Decimal(str(step)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def places_by_symbol(assets: Iterable[Mapping[str, Any]]) -> Places:
    """Return the digits of each asset of the gateway. Of any exchange: the most that one of them has."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in assets:
        for key, name in product(((row["exchange"], row["symbol"]), ("", row["symbol"])), ("tick", "lot_step")):
            if row[name] is not None:
                of = found.setdefault(key, {})
                of[name] = max(of.get(name, 0), places_of(row[name]))
    return found


def money(value: object, currency: str = "", *, sign: bool = False) -> str:
    """Return an amount with two digits after the point and its currency."""
    text = number(value, 2, sign=sign)
    return text if text == NOTHING or not currency else f"{text} {currency}"


def percent(value: object, places: int = 2, *, sign: bool = False) -> str:
    """Return percent. Units: 1 is 1 %."""
    text = number(value, places, sign=sign)
    return text if text == NOTHING else f"{text} %"


def tone(value: object) -> str:
    """Return gain, loss or "" by the sign of a number. The sign stands in the text, too."""
    try:
        found = Decimal(str(value))
        return "gain" if found > 0 else "loss" if found < 0 else ""
    except InvalidOperation:  # no number, or NaN
        return ""


def moment(value: object) -> datetime | None:
    """Return a time of the gateway (ISO 8601 with Z); None for none."""
    if isinstance(value, datetime):
        return value
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def when(value: object, zone: tzinfo, now: datetime | None = None) -> str:
    """Return a time in a zone, to the second, with the zone's name; without the date when it is today's."""
    found = moment(value)
    if found is None:
        return NOTHING
    local = found.astimezone(zone)
    is_today = now is not None and now.astimezone(zone).date() == local.date()
    return f"{local:%H:%M:%S} {local:%Z}" if is_today else f"{local:%Y-%m-%d %H:%M:%S} {local:%Z}"


def iso(value: object) -> str:
    """Return a time as `datetime` attributes have it."""
    found = moment(value)
    return "" if found is None else found.astimezone(UTC).isoformat().replace("+00:00", "Z")


def span(seconds: float | None) -> str:
    """Return a duration in its largest units: 3 s, 4 min 5 s, 2 h 3 min, 5 d 2 h."""
    if seconds is None:
        return NOTHING
    left = max(0, int(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s"
    if left < 86400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def age(value: object, now: datetime) -> str:
    """Return how long ago a time was."""
    found = moment(value)
    return NOTHING if found is None else f"{span((now - found) / timedelta(seconds=1))} ago"


def zone_of(name: str) -> tzinfo:
    """Return the zone of that name; UTC when there is none."""
    if not name or len(name) > 64:
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
        return UTC
