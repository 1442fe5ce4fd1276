"""Known forms of files: Binance's archives, NinjaTrader's export and plain tables all give the same bars."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.market.files.sample import sample_tape
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, iso
from tests.support.recorded import DATA, present

NOW = 1_800_000_000 * NS
SAMPLE = sample_tape().bars()[:500]
ANY = ImportOptions(exchange="somewhere", symbol="BTCUSDT")


def same(found: Bars, bars: Bars = SAMPLE) -> bool:
    names = ("time_ns", "open", "high", "low", "close", "volume")
    return all(np.array_equal(getattr(found, name), getattr(bars, name)) for name in names)


HEADER = "time,open,high,low,close,volume"


def lines(time: str, *, header: str = HEADER, end: int = 0, delimiter: str = ",", reverse: bool = False) -> str:
    """Return the sample as text; `time` is a strftime form, or s, ms, us, ns."""
    units = {"s": NS, "ms": 10**6, "us": 1000, "ns": 1}
    rows = []
    for i in range(len(SAMPLE)):
        ns = int(SAMPLE.time_ns[i]) + end
        stamp = str(ns // units[time]) if time in units else np.datetime64(ns, "ns").item() and _strftime(ns, time)
        cells = [
            stamp,
            *(repr(float(column[i])) for column in (SAMPLE.open, SAMPLE.high, SAMPLE.low, SAMPLE.close, SAMPLE.volume)),
        ]
        rows.append(delimiter.join(cells))
    return "\n".join([header] * bool(header) + (rows[::-1] if reverse else rows)) + "\n"


def _strftime(ns: int, form: str) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ns // NS, UTC).strftime(form)


def read(path: Path, text: str | bytes, wanted: ImportOptions = ANY) -> FileBars:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_bars(path, wanted, now_ns=NOW)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_count_from_1970_is_read_in_its_unit(tmp_path: Path, unit: str) -> None:
    found = read(tmp_path / "x.csv", lines(unit))
    assert same(found.bars)
    assert (found.bars.timeframe, found.form, found.missing) == ("1m", "ohlcv", 0)
    assert found.stamps == unit.replace("us", "µs")


@pytest.mark.parametrize(
    ("time", "header"),
    [
        ("%Y-%m-%dT%H:%M:%SZ", "time,open,high,low,close,volume"),
        ("%Y-%m-%d %H:%M:%S+00:00", "Date,Open,High,Low,Close,Volume"),
        ("%Y-%m-%d %H:%M:%S.000 UTC", "Gmt time,Open,High,Low,Close,Volume"),
        ("%Y/%m/%d %H:%M:%SZ", "Timestamp,O,H,L,C,Vol"),
        ("%Y-%m-%d %H:%M+0000", "datetime,open_price,high_price,low_price,close_price,base_volume"),
        ("%d.%m.%Y %H:%M:%SZ", "time,open,high,low,close,volume"),
        ("%Y%m%d %H%M%SZ", "time,open,high,low,close,volume"),
    ],
)
def test_dates_with_a_zone_are_read_in_any_form(tmp_path: Path, time: str, header: str) -> None:
    assert same(read(tmp_path / "x.csv", lines(time, header=header)).bars)


def test_columns_are_found_by_their_names_in_any_order(tmp_path: Path) -> None:
    rows = ["Volume BTC;Low;High;Unix;Date;Close;Open;Symbol"]
    for i in range(len(SAMPLE)):
        bar = SAMPLE.bar(i)
        rows.append(
            f"{bar.volume!r};{bar.low!r};{bar.high!r};{bar.time_ns // NS};{iso(bar.time_ns)};{bar.close!r};{bar.open!r};BTC/USDT"
        )
    found = read(tmp_path / "x.csv", "\n".join(rows) + "\n", ImportOptions(exchange="binance"))
    assert same(found.bars)
    assert found.bars.symbol == "BTCUSDT"


def test_named_columns_overrule_the_header(tmp_path: Path) -> None:
    text = lines("s", header="a\tb\tc\td\te\tf", delimiter="\t")
    with pytest.raises(InputError, match="no column is the time or the open"):
        read(tmp_path / "x.csv", text)
    assert same(read(tmp_path / "x.csv", text, ImportOptions("e", "s", columns="time,open,high,low,close,volume")).bars)


def test_newest_first_is_reversed_and_noted(tmp_path: Path) -> None:
    found = read(tmp_path / "x.csv", lines("s", reverse=True))
    assert same(found.bars)
    assert "newest first: turned round" in found.notes


def test_lines_before_the_header_are_passed_over(tmp_path: Path) -> None:
    text = "https://www.example.org\n" + lines("s", header="unix,open,high,low,close,volume")
    assert same(read(tmp_path / "x.csv", text).bars)


def test_windows_line_ends_byte_order_marks_and_utf_16_are_read(tmp_path: Path) -> None:
    text = lines("s", header="time,open,high,low,close,volume")
    assert same(read(tmp_path / "a.csv", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()).bars)
    assert same(read(tmp_path / "b.csv", text.encode("utf-16")).bars)


@pytest.mark.parametrize("ending", [".csv.gz", ".zip"])
def test_packed_files_are_unpacked(tmp_path: Path, ending: str) -> None:
    text = lines("ms").encode()
    if ending == ".zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("BTCUSDT-1m-2026-03.csv", text)
        data = packed.getvalue()
    else:
        data = gzip.compress(text)
    found = read(tmp_path / f"BTCUSDT-1m-2026-03{ending}", data, ImportOptions(exchange="binance"))
    assert same(found.bars)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def archive(*, unit: int, header: bool = False) -> str:
    rows = [
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    ] * header
    for i in range(len(SAMPLE)):
        bar = SAMPLE.bar(i)
        end = (bar.time_ns + 60 * NS) // unit - 1
        rows.append(
            f"{bar.time_ns // unit},{bar.open:.8f},{bar.high:.8f},{bar.low:.8f},{bar.close:.8f},{bar.volume:.8f},{end},1.0,{i},1.0,1.0,0"
        )
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("unit", [10**6, 1000])
def test_binance_archives_have_milliseconds_or_microseconds(tmp_path: Path, unit: int) -> None:
    found = read(tmp_path / "BTCUSDT-1m-2026-03.csv", archive(unit=unit), ImportOptions())
    assert same(found.bars)
    assert (found.form, found.exchange, found.bars.symbol) == ("binance archive", "binance", "BTCUSDT")
    assert found.trades is not None
    assert found.trades.tolist() == list(range(len(SAMPLE)))


def test_futures_archive_is_another_exchange_than_spot(tmp_path: Path) -> None:
    assert (
        read(tmp_path / "BTCUSDT-1m-2026-03.csv", archive(unit=10**6, header=True), ImportOptions()).exchange
        == "binanceusdm"
    )
    assert (
        read(tmp_path / "TRXUSD_PERP-1m-2026-03.csv", archive(unit=10**6, header=True), ImportOptions()).exchange
        == "binancecoinm"
    )


def test_a_published_checksum_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m-2026-03.csv"
    text = archive(unit=1000)
    (tmp_path / "BTCUSDT-1m-2026-03.csv.CHECKSUM").write_text(
        f"{hashlib.sha256(text.encode()).hexdigest()}  {path.name}\n"
    )
    assert "BTCUSDT-1m-2026-03.csv.CHECKSUM agrees" in read(path, text, ImportOptions()).notes
    with pytest.raises(InputError, match=r"is not what .* says it is"):
        read(path, text.replace("1.0,", "2.0,"), ImportOptions())


def test_ninjatrader_stamps_a_bar_with_its_end(tmp_path: Path) -> None:
    text = lines("%Y%m%d %H%M%S", header="", end=60 * NS, delimiter=";").replace("\n", "\r\n")
    found = read(tmp_path / "NQ 06-25.Last.txt", text, ImportOptions())
    assert same(found.bars)
    assert (found.form, found.exchange, found.bars.symbol) == ("ninjatrader", "ninjatrader", "NQ 06-25")


def test_an_export_on_another_clock_is_read_by_its_name(tmp_path: Path) -> None:
    text = lines("%Y%m%d %H%M%S", header="", end=60 * NS, delimiter=";")
    found = read(tmp_path / "NQ 06-25.Last.txt", text, ImportOptions(zone="Etc/GMT+5"))
    assert np.array_equal(found.bars.time_ns, SAMPLE.time_ns + 5 * 3600 * NS)


def test_stamps_can_be_called_ends(tmp_path: Path) -> None:
    assert same(read(tmp_path / "x.csv", lines("s", end=60 * NS), ImportOptions("e", "s", is_end=True)).bars)
    header = "close_time,open,high,low,close,volume"
    assert same(read(tmp_path / "x.csv", lines("s", end=60 * NS, header=header)).bars)


def test_unfinished_bar_is_left_out_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(lines("s"))
    found = read_bars(path, ANY, now_ns=int(SAMPLE.time_ns[-1]) + 59 * NS)
    assert len(found.bars) == len(SAMPLE) - 1
    assert any("is not over yet: left out" in note for note in found.notes)


def test_gaps_are_counted_and_outliers_reported(tmp_path: Path) -> None:
    rows = lines("s").splitlines()
    time, open_, _, low, close, volume = rows[301].split(",")
    rows[301] = f"{time},{open_},{float(open_) * 2!r},{low},{close},{volume}"
    found = read(tmp_path / "x.csv", "\n".join(rows[:100] + rows[103:200] + rows[201:]) + "\n")
    assert (found.missing, found.gaps, found.gap_longest) == (4, 2, 3)
    assert len(found.suspect_texts) == 1
    assert found.suspect_texts[0].startswith("row 298, 2026-03-01T05:00:00Z, outlier: ")


def test_missing_volume_is_stored_as_zero_and_noted(tmp_path: Path) -> None:
    text = "\n".join(line.rsplit(",", 1)[0] for line in lines("s").splitlines()) + "\n"
    found = read(tmp_path / "x.csv", text)
    assert not found.bars.volume.any()
    assert "no volume: stored as 0" in found.notes


def test_rounded_numbers_are_noted(tmp_path: Path) -> None:
    rows = ["time,open,high,low,close,volume"]
    rows += [
        f"{1_700_000_040 + 60 * i},100.12345678901234567,102,99,101.000000000000000000,0.123000000000000000"
        for i in range(3)
    ]
    rows += ["1700000220,9007199254740993,9007199254740993,9007199254740993,9007199254740993,12345678.12345678"]
    found = read(tmp_path / "x.csv", "\n".join(rows) + "\n")
    assert found.notes[-1] == (
        "7 numbers have more than 15 digits and are stored rounded; the first: row 2, column open: "
        "100.12345678901234567 as "
        "100.12345678901235"
    )
    assert found.bars.volume[3] == 12345678.12345678
    assert not any("digits" in note for note in read(tmp_path / "x.csv", lines("s")).notes)


@pytest.mark.parametrize(
    ("name", "rows", "first", "missing", "gaps"),
    [
        ("raw/binance_archive/BTCUSDT-1m-2026-05.zip", 44640, "2026-05-01T00:00:00Z", 0, 0),
        ("raw/binance_archive/NEARUSDT-1m-2023-08.usdm.csv.gz", 44640, "2023-08-01T00:00:00Z", 0, 0),
        ("raw/ninjatrader/NQ_06-25.Last.txt.gz", 78631, "2025-03-13T04:00:00Z", 309, 208),
        ("bars/binance_spot_BTCUSDT_1m_2021-03-26_2021-04-30_gaps.csv.gz", 50000, "2021-03-26T03:00:00Z", 434, 2),
        ("bars/coinbase_spot_BTCUSD_4h_2016_2025.csv.gz", 20695, "2016-05-18T04:00:00Z", 5, 3),
    ],
)
def test_recorded_files_have_their_documented_bars(name: str, rows: int, first: str, missing: int, gaps: int) -> None:
    path = present(DATA / name)
    found = read_bars(path, ImportOptions() if name.startswith("raw") else ANY, now_ns=NOW)
    assert (len(found.bars), iso(int(found.bars.time_ns[0])), found.missing, found.gaps) == (rows, first, missing, gaps)


def test_calendar_decides_missing_bars_and_sessions() -> None:
    raw = present(DATA / "raw/ninjatrader/NQ_06-25.Last.txt.gz")
    found = read_bars(raw, ImportOptions(calendar="CMES"), now_ns=NOW)
    assert found.missing == 309, "nights, weekends and holidays are not missing (24/7 would miss 39,936)"
    assert len([text for text in found.suspect_texts if "off session" in text]) == 33, "as the recording's notes say"


def test_ninjatraders_futures_have_the_calendar_of_globex(tmp_path: Path) -> None:
    friday = "20250314 205900;10;12;9;11;5\n20250314 210000;10;12;9;11;5\n"  # the last minutes of a week
    sunday = "20250316 220100;10;12;9;11;5\n20250316 220200;10;12;9;11;5\n"
    found = read(tmp_path / "ES 06-25.Last.txt", friday + sunday, ImportOptions())
    assert (found.calendar, found.is_calendar_kept, found.missing, found.suspects) == ("CMES", False, 0, ())
    chosen = read(tmp_path / "ES 06-25.Last.txt", friday + sunday, ImportOptions(calendar="24/7"))
    assert (chosen.calendar, chosen.is_calendar_kept, chosen.missing) == ("24/7", True, 2940)
    stock = read(tmp_path / "x.txt", friday + sunday, ImportOptions(symbol="AAPL"))
    assert (stock.exchange, stock.calendar) == ("ninjatrader", "24/7")


def test_bars_of_futures_in_years_to_come_are_in_session(tmp_path: Path) -> None:
    text = "".join(f"2040010{day};10;12;9;11;5\n" for day in (3, 4, 5, 6))
    path = tmp_path / "ES 03-40.Last.txt"
    path.write_text(text)
    found = read_bars(path, ImportOptions(), now_ns=2_300_000_000 * NS)
    assert (found.calendar, found.missing, found.suspects) == ("CMES", 0, ())


def test_codes_of_futures_become_the_stored_symbol(tmp_path: Path) -> None:
    found = read(tmp_path / "x.csv", lines("s"), ImportOptions("cme", "ESH25"))
    assert (found.bars.symbol, found.exchange, found.calendar) == ("ES 03-25", "cme", "CMES")


def test_sessions_of_new_york_are_whole(tmp_path: Path) -> None:
    days = ["2024-03-07", "2024-03-08", "2024-03-11", "2024-03-13", "2024-03-14"]  # a weekend, and the 12th is missing
    text = "date,open,high,low,close,volume\n" + "".join(f"{day},10,12,9,11,5\n" for day in days)
    found = read(tmp_path / "x.csv", text, ImportOptions("xnys", "SPY", "1d", calendar="XNYS"))
    assert (found.missing, found.gaps, found.suspect_texts) == (1, 1, ())
    assert read(tmp_path / "x.csv", text, ImportOptions("xnys", "SPY", "1d")).missing == 3


def test_ninjatraders_export_equals_the_converted_file() -> None:
    raw, converted = (
        present(DATA / name) for name in ("raw/ninjatrader/NQ_06-25.Last.txt.gz", "bars/cme_NQ_06-25_1m.csv.gz")
    )
    assert same(read_bars(raw, ImportOptions(), now_ns=NOW).bars, read_bars(converted, ANY, now_ns=NOW).bars)
