"""Adding an exchange takes one package, one line of the registry and one tape; no other file names an exchange."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fks.market.exchanges
from fks.clock import FakeClock
from fks.config.settings import Data, Settings
from fks.market.exchanges.registry import (
    BY_SETTINGS,
    EXCHANGES,
    SIMULATED,
    capabilities_of,
    key_of,
    make_exchange,
    rate_limits_of,
)
from fks.market.files.symbols import symbol_at
from fks.market.history.gaps import calendar_for, has_empty_bars
from fks.model.market import Allowance
from scripts.exchange_template.capabilities import CAPABILITIES
from tests.support.ports import CollectingLog

ROOT = Path(__file__).parents[4]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the template as the package `newcomer`, and its line in the registry."""
    package = tmp_path / "newcomer"
    shutil.copytree(ROOT / "scripts" / "exchange_template", package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in package.glob("*.py"):
        text = module.read_text().replace("scripts.exchange_template", "fks.market.exchanges.newcomer")
        module.write_text(text.replace('"template"', '"newcomer"'))
    monkeypatch.setattr(fks.market.exchanges, "__path__", [*fks.market.exchanges.__path__, str(tmp_path)])
    monkeypatch.setitem(EXCHANGES, "newcomer", "TemplateExchange")
    return "newcomer"


async def test_package_and_registry_line_make_an_exchange(added: str, log: CollectingLog) -> None:
    settings = Settings(data=Data(requests_per_minute={added: 7}))
    made = make_exchange(added, settings=settings, node=None, clock=FakeClock(), log=log)
    await made.open()
    await made.close()
    assert (made.name, made.capabilities) == (added, CAPABILITIES)
    assert capabilities_of(added) == CAPABILITIES
    assert rate_limits_of(Settings(), added) == CAPABILITIES.limits
    assert rate_limits_of(settings, added).requests == Allowance(7, 60)
    assert key_of(settings, added) is None
    assert (calendar_for(added), has_empty_bars(added)) == ("24/7", True)
    assert symbol_at(added, "btc/usdt") == "BTC-USDT"


def test_no_code_outside_its_package_names_an_exchange() -> None:
    """Except the one that the local exchange imitates, which is the default, and a bridge: venues have the same
    names. `fks/lab/sim/options.py` names the protocols that the local exchange speaks, `dialects` the venues' own."""
    names = EXCHANGES.keys() - {SIMULATED} - BY_SETTINGS
    found = []
    for path in [*(ROOT / "fks").rglob("*.py"), *(ROOT / "actors").rglob("*.py")]:
        folder = path.relative_to(ROOT).parts
        if folder[:3] == ("fks", "market", "exchanges") and (folder[3] in names or folder[3] == "registry.py"):
            continue
        if folder == ("fks", "lab", "sim", "options.py") or folder[:5] == (
            "fks",
            "trading",
            "venues",
            "ccxt",
            "dialects",
        ):
            continue
        source = path.read_text()
        if not any(name in source for name in names):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}")
    assert found == []


def test_capabilities_are_read_without_loading_a_client() -> None:
    program = (
        "import json, sys\n"
        "from fks.market.exchanges.registry import EXCHANGES, capabilities_of\n"
        "[capabilities_of(name) for name in EXCHANGES]\n"
        "print(json.dumps(sorted({'ccxt', 'aiohttp'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
