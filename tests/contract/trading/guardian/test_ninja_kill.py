"""The guardian and NinjaTrader: a kill over its own session, with no link, no order manager and no database."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.ninja.messages import GetStatus
from fks.clock import RealClock
from fks.lab.sim.nt8.server import BridgeServer, start
from fks.lab.sim.nt8.unkindness import only
from fks.model.errors import OutageError
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import Asked, KillJournal, read_kill
from fks.trading.guardian.ninja_session import GroupBridge, NinjaSession
from fks.trading.guardian.self_checks import guardian_problems
from fks.trading.guardian.service import Guardian
from tests.support.guardian_process import QUICK, GuardianProcess, guardian_with
from tests.support.invariants import assert_closed
from tests.support.nt8_platform import control, held, open_position, options, platform, resting
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BridgeServer]:
    async with platform(tmp_path / "nt8", unkind=only("flatten_slow", chance=1.0)) as server:
        yield server


def bridge(server: BridgeServer) -> dict[str, Any]:
    return {"group": "sim", "port": server.port, "secret": server.secret.decode()}


def is_halted(server: BridgeServer) -> bool:
    return server.sessions.bridge.halted


def acts(folder: Path) -> list[dict[str, Any]]:
    path = folder / "kill.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def names(folder: Path) -> list[str]:
    return [f"{line['act']} {line.get('kind', '')}".strip() for line in acts(folder)]


async def started(folder: Path, server: BridgeServer) -> Guardian:
    guardian = guardian_with({}, folder, None, bridge=bridge(server))
    await guardian.start()
    await until(lambda: guardian.detail()["ninja"]["sim"]["open"])  # type: ignore[index]
    return guardian


async def test_kill_flattens_cancels_and_latches(server: BridgeServer, folder: Path) -> None:
    await open_position(server)
    guardian = await started(folder, server)
    answer = await guardian.kill(reason="a test", by="me")
    assert answer["is_quiet"]
    assert answer["venues"] == [{"name": "ninja:sim", "state": "flat", "detail": ""}]
    assert_closed(Decimal(held(server)))
    assert (resting(server), is_halted(server)) == ([], True)
    await until(lambda: guardian.report()["is_done"])
    assert names(folder) == ["engaged", "asked kill", "answered kill", "done"]
    async with control(server) as client:
        refused = await client.enter()
        assert refused.code == "halted"
    released = await guardian.resume(by="me")
    assert released["still_halted"] == ["sim"], "the latch is lifted on the Windows side alone"
    await guardian.stop()


async def test_kill_that_keeps_positions_cancels_entries_only(server: BridgeServer, folder: Path) -> None:
    await open_position(server)
    async with control(server) as client:
        last = server.platform.last_trade(server.options.instruments[0])
        assert last is not None
        far = last.price - Decimal(50)
        answer = await client.enter(type="limit", price=far, qty=1)
        assert answer.state.value == "ACKED", answer
        await until(lambda: len(resting(server)) == 3)
        guardian = await started(folder, server)
        assert (await guardian.kill(reason="", by="me", flatten=False))["is_quiet"]
    assert (held(server), is_halted(server)) == (2, False)
    assert sorted(name.rsplit(":", 1)[1] for name in resting(server)) == ["S", "T"]
    await guardian.stop()


async def test_kill_that_keeps_positions_cancels_a_market_entry_that_works(server: BridgeServer, folder: Path) -> None:
    await open_position(server)
    server.platform.broker = False  # nothing fills: as before the market opens
    async with control(server) as client:
        answer = await client.enter(qty=1)
        assert answer.state.value == "ACKED", answer
        entry = f"FKS:{answer.id}:E"
        server.platform.set_state(entry, "Working")
        await until(lambda: entry in resting(server))
        guardian = await started(folder, server)
        killing = asyncio.create_task(guardian.kill(reason="", by="me", flatten=False))
        await until(lambda: any(call.kind == "cancel" and call.name == entry for call in server.platform.calls))
        server.platform.set_state(entry, "Cancelled")
        assert (await killing)["is_quiet"]
    assert (held(server), is_halted(server)) == (2, False)
    assert sorted(name.rsplit(":", 1)[1] for name in resting(server)) == ["S", "T"]
    await guardian.stop()


async def test_kill_that_keeps_positions_leaves_an_exit_that_works(server: BridgeServer, folder: Path) -> None:
    await open_position(server)
    server.platform.broker = False
    async with control(server) as client:
        answer = await client.enter(action="exit", qty=1, sl_points=None, tp_points=None)
        assert answer.state.value == "ACKED", answer
        out = f"FKS:{answer.id}:E"
        server.platform.set_state(out, "Working")
        await until(lambda: out in resting(server))
        guardian = await started(folder, server)
        assert (await guardian.kill(reason="", by="me", flatten=False))["is_quiet"]
    assert sorted(name.rsplit(":", 1)[1] for name in resting(server)) == ["E", "S", "T"]
    assert [call.name for call in server.platform.calls if call.kind == "cancel"] == []
    await guardian.stop()


async def test_kill_waits_for_a_platform_that_is_away(tmp_path: Path, folder: Path) -> None:
    first = await start(options(tmp_path / "nt8"))
    await open_position(first)
    port, given = first.port, bridge(first)
    await first.stop()
    guardian = guardian_with({}, folder, None, bridge=given)
    await guardian.start()
    asking = asyncio.create_task(guardian.kill(reason="", by="me"))
    await until(lambda: guardian.report().get("venues") and guardian.report()["venues"][0]["state"] == "unreachable")
    assert not guardian.report()["is_done"]
    async with platform(tmp_path / "nt8", port=port) as again:
        await until(lambda: is_halted(again), deadline_s=20)
        await until(lambda: guardian.report()["is_done"])
    await asking
    await guardian.stop()


@pytest.mark.parametrize("moment", ["engaged", "asked kill", "halted"])
async def test_kill_goes_on_from_the_file_after_kill_9(server: BridgeServer, folder: Path, moment: str) -> None:
    await open_position(server)
    process = GuardianProcess(None, folder, bridge=bridge(server)).start()
    try:
        _reader, writer = await asyncio.open_unix_connection(folder / "g.sock")
        writer.write(json.dumps({"op": "kill", "reason": "a test", "by": "me"}).encode() + b"\n")
        await until(lambda: is_halted(server) if moment == "halted" else moment in names(folder), every_s=0.001)
        process.kill()
        writer.close()
        record = read_kill(folder / "kill.jsonl")
        assert record is not None
        assert not record.is_done
        process.start()
        await until(lambda: names(folder)[-1:] == ["done"], deadline_s=20)
    finally:
        process.stop()
    assert_closed(Decimal(held(server)))
    assert (resting(server), is_halted(server)) == ([], True)
    found = names(folder)
    assert found[0] == "engaged"
    assert found.count("done") == 1
    assert {line["kill_id"] for line in acts(folder)} == {record.kill_id}


async def test_session_is_closed_while_another_guardian_acts(server: BridgeServer) -> None:
    asked: list[bool] = []
    is_ours = True

    def may_act() -> bool:
        asked.append(is_ours)
        return is_ours

    given = GroupBridge("sim", "127.0.0.1", server.port, server.secret)
    session = NinjaSession(
        GuardianContext(RealClock(), CollectingLog(), RecordingMeter(), QUICK), given, lambda: uuid.uuid4().hex
    )
    session.start(may_act)
    await until(lambda: session.is_open)
    is_ours = False
    await until(lambda: not session.is_open)
    asked.clear()
    await until(lambda: len(asked) >= 2)
    assert not session.is_open
    with pytest.raises(OutageError, match="must not act"):
        await session.ask(lambda rid: GetStatus(rid=rid))
    await session.close()


async def test_answers_of_a_bridge_are_no_orders_of_the_kill(folder: Path) -> None:
    journal = KillJournal(folder / "kill.jsonl")
    journal.engage("k", Asked("system", "", "me", True, 1))
    journal.asked("ninja:sim", "kill", "", now_ns=2)
    journal.answered("ninja:sim", "kill", "", "ok", "", now_ns=3)
    journal.close()
    again = KillJournal(folder / "kill.jsonl").record
    assert again is not None
    assert (again.orders, again.cancelled, again.is_engaged) == ((), 0, True)


def test_required_group_without_a_session_is_a_failed_check() -> None:
    state = {"open": False, "halted": None, "required": True, "reason": "refused"}
    found = guardian_problems({"ninja": {"sim": state}})
    assert [(check.about, check.name) for check in found] == [("ninja:sim", "venue")]
    assert guardian_problems({"ninja": {"sim": state | {"required": False}}}) == []
