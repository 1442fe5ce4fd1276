"""Report and comparison pages: their contents, and that they need nothing else."""

from __future__ import annotations

import base64
import re
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

import fks.research.backtest as bt
from fks.model.errors import InputError
from fks.research.backtest.compare import compare, run_of
from fks.research.backtest.frames import trades_csv, write_trades
from fks.research.backtest.page import compare_page, report_page
from fks.research.backtest.report import document_of
from fks.research.backtest.series import drawdown_of
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross


@pytest.fixture(scope="module")
def result() -> bt.Backtest:
    return bt.run(SmaCross(fast=3, slow=8, sl_pct=0.4), synthetic(3000))


def data_of(page: str) -> dict[str, Any]:
    (packed,) = re.findall(r'<script id="data" type="text/plain">([A-Za-z0-9+/=]+)</script>', page)
    found: dict[str, Any] = orjson.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def column(packed: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.cumsum(np.array(packed["deltas"], dtype=np.int64)) / packed["scale"]


# ── the report ───────────────────────────────────────────────────────────────────────────────────
def test_a_report_loads_nothing(result: bt.Backtest) -> None:
    runs = [run_of(document_of(result), name) for name in ("a", "b")]
    for page in (report_page(result).text, compare_page(runs).text):
        assert "default-src 'none'" in page
        assert not re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=(?![\"']?data:)", page)
        assert not re.findall(r"@import|url\((?!\"?data:)|fetch\(|XMLHttpRequest|WebSocket", page)
        assert "Copyright (c) 2022 Leon Sorokin" in page  # the licence of the charts' script goes with it
        assert "<!--" not in page


def test_the_same_result_gives_the_same_page(result: bt.Backtest) -> None:
    again = bt.run(SmaCross(fast=3, slow=8, sl_pct=0.4), synthetic(3000))
    assert report_page(result, source="x").text == report_page(again, source="x").text


def test_a_report_names_its_inputs_and_fingerprints(result: bt.Backtest) -> None:
    data = data_of(report_page(result, source="here").text)
    assert (data["inputs_hash"], data["fills_hash"]) == (result.inputs_hash, result.fills_hash)
    assert (data["source"], data["params"]["fast"], data["cash"]) == ("here", 3, "10000")
    assert data["trades"]["count"] == data["trades"]["listed"] == len(result.trades) > 50
    assert sum(map(Decimal, data["trades"]["pnl"])) == sum(trade.pnl for trade in result.trades)
    kinds = [int(kind) for kind in data["fills"]["kind"]]
    assert kinds == [(fill.side.value == "buy") + 2 * (fill.role.value == "entry") for fill in result.fills]
    assert column(data["fills"]["price"]) == pytest.approx([float(fill.price) for fill in result.fills], rel=1e-6)
    assert column(data["fills"]["time"]).tolist() == [fill.time_ns // 10**9 for fill in result.fills]
    assert data["metrics"]["trades"] == len(result.trades)


def test_every_bar_is_drawn_of_a_short_run(result: bt.Backtest) -> None:
    drawn = data_of(report_page(result).text)["columns"]
    assert drawn["step"] == 1
    assert column(drawn["equity"]) == pytest.approx(result.equity, abs=0.006)
    assert column(drawn["close"]) == pytest.approx(result.bars.close[result.first :], rel=1e-6)


def test_a_long_run_keeps_its_extremes_in_fewer_rows(result: bt.Backtest) -> None:
    drawn = data_of(report_page(result, rows=70).text)["columns"]
    count = len(result.equity)
    assert drawn["step"] == -(-count // 70)
    assert len(drawn["time"]["deltas"]) == -(-count // drawn["step"]) <= 70
    falls = drawdown_of(result.equity, float(result.setup.cash))
    assert column(drawn["drawdown"]).min() == pytest.approx(falls.min(), abs=1e-3)
    assert column(drawn["equity_high"]).max() == pytest.approx(result.equity.max(), abs=0.006)
    assert column(drawn["equity_low"]).min() == pytest.approx(result.equity.min(), abs=0.006)
    assert column(drawn["equity"])[-1] == pytest.approx(result.equity[-1], abs=0.006)


def test_text_of_a_strategy_cannot_leave_the_page(result: bt.Backtest) -> None:
    page = report_page(result, source="</script><script>alert(1)</script>").text
    assert "alert(1)" not in page
    assert data_of(page)["source"].startswith("</script>")


def test_a_notebook_shows_the_report_in_a_frame(result: bt.Backtest, tmp_path: Path) -> None:
    shown = result.plot()._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown
    assert result._repr_html_() == shown
    file = tmp_path / "deep" / "report.html"
    assert result.plot(file).text == file.read_text(encoding="utf-8")
    assert "trades, return" in repr(result)


def test_a_run_without_trades_has_a_report() -> None:
    data = data_of(report_page(bt.run(SmaCross(fast=3, slow=8), synthetic(14))).text)
    assert data["trades"]["entry"] == []
    assert data["rolling"] is None


def test_documents_hold_plain_numbers_only(result: bt.Backtest) -> None:
    document = document_of(result)
    assert orjson.loads(orjson.dumps(document)) == document
    assert document["metrics"]["sharpe"] == document["statistics"]["sharpe"]
    assert len(document["months"]) == 1


# ── trades ───────────────────────────────────────────────────────────────────────────────────────
def test_trades_are_written_exactly_as_csv_and_as_parquet(result: bt.Backtest, tmp_path: Path) -> None:
    import pandas

    lines = trades_csv(result).splitlines()
    assert len(lines) == len(result.trades) + 1
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert Decimal(first["pnl"]) == result.trades[0].pnl
    assert write_trades(result, tmp_path / "t.csv").read_text() == trades_csv(result)
    frame = pandas.read_parquet(write_trades(result, tmp_path / "t.parquet"))
    assert frame["pnl"].to_list() == result.trades_frame()["pnl"].to_list()
    assert list(frame.columns) == lines[0].split(",")
    with pytest.raises(InputError, match=r"cannot be written to t\.xls"):
        write_trades(result, tmp_path / "t.xls")


# ── comparison ───────────────────────────────────────────────────────────────────────────────────
def test_a_comparison_marks_the_best_and_lists_the_inputs_that_differ(result: bt.Backtest) -> None:
    bars = synthetic(3000)
    other = bt.run(SmaCross(fast=5, slow=30), bars, bt.setup_for(bars, fee_rate=0))
    found = compare([run_of(document_of(result), "a"), run_of(document_of(other), "b")])
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["return_pct"]["best"] == [1]
    assert rows["trades"]["best"] == []
    differing = {row["input"]: row["values"] for row in found["differences"]}
    assert differing["fee_rate"] == ["0.001", "0"]
    assert differing["params.sl_pct"] == [0.4, None]
    assert "symbol" not in differing
    assert found["same_fills"] == []


def test_runs_with_the_same_fills_are_named(result: bt.Backtest) -> None:
    runs = [run_of(document_of(result), name) for name in ("a", "b")]
    found = compare(runs)
    assert found["same_fills"] == [["a", "b"]]
    assert all(row["best"] == [] for row in found["rows"])
    assert data_of(compare_page(runs).text)["compared"] == found


def test_documents_of_an_earlier_version_are_compared_without_metrics(result: bt.Backtest) -> None:
    old = {key: value for key, value in document_of(result).items() if key not in ("metrics", "months")}
    found = compare([run_of(old, "old"), run_of(document_of(result), "new")])
    (row,) = (row for row in found["rows"] if row["name"] == "sortino")
    assert row["values"][0] is None
    assert row["best"] == []


def test_what_is_no_result_cannot_be_compared(result: bt.Backtest) -> None:
    with pytest.raises(InputError, match="x is no result of a backtest: it has no strategy"):
        run_of({"params": {}}, "x")
    with pytest.raises(InputError, match="1 runs cannot be compared"):
        compare([run_of(document_of(result), "a")])
