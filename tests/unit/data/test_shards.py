"""Subscriptions spread over sockets: how many there are, and who is on which."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fks.collector import connections as module
from fks.model.market import BarSeen, Channel, Discontinuity
from tests.support.shard_rig import rigged, trade
from tests.support.waiting import until


# ── who is where ─────────────────────────────────────────────────────────────────────────────────
async def test_a_socket_takes_as_much_as_the_exchange_lets_it() -> None:
    async with rigged() as rig:
        rig.shards.place("GFEDCBA")
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C"], ["D", "E", "F"], ["G"]]
        assert len(rig.shards) == 3


async def test_a_symbol_that_is_more_than_a_socket_takes_has_one_alone() -> None:
    async with rigged(channels=4) as rig:
        rig.shards.place("AB")
        await rig.settle()
        assert rig.exchange.open == [["A"] * 4, ["B"] * 4]


async def test_a_new_symbol_disturbs_nobody() -> None:
    async with rigged() as rig:
        rig.shards.place("A")
        await rig.settle()
        rig.shards.place("B")
        await rig.settle()
        assert rig.exchange.open == [["A"], ["B"]]
        assert rig.lost == []


async def test_beyond_sockets_max_a_socket_with_room_takes_the_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKETS_MAX", 2)
    async with rigged() as rig:
        for symbols in ("AB", "C", "D", "E", "F"):
            rig.shards.place(symbols)
            await rig.settle()
        assert rig.exchange.open == [["A", "B", "E"], ["C", "D", "F"]] or rig.exchange.open == [
            ["A", "B", "F"],
            ["C", "D", "E"],
        ]
        rig.shards.place("G")  # none has room: rather a socket more than a symbol less
        await rig.settle()
        assert len(rig.shards) == 3
        assert ["G"] in rig.exchange.open


async def test_one_connection_is_never_two() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        for symbols in ("AB", "C", "D"):  # D is one more than streams_max
            rig.shards.place(symbols)
            await rig.settle()
            assert len(rig.exchange.open) == len(rig.shards) == 1
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        rig.shards.move(["A"])
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        assert rig.lost[-1] == (
            set("ABCD"),
            "disconnected",
        )  # one of four was silent: it is mute already, the others need prove nothing


async def test_a_silent_symbol_is_taken_to_another_socket_and_most_of_one_take_it_along() -> None:
    async with rigged() as rig:
        rig.shards.place("ABC")
        await rig.settle()
        rig.shards.move(["B"])
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C"], ["B"]]
        assert rig.exchange.left == ["B"]  # the old one is told, and the new one is not
        assert rig.lost == [({"B"}, "disconnected")]  # until it is subscribed there
        rig.shards.move(["A"])  # half of what is left
        await rig.settle()
        assert rig.exchange.open == [["A", "C"], ["B"]]
        assert rig.lost[1:] == [({"A", "C"}, "silent")]


# ── what left ────────────────────────────────────────────────────────────────────────────────────
async def test_what_comes_of_a_symbol_that_left_is_let_go_and_counted() -> None:
    async with rigged() as rig:
        rig.shards.place("ABC")
        await rig.settle()
        rig.shards.drop("B")
        rig.connection("A").said.put_nowait(
            [
                trade("A"),
                trade("B"),
                Discontinuity(Channel.TRADES, "", "any"),
                Discontinuity(Channel.TRADES, "B", "hole"),
            ]
        )
        await rig.settle()
        assert rig.exchange.left == ["B"]
        assert rig.exchange.open == [["A", "B", "C"]]  # two are wanted: they are not disturbed for the third
        assert [getattr(event, "symbol", "?") for event in rig.heard] == ["A", ""]
        assert rig.meter.total("fks_market_dropped_total", channel="left") == 2


async def test_those_that_leave_disturb_nobody_and_may_come_back() -> None:
    async with rigged() as rig:
        rig.shards.place("ABC")
        await rig.settle()
        rig.shards.drop("B")
        rig.shards.drop("C")
        await rig.settle()
        assert (rig.exchange.open, rig.exchange.left, rig.lost) == ([["A", "B", "C"]], ["B", "C"], [])
        rig.shards.place("B")  # on a socket of its own: nothing of it is let go
        await rig.settle()
        rig.connection("B").said.put_nowait([trade("B")])
        await until(lambda: rig.heard)
        assert rig.meter.total("fks_market_dropped_total") == 0


async def test_a_socket_that_all_left_is_closed() -> None:
    async with rigged() as rig:
        rig.shards.place("AB")
        await rig.settle()
        rig.shards.drop("A")
        rig.shards.drop("B")
        rig.shards.drop("A")
        await rig.settle()
        assert (rig.exchange.open, len(rig.shards)) == ([], 0)


async def test_a_bar_of_a_symbol_that_left_is_let_go_too() -> None:
    async with rigged() as rig:
        rig.shards.place("ABC")
        await rig.settle()
        rig.shards.drop("B")
        bar = cast(Any, SimpleNamespace(symbol="B"))
        rig.connection("A").said.put_nowait([BarSeen(bar, is_closed=True)])
        await until(lambda: rig.meter.total("fks_market_dropped_total", channel="left") == 1)
        assert rig.heard == []
