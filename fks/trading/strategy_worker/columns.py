"""Growing bars in memory, on which a strategy is evaluated from its anchor bar."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars, Feature
from fks.model.errors import BugError

_NAMES = ("time_ns", "open", "high", "low", "close", "volume")


class Columns:
    """Columns with spare capacity, doubled when full, so that not every new bar copies them. The inputs of the bars
    (`Bars.inputs`) and their own columns (`Bars.features`) grow with them, row by row."""

    def __init__(self, bars: Bars) -> None:
        self._symbol, self._timeframe = bars.symbol, bars.timeframe
        self._count = len(bars)
        capacity = max(1024, 2 * self._count)
        self._data = {name: _grown(column, capacity) for name, column in _columns_of(bars).items()}
        self._features = tuple(bars.features)
        self._inputs = {symbol: Columns(part) for symbol, part in bars.inputs.items()}

    def __len__(self) -> int:
        return self._count

    @property
    def last_ns(self) -> int | None:
        """Return the open time of the last bar, or None."""
        return int(self._data["time_ns"][self._count - 1]) if self._count else None

    def view(self) -> Bars:
        """Return all bars; valid until the next append."""
        inputs = {symbol: part.view() for symbol, part in self._inputs.items()}
        data = {name: column[: self._count] for name, column in self._data.items()}
        features = {name: Feature(data[f"{name}/values"], data[f"{name}/time_ns"]) for name in self._features}
        columns = (data[name] for name in _NAMES)
        return Bars(self._symbol, self._timeframe, *columns, inputs=inputs, features=features)

    def append(self, bars: Bars) -> None:
        """Add later bars. Errors: BugError when they are not later."""
        if not len(bars):
            return
        last = self.last_ns
        if last is not None and int(bars.time_ns[0]) <= last:
            raise BugError(f"bars of {self._symbol} {self._timeframe} do not come after those before them")
        end = self._count + len(bars)
        for name, column in _columns_of(bars).items():
            if end > len(self._data[name]):
                self._data[name] = _grown(self._data[name][: self._count], 2 * end)
            self._data[name][self._count : end] = column
        self._count = end
        for symbol, part in self._inputs.items():
            part.append(bars.inputs[symbol])


def _columns_of(bars: Bars) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {name: getattr(bars, name) for name in _NAMES}
    for name, one in bars.features.items():
        found |= {f"{name}/values": one.values, f"{name}/time_ns": one.time_ns}
    return found


def _grown(values: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    column = np.empty(capacity, dtype=values.dtype)
    column[: len(values)] = values
    return column
