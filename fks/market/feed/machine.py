"""Life cycle of one symbol's live feed: every transition is a row of the tables below; docs/feeds.md is made of them.

Two machines run side by side. The *state* is published to readers of the feed (C7): COLD, BACKFILL, LIVE, STALE, OFF;
it is stored with the symbol. The *stream* is proven by the connection: whether trades arrive, and whether their silence
is true. A feed is LIVE only while its subscription stands and its stream is trusted.

Events come from the collector: connections, time, answers of REST, the store. Some follow from them inside the feed:
GapFound, CheckDue, FellSilent, Trusted, Overflowed. `SymbolFeed.handle` applies the data of an event, looks up its row
and returns the actions, which the collector performs. Their results come back as events.

The first row of a state and event whose guard holds applies. A pair without a row changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fks.market.bars.aggregate import BarStart
from fks.market.feed.queues import MarketData, Sealed
from fks.model.bar import Bar, PublicTrade
from fks.model.feed import SealedPosition, StoredFeed
from fks.model.market import Book, Channel, Quote, Suspect


class FeedState(StrEnum):
    """State of a feed, as stored and shown."""

    COLD = "COLD"
    BACKFILL = "BACKFILL"
    LIVE = "LIVE"
    STALE = "STALE"
    OFF = "OFF"


class Stream(StrEnum):
    """The state of the stream, as the connection's trades prove it."""

    CURRENT = "CURRENT"
    LAGGING = "LAGGING"
    SILENT = "SILENT"
    SILENT_LAGGING = "SILENT_LAGGING"


TRUSTED = frozenset({Stream.CURRENT, Stream.LAGGING})


# ── values of events and actions ─────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Gap:
    """Trades from `from_id` on are missing, up to `to_id` (exclusive; None: up to the newest)."""

    from_id: int
    to_id: int | None


@dataclass(frozen=True, slots=True)
class SilenceCheck:
    """Query for trades from `from_id` on; without any, bars up to `until_ns` are complete.

    `restarts` is the feed's count when it asked: the answer is void after another restart.
    """

    from_id: int
    until_ns: int
    restarts: int


@dataclass(slots=True)
class Recovery:
    """Start of a feed. `sealed` goes to the store before anything built later; `trades` are still to be built."""

    start: BarStart
    last_id: int | None
    sealed: list[Sealed] = field(default_factory=list)
    trades: list[PublicTrade] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)  # timeframe -> bars that stay missing before what was fetched


# ── events ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(slots=True)
class FeedEvent:
    """Something that happened to a feed. `now_ns` is the time of day, `now_s` the monotonic clock."""

    now_ns: int
    now_s: float


@dataclass(slots=True)
class Subscribed(FeedEvent):
    """The subscription of a channel group stands; TRADES is the group of trades and bars."""

    channel: Channel = Channel.TRADES


@dataclass(slots=True)
class Disconnected(FeedEvent):
    """The subscription of a channel group ended. `cause` is "silent" when most of its connection was silent."""

    channel: Channel = Channel.TRADES
    cause: str = "disconnected"


@dataclass(slots=True)
class Received(FeedEvent):
    """Trades and the exchange's own bars arrived."""

    events: list[MarketData]


@dataclass(slots=True)
class BookReceived(FeedEvent):
    """A quote or a book arrived."""

    value: Quote | Book


@dataclass(slots=True)
class Discontinued(FeedEvent):
    """The exchange left out messages of a channel."""

    channel: Channel = Channel.TRADES


@dataclass(slots=True)
class Ticked(FeedEvent):
    """Time passed. `is_measured`: silence counts, because the market is open and the tick was on time."""

    is_open: bool = True
    is_measured: bool = True


@dataclass(slots=True)
class Claimed(FeedEvent):
    """The store gave the feed its positions, and the state left by the collector before this one."""

    positions: dict[str, SealedPosition]
    before: StoredFeed | None


@dataclass(slots=True)
class SilenceChecked(FeedEvent):
    """REST answered a SilenceCheck with all trades after the last known one."""

    check: SilenceCheck
    trades: list[PublicTrade]


@dataclass(slots=True)
class TradesFetched(FeedEvent):
    """REST returned trades of a gap. Unless they follow one another after all, `SymbolFeed.fetched_gap` is set."""

    trades: list[PublicTrade]


@dataclass(slots=True)
class Recovered(FeedEvent):
    """REST returned the start of the feed; the backlog stays. A start that lies in the future is left out.

    Bars filled the time before it, so the store lacks trades; `SymbolFeed.fetched_gap` is set as by TradesFetched.
    """

    recovery: Recovery


@dataclass(slots=True)
class TradesRefuted(FeedEvent):
    """REST does not show the trades of a gap: those beyond them among the first `waiting` events are false."""

    waiting: int


@dataclass(slots=True)
class BackfillTried(FeedEvent):
    """An attempt to backfill ended. `error` is "" when it succeeded; `is_refused`: the exchange refuses to answer."""

    error: str = ""
    is_refused: bool = False


@dataclass(slots=True)
class BackfillFinished(FeedEvent):
    """Everything that was missing is in the feed."""


@dataclass(slots=True)
class CorrectionStarted(FeedEvent):
    """The bars of the late trades so far are being fetched: `SymbolFeed.correcting` holds their times."""


@dataclass(slots=True)
class CorrectionFailed(FeedEvent):
    """Bars of late trades could not be fetched: their times wait again."""


@dataclass(slots=True)
class BarsCorrected(FeedEvent):
    """The exchange's own bars are stored in the place of those built here, where they differ.

    `is_suspect`: they settle the oldest outlier (no bars: it is confirmed, or stays unsettled in the quarantine).
    """

    bars: list[Bar]
    is_suspect: bool = False


@dataclass(slots=True)
class RefetchFailed(FeedEvent):
    """The trades that the store lacks could not be fetched: they are fetched after the next one that it has."""


@dataclass(slots=True)
class BarsOutdated(FeedEvent):
    """Open bars lack a trade that came late: they are built again from the exchange's bars and trades."""


@dataclass(slots=True)
class Stored(FeedEvent):
    """The store committed bars, and trades up to `last_trade_id` (None: no trades)."""

    bars: list[Bar]
    last_trade_id: int | None


@dataclass(slots=True)
class Draining(FeedEvent):
    """The collector ends: build from what arrived, start nothing."""


@dataclass(slots=True)
class Stopped(FeedEvent):
    """The symbol is not collected any more."""


@dataclass(slots=True)
class GapFound(FeedEvent):
    """Follows inside the feed: the next trade is not the one after the last."""


@dataclass(slots=True)
class CheckDue(FeedEvent):
    """Follows inside the feed: a bar is overdue, or trades have been silent for half their limit."""


@dataclass(slots=True)
class FellSilent(FeedEvent):
    """Follows inside the feed: trades have been silent beyond their limit (C7)."""


@dataclass(slots=True)
class Trusted(FeedEvent):
    """Follows inside the feed: its subscription stands and its stream is trusted."""


@dataclass(slots=True)
class Overflowed(FeedEvent):
    """Follows inside the feed: more sealed bars wait for the store than memory may hold."""


EVENTS: tuple[type[FeedEvent], ...] = (
    Subscribed, Disconnected, Received, BookReceived, Discontinued, Ticked, Claimed, SilenceChecked, TradesFetched,
    Recovered, TradesRefuted, BackfillTried, BackfillFinished, CorrectionStarted, CorrectionFailed, BarsCorrected,
    RefetchFailed, BarsOutdated, Stored, Draining, Stopped, GapFound, CheckDue, FellSilent, Trusted, Overflowed,
)  # fmt: skip


# ── actions ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(slots=True)
class FeedAction:
    """Something that the collector does for a feed."""


@dataclass(slots=True)
class StartBackfill(FeedAction):
    """Fetch missing trades; `gap` None: recover from stored trades. While one runs, another follows it."""

    gap: Gap | None
    by_bars: bool = False
    settle_s: float = 0.0
    is_found: bool = False  # the feed found the gap itself


@dataclass(slots=True)
class CheckSilence(FeedAction):
    """Ask REST for the trades after the last one."""

    check: SilenceCheck


@dataclass(slots=True)
class Resubscribe(FeedAction):
    """Subscribe a silent channel again, on another connection if there may be one."""

    channel: Channel
    silent_s: float
    limit_s: float


@dataclass(slots=True)
class CorrectBars(FeedAction):
    """Fetch the exchange's own bars of the times at which trades came late."""


@dataclass(slots=True)
class ConfirmBars(FeedAction):
    """Fetch stored bars again that are outliers."""


@dataclass(slots=True)
class RefetchTrades(FeedAction):
    """Fetch the public trades that the store lacks."""


@dataclass(slots=True)
class RecheckBars(FeedAction):
    """Fetch the bars sealed last again: the collector before may have died with a correction of one."""


@dataclass(slots=True)
class Publish(FeedAction):
    """Publish the newest trade, quote or book; `trades` arrived with it."""

    value: PublicTrade | Quote | Book
    trades: int = 0


@dataclass(slots=True)
class Quarantine(FeedAction):
    """Keep messages that failed validation."""

    suspects: tuple[Suspect, ...]


@dataclass(slots=True)
class StateChanged(FeedAction):
    """Log and store the new state."""

    old: FeedState
    new: FeedState


@dataclass(slots=True)
class BarsDropped(FeedAction):
    """Log that sealed bars were dropped because the store takes none; they are fetched again."""

    bars: int


ACTIONS: tuple[type[FeedAction], ...] = (
    StartBackfill, CheckSilence, Resubscribe, CorrectBars, ConfirmBars, RefetchTrades, RecheckBars, Publish, Quarantine,
    StateChanged, BarsDropped,
)  # fmt: skip


# ── the tables ───────────────────────────────────────────────────────────────────────────────────
class FeedFacts(Protocol):
    """The values of a feed that guards look at."""

    @property
    def stream(self) -> Stream: ...
    @property
    def is_subscribed(self) -> bool: ...
    @property
    def last_id(self) -> int | None: ...


Guard = Callable[[FeedFacts], bool]


def always(feed: FeedFacts) -> bool:
    """always"""
    return True


def is_trusted(feed: FeedFacts) -> bool:
    """its subscription stands and its stream is trusted"""
    return feed.is_subscribed and feed.stream in TRUSTED


def has_trades(feed: FeedFacts) -> bool:
    """it has a last trade"""
    return feed.last_id is not None


class FeedAct(StrEnum):
    """An action of a row besides the change of state."""

    BUILD = "build from the events that waited"
    FETCH = "StartBackfill with the trades after the last one"
    FILL = "StartBackfill with the gap"
    RECOVER = "drop what is built and not stored; StartBackfill from what is stored"
    REBUILD = "StartBackfill by bars"
    CHECK = "CheckSilence"


@dataclass(frozen=True, slots=True)
class FeedTransition:
    """One transition. `target` None keeps the state; `guard` has a docstring that the docs show."""

    number: int
    states: frozenset[FeedState]
    event: type[FeedEvent]
    guard: Guard
    target: FeedState | None
    acts: tuple[FeedAct, ...]
    note: str = ""


def _in(*states: FeedState) -> frozenset[FeedState]:
    return frozenset(states)


S = FeedState
BUILDING = _in(S.LIVE, S.STALE)

TRANSITIONS: tuple[FeedTransition, ...] = (
    FeedTransition(1, _in(S.COLD, S.LIVE, S.STALE), Subscribed, always, S.BACKFILL, (FeedAct.FETCH,),
        "trades before it were missed"),
    FeedTransition(2, _in(S.BACKFILL), Subscribed, always, None, (FeedAct.FETCH,), "after the one that runs"),
    FeedTransition(3, _in(S.LIVE), Disconnected, always, S.STALE, (), "an outage begins"),
    FeedTransition(4, BUILDING, Discontinued, has_trades, S.BACKFILL, (FeedAct.FETCH,), ""),
    FeedTransition(5, _in(S.BACKFILL), Discontinued, has_trades, None, (FeedAct.FETCH,), "after the one that runs"),
    FeedTransition(6, BUILDING, GapFound, always, S.BACKFILL, (FeedAct.FILL,), "trades wait until it is filled"),
    FeedTransition(7, BUILDING, CheckDue, always, None, (FeedAct.CHECK,), "silence alone proves nothing"),
    FeedTransition(8, _in(S.LIVE), FellSilent, always, S.STALE, (), "a connection that answers pings proves nothing"),
    FeedTransition(9, _in(S.STALE), Trusted, always, S.LIVE, (), "the outage ends"),
    FeedTransition(10, _in(S.BACKFILL), BackfillFinished, is_trusted, S.LIVE, (FeedAct.BUILD,), "the outage ends"),
    FeedTransition(11, _in(S.BACKFILL), BackfillFinished, always, S.STALE, (FeedAct.BUILD,),
        "not subscribed, or silent"),
    FeedTransition(12, _in(S.COLD, S.LIVE, S.STALE), Overflowed, always, S.BACKFILL, (FeedAct.RECOVER,),
        "REST has the bars"),
    FeedTransition(13, BUILDING, BarsOutdated, always, S.BACKFILL, (FeedAct.REBUILD,), ""),
    FeedTransition(14, _in(S.BACKFILL), BarsOutdated, always, None, (FeedAct.REBUILD,), "after the one that runs"),
    FeedTransition(15, _in(S.COLD, S.BACKFILL, S.LIVE, S.STALE), Stopped, always, S.OFF, (), "its outages end"),
)  # fmt: skip

ARRIVED = "a new trade arrived"
SUBSCRIBED = "the subscription stands again"
LAGS = "REST has a trade that did not arrive"
SILENT = "silent beyond the limit, or most of its connection is"
PROVEN = "for as long as the limit: no trade is missing"

#: (event, stream before) -> stream after; a pair that is not here changes nothing
STREAM: Mapping[tuple[str, Stream], Stream] = {
    **{(ARRIVED, stream): Stream.CURRENT for stream in Stream},
    (SUBSCRIBED, Stream.LAGGING): Stream.CURRENT,
    (SUBSCRIBED, Stream.SILENT_LAGGING): Stream.SILENT,
    (LAGS, Stream.CURRENT): Stream.LAGGING,
    (LAGS, Stream.SILENT): Stream.SILENT_LAGGING,
    (SILENT, Stream.CURRENT): Stream.SILENT,
    (SILENT, Stream.LAGGING): Stream.SILENT_LAGGING,
    (PROVEN, Stream.SILENT): Stream.CURRENT,
}


def _index(rows: Iterable[FeedTransition]) -> dict[tuple[FeedState, type[FeedEvent]], tuple[FeedTransition, ...]]:
    found: dict[tuple[FeedState, type[FeedEvent]], tuple[FeedTransition, ...]] = {}
    for row in rows:
        for state in row.states:
            found[state, row.event] = (*found.get((state, row.event), ()), row)
    return found


_ROWS = _index(TRANSITIONS)


def row_of(state: FeedState, event: type[FeedEvent], feed: FeedFacts) -> FeedTransition | None:
    """Return the row that applies to an event in a state; None when it changes nothing."""
    for row in _ROWS.get((state, event), ()):
        if row.guard(feed):
            return row
    return None
