"""Files into the store and out of it, on a real PostgreSQL and by the commands: whole or not at all, twice equals
once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from fks.clock import FakeClock
from fks.config.risk import Risk
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, USAGE, run
from fks.market.bars.aggregate import aggregate_bars
from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.market.files.export import export_bars
from fks.market.files.load import import_file
from fks.market.files.sample import sample_tape
from fks.market.history.quality import QualityReport
from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.errors import InputError, OutageError
from fks.model.instrument import NO_LARGEST, GivenRules, Instrument
from fks.model.timeframe import NS, to_datetime
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored
from fks.research.jobs.fingerprint import fingerprint
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.instruments import InstrumentStore
from fks.store.merging import Merged
from fks.store.quarantine import QuarantineStore
from fks.strategies.registry import load_catalogue

NOW = 1_800_000_000 * NS
START = 1_767_571_200 * NS  # 2026-01-05, a Monday
SAMPLE = sample_tape().bars()[:3000]
WANTED = ImportOptions(exchange="binance", symbol="BTCUSDT")


def same(found: Bars, bars: Bars = SAMPLE) -> bool:
    names = ("time_ns", "open", "high", "low", "close", "volume")
    return all(np.array_equal(getattr(found, name), getattr(bars, name)) for name in names)


def written(path: Path, bars: Bars = SAMPLE) -> Path:
    """Write bars as a plain table."""
    columns = (bars.time_ns // NS, bars.open, bars.high, bars.low, bars.close, bars.volume)
    rows = (",".join(repr(cell) for cell in row) for row in zip(*(column.tolist() for column in columns), strict=True))
    path.write_text("time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return path


def read(path: Path, wanted: ImportOptions = WANTED) -> FileBars:
    return read_bars(path, wanted, now_ns=NOW)


async def test_an_import_is_exact_and_twice_equals_once(database: Database, tmp_path: Path) -> None:
    file = read(written(tmp_path / "x.csv"))
    dry = await import_file(database, file, is_dry=True)
    assert (dry.merged["1m"], dry.is_dry) == (Merged(3000, 0, 0), True)
    assert not len(await BarStore(database).read("BTCUSDT", "1m"))
    assert (await import_file(database, file)).merged == {"1m": Merged(3000, 0, 0)}
    assert same(await BarStore(database).read("BTCUSDT", "1m"))
    assert (await import_file(database, file)).merged == {"1m": Merged(0, 0, 3000)}
    rows = await database.sql("SELECT count(*), min(source) FROM ohlcv_data")
    assert tuple(rows[0]) == (3000, "import")
    assert (await database.sql("SELECT count(*) FROM ohlcv_data_default"))[0][0] == 0


async def test_differing_file_changes_nothing_without_replace(database: Database, tmp_path: Path) -> None:
    await import_file(database, read(written(tmp_path / "x.csv", SAMPLE[:2000])))
    other = Bars(
        SAMPLE.symbol, "1m", SAMPLE.time_ns, SAMPLE.open, SAMPLE.high, SAMPLE.low, SAMPLE.close.copy(), SAMPLE.volume
    )
    other.close[[700, 900]] = other.open[[700, 900]]
    file = read(written(tmp_path / "y.csv", other))
    with pytest.raises(
        InputError, match=r"y.csv: 2 bars differ from what is stored: 1m 2026-03-01T11:40:00Z close is"
    ) as caught:
        await import_file(database, file)
    assert caught.value.code == "BARS_DIFFER"
    assert same(await BarStore(database).read("BTCUSDT", "1m"), SAMPLE[:2000])
    dry = await import_file(database, file, is_dry=True)
    assert dry.merged["1m"] == Merged(1000, 2, 1998)
    assert dry.differing.startswith("1m 2026-03-01T11:40:00Z close is")
    assert (await import_file(database, file, replaces=True)).merged["1m"] == Merged(1000, 2, 1998)
    assert same(await BarStore(database).read("BTCUSDT", "1m"), other)


class Busy:
    """A database in which others write bars just before a transaction of ours begins, as often as they have some."""

    def __init__(self, db: Database, others: list[Bars]) -> None:
        self._db, self._others = db, others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    @contextlib.asynccontextmanager
    async def transaction(self, **how: Any) -> AsyncIterator[Any]:
        if self._others:
            await BarStore(self._db).merge(self._others.pop(0), source="live")
        async with self._db.transaction(**how) as tx:
            yield tx


def closing(bars: Bars, close: float) -> Bars:
    return replace(bars, close=np.full(len(bars), close), high=bars.high + close, low=np.minimum(bars.low, close))


@pytest.mark.parametrize("has_stored", [False, True])
async def test_bar_that_arrives_during_an_import_is_not_replaced(
    database: Database, tmp_path: Path, has_stored: bool
) -> None:
    if has_stored:
        await BarStore(database).merge(SAMPLE, source="live")
    file, other = read(written(tmp_path / "x.csv")), closing(SAMPLE[100:101], 5.0)
    with pytest.raises(InputError, match="1 bar differs from what is stored: 1m 2026-03-01T01:40:00Z") as caught:
        await import_file(cast(Database, Busy(database, [other])), file)
    assert caught.value.code == "BARS_DIFFER"
    stored = await BarStore(database).read("BTCUSDT", "1m")
    assert stored.close[100 if has_stored else 0] == 5.0
    assert len(stored) == (3000 if has_stored else 1)


async def test_equal_bar_that_arrives_during_an_import_does_no_harm(database: Database, tmp_path: Path) -> None:
    file = read(written(tmp_path / "x.csv"))
    done = await import_file(cast(Database, Busy(database, [SAMPLE[100:101]])), file)
    assert done.merged["1m"] == Merged(2999, 0, 1)
    assert same(await BarStore(database).read("BTCUSDT", "1m"))


async def test_import_gives_up_when_its_bars_keep_changing(database: Database, tmp_path: Path) -> None:
    file = read(written(tmp_path / "x.csv"))
    with pytest.raises(OutageError, match="other writers were faster 3 times"):
        await import_file(cast(Database, Busy(database, [SAMPLE[i : i + 1] for i in range(9)])), file)
    assert (await database.sql("SELECT count(*) FROM ohlcv_data WHERE source = 'import'"))[0][0] == 0


async def test_symbol_of_a_file_becomes_the_listed_one(database: Database, tmp_path: Path) -> None:
    step = Decimal("0.1")
    listed = [Instrument("okx", "XYZ-USD", "XYZ", "USD", step, step, step, step, step)]
    await InstrumentStore(database).merge(listed)
    done = await import_file(database, read(written(tmp_path / "x.csv"), ImportOptions("okx", "X-YZUSD")))
    assert done.file.bars.symbol == "XYZ-USD"
    assert "X-YZUSD is XYZ-USD at okx" in done.file.notes
    assert len(await BarStore(database).read("XYZ-USD", "1m", exchange="okx")) == 3000


async def test_symbol_of_a_file_becomes_the_stored_one(database: Database, tmp_path: Path) -> None:
    await import_file(database, read(written(tmp_path / "x.csv", SAMPLE[:100]), ImportOptions("bitstamp", "BTC/USD")))
    done = await import_file(database, read(written(tmp_path / "x.csv"), ImportOptions("bitstamp", "BTCUSD")))
    assert done.merged["1m"] == Merged(2900, 0, 100)
    rows = await database.sql("SELECT DISTINCT symbol FROM series WHERE exchange = 'bitstamp'")
    assert [row["symbol"] for row in rows] == ["BTC/USD"]


async def test_an_import_is_all_or_nothing(database: Database, tmp_path: Path) -> None:
    await database.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no hours today'; END $$"
    )
    await database.sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON ohlcv_data FOR EACH ROW WHEN (NEW.timeframe = '1h') EXECUTE FUNCTION "
        "refuse()"
    )
    file = read(written(tmp_path / "x.csv"))
    with pytest.raises(Exception, match="no hours today"):
        await import_file(database, file, with_larger=True)
    assert (await database.sql("SELECT count(*) FROM ohlcv_data"))[0][0] == 0, (
        "the minutes and the quarters went back too"
    )
    assert await BarStore(database).series("BTCUSDT", "1m") is None


async def test_calendar_of_an_import_is_kept_for_the_quality_report(database: Database, tmp_path: Path) -> None:
    times = calendar_of("XNYS").expected("1m", START, START + 7 * 86400 * NS)
    prices = np.full(len(times), 100.0)
    bars = Bars("NQ", "1m", times, prices, prices + 1, prices - 1, prices, prices)
    report = QualityReport(database, FakeClock(NOW), days=7)

    async def found() -> tuple[int, bool]:
        quality = await report.of((await report.series())[0])
        return quality.missing, quality.is_good

    plain = ImportOptions(exchange="ninjatrader", symbol="NQ")
    await import_file(database, read(written(tmp_path / "x.csv", bars), plain))
    assert (await found())[0] > len(bars), "nights, and a weekend"
    await import_file(database, read(tmp_path / "x.csv", replace(plain, calendar="XNYS")))
    assert await found() == (0, True)
    await import_file(database, read(tmp_path / "x.csv", plain))
    assert await found() == (0, True), "a file that says nothing changes nothing"
    await database.sql("DELETE FROM ohlcv_data WHERE time = $1", to_datetime(int(times[500])))
    assert await found() == (1, False)
    assert [gap.bars for gap, _ in await report.missing((await report.series())[0])] == [1]


async def test_rules_of_an_import_are_kept_with_its_series(database: Database, tmp_path: Path) -> None:
    spec = {"strategy": "rsi", "symbol": "BTCUSDT", "exchange": "file", "timeframe": "1m"}
    plain = ImportOptions(exchange="file", symbol="BTCUSDT")

    async def kept(options: ImportOptions) -> tuple[GivenRules, str]:
        await import_file(database, read(written(tmp_path / "x.csv", SAMPLE[:100]), options))
        series = await BarStore(database).series("BTCUSDT", "1m", exchange="file")
        assert series is not None
        return series.rules, await fingerprint(database, "backtest", spec, load_catalogue(), Risk())

    own, first = await kept(plain)
    given, second = await kept(replace(plain, rules=GivenRules.parse(lot="0.5", largest=8)))
    assert (own, given) == (GivenRules(), GivenRules(Decimal("0.5"), None, Decimal(8)))
    assert first != second, "a run by other rules is other work"
    assert await kept(plain) == (given, second), "a file without rules changes none"
    item = (await load_stored(database, BarsRequest("BTCUSDT", "file", "1m", None, None, 0))).instrument
    assert (item.lot_step, item.qty_max) == (Decimal("0.5"), 8)
    await InstrumentStore(database).merge([item])
    with pytest.raises(InputError, match="file lists BTCUSDT with rules of its own") as found:
        await kept(replace(plain, rules=GivenRules(Decimal(1))))
    assert found.value.code == "RULE_WRONG"
    await InstrumentStore(database).merge([replace(item, qty_max=NO_LARGEST)])
    assert (await InstrumentStore(database).all("file"))[0].qty_max == NO_LARGEST


async def test_larger_bars_are_built_where_no_smaller_one_is_missing(database: Database, tmp_path: Path) -> None:
    keep = np.ones(len(SAMPLE), np.bool_)
    keep[[130, 400]] = False
    columns = (SAMPLE.open, SAMPLE.high, SAMPLE.low, SAMPLE.close, SAMPLE.volume)
    holed = Bars(SAMPLE.symbol, "1m", SAMPLE.time_ns[keep], *(column[keep] for column in columns))
    done = await import_file(database, read(written(tmp_path / "x.csv", holed)), with_larger=True)
    assert {name: merged.inserted for name, merged in done.merged.items()} == {
        "1m": 2998,
        "5m": 598,
        "15m": 198,
        "30m": 98,
        "1h": 48,
        "4h": 10,
        "1d": 1,
        "1w": 0,
        "1M": 0,
    }
    hours, whole = await BarStore(database).read("BTCUSDT", "1h"), aggregate_bars(SAMPLE, "1h")
    rows = np.isin(whole.time_ns, hours.time_ns)
    assert np.flatnonzero(~rows).tolist() == [2, 6]
    assert np.array_equal(hours.close, whole.close[rows])
    assert np.array_equal(hours.volume, whole.volume[rows])


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
async def test_export_is_imported_back_bit_for_bit(database: Database, tmp_path: Path, ending: str) -> None:
    await import_file(database, read(written(tmp_path / "x.csv")))
    path = tmp_path / f"binance-BTCUSDT-1m.{ending}"
    done = await export_bars(database, path, exchange="binance", symbol="BTCUSDT", timeframe="1m")
    assert (done.bars, done.size) == (3000, path.stat().st_size)
    back = read(path, ImportOptions() if ending == "parquet" else WANTED)
    assert same(back.bars)
    assert back.exchange == "binance"
    assert (await import_file(database, back)).merged["1m"] == Merged(0, 0, 3000)
    part = await export_bars(
        database,
        tmp_path / f"part.{ending}",
        exchange="binance",
        symbol="BTCUSDT",
        timeframe="1m",
        from_ns=int(SAMPLE.time_ns[10]),
        to_ns=int(SAMPLE.time_ns[20]),
    )
    assert (part.bars, part.first_ns, part.last_ns) == (10, SAMPLE.time_ns[10], SAMPLE.time_ns[19])


async def test_failed_export_leaves_no_file(database: Database, tmp_path: Path) -> None:
    await import_file(database, read(written(tmp_path / "x.csv")))
    (tmp_path / "there.csv").write_text("mine")

    async def reported(name: str, **other: Any) -> str:
        with pytest.raises(InputError) as caught:
            await export_bars(
                database, tmp_path / name, **{"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m", **other}
            )
        return str(caught.value)

    assert "is there already" in await reported("there.csv")
    assert "says no form that can be written; end it in .parquet or .csv or .csv.gz" in await reported("y.xlsx")
    assert "there is no folder" in await reported("none/y.csv")
    assert "no 5m bars of BTCUSDT from binance are stored" in await reported("y.csv", timeframe="5m")
    assert "no 1m bars" in await reported("y.csv", from_ns=NOW)
    assert "unknown timeframe" in await reported("y.csv", timeframe="7m")
    assert sorted(os.listdir(tmp_path)) == ["there.csv", "x.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"


class Shell:
    """Runs `fks …` on a store that runs."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    async def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, cli, ["--home", str(self.home), *map(str, arguments)])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err


async def test_the_commands(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    fks = Shell(tmp_path / "home", capsys)
    good, bad = written(tmp_path / "BTCUSDT-1m.csv", SAMPLE[:100]), tmp_path / "bad.csv"
    bad.write_text("time,open,high,low,close,volume\n1700000040,1,2,x,1,1\n")

    code, out, err = await fks("data", "import", good, "--exchange", "binance", "--dry-run")
    assert (code, err) == (OK, "")
    assert "dry run: nothing was stored" in out
    code, out, err = await fks("data", "import", good, bad, "--exchange", "binance", "--symbol", "BTC/USDT")
    assert code == USAGE
    assert "refused: bad.csv row 2, column low: 'x' is not a number" in err
    assert "BTCUSDT-1m.csv" in out, "one bad file does not hold up the others"
    code, out, _ = await fks("data", "import", good, "--exchange", "binance", "--json")
    (row,) = orjson.loads(out)["items"]
    assert row["stored"] == [{"timeframe": "1m", "new": 0, "changed": 0, "same": 100}]

    code, out, _ = await fks("data", "export", "btc/usdt", "1m", "--out", tmp_path / "y.parquet", "--json")
    assert (code, orjson.loads(out)["bars"]) == (OK, 100)
    code, _, err = await fks("data", "export", "BTCUSDT", "1m", "--out", tmp_path / "y.parquet")
    assert (code, "is there already; choose another name, or say --force" in err) == (USAGE, True)
    code, _, err = await fks("data", "export", "BTCUSDT", "1m", "--from", "2026-04-01", "--to", "2026-03-01")
    assert (code, "--from 2026-04-01 is not before --to 2026-03-01" in err) == (USAGE, True)
    code, _, err = await fks("data", "export", "NOSUCH", "1m")
    assert (code, "no bars of NOSUCH are stored" in err) == (USAGE, True)


async def test_dry_run_creates_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fks = Shell(tmp_path / "home", capsys)
    code, out, _ = await fks(
        "data", "import", written(tmp_path / "BTCUSDT-1m.csv"), "--exchange", "x", "--dry-run", "--larger"
    )
    assert (code, "dry run: nothing was stored" in out) == (OK, True)
    assert not (tmp_path / "home" / "postgres").exists()


async def test_empty_bars_are_flagged_only_where_the_file_shows_them(database: Database, tmp_path: Path) -> None:
    flat = Bars("S", "1m", SAMPLE.time_ns[:3], *(np.full(3, 5.0) for _ in range(4)), np.array([1.0, 0.0, 2.0]))
    await import_file(database, read(written(tmp_path / "x.csv", flat), ImportOptions("with", "S")))
    silent = Bars("S", "1m", SAMPLE.time_ns[:3], *(np.full(3, 5.0) for _ in range(4)), np.zeros(3))
    await import_file(database, read(written(tmp_path / "y.csv", silent), ImportOptions("without", "S")))
    rows = await database.sql("SELECT exchange, is_empty FROM ohlcv_data ORDER BY exchange, time")
    assert [tuple(row) for row in rows] == [
        ("with", False),
        ("with", True),
        ("with", False),
        *[("without", False)] * 3,
    ]


async def test_suspect_bars_are_stored_and_quarantined_once(database: Database, tmp_path: Path) -> None:
    high = SAMPLE.high.copy()
    high[500] *= 2
    odd = Bars(SAMPLE.symbol, "1m", SAMPLE.time_ns, SAMPLE.open, high, SAMPLE.low, SAMPLE.close, SAMPLE.volume)
    file = read(written(tmp_path / "x.csv", odd))
    for _ in range(2):
        await import_file(database, file)
    (row,) = await QuarantineStore(database).rows("binance", "BTCUSDT")
    assert (row.held.reason, row.held.source, row.held.time_ns) == ("outlier", "import", SAMPLE.time_ns[500])
    assert same(await BarStore(database).read("BTCUSDT", "1m"), odd)
