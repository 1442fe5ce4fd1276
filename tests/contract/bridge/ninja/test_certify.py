"""`fks ninja certify` against the simulated NinjaTrader: steps by machine, answers by a person, a report to go on with."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, OK, USAGE, run
from fks.lab.sim.nt8.server import BridgeServer, start
from fks.lab.sim.nt8.unkindness import KIND, Unkindness, only
from tests.support.invariants import assert_once
from tests.support.ninja import put_secret
from tests.support.nt8_platform import held, open_position, options, resting

PERSON = ("import=pass:8.1.4", "listening=pass", "broker=skip", "restart=done", "network=done", "recompile=done")
MACHINE = ["connection", "working_order", "bracket", "flatten", "latch"]


class Rig:
    """A platform, and the command on its port."""

    def __init__(self, home: Path, server: BridgeServer) -> None:
        self.home, self.server = home, server
        put_secret(home / "ninja.key", server.secret)
        (home / "fks.toml").write_text(f"[ninja]\nport = {server.port}\ntimeout_s = 2.0\n")

    async def certify(self, *arguments: str) -> int:
        given = ["--home", str(self.home), "ninja", "certify", "--instrument", self.server.options.instruments[0]]
        return await asyncio.to_thread(run, cli, [*given, *arguments])

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "certify-sim.json").read_text()))

    def outcomes(self) -> dict[str, str]:
        return {step["name"]: step["outcome"] for step in self.report()["steps"]}

    def step(self, name: str) -> dict[str, Any]:
        return next(dict(step) for step in self.report()["steps"] if step["name"] == name)


@contextlib.asynccontextmanager
async def rig(home: Path, unkind: Unkindness = KIND, **changes: Any) -> AsyncIterator[Rig]:
    server = await start(replace(options(home / "nt8", unkind=unkind), **changes))
    try:
        yield Rig(home, server)
    finally:
        await server.stop()


def answers(*given: str) -> list[str]:
    return [word for text in given for word in ("--answer", text)]


async def test_whole_checklist_passes_and_leaves_the_latch_to_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rig(tmp_path) as found:
        assert await found.certify("--yes", "--json", *answers(*PERSON)) == FAILED
        document = json.loads(capsys.readouterr().out)
        assert document["schema"] == "fks.ninja.certify/1"
        assert not document["is_complete"]
        outcomes = found.outcomes()
        assert outcomes.pop("release") == "open"
        assert outcomes.pop("broker") == "skipped"
        assert set(outcomes.values()) == {"passed"}, found.report()
        assert (held(found.server), resting(found.server)) == (0, [])
        assert found.server.sessions.bridge.halted
        names = [
            name for name in (order.name for order in found.server.platform.orders("Sim101")) if name.endswith(":E")
        ]
        assert_once(names)
        assert len(names) == 2, "one order away from the market, one that filled"
        found.server.sessions.bridge.lift_halt("a person")
        assert await found.certify("--yes", "--json", *answers("release=done")) == OK
        assert found.report()["is_complete"]
    text = (tmp_path / "certify-sim.json").with_suffix(".md").read_text()
    assert "8.1.4" in text
    assert "passed" in text


async def test_without_answers_the_machine_steps_run_and_the_rest_stays_open(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        assert await found.certify("--yes", "--json") == FAILED
        outcomes = found.outcomes()
        assert {name for name, outcome in outcomes.items() if outcome == "passed"} == set(MACHINE)
        assert outcomes["restart"] == "open"
        submitted = len(found.server.platform.orders("Sim101"))
        found.server.sessions.bridge.lift_halt("a person")
        assert await found.certify("--yes", "--json", *answers("import=pass", "release=done")) == FAILED
        assert (found.outcomes()["import"], found.outcomes()["release"]) == ("passed", "passed")
        # the position for the steps of a person is opened again, and closed again
        assert len(found.server.platform.orders("Sim101")) > submitted
        assert held(found.server) == 0


async def test_a_restarted_bridge_keeps_the_names_of_its_orders(tmp_path: Path) -> None:
    async with rig(tmp_path, only("stop_only_accepted", chance=1.0)) as found:
        await found.certify("--yes", "--json", "--step", "restart", *answers("restart=done"))
        assert found.step("restart")["outcome"] == "passed"
        assert found.step("restart")["measured"]["executions"] == 1


async def test_a_live_account_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    async with rig(tmp_path, accounts=(("Sim101", "auto", False),)) as found:
        assert await found.certify("--yes", "--json") == FAILED
        assert "no simulation account" in found.step("connection")["detail"]
        assert [found.outcomes()[name] for name in MACHINE[1:]] == ["open"] * 4
        assert found.server.platform.orders("Sim101") == []


async def test_an_account_with_a_position_is_left_alone(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        await open_position(found.server)
        await found.certify("--yes", "--json")
        assert "is not flat" in found.step("working_order")["detail"]
        assert found.outcomes()["flatten"] == "open"
        assert held(found.server) == 2


async def test_stops_held_on_the_pc_are_reported(tmp_path: Path) -> None:
    async with rig(tmp_path, only("stop_held_on_pc", chance=1.0)) as found:
        await found.certify("--yes", "--json")
        assert found.outcomes()["bracket"] == "failed"
        assert "TriggerPending" in found.step("bracket")["detail"]
        assert found.outcomes()["flatten"] == "passed", "what a failed step left is closed"
        assert held(found.server) == 0


async def test_a_bridge_that_is_away_fails_the_first_step(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        pass
    assert await found.certify("--yes", "--json") == FAILED
    assert "no connection" in found.step("connection")["detail"]


async def test_wrong_answers_and_an_unconfirmed_take_over_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rig(tmp_path) as found:
        assert await found.certify("--json") == USAGE
        assert "--yes" in capsys.readouterr().err
        assert await found.certify("--yes", "--answer", "import=maybe") == USAGE
        assert await found.certify("--yes", "--answer", "imprt=pass") == USAGE
        assert not (tmp_path / "certify-sim.json").exists()
