"""Channel groups on connections: how many there are, and which group is on which."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fks.market.collector import connections as module
from fks.model.market import BarSeen, Channel, Discontinuity
from tests.support.connection_rig import rigged, trade
from tests.support.waiting import until


# ── placement ─────────────────────────────────────────────────────────────────────────────────
async def test_connection_takes_the_subscriptions_that_the_exchange_allows() -> None:
    async with rigged() as rig:
        rig.place("GFEDCBA")
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C"], ["D", "E", "F"], ["G"]]
        assert len(rig.connections) == 3


async def test_symbol_beyond_that_maximum_has_a_connection_alone() -> None:
    async with rigged(channels=4) as rig:
        rig.place("AB")
        await rig.settle()
        assert rig.exchange.open == [["A"] * 4, ["B"] * 4]


async def test_new_symbol_disturbs_no_other() -> None:
    async with rigged() as rig:
        rig.place("A")
        await rig.settle()
        rig.place("B")
        await rig.settle()
        assert rig.exchange.open == [["A"], ["B"]]
        assert rig.lost == []


async def test_beyond_the_maximum_a_connection_with_capacity_takes_the_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    async with rigged() as rig:
        for symbols in ("AB", "C", "D", "E", "F"):
            rig.place(symbols)
            await rig.settle()
        assert rig.exchange.open == [["A", "B", "E"], ["C", "D", "F"]] or rig.exchange.open == [
            ["A", "B", "F"],
            ["C", "D", "E"],
        ]
        rig.place("G")  # none has capacity: one connection more rather than one symbol less
        await rig.settle()
        assert len(rig.connections) == 3
        assert ["G"] in rig.exchange.open


async def test_exchange_that_allows_one_connection_gets_one() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        for symbols in ("AB", "C", "D"):  # D is one more than streams_max
            rig.place(symbols)
            await rig.settle()
            assert len(rig.exchange.open) == len(rig.connections) == 1
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        rig.move(["A"])
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        assert rig.lost[-1] == (
            set("ABCD"),
            "disconnected",
        )  # one of four was silent: it is mute already, the others need prove nothing


async def test_silent_symbol_moves_and_a_mostly_silent_connection_reconnects() -> None:
    async with rigged() as rig:
        rig.place("ABC")
        await rig.settle()
        rig.move(["B"])
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C"], ["B"]]
        assert rig.exchange.unsubscribed == ["B"]  # on the old one, not on the new one
        assert rig.lost == [({"B"}, "disconnected")]  # until it is subscribed there
        rig.move(["A"])  # half of what is left
        await rig.settle()
        assert rig.exchange.open == [["A", "C"], ["B"]]
        assert rig.lost[1:] == [({"A", "C"}, "silent")]


# ── dropped groups ────────────────────────────────────────────────────────────────────────────────────
async def test_events_of_a_dropped_symbol_are_dropped_and_counted() -> None:
    async with rigged() as rig:
        rig.place("ABC")
        await rig.settle()
        rig.drop("B")
        rig.connection("A").batches.put_nowait(
            [
                trade("A"),
                trade("B"),
                Discontinuity(Channel.TRADES, "", "any"),
                Discontinuity(Channel.TRADES, "B", "hole"),
            ]
        )
        await rig.settle()
        assert rig.exchange.unsubscribed == ["B"]
        assert rig.exchange.open == [["A", "B", "C"]]  # two are wanted: they are not disturbed for the third
        assert [getattr(event, "symbol", "?") for event in rig.events] == ["A", ""]
        assert rig.meter.total("fks_market_dropped_total", channel="left") == 2


async def test_dropped_symbols_disturb_no_other_and_may_come_back() -> None:
    async with rigged() as rig:
        rig.place("ABC")
        await rig.settle()
        rig.drop("B")
        rig.drop("C")
        await rig.settle()
        assert (rig.exchange.open, rig.exchange.unsubscribed, rig.lost) == ([["A", "B", "C"]], ["B", "C"], [])
        rig.place("B")  # on a socket of its own: nothing of it is let go
        await rig.settle()
        rig.connection("B").batches.put_nowait([trade("B")])
        await until(lambda: rig.events)
        assert rig.meter.total("fks_market_dropped_total") == 0


async def test_empty_connection_is_closed() -> None:
    async with rigged() as rig:
        rig.place("AB")
        await rig.settle()
        rig.drop("A")
        rig.drop("B")
        rig.drop("A")
        await rig.settle()
        assert (rig.exchange.open, len(rig.connections)) == ([], 0)


async def test_bar_of_a_dropped_symbol_is_dropped_too() -> None:
    async with rigged() as rig:
        rig.place("ABC")
        await rig.settle()
        rig.drop("B")
        bar = cast(Any, SimpleNamespace(symbol="B"))
        rig.connection("A").batches.put_nowait([BarSeen(bar, is_closed=True)])
        await until(lambda: rig.meter.total("fks_market_dropped_total", channel="left") == 1)
        assert rig.events == []
