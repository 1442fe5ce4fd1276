"""Bars of a tape with gaps: recorded REST answers fill them as in the feed; no bar spans any other gap."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.tape.player import play
from fks.market.tape.reader import read_records, tape_files
from fks.market.tape.recorded_exchange import RecordedWire
from fks.market.tape.records import RecordKind, TapeRecord
from fks.market.tape.summary import Summary
from fks.model.bar import Bar, PublicTrade
from fks.model.market import TradeIds
from fks.model.timeframe import NS
from tests.support.recorded import agg_trades, public_trades, raw_trades
from tests.support.taping import WANTED, events_of, frames, recorder_into

ROWS = frames()[1:]
TRADES = public_trades(agg_trades(raw_trades()))


def opened(number: int, at_ns: int) -> TapeRecord:
    wanted = [[item.channel, item.symbol, item.timeframe] for item in WANTED]
    return TapeRecord(RecordKind.OPEN, number, at_ns, msgspec.json.encode({"url": "", "wanted": wanted}))


def received(indexes: Sequence[int], connection: int = 1) -> list[TapeRecord]:
    """Return the frames of some trades, in the order of their coming."""
    return [TapeRecord(RecordKind.FRAME, connection, ROWS[i][0], ROWS[i][1]) for i in indexes]


def rest_answer(begin: int, end: int, at_ns: int, *, from_id: int | None = None) -> TapeRecord:
    trades: list[PublicTrade] = TRADES[begin:end]
    asked = ["BTCUSDT", from_id, None, 1000]
    return TapeRecord(RecordKind.TRADES, 0, at_ns, msgspec.json.encode({"asked": asked, "told": trades}))


def summary_of(records: Sequence[TapeRecord], ids: TradeIds = TradeIds.CONTIGUOUS) -> Summary:
    """Return what came of records that came one after the other, whenever their trades were made."""
    times = accumulate((record.received_ns for record in records), max)
    came = [replace(record, received_ns=at_ns) for record, at_ns in zip(records, times, strict=True)]
    return Summary("binance", "1s", ids).add_all(play(came, BinanceWire))


def bars_of(summary: Summary) -> list[Bar]:
    return summary.symbols["BTCUSDT"].bars


@functools.cache
def truth() -> list[Bar]:
    summary = summary_of([opened(1, ROWS[0][0]), *received(range(len(ROWS)))])
    assert summary.troubles == {}
    assert len(bars_of(summary)) > 20
    return bars_of(summary)


BEGIN = opened(1, ROWS[0][0])
ALL = list(range(len(ROWS)))
GAP = range(300, 500)  # over several seconds
BEFORE, AFTER = ALL[: GAP.start], ALL[GAP.stop :]
BOTH = [TradeIds.CONTIGUOUS, TradeIds.RISING]


def test_no_bar_spans_a_gap_and_the_gap_is_reported() -> None:
    summary = summary_of([BEGIN, *received(BEFORE), *received(AFTER)])
    row = summary.symbols["BTCUSDT"]
    lost = range(TRADES[GAP.start - 1].time_ns // NS, TRADES[GAP.stop].time_ns // NS + 1)
    assert row.bars == [bar for bar in truth() if bar.time_ns // NS not in lost]
    assert (row.ids_missing, row.repeated, summary.troubles) == (len(GAP), 0, {"hole": 1})
    first, last = TRADES[GAP.start].trade_id, TRADES[GAP.stop - 1].trade_id
    assert f"BTCUSDT: ids {first} to {last} are not on the tape, between 20" in summary.descriptions[0]


@pytest.mark.parametrize("ids", BOTH)
def test_recorded_rest_answer_fills_a_gap(ids: TradeIds) -> None:
    now_ns = ROWS[GAP.stop][0]
    answers = [
        rest_answer(GAP.start - 1, GAP.start + 100, now_ns + 1),
        rest_answer(GAP.start + 99, GAP.stop + 3, now_ns + 2),
    ]
    summary = summary_of(
        [BEGIN, *received(BEFORE), opened(2, now_ns), *received(AFTER[:1], 2), *answers, *received(AFTER[1:], 2)], ids
    )
    assert bars_of(summary) == truth()
    row = summary.symbols["BTCUSDT"]
    assert (summary.troubles, row.trades, row.sequence.filled, row.repeated) == ({}, len(TRADES), len(GAP), 0)


def test_discontinuity_is_a_gap_where_ids_prove_nothing() -> None:
    summary = summary_of([BEGIN, *received(BEFORE), opened(2, ROWS[GAP.stop][0]), *received(AFTER, 2)], TradeIds.RISING)
    assert summary.troubles == {"hole": 1}
    assert "trades may be missing (it was dialled again)" in summary.descriptions[0]
    lost = range(TRADES[GAP.start - 1].time_ns // NS, TRADES[GAP.stop].time_ns // NS + 1)
    assert bars_of(summary) == [bar for bar in truth() if bar.time_ns // NS not in lost]


@pytest.mark.parametrize("answer", [(GAP.start + 5, GAP.stop + 1), (GAP.start - 5, GAP.stop - 5)])
def test_answer_that_does_not_span_a_gap_does_not_fill_it(answer: tuple[int, int]) -> None:
    now_ns = ROWS[GAP.stop][0]
    summary = summary_of(
        [
            BEGIN,
            *received(BEFORE),
            opened(2, now_ns),
            *received(AFTER[:1], 2),
            rest_answer(*answer, now_ns),
            *received(AFTER[1:], 2),
        ],
        TradeIds.RISING,
    )
    assert summary.troubles == {"hole": 1}
    assert {bar.time_ns: bar for bar in truth()}.items() >= {bar.time_ns: bar for bar in bars_of(summary)}.items()


@pytest.mark.parametrize("ids", BOTH)
def test_reconnect_that_repeats_the_last_trade_leaves_no_gap(ids: TradeIds) -> None:
    summary = summary_of(
        [BEGIN, *received(BEFORE), opened(2, ROWS[GAP.start][0]), *received(ALL[GAP.start - 9 :], 2)], ids
    )
    assert (bars_of(summary), summary.troubles, summary.symbols["BTCUSDT"].repeated) == (truth(), {}, 9)


def test_slightly_late_trade_is_put_in_order() -> None:
    order = list(ALL)
    for i in range(100, 1000, 50):
        order.insert(i + 5, order.pop(i))
    summary = summary_of([BEGIN, *received(order)])
    assert bars_of(summary) == truth()
    assert (summary.symbols["BTCUSDT"].repeated, summary.troubles) == (0, {})


def test_trade_after_its_gap_was_given_up_is_no_repetition() -> None:
    late = [replace(record, received_ns=ROWS[-1][0] + 1000 * NS + i) for i, record in enumerate(received([300, 301]))]
    summary = summary_of([BEGIN, *received([i for i in ALL if i not in (300, 301)]), late[0], *late])
    row = summary.symbols["BTCUSDT"]
    assert (row.sequence.strays, row.repeated, row.ids_missing) == (3, 0, 2)


def test_late_trade_removes_its_bar_where_ids_prove_nothing() -> None:
    order = [*ALL[:300], *ALL[301:600], 300, *ALL[600:]]
    summary = summary_of([BEGIN, *received(order)], TradeIds.RISING)
    assert bars_of(summary) == [bar for bar in truth() if bar.time_ns // NS != TRADES[300].time_ns // NS]
    assert summary.troubles == {"late": 1}


def test_exchange_that_restarts_its_ids_starts_a_new_sequence() -> None:
    def restarted(i: int) -> TapeRecord:
        row = json.loads(ROWS[i][1])
        row["data"]["a"] = i - 599
        return TapeRecord(RecordKind.FRAME, 1, ROWS[i][0], json.dumps(row).encode())

    pause_ns = next(i for i in range(600, len(ROWS)) if TRADES[i].time_ns > TRADES[599].time_ns + NS)
    summary = summary_of([BEGIN, *received(ALL[:600]), *(restarted(i) for i in ALL[pause_ns:])])
    assert summary.troubles == {"hole": 1}
    assert summary.symbols["BTCUSDT"].repeated == 0
    assert {bar.time_ns: bar for bar in truth()}.items() >= {bar.time_ns: bar for bar in bars_of(summary)}.items()
    assert bars_of(summary)[-1] == truth()[-1]


def test_time_that_steps_back_is_reported() -> None:
    summary = Summary("binance").add_all(play([BEGIN, *received([*range(600, 700), *range(100, 200)])], BinanceWire))
    assert summary.troubles["time"] == 1
    assert "time steps back from 20" in summary.descriptions[0]


def test_a_run_with_a_file_missing_has_no_bar_there(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path, file_bytes=4_000)
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    rows = frames()
    for begin in range(0, len(rows), 50):
        events_of(wire, rows[begin : begin + 50])
        recorder.flush()
    recorder.close()
    files = tape_files(tmp_path)
    gone = files[len(files) // 2]
    gone.unlink()
    for ids in BOTH:
        summary = Summary("binance", "1s", ids).add_all(play(read_records(tape_files(tmp_path)), BinanceWire))
        assert summary.troubles["missing"] == 1
        assert summary.troubles["hole"] == 1
        bars = bars_of(summary)
        assert {bar.time_ns: bar for bar in truth()}.items() >= {bar.time_ns: bar for bar in bars}.items()
        assert len(truth()) > len(bars) > 5


@settings(max_examples=settings.default.max_examples // 2)
@given(st.sampled_from(BOTH), st.integers(0, 2**32))
def test_no_bar_is_wrong_for_any_loss_repetition_or_order(ids: TradeIds, seed: int) -> None:
    """Every bar is the true one; if REST answers fill every gap, all bars are there."""
    dice = random.Random(seed)
    records, at, number, is_filled = [BEGIN], 0, 1, True
    while at < len(ROWS):
        upto = min(len(ROWS), at + dice.randint(5, 200))
        part = list(range(at, upto))
        if ids is TradeIds.CONTIGUOUS:
            for _ in range(3):
                i = dice.randrange(len(part))
                part.insert(min(len(part), i + dice.randint(0, 4)), part.pop(i))
        part += [dice.choice(part) for _ in range(dice.randint(0, 3))]
        records += received(part, number)
        at = upto + dice.choice([0, dice.randint(1, 100)])
        if upto < at < len(ROWS):
            number += 1
            now_ns = ROWS[at][0]
            records += [opened(number, now_ns), *received([at], number)]
            if is_answered := dice.random() < 0.7 and ids is not TradeIds.OPAQUE:
                records.append(rest_answer(upto - 1, at + dice.randint(1, 9), now_ns))
            is_filled = is_filled and is_answered
        elif at >= len(ROWS):
            break
    summary = summary_of(records, ids)
    found = {bar.time_ns: bar for bar in bars_of(summary)}
    true = {bar.time_ns: bar for bar in truth()}
    assert true.items() >= found.items()
    if is_filled:
        last_ns = max(found)
        assert found == {at_ns: bar for at_ns, bar in true.items() if at_ns <= last_ns}
