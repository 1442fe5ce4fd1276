"""The report and the comparison in a real browser, opened from a file, on a desktop and on a phone."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

import fks.research.backtest as bt
from fks.research.backtest.account_report import account_document_of
from fks.research.backtest.compare import run_of
from fks.research.backtest.page import account_page, compare_page, search_page
from fks.research.backtest.report import document_of
from fks.research.search import Plan, Validation, search
from fks.strategies.check import synthetic
from fks.strategies.donchian import Donchian
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
        fills = f"{len(result.fills):,} fills in view · a dot each"
        assert fills in await tab.run("document.getElementById('marks').textContent")
        dots = "[...charts.all.find(c => c.id === 'chart-price').plot.ctx.getImageData(0, 0, 1400, 340).data]"
        green = f"{dots}.filter((v, i, all) => i % 4 === 1 && v > all[i - 1] + 60 && v > all[i + 1] + 20).length"
        assert await tab.run(green) > 100
        scale = "charts.all[0].plot.scales.y"
        linear = await tab.run(f"[{scale}.distr, {scale}.max / {scale}.min]")
        await tab.run("document.querySelector('#ranges button:last-child').click()")
        assert await tab.run(f"{scale}.distr") == 3
        assert linear[0] == 1
        assert 1 < await tab.run(f"{scale}.max / {scale}.min") < 2
        assert tab.complaints == []
        await tab.run("document.querySelector('#ranges button:last-child').click()")
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


@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (390, "dark")])
async def test_a_report_of_a_search_is_drawn_without_complaint_and_fits(tmp_path: Path, width: int, theme: str) -> None:
    bars = synthetic(6_000)
    paths = Validation(kind="combinatorial", folds=4)
    space = {"fast": "3:9:3", "slow": "12:24:6"}
    found = search(SmaCross, space, bars, bt.setup_for(bars), validation=paths)
    found |= {"ledger": {"trials": 99, "earlier_runs": 7, "deflated_sharpe": 0.41, "held_back_runs": 3}}
    search_page(found).save(file := tmp_path / "search.html")
    async with page() as tab:
        await opened(tab, file, width, theme)
        assert await is_narrow_enough(tab)
        texts = {
            name: str(await tab.run(f"document.getElementById('{name}').textContent"))
            for name in ("title", "tiles", "read", "held-note", "map-title", "chance", "findings")
        }
        assert texts["title"] == "sma_cross on SYNTHETIC 1m"
        assert "99 trials, 7 earlier runs" in texts["tiles"]
        assert "buy and hold" in texts["read"]
        assert texts["read"].endswith("other paths 2")
        assert "the median of 3 paths" in texts["held-note"]
        assert texts["map-title"] == "sharpe by fast and slow"
        assert "earlier runs that used the bars held back here3" in texts["chance"]
        assert all(finding in texts["findings"] for finding in found["findings"])
        assert await tab.run("document.querySelectorAll('#map .cell').length") == 9
        assert await tab.run("document.querySelectorAll('#map .wins').length") == 1
        first = await tab.run("document.querySelector('#map .cell').title")
        await tab.run("document.getElementById('map-mean').click()")
        assert await tab.run("document.getElementById('map-mean').getAttribute('aria-pressed')") == "true"
        assert await tab.run("document.querySelector('#map .cell').title") == first, "one trial: its mean is its best"
        assert await tab.run("document.querySelectorAll('#tests tbody tr').length") == len(found["folds"])
        assert tab.complaints == []


async def test_a_report_of_a_search_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    """Nothing held back, one parameter without steps, no ledger; results of before have no curves either."""
    bars = synthetic(3_000)
    plan = Plan(method="random", trials=4)
    found = search(Donchian, {"sl_pct": "0.5:4.0"}, bars, bt.setup_for(bars), plan, validation=Validation(kind="none"))
    search_page(found).save(file := tmp_path / "search.html")
    old = search(SmaCross, {"fast": "3:9:3"}, bars, bt.setup_for(bars))
    del old["out_of_sample"]["curves"]
    for name in ("hold_sharpe", "deflated_sharpe_above_hold"):
        del old["overfitting"][name]
    search_page(old).save(before := tmp_path / "before.html")
    async with page() as tab:
        for shown, hidden in ((file, ["held", "tests-section", "map-section"]), (before, ["held"])):
            await tab.go(shown.as_uri())

            async def is_drawn() -> bool:
                return bool(await tab.look("document.querySelector('main')?.hidden === false"))

            await until(is_drawn, deadline_s=20, every_s=0.1)
            every = ("held", "tests-section", "map-section")
            assert [id for id in every if await tab.run(f"document.getElementById('{id}').hidden")] == hidden
            assert "not on stored bars" in await tab.run("document.getElementById('tiles').textContent")
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
