"""One symbol's trades of a tape as the feed took them: each once, holes filled with what REST told, or known as holes.

Where ids are contiguous they prove what is missing. Elsewhere a hole may be wherever the stream was torn (a dial,
frames left out, a file that is missing), until an answer of REST reaches from the last trade before it to the first one
after it. What comes after a hole waits for such an answer, as it did in the feed, but not for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fks.model.bar import PublicTrade
from fks.model.market import TradeIds
from fks.model.timeframe import NS
from fks.tape.player import ToldTrades

WAIT_NS = 300 * NS  # of the tape's time, for REST to fill a hole
WAITING_MAX = 50_000  # trades that wait for it
IDS_KEPT = 20_000  # of trades lately taken: what may come again
SILENCE_MAX_NS = 3600 * NS  # between two trades; beyond it the feed, too, does not make bars of its trades
LOST_MAX = 1_000  # holes whose ids are remembered

#: the next trade, and, if trades are missing before it, in words what is known of that
Following = tuple[PublicTrade, str]


class TradeLine:
    """Puts trades in a line.

    `repeated`: heard twice; `strays`: heard when their hole was given up; `filled`: told by REST alone; `ids_missing`:
    not told at all when their hole was given up.
    """

    def __init__(self, ids: TradeIds) -> None:
        self.repeated = self.strays = self.filled = self.ids_missing = 0
        self._is_counted = ids is TradeIds.CONTIGUOUS
        self._last: PublicTrade | None = None
        self._seen: dict[int, bool] = {}  # id of a trade taken, or waiting: whether it was heard
        self._waiting: dict[int, PublicTrade] = {}
        self._since_ns = 0  # when the first of them came
        self._torn = ""
        self._firsts: dict[int, str] = {}  # ids of the first trades after each tear
        self._lost: deque[range] = deque(maxlen=LOST_MAX)

    def hear(self, trade: PublicTrade, now_ns: int) -> list[Following]:
        """Take a trade that came over a socket; return what follows now."""
        if self._is_counted and not self._waiting and trade.trade_id == self._last_id + 1 and self._last is not None:
            return self._take(trade)  # nearly all of them
        following = self._overdue(now_ns)
        was_heard = self._seen.get(trade.trade_id)
        if was_heard is not None and not self._is_anew(trade):
            self.repeated += was_heard
            self.filled -= not was_heard
            self._seen[trade.trade_id] = True
            if self._torn and trade.trade_id == self._last_id:
                self._torn = ""  # nothing came between
            return following
        if self._last is not None and self._is_counted and trade.trade_id <= self._last_id and not self._is_anew(trade):
            is_stray = any(trade.trade_id in ids for ids in self._lost)
            self.strays += is_stray
            self.repeated += not is_stray
            return following
        return following + self._place(trade, now_ns, is_heard=True)

    def tell(self, told: ToldTrades, now_ns: int) -> list[Following]:
        """Take an answer of REST; return what follows now."""
        following = self._overdue(now_ns)
        if self._last is None:
            return following
        trades: Iterable[PublicTrade] = told.told
        if not self._is_counted:
            ids = [trade.trade_id for trade in told.told]
            asked_id = told.asked[1]
            if self._last_id not in ids and asked_id not in (self._last_id, self._last_id + 1):
                return following  # it does not reach back to what is known: something may lie between
            trades = told.told[ids.index(self._last_id) + 1 if self._last_id in ids else 0 :]
        for trade in trades:
            if trade.trade_id in self._waiting and not self._is_counted:
                following += self._take(self._waiting.pop(trade.trade_id))
            elif trade.trade_id not in self._seen and not (self._is_counted and trade.trade_id <= self._last_id):
                following += self._place(trade, now_ns, is_heard=False)
        if self._firsts and next(reversed(self._firsts)) not in self._waiting:
            self._firsts.clear()
            following += self._join()
        return following

    def tear(self, why: str) -> None:
        """Note that trades may be missing between what came and what comes. Contiguous ids tell themselves."""
        if not self._is_counted and self._last is not None:
            self._torn = why

    def finish(self) -> list[Following]:
        """Return what still waits: no answer comes any more."""
        following = []
        while self._waiting:
            following += self._give_up()
        return following

    @property
    def _last_id(self) -> int:
        return -1 if self._last is None else self._last.trade_id

    def _is_anew(self, trade: PublicTrade) -> bool:
        """Return whether an exchange counts from the beginning again: a known id, later than all that came."""
        return (
            self._is_counted
            and self._last is not None
            and trade.trade_id <= self._last_id
            and trade.time_ns > self._last.time_ns + NS
        )

    def _place(self, trade: PublicTrade, now_ns: int, *, is_heard: bool) -> list[Following]:
        is_anew = self._is_anew(trade)
        if is_anew:
            self._seen.clear()
            self._lost.clear()
        self._seen[trade.trade_id] = is_heard
        if len(self._seen) > IDS_KEPT + WAITING_MAX:
            del self._seen[next(iter(self._seen))]
        self.filled += not is_heard
        if is_anew:
            return [*self.finish(), *self._take(trade, "the exchange counts its trades anew")]
        is_next = (
            self._last is None or trade.trade_id == self._last_id + 1
            if self._is_counted
            else not self._is_held(is_heard)
        )
        if is_next:
            return self._take(trade) + self._join()
        if not self._waiting:
            self._since_ns = now_ns
        self._waiting[trade.trade_id] = trade
        if self._torn and is_heard:
            self._firsts[trade.trade_id], self._torn = self._torn, ""
        return self._give_up() if len(self._waiting) > WAITING_MAX else []

    def _is_held(self, is_heard: bool) -> bool:
        """Return whether a trade without a telling id has to wait: it came after a hole."""
        return is_heard and bool(self._torn or self._firsts)

    def _take(self, trade: PublicTrade, hole: str = "") -> list[Following]:
        if not hole and self._last is not None and trade.time_ns - self._last.time_ns > SILENCE_MAX_NS:
            hole = "nobody traded for over an hour, or it is not on the tape"
        self._last = trade
        return [(trade, hole)]

    def _join(self) -> list[Following]:
        """Take what waited and follows now."""
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
        """Go on after a hole that nobody filled."""
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
