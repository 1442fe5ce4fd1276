"""Venues over HTTP and by the command line: state, rules with versions, routes, and the record of each change."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from fks.config.load import load
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, run
from fks.interfaces.cli.checkup import venue_faults
from fks.model.errors import ConfigError
from fks.store.audit import AuditStore
from fks.store.db import Database
from fks.store.venues import VenueStore
from fks.trading.venues.conformance import CASES
from fks.trading.venues.plugins import plugin_of
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.venue_plugin import NAME, PACKAGE, VERSION, installed


@pytest.fixture
async def known(seeded: Database) -> Database:
    """Two venues that the order manager has reported."""
    await seeded.sql(
        "INSERT INTO venue_states (venue, account_id, state, detail) VALUES ('ccxt', 0, 'COLD', 'no account'),"
        " ('ccxt', 1, 'READY', ''), ('paper', 1, 'STALE', 'closed')"
    )
    return seeded


async def test_there_are_at_most_200_routes_and_each_can_be_changed(gateway: Running, known: Database) -> None:
    await known.sql(
        "INSERT INTO venue_routes (pattern, venues, updated_by)"
        " SELECT 'S' || i, ARRAY['ccxt'], 'ann' FROM generate_series(1, 200) i"
    )
    async with gateway.client("admin") as client:
        full = await client.put("/venue-routes/T*", json={"venues": ["paper"], "version": 0})
        assert (full.status_code, full.json()["code"]) == (409, "ROUTES_FULL")
        changed = await client.put("/venue-routes/S7", json={"venues": ["paper"], "version": 1})
        assert (changed.status_code, changed.json()["version"]) == (200, 2)
        assert (await client.delete("/venue-routes/S8")).status_code == 200
        added = await client.put("/venue-routes/T*", json={"venues": ["paper"], "version": 0})
        assert added.status_code == 200


@pytest.mark.parametrize("version", ['"99999999999999999999"', '"4294967296"', "-1", "NaN", "*"])
async def test_a_header_that_is_no_version_is_refused(gateway: Running, known: Database, version: str) -> None:
    async with gateway.client("admin") as client:
        answer = await client.patch("/venues/paper", json={"priority": 1}, headers={"If-Match": version})
        assert (answer.status_code, answer.json()["code"]) == (422, "VENUE_WRONG")


async def test_a_venue_is_changed_at_the_version_that_was_read(gateway: Running, known: Database) -> None:
    async with gateway.client("admin") as client:
        listed = (await client.get("/venues")).json()["items"]
        assert [(row["name"], row["state"], row["is_enabled"], row["version"]) for row in listed] == [
            ("ccxt", "READY", True, 0),
            ("paper", "STALE", True, 0),
        ]
        read = await client.get("/venues/paper")
        assert read.headers["etag"] == '"0"'
        disabled = await client.patch("/venues/paper", json={"is_enabled": False}, headers={"If-Match": '"0"'})
        assert (disabled.status_code, disabled.headers["etag"]) == (200, '"1"')
        assert (disabled.json()["is_enabled"], disabled.json()["enabled_by"]) == (False, "row")
        stale = await client.patch("/venues/paper", json={"priority": 1, "version": 0})
        assert (stale.status_code, stale.json()["code"]) == (409, "VENUE_CHANGED")
        first = await client.patch("/venues/paper", json={"priority": 1, "is_default": True, "version": 1})
        assert (first.json()["is_enabled"], first.json()["is_default"], first.json()["priority"]) == (False, True, 1)
        assert [row["name"] for row in (await client.get("/venues")).json()["items"]] == ["paper", "ccxt"]
        back = await client.patch("/venues/paper", json={"is_enabled": "settings", "version": 2})
        assert (back.json()["is_enabled"], back.json()["enabled_by"], back.json()["updated_by"]) == (
            True,
            "settings",
            "t-admin",
        )
    actions = [row["action"] for row in await AuditStore(known).list(action="PATCH /venues")]
    assert len(actions) == 8, "each request has two rows, the refused one too"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/venues/nasdaq", {"is_enabled": False, "version": 0}, 404, "VENUE_UNKNOWN"),
        ("/venues/paper", {"version": 0}, 422, "VENUE_WRONG"),
        ("/venues/paper", {"is_enabled": False}, 422, "VENUE_WRONG"),
        ("/venues/paper", {"is_enabled": "maybe", "version": 0}, 422, "INVALID"),
        ("/venues/paper", {"priority": -1, "version": 0}, 422, "INVALID"),
        ("/venues/paper", {"kind": "ccxt", "version": 0}, 422, "INVALID"),
    ],
)
async def test_a_wrong_change_is_refused_and_changes_nothing(
    gateway: Running, known: Database, path: str, body: dict[str, object], status: int, code: str
) -> None:
    async with gateway.client("admin") as client:
        answer = await client.patch(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert await known.sql("SELECT FROM venues") == []


async def test_a_venue_that_never_started_is_told_from_an_unknown_one(gateway: Running, known: Database) -> None:
    async with gateway.client("admin") as client:
        for name, words in (("mt5", "never started with the venue mt5"), ("nasdaq", "there is no venue nasdaq")):
            answer = await client.patch(f"/venues/{name}", json={"is_enabled": False, "version": 0})
            assert (answer.status_code, answer.json()["code"]) == (404, "VENUE_UNKNOWN")
            assert words in answer.text


async def test_routes_are_set_changed_and_removed(gateway: Running, known: Database) -> None:
    async with gateway.client("admin") as client:
        made = await client.put("/venue-routes/BTC*", json={"venues": ["ccxt", "paper", "ccxt"], "version": 0})
        assert (made.status_code, made.json()["venues"], made.headers["etag"]) == (200, ["ccxt", "paper"], '"1"')
        again = await client.put("/venue-routes/BTC*", json={"venues": ["paper"], "version": 0})
        assert (again.status_code, again.json()["code"]) == (409, "VENUE_CHANGED")
        changed = await client.put("/venue-routes/BTC*", json={"venues": ["paper"]}, headers={"If-Match": '"1"'})
        assert (changed.json()["venues"], changed.json()["version"]) == (["paper"], 2)
        unknown = await client.put("/venue-routes/ETH*", json={"venues": ["nasdaq"], "version": 0})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "VENUE_UNKNOWN")
        assert (await client.put("/venue-routes/ETH*", json={"venues": [], "version": 0})).status_code == 422
        [listed] = (await client.get("/venue-routes")).json()["items"]
        assert (listed["pattern"], listed["venues"]) == ("BTC*", ["paper"])
        assert (await client.delete("/venue-routes/BTC*")).json() == {"pattern": "BTC*", "is_removed": True}
        assert (await client.delete("/venue-routes/BTC*")).json()["code"] == "ROUTE_UNKNOWN"


async def test_the_command_line_sets_routes_and_checks_venues(gateway: Running, known: Database, fks: Fks) -> None:
    code, out, _ = await fks("venues", "set", "ccxt", "--disable", "--priority", "7")
    assert (code, out.strip()) == (OK, "ccxt: takes no entries (by row), priority 7")
    code, out, _ = await fks("venues", "set", "ccxt", "--default", "--enable", "--json")
    row = json.loads(out)
    assert (code, row["is_enabled"], row["is_default"], row["priority"]) == (OK, True, True, 7)
    code, out, _ = await fks("venues", "set", "ccxt", "--as-configured")
    assert (code, out.strip()) == (OK, "ccxt: takes entries (by settings), priority 7, the default")
    code, out, _ = await fks("venues", "check", "ccxt")
    assert code == OK
    code, out, _ = await fks("venues", "check", "--json")
    assert (code, json.loads(out)["failed"]) == (1, ["paper"])
    code, out, _ = await fks("venues", "route", "BTC*", "ccxt", "paper")
    assert (code, out.strip()) == (OK, "BTC*: ccxt paper")
    code, out, _ = await fks("venues", "route", "BTC*", "paper")
    assert (code, out.strip()) == (OK, "BTC*: paper")
    code, out, _ = await fks("venues", "routes", "--json")
    assert [row["venues"] for row in json.loads(out)["items"]] == [["paper"]]
    code, out, _ = await fks("venues", "route", "BTC*", "--remove")
    assert (code, out.strip()) == (OK, "BTC*: removed")
    code, out, _ = await fks("venues", "list", "--json")
    assert (code, [row["name"] for row in json.loads(out)["venues"]]) == (OK, ["ccxt", "paper"])


async def test_a_venue_shows_the_last_certificate_of_its_exchange(gateway: Running, known: Database, fks: Fks) -> None:
    store = VenueStore(known)
    await store.note_pass("binance", "1.0.0", "", ["V-01"], "test")
    await store.note_pass("binance", "1.1.0", "", ["V-01", "V-11"], "test")
    await store.note_pass("binance", "9.9.9", "ab" * 32, ["V-01"])  # a plug-in's pass is no certificate
    await store.note_pass("kraken", "1.1.0", "", ["V-01"], "live")
    async with gateway.client("read") as client:
        rows = {row["name"]: row["certificate"] for row in (await client.get("/venues")).json()["items"]}
    at = rows["ccxt"].pop("at")
    assert rows == {"ccxt": {"release": "1.1.0", "environment": "test", "cases": ["V-01", "V-11"]}, "paper": None}
    code, out, _ = await fks("venues", "list")
    assert (code, f"{at[:10]} test by 1.1.0" in out) == (OK, True)


def test_a_name_that_no_venue_has_is_refused_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nasdaq"):
        load(tmp_path, {"FKS_VENUES_ENABLED": "paper,nasdaq"})


async def test_the_doctor_names_venues_that_are_down_and_why(fks: Fks, known: Database, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    assert await venue_faults(paths) == ""
    await known.sql("UPDATE venue_states SET state = 'DOWN', detail = 'no key; set one' WHERE account_id = 1")
    assert "ccxt is DOWN: no key; set one" in await venue_faults(paths)


async def test_a_plugin_shows_its_stage_and_a_pass_of_its_cases_ends_it(
    known: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    given = {"venue": {"exchange": NAME}, "venues": {"plugins": [NAME]}}
    with installed(tmp_path / "site"):
        found = plugin_of(NAME, [NAME])
        assert found is not None
        async with (
            running(known, database_url, redis_url, tmp_path, **given) as gateway,
            gateway.client("read") as client,
        ):
            rows = {row["name"]: row for row in (await client.get("/venues")).json()["items"]}
            shown = ("exchange", "plugin", "plugin_version", "stage")
            assert [rows["ccxt"][name] for name in shown] == [NAME, PACKAGE, VERSION, "sim"]
            assert [rows["paper"][name] for name in shown] == [None] * 4
            await VenueStore(known).note_pass(NAME, VERSION, found.digest, ["V-01"])
            assert (await client.get("/venues/ccxt")).json()["stage"] == "live"


async def test_a_further_exchange_is_a_venue_and_the_configured_one_goes_by_either_name(
    known: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    await known.sql("INSERT INTO venue_states (venue, account_id, state, detail) VALUES ('coinbase', 3, 'READY', '')")
    given = {"venue": {"exchange": "kraken"}, "venues": {"exchanges": ("coinbase",), "enabled": ("kraken",)}}
    async with (
        running(known, database_url, redis_url, tmp_path, **given) as gateway,
        gateway.client("admin") as client,
    ):
        rows = {row["name"]: row for row in (await client.get("/venues")).json()["items"]}
        shown = {name: (row["exchange"], row["is_enabled"]) for name, row in rows.items()}
        assert shown == {"ccxt": ("kraken", True), "coinbase": ("coinbase", False), "paper": (None, False)}
        changed = await client.patch("/venues/kraken", json={"priority": 5, "version": 0})
        assert (changed.status_code, changed.json()["name"], changed.json()["priority"]) == (200, "ccxt", 5)
        routed = await client.put("/venue-routes/BTC*", json={"venues": ["kraken", "coinbase"], "version": 0})
        assert routed.json()["venues"] == ["ccxt", "coinbase"]
        for venue, stored in (("coinbase", "coinbase"), ("kraken", "ccxt")):
            made = await client.post("/accounts", json={"name": f"at {venue}", "venue": venue})
            assert (made.status_code, made.json()["venue"]) == (201, stored)
        unknown = await client.post("/accounts", json={"name": "lost", "venue": "okx"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "VENUE_UNKNOWN")


async def test_the_command_runs_the_cases_and_stores_the_pass_of_a_plugin(
    known: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    monkeypatch.setenv("FKS_VENUES_PLUGINS", NAME)
    with installed(tmp_path / "site"):
        found = plugin_of(NAME, [NAME])
        assert found is not None
        part = ["--home", str(tmp_path), "venues", "conformance", NAME, "--case", "V-08"]
        assert await asyncio.to_thread(run, cli, part) == OK
        assert await VenueStore(known).passes() == set(), "one case is no pass"
        assert await asyncio.to_thread(run, cli, part[:-2]) == OK
        assert await VenueStore(known).passes() == {(NAME, VERSION, found.digest)}
        [row] = await VenueStore(known).pass_rows()
        assert row["cases"] == [case.number for case in CASES]
