"""The guide that `make docs` builds: it loads nothing from another host, each of its links leads somewhere, and a
browser shows and searches it below the path of the gateway."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from fks.interfaces.web import pages as pages_of_gateway
from tests.support.browser import is_true, page, says
from tests.support.gateway import serving

ROOT = Path(__file__).resolve().parents[4]
#: The root of the search dialog, which stands in a shadow tree.
DIALOG = "[...document.querySelectorAll('div')].find(each => each.shadowRoot?.querySelector('dialog'))?.shadowRoot"
#: Elements whose attribute a browser fetches by itself.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Read(HTMLParser):
    """A page of the site: the files that it fetches, its links, its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if found := given.get(FETCHED.get(tag, "")):
            self.fetched.append(found)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.ids |= {given[name] for name in ("id", "name") if name in given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("guide") / "site"
    done = subprocess.run(
        [sys.executable, "scripts/guide.py", str(target)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Read]:
    return {path.relative_to(site).as_posix(): Read(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_of_the_docs_is_in_the_guide_and_its_menu(pages: dict[str, Read]) -> None:
    docs = ROOT / "docs"
    wanted = {path.relative_to(docs).with_suffix(".html").as_posix() for path in docs.rglob("*.md")}
    wanted |= {path.relative_to(docs).with_suffix(".html").as_posix() for path in docs.rglob("*.ipynb")}
    assert wanted <= pages.keys()
    menu = {urljoin("http://x/", link) for link in pages["index.html"].links}
    assert not [place for place in wanted if f"http://x/{place}" not in menu]


def test_guide_fetches_nothing_from_another_host(site: Path, pages: dict[str, Read]) -> None:
    outside = [
        f"{place}: {target}"
        for place, read in pages.items()
        for target in read.fetched
        if urlsplit(target).scheme not in ("", "data") or target.startswith("//")
    ]
    for sheet in site.rglob("*.css"):
        outside += re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//[^)]*", sheet.read_text())
    assert not outside


def test_links_of_the_guide_lead_somewhere(site: Path, pages: dict[str, Read]) -> None:
    dead = []
    for place, read in pages.items():
        for target in (*read.links, *read.fetched):
            if urlsplit(target).scheme:
                continue
            address, anchor = urldefrag(urljoin(f"http://x/{place}", target))
            file = unquote(urlsplit(address).path).lstrip("/")
            file += "index.html" if not file or file.endswith("/") else ""
            if not (site / file).is_file() or (file in pages and unquote(anchor) not in pages[file].ids):
                dead.append(f"{place}: {target}")
    assert not dead


def test_search_index_has_every_page(site: Path, pages: dict[str, Read]) -> None:
    places = {urldefrag(item["location"])[0] for item in json.loads((site / "search.json").read_text())["items"]}
    assert places >= {place for place in pages if place != "examples/report.html"}


async def test_browser_shows_and_searches_the_guide_of_the_gateway(
    site: Path, database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_of_gateway, "GUIDE", site)
    async with serving(database_url, redis_url, tmp_path, {}) as gateway, page() as tab:
        address = f"{gateway.url}/guide"
        await tab.go(f"{address}/orders.html")
        await says(tab, "What follows")
        if (
            ROOT / "fks" / "interfaces" / "web" / "vendor" / "mermaid.tiny.js"
        ).is_file():  # its drawing has a closed shadow root
            await is_true(tab, "document.querySelector('div.mermaid')?.getBoundingClientRect().height > 100")
        await tab.run("document.querySelector('.md-search__button').click()")
        await is_true(tab, f"!!({DIALOG})?.querySelector('input')")
        await tab.call("Input.insertText", text="deflated")
        await is_true(tab, f"({DIALOG}).textContent.includes('An edge or luck?')")
        await tab.go(f"{address}/notebooks/edge-or-luck.html")
        await says(tab, "against it:")
        await is_true(tab, "document.querySelector('main img, article img')?.naturalWidth > 0")
        assert tab.complaints == []
        fetched = await tab.run("performance.getEntriesByType('resource').map(each => each.name)")
        assert fetched
        assert not [name for name in fetched if not name.startswith(f"{address}/")]
