"""Filter of bars from an exchange's REST: bars that cannot be true are left out, suspect bars are requested again.

A suspect bar is accepted if a second request returns the same values. Every bar that was refused or suspect is in the
quarantine, with its verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from fks.market.bars.outliers import OutlierDetector
from fks.market.bars.validation import SUSPECT, Reason, check_bars
from fks.model.bar import Bar, Bars
from fks.model.timeframe import bar_end, bar_start
from fks.store.quarantine import Numbers, QuarantinedRow, QuarantineStore, SettledAs, numbers_of

#: requests one bar from the exchange again; None: the exchange no longer has it
Again = Callable[[Bar], Awaitable[Bar | None]]
#: only the first row of a time counts, so a row that repeats it is no reason against that bar
_REPEATS = frozenset({Reason.DUPLICATE, Reason.CONFLICT, Reason.OUT_OF_ORDER})


class BarFilter:
    """Filters bars of one exchange; `source` is their origin. Errors: OutageError; those of the second request."""

    def __init__(self, store: QuarantineStore, *, source: str) -> None:
        self._store = store
        self._source = source

    async def filtered(self, bars: Sequence[Bar]) -> list[Bar]:
        """Return the bars of one series for aggregation, in their order, each open time once.

        A bar that cannot be true goes to the quarantine and is marked incomplete: it is not stored, and its time counts
        as unknown (`whole`). A bar that a person confirmed is accepted.
        """
        findings = (
            [f for f in check_bars(Bars.of(bars[0].symbol, bars[0].timeframe, bars)) if f.is_refused] if bars else []
        )
        if not findings:
            return list(bars)
        known, held = await self._known(bars), []
        made: dict[int, Bar] = dict(enumerate(bars))
        for finding in findings:
            bar = bars[finding.row]
            if finding.reason in _REPEATS:
                del made[finding.row]
            elif numbers_of(bar) in known:
                continue
            else:
                made[finding.row] = replace(bar, is_complete=False)
            if finding.reason is not Reason.DUPLICATE:
                held.append(QuarantinedRow.bar(bar, finding.reason.value, finding.detail, source=self._source))
        await self._store.add(held)
        return list(made.values())

    async def confirmed(self, bars: Sequence[Bar], again: Again) -> list[Bar]:
        """Return the bars that may be stored, of one series of possible bars: suspect bars are requested again."""
        if not bars:
            return []
        found = check_bars(Bars.of(bars[0].symbol, bars[0].timeframe, bars), outliers=OutlierDetector())
        findings = [finding for finding in found if finding.reason in SUSPECT]
        if not findings:
            return list(bars)
        known = await self._known(bars)
        kept: dict[int, Bar | None] = dict(enumerate(bars))
        for finding in findings:
            bar = bars[finding.row]
            if numbers_of(bar) in known:
                continue
            await self._store.add([QuarantinedRow.bar(bar, finding.reason.value, finding.detail, source=self._source)])
            kept[finding.row] = await self._settled(bar, again)
        return [bar for _, bar in sorted(kept.items()) if bar is not None]

    async def _known(self, bars: Sequence[Bar]) -> set[Numbers]:
        first, times = bars[0], [bar.time_ns for bar in bars]
        return await self._store.confirmed(
            first.exchange, first.symbol, first.timeframe, min(times), bar_end(max(times), first.timeframe)
        )

    async def _settled(self, bar: Bar, again: Again) -> Bar | None:
        """Return the exchange's second answer for a suspect bar, if that can be true."""
        second = await again(bar)
        is_same = second is not None and numbers_of(second) == numbers_of(bar)
        verdict = SettledAs.CONFIRMED if is_same else SettledAs.REFUSED
        await self._store.settle_bars(bar.exchange, bar.symbol, bar.timeframe, [bar.time_ns], verdict)
        return second


def whole(made: Iterable[Bar], filtered: Iterable[Bar], timeframe: str) -> list[Bar]:
    """Return those `timeframe` bars in which no bar was refused; they are, or were built from, `filtered` ones."""
    spoilt = {bar_start(bar.time_ns, timeframe) for bar in filtered if not bar.is_complete}
    return [bar for bar in made if bar.time_ns not in spoilt] if spoilt else list(made)
