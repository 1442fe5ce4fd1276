"""`fks mt5 certify` against the agent as it ships, on a simulated terminal: its proof, and a clean account afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.mt5.agent import AgentOptions, Mt5Agent, agent_config, start_agent
from fks.bridge.mt5.platform import Mt5Login
from fks.bridge.ninja.session import Identity
from fks.bridge.ninja_link.check import Address
from fks.clock import RealClock
from fks.config.version import installed_version
from fks.interfaces.cli import cli, main
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions
from fks.model.ninja import MT5
from fks.store.db import Database
from fks.store.venues import VenueStore
from fks.trading.venues.certify import VenueCertifier
from fks.trading.venues.conformance import CasePace
from fks.trading.venues.ninja.certify import FIRST, OTHERS, Mt5Rig, subject_of
from tests.support.children import Child
from tests.support.ninja import put_secret
from tests.support.waiting import until

CASES = [f"M-0{number}" for number in range(1, 8)]


class Terminal(io.StringIO):
    """A person's terminal with the answers to come."""

    def isatty(self) -> bool:
        return True


@dataclass
class Trader:
    """A trader's machine with a terminal and the agent, and the command in FKS."""

    home: Path
    terminal: SimulatedTerminal
    agent: Mt5Agent
    monkeypatch: pytest.MonkeyPatch
    process: Child | None = None

    async def certify(self, *arguments: str, answer: str = "", process: bool = False) -> int:
        """Return the exit code of the command, run in a thread or in a process of its own."""
        given = ["--home", str(self.home), "mt5", "certify", "--report", str(self.home / "kept.json"), *arguments]
        if process:
            self.process = Child(main, given)
            return await asyncio.to_thread(self.process.wait, 120)
        self.monkeypatch.setattr("sys.stdin", Terminal(answer) if answer else io.StringIO("y\n"))
        return await asyncio.to_thread(run, cli, given)

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "kept.json").read_text()))

    def states(self) -> dict[str, str]:
        return {item["case"]: item["state"] for item in self.report()["items"]}

    def detail(self, case: str) -> str:
        return str(next(item["detail"] for item in self.report()["items"] if item["case"] == case))

    async def certify_until_it_has_an_order(self, number: signal.Signals) -> int:
        """Run `fks mt5 certify`, signalled at the moment its first order is accepted; return its exit status."""
        send, signalled = self.terminal.order_send, False

        def signals_once_accepted(request: dict[str, Any]) -> Any:
            nonlocal signalled
            answer = send(request)
            if not signalled and self.left() > 0 and self.process is not None:
                signalled = True
                self.process.send_signal(number)
            return answer

        self.monkeypatch.setattr(self.terminal, "order_send", signals_once_accepted)
        status = await self.certify(process=True)
        assert signalled, "no order was accepted"
        return status

    def left(self) -> int:
        """Return how many orders and positions the broker has."""
        return len(self.terminal.orders_get()) + len(self.terminal.positions_get())


@contextlib.asynccontextmanager
async def trader(
    home: Path, monkeypatch: pytest.MonkeyPatch, *, is_live: bool = False, **options: Any
) -> AsyncIterator[Trader]:
    clock = RealClock()
    terminal = SimulatedTerminal(
        home / "broker", lambda: clock.now_ns() // 1_000_000, TerminalOptions(swing=0.0, **options)
    )
    config = agent_config("mt5", settle_ms=300)
    given = AgentOptions(home / "agent", login=Mt5Login(account_number=5001), is_live=is_live, config=config)
    agent = await start_agent(given, terminal, clock)
    try:
        put_secret(home / "mt5.key", agent.secret)
        (home / "fks.toml").write_text(f"[mt5]\nport = {agent.port}\ntimeout_s = 2.0\naccount_number = 5001\n")
        await until(lambda: agent.sessions.bridge.is_ready)
        yield Trader(home, terminal, agent, monkeypatch)
    finally:
        await agent.stop()


@pytest.mark.parametrize("is_hedging", [True, False])
async def test_every_case_passes_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database, database_url: str, is_hedging: bool
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    async with trader(tmp_path, monkeypatch, is_hedging=is_hedging) as one:
        assert await one.certify("--json") == OK
        report = one.report()
        assert one.states() == dict.fromkeys(CASES, "passed")
        assert (report["is_certified"], report["left"], report["environment"]) == (True, [], "sim")
        assert (report["quantity"], report["account"]) == ("0.01", "5001")
        assert one.left() == 0
        entries = [line for line in one.terminal.log() if line["type"] in (0, 2)]
        assert [line["volume_initial"] for line in entries] == [0.01] * 3, "one is pending, two fill"
    [row] = await VenueStore(database).pass_rows()
    assert (row["exchange"], row["version"], row["cases"]) == ("mt5", installed_version(), CASES)


async def test_an_account_with_real_money_needs_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trader(tmp_path, monkeypatch, is_demo=False, is_live=True) as one:
        assert await one.certify() == USAGE
        assert "no demo account: a person must confirm" in capsys.readouterr().err
        assert not (tmp_path / "kept.json").exists()
        assert await one.certify(answer="n\n") == FAILED
        assert [one.states()[case] for case in CASES] == ["passed", "passed", *["not run"] * 5]
        assert one.terminal.log() == []
        assert await one.certify(answer="y\n") == OK
        assert (one.report()["environment"], one.left()) == ("sim", 0), "the broker is simulated"


async def test_an_agent_that_takes_no_real_money_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch, is_demo=False) as one:
        assert await one.certify(answer="y\n") == FAILED
        assert "--live" in one.detail("M-01")
        assert one.terminal.log() == []


async def test_a_symbol_that_the_account_holds_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch) as one:
        buy = {"action": 1, "symbol": "EURUSD", "volume": 0.5, "type": 0, "type_filling": 1}
        assert one.terminal.order_send(buy).retcode == 10009
        await until(lambda: one.agent.platform.positions("5001"))
        assert await one.certify() == FAILED
        assert "holds EURUSD already" in one.detail("M-01")
        assert [position.volume for position in one.terminal.positions_get()] == [0.5]
        assert await one.certify("--symbol", "USDJPY") == OK
        assert [position.volume for position in one.terminal.positions_get()] == [0.5]


async def test_what_cannot_be_closed_is_named_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch) as one:
        secret = one.agent.secret
        identity = Identity("mt5", "observe", "ab" * 16, secret, "test", MT5)
        address, clock = Address("127.0.0.1", one.agent.port, 2.0), RealClock()
        subject = await subject_of(identity, address, clock, None, "EURUSD")
        rig = Mt5Rig(identity, address, clock, subject, 1, CasePace(step_s=0.2, wait_s=2.0, case_s=20.0))
        certifier = VenueCertifier(rig, first=FIRST, others=OTHERS)
        await certifier.look()
        send = one.terminal.order_send

        def closes_once_filled(request: dict[str, Any]) -> Any:
            answer = send(request)
            if one.terminal.positions_get() != ():
                one.terminal.switch_on("market_closed", 600)
            return answer

        monkeypatch.setattr(one.terminal, "order_send", closes_once_filled)
        await certifier.trade()
        assert [(one.case, one.state) for one in certifier.results[4:]] == [
            ("M-05", "failed"), ("M-06", "not run"), ("M-07", "not run"),
        ]  # fmt: skip
        assert any("0.01 filled" in text for text in certifier.left)
        assert not certifier.is_certified


async def test_an_interrupted_run_closes_what_it_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch) as one:
        assert await one.certify_until_it_has_an_order(signal.SIGINT) == FAILED
        assert "not run" in one.states().values()
        assert (one.left(), one.report()["left"]) == (0, [])


async def test_what_a_killed_run_left_is_named_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch) as one:
        await one.certify_until_it_has_an_order(signal.SIGKILL)
        made = len(one.terminal.log())
        assert one.left() > 0
        for symbol in ("EURUSD", "USDJPY"):
            assert await one.certify("--symbol", symbol) == FAILED
            assert "an earlier run was killed" in one.detail("M-01")
            assert one.states()["M-04"] == "not run"
        assert len(one.terminal.log()) == made, "nothing is sent beside it"


async def test_an_order_without_a_result_is_found_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trader(tmp_path, monkeypatch, on=frozenset({"none_accepted"}), chance=1.0) as one:
        assert await one.certify() == FAILED
        assert one.states()["M-03"] == "passed"
        assert one.states()["M-04"] == "failed"
        assert (one.left(), one.report()["left"]) == (0, [])


async def test_a_symbol_that_is_not_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trader(tmp_path, monkeypatch) as one:
        assert await one.certify("--symbol", "NOTHING") == USAGE
        assert one.terminal.log() == []
    assert "not in the Market Watch" in capsys.readouterr().err
