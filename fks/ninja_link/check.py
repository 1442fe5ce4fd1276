"""Check of a connection: authenticate, read the status, measure round trips, say bye.

It uses the role `observe`, so that it never takes the place of the session that trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fks.clock import Clock
from fks.model.errors import ConfigError, OutageError
from fks.ninja import outputs as o
from fks.ninja.messages import GetStatus, Status, Welcome
from fks.ninja.outputs import AlarmCode
from fks.ninja.session import ClientSession, Identity
from fks.ninja_link.link import Link, ports_of, system_draws

PING_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a bridge. `port` 8080 stands for both default ports."""

    host: str
    port: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Checked:
    """The findings of a check. `round_trips_s` is sorted; `offset_ms`: the bridge's clock minus ours."""

    port: int
    welcome: Welcome
    status: Status
    round_trips_s: tuple[float, ...]
    offset_ms: int

    def share_s(self, share: float) -> float:
        """Return the round trip that this share of all did not exceed."""
        return self.round_trips_s[min(int(len(self.round_trips_s) * share), len(self.round_trips_s) - 1)]


class _Check:
    """Collects the events of one check and asks the next thing."""

    def __init__(self, pings: int) -> None:
        self.link: Link | None = None
        self.pings = pings
        self.welcomed: o.Welcomed | None = None
        self.status: Status | None = None
        self.round_trips_s: list[float] = []
        self.failure: Exception | None = None
        self.is_done = asyncio.Event()

    def on_event(self, event: o.Event) -> None:
        match event:
            case o.Welcomed():
                self.welcomed = event
            case o.Ready(is_first=True):
                assert self.link is not None
                self.link.session.request(GetStatus(rid=self.link.session.new_rid()))
            case o.Answered(message=Status() as status):
                self.status = status
                self.is_done.set()
            case o.RoundTrip():
                self.round_trips_s.append(event.took_s)
            case o.Alarm(code=AlarmCode.BRIDGE_AUTH | AlarmCode.AUTH_FAILED):
                self.failure = ConfigError(
                    f"NinjaTrader: {event.detail}",
                    remedy="the secret file here and secret.key on the NinjaTrader machine must hold the same text, "
                    "and ninja.group the bridge's group",
                )
                self.is_done.set()
            case o.Waiting() | o.Disconnected() | o.NotAnswered() | o.Stopped():
                if self.failure is None:
                    self.failure = OutageError(f"no connection to NinjaTrader: {event.reason}")
                self.is_done.set()
            case _:
                return


async def check_connection(identity: Identity, address: Address, clock: Clock, *, pings: int = 20) -> Checked:
    """Return what the bridge at `address` reports, after `pings` round trips. One attempt on each port.

    Errors: OutageError without a connection; ConfigError when the two ends do not have the same secret.
    """
    check = _Check(pings)
    session = ClientSession(identity, clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s)
    check.link = link = Link(session, address.host, clock, check.on_event)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(6 * address.timeout_s):
            await _first(check.is_done, running)
            if check.failure is not None:
                raise check.failure
            check.is_done.clear()
            while len(check.round_trips_s) < pings and check.failure is None:
                session.ping()
                link.flush()
                await clock.sleep(PING_EVERY_S)
    except TimeoutError:
        raise OutageError(f"NinjaTrader at {address.host} did not answer in {6 * address.timeout_s:g} s") from None
    finally:
        session.stop()
        link.flush()
        await running
    if check.failure is not None and len(check.round_trips_s) < pings:
        raise check.failure
    assert check.welcomed is not None
    assert check.status is not None
    return Checked(
        check.welcomed.port, check.welcomed.welcome, check.status, tuple(sorted(check.round_trips_s)), session.offset.ms
    )


async def follow(identity: Identity, address: Address, clock: Clock, publish: Callable[[o.Event], bool]) -> None:
    """Publish the events of the bridge until `publish` returns False; connect again as often as needed.

    Errors: none of the network: `publish` gets Waiting, Disconnected and Alarm.
    """
    stopping: list[bool] = []

    def on_event(event: o.Event) -> None:
        if not stopping and not publish(event):
            stopping.append(True)
            session.stop()

    session = ClientSession(identity, clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s)
    await Link(session, address.host, clock, on_event).run()


async def _first(event: asyncio.Event, running: asyncio.Task[None]) -> None:
    """Wait for the event, or for the end of the link with its error."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if running.done():
        running.result()
