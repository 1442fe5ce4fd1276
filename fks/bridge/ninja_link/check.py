"""Check of a connection: authenticate, read the status, measure round trips, say bye.

It uses the role `observe`, so that it never takes the place of the session that trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.messages import GetStatus, Status, Welcome
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.session import ClientSession, Identity
from fks.bridge.ninja_link.link import Link, ports_of, system_draws
from fks.clock import Clock
from fks.model.errors import ConfigError, OutageError

PING_EVERY_S = 0.02
SECRETS_DIFFER = (
    "the secret file here and the one on the {title} machine must hold the same text, "
    "and {name}.group the name of the group there"
)


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


async def check_connection(identity: Identity, address: Address, clock: Clock, *, pings: int = 20) -> Checked:
    """Return what the bridge at `address` reports, after `pings` round trips. One attempt on each port.

    Errors: OutageError without a connection; ConfigError when the two ends do not have the same secret.
    """
    welcomed: o.Welcomed | None = None
    status: Status | None = None
    failure: Exception | None = None
    platform = identity.platform
    round_trips_s: list[float] = []
    is_done = asyncio.Event()

    def on_event(event: o.Event) -> None:
        nonlocal welcomed, status, failure
        match event:
            case o.Welcomed():
                welcomed = event
            case o.Ready(is_first=True):
                session.request(GetStatus(rid=session.new_rid()))
            case o.Answered(message=Status() as answer):
                status = answer
                is_done.set()
            case o.RoundTrip():
                round_trips_s.append(event.took_s)
            case o.Alarm(code=AlarmCode.BRIDGE_AUTH | AlarmCode.AUTH_FAILED):
                failure = ConfigError(
                    f"{platform.title}: {event.detail}",
                    remedy=SECRETS_DIFFER.format(title=platform.title, name=platform.name),
                )
                is_done.set()
            case o.Waiting() | o.LinkLost() | o.NotAnswered() | o.LinkStopped():
                failure = failure or OutageError(f"no connection to {platform.title}: {event.reason}")
                is_done.set()
            case _:
                return

    session = ClientSession(identity, clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s)
    link = Link(session, address.host, clock, on_event)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(6 * address.timeout_s):
            await _first(is_done, running)
            if failure is not None:
                raise failure
            while len(round_trips_s) < pings and failure is None:
                session.ping()
                link.flush()
                await clock.sleep(PING_EVERY_S)
    except TimeoutError:
        raise OutageError(f"{platform.title} at {address.host} did not answer in {6 * address.timeout_s:g} s") from None
    finally:
        session.stop()
        link.flush()
        await running
    if failure is not None and len(round_trips_s) < pings:
        raise failure
    assert welcomed is not None
    assert status is not None
    return Checked(welcomed.port, welcomed.welcome, status, tuple(sorted(round_trips_s)), session.offset.ms)


async def follow(identity: Identity, address: Address, clock: Clock, publish: Callable[[o.Event], bool]) -> None:
    """Publish the events of the bridge until `publish` returns False; connect again as often as needed.

    Errors: none of the network: `publish` gets Waiting, LinkLost and Alarm.
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
