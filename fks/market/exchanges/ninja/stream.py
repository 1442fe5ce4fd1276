"""Trades and quotes of the bridge as values of FKS, without a socket.

The bridge has no past trades. It counts the trades of an instrument since its start (`n`), so that a lost one shows. A
*run* is a stretch of that count on one subscription, while the price feed was connected. The id of a trade is the start
of its run (ms of the bridge's clock, times a million) plus its place in the run: ids rise by one inside a run, a lost
`n` leaves out as many, and a later run has larger ids. A new run begins with every subscription and whenever the price
feed is connected again: what was traded between two runs is only in the platform's bars.

`check` tells a quiet market from a lost feed: the bridge sends `md_status` after two seconds without a trade.

Source: nt8/AddOns/FKSMarket.cs; conversations C21 to C23.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal

from fks.bridge.ninja import messages as m
from fks.market.exchanges.base import MS, ConnectionCounters, check_trade
from fks.market.exchanges.base.rows import UNREADABLE, amount_of, bar_of, time_of
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError, PeerError
from fks.model.market import Channel, Discontinuity, Quote, Suspect
from fks.model.ninja import NINJA, BridgePlatform
from fks.model.timeframe import NS, iso

CONNECTED = "Connected"
TRADES_KEPT = 20_000  # of a run and an instrument: a busy quarter of an hour
SILENT_S = 6.0  # three times the bridge's interval of md_status
#: The exchange's clock, which stamps trades, may differ from the bridge's, which dates the run: all trades from so long
#: after its start on are in it.
MARGIN_NS = 5 * NS
SETTLE_NS = 2 * NS  # so long after a minute the platform's bar of it is taken for whole
_IDS_EACH_MS = 1_000_000

Sent = PublicTrade | Quote | Discontinuity | Suspect


class InstrumentStream:
    """The data of one instrument on its present subscription. Times `now_s` are monotonic seconds."""

    def __init__(self, symbol: str, present_ns: int, now_s: float, platform: BridgePlatform = NINJA) -> None:
        """`present_ns`: the bridge's clock when the subscription stood."""
        self.symbol = symbol
        self._name, self._title = platform.name, platform.title
        self.status = ""  # of the price feed, as the platform names it; "" before the first message
        self.heard_s = now_s
        self.last_id = 0
        self._since_ns = present_ns  # from here on no trade is missing
        self._trades: deque[PublicTrade] = deque(maxlen=TRADES_KEPT)
        self._last_n: int | None = None
        self._begin(present_ns)

    def _begin(self, present_ns: int) -> None:
        self._since_ns = present_ns
        self.last_id = max(present_ns // MS * _IDS_EACH_MS, self.last_id + _IDS_EACH_MS)
        self._last_n = None
        self._trades.clear()

    def set_status(self, status: str, present_ns: int, now_s: float) -> list[Sent]:
        """Record the state of the price feed; return a Discontinuity when it was lost."""
        before, self.status, self.heard_s = self.status, status, now_s
        if status == CONNECTED:
            if before != CONNECTED:
                self._begin(present_ns)
            return []
        if before not in ("", CONNECTED):
            return []
        reason = f"{self._title}'s price feed is {status}"
        return [Discontinuity(channel, self.symbol, reason) for channel in (Channel.TRADES, Channel.QUOTES)]

    def trade(self, message: m.TradeMessage, received_ns: int, present_ns: int, now_s: float) -> list[Sent]:
        """Return the trade, or a Suspect and a Discontinuity for one that cannot be."""
        self.heard_s = now_s
        if self._last_n is not None and message.n <= self._last_n:
            self._begin(present_ns)  # another count: the bridge was started again
        step = 1 if self._last_n is None else message.n - self._last_n
        self._last_n = message.n
        self.last_id += step
        if step > 1:
            self._trades.clear()
            self._since_ns = present_ns
        try:
            trade = check_trade(
                PublicTrade(
                    self._name, self.symbol, self.last_id, time_of(message.at_ms), message.price, Decimal(message.qty),
                    message.side == "sell", 1, received_ns,
                )
            )  # fmt: skip
        except UNREADABLE as error:
            self._trades.clear()
            self._since_ns = present_ns
            suspect = _suspect(Channel.TRADES, message, error, received_ns)
            return [suspect, Discontinuity(Channel.TRADES, self.symbol, "a trade was refused")]
        self._trades.append(trade)
        return [trade]

    def check(self, now_s: float) -> None:
        """Return when trades would arrive if there were any. Errors: OutageError, with the state of the feed."""
        if self.status != CONNECTED:
            state = self.status or "not known yet"
            raise OutageError(f"{self._title}'s price feed of {self.symbol} is {state}")
        silent_s = now_s - self.heard_s
        if silent_s > SILENT_S:
            raise OutageError(f"{self._title} sent nothing about {self.symbol} for {silent_s:.0f} s")

    def mark(self, present_ns: int) -> PublicTrade:
        """Return the mark of the present: the last id, the bridge's time and no quantity. See TradesFrom.STREAM."""
        return PublicTrade(self._name, self.symbol, self.last_id, present_ns, Decimal(0), Decimal(0), False)

    def after(self, trade_id: int, limit: int) -> list[PublicTrade]:
        """Return the trades from this id on, oldest first. Errors: PeerError when they are of an earlier run."""
        kept = self._trades
        first = kept[0].trade_id if kept else self.last_id + 1
        if not first <= trade_id <= self.last_id + 1:
            raise PeerError(
                f"{self._title} has no past trades: those of {self.symbol} from {trade_id} on did not arrive",
                remedy="its bars fill the gap",
            )
        return [kept[place] for place in range(trade_id - first, min(len(kept), trade_id - first + limit))]

    def since(self, time_ns: int, present_ns: int, limit: int) -> list[PublicTrade]:
        """Return the trades from a moment on, oldest first.

        Errors: OutageError when some of them may be missing, or the minute before the moment may not be whole yet.
        """
        if time_ns < self._since_ns + MARGIN_NS:
            raise OutageError(
                f"{self.symbol}: trades arrive since {iso(self._since_ns)}, the bars begin with the next minute"
            )
        if present_ns < time_ns + SETTLE_NS:
            raise OutageError(f"{self.symbol}: the minute before {iso(time_ns)} may not be whole yet")
        kept = self._trades
        if len(kept) == TRADES_KEPT and kept[0].time_ns >= time_ns:
            raise PeerError(f"{self.symbol}: over {TRADES_KEPT} trades since {iso(time_ns)}")
        first = next((place for place, trade in enumerate(kept) if trade.time_ns >= time_ns), len(kept))
        return [kept[place] for place in range(first, min(len(kept), first + limit))]


def quote_of(
    message: m.QuoteMessage, received_ns: int, counters: ConnectionCounters, name: str = NINJA.name
) -> list[Sent]:
    """Return the quote; none where a side is missing, a Suspect where it cannot be."""
    if message.bid is None or message.ask is None:
        counters.unknown[f"{name}.quote of one side"] += 1
        return []
    try:
        bid, ask = amount_of(message.bid, "bid"), amount_of(message.ask, "ask")
        if bid > ask:
            raise PeerError(f"the bid {bid} is above the ask {ask}")
        sizes = Decimal(message.bid_qty or 0), Decimal(message.ask_qty or 0)
        return [Quote(name, message.instrument, time_of(message.at_ms), bid, sizes[0], ask, sizes[1], received_ns)]
    except UNREADABLE as error:
        return [_suspect(Channel.QUOTES, message, error, received_ns)]


def history_bar(message: m.HistoryBar, timeframe: str, name: str = NINJA.name) -> Bar:
    """Return a bar of the history. Errors: PeerError when it does not begin with its minute."""
    numbers = (message.o, message.h, message.l, message.c, Decimal(message.v))
    return bar_of(name, message.instrument, timeframe, message.at_ms, numbers)


def _suspect(channel: Channel, message: m.TradeMessage | m.QuoteMessage, error: Exception, received_ns: int) -> Suspect:
    return Suspect(channel, message.instrument, str(error), m.to_line(message).decode(), received_ns)
