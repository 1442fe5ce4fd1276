"""The report and the comparison in a real browser, opened from a file, on a desktop and on a phone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import fks.backtest as bt
from fks.backtest.account_report import account_document_of
from fks.backtest.compare import run_of
from fks.backtest.page import account_page, compare_page
from fks.backtest.report import document_of
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross
from tests.support.browser import Page, page
from tests.support.waiting import until

DRAWN = "document.querySelector('main')?.hidden === false && document.querySelectorAll('.uplot').length"


@pytest.fixture(scope="module")
def result() -> bt.Backtest:
    return bt.run(SmaCross(fast=3, slow=8, sl_pct=0.4), synthetic(20_000))


async def opened(tab: Page, file: Path, width: int, theme: str = "light") -> None:
    await tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
    )
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    await tab.go(file.as_uri())

    async def is_drawn() -> bool:
        return bool(await tab.look(DRAWN))

    await until(is_drawn, deadline_s=20, every_s=0.1)


async def is_narrow_enough(tab: Page) -> bool:
    return bool(await tab.look("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (390, "dark")])
async def test_a_report_is_drawn_without_complaint_and_fits(
    result: bt.Backtest, tmp_path: Path, width: int, theme: str
) -> None:
    result.plot(file := tmp_path / "report.html")
    async with page() as tab:
        await opened(tab, file, width, theme)
        assert await tab.run("document.querySelectorAll('.uplot').length") == 6
        assert await is_narrow_enough(tab)
        assert "sma_cross" in await tab.run("document.getElementById('title').textContent")
        assert tab.complaints == []


async def test_a_report_names_the_costs_of_its_run_and_the_options_that_repeat_them(tmp_path: Path) -> None:
    bars = synthetic(3_000)
    plain = bt.run(SmaCross(fast=3, slow=8), bars)
    dear = bt.setup_for(bars, slippage="5 bps", fee_rate_maker=Decimal("0.0002"))
    costly = bt.run(SmaCross(fast=3, slow=8), bars, dear)
    texts = []
    async with page() as tab:
        for made in (plain, costly):
            made.plot(file := tmp_path / "report.html")
            await opened(tab, file, 1400)
            texts.append(
                [await tab.run(f"document.getElementById('{id}').textContent") for id in ("costs-note", "setup")]
            )
    (note, setup), (costly_note, costly_setup) = texts
    assert "No slippage is modelled" in note
    assert "--fee-rate 0.001 --slippage none" in setup
    assert "No slippage" not in costly_note
    assert "Market and stop orders fill 5 bps worse" in costly_note
    assert "0.0200 % of those of limit orders that rested" in costly_note
    assert "--fee-rate-maker 0.0002 --slippage '5 bps'" in costly_setup


async def test_a_report_zooms_sorts_filters_and_gives_a_file(result: bt.Backtest, tmp_path: Path) -> None:
    result.plot(file := tmp_path / "report.html")
    rows = "document.querySelectorAll('#trades tbody tr').length"
    async with page() as tab:
        await opened(tab, file, 1400)
        assert await tab.run(rows) == 50
        await tab.run("document.querySelectorAll('#trades th button')[8].click()")
        best = float(max(trade.pnl for trade in result.trades))
        shown = await tab.run("document.querySelector('#trades tbody tr').children[8].textContent")
        assert float(shown) == pytest.approx(best, abs=0.005)
        filtering = "const f = document.getElementById('filter'); f.value = 'stop loss'; f.onchange();"
        await tab.run(filtering + "document.getElementById('more').click(); document.getElementById('more').click()")
        stopped = sum(trade.reason.value == "sl" for trade in result.trades)
        assert f"{stopped:,} trades" in await tab.run("document.getElementById('sum').textContent")
        await tab.run("document.querySelector('#trades tbody tr').click()")
        view = await tab.run("charts.view[1] - charts.view[0]")
        assert 0 < view < 86_400
        assert "fills in view" in await tab.run("document.getElementById('marks').textContent")
        await tab.run(
            "window.saved = null; URL.createObjectURL = blob => { blob.text().then(t => { saved = t; }); return '#'; };"
            "document.getElementById('csv').click()"
        )

        async def is_saved() -> bool:
            return bool(await tab.look("saved !== null"))

        await until(is_saved, deadline_s=20, every_s=0.1)
        assert len((await tab.run("saved")).splitlines()) == stopped + 1
        await tab.run("document.getElementById('theme').click()")
        assert await tab.run("document.documentElement.dataset.theme") == "dark"
        assert tab.complaints == []


@pytest.mark.parametrize("width", [1400, 390])
async def test_a_comparison_is_drawn_without_complaint_and_fits(
    result: bt.Backtest, tmp_path: Path, width: int
) -> None:
    other = bt.run(SmaCross(fast=5, slow=30), synthetic(20_000))
    runs = [run_of(document_of(each), name) for each, name in ((result, "one"), (other, "another"))]
    compare_page(runs).save(file := tmp_path / "compare.html")
    async with page() as tab:
        await opened(tab, file, width)
        assert await is_narrow_enough(tab)
        assert await tab.run("document.querySelectorAll('#metrics tbody tr').length") > 15
        assert tab.complaints == []


@pytest.mark.parametrize("width", [1400, 390])
async def test_a_report_of_an_account_is_drawn_without_complaint_and_fits(tmp_path: Path, width: int) -> None:
    members = [bt.Member(SmaCross(fast=fast, slow=30), synthetic(5_000), name=f"fast {fast}") for fast in (3, 5)]
    done = bt.run_account(members, cash=2_000)
    account_page(account_document_of(done)).save(file := tmp_path / "account.html")
    async with page() as tab:
        await opened(tab, file, width)
        assert await tab.run("document.querySelectorAll('.uplot').length") == 4
        assert await is_narrow_enough(tab)
        assert await tab.run("document.getElementById('title').textContent") == "fast 3 · fast 5"
        assert await tab.run("document.querySelectorAll('#members tbody tr').length") == 3
        assert tab.complaints == []


async def test_a_notebook_frame_draws_the_report(result: bt.Backtest, tmp_path: Path) -> None:
    (file := tmp_path / "notebook.html").write_text(f"<!doctype html><main></main>{result._repr_html_()}")
    async with page() as tab:
        await tab.go(file.as_uri())

        async def is_drawn() -> bool:
            inside = "document.querySelector('iframe')?.contentDocument?.querySelectorAll('.uplot').length"
            return bool(await tab.look(inside))

        await until(is_drawn, deadline_s=20, every_s=0.1)
        assert tab.complaints == []
