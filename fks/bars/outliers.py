"""What is usual of one series, and so what is not: a robust rule that only looks back.

A bar is compared with the last accepted close: how far its extremes lie from it (log), against the median of the same
measure over the last REMEMBERED accepted bars. Doubted bars are not remembered, so one bad print cannot vouch for the
next; when AGREEING of them in a row stand at one level, the market has moved there, and the rule goes on from it.

On 519,000 recorded bars of sixteen series it doubts 23: prints that were absurd or taken back (0.06 for a bitcoin at
1,183 in 2017, ten times the price of AAPL, a fifth off SPY for an hour), and three bars in which bitcoin truly fell or
rose so far.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import log

REMEMBERED = 120  # bars that say what is usual
BASIS = 30  # fewer than these say nothing: the first bars of a series are not judged
TIMES_MAX = 40.0  # an excursion beyond so many times the usual one is an outlier ...
MOVE_MIN = 0.03  # ... when it is also larger than this (log, about 3 %): a quiet market may wake
AGREEING = 3


class Usual:
    """What is usual of one series: the last accepted close and the excursions before it. One series, in order."""

    def __init__(self) -> None:
        self._moves: deque[float] = deque()
        self._sorted: list[float] = []
        self._close = 0.0
        self._doubted: list[float] = []

    @property
    def close(self) -> float:
        """Return the last accepted close; 0 before there is one."""
        return self._close

    def judge(self, low: float, high: float, close: float) -> str:
        """Take the next bar (or price, three times); return why it is an outlier, "" when it is none.

        An outlier is not remembered. Prices must be positive.
        """
        if self._close <= 0.0:
            self._close = close
            return ""
        move = max(log(high / self._close), log(self._close / low))
        if move > MOVE_MIN and (told := self._told(move)):
            if self._is_new_level(close):
                self._close = close
                self._doubted.clear()
                return ""
            self._doubted.append(close)
            return told
        self.remember((move,), close)
        return ""

    @property
    def is_in_doubt(self) -> bool:
        """Return whether the last row was doubted: the next is held against the close before that one."""
        return bool(self._doubted)

    def remember(self, moves: Sequence[float], close: float) -> None:
        """Count accepted excursions in; the last of them ended at `close`."""
        for move in moves[-REMEMBERED:]:
            self._remember(move)
        self._close = close
        self._doubted.clear()  # those before stand no longer in a row with what may come

    def _remember(self, move: float) -> None:
        if len(self._moves) == REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._moves.popleft())]
        self._moves.append(move)
        insort(self._sorted, move)

    def _told(self, move: float) -> str:
        if len(self._sorted) < BASIS:
            return ""
        usual = self._sorted[len(self._sorted) // 2]
        if move <= TIMES_MAX * usual:
            return ""
        times = f"{move / usual:.0f} times the usual {usual * 100:.3g} %" if usual else "in a market that stood still"
        return f"{move * 100:.3g} % (log) away from the close {self._close!r} before it, {times}"

    def _is_new_level(self, close: float) -> bool:
        row = [*self._doubted[-(AGREEING - 1) :], close]
        return len(row) == AGREEING and max(row) / min(row) < 1 + MOVE_MIN
