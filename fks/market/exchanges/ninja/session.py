"""The session of role `data`: one connection to the bridge for all that an exchange object does.

It is opened with the first request and kept until `close`; the link connects again by itself. Everything runs in one
event loop. `publish` receives the market data and the states of the connection, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.outputs import AlarmCode
from fks.bridge.ninja.session import ClientSession, Identity
from fks.bridge.ninja_link.check import SECRETS_DIFFER
from fks.bridge.ninja_link.link import Link, ports_of, system_draws
from fks.clock import Clock
from fks.model.errors import ConfigError, FksError, OutageError, PeerError, not_found
from fks.model.ninja import NINJA, BridgePlatform, LineMacRule

READY_S = 10.0  # for the connection and the authentication, on both ports
CLOSE_S = 1.0
BUSY_TRIES, BUSY_S = 60, 1.0  # another program's history request is running

Published = m.TradeMessage | m.QuoteMessage | m.MarketStatus | o.Ready | o.LinkLost


@dataclass(frozen=True, slots=True)
class BridgeAddress:
    """The address at which the bridge listens, and the way to read the secret that it shares. `secret` raises
    ConfigError."""

    host: str
    port: int
    timeout_s: float
    group: str
    secret: Callable[[], bytes]
    platform: BridgePlatform = NINJA
    line_mac: LineMacRule = "auto"


class DataSession:
    """Requests to the bridge and what it sends. One object per exchange object."""

    def __init__(self, address: BridgeAddress, clock: Clock, publish: Callable[[Published], None]) -> None:
        self._address, self._clock, self._publish = address, clock, publish
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._problem: FksError | None = None  # of the last attempt to connect
        self._answers: dict[str, asyncio.Future[m.ResultMessage]] = {}
        self._bars: dict[str, list[m.HistoryBar]] = {}
        self._listed: dict[str, list[m.InstrumentMessage]] = {}
        self._title = address.platform.title
        self._history = asyncio.Lock()
        self._is_closed = False
        self.connects = 0

    @property
    def is_ready(self) -> bool:
        """Return whether requests may be sent."""
        return self._link is not None and self._link.session.state in (LinkState.READY, LinkState.SUSPECT)

    @property
    def offset_ms(self) -> int:
        """Return the bridge's clock minus ours; 0 before it is measured."""
        return self._link.session.offset.ms if self._link is not None else 0

    def present_ns(self) -> int:
        """Return the time of the bridge's clock, as far as it is known; else ours."""
        return self._clock.now_ns() + self.offset_ms * 1_000_000

    async def ready(self) -> None:
        """Return once the session is authenticated. Errors: OutageError, ConfigError when the secrets differ."""
        self._start()
        try:
            async with asyncio.timeout(READY_S):
                while not self.is_ready:
                    if isinstance(self._problem, ConfigError):
                        raise self._problem
                    self._changed.clear()
                    self._start()
                    await self._changed.wait()
        except TimeoutError:
            raise self._problem or OutageError(self._text("no answer")) from None

    async def subscribe(self, instrument: str, *, quotes: bool) -> None:
        """Subscribe one instrument. Errors: InputError SYMBOL_UNKNOWN, OutageError, PeerError."""
        request = m.Subscribe(rid=self._rid(), instruments=(instrument,), quotes=quotes)
        _check(await self._ask(request), instrument, self._title)

    def unsubscribe(self, instrument: str) -> None:
        """Unsubscribe one instrument, without waiting for the answer."""
        if self.is_ready and self._link is not None:
            self._link.session.request(m.Unsubscribe(rid=self._rid(), instruments=(instrument,)))
            self._link.flush()

    async def history(self, instrument: str, from_ms: int, to_ms: int) -> list[m.HistoryBar]:
        """Return the minutes that open in [from, to), oldest first; one request at a time.

        Errors: InputError SYMBOL_UNKNOWN, OutageError, PeerError.
        """
        async with self._history:
            for _ in range(BUSY_TRIES):
                await self.ready()
                request = m.HistoryRequest(
                    rid=self._rid(), instrument=instrument, from_ms=from_ms, to_ms=to_ms, period="1m"
                )  # fmt: skip
                found = self._bars[request.rid] = []
                try:
                    answer = await self._ask(request)
                finally:
                    del self._bars[request.rid]
                if answer.ok or answer.code != "rate_limited":
                    _check(answer, instrument, self._title)
                    if answer.count is not None and answer.count != len(found):
                        raise OutageError(f"{self._title} sent {len(found)} of {answer.count} bars of {instrument}")
                    return sorted(found, key=lambda bar: bar.at_ms)
                await self._clock.sleep(BUSY_S)
        raise OutageError(f"{self._title} is busy with another program's history request")

    async def instruments(self) -> list[m.InstrumentMessage]:
        """Return the instruments that the platform lists. Errors: OutageError, PeerError, ConfigError."""
        await self.ready()
        request = m.ListInstruments(rid=self._rid())
        found = self._listed[request.rid] = []
        try:
            answer = await self._ask(request)
        finally:
            del self._listed[request.rid]
        _check(answer, "the list of instruments", self._title)
        if answer.count is not None and answer.count != len(found):
            raise OutageError(f"{self._title} sent {len(found)} of {answer.count} instruments")
        return found

    def open(self) -> None:
        """Allow sessions again after `close`."""
        self._is_closed = False

    async def close(self) -> None:
        """End the session, waiting at most a second for the bridge; a call that waits for it fails."""
        self._is_closed = True
        self._changed.set()
        link, task = self._link, self._task
        self._link = self._task = None
        if link is None or task is None:
            return
        link.session.stop()
        link.flush()
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────
    def _start(self) -> None:
        """Start a link, unless one runs. Errors: OutageError after `close`; ConfigError when the secret cannot be
        read."""
        if self._is_closed:
            raise OutageError(self._text("the exchange is closed"))
        if self._task is not None and not self._task.done():
            return
        address = self._address
        who = Identity(
            group=address.group,
            role="data",
            instance=uuid.uuid4().hex,
            secret=address.secret(),
            platform=address.platform,
            line_mac=address.line_mac,
        )
        session = ClientSession(
            who, self._clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s
        )
        self._problem = None
        self._link = link = Link(session, address.host, self._clock, self._on_event)
        self._task = asyncio.create_task(self._run(link))

    async def _run(self, link: Link) -> None:
        try:
            await link.run()
        except Exception as error:  # of ours: the callers get it, and the next call starts another link
            self._lost(FksError(f"the session with {self._title} failed: {error!r}"))
            raise

    def _on_event(self, event: o.Event) -> None:
        match event:
            case o.MarketData(message=m.HistoryBar() as bar):
                if bar.rid in self._bars:
                    self._bars[bar.rid].append(bar)
            case o.MarketData(message=m.InstrumentMessage() as listed):
                if listed.rid in self._listed:
                    self._listed[listed.rid].append(listed)
            case o.MarketData(message=m.TradeMessage() | m.QuoteMessage() | m.MarketStatus() as message):
                self._publish(message)
            case o.Answered(request=request, message=m.ResultMessage() as result):
                self._answer(request.rid, result)
            case o.NotAnswered(request=request, reason=reason):
                self._answer(request.rid, OutageError(self._text(f"no answer to {request.t}: {reason}")))
            case o.Ready(is_first=True):
                self.connects += 1
                self._problem = None
                self._publish(event)
            case o.LinkLost(reason=reason):
                self._problem = OutageError(self._text(reason))
                self._publish(event)
            case o.Waiting(reason=reason) | o.LinkStopped(reason=reason):
                if not isinstance(self._problem, ConfigError):
                    self._problem = OutageError(self._text(reason))
            case o.Alarm(code=AlarmCode.BRIDGE_AUTH | AlarmCode.AUTH_FAILED, detail=detail):
                self._problem = ConfigError(
                    f"{self._title}: {detail}",
                    remedy=SECRETS_DIFFER.format(title=self._title, name=self._address.platform.name),
                )
            case _:
                return
        self._changed.set()

    def _lost(self, error: FksError) -> None:
        self._problem = error
        for rid in list(self._answers):
            self._answer(rid, error)
        self._publish(o.LinkLost(str(error)))
        self._changed.set()

    def _text(self, reason: str) -> str:
        return f"no prices from {self._title} at {self._address.host}:{self._address.port}: {reason}"

    # ── requests ─────────────────────────────────────────────────────────────────────────────────
    def _rid(self) -> str:
        assert self._link is not None, "ready() comes first"
        return self._link.session.new_rid()

    async def _ask(self, request: m.LinkRequest) -> m.ResultMessage:
        link = self._link
        assert link is not None, "ready() comes first"
        refusal = link.session.request(request)
        if refusal is not None:
            raise OutageError(self._text(f"{request.t} was not sent: {refusal}"))
        future: asyncio.Future[m.ResultMessage] = asyncio.get_running_loop().create_future()
        self._answers[request.rid] = future
        link.flush()
        return await future

    def _answer(self, rid: str, answer: m.ResultMessage | FksError) -> None:
        future = self._answers.pop(rid, None)
        if future is None or future.done():
            return
        if isinstance(answer, m.ResultMessage):
            future.set_result(answer)
        else:
            future.set_exception(answer)


def _check(answer: m.ResultMessage, instrument: str, title: str) -> None:
    """Raise what a refusal stands for."""
    if answer.ok and answer.code is None:
        return
    text = f"{title} refuses {instrument}: {answer.code}: {answer.detail or ''}"
    if answer.code == "unknown_instrument":
        raise not_found("SYMBOL_UNKNOWN", text, "see 'fks instruments'")
    if answer.code in ("not_connected", "rate_limited"):
        raise OutageError(text)
    raise PeerError(text)
