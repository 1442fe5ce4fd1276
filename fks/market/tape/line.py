"""Sequence of one symbol's trades on a tape: each once, gaps filled from recorded REST answers or reported.

Contiguous ids prove which trades are missing. With other ids a gap is possible at every discontinuity (a new
connection, frames left out, a missing file), until a REST answer covers the time from the last trade before it to the
first one after it. Later trades wait for such an answer, as in the feed, but at most WAIT_NS.

This is not `fks.market.feed`, because a feed closes a gap with new requests and with the exchange's own bars, and a
tape has only the answers that were requested then: here no bar is built over a gap, whichever files of a recording are
missing, and every replay has the same counts and digests (docs/tapes.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fks.market.tape.player import TradesAnswer
from fks.model.bar import PublicTrade
from fks.model.market import TradeIds
from fks.model.timeframe import NS

WAIT_NS = 300 * NS  # of the tape's time: how long trades wait for a REST answer that fills a gap
WAITING_MAX = 50_000  # trades that may wait for it
IDS_KEPT = 20_000  # ids of recent trades, which may be received again
SILENCE_MAX_NS = 3600 * NS  # between two trades; after a longer time the feed uses the exchange's bars, too
LOST_MAX = 1_000  # gaps whose ids are remembered

#: the next trade, and a description of the gap before it, "" for none
Following = tuple[PublicTrade, str]


class TradeSequence:
    """Orders trades and finds gaps.

    `repeated`: received twice; `strays`: received after their gap was given up; `filled`: only in REST answers;
    `ids_missing`: in neither when their gap was given up.
    """

    def __init__(self, ids: TradeIds) -> None:
        self.repeated = self.strays = self.filled = self.ids_missing = 0
        self._is_counted = ids is TradeIds.CONTIGUOUS
        self._last: PublicTrade | None = None
        self._seen: dict[int, bool] = {}  # id of a trade, taken or waiting -> whether it came over a connection
        self._waiting: dict[int, PublicTrade] = {}
        self._since_ns = 0  # time of the first of them
        self._discontinuity = ""
        self._firsts: dict[int, str] = {}  # id of the first trade after each discontinuity -> its cause
        self._lost: deque[range] = deque(maxlen=LOST_MAX)

    def receive(self, trade: PublicTrade, now_ns: int) -> list[Following]:
        """Add a trade of a connection; return the trades that follow in sequence."""
        if self._is_counted and not self._waiting and trade.trade_id == self._last_id + 1 and self._last is not None:
            return self._take(trade)  # the most frequent case
        following = self._overdue(now_ns)
        was_received = self._seen.get(trade.trade_id)
        if was_received is not None and not self._is_restart(trade):
            self.repeated += was_received
            self.filled -= not was_received
            self._seen[trade.trade_id] = True
            if self._discontinuity and trade.trade_id == self._last_id:
                self._discontinuity = ""  # nothing is missing in between
            return following
        if (
            self._last is not None
            and self._is_counted
            and trade.trade_id <= self._last_id
            and not self._is_restart(trade)
        ):
            is_stray = any(trade.trade_id in ids for ids in self._lost)
            self.strays += is_stray
            self.repeated += not is_stray
            return following
        return following + self._insert(trade, now_ns, is_received=True)

    def add_answer(self, answer: TradesAnswer, now_ns: int) -> list[Following]:
        """Add a REST answer; return the trades that follow in sequence."""
        following = self._overdue(now_ns)
        if self._last is None:
            return following
        trades: Iterable[PublicTrade] = answer.values
        if not self._is_counted:
            ids = [trade.trade_id for trade in answer.values]
            asked_id = answer.asked[1]
            if self._last_id not in ids and asked_id not in (self._last_id, self._last_id + 1):
                return following  # it does not reach back to the last trade: trades may be missing in between
            trades = answer.values[ids.index(self._last_id) + 1 if self._last_id in ids else 0 :]
        for trade in trades:
            if trade.trade_id in self._waiting and not self._is_counted:
                following += self._take(self._waiting.pop(trade.trade_id))
            elif trade.trade_id not in self._seen and not (self._is_counted and trade.trade_id <= self._last_id):
                following += self._insert(trade, now_ns, is_received=False)
        if self._firsts and next(reversed(self._firsts)) not in self._waiting:
            self._firsts.clear()
            following += self._join()
        return following

    def mark_discontinuity(self, why: str) -> None:
        """Note that trades may be missing from here on. Contiguous ids need no note: they prove it."""
        if not self._is_counted and self._last is not None:
            self._discontinuity = why

    def finish(self) -> list[Following]:
        """Return the waiting trades: the tape has no more answers."""
        following = []
        while self._waiting:
            following += self._give_up()
        return following

    @property
    def _last_id(self) -> int:
        return -1 if self._last is None else self._last.trade_id

    def _is_restart(self, trade: PublicTrade) -> bool:
        """Return whether the exchange restarted its ids: a known id with a later time than all trades."""
        return (
            self._is_counted
            and self._last is not None
            and trade.trade_id <= self._last_id
            and trade.time_ns > self._last.time_ns + NS
        )

    def _insert(self, trade: PublicTrade, now_ns: int, *, is_received: bool) -> list[Following]:
        is_restart = self._is_restart(trade)
        if is_restart:
            self._seen.clear()
            self._lost.clear()
        self._seen[trade.trade_id] = is_received
        if len(self._seen) > IDS_KEPT + WAITING_MAX:
            del self._seen[next(iter(self._seen))]
        self.filled += not is_received
        if is_restart:
            return [*self.finish(), *self._take(trade, "the exchange counts its trades anew")]
        is_next = (
            self._last is None or trade.trade_id == self._last_id + 1
            if self._is_counted
            else not self._is_held(is_received)
        )
        if is_next:
            return self._take(trade) + self._join()
        if not self._waiting:
            self._since_ns = now_ns
        self._waiting[trade.trade_id] = trade
        if self._discontinuity and is_received:
            self._firsts[trade.trade_id], self._discontinuity = self._discontinuity, ""
        return self._give_up() if len(self._waiting) > WAITING_MAX else []

    def _is_held(self, is_received: bool) -> bool:
        """Return whether a trade with an id that proves nothing has to wait: it follows a gap."""
        return is_received and bool(self._discontinuity or self._firsts)

    def _take(self, trade: PublicTrade, gap: str = "") -> list[Following]:
        if not gap and self._last is not None and trade.time_ns - self._last.time_ns > SILENCE_MAX_NS:
            gap = "no trade for over an hour, or it is not on the tape"
        self._last = trade
        return [(trade, gap)]

    def _join(self) -> list[Following]:
        """Take the waiting trades that follow in sequence."""
        following: list[Following] = []
        if self._is_counted:
            while (trade := self._waiting.pop(self._last_id + 1, None)) is not None:
                following += self._take(trade)
        elif not self._firsts:
            for trade in self._waiting.values():
                following += self._take(trade)
            self._waiting.clear()
        return following

    def _overdue(self, now_ns: int) -> list[Following]:
        if self._waiting and now_ns - self._since_ns > WAIT_NS:
            self._since_ns = now_ns
            return self._give_up()
        return []

    def _give_up(self) -> list[Following]:
        """Continue after a gap that was not filled."""
        if self._is_counted:
            first = min(self._waiting)
            missing = range(self._last_id + 1, first)
            self._lost.append(missing)
            self.ids_missing += len(missing)
            ids = f"id {missing[0]}" if len(missing) == 1 else f"ids {missing[0]} to {missing[-1]}"
            return self._take(self._waiting.pop(first), f"{ids} are not on the tape") + self._join()
        following: list[Following] = []
        for trade in self._waiting.values():
            why = self._firsts.get(trade.trade_id, "")
            following += self._take(trade, f"trades may be missing ({why})" if why else "")
        self._waiting.clear()
        self._firsts.clear()
        return following
