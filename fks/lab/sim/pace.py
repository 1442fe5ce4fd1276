"""Market time of tapes, which runs at a speed or moves only by request."""

from __future__ import annotations

import numpy as np

from fks.lab.sim.tape import Taped
from fks.model.bar import Ints


class TapePace:
    """Position on the tape. All tapes share one grid of open times; gaps in it are skipped.

    `row` counts bars of the grid; `now_ms` is tape time. On `hold` only `step` moves it.
    """

    def __init__(self, sources: list[Taped], *, speed: float, hold: bool, row: float) -> None:
        grids = [source.rows(0, source.row_end).time_ms for source in sources]
        self.grid: Ints = grids[0] if len(grids) == 1 else np.unique(np.concatenate(grids))
        self.unit_ms = sources[0].unit_ms
        self.hold = hold
        self._rows_per_s = speed * 1000 / self.unit_ms
        self._origin = (0.0, row)
        self.position = row

    @property
    def row(self) -> int:
        """Return the open bar; at the end the last one."""
        return min(int(self.position), len(self.grid) - 1)

    @property
    def is_ended(self) -> bool:
        """Return whether the last bar is complete."""
        return self.position >= len(self.grid)

    @property
    def now_ms(self) -> int:
        """Return tape time."""
        if self.is_ended:
            return self.end_of(len(self.grid) - 1) - 1
        return int(self.grid[self.row]) + int((self.position - self.row) * self.unit_ms)

    def end_of(self, row: int) -> int:
        """Return the first millisecond after a bar."""
        return int(self.grid[row]) + self.unit_ms

    def begin(self, monotonic: float) -> None:
        """Start the clock at the current position."""
        self._origin = (monotonic, self.position)

    def target(self, monotonic: float) -> float:
        """Return the position due at this time."""
        if self.hold:
            return self.position
        start, row = self._origin
        return min(row + (monotonic - start) * self._rows_per_s, float(len(self.grid)))
