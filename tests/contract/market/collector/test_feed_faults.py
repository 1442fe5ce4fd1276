"""Faults of one channel, one symbol or one message: missing data is fetched, and no other feed is disturbed."""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from typing import Any

import pytest

from fks.config.settings import Settings
from fks.market.collector.collector import Collector
from fks.market.collector.gap_filler import FOLLOWED, LATE_TRIES
from fks.market.collector.writer import Writer
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.feed import machine as m
from fks.market.feed.liveness import ChannelLiveness
from fks.market.feed.machine import Stream
from fks.model.backoff import Backoff
from fks.model.bar import PublicTrade
from fks.model.errors import OutageError
from fks.model.market import Channel, Discontinuity, MarketEvent, Subscription, Suspect
from fks.model.timeframe import NS, to_ns
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.latest import Latest
from fks.store.quarantine import QuarantineStore
from tests.support.collecting import FEW, check_stored, later, make_collector, running, settings_for, state
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.soak_cases import soaked
from tests.support.waiting import until

EXCHANGE_SEED = 23


async def outages(db: Database, symbol: str, channel: str = "trades") -> list[Any]:
    return await db.sql(
        "SELECT began_at, ended_at, cause FROM feed_outages WHERE symbol = $1 AND channel = $2 ORDER BY began_at",
        symbol,
        channel,
    )


async def now_ns(db: Database) -> int:
    return to_ns((await db.sql("SELECT clock_timestamp()"))[0][0])


async def test_silent_symbol_moves_and_the_others_never_stop(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    settings = settings_for(exchange.info, **{**FEW, "symbols": symbols, "stale_min_s": 4.0, "stale_max_s": 4.0})
    async with running(make_collector(settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready and len(collector.feeds) == 3)
        assert collector.detail()["sockets"] == 1
        began = await now_ns(database)
        exchange.fault(
            "freeze_stream", symbol="BTCUSDT", event="aggTrade", seconds=9
        )  # its bars go on: they prove nothing

        async def is_stale() -> bool:
            return await state(database) == "STALE"

        await until(is_stale, deadline_s=10)
        await until(lambda: collector.detail()["sockets"] == 2, deadline_s=5)
        await until(lambda: collector.is_ready)
        ended = await now_ns(database)
        await later(database, 2)
    await check_stored(database, exchange)
    rows = await outages(database, "BTCUSDT")
    assert len(rows) == 1, rows
    row = rows[0]
    assert row["cause"] == "silent"
    assert began - 2 * NS < to_ns(row["began_at"]) < began + 2.5 * NS  # a second without a trade was not missed
    assert began + 8 * NS < to_ns(row["ended_at"]) <= ended
    assert await outages(database, "ETHUSDT") == []
    assert await outages(database, "SOLUSDT") == []


async def test_reconnect_for_a_silent_symbol_makes_no_other_live(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    """The whole exchange stands still; one symbol's limit is over first, and takes the socket of both along."""
    settings = settings_for(exchange.info, **FEW, stale_max_s=2.0)
    async with running(make_collector(settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        patient = collector.feeds["BTCUSDT"]
        patient.liveness[Channel.TRADES] = ChannelLiveness(time.monotonic(), 60.0, 60.0)
        await later(database, 1)
        before = len(log.lines)

        def states() -> list[str]:
            changes = [fields for _, event, fields in log.lines[before:] if event == "feed.state"]
            return [str(fields["state"]) for fields in changes if fields["symbol"] == "BTCUSDT"]

        exchange.fault("freeze_stream")
        await until(lambda: "BACKFILL" in states()[:-1], deadline_s=30)  # and it has ended
        assert (set(states()), patient.stream) == ({"BACKFILL", "STALE"}, Stream.SILENT)
        exchange.clear()
        await until(lambda: collector.is_ready)
    await check_stored(database, exchange)


async def test_repeated_or_reordered_trades_are_stored_once_in_order(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 1)
        for kind in ("duplicate_trades", "reorder_trades"):
            exchange.fault(kind, count=20)
            await until(lambda: not exchange.ask("GET", "/sim/faults"), deadline_s=20)
        await later(database, 2)
        await until(lambda: collector.is_ready)
    await check_stored(database, exchange)


async def test_outage_of_a_dead_collector_starts_at_its_last_message(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    first = make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=1)
    async with running(first, is_clean=False):
        await until(lambda: first.is_ready)
        await later(database, 2)
    died = await now_ns(database)
    last_ns = to_ns(
        (await database.sql("SELECT last_message_at FROM feeds WHERE symbol = 'BTCUSDT' AND timeframe = 'trades'"))[0][
            0
        ]
    )
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=2)) as second:
        await until(lambda: second.is_ready)
        await later(database, 1)
    rows = await outages(database, "BTCUSDT")
    assert len(rows) == 1, rows
    row = rows[0]
    assert (row["cause"], to_ns(row["began_at"])) == ("collector", last_ns // 1000 * 1000)
    assert died < to_ns(row["ended_at"]) < died + 10 * NS
    await check_stored(database, exchange)


async def test_quotes_and_books_are_published_when_chosen(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    meter: RecordingMeter,
    exchange: LocalExchange,
) -> None:
    await database.sql(
        "INSERT INTO assets (exchange, symbol, channels) VALUES ('binance', 'BTCUSDT', '{trades,quotes,book}')"
    )
    settings = settings_for(exchange.info, **{**FEW, "symbols": ("BTCUSDT", "ETHUSDT")})
    latest = Latest(bus)
    async with running(make_collector(settings, as_collector, bus, log, meter=meter)) as collector:
        await until(lambda: collector.is_ready)

        async def has_all() -> bool:
            seen = await latest.read("binance", "BTCUSDT")
            return None not in (seen.price, seen.quote, seen.book)

        await until(has_all, deadline_s=10)
        seen = await latest.read("binance", "BTCUSDT")
        assert seen.quote is not None
        assert seen.book is not None
        assert float(seen.quote["bid"]) < float(seen.quote["ask"])
        assert len(seen.book["bids"]) >= 5
        other = await latest.read("binance", "ETHUSDT")
        assert (other.quote, other.book) == (None, None)
        assert collector.detail()["sockets"] == 3  # quotes and books have their own


async def test_frozen_quotes_are_resubscribed_and_trades_never_stop(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    await database.sql(
        "INSERT INTO assets (exchange, symbol, channels) VALUES ('binance', 'BTCUSDT', '{trades,quotes,book}')"
    )
    settings = settings_for(exchange.info, **FEW, stale_max_s=8.0)
    async with running(make_collector(settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        feed = collector.feeds["BTCUSDT"]
        for channel in (Channel.TRADES, Channel.BARS):
            feed.liveness[channel] = ChannelLiveness(time.monotonic(), 60.0, 60.0)
        began = await now_ns(database)
        exchange.fault("freeze_stream", symbol="BTCUSDT", event="bookTicker", seconds=60)

        await until(lambda: log.events("warning").count("feed.stale") >= 3, deadline_s=60)  # on other sockets, in vain
        exchange.clear()

        async def is_over() -> bool:
            return [row["ended_at"] is not None for row in await outages(database, "BTCUSDT", "quotes")] == [True]

        await until(is_over)
        changes = [(fields["symbol"], fields["state"]) for _, event, fields in log.lines if event == "feed.state"]
        assert sorted(changes) == sorted((s, state) for s in FEW["symbols"] for state in ("BACKFILL", "LIVE")), changes
    row, *more = await outages(database, "BTCUSDT", "quotes")
    assert (row["cause"], more) == ("silent", [])
    assert to_ns(row["began_at"]) > began - 2 * NS
    for symbol in FEW["symbols"]:
        assert await outages(database, symbol) == await outages(database, symbol, "bars") == []
    assert await outages(database, "BTCUSDT", "book") == []


async def test_asset_starts_and_changes_without_disturbing_the_others(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await database.sql(
            "INSERT INTO assets (exchange, symbol, timeframes) VALUES ('binance', 'sol/usdt', '{5m,1m}')"
        )

        async def is_on() -> bool:
            return await state(database, "SOLUSDT") == "LIVE"

        await until(is_on, deadline_s=5)  # in any spelling, within five seconds
        assert loop.time() - began < 5
        frames = await database.sql("SELECT DISTINCT timeframe FROM feeds WHERE symbol = 'SOLUSDT'")
        assert {row[0] for row in frames} == {"trades", "1m", "5m"}
        await database.sql("UPDATE assets SET timeframes = '{1s,1m}' WHERE symbol = 'SOLUSDT'")
        await later(database, 2, symbol="SOLUSDT")
        await database.sql("UPDATE assets SET is_enabled = false WHERE symbol IN ('SOLUSDT', 'ETHUSDT', 'BTCUSDT')")
        await until(lambda: not collector.feeds, deadline_s=5)
        assert collector.is_ready  # nothing is wanted, and nothing is wrong
        assert collector.detail()["sockets"] == 0
    assert "feed.disconnected" not in log.events()
    assert await outages(database, "BTCUSDT") == await outages(database, "ETHUSDT") == []
    assert await outages(database, "SOLUSDT") == []  # no collector died when it changed


async def test_asset_that_could_not_be_ended_is_collected_again_when_chosen(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        feed = collector.feeds["ETHUSDT"]

        async def refuse(writer: Writer, feeds: object) -> None:
            raise OutageError("the store is away")

        monkeypatch.setattr(Writer, "flush_all", refuse)
        monkeypatch.setattr("fks.market.collector.gap_filler.GRACE_NS", 60 * NS)  # no correction begins before the end
        assert feed.last_id is not None
        late = PublicTrade(
            "binance", "ETHUSDT", feed.last_id + 1, feed.last_ns - 60 * NS, Decimal(1), Decimal(1), False
        )
        feed.handle(m.Received(time.time_ns(), time.monotonic(), [late]))
        await database.sql("UPDATE assets SET is_enabled = false WHERE symbol = 'ETHUSDT'")
        await until(lambda: feed.state == "OFF", deadline_s=20)
        collector.received(
            [Discontinuity(channel, "", "the exchange says so") for channel in (Channel.TRADES, Channel.QUOTES)]
        )
        await asyncio.sleep(0.5)  # what is being let go is not repaired, nor revised, meanwhile
        assert (feed.state, feed.outages.open, feed.late_waiting) == ("OFF", (), 1)
        await database.sql("UPDATE assets SET is_enabled = true WHERE symbol = 'ETHUSDT'")
        asked = log.events("warning").count("collector.assets")
        await until(lambda: log.events("warning").count("collector.assets") > asked + 1, deadline_s=20)
        monkeypatch.undo()
        await until(lambda: collector.feeds.get("ETHUSDT") not in (None, feed), deadline_s=20)
        await until(lambda: collector.is_ready)
        await later(database, 1, symbol="ETHUSDT")


async def test_trades_that_the_store_lacks_are_fetched_again(
    database: Database, as_collector: Database, bus: Bus, log: CollectingLog, exchange: LocalExchange
) -> None:
    async with running(
        make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=1)
    ) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 3)
    await database.sql(
        "DELETE FROM market_trades t USING (SELECT symbol, min(trade_id) AS low, max(trade_id) AS high FROM "
        "market_trades GROUP BY 1) e"
        " WHERE t.symbol = e.symbol AND t.trade_id > e.low AND t.trade_id < e.high"
    )
    async with running(
        make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, epoch=2)
    ) as collector:

        async def is_whole() -> bool:
            rows = await database.sql(
                "SELECT max(trade_id) - min(trade_id) + 1 - count(*) FROM market_trades GROUP BY symbol"
            )
            return [row[0] for row in rows] == [0, 0]

        await until(lambda: collector.is_ready)
        await until(is_whole)
    await check_stored(database, exchange)


async def test_suspect_that_the_quarantine_cannot_hold_ends_nothing(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    meter: RecordingMeter,
    exchange: LocalExchange,
) -> None:
    await database.sql("ALTER TABLE quarantine ADD CHECK (reason <> 'hated')")
    async with running(
        make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log, meter=meter)
    ) as collector:
        await until(lambda: collector.is_ready)
        reasons = ("\0 cannot be", "hated", "odd")
        collector.received([Suspect(Channel.TRADES, "\0", reason, "{}") for reason in reasons])

        async def are_held() -> bool:
            return [row.held.reason for row in await QuarantineStore(database).rows()] == ["odd", "� cannot be"]

        await until(are_held, deadline_s=15)
        assert log.events("warning").count("quarantine.refused") == 1
        assert meter.total("fks_market_dropped_total", channel="suspects") == 1
        await until(lambda: collector.is_ready)


def false_trade(collector: Collector, *, ids_ahead: int, s_ahead: float) -> bytes:
    """Return a frame of a trade after the last one, so far ahead."""
    last_id, at_ms = collector.feeds["BTCUSDT"].last_id, round((time.time() + s_ahead) * 1000)
    assert last_id is not None
    return json.dumps(
        {
            "stream": "btcusdt@aggTrade",
            "data": {
                "e": "aggTrade",
                "E": 1,
                "s": "BTCUSDT",
                "a": last_id + ids_ahead,
                "p": "50000",
                "q": "0.001",
                "f": 1,
                "l": 1,
                "T": at_ms,
                "m": True,
                "M": True,
            },
        }
    ).encode()


@pytest.mark.parametrize(
    ("ids_ahead", "s_ahead", "reason"),
    soaked(
        [(1, 40.0, "a time to come"), (10_000_000, 0.0, "beyond the newest"), (1, 3000.0, "a time to come")],
        2,
    ),
)
async def test_false_frame_is_quarantined_and_the_feed_goes_on(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
    ids_ahead: int,
    s_ahead: float,
    reason: str,
) -> None:
    wire = BinanceWire()
    wire.subscribe_frames([Subscription(Channel.TRADES, "BTCUSDT")])
    async with running(make_collector(settings_for(exchange.info, **FEW), as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 1)
        collector.received(
            list(wire.receive(false_trade(collector, ids_ahead=ids_ahead, s_ahead=s_ahead), time.time_ns()))
        )  # type: ignore[arg-type]

        async def is_quarantined() -> bool:
            return any(
                reason in row["reason"]
                for row in await database.sql("SELECT reason FROM quarantine WHERE channel = 'trades'")
            )

        await until(is_quarantined, deadline_s=30)
        await until(lambda: collector.is_ready)
        await later(database, 3, deadline_s=30)
        assert await database.sql("SELECT time FROM ohlcv_data WHERE time > clock_timestamp()") == []
        assert log.events("warning").count("feed.gap") < 10
        await until(lambda: collector.is_ready)
    await check_stored(database, exchange)


class LateRest:
    """A stream that loses some trades of BTCUSDT, and a REST that shows none after the last one before them.

    While the feed waits for them, the queries follow one another at once; query number LATE_TRIES is answered once
    `is_followed` is set. Once more were made than a single trade is queried for, REST shows all trades.
    """

    def __init__(self, collector: Collector, *, is_sealed: bool) -> None:
        """`is_sealed`: REST also answers that no trade is missing, until a bar is sealed without a lost one. Else such
        a query fails."""
        self._collector, self._is_sealed = collector, is_sealed
        self._received, self._fetch = collector.received, collector.exchange.fetch_trades
        self.feed = collector.feeds["BTCUSDT"]
        self._known = self.feed.last_id or 0
        self.lost: dict[int, int] = {}  # id -> time
        self.asked, self.is_followed = 0, asyncio.Event()
        collector.received = self._lose  # type: ignore[method-assign]
        collector.exchange.fetch_trades = self._fetch_late  # type: ignore[method-assign]

    @property
    def is_over(self) -> bool:
        """Return whether REST shows all trades."""
        return self.asked > LATE_TRIES + 3

    def has_followers(self) -> bool:
        """Return whether three trades that follow one another wait."""
        waiting = set(self.feed.backlog.trade_ids())
        return any(waiting.issuperset(range(number, number + FOLLOWED)) for number in waiting)

    def _lose(self, batch: list[MarketEvent]) -> None:
        self.lost |= {
            event.trade_id: event.time_ns
            for event in batch
            if isinstance(event, PublicTrade) and event.symbol == "BTCUSDT"
        }
        assert self.feed.builder is not None
        if len(self.lost) >= 5 and (not self._is_sealed or self.feed.builder.open_ns > min(self.lost.values())):
            self._collector.received = self._received  # type: ignore[method-assign]

    async def _fetch_late(self, symbol: str, **what: Any) -> list[PublicTrade]:
        found = await self._fetch(symbol, **what)
        if symbol != "BTCUSDT" or self.is_over:
            return found
        if self.feed.state == "BACKFILL":
            self.asked += 1
            if self.asked == LATE_TRIES:
                await self.is_followed.wait()
        elif not self._is_sealed:
            raise OutageError("REST does not answer")
        return [trade for trade in found if trade.trade_id <= self._known]


@pytest.fixture
def late_rest_settings(exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings for a REST that is late by seconds: its queries follow one another at once, and no silence."""
    monkeypatch.setattr("fks.market.collector.gap_filler.RETRY", Backoff(0.02, 0.02))
    return settings_for(exchange.info, **FEW, stale_min_s=20.0)


async def test_rest_that_lags_by_seconds_costs_no_trades(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
    late_rest_settings: Settings,
) -> None:
    """The connection is lost as well, while REST is late."""
    async with running(make_collector(late_rest_settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 1)
        rest = LateRest(collector, is_sealed=False)
        await until(lambda: rest.asked >= 2, deadline_s=60)
        exchange.fault("cut_stream")
        await until(lambda: "feed.disconnected" in log.events(), deadline_s=30)
        await until(lambda: rest.feed.is_subscribed and rest.has_followers(), deadline_s=60)
        rest.is_followed.set()
        await until(lambda: rest.is_over and collector.is_ready, deadline_s=60)
        await later(database, 2, deadline_s=30)
        assert await database.sql("SELECT reason FROM quarantine WHERE channel = 'trades'") == []
        assert rest.feed.late == 0
    await check_stored(database, exchange)
    assert [row["cause"] for row in await outages(database, "BTCUSDT")] == ["gap"]


async def test_bar_sealed_while_rest_lags_is_corrected_before_the_collector_ends(
    database: Database,
    as_collector: Database,
    bus: Bus,
    log: CollectingLog,
    exchange: LocalExchange,
    late_rest_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """REST answered that a second had no trade. The trades come, and the collector is stopped before the correction."""
    for bound in ("DRAIN_S", "CORRECT_S", "FLUSH_S"):  # it is about all, not about how soon
        monkeypatch.setattr(f"fks.market.collector.collector.{bound}", 20.0)
    async with running(make_collector(late_rest_settings, as_collector, bus, log)) as collector:
        await until(lambda: collector.is_ready)
        await later(database, 1)
        clock = collector.feeds["BTCUSDT"].clock
        await until(lambda: clock.passed_ns(time.monotonic()), deadline_s=30)  # before a message no bar is overdue
        rest = LateRest(collector, is_sealed=True)
        await until(lambda: rest.asked >= 2 and rest.has_followers(), deadline_s=60)
        rest.is_followed.set()
        await until(lambda: rest.feed.late_waiting, deadline_s=60, every_s=0.001)
        await collector.drain()
        assert await database.sql("SELECT reason FROM quarantine WHERE channel = 'trades'") == []
        assert rest.feed.late > 0
    await check_stored(database, exchange)
    assert [row["cause"] for row in await outages(database, "BTCUSDT")] == ["gap"]
