"""Venues of installed packages: loaded only if the settings name them, and closed with the reason when they are bad."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.settings import Settings, Venues, VenueSettings
from fks.model.errors import ConfigError
from fks.model.order import OrderType, TimeInForce
from fks.trading.venues import plugins
from fks.trading.venues.plugins import forget, plugin_of, plugin_row
from fks.trading.venues.registry import (
    Making,
    capabilities_of,
    ends_order,
    is_key_exclusive,
    listed_venues,
    make_venue,
    unproven_plugin,
)
from tests.support.ports import CollectingLog
from tests.support.venue_plugin import CODE, NAME, PACKAGE, VERSION, installed


def settings_of(*listed: str, exchange: str = NAME, **venue: object) -> Settings:
    keys = {"api_key": "a-key", "api_secret": "its-secret"}
    return Settings(
        venue=VenueSettings(exchange=exchange, **{**keys, **venue}),  # type: ignore[arg-type]
        venues=Venues(plugins=listed),
        sim={"enabled": False},  # type: ignore[arg-type]
    )


def making_of(settings: Settings) -> Making:
    return Making(settings=settings, node=None, clock=RealClock(), log=CollectingLog())


def test_a_plugin_gives_a_row_of_the_table_of_venues(tmp_path: Path) -> None:
    with installed(tmp_path):
        row = plugin_row(NAME, [NAME])
        assert row is not None
        assert (row.name, row.exchange, row.plugin, row.version) == ("ccxt", NAME, PACKAGE, VERSION)
        assert len(row.digest) == 64
        assert row in listed_venues([NAME])
        assert capabilities_of(settings_of(NAME)) == row.capabilities
        made = make_venue("ccxt", making_of(settings_of(NAME, rest_url="http://127.0.0.1:9")))
        assert (made.name, made.capabilities) == ("ccxt", row.capabilities)


def test_code_of_a_plugin_that_is_not_listed_is_not_run(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / f"{PACKAGE}.py").write_text("raise SystemExit('run')")
    with installed(tmp_path / "site", code):
        assert plugin_row(NAME, []) is None
        assert NAME not in {row.exchange for row in listed_venues()}
        with pytest.raises(ConfigError, match=r"'template' is not supported.*named in venues\.plugins"):
            make_venue("ccxt", making_of(settings_of(rest_url="http://127.0.0.1:9")))


@pytest.mark.parametrize(
    ("source", "points", "reason"),
    [
        ("raise SystemExit('gone')", f"{NAME} = {PACKAGE}:VENUE", "cannot be loaded: SystemExit: gone"),
        ("import nothing_of_that_name", f"{NAME} = {PACKAGE}:VENUE", "cannot be loaded: ModuleNotFoundError"),
        ("VENUE = 5", f"{NAME} = {PACKAGE}:VENUE", "is no row of template"),
        ("", f"other = {PACKAGE}:VENUE", "is not installed"),
        ("class Odd(BaseException): ...\nraise Odd('of its own')", f"{NAME} = {PACKAGE}:VENUE", "Odd: of its own"),
        ("raise KeyboardInterrupt", f"{NAME} = {PACKAGE}:VENUE", "cannot be loaded: KeyboardInterrupt"),
        ("", f"{NAME} = no name of a module", "its files cannot be read"),
        ("", f"{NAME} = sys:path", "its files cannot be read"),
        (
            "",
            f"{NAME} = a_module_that_is_not_there:VENUE",
            "its files cannot be read: FileNotFoundError: none was found",
        ),
        (
            "from types import SimpleNamespace\nfrom fks.model.ports import VenueCapabilities\n"
            "from fks.trading.venues.listing import VenueListing\n"
            "VENUE = VenueListing('ccxt', 'template', 'ccxt', True, VenueCapabilities(frozenset(), frozenset()),\n"
            "    dialect=SimpleNamespace(name='template'))",
            f"{NAME} = {PACKAGE}:VENUE",
            "is no row of template",
        ),
    ],
)
def test_a_bad_plugin_has_a_reason_and_closes_its_venue_alone(
    tmp_path: Path, source: str, points: str, reason: str
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / f"{PACKAGE}.py").write_text(source)
    with installed(tmp_path / "site", code, points=points):
        settings = settings_of(NAME, rest_url="http://127.0.0.1:9")
        with pytest.raises(ConfigError, match=reason) as caught:
            make_venue("ccxt", making_of(settings))
        assert caught.value.remedy
        assert make_venue("paper", making_of(settings)).name == "paper"
        assert capabilities_of(settings).types == frozenset()
        assert not is_key_exclusive(NAME, [NAME])
        assert not ends_order("ccxt", NAME, OrderType.LIMIT, TimeInForce.GTC, 0, 10**12, [NAME])
        (row,) = [row for row in listed_venues([NAME]) if row.exchange == NAME]
        assert not row.is_tradable
        assert reason in row.facts[0].text


@pytest.mark.parametrize("client", ["None", "lambda: 1 / 0", "lambda: int"])
def test_a_plugin_whose_client_cannot_be_made_closes_its_venue_alone(tmp_path: Path, client: str) -> None:
    """None: ccxt's class of that name, which there is not."""
    code = tmp_path / "code"
    code.mkdir()
    source = (
        "from dataclasses import replace\nfrom fks.trading.venues.ccxt.dialects import dialect\n"
        f"from fks.trading.venues.listing import dialect_row\nVENUE = dialect_row(replace(dialect('kraken'), name='{NAME}', "
        f"client={client}))"
    )
    (code / f"{PACKAGE}.py").write_text(source)
    with installed(tmp_path / "site", code):
        settings = settings_of(NAME, rest_url="http://127.0.0.1:9", guardian_api_key="b", guardian_api_secret="s")
        with pytest.raises(ConfigError, match="the venue plug-in template: its session cannot be made: "):
            make_venue("ccxt", making_of(settings))


def test_a_plugin_that_does_not_end_its_import_is_given_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "LOAD_S", 0.05)
    code = tmp_path / "code"
    code.mkdir()
    (code / f"{PACKAGE}.py").write_text("import threading\nthreading.Event().wait(3)")
    with installed(tmp_path / "site", code):
        settings = settings_of(NAME, rest_url="http://127.0.0.1:9")
        with pytest.raises(ConfigError, match="cannot be loaded: TimeoutError: its import did not end"):
            make_venue("ccxt", making_of(settings))
        monkeypatch.setattr(plugins, "LOAD_S", 60)
        began_s = time.monotonic()
        assert capabilities_of(settings).types == frozenset()
        assert time.monotonic() - began_s < 1, "only a new process tries again"


@pytest.mark.parametrize("name", ["kraken", "binance", "paper", "ninja", "mt5"])
def test_a_name_of_fks_is_no_plugin(tmp_path: Path, name: str) -> None:
    with installed(tmp_path, points=f"{name} = {PACKAGE}:VENUE"), pytest.raises(ConfigError, match="a name of FKS"):
        plugin_row(name, [name])


@pytest.mark.parametrize("change", ["native.so", "errors.json", "part/client.py"])
def test_each_file_of_a_package_counts_for_its_pass(tmp_path: Path, change: str) -> None:
    package = tmp_path / "code" / PACKAGE
    (package / "part").mkdir(parents=True)
    for name in ("__init__.py", "client.py", "native.so", "errors.json"):
        (package / name).write_text(f"# {name}")
    (package / ".#client.py").symlink_to("nowhere")  # what editors leave
    with installed(tmp_path / "site", package.parent):
        before = plugin_of(NAME, [NAME])
        (package / "__pycache__").mkdir()
        (package / "__pycache__" / "client.cpython-311.pyc").write_text("made at an import")
        forget()
        assert plugin_of(NAME, [NAME]) == before
        (package / "client.py").rename(package / change) if change.startswith("part") else (
            package / change
        ).write_text("changed")
        forget()
        assert plugin_of(NAME, [NAME]) != before


def test_real_money_waits_for_a_pass_at_that_version_and_code(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / PACKAGE).mkdir(parents=True)
    for file in (CODE / PACKAGE).glob("*.py"):
        (code / PACKAGE / file.name).write_text(file.read_text())
    live = settings_of(NAME, live=True)
    with installed(tmp_path / "site", code):
        found = plugin_of(NAME, [NAME])
        assert found is not None
        passed = (NAME, VERSION, found.digest)
        assert unproven_plugin(live, ()) == f"{NAME} {VERSION}"
        assert unproven_plugin(live, [passed]) == ""
        assert unproven_plugin(live, [(NAME, "0.2.0", found.digest)]) == f"{NAME} {VERSION}"
        assert unproven_plugin(settings_of(NAME), ()) == ""
        assert unproven_plugin(settings_of(NAME, exchange="kraken", live=True), ()) == ""
        (code / PACKAGE / "client.py").write_text("# changed\n")
        assert unproven_plugin(live, [passed]) == "", "this process runs the code that passed"
        forget()
        assert unproven_plugin(live, [passed]) == f"{NAME} {VERSION}"


def test_a_test_network_of_a_plugin_is_no_real_exchange(tmp_path: Path) -> None:
    with installed(tmp_path):
        network = settings_of(NAME, rest_url="https://api.test.template.example")
        assert make_venue("ccxt", making_of(network)).name == "ccxt"
        with pytest.raises(ConfigError, match=r"venue\.live is false"):
            make_venue("ccxt", making_of(settings_of(NAME, rest_url="https://api.template.example")))
