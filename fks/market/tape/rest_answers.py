"""REST answers of a tape: an equal request gets the recorded answer; others are answered from the recorded data.

A collector that starts as the recorded one did sends the same requests, and so begins at the same trade with the same
bars. Other requests are answered from all recorded bars, and from the trades that were received up to the present of
the replay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from fks.market.tape.player import BarsAnswer, InstrumentsAnswer, TradesAnswer, answer_of
from fks.market.tape.records import RecordKind, TapeRecord
from fks.model.bar import Bar, PublicTrade
from fks.model.instrument import Instrument
from fks.model.market import BarSeen, MarketEvent
from fks.model.timeframe import NS, bar_end

TRADES_MAX = 200_000  # kept of one symbol; the oldest are removed
BURST_NS = NS // 2  # answers within this time belong to one recovery
_REST = (RecordKind.BARS, RecordKind.TRADES, RecordKind.INSTRUMENTS)

Asked = tuple[str | int | None, ...]
T = TypeVar("T")


class RestAnswers:
    """Recorded REST answers and received data. `now_ns` is the present of the replay; it begins after the first
    recovery."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.instruments: dict[str, Instrument] = {}
        self._bars: dict[tuple[str, str], dict[int, Bar]] = defaultdict(dict)
        self._trades: dict[str, list[PublicTrade]] = defaultdict(list)
        self._bar_answers: dict[Asked, deque[tuple[int, list[Bar]]]] = defaultdict(deque)
        self._trade_answers: dict[Asked, deque[tuple[int, list[PublicTrade]]]] = defaultdict(deque)

    def prepare(self, records: Iterable[TapeRecord]) -> None:
        """Read all answers of a tape; their trades are known up to the end of the first recovery, no further."""
        burst_ns: int | None = None
        for record in records:
            if record.kind is RecordKind.FRAME:
                self.now_ns = self.now_ns or record.received_ns
            if record.kind not in _REST:
                continue
            answer = answer_of(record)
            if isinstance(answer, InstrumentsAnswer):
                self.instruments.update((item.symbol, item) for item in answer.values)
            elif isinstance(answer, BarsAnswer):
                self._bar_answers[tuple(answer.asked)].append((record.received_ns, answer.values))
                for bar in answer.values:
                    self._bars[bar.symbol, bar.timeframe][bar.time_ns] = bar
            else:
                self._trade_answers[tuple(answer.asked)].append((record.received_ns, answer.values))
            is_first = burst_ns is None and isinstance(answer, TradesAnswer)
            if is_first or (burst_ns is not None and record.received_ns - burst_ns <= BURST_NS):
                burst_ns = record.received_ns
                self.pass_by(record)
        self.now_ns = max(self.now_ns, burst_ns or 0)

    def pass_by(self, record: TapeRecord) -> None:
        """Add the trades of a REST answer when its time is replayed."""
        if record.kind is RecordKind.TRADES and isinstance(answer := answer_of(record), TradesAnswer):
            for trade in answer.values:
                self._insert(trade)

    def receive(self, events: Iterable[MarketEvent]) -> None:
        """Add the events of a connection."""
        for event in events:
            if isinstance(event, PublicTrade):
                self._insert(event)
            elif isinstance(event, BarSeen) and event.is_closed:
                self._bars[event.bar.symbol, event.bar.timeframe][event.bar.time_ns] = event.bar

    def bars(self, symbol: str, timeframe: str, since_ns: int | None, limit: int, until_ns: int | None) -> list[Bar]:
        """Return closed bars as the port's `fetch_bars`."""
        same = self._same(self._bar_answers.get((symbol, timeframe, since_ns, limit, until_ns)))
        if same is not None:
            return same
        end_ns = self.now_ns if until_ns is None else until_ns
        known = self._bars.get((symbol, timeframe), {})
        found = [known[at] for at in sorted(known) if at >= (since_ns or 0) and bar_end(at, timeframe) <= end_ns]
        return found[-limit:] if since_ns is None else found[:limit]

    def trades(self, symbol: str, from_id: int | None, since_ns: int | None, limit: int) -> list[PublicTrade]:
        """Return trades as the port's `fetch_trades`."""
        same = self._same(self._trade_answers.get((symbol, from_id, since_ns, limit)))
        if same is not None:
            return same
        known = self._trades.get(symbol, [])
        if from_id is not None:
            return known[_index_of(known, from_id) :][:limit]
        if since_ns is not None:
            return [trade for trade in known if trade.time_ns >= since_ns][:limit]
        return known[-limit:]

    def _same(self, answers: deque[tuple[int, list[T]]] | None) -> list[T] | None:
        """Return the next recorded answer to the same request, if its time was replayed."""
        return answers.popleft()[1] if answers and answers[0][0] <= self.now_ns else None

    def _insert(self, trade: PublicTrade) -> None:
        rows = self._trades[trade.symbol]
        at = len(rows) if not rows or trade.trade_id > rows[-1].trade_id else _index_of(rows, trade.trade_id)
        if at == len(rows) or rows[at].trade_id != trade.trade_id:
            rows.insert(at, trade)
        if len(rows) > 2 * TRADES_MAX:
            del rows[:TRADES_MAX]


def _index_of(rows: Sequence[PublicTrade], trade_id: int) -> int:
    return bisect_left(rows, trade_id, key=lambda trade: trade.trade_id)
