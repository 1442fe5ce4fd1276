"""A benchmark of a portfolio: a symbol, cash at a yearly rate, or a blend of both with constant weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from fks.model.bar import Floats
from fks.model.errors import unprocessable

_PARTS_MAX = 6
_CASH = "cash"
_YEAR_NS = 365.0 * 86_400e9


@dataclass(frozen=True, slots=True)
class BenchmarkPart:
    """A share of a benchmark: of a symbol, or of cash at the yearly `rate` (None for a symbol)."""

    weight: Decimal
    symbol: str
    rate: Decimal | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Return exchange and symbol of one that was resolved to exchange:symbol."""
        exchange, _, symbol = self.symbol.partition(":")
        return exchange, symbol


def parse_benchmark(text: str) -> tuple[BenchmarkPart, ...]:
    """Return the parts of `BTC/USDT`, `cash:0.04`, or a blend: `0.6*BTC/USDT+0.4*cash:0.04`; the weights add up to 1.

    Errors: InputError PORTFOLIO_WRONG.
    """
    parts = [_part(item) for item in text.split("+")]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len(found) > _PARTS_MAX or sum(part.weight for part in found) != 1:
        raise unprocessable(
            "PORTFOLIO_WRONG",
            f"benchmark {text!r} is not understood",
            "give a symbol, cash:RATE (cash:0.04 is 4 % a year), or a blend of up to "
            f"{_PARTS_MAX} whose weights add up to 1: 0.6*BTC/USDT+0.4*cash:0.04",
        )
    return tuple(found)


def _part(text: str) -> BenchmarkPart | None:
    weight, sign, name = text.strip().rpartition("*")
    try:
        share = Decimal(weight.strip()) if sign else Decimal(1)
        name = name.strip()
        rate = Decimal(name.partition(":")[2]) if name.partition(":")[0] == _CASH else None
    except InvalidOperation:
        return None
    is_usable = bool(name) and share.is_finite() and 0 < share <= 1
    if not is_usable or (rate is not None and not (rate.is_finite() and -1 < rate <= 10)):
        return None
    return BenchmarkPart(share, name, rate)


def text_of(parts: Sequence[BenchmarkPart]) -> str:
    """Return the text that `parse_benchmark` reads."""
    if len(parts) == 1:
        return parts[0].symbol
    return "+".join(f"{part.weight:f}*{part.symbol}" for part in parts)


def benchmark_levels(
    parts: Sequence[BenchmarkPart], closes: Mapping[tuple[str, str], Floats], times_ns: Sequence[int]
) -> Floats | None:
    """Return the benchmark's level at moments, from 1; None without a close of one of its symbols.

    A blend has its weights again after each moment. `closes`: by exchange and symbol, (moments,), NaN where missing:
    the level is NaN there, and goes on from the last known one after it.
    """
    import numpy as np  # not needed to read a text

    growths: list[Floats] = []
    for part in parts:
        if part.rate is not None:
            since = (np.array(times_ns, dtype=np.float64) - (times_ns[0] if len(times_ns) else 0)) / _YEAR_NS
            growths.append((1.0 + float(part.rate)) ** since)
        elif part.place in closes:
            growths.append(closes[part.place])
        else:
            return None
    if len(parts) == 1:
        return growths[0]
    levels = np.stack(growths)
    known = np.isfinite(levels).all(axis=0)
    found = np.full(len(times_ns), np.nan)
    if known.any():
        at = levels[:, known]
        weights = np.array([float(part.weight) for part in parts])
        steps = weights @ (at[:, 1:] / at[:, :-1])
        found[known] = np.concatenate(([1.0], np.cumprod(steps)))
    return found
