"""Texts for numbers, times and ages, as the pages show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from zoneinfo import ZoneInfo

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EM DASH}"


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
        found = found.quantize(Decimal(1).scaleb(-places)) if abs(found) < Decimal(10) ** 20 else found
    text = f"{abs(found):,f}"
    before = MINUS if found < 0 else "+" if sign and found > 0 else ""
    return before + text


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
    except InvalidOperation:
        return ""
    return "gain" if found > 0 else "loss" if found < 0 else ""


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
