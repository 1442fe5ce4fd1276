"""A tape's REST: the same question gets the same answer; any other, what the tape had told by then.

A collector that starts as the recorded one did asks the same, and so begins at the same trade with the same bars.
Another one is answered from all bars told, and from the trades told or heard up to the moment that is played.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from fks.model.bar import Bar, PublicTrade
from fks.model.instrument import Instrument
from fks.model.market import BarSeen, MarketEvent
from fks.model.timeframe import NS, bar_end
from fks.tape.player import ToldBars, ToldInstruments, ToldTrades, told_of
from fks.tape.records import Kind, Record

TRADES_MAX = 200_000  # kept of one symbol; the oldest go
BURST_NS = NS // 2  # answers that follow one another so closely are one recovery
_REST = (Kind.BARS, Kind.TRADES, Kind.INSTRUMENTS)

Asked = tuple[str | int | None, ...]
T = TypeVar("T")


class Facts:
    """What REST told, and what was heard. `now_ns` is the tape's present; it begins where the first recovery was
    over."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.instruments: dict[str, Instrument] = {}
        self._bars: dict[tuple[str, str], dict[int, Bar]] = defaultdict(dict)
        self._trades: dict[str, list[PublicTrade]] = defaultdict(list)
        self._told_bars: dict[Asked, deque[tuple[int, list[Bar]]]] = defaultdict(deque)
        self._told_trades: dict[Asked, deque[tuple[int, list[PublicTrade]]]] = defaultdict(deque)

    def prepare(self, records: Iterable[Record]) -> None:
        """Read all answers of a tape; the trades in them are facts up to the end of the first recovery, no further."""
        burst_ns: int | None = None
        for record in records:
            if record.kind is Kind.FRAME:
                self.now_ns = self.now_ns or record.received_ns
            if record.kind not in _REST:
                continue
            told = told_of(record)
            if isinstance(told, ToldInstruments):
                self.instruments.update((item.symbol, item) for item in told.told)
            elif isinstance(told, ToldBars):
                self._told_bars[tuple(told.asked)].append((record.received_ns, told.told))
                for bar in told.told:
                    self._bars[bar.symbol, bar.timeframe][bar.time_ns] = bar
            else:
                self._told_trades[tuple(told.asked)].append((record.received_ns, told.told))
            is_first = burst_ns is None and isinstance(told, ToldTrades)
            if is_first or (burst_ns is not None and record.received_ns - burst_ns <= BURST_NS):
                burst_ns = record.received_ns
                self.pass_by(record)
        self.now_ns = max(self.now_ns, burst_ns or 0)

    def pass_by(self, record: Record) -> None:
        """Take the trades that REST told, now that this moment of the tape is played."""
        if record.kind is Kind.TRADES and isinstance(told := told_of(record), ToldTrades):
            for trade in told.told:
                self._insert(trade)

    def hear(self, events: Iterable[MarketEvent]) -> None:
        """Take what came over a socket."""
        for event in events:
            if isinstance(event, PublicTrade):
                self._insert(event)
            elif isinstance(event, BarSeen) and event.is_closed:
                self._bars[event.bar.symbol, event.bar.timeframe][event.bar.time_ns] = event.bar

    def bars(self, symbol: str, timeframe: str, since_ns: int | None, limit: int, until_ns: int | None) -> list[Bar]:
        """Return closed bars as the port's `fetch_bars`."""
        same = self._same(self._told_bars.get((symbol, timeframe, since_ns, limit, until_ns)))
        if same is not None:
            return same
        end_ns = self.now_ns if until_ns is None else until_ns
        known = self._bars.get((symbol, timeframe), {})
        found = [known[at] for at in sorted(known) if at >= (since_ns or 0) and bar_end(at, timeframe) <= end_ns]
        return found[-limit:] if since_ns is None else found[:limit]

    def trades(self, symbol: str, from_id: int | None, since_ns: int | None, limit: int) -> list[PublicTrade]:
        """Return trades as the port's `fetch_trades`."""
        same = self._same(self._told_trades.get((symbol, from_id, since_ns, limit)))
        if same is not None:
            return same
        known = self._trades.get(symbol, [])
        if from_id is not None:
            return known[_place(known, from_id) :][:limit]
        if since_ns is not None:
            return [trade for trade in known if trade.time_ns >= since_ns][:limit]
        return known[-limit:]

    def _same(self, told: deque[tuple[int, list[T]]] | None) -> list[T] | None:
        """Return the next answer that was given to the same question by now."""
        return told.popleft()[1] if told and told[0][0] <= self.now_ns else None

    def _insert(self, trade: PublicTrade) -> None:
        rows = self._trades[trade.symbol]
        at = len(rows) if not rows or trade.trade_id > rows[-1].trade_id else _place(rows, trade.trade_id)
        if at == len(rows) or rows[at].trade_id != trade.trade_id:
            rows.insert(at, trade)
        if len(rows) > 2 * TRADES_MAX:
            del rows[:TRADES_MAX]


def _place(rows: Sequence[PublicTrade], trade_id: int) -> int:
    return bisect_left(rows, trade_id, key=lambda trade: trade.trade_id)
