"""Money and quantities as whole numbers of 1e-8 ("atoms"): exact, fast, and printed the way the wire prints them."""

from __future__ import annotations

import re

SCALE = 100_000_000
_DECIMAL = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?")


class TooPreciseError(ValueError):
    """The text has a digit that is not zero beyond the eighth place."""


def parse(text: str) -> int:
    """Return the atoms in `text`. Errors: ValueError when it is no plain decimal, TooPreciseError when too fine."""
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise ValueError(text)
    whole, places = found.group(1), found.group(2) or ""
    if places[8:].strip("0"):
        raise TooPreciseError(text)
    return int(whole) * SCALE + int(places[:8].ljust(8, "0"))


def show(atoms: int) -> str:
    """Return `atoms` with eight decimal places, as every number on the wire has."""
    sign = "-" if atoms < 0 else ""
    size = abs(atoms)
    return f"{sign}{size // SCALE}.{size % SCALE:08d}"


def times(one: int, other: int) -> int:
    """Return the product of two atom counts in atoms, rounded half-even (exact on every tick and lot grid here)."""
    whole, rest = divmod(one * other, SCALE)
    if rest * 2 > SCALE or (rest * 2 == SCALE and whole % 2 == 1):
        whole += 1
    return whole
