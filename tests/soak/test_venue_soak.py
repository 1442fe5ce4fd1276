"""A thousand intents on each wire of a dialect and a hundred at MetaTrader 5, under kills and open outcomes, with a real
order manager. `make soak`.

FKS_SOAK_SEED replays another run, FKS_SOAK_VENUE_INTENTS and FKS_SOAK_MT5_SIGNALS shorten it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.dialect_rig import WIRES, DialectRig, Wire, exchange_of
from tests.support.mt5_kills import trade_while_everything_dies

INTENTS = int(os.environ.get("FKS_SOAK_VENUE_INTENTS", "1000"))
SIGNALS = int(os.environ.get("FKS_SOAK_MT5_SIGNALS", "100"))
SEED = int(os.environ.get("FKS_SOAK_SEED", "20261128"))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.exchange)
async def test_a_thousand_intents_send_each_id_once(wire: Wire, database: Database, bus: Bus, tmp_path: Path) -> None:
    exchange = exchange_of(wire, tmp_path)
    async with DialectRig.at(wire, exchange, database, bus, entry_protection="local") as rig:
        began_s = time.monotonic()
        struck = await rig.trade_from(SEED, INTENTS)
        kills, fills, took_s = len(rig.histories) - 1, len(exchange.account()["fills"]), time.monotonic() - began_s
        print(f"\n{wire.exchange}: {INTENTS} intents, {kills} kills, {len(rig.sent())} orders, {fills} executions, "
              f"{took_s:.0f} s; {dict(struck)}")  # fmt: skip
        assert kills >= INTENTS // 3


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("mode", ["hedging", "netting"])
async def test_a_hundred_signals_reach_metatrader_once_while_everything_dies(
    mode: str, database: Database, database_url: str, bus: Bus, tmp_path: Path
) -> None:
    await trade_while_everything_dies(tmp_path / "agent", database, database_url, bus, mode, SEED, SIGNALS)
