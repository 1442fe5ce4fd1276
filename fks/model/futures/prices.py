"""Prices of futures as text: decimals, and for Treasuries the 32nds that charts and brokers show.

Everything that FKS stores and sends is decimal (117.03125). `117'01` is only read from people and shown to them.
"""

from __future__ import annotations

import re
from decimal import Decimal

from fks.model.errors import unprocessable
from fks.model.futures.specs import ContractSpec

_IN_32NDS = re.compile(r"(\d+)'(\d{2})(?:\.?([0257]))?")
_PARTS = {"0": Decimal(0), "2": Decimal("0.25"), "5": Decimal("0.5"), "7": Decimal("0.75")}
_DIGITS = {part: digit for digit, part in _PARTS.items()}


def parse_price(spec: ContractSpec, text: str) -> Decimal:
    """Return a price on the tick grid. Treasuries may be in 32nds: `117'01`, with half a 32nd `110'16.5` or `110'165`.

    Errors: InputError PRICE_FORM for another form or 32nds of another product, PRICE_TICK for a price off the grid.
    """
    found = _IN_32NDS.fullmatch(text.strip())
    if found and spec.is_in_32nds and int(found[2]) < 32:
        price = int(found[1]) + (int(found[2]) + _PARTS[found[3] or "0"]) / Decimal(32)
    else:
        try:
            price = Decimal(text.strip())
        except ArithmeticError:
            price = Decimal("NaN")
    if not price.is_finite():
        raise unprocessable("PRICE_FORM", f"{text!r} is no price of {spec.root}", f"write it as {_sample(spec)}")
    if price % spec.tick:
        raise unprocessable("PRICE_TICK", f"{text} is not on the tick grid of {spec.root}", f"a tick is {spec.tick:f}")
    return price


def format_price(spec: ContractSpec, price: Decimal) -> str:
    """Return a price as charts show it: 32nds of a point for Treasuries (`110'165`), else the tick's decimals.

    Errors: InputError PRICE_TICK for a price off the grid.
    """
    if price % spec.tick:
        raise unprocessable("PRICE_TICK", f"{price:f} is not on the tick grid of {spec.root}")
    if not spec.is_in_32nds:
        return f"{price:.{max(0, -int(spec.tick.as_tuple().exponent))}f}"
    points = price // 1
    whole, part = divmod((price - points) * 32, 1)
    shown = f"{points:f}'{int(whole):02d}"
    return shown if spec.tick * 32 % 1 == 0 else shown + _DIGITS[part]


def _sample(spec: ContractSpec) -> str:
    return f"117.03125 or 117'01 (a tick is {spec.tick:f})" if spec.is_in_32nds else f"a multiple of {spec.tick:f}"
