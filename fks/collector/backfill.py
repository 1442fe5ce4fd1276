"""Backfill through REST: everything between the store, or nothing, and the present, before a feed may be live.

The present is the exchange's newest trade, never our clock (a tape plays in its own time). A small gap is filled with
its trades, by id or by time, whichever the exchange offers; a large one with the exchange's own bars, which are the
same bars. Either way the open bars start with their elapsed parts: closed days, hours, minutes and seconds of the
exchange, then trades. Bars shorter than the exchange's own are made of trades only: where these are gone, they stay
missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from fks.bars.aggregate import BarBuilder, BarStart, OpenBar, by_length, exact_decimal, fold_bars, length_of
from fks.feed.rows import SealedPosition
from fks.feed.unstored import Sealed
from fks.history.confirmation import whole
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import TradeIds, TradesFrom
from fks.model.ports import Exchange
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, iso

PAGE = 1000  # trades of one request
TRADES_MAX = 20_000  # a larger gap is filled with bars: 20 pages take about as long as the bars do
BARS_MAX = 60_000  # of one timeframe, fetched at a time; an older gap stays and is logged
SECONDS_MAX = 2000  # bars shorter than a minute for a symbol without stored bars: more are not worth the pages
_LEVELS = ("1d", "1h", "1m", "1s")

#: returns a page of bars, the invalid ones marked incomplete
FilterPage = Callable[[Sequence[Bar]], Awaitable[list[Bar]]]


class _TooManyError(PeerError):
    """A gap too large for trades: bars fill it."""


@dataclass(slots=True)
class Recovery:
    """Start of a feed. `sealed` goes to the store before anything built later; `trades` are still to be built."""

    builder: BarBuilder
    last_id: int | None
    sealed: list[Sealed] = field(default_factory=list)
    trades: list[PublicTrade] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)  # timeframe -> bars that stay missing before what was fetched


class Backfill:
    """Recovers one symbol at a time through REST. Errors of all methods: OutageError, PeerError."""

    def __init__(
        self, exchange: Exchange, timeframes: Sequence[str], bars_empty: int, bar_filter: FilterPage | None = None
    ) -> None:
        """`bars_empty`: bars of each timeframe for an empty store. `bar_filter` marks invalid bars (None: all are
        valid)."""
        self._exchange = exchange
        self._bar_filter = bar_filter
        self._timeframes = by_length(timeframes)
        self._bars_empty = bars_empty
        own = by_length(exchange.capabilities.timeframes)[0]
        #: of an exchange that returns only the newest trades: those of the present bar, without a gap
        self._newest_trades: dict[str, list[PublicTrade]] = {}
        #: bars can fill up to this: the base timeframe, or the exchange's smallest where that is larger
        self._grain = own if length_of(own) > length_of(self._timeframes[0]) else self._timeframes[0]

    async def recover(
        self,
        symbol: str,
        positions: Mapping[str, SealedPosition],
        *,
        by_bars: bool = False,
        waiting: Callable[[], Sequence[PublicTrade]] = tuple,
    ) -> Recovery:
        """Return what `symbol` starts from, given how far its timeframes are stored.

        `by_bars` fills even a small gap with bars: its trades turned out not to be contiguous in id or time. `waiting`
        returns the trades that arrived meanwhile without a gap: where REST returns only the newest trades, they may
        reach further back.
        """
        base = self._timeframes[0]
        newest = await self.newest(symbol)
        stored = positions.get(base)
        last_id = stored.last_trade_id if stored else None
        if newest and stored and last_id is not None and not by_bars and self._is_small(newest, last_id):
            with contextlib.suppress(_TooManyError):
                return await self._by_trades(symbol, positions, last_id, bar_end(stored.sealed_ns, base))
        begin_ns = self._begin(symbol, newest, stored, await self._last_bar_ns(symbol) if newest is None else 0)
        try:
            trades = await self._trades_since(symbol, begin_ns, waiting) if newest else []
        except _TooManyError:  # the bar that they do not reach back to comes whole, once it is over
            begin_ns = await self._over(symbol, begin_ns)
            trades = await self._trades_since(symbol, begin_ns, waiting)
        last_id = trades[0].trade_id - 1 if trades else newest.trade_id if newest else None
        return await self._recovery(symbol, positions, begin_ns, last_id, trades)

    def _begin(self, symbol: str, newest: PublicTrade | None, stored: SealedPosition | None, quiet_ns: int) -> int:
        """Return where the builder begins: the present base bar, or the first that is not sealed yet.

        Errors: PeerError when the exchange's present lies before what is stored, and not just in a silence.
        """
        base = self._timeframes[0]
        begin_ns = bar_start(newest.time_ns if newest else quiet_ns, self._grain)
        if (
            stored is None
            or begin_ns > stored.sealed_ns
            or (self._grain != base and newest and newest.time_ns > stored.sealed_ns)
        ):
            return begin_ns
        is_counted = self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS
        if newest is None or stored.last_trade_id is None or (is_counted and newest.trade_id < stored.last_trade_id):
            raise PeerError(
                f"{symbol}: the venue's newest trade is older than what is stored",
                remedy="this store belongs to another market or tape: use another FKS_HOME or 'fks reset'",
            )
        return bar_start(bar_end(stored.sealed_ns, base), self._grain)

    async def _by_trades(
        self, symbol: str, positions: Mapping[str, SealedPosition], last_id: int, begin_ns: int
    ) -> Recovery:
        """Go on after what is stored with the trades since; bars of seconds begin at the end of the exchange's bars."""
        if self._grain == self._timeframes[0]:
            trades = await self.trades_after(symbol, last_id, begin_ns)
            return await self._recovery(symbol, positions, begin_ns, last_id, trades)
        begin_ns = bar_start(begin_ns, self._grain)
        trades = await self._trades_since(symbol, begin_ns)
        if len(trades) > TRADES_MAX:
            raise _TooManyError(f"{symbol}: more than {TRADES_MAX} trades are missing")
        if self._exchange.capabilities.trade_ids is TradeIds.CONTIGUOUS and trades:
            if trades[0].trade_id > last_id + 1:
                raise PeerError(f"{symbol}: asked for trades after {last_id}, got {trades[0].trade_id}")
            last_id = trades[0].trade_id - 1
        return await self._recovery(symbol, positions, begin_ns, last_id, trades)

    async def trades_after(
        self, symbol: str, last_id: int, since_ns: int, to_id: int | None = None
    ) -> list[PublicTrade]:
        """Return the trades after `last_id` up to `to_id` (exclusive) or to the newest, oldest first.

        Where ids are contiguous they follow one another without a gap. Elsewhere they are all from `since_ns` on,
        known ones among them. Errors: PeerError when the exchange has them no longer, or has too many (TRADES_MAX).
        """
        if self._exchange.capabilities.trades_from in (TradesFrom.ID, TradesFrom.STREAM):
            found = await self.trades_from(symbol, last_id + 1, to_id)
        elif self._exchange.capabilities.trades_from is TradesFrom.TIME:
            found = await self._trades_by_time(symbol, since_ns)
        else:
            found = await self._newest_since(symbol, since_ns, last_id)
        if len(found) > TRADES_MAX:
            raise _TooManyError(f"{symbol}: more than {TRADES_MAX} trades are missing")
        if self._exchange.capabilities.trade_ids is not TradeIds.CONTIGUOUS:
            return found
        found = [trade for trade in found if trade.trade_id > last_id and (to_id is None or trade.trade_id < to_id)]
        if found and found[0].trade_id != last_id + 1:
            raise PeerError(f"{symbol}: asked for trades from {last_id + 1}, got {found[0].trade_id}")
        return found

    async def trades_from(self, symbol: str, from_id: int, to_id: int | None = None) -> list[PublicTrade]:
        """Return trades from `from_id` up to `to_id` (exclusive) or to the newest, at most TRADES_MAX + one page.

        Errors: PeerError when the exchange does not have the first one.
        """
        found: list[PublicTrade] = []
        wanted = from_id
        while (to_id is None or wanted < to_id) and len(found) <= TRADES_MAX:
            page = await self._exchange.fetch_trades(symbol, from_id=wanted, since_ns=None, limit=PAGE)
            if page and page[0].trade_id != wanted:
                raise PeerError(f"{symbol}: asked for trades from {wanted}, got {page[0].trade_id}")
            found.extend(trade for trade in page if to_id is None or trade.trade_id < to_id)
            wanted += len(page)
            if len(page) < PAGE:
                break
        return found

    async def _trades_by_time(self, symbol: str, since_ns: int) -> list[PublicTrade]:
        """Return all trades from a moment to the present, each once. Errors: PeerError when one moment fills a page.

        The present is the newest trade when this began: a busy market has new ones in every answer.
        """
        found: dict[int, PublicTrade] = {}
        cursor = since_ns
        newest = await self.newest(symbol)
        while len(found) <= TRADES_MAX:
            page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=cursor, limit=PAGE)
            fresh = [trade for trade in page if trade.time_ns >= since_ns and trade.trade_id not in found]
            found.update((trade.trade_id, trade) for trade in fresh)
            if newest is not None and newest.trade_id in found:
                break
            if not fresh or page[-1].time_ns <= cursor:
                if len(page) >= PAGE and fresh:
                    raise PeerError(f"{symbol}: {len(page)} trades in one moment: there is no way past them")
                break
            cursor = page[-1].time_ns
        return list(found.values())

    async def bars(self, symbol: str, timeframe: str, since_ns: int, until_ns: int) -> AsyncIterator[list[Bar]]:
        """Yield pages of the exchange's closed bars in [since, until), oldest first; invalid ones are incomplete."""
        cursor = since_ns
        while bar_end(cursor, timeframe) <= until_ns:
            page = await self._exchange.fetch_bars(
                symbol, timeframe, cursor, self._exchange.capabilities.bars_page_max, until_ns=until_ns
            )
            if not page:
                return
            yield page if self._bar_filter is None else await self._bar_filter(page)
            cursor = bar_end(page[-1].time_ns, timeframe)

    def native(self, timeframe: str) -> str:
        """Return the exchange's largest own timeframe that `timeframe` is made of. Errors: PeerError when it has
        none."""
        if not (fits := self._fits(timeframe)):
            raise PeerError(f"{self._exchange.name} has no bars that make {timeframe}")
        return fits[-1]

    def has_native(self, timeframe: str) -> bool:
        """Return whether the exchange has bars that `timeframe` is made of."""
        return bool(self._fits(timeframe))

    def _fits(self, timeframe: str) -> list[str]:
        own = self._exchange.capabilities.timeframes
        if timeframe in own:
            return [timeframe]
        fits = [frame for frame in by_length(own) if 0 < TIMEFRAMES[frame] <= length_of(timeframe)]
        return [frame for frame in fits if length_of(timeframe) % TIMEFRAMES[frame] == 0]

    async def newest(self, symbol: str) -> PublicTrade | None:
        """Return the newest trade that the exchange's REST shows."""
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=None, limit=1)
        return page[-1] if page else None

    async def _last_bar_ns(self, symbol: str) -> int:
        """Return the open time of the last bar of a market without trades; it may be unfinished."""
        page = await self._exchange.fetch_bars(symbol, "1m", None, 1)
        if not page:
            raise OutageError(f"{symbol}: the venue has neither trades nor bars yet")
        return page[-1].time_ns

    def _is_small(self, newest: PublicTrade, last_id: int) -> bool:
        """Return whether a gap may be small enough for trades; where ids do not count them, only a request shows it."""
        return (
            self._exchange.capabilities.trade_ids is not TradeIds.CONTIGUOUS
            or 0 <= newest.trade_id - last_id <= TRADES_MAX
        )

    async def _trades_since(
        self, symbol: str, since_ns: int, waiting: Callable[[], Sequence[PublicTrade]] = tuple
    ) -> list[PublicTrade]:
        """Return all trades at and after a moment. Errors: PeerError when the exchange does not reach back so far."""
        if self._exchange.capabilities.trades_from is TradesFrom.TIME:
            return await self._trades_by_time(symbol, since_ns)
        if self._exchange.capabilities.trades_from is TradesFrom.NEWEST:
            page: Sequence[PublicTrade]
            try:
                page = await self._newest_since(symbol, since_ns)
            except _TooManyError:
                page = waiting()
                if not page or page[0].time_ns >= since_ns:
                    raise
            return [trade for trade in page if trade.time_ns >= since_ns]
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=since_ns, limit=PAGE)
        if len(page) == PAGE:
            page += await self.trades_from(symbol, page[-1].trade_id + 1)
        return page

    async def _newest_since(self, symbol: str, since_ns: int, known_id: int | None = None) -> list[PublicTrade]:
        """Return the newest trades, which hold all at and after a moment, or all after a known one.

        That is so when they begin before the moment, hold or join the known one, or are all there ever were. An answer
        that overlaps the one before it goes on from there. Errors: PeerError when they do not reach back.
        """
        page = await self._exchange.fetch_trades(symbol, from_id=None, since_ns=None, limit=PAGE)
        if not page:
            return []
        known = self._newest_trades.get(symbol, [])
        joint = next((n for n, trade in enumerate(known) if trade.trade_id == page[0].trade_id), 0)
        shown = known[:joint] + page
        begin_ns = bar_start(page[-1].time_ns, self._grain)
        begun = next((n for n, trade in enumerate(shown) if trade.time_ns >= begin_ns), 0)
        self._newest_trades[symbol] = shown[max(begun - 1, 0) :]  # from the last trade before the present bar on
        if shown[0].time_ns < since_ns or len(page) < self._exchange.capabilities.newest_max:
            return shown
        is_joined = self._exchange.capabilities.trade_ids is not TradeIds.OPAQUE and shown[0].trade_id - 1 == known_id
        if not is_joined and all(trade.trade_id != known_id for trade in shown):
            raise _TooManyError(f"{symbol}: its newest {len(shown)} trades do not reach back to {iso(since_ns)}")
        return shown

    async def _over(self, symbol: str, begin_ns: int) -> int:
        """Return where the bar ends that begins at a moment. Errors: OutageError while it is not over."""
        end_ns = bar_end(begin_ns, self._grain)
        source = self.native(self._grain)
        if not await self._exchange.fetch_bars(symbol, source, bar_start(end_ns - 1, source), 1):
            raise OutageError(f"{symbol}: its newest trades do not reach back to where the present bar began")
        return end_ns

    async def _recovery(
        self,
        symbol: str,
        positions: Mapping[str, SealedPosition],
        begin_ns: int,
        last_id: int | None,
        trades: list[PublicTrade],
    ) -> Recovery:
        seeds, previous = await self._seeds(symbol, begin_ns)
        ids = self._exchange.capabilities.trade_ids
        builder = BarBuilder(
            BarStart(
                self._exchange.name,
                symbol,
                self._timeframes,
                begin_ns,
                seeds=seeds,
                previous=previous,
                emits_empty=self._exchange.capabilities.has_empty_bars,
                ids=None if ids is TradeIds.CONTIGUOUS else ids,
            )
        )
        made = Recovery(builder, last_id, trades=trades)
        fetched: dict[str, tuple[int, list[Bar]]] = {}
        for frame in self._timeframes:
            await self._fill(made, symbol, frame, positions.get(frame), begin_ns, fetched)
        return made

    async def _fill(
        self,
        made: Recovery,
        symbol: str,
        frame: str,
        stored: SealedPosition | None,
        begin_ns: int,
        fetched: dict[str, tuple[int, list[Bar]]],
    ) -> None:
        """Add the bars of one timeframe between what is stored and where the builder begins."""
        length_ns = length_of(frame) * NS
        if stored is None:
            is_short = length_of(frame) < 60
            depth_ns = min(self._bars_empty * 15, SECONDS_MAX) * NS if is_short else self._bars_empty * length_ns
            since_ns = bar_start(begin_ns - depth_ns, frame)
        else:
            since_ns = bar_end(stored.sealed_ns, frame)
        if bar_end(since_ns, frame) > begin_ns:
            return
        if length_of(frame) < length_of(self._grain):  # the exchange has none that short
            made.missing[frame] = (begin_ns - since_ns) // length_ns if stored is not None else 0
            return
        source = self.native(frame)
        reach_ns = (BARS_MAX - 1) * length_of(source) * NS
        if since_ns < begin_ns - reach_ns:
            made.missing[frame] = (begin_ns - reach_ns - since_ns) // length_ns
            since_ns = bar_start(begin_ns - reach_ns, frame)
        known = fetched.get(source)
        if known is None or known[0] > since_ns:
            rows = [bar async for page in self.bars(symbol, source, since_ns, begin_ns) for bar in page]
            known = fetched[source] = (since_ns, rows)
        rows = [bar for bar in known[1] if bar.time_ns >= since_ns]
        bars = rows if source == frame else fold_bars(rows, frame, begin_ns)
        last = bars[-1] if bars and frame == self._timeframes[0] else None  # it reaches to where the builder begins
        made.sealed.extend(
            Sealed(bar, made.last_id if bar is last else None, "klines") for bar in whole(bars, rows, frame)
        )

    async def _seeds(self, symbol: str, begin_ns: int) -> tuple[dict[str, OpenBar], Decimal | None]:
        """Return the open larger bars as of `begin_ns`, and the last price before it."""
        seeds = {frame: OpenBar.at(begin_ns, frame) for frame in self._timeframes[1:]}
        reached = {frame: bar.start_ns for frame, bar in seeds.items()}
        previous: Decimal | None = None
        for level in self._levels():
            end_ns = bar_start(begin_ns, level)
            wanting = [f for f, at in reached.items() if at < end_ns and length_of(level) < length_of(f)]
            if not wanting and level != self._levels()[-1]:
                continue
            since_ns = min([end_ns - length_of(level) * NS, *(reached[frame] for frame in wanting)])
            bars = [bar async for page in self.bars(symbol, level, since_ns, end_ns) for bar in page]
            for frame in wanting:
                for bar in bars:
                    if bar.time_ns < reached[frame]:
                        continue
                    if bar.is_complete:
                        seeds[frame].fold_bar(bar)
                    else:  # its numbers are not known
                        seeds[frame].is_complete = False
                reached[frame] = end_ns
            if possible := [bar for bar in bars if bar.is_complete]:
                previous = exact_decimal(possible[-1].close)
        return seeds, previous

    def _levels(self) -> list[str]:
        """Return the timeframes, large to small, that together reach any boundary of the base timeframe."""
        base = length_of(self._timeframes[0])
        larger = [level for level in _LEVELS if length_of(level) > base]
        exact = next(level for level in _LEVELS if length_of(level) <= base)
        return [level for level in [*larger, exact] if level in self._exchange.capabilities.timeframes]
