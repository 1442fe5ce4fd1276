"""What an exchange's REST says of its past is not simply believed: what cannot be true stays out, what is odd is asked
for once more.

The exchange's own repeated word settles a doubt. Whatever was not believed at first is in the quarantine, with its
verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from fks.bars.outliers import OutlierDetector
from fks.bars.validation import SUSPECT, Reason, check_bars
from fks.model.bar import Bar, Bars
from fks.model.timeframe import bar_end, bar_start
from fks.store.quarantine import Held, Numbers, QuarantineStore, Verdict, numbers_of

#: asks the exchange for one bar again; None when it has it no more
Again = Callable[[Bar], Awaitable[Bar | None]]
#: of one time only the first counts, so one that repeats it says nothing of that bar
_REPEATS = frozenset({Reason.DUPLICATE, Reason.CONFLICT, Reason.OUT_OF_ORDER})


class Belief:
    """Judges bars of one exchange; `source` is who brings them. Errors: OutageError; those of the question."""

    def __init__(self, store: QuarantineStore, *, source: str) -> None:
        self._store = store
        self._source = source

    async def sifted(self, bars: Sequence[Bar]) -> list[Bar]:
        """Return the bars of one series as others may be made of them, in their order, each open time once.

        One that cannot be true is in the quarantine, and incomplete from here on: it is not stored, and of its time
        nothing is known (`whole`). One that a person let in is believed.
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
                held.append(Held.bar(bar, finding.reason.value, finding.detail, source=self._source))
        await self._store.add(held)
        return list(made.values())

    async def believed(self, bars: Sequence[Bar], again: Again) -> list[Bar]:
        """Return the bars of one series that may be stored, of those that can be true: what is odd is asked for once
        more."""
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
            await self._store.add([Held.bar(bar, finding.reason.value, finding.detail, source=self._source)])
            kept[finding.row] = await self._settled(bar, again)
        return [bar for _, bar in sorted(kept.items()) if bar is not None]

    async def _known(self, bars: Sequence[Bar]) -> set[Numbers]:
        first, times = bars[0], [bar.time_ns for bar in bars]
        return await self._store.confirmed(
            first.exchange, first.symbol, first.timeframe, min(times), bar_end(max(times), first.timeframe)
        )

    async def _settled(self, bar: Bar, again: Again) -> Bar | None:
        """Return what the exchange says of a doubted bar when it is asked once more, if that can be true."""
        said = await again(bar)
        is_same = said is not None and numbers_of(said) == numbers_of(bar)
        verdict = Verdict.CONFIRMED if is_same else Verdict.REFUSED
        await self._store.settle_bars(bar.exchange, bar.symbol, bar.timeframe, [bar.time_ns], verdict)
        return said


def whole(made: Iterable[Bar], sifted: Iterable[Bar], timeframe: str) -> list[Bar]:
    """Return of `timeframe` bars, which are or were made of `sifted` ones, those in which nothing was refused."""
    spoilt = {bar_start(bar.time_ns, timeframe) for bar in sifted if not bar.is_complete}
    return [bar for bar in made if bar.time_ns not in spoilt] if spoilt else list(made)
