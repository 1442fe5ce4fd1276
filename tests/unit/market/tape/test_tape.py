"""Tapes: a replay equals the received messages; damage is refused, a cut end is reported."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import threading
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from fks.clock import FakeClock, RealClock
from fks.config.settings import Data, Settings
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.exchanges.registry import EXCHANGES, make_exchange
from fks.market.tape.player import answer_of, play, wires_of
from fks.market.tape.reader import check_file, header_of, read_records, tape_files
from fks.market.tape.recorded_exchange import RecordedWire, make_recorder
from fks.market.tape.recorder import Recorder
from fks.market.tape.records import ENDING, RecordKind
from fks.market.tape.replay import TapeExchange
from fks.market.tape.summary import Summary
from fks.market.tape.writer import TapeWriter
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError
from fks.model.market import Channel, MarketEvent, Subscription
from fks.model.timeframe import NS
from tests.support.ports import CollectingLog
from tests.support.recorded import COINBASE, agg_trades, present, public_trades, raw_trades, slow_bars
from tests.support.taping import WANTED, events_of, frames, make_tape, recorder_into


def played(folder: Path) -> list[MarketEvent]:
    return [event for item in play(read_records(tape_files(folder)), wires_of("binance")) for event in item.events]


def test_replay_equals_the_received_messages(tmp_path: Path) -> None:
    received = make_tape(tmp_path)
    assert len(received) > 1000
    assert played(tmp_path) == received
    (file,) = tape_files(tmp_path)
    report = check_file(file)
    assert (report.is_whole, report.frames, report.lost) == (True, len(frames()), 0)
    assert report.header is not None
    assert report.header.exchange == "binance"
    assert report.size < sum(len(frame) for _, frame in frames()) / 5, "compressed"


def test_each_file_of_a_run_lists_the_open_connections(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path, file_bytes=8_000)
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    rows, received = frames(), []
    for begin in range(0, len(rows), 100):
        received += events_of(wire, rows[begin : begin + 100])
        recorder.flush()
    recorder.close()
    files = tape_files(tmp_path)
    assert len(files) > 2
    assert all(check_file(file).is_whole for file in files)
    assert [header.number for file in files if (header := check_file(file).header)] == list(range(1, len(files) + 1))
    assert played(tmp_path) == received
    last = [event for item in play(read_records(files[-1:]), wires_of("binance")) for event in item.events]
    assert last == received[-len(last) :], "a file alone is played too"
    assert last


def test_oldest_files_are_removed_when_there_are_too_many(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path, file_bytes=10_000, keep_bytes=40_000)
    for i in range(100):
        recorder.frame(1, i, random.Random(i).randbytes(5000))
        recorder.flush()
    recorder.close()
    files = tape_files(tmp_path)
    assert sum(file.stat().st_size for file in files) < 60_000
    assert check_file(files[-1]).last_ns == 99


@pytest.mark.parametrize("cut", [1, 30, 45, 400, 5000])
def test_cut_file_is_valid_up_to_its_last_block(tmp_path: Path, cut: int) -> None:
    received = make_tape(tmp_path / "whole")
    recorder = recorder_into(tmp_path / "cut")
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    rows = frames()
    for begin in range(0, len(rows), 100):
        events_of(wire, rows[begin : begin + 100])
        recorder.flush()
    recorder.close()
    (file,) = tape_files(tmp_path / "cut")
    os.truncate(file, file.stat().st_size - cut)
    assert not check_file(file).is_whole
    found = played(tmp_path / "cut")
    assert found == received[: len(found)]
    assert len(found) > len(received) / 2


def test_any_damaged_byte_is_found(tmp_path: Path) -> None:
    make_tape(tmp_path)
    (file,) = tape_files(tmp_path)
    whole = file.read_bytes()
    dice = random.Random(4)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole) - 44)] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        try:
            report = check_file(file)
        except InputError as error:
            assert error.code == "TAPE_BROKEN"  # noqa: PT017
        else:
            assert not report.is_whole, "a length that reaches beyond the end reads as a cut"


def test_missing_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no tape at"):
        tape_files(tmp_path)
    (tmp_path / f"x{ENDING}").write_text("hello")
    with pytest.raises(InputError, match="does not begin as one"):
        check_file(tmp_path / f"x{ENDING}")


def test_tapes_of_two_exchanges_are_not_one(tmp_path: Path) -> None:
    make_tape(tmp_path)
    (file,) = tape_files(tmp_path)
    (tmp_path / f"other{ENDING}").write_bytes(
        file.read_bytes().replace(b'"exchange":"binance"', b'"exchange":"kraken"', 1)
    )
    with pytest.raises(InputError, match="these are tapes of binance and kraken"):
        header_of(tape_files(tmp_path))


def test_two_runs_in_one_folder_are_played_one_after_the_other(tmp_path: Path) -> None:
    first = make_tape(tmp_path, frames(100))
    (file,) = tape_files(tmp_path)
    file.rename(tmp_path / f"binance-2025{ENDING}")
    second = make_tape(tmp_path, frames(50))
    assert played(tmp_path) == first + second


def test_slow_recorder_leaves_out_counts_and_reports(
    tmp_path: Path, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.market.tape.recorder.BLOCK_S", 3600.0)  # nothing is written meanwhile
    recorder = recorder_into(tmp_path, log, waiting_max=10_000)
    recorder.frame(1, 1, b"x" * 20_000)
    for i in range(3):
        recorder.frame(1, i + 1, b"x")
    recorder.close()
    (file,) = tape_files(tmp_path)
    assert check_file(file).lost == recorder.counts.lost == 3
    assert "tape.behind" in log.events("warning")


def test_failing_disk_ends_only_the_recording(tmp_path: Path, log: CollectingLog) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = recorder_into(tmp_path / "file", log)
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    assert len(events_of(wire, frames(50))) == 50
    recorder.close()
    assert recorder.error
    assert "tape.failed" in log.events("error")
    assert len(events_of(wire, frames(50)[1:])) == 50


def test_key_in_a_subscription_is_not_on_the_tape(tmp_path: Path) -> None:
    class Secret(BinanceWire):
        def subscribe_frames(self, wanted: object) -> list[bytes]:
            return [b'{"action":"auth","params":"s3cret"}']

    recorder = recorder_into(tmp_path)
    RecordedWire(Secret(), recorder).subscribe_frames(WANTED)
    recorder.close()
    assert all(b"s3cret" not in record.data for record in read_records(tape_files(tmp_path)))


def test_summary_is_repeatable_and_its_bars_are_those_of_the_trades(tmp_path: Path) -> None:
    make_tape(tmp_path)
    first, second = (
        Summary("binance").add_all(play(read_records(tape_files(tmp_path)), wires_of("binance"))) for _ in "12"
    )
    assert (first.digest, first.bars_digest) == (second.digest, second.bars_digest)
    row = first.symbols["BTCUSDT"]
    trades = public_trades(agg_trades(raw_trades()))
    assert (row.trades, row.repeated, row.ids_missing) == (len(trades), 0, 0)
    truth = slow_bars(trades, "1m")
    assert row.bars
    for bar in row.bars:
        assert (bar.open, bar.high, bar.low, bar.close) == tuple(float(x) for x in truth[bar.time_ns][:4])


def test_coinbase_frames_are_replayed_as_the_wire_decodes_them(tmp_path: Path) -> None:
    path = present(COINBASE)
    with gzip.open(path, "rt") as lines:
        frames = [row for row in map(json.loads, lines) if row["t"] == "recv"]
    rows = [(round(row["ts"] * 1e9), row["data"].encode()) for row in frames if row["conn"] == frames[0]["conn"]]
    wanted = [
        Subscription(channel, symbol)
        for symbol in ("BTC-USD", "ETH-USD")
        for channel in (Channel.TRADES, Channel.QUOTES, Channel.BOOK)
    ]
    recorder = recorder_into(tmp_path)
    wire = RecordedWire(wires_of("coinbase")(), recorder)
    wire.subscribe_frames(wanted)
    received = events_of(wire, rows)
    recorder.close()
    assert len(received) > 100
    assert [
        e for item in play(read_records(tape_files(tmp_path)), wires_of("coinbase")) for e in item.events
    ] == received


@pytest.mark.parametrize("exchange", ["binance", "kraken", "coinbase"])
def test_wires_for_playing_need_no_network_and_no_key(exchange: str) -> None:
    assert wires_of(exchange)().subscribe_frames(WANTED)


# ── in the place of an exchange ──────────────────────────────────────────────────────────────────
async def taken(
    source: TapeExchange, wanted: tuple[Subscription, ...] = WANTED, *, most: int | None = None
) -> list[MarketEvent]:
    """Return what one watcher gets until the tape is over, or until it has enough."""
    found: list[MarketEvent] = []
    stream = source.watch(wanted)
    ended = asyncio.ensure_future(source.ended.wait())
    try:
        while most is None or len(found) < most:
            following = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
            await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                await asyncio.wait({following})
                break
            found += following.result()
    finally:
        ended.cancel()
        await stream.aclose()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", sorted(EXCHANGES))
def test_tape_has_the_capabilities_of_its_exchange(tmp_path: Path, name: str) -> None:
    exchange = make_exchange(
        name,
        settings=Settings(
            data=Data(endpoints=(f"{name} http://127.0.0.1:9 ws://127.0.0.1:9",), polygon_api_key=SecretStr("k"))
        ),
        node=None,
        clock=RealClock(),
        log=CollectingLog(),
    )
    recorder = make_recorder(exchange, tmp_path, RealClock(), CollectingLog())
    recorder.answer(RecordKind.INSTRUMENTS, [], [])  # a tape with nothing on it is no file
    recorder.close()
    source = TapeExchange(tmp_path, RealClock())
    assert (source.name, source.capabilities) == (name, exchange.capabilities)


async def test_a_tape_stands_in_for_its_exchange(tmp_path: Path) -> None:
    received = make_tape(tmp_path)
    source = TapeExchange(tmp_path, RealClock())
    await source.open()
    assert (source.name, source.capabilities) == ("binance", BinanceExchange.capabilities)
    assert await taken(source) == received
    assert await source.fetch_trades("BTCUSDT", from_id=5, since_ns=None, limit=3) == received[4:7]
    assert await source.fetch_trades("BTCUSDT", from_id=None, since_ns=None, limit=2) == received[-2:]
    await source.close()


async def test_watchers_get_their_channels_and_a_new_one_continues(tmp_path: Path) -> None:
    received = make_tape(tmp_path)
    source = TapeExchange(tmp_path, RealClock())
    await source.open()
    first = await taken(source, most=300)
    rest = await taken(source, (Subscription(Channel.TRADES, "ETHUSDT"), *WANTED))
    assert first == received[: len(first)]
    assert rest == received[-len(rest) :]
    assert rest
    await source.close()
    both = TapeExchange(tmp_path, RealClock())
    await both.open()
    none, all_of_it = await asyncio.gather(taken(both, (Subscription(Channel.QUOTES, "BTCUSDT"),)), taken(both))
    assert (none, all_of_it) == ([], received)
    await both.close()


async def test_equal_request_gets_the_recorded_answer_others_known_data(tmp_path: Path) -> None:
    clock = FakeClock()
    recorder = recorder_into(tmp_path, clock=clock)
    wire = RecordedWire(BinanceWire(), recorder)
    rows, trades = frames(200), public_trades(agg_trades(raw_trades())[:200])
    minute = clock.now_ns() // (60 * NS) * 60 * NS
    bars = [Bar("binance", "BTCUSDT", "1m", minute + i * 60 * NS, 1.0, 1.0, 1.0, 1.0, 1.0) for i in range(-3, 3)]
    wire.subscribe_frames(WANTED)
    events_of(wire, rows[:1])
    recorder.answer(RecordKind.TRADES, ["BTCUSDT", None, None, 1], trades[9:10])
    recorder.answer(RecordKind.TRADES, ["BTCUSDT", None, 7, 1000], trades[5:12])
    recorder.answer(RecordKind.BARS, ["BTCUSDT", "1m", None, 9, None], bars)
    await clock.advance(30)
    recorder.answer(RecordKind.TRADES, ["BTCUSDT", 150, None, 1000], trades[149:160])
    recorder.answer(RecordKind.TRADES, ["BTCUSDT", None, None, 1], trades[199:200])
    events_of(wire, [(clock.now_ns() + i, frame) for i, (_, frame) in enumerate(rows[1:100])])
    recorder.close()
    source = TapeExchange(tmp_path, FakeClock())
    await source.open()

    async def fetched(**asked: int | None) -> list[PublicTrade]:
        return await source.fetch_trades("BTCUSDT", **{"from_id": None, "since_ns": None, "limit": 1000, **asked})  # type: ignore[arg-type]

    assert await fetched(limit=1) == trades[9:10], "as recorded, though the tape had more a moment later"
    assert await fetched(since_ns=7) == trades[5:12]
    assert await fetched(limit=1) == trades[11:12], "the next answer to that lies ahead: what is known now"
    assert await fetched(from_id=150) == [], "it was recorded half a minute later"
    assert await fetched(from_id=8) == trades[7:12]
    assert await source.fetch_bars("BTCUSDT", "1m", None, 9) == bars
    assert await source.fetch_bars("BTCUSDT", "1m", None, 10) == bars[:3]
    assert await source.fetch_bars("BTCUSDT", "1m", bars[1].time_ns, 1, until_ns=bars[3].time_ns) == bars[1:2]
    await source.close()


async def test_a_tape_is_played_at_the_speed_that_was_asked(tmp_path: Path) -> None:
    rows = [(ns, frame) for ns, frame in frames(300)]
    rows = [(rows[0][0] + i * 10_000_000, frame) for i, (_, frame) in enumerate(rows)]  # 3 s of tape
    make_tape(tmp_path, rows)
    clock = FakeClock()
    source = TapeExchange(tmp_path, clock, speed=10)
    await source.open()
    arrived_s: list[float] = []

    async def read() -> None:
        async for batch in source.watch(WANTED):
            arrived_s.extend(clock.monotonic() for _ in batch)

    reading = asyncio.create_task(read())
    await clock.advance(0.31)
    assert len(arrived_s) == 300
    assert max(abs(at_s - number / 1000) for number, at_s in enumerate(arrived_s, 1)) < 0.0021
    reading.cancel()
    await source.close()
    with pytest.raises(InputError, match="speed 0 is not above 0"):
        TapeExchange(tmp_path, clock, speed=0)


async def test_damaged_tape_raises_in_the_watcher(tmp_path: Path) -> None:
    make_tape(tmp_path)
    source = TapeExchange(tmp_path, RealClock())
    await source.open()
    (file,) = tape_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[-3000] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        await taken(source)
    await source.close()


def test_recording_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes nothing until all is recorded; the processor time is that of the recording thread."""
    is_writing, is_recorded = threading.Event(), threading.Event()
    write, in_time = TapeWriter.write, list[bool]()

    def write_late(writer: TapeWriter, parts: list[bytes], records: int, first_ns: int, last_ns: int) -> None:
        is_writing.set()
        in_time.append(is_recorded.wait(20.0 if all(in_time) else 0.0))
        write(writer, parts, records, first_ns, last_ns)

    monkeypatch.setattr(TapeWriter, "write", write_late)
    recorder: Recorder = recorder_into(tmp_path)
    rows = frames()
    recorder.frame(1, *rows[0])
    assert is_writing.wait(20.0)
    begin_s = time.thread_time()
    for _ in range(10):
        for ns, frame in rows:
            recorder.frame(1, ns, frame)
    took_us = (time.thread_time() - begin_s) * 1e6 / (10 * len(rows))
    is_recorded.set()
    recorder.close()
    assert all(in_time), "recording waited for the disk"
    assert recorder.counts.lost == 0
    (file,) = tape_files(tmp_path)
    assert check_file(file).frames == 10 * len(rows) + 1
    assert took_us < 50, "a few microseconds"


def test_public_trades_survive_their_json(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path)
    trades = public_trades(agg_trades(raw_trades())[:10])
    recorder.answer(RecordKind.TRADES, ["BTCUSDT", None, None, 10], trades)
    recorder.close()
    (record,) = read_records(tape_files(tmp_path))
    assert answer_of(record).values == trades
