"""Summary of a tape: trades, bars and troubles, with digests that are equal in every replay by the same code."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fks.market.bars.aggregate import BarBuilder, BarStart
from fks.market.tape.line import Following, TradeSequence
from fks.market.tape.player import Played
from fks.market.tape.records import RecordKind
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Channel, Discontinuity, Quote, Subscription, Suspect, TradeIds
from fks.model.timeframe import NS, bar_end, bar_start, iso

TROUBLES_MAX = 20  # described one by one


@dataclass(slots=True)
class SymbolSummary:
    """Counts of one symbol, and the bars of its trades, each sealed by the next trade.

    A bar that began before the tape's first trade, or in which trades may be missing, is left out.
    """

    sequence: TradeSequence
    trades: int = 0
    quotes: int = 0
    books: int = 0
    bars: list[Bar] = field(default_factory=list)
    first_trade_ns: int = 0
    last_trade_ns: int = 0
    late: int = 0
    begin_ns: int = 0
    builder: BarBuilder | None = None

    @property
    def repeated(self) -> int:
        return self.sequence.repeated

    @property
    def ids_missing(self) -> int:
        return self.sequence.ids_missing


class Summary:
    """Sums up a replay; `finish` ends it. `digest` is over every event in order, `bars_digest` over the bars.

    Trades of REST answers fill the gaps that they were fetched for, as in the feed. Guarantees: no bar spans a gap;
    each gap is a trouble.
    """

    def __init__(
        self, exchange: str, timeframe: str = "1m", ids: TradeIds = TradeIds.CONTIGUOUS, *, has_empty_bars: bool = True
    ) -> None:
        self.symbols: dict[str, SymbolSummary] = {}
        self.frames = self.events = self.connections = 0
        self.troubles: Counter[str] = Counter()
        self.descriptions: list[str] = []
        self.first_ns = self.last_ns = 0
        self._before_ns = 0
        self._exchange, self._timeframe, self._ids, self._has_empty = exchange, timeframe, ids, has_empty_bars
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all events so far."""
        return self._digest.hexdigest()

    @property
    def bars_digest(self) -> str:
        """Return the SHA-256 of the bars, symbol by symbol."""
        found = hashlib.sha256()
        for symbol in sorted(self.symbols):
            for bar in self.symbols[symbol].bars:
                found.update(repr(bar).encode())
        return found.hexdigest()

    def add_all(self, played: Iterable[Played]) -> Summary:
        """Add all records and finish; return self."""
        for item in played:
            self.add(item)
        self.finish()
        return self

    def finish(self) -> None:
        """Add the trades that still wait for a gap to be filled: the tape has ended."""
        for symbol, row in self.symbols.items():
            self._follow(symbol, row, row.sequence.finish())

    def add(self, played: Played) -> None:
        """Add the result of one record."""
        self._note(played)
        if played.answer is not None and played.answer.values:
            symbol = played.answer.values[0].symbol
            if symbol in self.symbols:  # a symbol begins with its first message on the tape
                row = self.symbols[symbol]
                self._follow(symbol, row, row.sequence.add_answer(played.answer, played.received_ns))
        for event in played.events:
            self.events += 1
            self._digest.update(repr(event).encode())
            self._take(event, played.received_ns)

    def _note(self, played: Played) -> None:
        """Count the record by its kind, and note its troubles."""
        if played.hole is not None:
            self._trouble(played.hole.kind, played.hole.text)
            self._mark_discontinuity(played.hole.text)
            return
        at_ns = played.received_ns
        if at_ns < self._before_ns - NS:
            self._trouble("time", f"time steps back from {iso(self._before_ns)} to {iso(at_ns)}")
        self._before_ns = at_ns
        self.first_ns, self.last_ns = min(self.first_ns or at_ns, at_ns), max(self.last_ns, at_ns)
        if played.kind is RecordKind.FRAME:
            self.frames += 1
        elif played.kind is RecordKind.OPEN:
            self.connections += 1
            self._mark_discontinuity("it was dialled again", played.wanted)
        elif played.kind is RecordKind.LOST:
            self._trouble("lost", "the recorder was behind: frames are missing here")
            self._mark_discontinuity("the recorder was behind")
        if played.error:
            self._trouble("ended", played.error)

    def _mark_discontinuity(self, cause: str, wanted: Iterable[Subscription] | None = None) -> None:
        """Note that trades may be missing from here on, of the symbols in `wanted` (None: all)."""
        symbols = self.symbols if wanted is None else {item.symbol for item in wanted if item.channel is Channel.TRADES}
        for symbol in symbols:
            if symbol in self.symbols:
                self.symbols[symbol].sequence.mark_discontinuity(cause)

    def _take(self, event: object, now_ns: int) -> None:
        if isinstance(event, PublicTrade):
            row = self._of(event.symbol)
            self._follow(event.symbol, row, row.sequence.receive(event, now_ns))
        elif isinstance(event, Quote):
            self._of(event.symbol).quotes += 1
        elif isinstance(event, Book):
            self._of(event.symbol).books += 1
        elif isinstance(event, Discontinuity):
            self._trouble("gone", f"{event.channel} {event.symbol}: {event.reason}")
            if event.channel is Channel.TRADES:
                self._mark_discontinuity(
                    event.reason, [Subscription(Channel.TRADES, event.symbol)] if event.symbol else None
                )
        elif isinstance(event, Suspect):
            self._trouble("suspect", f"{event.channel} {event.symbol}: {event.reason}")
        else:
            assert isinstance(event, BarSeen | BarClosed)

    def _of(self, symbol: str) -> SymbolSummary:
        return self.symbols.setdefault(symbol, SymbolSummary(TradeSequence(self._ids)))

    def _follow(self, symbol: str, row: SymbolSummary, following: Iterable[Following]) -> None:
        for trade, hole in following:
            if hole:
                self._trouble("hole", f"{symbol}: {hole}, between {iso(row.last_trade_ns)} and {iso(trade.time_ns)}")
                row.builder = None
            row.trades += 1
            row.first_trade_ns, row.last_trade_ns = row.first_trade_ns or trade.time_ns, trade.time_ns
            self._build(symbol, row, trade)

    def _build(self, symbol: str, row: SymbolSummary, trade: PublicTrade) -> None:
        if row.builder is None:
            start_ns = bar_start(trade.time_ns, self._timeframe)
            row.begin_ns = max(start_ns, row.bars[-1].time_ns if row.bars else 0)
            row.builder = BarBuilder(
                BarStart(
                    self._exchange,
                    symbol,
                    [self._timeframe],
                    start_ns,
                    emits_empty=self._has_empty,
                    ids=None if self._ids is TradeIds.CONTIGUOUS else self._ids,
                )
            )
        made = row.builder.add(trade)
        if made is None:
            row.late += 1
            self._trouble("late", f"{symbol}: trade {trade.trade_id} came when its bar was sealed, which is left out")
            row.bars = [
                bar for bar in row.bars if not bar.time_ns <= trade.time_ns < bar_end(bar.time_ns, self._timeframe)
            ]
            return
        row.bars.extend(bar for bar in made if bar.time_ns > row.begin_ns)

    def _trouble(self, kind: str, text: str) -> None:
        self.troubles[kind] += 1
        if len(self.descriptions) < TROUBLES_MAX:
            self.descriptions.append(text)
