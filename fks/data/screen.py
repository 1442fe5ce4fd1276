"""Between a source of bars and the store: what is believed goes through, the rest into the quarantine with its reason.

What cannot be true never passes. What is only doubted is asked for once more: the exchange that says the same numbers again
is believed, and the row in the quarantine says `confirmed`; other numbers, or none, and it stays held. A source that cannot be
asked again (a file) leaves its doubts held for a person, who settles them; numbers let in once pass from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from fks.data.calendars import Bools, Calendar
from fks.data.outliers import Usual
from fks.data.validate import Finding, Reason, check_bars
from fks.model.bar import Bar, Bars
from fks.model.timeframe import bar_end
from fks.store.quarantine import Held, QuarantineStore, Verdict, numbers_of

ASKED_MAX = 20  # doubted bars of one piece that are asked for again; a piece with more of them is no matter of single prints
HELD_MAX = 1000  # rows of one piece that are kept; the others are counted in the last one

#: asks the source for its bars in [start, end) once more
Again = Callable[[int, int], Awaitable[Sequence[Bar]]]


class Screen:
    """Judges the bars of one series, a piece in order at a time. Errors of its methods: OutageError, and `again`'s own."""

    def __init__(
        self, quarantine: QuarantineStore, exchange: str, symbol: str, timeframe: str, *, source: str,
        calendar: Calendar | None = None, again: Again | None = None,
    ) -> None:  # fmt: skip
        self.refused = self.doubted = self.confirmed = 0
        self._quarantine = quarantine
        self._exchange, self._symbol, self._timeframe = exchange, symbol, timeframe
        self._source, self._calendar, self._again = source, calendar, again

    async def sift(self, bars: Sequence[Bar], *, now_ns: int | None = None) -> list[Bar]:
        """Return the bars that are believed, in their order."""
        passes = await self.judge(Bars.of(self._symbol, self._timeframe, bars), now_ns=now_ns)
        return list(bars) if passes.all() else [bar for bar, is_in in zip(bars, passes.tolist(), strict=True) if is_in]

    async def judge(self, bars: Bars, *, now_ns: int | None = None) -> Bools:
        """Return which rows are believed; shape (n,). The others are in the quarantine when it returns.

        Rows equal to an earlier one (DUPLICATE) do not pass either, and are nothing to keep.
        """
        passes = np.ones(len(bars), dtype=np.bool_)
        found = check_bars(bars, now_ns=now_ns, calendar=self._calendar, usual=Usual())
        if not found:
            return passes
        passes[[finding.row for finding in found]] = False
        real = [finding for finding in found if finding.reason is not Reason.DUPLICATE]
        refused = [finding for finding in real if finding.is_refused]
        doubts = [finding for finding in real if not finding.is_refused]
        self.refused += len(refused)
        self.doubted += len(doubts)
        await self._keep(bars, real)
        for finding in await self._believed(bars, doubts):
            passes[finding.row] = True
        return passes

    async def _believed(self, bars: Bars, doubts: Sequence[Finding]) -> list[Finding]:
        """Return the doubts that were let in before, or that the source confirms now."""
        if not doubts:
            return []
        times = [finding.time_ns for finding in doubts]
        known = await self._quarantine.confirmed(
            self._exchange, self._symbol, self._timeframe, min(times), bar_end(max(times), self._timeframe)
        )
        believed = [finding for finding in doubts if numbers_of(bars.bar(finding.row)) in known]
        rest = [finding for finding in doubts if finding not in believed]
        if self._again is None or len(rest) > ASKED_MAX:
            return believed
        said = [finding for finding in rest if await self._is_said_again(bars.bar(finding.row), self._again)]
        if said:
            times = [finding.time_ns for finding in said]
            await self._quarantine.settle_bars(self._exchange, self._symbol, self._timeframe, times, Verdict.CONFIRMED)
            self.confirmed += len(said)
        return believed + said

    async def _is_said_again(self, bar: Bar, again: Again) -> bool:
        answer = await again(bar.time_ns, bar_end(bar.time_ns, self._timeframe))
        return any(numbers_of(other) == numbers_of(bar) for other in answer)

    async def _keep(self, bars: Bars, found: Sequence[Finding]) -> None:
        held = [
            Held.bar(bars.bar(finding.row, self._exchange), finding.reason.value, finding.detail, source=self._source)
            for finding in found[:HELD_MAX]
        ]
        if len(found) > HELD_MAX:
            held[-1].payload["more"] = len(found) - HELD_MAX
        await self._quarantine.add(held)
