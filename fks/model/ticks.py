"""Prices as whole numbers of a 10^-places grid.

Prices hold the shortest decimal of the venue's string (docs/storage.md), so they are whole numbers of some 10^-places,
and sums and comparisons of those are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fks.model import decimals
from fks.model.errors import unprocessable

_DIGITS = 15  # what a float64 holds of a decimal without loss
_PLACES_MAX = 12  # of prices from 1e-4 on
_SMALL_MAX = 22  # of smaller ones: powers of ten up to here are exact in a float64
_SMALL_DIGITS = 9  # that a small price has at least
_WHOLE_DIGITS = 17  # of the greatest price as an integer: it and its sums fit 64 bits
_SHOWN_DIGITS = 14  # of a value that a file shows; what follows them is the noise of arithmetic
_PART = 1 << 15  # values of a column at a time
_PROBE = 256  # values that are tried first: they reject most grids

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


class Whole(NamedTuple):
    """A column as integers, and a bound: none is greater than `most`, nor below its negative."""

    values: _Ints
    most: int


@dataclass(frozen=True, slots=True)
class Ticks:
    """Four columns of prices as integers: value = integer × 10^-places. Shapes: all (n,). No price is below `least` or
    above `most`."""

    places: int
    least: int
    most: int
    open: _Ints
    high: _Ints
    low: _Ints
    close: _Ints

    def __getitem__(self, part: slice) -> Ticks:
        """Return a view of some rows (no copy)."""
        columns = (self.open[part], self.high[part], self.low[part], self.close[part])
        return Ticks(self.places, self.least, self.most, *columns)

    @property
    def closes(self) -> Whole:
        """Return the closes with their bound."""
        return Whole(self.close, max(abs(self.least), abs(self.most)))

    def first(self, count: int, begin: int = 0) -> Ticks | None:
        """Return the first rows, from row `begin` on, with their own grid and bounds, as `ticks_of` them; None where it
        may be a coarser grid."""
        columns = [column[begin:count] for column in (self.open, self.high, self.low, self.close)]
        is_coarser = self.places > 0 and not any((column[:_PROBE] % 10).any() for column in columns)
        return None if is_coarser else _bounded(self.places, columns)

    def on_grid(self, places: int) -> Ticks:
        """Return the same prices on a finer grid."""
        if places == self.places:
            return self
        finer = 10 ** (places - self.places)
        columns = (column * finer for column in (self.open, self.high, self.low, self.close))
        return Ticks(places, self.least * finer, self.most * finer, *columns)


def places_of(values: _Floats) -> int:
    """Return the decimal places of the coarsest 10^-places grid that holds all of `values`.

    Prices of more than 15 digits (made by arithmetic, not by a venue) get 15 digits counted on the first one, 12 places
    at most; below 1e-4 they get as many places as leave it nine digits.
    """
    return _places_from(values, 0)


def ensure_finite(values: _Floats) -> None:
    """Refuse a column with a value that is no price: it is no integer. Errors: InputError PRICE_UNKNOWN."""
    is_finite = np.isfinite(values)
    if not is_finite.all():
        row = int(np.argmin(is_finite))
        raise unprocessable(
            "PRICE_UNKNOWN",
            f"the price of row {row} is {values[row]:g}, which has no ticks",
            "compute from float columns: NaN gives NaN there (docs/indicators.md)",
        )


def shown_places(values: _Floats) -> int:
    """Return the decimal places that values show in a file: 2 for 4.81 and for 4.8100000000000005, 16 for 4.563e-13.

    Values of more than 14 digits (adjusted prices) have their first 14; where all are floats of 32 bits, as Yahoo's
    (4.809999942779541), they have the digits of those.
    """
    distinct = np.unique(values)
    with np.errstate(over="ignore"):
        short = distinct.astype(np.float32)
    is_short = np.array_equal(short.astype(np.float64), distinct)
    texts = map(str, short) if is_short else (f"{value:.{_SHOWN_DIGITS}g}" for value in distinct.tolist())
    return max((decimals.places(Decimal(text)) for text in texts), default=0)


def places_within(least: float, most: float) -> int:
    """Return the most places of a grid for prices from `least` to `most`: eight, more where `least` would have fewer
    than nine digits, and never so many that `most` does not fit 64 bits."""
    small = _SMALL_DIGITS - 1 - _exponent(least)
    return max(0, min(max(8, small), _SMALL_MAX, _WHOLE_DIGITS - 1 - _exponent(most)))


def ticks_of(open_: _Floats, high: _Floats, low: _Floats, close: _Floats) -> Ticks:
    """Return the columns on the coarsest grid that holds all of their values. Errors: InputError PRICE_UNKNOWN."""
    places, greatest = 0, 0.0
    for column in (open_, high, low, close):
        ensure_finite(column)
        places = max(places, _places_from(column, places))
        greatest = max(greatest, float(column.max(initial=0.0)), -float(column.min(initial=0.0)))
    if greatest:
        places = max(0, min(places, _WHOLE_DIGITS - _exponent(greatest)))
    scale = 10.0**places
    return _bounded(places, [_converted(column, scale) for column in (open_, high, low, close)])


def _bounded(places: int, columns: Sequence[_Ints]) -> Ticks:
    if not len(columns[0]):
        return Ticks(places, 0, 0, *columns)
    least, most = min(int(column.min()) for column in columns), max(int(column.max()) for column in columns)
    return Ticks(places, least, most, *columns)


def _places_from(values: _Floats, least: int) -> int:
    """Return `places_of(values)`, or less than `least` where the grid of `least` places holds them too."""
    if not len(values):
        return 0
    first = abs(float(values[0]))
    most = max(0, min(_PLACES_MAX, _DIGITS - len(str(int(first)))))
    if first:
        most = max(most, min(_SMALL_MAX, _SMALL_DIGITS - 1 - _exponent(first)))
    for places in range(min(least, most), most + 1):
        scale = 10.0**places
        if _is_on_grid(values[:_PROBE], scale) and _is_on_grid(values, scale):
            return places
    return most


def _exponent(value: float) -> int:
    """Return the power of ten of a positive value's first digit."""
    return Decimal(repr(value)).adjusted()


def _is_on_grid(values: _Floats, scale: float) -> bool:
    return all(np.array_equal(whole / scale, part) for part, whole in _scaled(values, scale))


def _converted(values: _Floats, scale: float) -> _Ints:
    return np.concatenate([whole.astype(np.int64) for _, whole in _scaled(values, scale)])


def _scaled(values: _Floats, scale: float) -> Iterator[tuple[_Floats, _Floats]]:
    """Yield parts of a column that a processor's cache holds, and the whole numbers nearest to them times `scale`."""
    for start in range(0, max(len(values), 1), _PART):
        part = values[start : start + _PART]
        scaled = part * scale
        yield part, np.rint(scaled, out=scaled)
