"""Live feeds: the sealed position of each, its writer's epoch, and the one statement that stores bars, trades and
positions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fks.clock.real import Clock
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import StaleEpochError
from fks.model.feed import TRADES, ChannelOutage, FeedRow, SealedPosition, StoredFeed
from fks.model.timeframe import to_datetime, to_ns
from fks.store.base import SqlStore, columns_of, query, reads
from fks.store.db import Database
from fks.store.merging import PRICES

WAIT_S = 0.5  # for a connection: the collector must know soon whether its rows are stored
TRADE_GAPS_MAX = 1000  # returned at a time


@dataclass(frozen=True, slots=True)
class TradeGap:
    """Trade ids in [from_id, to_id) that the store lacks, and the times of the stored trades before and after them
    (ns)."""

    from_id: int
    to_id: int
    before_ns: int
    after_ns: int


_trade_gap = reads(TradeGap, before_ns="before", after_ns="time")


class FeedStore(SqlStore[Database], queries="feeds"):
    """The feeds of one exchange, written under one epoch. Errors of all methods: OutageError, StaleEpochError."""

    def __init__(self, db: Database, exchange: str, epoch: int, clock: Clock) -> None:
        super().__init__(db)
        self._exchange = exchange
        self._epoch = epoch
        self._clock = clock
        self._server: tuple[datetime, float] | None = None  # its time when it last answered, and ours (monotonic)

    async def claim(self, symbols: Sequence[str], timeframes: Sequence[str]) -> dict[str, dict[str, SealedPosition]]:
        """Take over the feeds of `symbols`; return how far each timeframe is stored.

        Guarantees: after it returns, no older epoch's `flush` changes anything.
        """
        keys = [(symbol, frame) for symbol in symbols for frame in (*timeframes, TRADES)]
        rows = await self._db.fetch(
            "feeds.claim", self._exchange, self._epoch, [key[0] for key in keys], [key[1] for key in keys], retry=True
        )
        if len(rows) != len(keys):
            raise self._superseded()
        if rows:
            self._server = rows[-1]["answered_at"], self._clock.monotonic()
        found: dict[str, dict[str, SealedPosition]] = {symbol: {} for symbol in symbols}
        for row in rows:
            if row["sealed_through"] is not None and row["timeframe"] != TRADES:
                position = SealedPosition(to_ns(row["sealed_through"]), row["last_trade_id"])
                found[row["symbol"]][row["timeframe"]] = position
        return found

    async def stored_feeds(self, symbols: Sequence[str]) -> dict[str, StoredFeed]:
        """Return the feeds of `symbols` as last written; those never collected are left out."""
        found: dict[str, StoredFeed] = {}
        for row in await self._db.fetch("feeds.received", self._exchange, list(symbols)):
            symbol, began, message = row["symbol"], row["began_at"], row["last_message_at"]
            before = found[symbol].outages if symbol in found else ()
            open_ = () if began is None else (ChannelOutage(symbol, row["channel"], to_ns(began), row["cause"]),)
            found[symbol] = StoredFeed(row["state"], None if message is None else to_ns(message), (*before, *open_))
        return found

    async def trade_gaps(self, symbol: str, since_ns: int) -> list[TradeGap]:
        """Return what the stored trades since then leave out, newest first, at most TRADE_GAPS_MAX."""
        rows = await self._db.fetch("feeds.trade_gaps", self._exchange, symbol, to_datetime(since_ns), TRADE_GAPS_MAX)
        return [_trade_gap(row) for row in rows]

    async def flush(
        self,
        feeds: Sequence[FeedRow],
        bars: Sequence[tuple[Bar, str]],
        trades: Sequence[PublicTrade],
        outages: Sequence[ChannelOutage] = (),
    ) -> dict[tuple[str, str, int], int]:
        """Store bars (each with its source), trades, outages and positions in one statement. Idempotent.

        A bar without a count (`Bar.is_counted`) leaves a stored count as it is.

        Returns the revisions of the bars that changed stored rows, by symbol, timeframe and time (ns). Rows without a
        feed
        row are not fenced: pass the row of their symbol along. However late the statement runs, its rows carry the
        server's
        present time or an earlier one: a delayed LIVE is not taken for a fresh one.
        """
        row = await self._db.fetchrow(
            "feeds.flush",
            self._exchange,
            self._epoch,
            *_feed_columns(feeds),
            *_bar_columns(bars),
            *_trade_columns(trades),
            *_outage_columns(outages),
            self._server_now(),
            retry=False,
            wait_s=WAIT_S,
        )
        assert row is not None
        self._server = row["answered_at"], self._clock.monotonic()
        if not row["is_ours"]:
            raise self._superseded()
        return {(symbol, frame, us * 1000): revision for symbol, frame, us, revision in row["corrected"] or ()}

    @query("cold", binds=("_exchange", "_epoch"), retry=True)
    async def set_cold(self) -> None:
        """Set every feed of the exchange to not live until its new collector reports it live."""

    @query("state", binds=("_exchange", "symbol", "_epoch", "state"), retry=True)
    async def set_state(self, symbol: str, state: str) -> None:
        """Write the state of a symbol that is no longer collected."""

    def _server_now(self) -> datetime | None:
        """Return the server's time, or a little earlier (by the duration of its last answer); None: it never
        answered."""
        if self._server is None:
            return None
        at, answered_s = self._server
        return at + timedelta(seconds=self._clock.monotonic() - answered_s)

    def _superseded(self) -> StaleEpochError:
        return StaleEpochError(
            f"collector {self._exchange} epoch {self._epoch}: a newer epoch owns its feeds", remedy="stop at once"
        )


def _feed_columns(feeds: Sequence[FeedRow]) -> list[list[Any]]:
    rows = sorted(feeds, key=lambda row: (row.symbol, row.timeframe))
    return columns_of(rows, "symbol", "timeframe", "sealed_ns", "last_trade_id", "message_ns", "last_price", "state")


def _bar_columns(bars: Sequence[tuple[Bar, str]]) -> list[list[Any]]:
    names = ("symbol", "timeframe", "time_ns", *PRICES, "trades", "is_complete", "is_empty")
    return [*columns_of((bar for bar, _ in bars), *names), [source for _, source in bars]]


def _trade_columns(trades: Sequence[PublicTrade]) -> list[list[Any]]:
    """Return the columns of trades: numbers as their text, times as microseconds; tens of thousands a second are
    encoded here."""
    return [
        [trade.symbol for trade in trades],
        [trade.trade_id for trade in trades],
        [trade.time_ns // 1000 for trade in trades],
        [str(trade.price) for trade in trades],
        [str(trade.quantity) for trade in trades],
        [trade.is_buyer_maker for trade in trades],
        [trade.count for trade in trades],
        [trade.received_ns // 1000 for trade in trades],
    ]


def _outage_columns(outages: Sequence[ChannelOutage]) -> list[list[Any]]:
    rows = {(row.symbol, row.channel, row.began_ns): row for row in outages}.values()  # the last state of each
    return columns_of(rows, "symbol", "channel", "began_ns", "ended_ns", "cause")
