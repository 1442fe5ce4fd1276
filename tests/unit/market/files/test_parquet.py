"""Parquet as other programs write it: typed, indexed, dictionary-encoded, decimal; the same bars, or one message."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.market.files.sample import sample_tape
from fks.model.errors import InputError
from fks.model.timeframe import NS

NOW = 1_800_000_000 * NS
SAMPLE = sample_tape().bars()[:200]
ANY = ImportOptions(exchange="somewhere", symbol="S")
NUMBERS = {"open": SAMPLE.open, "high": SAMPLE.high, "low": SAMPLE.low, "close": SAMPLE.close, "volume": SAMPLE.volume}


def read(path: Path, columns: dict[str, Any], wanted: ImportOptions = ANY) -> FileBars:
    pq.write_table(pa.table(columns), path)
    return read_bars(path, wanted, now_ns=NOW)


def is_sample(found: FileBars) -> bool:
    bars = found.bars
    return np.array_equal(bars.time_ns, SAMPLE.time_ns) and all(
        np.array_equal(getattr(bars, n), NUMBERS[n]) for n in NUMBERS
    )


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stamps_of_every_unit(tmp_path: Path, unit: str) -> None:
    size = {"s": NS, "ms": 10**6, "us": 1000, "ns": 1}[unit]
    counts = SAMPLE.time_ns // size
    assert is_sample(read(tmp_path / "x.parquet", {"ts": counts, **NUMBERS}))
    for zone in ("UTC", "America/New_York"):
        zoned = pa.array(counts).cast(pa.timestamp(unit, tz=zone))
        assert is_sample(read(tmp_path / "x.parquet", {"ts": zoned, **NUMBERS})), (
            "a zoned stamp is a moment, whatever its zone"
        )
    naive = pa.array(counts).cast(pa.timestamp(unit))
    with pytest.raises(InputError, match=r"x.parquet row 1, column ts: .* does not say in which time zone it is"):
        read(tmp_path / "x.parquet", {"ts": naive, **NUMBERS})
    assert is_sample(read(tmp_path / "x.parquet", {"ts": naive, **NUMBERS}, ImportOptions("e", "S", zone="UTC")))


def test_a_pandas_frame_with_its_time_as_index(tmp_path: Path) -> None:
    frame = pd.DataFrame(NUMBERS, index=pd.to_datetime(SAMPLE.time_ns, utc=True))
    frame["symbol"] = pd.Categorical(["S"] * len(SAMPLE))
    frame.to_parquet(tmp_path / "x.parquet")
    found = read_bars(tmp_path / "x.parquet", ImportOptions(exchange="e"), now_ns=NOW)
    assert is_sample(found)
    assert found.bars.symbol == "S"


def test_decimals_texts_and_small_floats_are_numbers(tmp_path: Path) -> None:
    decimals = {
        n: pa.array([Decimal(repr(x)) for x in column.tolist()], pa.decimal128(20, 8)) for n, column in NUMBERS.items()
    }
    assert is_sample(read(tmp_path / "x.parquet", {"time": SAMPLE.time_ns, **decimals}))
    texts = {n: [repr(x) for x in column.tolist()] for n, column in NUMBERS.items()}
    assert is_sample(read(tmp_path / "x.parquet", {"time": SAMPLE.time_ns, **texts}))
    small = {n: pa.array([0.3] * 200, pa.float32()) for n in NUMBERS}
    assert read(tmp_path / "x.parquet", {"time": SAMPLE.time_ns, **small}).bars.close[0] == 0.3


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("close", [1.0, None, 1.0], "row 2, column close: is empty"),
        ("close", [1.0, float("nan"), 1.0], "row 2, column close: nan is not a number"),
        ("volume", ["1", "x", "1"], "row 2, column volume: 'x' is not a number"),
        ("time", [1_700_000_040, None, 1_700_000_160], "row 2, column time: is empty"),
        ("time", [1_700_000_040, 1_700_000_100_000, 1_700_000_160], "row 2, column time: 1700000100000 is in ms"),
        ("time", [1.5, 2.5, 3.5], "row 1, column time: holds double, not times"),
        ("open", [True, False, True], "row 1, column open: holds bool, not numbers"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    good: dict[str, Any] = {"time": [1_700_000_040, 1_700_000_100, 1_700_000_160], **{n: [1.0] * 3 for n in NUMBERS}}
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.parquet", good | {column: values})
    assert str(caught.value).startswith(f"x.parquet {message}"), str(caught.value)


def test_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column is the time or the open or the high or the low or the close"):
        read(tmp_path / "x.parquet", {"a": [1], "b": [2]})
    with pytest.raises(InputError, match="has no rows"):
        read(tmp_path / "x.parquet", {"time": pa.array([], pa.int64())})
    pq.write_table(
        pa.table({"time": [[1]], "open": [1.0], "high": [1.0], "low": [1.0], "close": [1.0]}), tmp_path / "y.parquet"
    )
    with pytest.raises(InputError, match="holds list"):
        read_bars(tmp_path / "y.parquet", ANY, now_ns=NOW)
