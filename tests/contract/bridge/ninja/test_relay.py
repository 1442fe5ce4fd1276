"""Relay mode: a person is shown the signal and trades; FKS records it as RELAYED and shows what was traded by hand."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.peer.platform import PlatformOrder
from fks.interfaces.api.relays import relay_of
from fks.model.ids import copy_signal_id, intent_id
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.ninja_copies import ACCOUNT_IDS, ES, Copying, copying, enter
from tests.support.waiting import until

D = Decimal
BESIDE = "ninja:beside"


async def events(trading: Copying, kind: str) -> list[dict[str, Any]]:
    rows = await trading.db.sql("SELECT body FROM ninja_events WHERE kind = $1 ORDER BY position", kind)
    return [row["body"] for row in rows]


async def pages(trading: Copying) -> list[str]:
    rows = await trading.db.sql("SELECT event, message FROM alerts WHERE severity = 'page'")
    return [f"{row['event']}: {row['message']}" for row in rows]


def trade_by_hand(trading: Copying, account: str, contracts: int) -> None:
    """Buy (or sell) at the market, as from a chart."""
    platform = trading.bridges["sim"].server.platform
    action = "Buy" if contracts > 0 else "Sell"
    order = PlatformOrder("Chart", account, ES, action, "Market", "Day", abs(contracts), None, None)
    assert platform.create(order)
    platform.submit(order)


async def test_an_entry_is_shown_and_never_sent(database: Database, bus: Bus, tmp_path: Path) -> None:
    async with copying(database, bus, tmp_path, ["beside 2x relay"], {"Sim102": "relay"}) as trading:
        signal = await enter(trading)
        assert (await trading.order(signal, "ninja"))[0] == "FILLED"
        state, code, id = await trading.order(signal, BESIDE)
        assert (state, code, trading.submits(id)) == ("REJECTED", "RELAYED", 0)
        (shown,) = await events(trading, "relay")
        assert (shown["id"], shown["account"], shown["instrument"], shown["qty"]) == (id, "Sim102", ES, 2)

        trade_by_hand(trading, "Sim102", 2)
        await trading.holds(lead=1, beside=2)
        copied = copy_signal_id(intent_id(signal), ACCOUNT_IDS[BESIDE])
        relay = await relay_of(database, copied)
        assert relay is not None
        assert (relay["account"], relay["symbol"]) == ("Sim102", ES)
        assert [(each["side"], each["quantity"]) for each in relay["executions"]] == [("buy", D(2))]
        assert await relay_of(database, signal) is None

        out = await trading.rig.signal(Kind.EXIT, venue="ninja", exchange="ninja", symbol=ES)
        assert (await trading.order(out, "ninja"))[0] == "FILLED"
        assert (await trading.order(out, BESIDE))[:2] == ("nothing", "RELAYED")
        assert [each["action"] for each in await events(trading, "relay")] == ["buy", "exit"]
        await trading.holds(beside=2)  # the person's own: it is not FKS's to close
        trade_by_hand(trading, "Sim102", -2)
        await trading.holds()
        assert await pages(trading) == []


async def test_the_end_of_a_shown_signal_is_no_news_of_an_order(database: Database, bus: Bus, tmp_path: Path) -> None:
    async with copying(database, bus, tmp_path, ["beside 1 relay"], {"Sim102": "relay"}) as trading:
        signal = await enter(trading, valid_until_ns=time.time_ns() + 2 * 10**9)
        _, code, id = await trading.order(signal, BESIDE)
        assert code == "RELAYED"

        async def is_over() -> bool:
            return any(each.get("id") == id and each["state"] == "expired" for each in await events(trading, "signal"))

        await until(is_over)
        await trading.rig.restart()
        state, code, _ = await trading.order(signal, BESIDE)
        assert (state, code) == ("REJECTED", "RELAYED")
        assert await pages(trading) == []


async def test_a_bridge_that_would_trade_is_not_sent_what_is_only_to_be_shown(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    async with copying(database, bus, tmp_path, ["beside 1 relay"]) as trading:
        signal = await enter(trading)
        state, code, id = await trading.order(signal, BESIDE)
        assert (state, code, trading.submits(id)) == ("REJECTED", "automation_forbidden", 0)
        assert await events(trading, "relay") == []
