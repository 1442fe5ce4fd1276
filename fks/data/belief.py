"""Fetched bars are looked at before they are stored: what cannot be true stays out, what is odd is asked for once more.

The exchange's own repeated word settles a doubt. Whatever was not believed at first is in the quarantine, with its verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fks.data.outliers import Usual
from fks.data.validate import Reason, check_bars
from fks.model.bar import Bar, Bars
from fks.model.timeframe import bar_end
from fks.store.db import Database
from fks.store.quarantine import Held, QuarantineStore, Verdict, numbers_of

#: asks the exchange for one bar again; None when it has it no more
Again = Callable[[Bar], Awaitable[Bar | None]]


class Belief:
    """Judges bars of one exchange. Errors: OutageError; those of the question."""

    def __init__(self, db: Database) -> None:
        self._store = QuarantineStore(db)

    async def believed(self, bars: Sequence[Bar], again: Again) -> list[Bar]:
        """Return the bars of one series that may be stored, in their order, each open time once."""
        if not bars:
            return []
        first = bars[0]
        findings = check_bars(Bars.of(first.symbol, first.timeframe, bars), usual=Usual())
        if not findings:
            return list(bars)
        key = (first.exchange, first.symbol, first.timeframe)
        times = [bar.time_ns for bar in bars]
        known = await self._store.confirmed(*key, min(times), bar_end(max(times), first.timeframe))
        kept: dict[int, Bar | None] = dict(enumerate(bars))
        for finding in findings:
            bar = bars[finding.row]
            if numbers_of(bar) in known:
                continue
            if finding.reason is Reason.DUPLICATE:
                kept[finding.row] = None
                continue
            await self._store.add([Held.bar(bar, finding.reason.value, finding.detail, source="sync")])
            kept[finding.row] = None if finding.is_refused else await self._settled(bar, again)
        return [bar for _, bar in sorted(kept.items()) if bar is not None]

    async def _settled(self, bar: Bar, again: Again) -> Bar | None:
        """Return what the exchange says of a doubted bar when it is asked once more, if that can be true."""
        said = await again(bar)
        is_same = said is not None and numbers_of(said) == numbers_of(bar)
        verdict = Verdict.CONFIRMED if is_same else Verdict.REFUSED
        await self._store.settle_bars(bar.exchange, bar.symbol, bar.timeframe, [bar.time_ns], verdict)
        if said is None or check_bars(Bars.of(said.symbol, said.timeframe, [said])):
            return None
        return said
