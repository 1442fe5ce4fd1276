"""Queues of one feed: events that are not built yet, and values that the store does not have yet (bars, public trades,
outages)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.feed import TRADES, ChannelOutage
from fks.model.market import BarSeen

MarketData = PublicTrade | BarClosed | BarSeen

BACKLOG_MAX = 200_000  # while a backfill runs; the oldest go first, counted, and come back from REST


class Backlog:
    """Queue of trades and ends of bars, oldest first. `cut` counts those that waited too long.

    A *run* is the trades since the subscription without a discontinuity between them.
    """

    def __init__(self) -> None:
        self.events: deque[MarketData] = deque(maxlen=BACKLOG_MAX)
        self.cut = 0
        self._run_first: PublicTrade | None = None
        self._is_run_broken = False  # a discontinuity lies in the next message: the run starts after it

    def add(self, events: list[MarketData]) -> tuple[list[PublicTrade], bool]:
        """Append the events of a message; return its trades, and whether bars were among them."""
        self.cut += max(0, len(self.events) + len(events) - BACKLOG_MAX)
        trades: list[PublicTrade] = []
        has_bars = False
        for event in events:
            if isinstance(event, PublicTrade):
                trades.append(event)
                self.events.append(event)
                if self._run_first is None and not self._is_run_broken:
                    self._run_first = event
            else:
                has_bars = True
                if not isinstance(event, BarSeen) or event.is_closed:
                    self.events.append(event)
        self._is_run_broken = False
        return trades, has_bars

    def start_run(self) -> None:
        """Start a run with the next trade: a subscription was just made."""
        self._run_first = None

    def break_run(self) -> None:
        """End the run: trades are missing somewhere in the next message."""
        self._run_first, self._is_run_broken = None, True

    def run(self) -> list[PublicTrade]:
        """Return the trades of the run that wait."""
        if self._run_first is None:
            return []
        trades = [event for event in self.events if isinstance(event, PublicTrade)]
        return trades[next((n for n, trade in enumerate(trades) if trade is self._run_first), 0) :]

    def trade_ids(self) -> list[int]:
        """Return the ids of all trades that wait."""
        return [event.trade_id for event in self.events if isinstance(event, PublicTrade)]

    def take_false(self, count: int, is_false: Callable[[PublicTrade], bool]) -> list[MarketData]:
        """Remove the false trades among the first `count` events and return them."""
        first = [self.events.popleft() for _ in range(min(count, len(self.events)))]
        false = [isinstance(event, PublicTrade) and is_false(event) for event in first]
        self.events.extendleft(reversed([event for event, drop in zip(first, false, strict=True) if not drop]))
        return list(compress(first, false))


#: beyond it the oldest trades are dropped, counted, and fetched again; sealed bars do not need them
TRADES_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed bar on its way to the store, with the id of the last trade at or before its end.

    `source` is live (built from trades, streamed or fetched), klines (the exchange's own bar) or revised (the
    exchange's own bar, in the place of one that was sealed before a late trade came).
    """

    bar: Bar
    last_trade_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that one flush took out of a feed."""

    sealed: list[Sealed]
    revised: list[Sealed]
    trades: list[PublicTrade]
    outages: list[ChannelOutage]

    def __bool__(self) -> bool:
        return bool(self.sealed or self.revised or self.trades or self.outages)


class Unstored:
    """Queues of one feed towards the store, in order. `dropped` counts trades that waited too long."""

    def __init__(self) -> None:
        self.sealed: deque[Sealed] = deque()
        self.revised: deque[Sealed] = deque()
        self.trades: deque[PublicTrade] = deque()
        self.trades_max = TRADES_KEPT
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self.sealed or self.revised or self.trades)

    def take(self, bars_max: int, trades_max: int) -> tuple[list[Sealed], list[Sealed], list[PublicTrade]]:
        """Return the oldest bars, corrections and trades; a correction never overtakes the bar that it corrects."""
        sealed = [self.sealed.popleft() for _ in range(min(bars_max, len(self.sealed)))]
        revised = [] if self.sealed else [self.revised.popleft() for _ in range(min(bars_max, len(self.revised)))]
        trades = [self.trades.popleft() for _ in range(min(trades_max, len(self.trades)))]
        return *merge_corrections(sealed, revised), trades

    def put_back(self, batch: Batch) -> None:
        """Put a batch back that the store did not take."""
        self.sealed.extendleft(reversed(batch.sealed))
        self.revised.extendleft(reversed(batch.revised))
        self.trades.extendleft(reversed(batch.trades))

    def trim(self) -> int:
        """Drop the oldest trades beyond `trades_max`; return how many."""
        count = max(0, len(self.trades) - self.trades_max)
        for _ in range(count):
            self.trades.popleft()
        self.dropped += count
        return count

    def clear(self) -> None:
        """Drop everything."""
        self.sealed.clear()
        self.revised.clear()
        self.trades.clear()


def merge_corrections(sealed: Sequence[Sealed], revised: Sequence[Sealed]) -> tuple[list[Sealed], list[Sealed]]:
    """Return each bar once, with its last numbers: one statement stores a bar only once.

    A bar that is corrected before it was stored stays among `sealed`, with the new numbers.
    """
    first = {bar_key(item.bar): item for item in sealed}
    later: dict[tuple[str, str, int], Sealed] = {}
    for item in revised:
        known = first if bar_key(item.bar) in first else later
        before = known.get(bar_key(item.bar), item)
        known[bar_key(item.bar)] = replace(
            before, bar=item.bar if item.bar.is_counted else replace(item.bar, trades=before.bar.trades)
        )
    return list(first.values()), list(later.values())


def bar_key(bar: Bar) -> tuple[str, str, int]:
    """Return the identity of a bar within one exchange."""
    return bar.symbol, bar.timeframe, bar.time_ns


class Outages:
    """One outage at a time for each channel. Changes wait in `unstored`, in order, until the store has them."""

    def __init__(self, symbol: str) -> None:
        self.unstored: deque[ChannelOutage] = deque()
        self._symbol = symbol
        self._open: dict[str, ChannelOutage] = {}

    @property
    def open(self) -> tuple[ChannelOutage, ...]:
        """Return the outages without an end."""
        return tuple(self._open.values())

    def begin(self, cause: str, began_ns: int, channel: str = TRADES) -> None:
        """Begin an outage of a channel; an open one goes on."""
        self.go_on(ChannelOutage(self._symbol, channel, began_ns // 1000 * 1000, cause))

    def go_on(self, outage: ChannelOutage) -> None:
        """Continue an open outage of the collector before this one, unless the channel has one here."""
        if outage.channel not in self._open:
            self._open[outage.channel] = outage
            self.unstored.append(outage)

    def end(self, now_ns: int, channel: str = TRADES) -> None:
        """End the outage of a channel, if it has one: the channel is live and complete again."""
        outage = self._open.pop(channel, None)
        if outage is not None:
            self.unstored.append(replace(outage, ended_ns=max(now_ns, outage.began_ns)))

    def end_all(self, now_ns: int) -> None:
        """End all outages: a symbol that is not collected has none."""
        for channel in list(self._open):
            self.end(now_ns, channel)

    def take(self) -> list[ChannelOutage]:
        """Return the changes that wait, oldest first."""
        taken = list(self.unstored)
        self.unstored.clear()
        return taken

    def put_back(self, outages: Sequence[ChannelOutage]) -> None:
        """Put changes back that the store did not take."""
        self.unstored.extendleft(reversed(outages))
