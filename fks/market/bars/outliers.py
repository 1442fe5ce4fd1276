"""Outlier detector for the bars of one series: a robust rule that uses only earlier bars.

A bar's excursion is the distance (log) of its extremes from the last accepted close. It is compared with the median
excursion of the last REMEMBERED accepted bars. Suspect bars are not remembered, so one bad print cannot confirm the
next. When AGREEING suspect bars in a row have about the same close, the market has moved there, and the rule continues
from that level.

On 519,000 recorded bars of sixteen series it reports 23: prints that were absurd or taken back (0.06 for a bitcoin at
1,183 in 2017, ten times the price of AAPL, a fifth off SPY for an hour), and three bars in which bitcoin really moved
so far.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import log

REMEMBERED = 120  # bars in the median
BASIS = 30  # with fewer bars there is no rule: the first bars of a series are accepted
TIMES_MAX = 40.0  # an excursion beyond so many times the median is an outlier ...
MOVE_MIN = 0.03  # ... when it is also larger than this (log, about 3 %): a quiet market may wake
AGREEING = 3


class OutlierDetector:
    """State of the rule for one series, whose bars are given in order: last accepted close and earlier excursions."""

    def __init__(self) -> None:
        self._moves: deque[float] = deque()
        self._sorted: list[float] = []
        self._close = 0.0
        self._suspect_closes: list[float] = []

    @property
    def close(self) -> float:
        """Return the last accepted close; 0 before there is one."""
        return self._close

    def check(self, low: float, high: float, close: float) -> str:
        """Check the next bar (or a price, three times); return why it is an outlier, "" when it is none.

        An outlier is not remembered. Prices must be positive.
        """
        if self._close <= 0.0:
            self._close = close
            return ""
        move = max(log(high / self._close), log(self._close / low))
        if move > MOVE_MIN and (reason := self._reason(move)):
            if self._is_new_level(close):
                self._close = close
                self._suspect_closes.clear()
                return ""
            self._suspect_closes.append(close)
            return reason
        self.remember((move,), close)
        return ""

    @property
    def is_last_suspect(self) -> bool:
        """Return whether the last bar was an outlier: the next one is compared with the close before it."""
        return bool(self._suspect_closes)

    def remember(self, moves: Sequence[float], close: float) -> None:
        """Add accepted excursions; the last of them ended at `close`."""
        for move in moves[-REMEMBERED:]:
            self._remember(move)
        self._close = close
        self._suspect_closes.clear()  # earlier suspect bars are no longer in a row with later ones

    def _remember(self, move: float) -> None:
        if len(self._moves) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._moves.popleft())]
        self._moves.append(move)
        insort(self._sorted, move)

    def _reason(self, move: float) -> str:
        if len(self._sorted) < BASIS:
            return ""
        median = self._sorted[len(self._sorted) // 2]
        if move <= TIMES_MAX * median:
            return ""
        times = (
            f"{move / median:.0f} times the usual {median * 100:.3g} %" if median else "in a market that stood still"
        )
        return f"{move * 100:.3g} % (log) away from the close {self._close!r} before it, {times}"

    def _is_new_level(self, close: float) -> bool:
        row = [*self._suspect_closes[-(AGREEING - 1) :], close]
        return len(row) == AGREEING and max(row) / min(row) < 1 + MOVE_MIN
