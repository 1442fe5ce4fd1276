"""Times of connects: after the backoff, in the order of the queue, and never before a permit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fks.model.errors import OutageError
from tests.support.connection_rig import Opened, rigged, trade
from tests.support.waiting import until


def gives_data_and_dies(connection: Opened) -> None:
    connection.batches.put_nowait([trade("A")])
    connection.batches.put_nowait(OutageError("policy violation"))


async def test_connection_that_gives_data_and_ends_reconnects_less_often() -> None:
    async with rigged() as rig:
        rig.exchange.answer = gives_data_and_dies
        rig.place(["A"])
        await rig.settle(30.0)
        assert len(rig.events) == len(rig.exchange.opened)
        assert len(rig.exchange.opened) <= 12
        before = len(rig.exchange.opened)
        await rig.settle(300.0)
        assert len(rig.exchange.opened) - before <= 40
        before = len(rig.exchange.opened)
        await rig.settle(300.0)
        assert len(rig.exchange.opened) - before <= 22  # one in half a minute, and a quick one in between


async def test_single_cut_reconnects_at_once() -> None:
    async with rigged() as rig:
        rig.place(["A"])
        await rig.settle()
        for _ in range(10):
            rig.connection("A").batches.put_nowait([trade("A")])
            await rig.settle(6.0)
            count = len(rig.exchange.opened)
            rig.connection("A").batches.put_nowait(OutageError("cut"))
            await rig.settle(0.3)
            assert len(rig.exchange.opened) == count + 1
            assert rig.is_subscribed("A")


async def test_exchange_that_is_back_is_connected_within_seconds() -> None:
    def refuse(connection: Opened) -> None:
        raise OutageError("no")

    async with rigged() as rig:
        rig.exchange.answer = refuse
        rig.place(["A"])
        await rig.settle(30.0)
        assert not rig.is_subscribed("A")
        rig.exchange.answer = lambda connection: None
        await rig.settle(5.2)
        assert rig.is_subscribed("A")


async def test_no_connection_opens_before_a_demanded_pause_is_over() -> None:
    def refuse(connection: Opened) -> None:
        raise OutageError("429", wait_s=40.0)

    async with rigged() as rig:
        rig.exchange.answer = refuse
        rig.place(["A"])
        await rig.settle(1.0)
        rig.place(["B"])
        await rig.settle(38.8)
        assert [connection.symbols for connection in rig.exchange.opened] == [["A"]]
        rig.exchange.answer = lambda connection: None
        await rig.settle(1.5)
        assert rig.exchange.open == [["A"], ["B"]]


async def test_demanded_pause_holds_for_connections_that_wait_for_a_permit() -> None:
    def refuse(connection: Opened) -> None:
        raise OutageError("429", wait_s=40.0)

    async with rigged() as rig:
        rig.exchange.permits = asyncio.Semaphore(1)
        rig.exchange.answer = refuse
        for symbol in "ABC":
            rig.place(symbol)
        await rig.settle(1.0)
        for _ in range(10):
            rig.exchange.permits.release()
        await rig.settle(38.0)
        assert len(rig.exchange.opened) == 1
        rig.exchange.answer = lambda connection: None
        await rig.settle(3.0)
        assert rig.exchange.open == [["A"], ["B"], ["C"]]


async def test_connection_is_not_closed_before_the_next_permit() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.permits = asyncio.Semaphore(1)
        rig.place("A")
        await rig.settle()
        rig.place("B")
        await rig.settle(30.0)
        rig.connection("A").batches.put_nowait([trade("A")])
        await until(lambda: rig.events)
        assert (rig.exchange.open, rig.lost) == ([["A"]], [])
        rig.exchange.permits.release()
        await rig.settle(0.5)
        assert (rig.exchange.open, rig.lost) == ([["A", "B"]], [({"A", "B"}, "disconnected")])
        rig.place("C")
        await rig.settle(30.0)
        rig.connection("B").batches.put_nowait(OutageError("cut while it waits"))
        await rig.settle(6.0)
        assert (rig.exchange.open, len(rig.lost)) == ([], 2)
        rig.exchange.permits.release()
        await rig.settle(0.5)
        assert rig.exchange.open == [["A", "B", "C"]]


async def test_trades_are_connected_before_quotes_and_books() -> None:
    """But for the one that has asked already."""
    async with rigged() as rig:
        rig.exchange.permits = asyncio.Semaphore(0)
        rig.place(["A quotes"])
        await rig.settle()
        for group in ("B quotes", "A book", "A", "B"):
            rig.place([group])
            await rig.settle()
        for _ in range(5):
            rig.exchange.permits.release()
            await rig.settle(0.2)
        assert [connection.symbols[0] for connection in rig.exchange.opened] == [
            "A quotes",
            "A",
            "B",
            "B quotes",
            "A book",
        ]


async def test_quotes_get_a_permit_however_many_trades_are_refused() -> None:
    def refuse(connection: Opened) -> None:
        if connection.symbols != ["A quotes"]:
            raise OutageError("not this symbol")

    async with rigged() as rig:
        rig.exchange.permits = asyncio.Semaphore(0)
        rig.exchange.answer = refuse
        for n in range(8):
            rig.place([f"S{n}"])
        rig.place(["A quotes"])
        for _ in range(30):
            rig.exchange.permits.release()
            await rig.settle(5.0)
        assert rig.is_subscribed("A quotes")


async def test_symbol_dropped_while_it_waits_for_a_permit_delays_no_other() -> None:
    async with rigged() as rig:
        rig.exchange.permits = asyncio.Semaphore(0)
        for group in ("A", "B", "A quotes"):
            rig.place([group])
        await rig.settle()
        rig.drop("A")
        await rig.settle()
        rig.exchange.permits.release()
        await rig.settle()
        rig.drop("B")
        await rig.settle()
        rig.exchange.permits.release()
        await rig.settle()
        assert rig.exchange.open == [["A quotes"]]
        rig.move(["A quotes"])
        await rig.settle()
        await rig.connections.close()
        assert rig.exchange.open == []


async def test_symbol_that_waits_for_a_reconnect_is_not_subscribed() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.permits = asyncio.Semaphore(1)
        rig.place("AC")
        await rig.settle()
        rig.place("B")
        rig.drop("C")
        rig.place("C")
        await rig.settle(30.0)
        assert rig.exchange.open == [["A", "C"]]
        assert [rig.is_subscribed(symbol) for symbol in "ABC"] == [True, False, False]
        rig.exchange.permits.release()
        await rig.settle(0.5)
        assert [rig.is_subscribed(symbol) for symbol in "ABC"] == [True, True, True]
        assert rig.stood == [{"A", "C"}, {"A", "B", "C"}]


async def test_running_connect_goes_on_when_the_next_has_no_permit() -> None:
    async with rigged() as rig:
        rig.exchange.capabilities = replace(rig.exchange.capabilities, connections_max=1)
        rig.exchange.permits = asyncio.Semaphore(1)
        rig.exchange.standing.clear()
        rig.place("A")
        await rig.settle()
        rig.place("B")
        await rig.settle(1.0)
        rig.exchange.standing.set()
        await rig.settle(20.0)
        assert (rig.exchange.open, rig.stood) == ([["A"]], [{"A"}])
