"""Files that are damaged, cut, empty or not all there: refused, or played as far as they are good and said so."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from fks.clock import FakeClock
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.tape.reader import NO_BEGINNING, NO_END, ZEROS, check_file, read_header, read_records, tape_files
from fks.market.tape.recorded_exchange import RecordedWire
from fks.market.tape.records import ENDING, HEAD, HEAD_CRC, RecordKind, TapeRecord
from fks.market.tape.replay import TapeExchange
from fks.model.errors import InputError
from tests.support.taping import WANTED, events_of, frames, make_tape, recorder_into


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """A file of several blocks."""
    recorder = recorder_into(tmp_path / "made")
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    rows = frames()
    for begin in range(0, len(rows), 200):
        events_of(wire, rows[begin : begin + 200])
        recorder.flush()
    recorder.close()
    return tape_files(tmp_path / "made")[0].read_bytes()


def blocks_of(data: bytes) -> list[int]:
    """Return where the blocks begin, and where the end does."""
    at, found = data.index(b"\n") + 1, []
    while data[at : at + 4] == b"BLK\n":
        found.append(at)
        at += HEAD.size + HEAD_CRC.size + HEAD.unpack_from(data, at)[2]
    return [*found, at]


def with_field(data: bytes, offset: int, change: int) -> bytes:
    """Change a number of the third block's head."""
    at = blocks_of(data)[2] + offset
    (value,) = struct.unpack_from("<I", data, at)
    return data[:at] + struct.pack("<I", (value + change) % (1 << 32)) + data[at + 4 :]


def swapped(data: bytes) -> bytes:
    _, _, second, third, fourth, *_ = blocks_of(data)
    return data[:second] + data[third:fourth] + data[second:third] + data[fourth:]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "a block removed": lambda data: data[: blocks_of(data)[2]] + data[blocks_of(data)[3] :],
    "the last block removed": lambda data: data[: blocks_of(data)[-2]] + data[blocks_of(data)[-1] :],
    "two blocks swapped": swapped,
    "its number": lambda data: with_field(data, 4, 1),
    "a length that reaches beyond the end": lambda data: with_field(data, 8, 1 << 31),
    "a length that is too short": lambda data: with_field(data, 8, -1),
    "fewer records": lambda data: with_field(data, 16, -5),
    "more records": lambda data: with_field(data, 16, 5),
    "its time": lambda data: with_field(data, 24, 1),
    "bytes lost in the last block": lambda data: data[: blocks_of(data)[-2] + 100] + data[blocks_of(data)[-2] + 200 :],
    "the digest of its end": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "the count of its end": lambda data: data[:-8] + bytes([data[-8] ^ 1]) + data[-7:],
    "more after its end": lambda data: data + b"extra",
    "twice": lambda data: data + data,
    "its header": lambda data: data.replace(b'"number":1', b'"number":2', 1),
    "a block of another file": lambda data: data.replace(b'"run":', b'"run":1', 1)[: blocks_of(data)[1] + 1],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_replay_and_check(whole: bytes, name: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{ENDING}"
    file.write_bytes(DAMAGED[name](whole))
    with pytest.raises(InputError) as checked:
        check_file(file)
    with pytest.raises(InputError) as played:
        list(read_records([file]))
    assert (checked.value.code, played.value.code) == ("TAPE_BROKEN", "TAPE_BROKEN")


CUT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "in a block": (lambda data: data[: blocks_of(data)[3] + 200], NO_END),
    "at a block": (lambda data: data[: blocks_of(data)[3]], NO_END),
    "in a head": (lambda data: data[: blocks_of(data)[3] + 10], NO_END),
    "in the end": (lambda data: data[:-10], NO_END),
    "before the end": (lambda data: data[: blocks_of(data)[-1]], NO_END),
    "zeros from a block on": (lambda data: data[: blocks_of(data)[3]] + bytes(len(data) - blocks_of(data)[3]), ZEROS),
    "zeros from within a block": (lambda data: data[: blocks_of(data)[3] + 99] + bytes(len(data)), ZEROS),
    "zeros from within a head": (lambda data: data[: blocks_of(data)[3] + 9] + bytes(len(data)), ZEROS),
    "zeros in the end": (lambda data: data[:-30] + bytes(30), ZEROS),
    "half a header": (lambda data: data[:50], NO_BEGINNING),
    "half a header and zeros": (lambda data: data[:50] + bytes(100_000), NO_BEGINNING),
    "nothing": (lambda _: b"", NO_BEGINNING),
    "only zeros": (lambda _: bytes(100_000), NO_BEGINNING),
}


@pytest.mark.parametrize("name", CUT)
def test_cut_file_is_replayed_up_to_the_cut_and_reported(whole: bytes, name: str, tmp_path: Path) -> None:
    make, why = CUT[name]
    file, good = tmp_path / f"x{ENDING}", tmp_path / f"good{ENDING}"
    file.write_bytes(make(whole))
    good.write_bytes(whole)
    assert (check_file(file).is_whole, check_file(file).cut) == (False, why)
    *found, hole = read_records([file])
    assert found == list(read_records([good]))[: len(found)]
    assert (hole.kind, msgspec.json.decode(hole.data)) == (
        RecordKind.HOLE,
        {"kind": "not_whole", "text": f"{file.name} {why}"},
    )


def test_another_form_is_refused_with_a_message(whole: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"x{ENDING}"
    file.write_bytes(whole.replace(b"fkstape/2", b"fkstape/1", 1).replace(b'"run":', b'"walk":', 1))
    with pytest.raises(
        InputError, match=r"is of the form fkstape/1, which this version does not read; play it with the version"
    ):
        check_file(file)


def gaps_of(records: list[TapeRecord]) -> list[tuple[str, str]]:
    found = [msgspec.json.decode(record.data) for record in records if record.kind is RecordKind.HOLE]
    return [(hole["kind"], hole["text"]) for hole in found]


def test_missing_files_and_other_recordings_are_reported(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path, file_bytes=1)
    for i in range(6):
        recorder.frame(1, i + 1, b"x")
        recorder.flush()
    recorder.close()
    files = tape_files(tmp_path)
    assert gaps_of(list(read_records(files))) == []
    assert gaps_of(list(read_records(files[3:]))) == [], "the oldest may be gone"
    gone = [files[0], files[2], files[5]]
    assert gaps_of(list(read_records(gone))) == [
        ("missing", f"missing file 2 before {files[2].name}"),
        ("missing", f"missing files 4 to 5 before {files[5].name}"),
    ]
    ((kind, text),) = gaps_of(list(read_records([files[1], files[0]])))
    assert (kind, "comes after number 2" in text) == ("order", True)
    make_tape(tmp_path / "other", frames(5))
    (other,) = tape_files(tmp_path / "other")
    data = other.read_bytes()
    other.write_bytes(data[: data.index(b"\n")].replace(b'"run":', b'"run":1', 1) + b"\n")
    gaps = gaps_of(list(read_records([*files, other])))
    assert [kind for kind, _ in gaps] == ["run", "not_whole"]

    records = read_records(files[:2])
    next(records)
    files[1].unlink()
    assert gaps_of(list(records)) == [("missing", f"{files[1].name} was removed meanwhile")]


def test_a_file_has_its_header_from_the_first_moment(tmp_path: Path) -> None:
    recorder = recorder_into(tmp_path)
    recorder.begin()
    (file,) = tape_files(tmp_path)
    header = read_header(file)
    assert header is not None
    assert header.number == 1
    assert (check_file(file).records, check_file(file).cut) == (0, NO_END)
    recorder.close()
    assert check_file(file).is_whole


def test_check_reports_every_file_and_replay_plays_the_valid_ones(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tape"
    folder.mkdir()
    for name, data in [("1", b""), ("2", whole), ("3", whole[:-10]), ("4", whole[:40])]:
        (folder / f"{name}{ENDING}").write_bytes(data)

    def fks(*message: object) -> tuple[int, str, str]:
        code = run(cli, ["--home", str(tmp_path / "home"), "sim", "replay", str(folder), *map(str, message)])
        return code, *capsys.readouterr()

    code, out, _ = fks("--check", "--json")
    assert code == FAILED
    assert [row["verdict"] for row in msgspec.json.decode(out)["items"]] == [
        NO_BEGINNING,
        "whole",
        NO_END,
        NO_BEGINNING,
    ]
    code, out, _ = fks("--timeframe", "1s")
    assert code == OK
    assert f"trouble: 1{ENDING} {NO_BEGINNING}" in out
    assert f"trouble: 3{ENDING} {NO_END}" in out
    code, out, _ = fks("--json")
    assert msgspec.json.decode(out)["troubles"]["not_whole"] == 3

    (folder / f"0{ENDING}").write_bytes(os.urandom(99))
    code, out, _ = fks("--check")
    assert (code, "does not begin as one" in out, "whole" in out, NO_END in out) == (FAILED, True, True, True)
    code, _, err = fks()
    assert (code, "does not begin as one" in err) == (USAGE, True)


def test_a_tape_without_a_message_has_no_dates_and_no_digest_to_expect(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"x{ENDING}"
    file.write_bytes(whole[: whole.index(b"\n") + 1])
    for message in ([], ["--check"], ["--json"]):
        run(cli, ["sim", "replay", str(file), *message])
        out, _ = capsys.readouterr()
        assert "1970" not in out
    digest = msgspec.json.decode(out)["bars_digest"]
    assert run(cli, ["sim", "replay", str(file), "--expect", digest]) == FAILED
    assert "no whole bar of 1m" in capsys.readouterr().err
    file.write_bytes(b"")
    assert run(cli, ["sim", "replay", str(file)]) == USAGE
    assert NO_BEGINNING in capsys.readouterr().err


def test_a_speed_that_is_no_number_is_refused(whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"x{ENDING}"
    file.write_bytes(whole)
    assert run(cli, ["sim", "replay", str(file), "--speed", "nan"]) == USAGE
    assert "speed nan is not above 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="speed nan is not above 0"):
        TapeExchange(file, FakeClock(), speed=float("nan"))


def test_blocks_follow_one_another(whole: bytes) -> None:
    starts = blocks_of(whole)
    assert len(starts) > 5
    assert all(a < b for a, b in pairwise(starts))
