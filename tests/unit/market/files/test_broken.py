"""Files that are wrong: each gets one message that names row and column, and nothing of it is used."""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fks.market.files.bars import ImportOptions, read_bars
from fks.model.errors import InputError
from fks.model.timeframe import NS

NOW = 1_800_000_000 * NS
HEADER = "time,open,high,low,close,volume"
ROWS = [f"{1_700_000_040 + 60 * i},{10 + i % 3},{13 + i % 3},{9 + i % 3},{11 + i % 3},{100 + i}" for i in range(40)]
ANY = ImportOptions(exchange="somewhere", symbol="BTCUSDT")


def message_of(path: Path, text: str | bytes, wanted: ImportOptions = ANY) -> str:
    """Return the one error message of a file."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_bars(path, wanted, now_ns=NOW)
    assert "\n" not in str(caught.value)
    assert not caught.value.message.endswith(".")
    return str(caught.value)


def text(rows: list[str], header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def put(row: int, column: int, value: str) -> str:
    """Return the table with one cell changed; `row` is the line in the file."""
    rows = list(ROWS)
    cells = rows[row - 2].split(",")
    cells[column] = value
    rows[row - 2] = ",".join(cells)
    return text(rows)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (5, 1, "abc", "x.csv row 5, column open: 'abc' is not a number"),
        (5, 2, "", "x.csv row 5, column high: is empty"),
        (5, 4, "nan", "x.csv row 5, column close: 'nan' is not a number"),
        (5, 4, "inf", "x.csv row 5, column close: 'inf' is not a number"),
        (5, 1, "0", "x.csv row 5, column open: 0.0 is not above 0"),
        (5, 3, "-1", "x.csv row 5, column low: -1.0 is not above 0"),
        (5, 5, "-3", "x.csv row 5, column volume: -3.0 is below 0"),
        (5, 2, "5", "x.csv row 5, column high: 5.0 is below the bar's open or close"),
        (5, 3, "12.5", "x.csv row 5, column low: 12.5 is above the bar's open or close"),
        (7, 0, "", "x.csv row 7, column time: is empty"),
        (7, 0, "yesterday", "x.csv row 7, column time: 'yesterday' is not a whole number as the stamps before it are"),
        (7, 0, "1700000340000", "x.csv row 7, column time: 1700000340000 is in ms, the rows before it are in s"),
        (7, 0, "1700000340000000", "x.csv row 7, column time: 1700000340000000 is in µs, the rows before it are in s"),
        (
            7,
            0,
            "1700000340000000000",
            "x.csv row 7, column time: 1700000340000000000 is in ns, the rows before it are in s",
        ),
        (7, 0, "1700000280", "x.csv row 7, column time: 2023-11-14T22:18:00Z stands twice, in row 6 as well"),
        (7, 0, "1700000220", "x.csv row 7, column time: 2023-11-14T22:17:00Z comes after 2023-11-14T22:18:00Z"),
        (7, 0, "1700000341", "x.csv row 7, column time: 2023-11-14T22:19:01Z is not where a 1m bar begins in UTC"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, row: int, column: int, value: str, message: str) -> None:
    found = message_of(tmp_path / "x.csv", put(row, column, value))
    assert found.startswith(message), found


def test_a_comma_in_a_number_is_explained(tmp_path: Path) -> None:
    rows = [row.replace(",", ";") for row in ROWS]
    rows[3] = rows[3].replace(";10;", ";10,5;")
    found = message_of(tmp_path / "x.csv", text(rows, HEADER.replace(",", ";")))
    assert "row 5, column open: '10,5' is not a number" in found
    assert "numbers have a point" in found


@pytest.mark.parametrize("cut", [1, 9, 14, 17])
def test_a_half_written_line_is_named(tmp_path: Path, cut: int) -> None:
    whole = text(ROWS)
    found = message_of(tmp_path / "x.csv", whole[: len(whole) - 1 - len(ROWS[-1]) + cut])
    assert found.startswith("x.csv row 41: has ")
    assert "of 6 columns: the file is half-written" in found


def test_a_line_with_another_number_of_columns_is_named(tmp_path: Path) -> None:
    assert (
        message_of(tmp_path / "x.csv", text([*ROWS[:6], ROWS[6] + ",9", *ROWS[7:]]))
        == "x.csv row 8: has 7 of 6 columns; correct that line"
    )


@pytest.mark.parametrize("end", ["", "  "])
@pytest.mark.parametrize("cut", [0, 1])
def test_file_that_may_end_inside_a_number_is_refused(tmp_path: Path, end: str, cut: int) -> None:
    """139 may have become 13, and a whole line without its end looks the same."""
    whole = text(ROWS).rstrip("\n")
    assert message_of(tmp_path / "x.csv", whole[: len(whole) - cut] + end) == (
        "x.csv row 41: has no line end: its last number may have been cut, 12 of 123 is a number too; fetch it again; "
        "if the file is whole, end its last line"
    )
    (tmp_path / "x.csv").write_text(whole + end + "\n")
    assert len(read_bars(tmp_path / "x.csv", ANY, now_ns=NOW).bars) == 40


def test_last_line_is_read_where_nothing_can_have_been_cut(tmp_path: Path) -> None:
    fixed = [f"{row}.00" for row in ROWS]
    path = tmp_path / "x.csv"
    path.write_text(text(fixed).rstrip("\n"))
    assert len(read_bars(path, ANY, now_ns=NOW).bars) == 40, "every volume has two places"
    assert "has no line end" in message_of(path, text(fixed)[:-2])
    path.write_text(text([f"{row},0" for row in ROWS], HEADER + ",ignore").rstrip("\n"))
    assert len(read_bars(path, ANY, now_ns=NOW).bars) == 40, "the last column is one word"


def test_complete_packed_file_keeps_its_last_line_without_an_end(tmp_path: Path) -> None:
    whole = text(ROWS).rstrip("\n").encode()
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(whole))
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv", whole)
    for name in ("x.csv.gz", "x.zip"):
        assert len(read_bars(tmp_path / name, ANY, now_ns=NOW).bars) == 40


def test_gzip_of_several_members_is_one_table(tmp_path: Path) -> None:
    whole = text(ROWS).encode()
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(whole[:300]) + gzip.compress(whole[300:]))
    assert len(read_bars(tmp_path / "x.csv.gz", ANY, now_ns=NOW).bars) == 40


def test_row_of_a_step_back_in_the_middle_is_named(tmp_path: Path) -> None:
    """The second half of a file before its first half: the rows are not newest first."""
    found = message_of(tmp_path / "x.csv", text([*ROWS[20:], *ROWS[:20]]))
    assert found.startswith("x.csv row 22, column time: 2023-11-14T22:14:00Z comes after 2023-11-14T22:53:00Z")


def test_row_where_a_cut_gzip_file_ends_is_named(tmp_path: Path) -> None:
    rows = [
        f"{1_600_000_020 + 60 * i},{10 + i % 7},{23 + i % 5},{9 - i % 3},{11 + i % 6},{100 + i}" for i in range(60_000)
    ]
    packed = gzip.compress(text(rows).encode())
    found = message_of(tmp_path / "x.csv.gz", packed[: len(packed) * 9 // 10])
    row = int(found.partition("row ")[2].partition(":")[0])
    assert "its compressed data ends early" in found
    assert 50_000 < row < 60_000


@pytest.mark.parametrize(
    ("row", "volume", "message"),
    [
        (9, "0.0000000000001", "1e-13 has more than 12 decimal places"),
        (11, "5000000000000000000", "5e+18 makes the sum of its month larger than 4.61e+18"),
    ],
)
def test_volume_that_no_sum_can_hold_is_named(tmp_path: Path, row: int, volume: str, message: str) -> None:
    found = message_of(tmp_path / "x.csv", put(row, 5, volume))
    assert found.startswith(f"x.csv row {row}, column volume: {message}"), found


def test_a_file_of_nothing_but_a_line_without_its_end_is_refused(tmp_path: Path) -> None:
    assert message_of(tmp_path / "x.csv", text(ROWS[:1])[:-1]).startswith(
        "x.csv row 2: has no line end: its last number may have been cut"
    )


def test_incomplete_packed_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(text(ROWS * 50).encode())
    assert "half-written or damaged: its compressed data ends early" in message_of(tmp_path / "x.csv.gz", packed[:-200])
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv", text(ROWS))
    assert "is half-written or damaged" in message_of(tmp_path / "x.zip", held.getvalue()[:-30])
    damaged = bytearray(held.getvalue())
    damaged[60] ^= 0xFF
    assert "is half-written or damaged" in message_of(tmp_path / "x.zip", bytes(damaged))
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr("y.csv", text(ROWS))
    assert "holds 2 files (x.csv, y.csv), not one table" in message_of(tmp_path / "x.zip", held.getvalue())


def test_incomplete_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"time": [1, 2]}), path)
    assert "is half-written: a parquet file ends with its index" in message_of(path, path.read_bytes()[:-3])
    assert "is called parquet and is none" in message_of(path, text(ROWS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (HEADER + "\n", "has a header and no rows"),
        ("hello\nworld\n", "no delimiter cuts its lines into five columns or more"),
        (
            "id,price,qty,quote_qty,time,is_buyer_maker\n1,2,3,4,1700000040000,true\n",
            "has no bar whose trades are all in it",
        ),
        ("symbol,bid,ask,price,x\nA,1,2,3,4\n", "holds trades, not bars"),
        ('{"t": 1700000040, "o": 1}\n', "x.csv row 1: is JSON, not a table; write it as csv with a header"),
        ("[[1700000040,1,2,3,4,5]]\n", "is JSON, not a table"),
        (
            '"Date","Price","Open","High","Low","Vol.","Change %"\n"05/31/2024","67,472.4","68,352.3","69,018.2",'
            '"66,670.0","67.79K","-1.29%"\n',
            "is of Investing.com's form: Price is the close, thousands have commas, and volumes end in K, M or B",
        ),
        (
            "time,open,high,low,close,volume\n2024-05-12,1,2,1,2,5\n2024-13-05,1,2,1,2,5\n",
            "row 3, column time: '2024-13-05' is a day or a time of day that there is not: day and month may be the "
            "other way round; write 2024-05-31",
        ),
        (
            "time,open,high,close,volume\n1,2,3,4,5\n",
            "no column is the low (there are: time, open, high, close, volume)",
        ),
        (b"\x00\x01\x02", "is neither text nor parquet"),
        ("20250313 040100 0000000;19725;19724;19726;1\n" * 3, "is a NinjaTrader export of ticks"),
    ],
)
def test_file_without_a_table_of_bars_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in message_of(tmp_path / "x.csv", content)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_bars(tmp_path / "none.csv", ANY, now_ns=NOW)
    with pytest.raises(InputError, match="is a folder"):
        read_bars(tmp_path, ANY, now_ns=NOW)


@pytest.mark.parametrize("order", [(0, 1, 3, 2, 4, 5), (0, 2, 1, 3, 4, 5), (0, 1, 4, 2, 3, 5)])
def test_columns_in_another_order_are_refused(tmp_path: Path, order: tuple[int, ...]) -> None:
    rows = [",".join(row.split(",")[i] for i in order) for row in ROWS]
    found = message_of(tmp_path / "x.csv", text(rows))
    assert "row 2, column high: " in found
    assert "40 of 40 rows have no such order, so the columns are other ones" in found


VOLUME_FIRST = [f"{1_700_000_040 + 60 * i},{i + 1.5},{i + 100.5},{i + 102},{i + 99},{i + 101}" for i in range(20)]


def test_wrong_columns_are_refused_and_named_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    found = message_of(path, text(VOLUME_FIRST))
    assert "so the columns are other ones; say which column is which: --columns time,open,high" in found
    taken = read_bars(path, replace(ANY, columns="time,volume,open,high,low,close"), now_ns=NOW).bars
    assert (taken.open[0], taken.high[0], taken.low[0], taken.close[0], taken.volume[0]) == (100.5, 102, 99, 101, 1.5)


@pytest.mark.parametrize("shift", [0, 1])
def test_table_without_a_header_is_refused_until_columns_are_named(tmp_path: Path, shift: int) -> None:
    names = HEADER.split(",")
    order = [*range(shift, 6), *range(shift)]
    rows = [",".join(row.split(",")[i] for i in order) for row in ROWS]
    assert message_of(tmp_path / "x.csv", "\n".join(rows) + "\n") == (
        "x.csv row 1: has 6 columns and no header; name them, with - for the others: --columns "
        "time,open,high,low,close,volume"
    )
    columns = ",".join(names[i] for i in order)
    assert len(read_bars(tmp_path / "x.csv", replace(ANY, columns=columns), now_ns=NOW).bars) == len(ROWS)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("time,open,high,low,close,Volume BTC,Volume USDT", "volume: Volume BTC, Volume USDT"),
        ("time,open,high,low,close,last,volume", "close: close, last"),
        ("time,open,high,low,close,tickvol,vol", "volume: tickvol, vol"),
    ],
)
def test_two_columns_for_one_value_are_refused_until_columns_are_named(tmp_path: Path, names: str, what: str) -> None:
    rows = [f"{row},7" for row in ROWS]
    found = message_of(tmp_path / "x.csv", text(rows, names))
    assert found == (
        f"x.csv row 1: has 2 columns for {what}; name the columns, with - for the others: --columns "
        "time,open,high,low,close,volume"
    )
    named = replace(ANY, columns="time,open,high,low,close,volume,-")
    assert len(read_bars(tmp_path / "x.csv", named, now_ns=NOW).bars) == len(ROWS)


@pytest.mark.parametrize("wanted", [ImportOptions(symbol="X"), ImportOptions(exchange="y")])
def test_a_series_is_not_guessed(tmp_path: Path, wanted: ImportOptions) -> None:
    assert "does not say which" in message_of(tmp_path / "x.csv", text(ROWS), wanted)


def test_several_symbols_are_refused(tmp_path: Path) -> None:
    rows = [f"{row},{'AB'[i % 2]}" for i, row in enumerate(ROWS)]
    assert "column symbol: holds 2 symbols (A, B)" in message_of(tmp_path / "x.csv", text(rows, HEADER + ",symbol"))
    rows = [f"{row},A" for row in ROWS]
    assert "row 2: holds A, not BTCUSDT" in message_of(tmp_path / "x.csv", text(rows, HEADER + ",symbol"))


def test_a_name_that_says_another_timeframe_is_refused(tmp_path: Path) -> None:
    found = message_of(tmp_path / "BTCUSDT-5m-2026-01.csv", text(ROWS))
    assert "comes 60 s after the row before: these are not 5m bars; say --timeframe 1m" in found


def at(steps: list[int]) -> str:
    """Return a table whose rows are `steps` seconds apart, from a Monday's midnight on."""
    times = np.cumsum([1_699_833_600, *steps]).tolist()
    return text([f"{time},10,12,9,11,{i + 1}" for i, time in enumerate(times)])


@pytest.mark.parametrize(
    ("name", "steps", "larger"),
    [
        ("BTCUSDT-1m", [3600] * 10, "1h"),
        ("BTCUSDT-1m", [3600, 7200, 3600, 10800, 3600, 3600], "1h"),  # holes do not hide it
        ("BTCUSDT-1m", [300] * 10, "5m"),
        ("BTCUSDT-15m", [1800] * 24, "30m"),
        ("BTCUSDT-1h", [86400] * 6, "1d"),
        ("BTCUSDT-1d", [7 * 86400] * 9, "1w"),
        ("BTCUSDT-1d", [86400 * n for n in (30, 31, 31, 29, 31, 30)], "1M"),
    ],
)
def test_bars_of_a_larger_timeframe_than_the_name_says_are_refused(
    tmp_path: Path, name: str, steps: list[int], larger: str
) -> None:
    frame = name.partition("-")[2]
    found = message_of(tmp_path / f"{name}.csv", at(steps), ImportOptions("somewhere"))
    assert f"row 3, column time: comes {steps[0]} s after the row before, and every step is a m" in found
    assert (
        f"these are not {frame} bars; say --timeframe {larger}, or --timeframe {frame} if nobody traded in between"
        in found
    )
    if larger != "1M":  # these begin on the 13th
        assert (
            read_bars(tmp_path / f"{name}.csv", ImportOptions("somewhere", timeframe=larger), now_ns=NOW).missing >= 0
        )
    columns = ImportOptions("somewhere", timeframe=frame)
    assert read_bars(tmp_path / f"{name}.csv", columns, now_ns=NOW).bars.timeframe == frame, (
        "a market with one auction an hour"
    )


def test_bars_that_fks_does_not_have_are_no_smaller_ones(tmp_path: Path) -> None:
    found = message_of(tmp_path / "BTCUSDT-1m.csv", at([240] * 20), ImportOptions("somewhere"))
    assert (
        "every step is a multiple of 240 s: these are not 1m bars; if nobody traded in between, say --timeframe 1m"
        in found
    )


@pytest.mark.parametrize("seed", range(5))
def test_minutes_of_a_thin_market_are_minutes(tmp_path: Path, seed: int) -> None:
    steps = (60 * np.random.default_rng(seed).integers(1, 500, 200)).tolist()
    (tmp_path / "BTCUSDT-1m.csv").write_text(at(steps))
    found = read_bars(tmp_path / "BTCUSDT-1m.csv", ImportOptions("somewhere"), now_ns=NOW)
    assert (found.bars.timeframe, len(found.bars)) == ("1m", 201)


def test_a_few_minutes_an_hour_apart_may_be_minutes(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT-1m.csv").write_text(at([3600, 7200]))
    assert read_bars(tmp_path / "BTCUSDT-1m.csv", ImportOptions("somewhere"), now_ns=NOW).bars.timeframe == "1m"


def test_the_future_is_refused(tmp_path: Path) -> None:
    rows = [f"{1_900_000_020 + 60 * i},{row.split(',', 1)[1]}" for i, row in enumerate(ROWS)]
    assert "2030-03-17T17:47:00Z is in the future" in message_of(tmp_path / "x.csv", text(rows))


def outcome(path: Path, data: bytes) -> int | None:
    """Return how many bars are read; None when they are refused, in one message about that file."""
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        return len(read_bars(path, ANY, now_ns=NOW).bars)
    assert message_of(path, data).startswith("x.csv")
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400) | st.text(alphabet="0123456789,;.-:T Z\nabc", max_size=400).map(str.encode))
def test_no_bytes_get_more_than_one_message(tmp_path: Path, data: bytes) -> None:
    outcome(tmp_path / "x.csv", data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 1600), byte=st.integers(0, 255))
def test_one_damaged_byte_is_read_or_refused_never_worse(tmp_path: Path, where: int, byte: int) -> None:
    data = bytearray(text(ROWS).encode())
    data[where % len(data)] = byte
    is_ended = data.endswith((b"\n", b"\r"))
    assert outcome(tmp_path / "x.csv", bytes(data)) in (None, len(ROWS) - (not is_ended))
