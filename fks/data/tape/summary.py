"""What a tape amounts to: trades, bars and troubles, with a digest that is the same whenever it is played by the same code."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fks.data.aggregate import BarBuilder
from fks.data.tape.playing import Played
from fks.data.tape.records import Kind
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Gone, Quote, Suspect, TradeIds
from fks.model.timeframe import bar_start

TROUBLES_MAX = 20  # told one by one


@dataclass(slots=True)
class SymbolSummary:
    """What came of one symbol, and the bars of its trades, sealed by the trades after them; the first, begun before, is not one."""

    trades: int = 0
    quotes: int = 0
    books: int = 0
    bars: list[Bar] = field(default_factory=list)
    first_trade_ns: int = 0
    last_trade_ns: int = 0
    last_id: int | None = None
    repeated: int = 0
    ids_missing: int = 0
    begin_ns: int = 0


class Summary:
    """Adds up what is played. `digest` is over every event in order, `bars_digest` over the bars."""

    def __init__(self, exchange: str, timeframe: str = "1m", ids: TradeIds = TradeIds.CONTIGUOUS) -> None:
        self.symbols: dict[str, SymbolSummary] = {}
        self.frames = self.events = self.connections = 0
        self.troubles: Counter[str] = Counter()
        self.told: list[str] = []
        self.first_ns = self.last_ns = 0
        self._exchange, self._timeframe, self._ids = exchange, timeframe, ids
        self._builders: dict[str, BarBuilder] = {}
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
        """Add everything; return self."""
        for item in played:
            self.add(item)
        return self

    def add(self, played: Played) -> None:
        """Add what one record gave."""
        self.first_ns, self.last_ns = self.first_ns or played.received_ns, played.received_ns
        if played.kind is Kind.FRAME:
            self.frames += 1
        elif played.kind is Kind.OPEN:
            self.connections += 1
        elif played.kind is Kind.LOST:
            self._trouble("lost", "the recorder was behind: frames are missing here")
        if played.error:
            self._trouble("ended", played.error)
        for event in played.events:
            self.events += 1
            self._digest.update(repr(event).encode())
            self._take(event)

    def _take(self, event: object) -> None:
        if isinstance(event, PublicTrade):
            self._trade(event)
        elif isinstance(event, Quote):
            self._of(event.symbol).quotes += 1
        elif isinstance(event, Book):
            self._of(event.symbol).books += 1
        elif isinstance(event, Gone):
            self._trouble("gone", f"{event.channel} {event.symbol}: {event.reason}")
        elif isinstance(event, Suspect):
            self._trouble("suspect", f"{event.channel} {event.symbol}: {event.reason}")
        else:
            assert isinstance(event, BarSeen | BarClosed)

    def _of(self, symbol: str) -> SymbolSummary:
        return self.symbols.setdefault(symbol, SymbolSummary())

    def _trade(self, trade: PublicTrade) -> None:
        row = self._of(trade.symbol)
        if row.last_id is not None and self._ids is not TradeIds.OPAQUE and trade.trade_id <= row.last_id:
            row.repeated += 1
            return
        if row.last_id is not None and self._ids is TradeIds.CONTIGUOUS:
            row.ids_missing += trade.trade_id - row.last_id - 1
        row.last_id = trade.trade_id
        row.trades += 1
        row.first_trade_ns, row.last_trade_ns = row.first_trade_ns or trade.time_ns, trade.time_ns
        builder = self._builders.get(trade.symbol)
        if builder is None:
            row.begin_ns = bar_start(trade.time_ns, self._timeframe)
            builder = BarBuilder(self._exchange, trade.symbol, [self._timeframe], row.begin_ns)
            self._builders[trade.symbol] = builder
        row.bars.extend(bar for bar in builder.add(trade) or () if bar.time_ns > row.begin_ns)

    def _trouble(self, kind: str, text: str) -> None:
        self.troubles[kind] += 1
        if len(self.told) < TROUBLES_MAX:
            self.told.append(text)
