"""The socket driver of a NinjaTrader session, against a scripted bridge on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.session import ClientSession, Prepared
from fks.bridge.ninja.signals import LinkSignalState
from fks.bridge.ninja_link.check import Address, check_connection, follow
from fks.bridge.ninja_link.link import Link, is_loopback, ports_of, system_draws
from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.model.errors import ConfigError, OutageError
from tests.support.free_port import free_port
from tests.support.ninja import ack, identity, log_event, signal
from tests.support.ninja_server import ScriptedBridge
from tests.support.waiting import until

E = TypeVar("E")


class Client:
    """A link that runs, and the events that it published."""

    def __init__(self, *ports: int) -> None:
        self.events: list[o.Event] = []
        self.session = ClientSession(identity(), RealClock(), system_draws(), ports=ports)
        self.link = Link(self.session, "127.0.0.1", RealClock(), self.events.append)

    def seen(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def running(*ports: int) -> AsyncIterator[Client]:
    client = Client(*ports)
    task = asyncio.create_task(client.link.run())
    try:
        yield client
    finally:
        client.session.stop()
        client.link.flush()
        await task


async def ready(client: Client, times: int = 1) -> None:
    await until(lambda: len(client.seen(o.Ready)) >= times)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_link_authenticates_and_says_bye() -> None:
    async with ScriptedBridge() as bridge:
        async with running(bridge.port) as client:
            await ready(client)
        await until(lambda: [line["t"] for line in bridge.received][-1] == "bye")
        assert client.session.state is LinkState.STOPPED
        assert [line["t"] for line in bridge.received][:2] == ["hello", "auth"]


async def test_the_second_port_is_used_when_nothing_listens_on_the_first() -> None:
    async with ScriptedBridge() as bridge, running(free_port(), bridge.port) as client:
        await ready(client)
        assert client.seen(o.Welcomed)[0].port == bridge.port


async def test_a_bridge_on_the_second_port_is_found_behind_an_impostor() -> None:
    async with ScriptedBridge(secret=b"x" * 32) as impostor, ScriptedBridge() as bridge:
        async with running(impostor.port, bridge.port) as client:
            await ready(client)
            assert [alarm.code.value for alarm in client.seen(o.Alarm)] == ["bridge_auth"]
        assert {line["t"] for line in impostor.received} == {"hello", "auth"}


async def test_a_broken_connection_is_made_again_and_misses_no_event() -> None:
    async with ScriptedBridge() as bridge, running(bridge.port) as client:
        await ready(client)
        bridge.publish(log_event(1))
        await until(lambda: len(client.seen(o.Logged)) == 1)
        bridge.drop()
        bridge.events += [log_event(2), log_event(3)]
        await ready(client, 2)
        bridge.publish(log_event(4))
        await until(lambda: len(client.seen(o.Logged)) == 4)
        assert [logged.event.seq for logged in client.seen(o.Logged)] == [1, 2, 3, 4]


async def test_a_signal_reaches_the_bridge_and_is_sent_once() -> None:
    async with ScriptedBridge(answers={"a1": ack("a1")}) as bridge, running(bridge.port) as client:
        await ready(client)
        prepared = client.session.prepare(signal("a1", now_ms()))
        assert isinstance(prepared, Prepared)
        assert client.session.send(prepared) is None
        client.link.flush()
        await until(lambda: bool(client.seen(o.SignalChanged)))
        assert client.seen(o.SignalChanged)[0].state is LinkSignalState.ACKED
        assert [line["id"] for line in bridge.received if line["t"] == "signal"] == ["a1"]


async def test_an_unanswered_signal_survives_the_loss_of_the_connection() -> None:
    async with ScriptedBridge() as bridge, running(bridge.port) as client:
        await ready(client)
        prepared = client.session.prepare(signal("a1", now_ms()))
        assert isinstance(prepared, Prepared)
        client.session.send(prepared)
        client.link.flush()
        await until(lambda: any(line["t"] == "signal" for line in bridge.received))
        bridge.answers["a1"] = ack("a1")
        bridge.drop()
        await until(lambda: client.session.signals_open() == {} and len(client.seen(o.Ready)) == 2)
        assert [line["t"] for line in bridge.received if line["t"] in ("signal", "query")] == [
            "signal",
            "query",
            "signal",
        ]


async def test_cancelling_the_link_closes_its_socket() -> None:
    async with ScriptedBridge() as bridge:
        client = Client(bridge.port)
        task = asyncio.create_task(client.link.run())
        await ready(client)
        before = asyncio.all_tasks()
        await end_task(task)
        assert task.cancelled()
        assert len(asyncio.all_tasks()) < len(before)


async def test_check_reports_status_and_round_trips() -> None:
    async with ScriptedBridge() as bridge:
        checked = await check_connection(
            identity("observe"), Address("127.0.0.1", bridge.port, 5.0), RealClock(), pings=5
        )
    assert checked.port == bridge.port
    assert checked.status.accounts[0].name == "Sim101"
    assert len(checked.round_trips_s) >= 5
    assert 0 < checked.share_s(0.5) <= checked.share_s(1.0) < 5.0
    assert abs(checked.offset_ms) < 2_000


async def test_check_without_a_bridge_is_an_outage() -> None:
    with pytest.raises(OutageError, match="refused"):
        await check_connection(identity("observe"), Address("127.0.0.1", free_port(), 1.0), RealClock())


async def test_check_with_another_secret_names_the_files_to_compare() -> None:
    async with ScriptedBridge(secret=b"y" * 32) as bridge:
        with pytest.raises(ConfigError, match="secret"):
            await check_connection(identity("observe"), Address("127.0.0.1", bridge.port, 1.0), RealClock())


async def test_follow_ends_when_asked() -> None:
    found: list[int] = []

    def publish(event: o.Event) -> bool:
        if isinstance(event, o.Logged):
            found.append(event.event.seq)
        return len(found) < 2

    async with ScriptedBridge(events=[log_event(1), log_event(2), log_event(3)]) as bridge:
        await follow(identity("observe"), Address("127.0.0.1", bridge.port, 5.0), RealClock(), publish)
    assert found == [1, 2]


def test_ports_and_hosts() -> None:
    assert ports_of(8080) == (8080, 47740)
    assert ports_of(9000) == (9000,)
    assert is_loopback("127.0.0.1")
    assert not is_loopback("192.168.1.5")
