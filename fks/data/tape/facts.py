"""What a tape's REST answers and trades say, as a stand-in for the exchange's REST: never more than was known at that moment."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from fks.data.tape.playing import told_of
from fks.data.tape.records import Kind, Record
from fks.model.bar import Bar, PublicTrade
from fks.model.instrument import Instrument
from fks.model.market import BarSeen, MarketEvent
from fks.model.timeframe import bar_end

TRADES_MAX = 200_000  # kept of one symbol; the oldest go


class Facts:
    """Bars, trades and instruments by what they are asked for. `now_ns` is the tape's present."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.instruments: dict[str, Instrument] = {}
        self._bars: dict[tuple[str, str], dict[int, Bar]] = defaultdict(dict)
        self._trades: dict[str, list[PublicTrade]] = defaultdict(list)

    def read(self, record: Record) -> None:
        """Take what REST told."""
        if record.kind is Kind.INSTRUMENTS:
            self.instruments.update((item.symbol, item) for item in told_of(record) if isinstance(item, Instrument))
        elif record.kind in (Kind.BARS, Kind.TRADES):
            for item in told_of(record):
                if isinstance(item, Bar):
                    self._bars[item.symbol, item.timeframe][item.time_ns] = item
                elif isinstance(item, PublicTrade):
                    self._insert(item)

    def hear(self, events: Iterable[MarketEvent]) -> None:
        """Take what came over a socket."""
        for event in events:
            if isinstance(event, PublicTrade):
                self._insert(event)
            elif isinstance(event, BarSeen) and event.is_closed:
                self._bars[event.bar.symbol, event.bar.timeframe][event.bar.time_ns] = event.bar

    def bars(self, symbol: str, timeframe: str, since_ns: int | None, limit: int, until_ns: int | None) -> list[Bar]:
        """Return closed bars as the port's `fetch_bars`."""
        end_ns = self.now_ns if until_ns is None else min(until_ns, self.now_ns)
        known = self._bars.get((symbol, timeframe), {})
        found = [known[at] for at in sorted(known) if at >= (since_ns or 0) and bar_end(at, timeframe) <= end_ns]
        return found[-limit:] if since_ns is None else found[:limit]

    def trades(self, symbol: str, from_id: int | None, since_ns: int | None, limit: int) -> list[PublicTrade]:
        """Return trades as the port's `fetch_trades`."""
        known = [trade for trade in self._trades.get(symbol, ()) if trade.time_ns <= self.now_ns]
        if from_id is not None:
            return known[bisect_left(known, from_id, key=lambda trade: trade.trade_id) :][:limit]
        if since_ns is not None:
            return [trade for trade in known if trade.time_ns >= since_ns][:limit]
        return known[-limit:]

    def _insert(self, trade: PublicTrade) -> None:
        rows = self._trades[trade.symbol]
        if not rows or trade.trade_id > rows[-1].trade_id:
            rows.append(trade)
        else:
            at = bisect_left(rows, trade.trade_id, key=lambda row: row.trade_id)
            if at == len(rows) or rows[at].trade_id != trade.trade_id:
                rows.insert(at, trade)
        if len(rows) > 2 * TRADES_MAX:
            del rows[:TRADES_MAX]
