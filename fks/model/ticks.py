"""Prices as whole numbers of a 10^-places grid.

Prices hold the shortest decimal of the venue's string (docs/storage.md), so they are whole numbers of some 10^-places,
and sums and comparisons of those are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fks.model.errors import unprocessable

_DIGITS = 15  # what a float64 holds of a decimal without loss
_PLACES_MAX = 12
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

    def first(self, count: int) -> Ticks | None:
        """Return the first rows with their own grid and bounds, as `ticks_of` them; None where it may be a coarser
        grid."""
        columns = [column[:count] for column in (self.open, self.high, self.low, self.close)]
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

    Prices of more than 15 digits (made by arithmetic, not by a venue) get 15 digits counted on the first one.
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


def ticks_of(open_: _Floats, high: _Floats, low: _Floats, close: _Floats) -> Ticks:
    """Return the columns on the coarsest grid that holds all of their values. Errors: InputError PRICE_UNKNOWN."""
    places = 0
    for column in (open_, high, low, close):
        ensure_finite(column)
        places = max(places, _places_from(column, places))
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
    whole = len(str(int(abs(float(values[0])))))
    most = max(0, min(_PLACES_MAX, _DIGITS - whole))
    for places in range(min(least, most), most + 1):
        scale = 10.0**places
        if _is_on_grid(values[:_PROBE], scale) and _is_on_grid(values, scale):
            return places
    return most


def _is_on_grid(values: _Floats, scale: float) -> bool:
    scaled = values * scale
    np.rint(scaled, out=scaled)
    scaled /= scale
    return bool(np.array_equal(scaled, values))


def _converted(values: _Floats, scale: float) -> _Ints:
    scaled = values * scale
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int64)
