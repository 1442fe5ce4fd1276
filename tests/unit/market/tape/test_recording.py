"""Removal of the oldest files of a recorder's own exchange, and the end of a recording, each reported."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import USAGE, run
from fks.interfaces.cli.data.record import listen_until_stopped, report_errors
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.market.exchanges.registry import make_exchange
from fks.market.tape.reader import read_records, tape_files
from fks.market.tape.recorded_exchange import RecordedExchange, make_recorder
from fks.market.tape.recorder import Recorder
from fks.market.tape.records import ENDING
from fks.model.market import MarketEvent, Subscription
from tests.support.collecting import settings_for
from tests.support.ports import CollectingLog
from tests.support.taping import recorder_into

OLD = f"binance-20200101T000000000000-00001{ENDING}"


def fill(recorder: Recorder, times: int = 30) -> None:
    for i in range(times):
        recorder.frame(1, i + 1, random.Random(i).randbytes(5000))
        recorder.flush()
    recorder.close()


def test_only_the_oldest_of_its_own_exchange_are_removed_and_logged(tmp_path: Path, log: CollectingLog) -> None:
    others = [
        f"kraken-20200101T000000000000-00001{ENDING}",
        f"aaa{ENDING}",
        f"binance-mine{ENDING}",
        f"binance-us-20200101T000000000000-00001{ENDING}",
    ]
    for name in [OLD, *others]:
        (tmp_path / name).write_bytes(bytes(20_000))
    fill(recorder_into(tmp_path, log, file_bytes=10_000, keep_bytes=40_000))
    assert not (tmp_path / OLD).exists()
    assert all((tmp_path / name).exists() for name in others)
    own = [file for file in tape_files(tmp_path) if file.name not in others]
    assert sum(file.stat().st_size for file in own) < 60_000
    removed = [fields["path"] for _, event, fields in log.lines if event == "tape.removed"]
    assert removed[0] == str(tmp_path / OLD)
    assert len(removed) > 5


def test_file_that_is_read_or_written_is_not_removed(tmp_path: Path) -> None:
    first = recorder_into(tmp_path, file_bytes=10_000)
    fill(first, times=9)
    files = tape_files(tmp_path)
    reading = read_records(files)
    next(reading)
    for file in files:
        file.rename(tmp_path / file.name.replace("2026", "2025"))
    (held, *rest) = tape_files(tmp_path)
    fill(recorder_into(tmp_path, file_bytes=10_000, keep_bytes=20_000))
    left = tape_files(tmp_path)
    assert held in left
    assert not set(rest) & set(left)
    reading.close()  # type: ignore[attr-defined]


def test_a_recording_by_hand_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / OLD).write_bytes(bytes(20_000))
    exchange = make_exchange(
        "binance",
        settings=settings_for({"rest": "http://127.0.0.1:9", "ws": "ws://127.0.0.1:9"}),
        node=None,
        clock=RealClock(),
        log=CollectingLog(),
    )
    fill(make_recorder(exchange, tmp_path, RealClock(), CollectingLog(), file_mb=0.01))
    assert (tmp_path / OLD).exists()


class Silent(BinanceExchange):
    """An exchange that takes a subscription and says nothing more."""

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        yield []
        await asyncio.Event().wait()


async def test_a_recording_ends_when_its_tape_fails(tmp_path: Path, log: CollectingLog) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = recorder_into(tmp_path / "file", log)
    recorder.frame(1, 1, b"x")
    taped = RecordedExchange(
        Silent(ExchangeAddresses("http://127.0.0.1:9", "ws://127.0.0.1:9"), RealClock(), log), recorder
    )
    await asyncio.wait_for(listen_until_stopped(taped, [], None, RealClock()), 60)
    assert recorder.error


async def test_lost_messages_are_reported_during_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = recorder_into(tmp_path)
    recorder.counts.lost = 3
    looking = asyncio.create_task(report_errors(recorder, RealClock()))
    await asyncio.sleep(0)
    looking.cancel()
    assert "3 messages are not on the tape" in capsys.readouterr().err
    recorder.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "nan"], "nan is no number of seconds"),
        (["--seconds", "inf"], "inf is no number of seconds"),
        (["--channels", " , "], "no channel is named"),
    ],
)
def test_impossible_numbers_and_channels_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["--home", str(tmp_path), "data", "record", "BTCUSDT", *arguments]) == USAGE
    assert message in capsys.readouterr().err
