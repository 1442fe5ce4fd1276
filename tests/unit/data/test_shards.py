"""Subscriptions spread over sockets: how many there are, who is on which, and when each is dialled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fks.clock import FakeClock
from fks.data import shards as module
from fks.data.shards import Shards
from fks.model.bar import PublicTrade
from fks.model.errors import OutageError
from fks.model.market import BarSeen, Channel, Gone, MarketEvent, Subscription
from fks.model.ports import Exchange
from tests.support.history_exchange import TRAITS
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until


def trade(symbol: str) -> PublicTrade:
    return PublicTrade("x", symbol, 1, 1, Decimal(1), Decimal(1), is_buyer_maker=False)


@dataclass(eq=False)
class Connection:
    """One dial: what was wanted, and what `say` puts into it."""

    symbols: list[str]
    at_s: float
    said: asyncio.Queue[list[MarketEvent] | OutageError] = field(default_factory=asyncio.Queue)
    is_open: bool = True


class DiallingExchange:
    """Notes every dial; a connection stands at once unless `answer` raises, and says what a test makes it say."""

    name = "x"

    def __init__(self, clock: FakeClock) -> None:
        self.traits = replace(TRAITS, streams_max=3)
        self.answer: Callable[[Connection], None] = lambda connection: None
        self.dials: list[Connection] = []
        self.left: list[str] = []
        self.leaves = asyncio.Semaphore(1_000_000)
        self.standing = asyncio.Event()
        self.standing.set()
        self._clock = clock

    @property
    def open(self) -> list[list[str]]:
        return sorted(connection.symbols for connection in self.dials if connection.is_open)

    async def may_dial(self) -> None:
        await self.leaves.acquire()

    def leave(self, gone: Sequence[Subscription]) -> None:
        self.left += [item.symbol for item in gone]

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        connection = Connection([item.symbol for item in wanted], self._clock.monotonic())
        self.dials.append(connection)
        try:
            self.answer(connection)
            await self.standing.wait()
            yield []
            while True:
                said = await connection.said.get()
                if isinstance(said, OutageError):
                    raise said
                yield said
        finally:
            connection.is_open = False


@dataclass
class Rig:
    """Shards over an exchange that dials nothing, and what they said."""

    clock: FakeClock
    exchange: DiallingExchange
    meter: RecordingMeter
    shards: Shards
    heard: list[MarketEvent]
    lost: list[tuple[set[str], str]]
    told: list[set[str]]  # as subscribed

    async def settle(self, seconds: float = 1.0) -> None:
        """Let so much time pass: a quick dial is over then."""
        for _ in range(round(seconds / 0.05)):
            await self.clock.advance(0.05)

    def connection(self, symbol: str) -> Connection:
        """Return the newest connection that was dialled with a symbol."""
        return next(connection for connection in reversed(self.exchange.dials) if symbol in connection.symbols)


@asynccontextmanager
async def rigged(channels: int = 1) -> AsyncIterator[Rig]:
    clock, meter, heard = FakeClock(), RecordingMeter(), cast(list[MarketEvent], [])
    lost: list[tuple[set[str], str]] = []
    told: list[set[str]] = []
    exchange = DiallingExchange(clock)
    steady: Any = SimpleNamespace(uniform=lambda low, high: high)

    def note(symbols: Iterable[str], cause: str) -> None:
        lost.append((set(symbols), cause))

    shards = Shards(
        cast(Exchange, exchange), clock, CollectingLog(), meter, cast(Random, steady), wants=lambda s: [Subscription(Channel.TRADES, s)] * channels,
        heard=heard.extend, subscribed=lambda symbols: told.append(set(symbols)), lost=note,
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        shards.run(group)
        try:
            yield Rig(clock, exchange, meter, shards, heard, lost, told)
        finally:
            await shards.hang_up()


# ── back-off ─────────────────────────────────────────────────────────────────────────────────────
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
        rig.exchange.traits = replace(rig.exchange.traits, connections_max=1)
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
        assert [connection.symbols[0] for connection in rig.exchange.dials] == ["A quotes", "A", "B", "B quotes", "A book"]


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
        rig.exchange.traits = replace(rig.exchange.traits, connections_max=1)
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
        rig.exchange.traits = replace(rig.exchange.traits, connections_max=1)
        rig.exchange.leaves = asyncio.Semaphore(1)
        rig.exchange.standing.clear()
        rig.shards.place("A")
        await rig.settle()
        rig.shards.place("B")
        await rig.settle(1.0)
        rig.exchange.standing.set()
        await rig.settle(20.0)
        assert (rig.exchange.open, rig.told) == ([["A"]], [{"A"}])


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
        assert rig.exchange.open == [["A", "B", "E"], ["C", "D", "F"]] or rig.exchange.open == [["A", "B", "F"], ["C", "D", "E"]]
        rig.shards.place("G")  # none has room: rather a socket more than a symbol less
        await rig.settle()
        assert len(rig.shards) == 3
        assert ["G"] in rig.exchange.open


async def test_one_connection_is_never_two() -> None:
    async with rigged() as rig:
        rig.exchange.traits = replace(rig.exchange.traits, connections_max=1)
        for symbols in ("AB", "C", "D"):  # D is one more than streams_max
            rig.shards.place(symbols)
            await rig.settle()
            assert len(rig.exchange.open) == len(rig.shards) == 1
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        rig.shards.move(["A"])
        await rig.settle()
        assert rig.exchange.open == [["A", "B", "C", "D"]]
        assert rig.lost[-1] == (set("ABCD"), "disconnected")  # one of four was silent: it is mute already, the others need prove nothing


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
        rig.connection("A").said.put_nowait([trade("A"), trade("B"), Gone(Channel.TRADES, "", "any"), Gone(Channel.TRADES, "B", "hole")])
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
