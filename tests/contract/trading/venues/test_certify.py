"""`fks venues certify` against local exchanges as the test network: its proof, and a clean account afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fks.clock import Clock, RealClock
from fks.config.version import installed_version
from fks.interfaces.cli import cli, main
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.lab.sim.options import Options, WireProtocol
from fks.lab.sim.server import start
from fks.model.account import Environment
from fks.store.db import Database
from fks.store.venues import VenueStore
from fks.trading.venues.certify import PACES
from fks.trading.venues.registry import listed_venues
from tests.support.children import Child
from tests.support.fast_clock import FastWaits
from tests.support.invariants import assert_once
from tests.support.waiting import until

PLACES = {row.exchange: row.stand_in.place for row in listed_venues() if row.stand_in is not None}
ORDERS = ("V-01", "V-05", "V-07", "V-08", "V-09")
SPELLED = {"binance": "BTC-USDT", "kraken": "btcusdt", "coinbase": "BTC/USDT"}
#: cases that do not apply
WITHOUT = {"binance": {"V-13"}, "kraken": set[str](), "coinbase": set[str]()}


class Terminal(io.StringIO):
    """A person's terminal with the answers to come."""

    def isatty(self) -> bool:
        return True


@dataclass
class Person:
    """A person with keys of a local exchange, and the exchange as a witness."""

    exchange: str
    info: dict[str, str]
    home: Path
    monkeypatch: pytest.MonkeyPatch
    settings: dict[str, str] = field(default_factory=dict)
    process: Child | None = None

    async def certify(self, *arguments: str, answer: str = "y\n", process: bool = False) -> int:
        """Return the exit code of the command, run in a thread or in a process of its own."""
        found = {
            "FKS_VENUE_EXCHANGE": self.exchange,
            "FKS_VENUE_REST_URL": self.info["rest"],
            "FKS_VENUE_WS_URL": self.info["ws"],
            "FKS_VENUE_WS_API_URL": self.info["ws_api"],
            "FKS_VENUE_API_KEY": self.info["api_key"],
            "FKS_VENUE_API_SECRET": self.info["api_secret"],
            "FKS_VENUE_GUARDIAN_API_KEY": self.info.get("guardian_api_key", ""),
            "FKS_VENUE_GUARDIAN_API_SECRET": self.info.get("guardian_api_secret", ""),
            **self.settings,
        }
        for name, value in found.items():
            if value:
                self.monkeypatch.setenv(name, value)
        self.monkeypatch.setattr("sys.stdin", Terminal(answer) if answer else io.StringIO("y\n"))
        given = ["--home", str(self.home), "venues", "certify", self.exchange, "--testnet"]
        given += ["--report", str(self.home / "kept.json"), *arguments]
        if process:
            self.process = Child(main, given)
            return await asyncio.to_thread(self.process.wait, 120)
        return await asyncio.to_thread(run, cli, given)

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "kept.json").read_text()))

    def states(self) -> dict[str, str]:
        return {item["case"]: item["state"] for item in self.report()["items"]}

    async def ask(self, method: str, at: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.info["rest"] + at, json=body, params=query) as answer,
        ):
            answer.raise_for_status()
            return await answer.json()

    async def sent(self) -> list[str]:
        """Return the client ids of the orders that the exchange received in markets that it has."""
        found = await self.ask("GET", "/sim/received", path=PLACES[self.exchange], limit="1000")
        rows = found["items"] if isinstance(found, dict) else found
        made = [
            row for row in rows if row["method"] == "POST" and not {"validate", "NOTHING"} & set(words(row["params"]))
        ]
        return [row["client_order_id"] for row in made]

    async def coins(self) -> Decimal:
        rows = {row["asset"]: row for row in (await self.ask("GET", "/sim/state"))["balances"]}
        return Decimal(rows["BTC"]["free"]) + Decimal(rows["BTC"]["locked"]) if "BTC" in rows else Decimal(0)

    async def resting(self) -> list[Any]:
        return list((await self.ask("GET", "/sim/state"))["open_orders"])


def words(params: object) -> list[str]:
    return re.findall(r"\w+", str(params))


Certifying = Callable[..., contextlib.AbstractAsyncContextManager[Person]]


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_waits: FastWaits) -> Certifying:
    @contextlib.asynccontextmanager
    async def made(exchange: str, clock: Clock = fast_waits, **options: Any) -> AsyncIterator[Person]:
        given = {"seed": 5, "has_rate_limits": False, "wire": WireProtocol(exchange), **options}
        server = await start(Options(tmp_path / "sim", **given), clock)
        try:
            yield Person(exchange, server.info(), tmp_path, monkeypatch)
        finally:
            await server.stop()

    return made


@pytest.mark.parametrize("exchange", ["binance", "kraken", "coinbase"])
async def test_every_case_passes_and_nothing_is_left(
    person: Certifying, exchange: str, database: Database, database_url: str
) -> None:
    async with person(exchange) as one:
        one.settings["FKS_DATABASE_URL"] = database_url
        assert await one.certify("--json", "--symbol", SPELLED[exchange]) == OK
        report = one.report()
        assert {case for case, state in one.states().items() if state == "not applicable"} == WITHOUT[exchange]
        assert set(one.states().values()) <= {"passed", "not applicable"}
        assert (report["is_certified"], report["left"], report["environment"]) == (True, [], "sim")
        assert await one.resting() == []
        assert await one.coins() < Decimal("0.0001"), "what was bought is sold, but for fees in the coin"
        assert_once(await one.sent())
        assert len(await one.sent()) >= 8
    [row] = await VenueStore(database).pass_rows()
    assert (row["exchange"], row["version"], row["digest"]) == (exchange, installed_version(), "")
    assert set(row["cases"]) >= set(ORDERS)
    assert await VenueStore(database).passes() == set(), "a certificate is no pass of a plug-in"


async def test_it_keeps_the_limit_of_a_key(person: Certifying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kraken's counter falls by one in three seconds, and refused requests count: without a pause no poll is answered
    any more, and an order that was refused counts as left."""
    clock = FastWaits(60.0)
    monkeypatch.setattr("fks.clock.RealClock", lambda: clock)
    monkeypatch.setitem(PACES, Environment.SIM, PACES[Environment.LIVE])
    async with person("kraken", clock, has_rate_limits=True) as one:
        await one.certify()
        assert set(one.states().values()) == {"passed"}, one.report()["text"]
        assert await one.resting() == []


async def test_no_order_is_sent_that_a_person_did_not_confirm(person: Certifying) -> None:
    async with person("kraken") as one:
        assert await one.certify(answer="n\n") == FAILED
        assert {one.states()[case] for case in ("V-11", "V-13")} == {"passed"}
        assert {one.states()[case] for case in ORDERS} == {"not run"}
        assert await one.sent() == []
        assert "NOT certified" in (one.home / "kept.txt").read_text()


async def test_without_a_terminal_nothing_is_asked_of_a_real_exchange(
    person: Certifying, capsys: pytest.CaptureFixture[str]
) -> None:
    async with person("kraken") as one:
        assert await one.certify(answer="") == USAGE
        assert await one.sent() == []
        assert not (one.home / "kept.json").exists()
    assert "a person must confirm" in capsys.readouterr().err


@pytest.mark.parametrize("exchange", ["binance", "kraken", "coinbase"])
async def test_a_wrong_key_fails_before_any_order(person: Certifying, exchange: str) -> None:
    async with person(exchange) as one:
        wrong = one.info["api_secret"]
        one.settings["FKS_VENUE_API_KEY"] = f"{one.info['api_key'][:-2]}xx"
        assert await one.certify() == FAILED
        assert one.info["api_secret"] == wrong
        assert one.states()["V-11"] == "failed"
        assert {one.states()[case] for case in ORDERS} == {"not run"}
        assert wrong not in (one.home / "kept.json").read_text()
        assert await one.sent() == []


async def test_an_account_without_money_sends_no_order(person: Certifying) -> None:
    async with person("binance", balances={"USDT": "1"}) as one:
        assert await one.certify() == FAILED
        items = {item["case"]: item for item in one.report()["items"]}
        assert {items[case]["state"] for case in ORDERS} == {"not run"}
        assert "1.00000000 USDT are free" in items["V-01"]["detail"]
        assert await one.sent() == []


async def test_a_case_that_fails_in_the_middle_leaves_nothing(person: Certifying) -> None:
    async with person("kraken") as one:
        await one.ask("POST", "/sim/faults", {"path": "/0/private/CancelOrder", "kind": "http_500", "count": 1})
        assert await one.certify() == FAILED
        assert one.states()["V-05"] == "failed"
        assert one.states()["V-07"] == "passed", "the other cases go on"
        assert one.report()["left"] == []
        assert (await one.resting(), await one.coins()) == ([], 0)


async def test_what_cannot_be_cancelled_is_named_and_ends_the_run(person: Certifying) -> None:
    async with person("kraken") as one:
        await one.ask("POST", "/sim/faults", {"path": "/0/private/CancelOrder", "kind": "http_500", "count": None})
        assert await one.certify() == FAILED
        [order] = await one.resting()
        assert order["clientOrderId"] in one.report()["left"][0]
        assert one.states()["V-07"] == "not run"
        assert await one.coins() == 0, "what the case bought is sold all the same"
        assert "LEFT at the exchange" in (one.home / "kept.txt").read_text()


async def test_an_interrupted_run_closes_what_it_opened(person: Certifying, tmp_path: Path) -> None:
    async with person("binance", RealClock()) as one:  # of the command's own process, too
        fault = {"path": "/api/v3/order", "method": "DELETE", "kind": "http_500", "count": 1}
        await one.ask("POST", "/sim/faults", fault)
        running = asyncio.create_task(one.certify(process=True))

        async def rests() -> bool:
            return one.process is not None and await one.resting() != []

        await until(rests, deadline_s=90)
        assert one.process is not None
        one.process.send_signal(signal.SIGINT)
        assert await running == FAILED
        assert {case for case, state in one.states().items() if state == "not run"} == {"V-05", "V-07"}
        assert await one.resting() == []
        assert await one.coins() < Decimal("0.0001")


REFUSED = {
    "keys of another exchange": ({"FKS_VENUE_EXCHANGE": "binance"}, "kraken", [], "its keys are not those"),
    "live settings": ({"FKS_VENUE_LIVE": "true", "FKS_SIM_ENABLED": "false"}, "binance", [], "venue.live is true"),
    "too dear": ({}, "binance", ["--cost-max", "1"], "the smallest order of BTCUSDT costs"),
    "a market that is not listed": ({}, "binance", ["--symbol", "NOTHING"], "lists no NOTHING"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_makes_a_certificate_unsafe_is_refused(
    person: Certifying, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, exchange, arguments, text = REFUSED[case]
    async with person(exchange) as one:
        one.settings |= settings
        assert await one.certify(*arguments) == USAGE
        assert await one.sent() == []
    assert text in capsys.readouterr().err
