"""When each socket is dialled: after what back-off, in whose turn, and not before the exchange lets it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fks.model.errors import OutageError
from tests.support.shard_rig import Connection, rigged, trade
from tests.support.waiting import until


def gives_data_and_dies(connection: Connection) -> None:
    connection.said.put_nowait([trade("A")])
    connection.said.put_nowait(OutageError("policy violation"))


async def test_a_connection_that_gives_data_and_dies_is_dialled_ever_more_seldom() -> None:
    async with rigged() as rig:
        rig.exchange.answer = gives_data_and_dies
        rig.shards.place(["A"])
        await rig.settle(30.0)
        assert len(rig.heard) == len(rig.exchange.dials)
        assert len(rig.exchange.dials) <= 12
        before = len(rig.exchange.dials)
        await rig.settle(300.0)
        assert len(rig.exchange.dials) - before <= 40
        before = len(rig.exchange.dials)
        await rig.settle(300.0)
        assert len(rig.exchange.dials) - before <= 22  # one in half a minute, and a quick one in between


async def test_single_cuts_are_mended_at_once() -> None:
    async with rigged() as rig:
        rig.shards.place(["A"])
        await rig.settle()
        for _ in range(10):
            rig.connection("A").said.put_nowait([trade("A")])
            await rig.settle(6.0)
            count = len(rig.exchange.dials)
            rig.connection("A").said.put_nowait(OutageError("cut"))
            await rig.settle(0.3)
            assert len(rig.exchange.dials) == count + 1
            assert rig.shards.is_subscribed("A")


async def test_an_exchange_that_is_back_is_dialled_within_seconds() -> None:
    def refuse(connection: Connection) -> None:
        raise OutageError("no")

    async with rigged() as rig:
        rig.exchange.answer = refuse
        rig.shards.place(["A"])
        await rig.settle(30.0)
        assert not rig.shards.is_subscribed("A")
        rig.exchange.answer = lambda connection: None
        await rig.settle(5.2)
        assert rig.shards.is_subscribed("A")


async def test_who_was_told_to_wait_dials_no_socket_before() -> None:
    def refuse(connection: Connection) -> None:
        raise OutageError("429", wait_s=40.0)

    async with rigged() as rig:
        rig.exchange.answer = refuse
        rig.shards.place(["A"])
        await rig.settle(1.0)
        rig.shards.place(["B"])
        await rig.settle(38.8)
        assert [connection.symbols for connection in rig.exchange.dials] == [["A"]]
        rig.exchange.answer = lambda connection: None
        await rig.settle(1.5)
        assert rig.exchange.open == [["A"], ["B"]]


async def test_who_was_told_to_wait_while_others_wait_for_leave_stops_them_too() -> None:
    def refuse(connection: Connection) -> None:
        raise OutageError("429", wait_s=40.0)

    async with rigged() as rig:
        rig.exchange.leaves = asyncio.Semaphore(1)
        rig.exchange.answer = refuse
        for symbol in "ABC":
            rig.shards.place(symbol)
        await rig.settle(1.0)
        for _ in range(10):
            rig.exchange.leaves.release()
        await rig.settle(38.0)
        assert len(rig.exchange.dials) == 1
        rig.exchange.answer = lambda connection: None
        await rig.settle(3.0)
        assert rig.exchange.open == [["A"], ["B"], ["C"]]


async def test_nobody_hangs_up_before_the_next_dial_is_allowed() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.leaves = asyncio.Semaphore(1)
        rig.shards.place("A")
        await rig.settle()
        rig.shards.place("B")
        await rig.settle(30.0)
        rig.connection("A").said.put_nowait([trade("A")])
        await until(lambda: rig.heard)
        assert (rig.exchange.open, rig.lost) == ([["A"]], [])
        rig.exchange.leaves.release()
        await rig.settle(0.5)
        assert (rig.exchange.open, rig.lost) == ([["A", "B"]], [({"A", "B"}, "disconnected")])
        rig.shards.place("C")
        await rig.settle(30.0)
        rig.connection("B").said.put_nowait(OutageError("cut while it waits"))
        await rig.settle(6.0)
        assert (rig.exchange.open, len(rig.lost)) == ([], 2)
        rig.exchange.leaves.release()
        await rig.settle(0.5)
        assert rig.exchange.open == [["A", "B", "C"]]


async def test_trades_are_dialled_before_quotes_and_books() -> None:
    """But for the one that has asked already."""
    async with rigged() as rig:
        rig.exchange.leaves = asyncio.Semaphore(0)
        rig.shards.place(["A quotes"])
        await rig.settle()
        for strand in ("B quotes", "A book", "A", "B"):
            rig.shards.place([strand])
            await rig.settle()
        for _ in range(5):
            rig.exchange.leaves.release()
            await rig.settle(0.2)
        assert [connection.symbols[0] for connection in rig.exchange.dials] == [
            "A quotes",
            "A",
            "B",
            "B quotes",
            "A book",
        ]


async def test_quotes_have_their_turn_however_many_trades_are_refused() -> None:
    def refuse(connection: Connection) -> None:
        if connection.symbols != ["A quotes"]:
            raise OutageError("not this symbol")

    async with rigged() as rig:
        rig.exchange.leaves = asyncio.Semaphore(0)
        rig.exchange.answer = refuse
        for n in range(8):
            rig.shards.place([f"S{n}"])
        rig.shards.place(["A quotes"])
        for _ in range(30):
            rig.exchange.leaves.release()
            await rig.settle(5.0)
        assert rig.shards.is_subscribed("A quotes")


async def test_who_leaves_while_it_waits_for_leave_holds_nobody_up() -> None:
    async with rigged() as rig:
        rig.exchange.leaves = asyncio.Semaphore(0)
        for strand in ("A", "B", "A quotes"):
            rig.shards.place([strand])
        await rig.settle()
        rig.shards.drop("A")
        await rig.settle()
        rig.exchange.leaves.release()
        await rig.settle()
        rig.shards.drop("B")
        await rig.settle()
        rig.exchange.leaves.release()
        await rig.settle()
        assert rig.exchange.open == [["A quotes"]]
        rig.shards.move(["A quotes"])
        await rig.settle()
        await rig.shards.hang_up()
        assert rig.exchange.open == []


async def test_who_waits_for_another_dial_is_not_subscribed_meanwhile() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.leaves = asyncio.Semaphore(1)
        rig.shards.place("AC")
        await rig.settle()
        rig.shards.place("B")
        rig.shards.drop("C")
        rig.shards.place("C")
        await rig.settle(30.0)
        assert rig.exchange.open == [["A", "C"]]
        assert [rig.shards.is_subscribed(symbol) for symbol in "ABC"] == [True, False, False]
        rig.exchange.leaves.release()
        await rig.settle(0.5)
        assert [rig.shards.is_subscribed(symbol) for symbol in "ABC"] == [True, True, True]
        assert rig.told == [{"A", "C"}, {"A", "B", "C"}]


async def test_a_dial_under_way_is_waited_for_when_the_next_may_not_begin() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.leaves = asyncio.Semaphore(1)
        rig.exchange.standing.clear()
        rig.shards.place("A")
        await rig.settle()
        rig.shards.place("B")
        await rig.settle(1.0)
        rig.exchange.standing.set()
        await rig.settle(20.0)
        assert (rig.exchange.open, rig.told) == ([["A"]], [{"A"}])
