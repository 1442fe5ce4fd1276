"""FKS and the agent as it ships, over a real socket: instruments, an entry in lots, an exit, a kill."""

from __future__ import annotations

import time
import uuid
from decimal import Decimal
from pathlib import Path

import pytest

from fks.bridge.mt5.agent import AgentOptions, agent_config, start_agent
from fks.bridge.mt5.platform import Mt5Login
from fks.clock import RealClock
from fks.config.settings import Mt5, Settings
from fks.lab.sim.mt5 import SimulatedTerminal, TerminalOptions
from fks.market.exchanges.registry import make_exchange
from fks.model.account import Environment
from fks.model.errors import OutageError
from fks.model.ids import leg_id
from fks.model.ninja import MT5
from fks.model.order import Outcome, Role, Side
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue
from tests.support.guardian_process import guardian_with
from tests.support.ninja_link import LinkRig
from tests.support.ninja_venue import WakingRows
from tests.support.order_values import an_order
from tests.support.ports import CollectingLog
from tests.support.waiting import until

D = Decimal
LONG_S = 3_600.0
GROUP, ACCOUNT = "mt5", "5001"


@pytest.mark.parametrize("mode", ["netting", "hedging"])
async def test_entry_exit_and_kill_reach_the_terminal(database: Database, bus: Bus, tmp_path: Path, mode: str) -> None:
    clock, folder = RealClock(), tmp_path / "agent"
    options = TerminalOptions(seed=1, is_hedging=mode == "hedging")
    terminal = SimulatedTerminal(tmp_path / "broker", lambda: time.time_ns() // 1_000_000, options)
    config = agent_config(GROUP, settle_ms=300, absent_ms=1_500)
    agent = await start_agent(
        AgentOptions(folder, login=Mt5Login(account_number=int(ACCOUNT)), config=config), terminal, clock
    )
    await until(lambda: agent.sessions.bridge.is_ready)
    settings = Settings(
        mt5=Mt5(
            enabled=True, port=agent.port, group=GROUP, account_number=int(ACCOUNT), secret_file=str(agent.secret_file)
        )
    )
    exchange = make_exchange("mt5", settings=settings, node=None, clock=clock, log=CollectingLog())
    await exchange.open()
    instruments = {one.symbol: one for one in await exchange.instruments()}
    await exchange.close()
    euro = instruments["EURUSD"]
    assert (euro.lot_step, euro.quote, euro.multiplier) == (D("0.01"), "USD", 100_000)
    rows = WakingRows(database, bus, None, clock)
    link_rig = LinkRig(database, agent.port, group=GROUP, secret=agent.secret, platform=MT5)
    async with link_rig.running() as link:
        rows.link_now = lambda: link
        await until(lambda: link.can_trade)
        venue = NinjaVenue(
            NinjaConfig(GROUP, ACCOUNT, timeout_s=5.0, account_id=1, name="mt5", platform=MT5),
            rows,
            clock,
            CollectingLog(),
        )
        await venue.open()

        async def is_written() -> bool:
            row = await rows.link(MT5.key(GROUP))
            return row is not None and row.can_trade and row.report.snapshot is not None

        await until(is_written, deadline_s=20)
        venue.admit(await venue.identity())
        tick = terminal.symbol_info_tick("EURUSD")
        price = D(str(tick.ask))
        entry = an_order(
            client_order_id=uuid.uuid4().hex, venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.03"),
            stop_loss=price - D("0.01"), take_profit=price + D("0.01"),
        )  # fmt: skip
        answer = await venue.submit(entry)
        assert (answer.outcome, answer.detail) == (Outcome.ACK, "")
        await until(lambda: terminal.positions_get() and True, deadline_s=20)

        async def filled() -> bool:
            return sum(fill.quantity for fill in await venue.fills_since("EURUSD", 0)) == D("0.03")

        await until(filled, deadline_s=20)

        async def leg() -> bool:
            await venue.open_orders()
            return {leg_id(entry.client_order_id, name) for name in "ST"} <= {
                one.client_order_id for one in await venue.open_orders()
            }

        await until(leg, deadline_s=20)
        assert (await venue.balances())["EURUSD"].free == D("0.03")
        close = an_order(
            client_order_id=uuid.uuid4().hex, venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.EXIT, side=Side.SELL, quantity=D("0.03"),
            is_reduce_only=True,
        )  # fmt: skip
        answer = await venue.submit(close)
        assert (answer.outcome, answer.detail) == (Outcome.ACK, "")
        await until(lambda: not terminal.positions_get(), deadline_s=20)
        again = an_order(
            client_order_id=uuid.uuid4().hex, venue="mt5", exchange="mt5", symbol="EURUSD", role=Role.ENTRY, side=Side.BUY, quantity=D("0.01"),
            stop_loss=price - D("0.01"),
        )  # fmt: skip
        assert (await venue.submit(again)).outcome is Outcome.ACK
        await until(lambda: len(terminal.positions_get()) == 1, deadline_s=20)
        guardian = guardian_with(
            {}, tmp_path, None,
            bridge={"group": GROUP, "port": agent.port, "secret": agent.secret.decode(), "platform": "mt5"},
        )  # fmt: skip
        await guardian.start()
        await until(lambda: guardian.detail()["ninja"]["mt5:mt5"]["open"], deadline_s=20)  # type: ignore[index]
        killed = await guardian.kill(reason="a test", by="me")
        assert [one["state"] for one in killed["venues"]] == ["flat"], killed
        assert not terminal.positions_get()
        await guardian.stop()
    await rows.close()
    await agent.stop()


async def test_an_account_that_is_read_late_is_not_taken_for_a_live_one(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    """The terminal answers after the link has its session, which lasts: whose money it is must come to the row."""
    clock = RealClock()
    terminal = SimulatedTerminal(tmp_path / "broker", lambda: time.time_ns() // 1_000_000, TerminalOptions())
    terminal.switch_on("terminal_lost", LONG_S)
    options = AgentOptions(tmp_path / "agent", login=Mt5Login(account_number=int(ACCOUNT)), config=agent_config(GROUP))
    agent = await start_agent(options, terminal, clock)
    rows = WakingRows(database, bus, None, clock)
    config = NinjaConfig(GROUP, ACCOUNT, timeout_s=5.0, account_id=1, name="mt5", platform=MT5)
    venue = NinjaVenue(config, rows, clock, CollectingLog())

    async def accounts() -> list[tuple[object, ...]]:
        row = await rows.link(MT5.key(GROUP))
        names = ("name", "connected", "sim", "mode", "currency")
        return [] if row is None else [tuple(one.get(name) for name in names) for one in row.report.accounts]

    async with LinkRig(database, agent.port, group=GROUP, secret=agent.secret, platform=MT5).running():
        await until(accounts)
        with pytest.raises(OutageError, match="is not connected to its broker"):
            await venue.identity()
        terminal.switch_on("terminal_lost", 0.0)

        async def is_connected() -> bool:
            return [one[1] for one in await accounts()] == [True]

        await until(is_connected, deadline_s=20)
        assert await accounts() == [(ACCOUNT, True, True, "auto", "USD")]
        assert (await venue.identity()).environment is Environment.SIM
    await rows.close()
    await agent.stop()
