"""The guardian's own session with the bridge of one NinjaTrader group, in role `guardian`.

It is another socket than the control session of the link: a kill reaches NinjaTrader with that process dead. The
session is open while this guardian may act, so that two guardians do not take each other's place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fks.guardian.context import GuardianContext
from fks.model.errors import OutageError
from fks.ninja import messages as m
from fks.ninja import outputs as o
from fks.ninja.machine import LIVE
from fks.ninja.session import REQUEST_S, ClientSession, Identity
from fks.ninja_link.link import Link, ports_of, system_draws
from fks.prop_rules import RuleGroup

_LOOK_S = 0.5  # between looks whether this guardian may act
_AGAIN_S = 15.0  # after the session has ended for good: another guardian took its place, or the group is another one
_MARGIN_S = 1.0  # an answer is waited for so much longer than the session itself waits


@dataclass(frozen=True, slots=True)
class GroupBridge:
    """A NinjaTrader group and where its bridge listens. `is_required`: a missing session is a fault of the system.
    `rules`: of the prop firm of its accounts; `account_rules`: of accounts with rules of their own, by name; None: its
    rules cannot be used, and those of another firm must not stand in for them."""

    group: str
    host: str
    port: int
    secret: bytes = field(repr=False)
    timeout_s: float = 5.0
    is_required: bool = False
    rules: RuleGroup | None = None
    account_rules: Mapping[str, RuleGroup | None] = field(default_factory=dict)

    @property
    def has_rules(self) -> bool:
        """Whether any account of the group has rules."""
        return self.rules is not None or bool(self.account_rules)

    def rules_of(self, account: str) -> RuleGroup | None:
        """Return the rules of an account; None: of no prop firm."""
        return self.account_rules.get(account, self.rules)


class NinjaSession:
    """`start` and `close` once; `ask` in between. `status`: the newest snapshot. `welcome`: of this connection.

    `changed` gives the group's address when its files have changed, and is asked twice a second. Another secret counts
    for the next connection: the one that is open goes on.
    """

    def __init__(
        self,
        context: GuardianContext,
        address: GroupBridge,
        new_instance: Callable[[], str],
        changed: Callable[[], GroupBridge | None] = lambda: None,
    ) -> None:
        self._clock, self._log = context.clock, context.log
        self.address, self.name = address, f"ninja:{address.group}"
        self._new_instance = new_instance
        self._changed = changed
        self._secret = address.secret  # of the connection that runs
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asked: dict[str, asyncio.Future[m.ResultMessage | m.Status]] = {}
        self.welcome: m.Welcome | None = None
        self.status: m.Status | None = None
        self.reason = "not connected yet"

    def start(self, may_act: Callable[[], bool]) -> None:
        """Connect, and stay connected while `may_act`."""
        self._connecting = asyncio.create_task(self._keep(may_act), name=self.name)

    async def close(self) -> None:
        """Disconnect."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
            self._connecting = None

    @property
    def is_open(self) -> bool:
        """Whether a request would leave now."""
        return self._link is not None and self._link.session.state in LIVE

    @property
    def is_halted(self) -> bool | None:
        """Whether the kill latch was on when the bridge last reported it; None before that."""
        if self.status is not None:
            return self.status.halted
        return None if self.welcome is None else self.welcome.halted

    async def ask(self, make: Callable[[str], m.LinkRequest]) -> m.ResultMessage | m.Status:
        """Send the request that `make` returns for a new id, and return its answer.

        Errors: OutageError without a connection or an answer: whether the bridge acted on it is then unknown.
        """
        link = self._link
        if link is None or not self.is_open:
            raise OutageError(f"no session with NinjaTrader: {self.reason}")
        request = make(link.session.new_rid())
        refusal = link.session.request(request)
        if refusal is not None:
            raise OutageError(f"nothing was sent to NinjaTrader: {refusal.value}")
        answer: asyncio.Future[m.ResultMessage | m.Status] = asyncio.get_running_loop().create_future()
        self._asked[request.rid] = answer
        link.flush()
        try:
            async with asyncio.timeout(REQUEST_S.get(type(request), self.address.timeout_s) + _MARGIN_S):
                return await answer
        except TimeoutError:
            raise OutageError(f"NinjaTrader did not answer {request.t}") from None
        finally:
            self._asked.pop(request.rid, None)

    # ── the connection ───────────────────────────────────────────────────────────────────────────
    async def _keep(self, may_act: Callable[[], bool]) -> None:
        running: asyncio.Task[None] | None = None
        again_s = 0.0
        try:
            while True:
                self._look_for_change()
                is_allowed, now = may_act() and bool(self.address.secret), self._clock.monotonic()
                if running is not None and running.done():
                    self._ended(running)
                    running, again_s = None, now + _AGAIN_S
                if self._secret != self.address.secret and not self.is_open:
                    if running is not None:
                        await _cancelled(running)
                        self._ended(running)
                    running, again_s = None, 0.0
                if running is None and is_allowed and now >= again_s:
                    running = self._opened()
                elif running is not None and not is_allowed:
                    await _cancelled(running)
                    self._ended(running)
                    running = None
                    self.reason = "this guardian must not act"
                if not self.address.secret:
                    self.reason = "its secret cannot be used"
                await self._clock.sleep(_LOOK_S)
        finally:
            if running is not None:
                await _cancelled(running)
                self._ended(running)

    def _look_for_change(self) -> None:
        try:
            found = self._changed()
        except Exception as error:  # a file must not end the session
            self._log.error("guardian.ninja_unusable", fault=f"{self.address.group}: {type(error).__name__}: {error}")
            return
        if found is not None:
            self.address = found
            self._log.info("guardian.ninja_changed", group=found.group)

    def _opened(self) -> asyncio.Task[None]:
        address = self.address
        self._secret = address.secret
        identity = Identity(address.group, "guardian", self._new_instance(), address.secret, "fks guardian")
        session = ClientSession(
            identity, self._clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s
        )
        self._link = Link(session, address.host, self._clock, self._take)
        return asyncio.create_task(self._link.run(), name=f"{self.name} link")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._link = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.reason = f"{type(error).__name__}: {error}"
            self._log.error("guardian.ninja_failed", group=self.address.group, error=self.reason)
        self._fail(self.reason)

    def _take(self, event: o.Event) -> None:
        match event:
            case o.Welcomed():
                self.welcome, self.reason = event.welcome, ""
                self._log.info("guardian.ninja_connected", group=self.address.group, port=event.port)
            case o.Snapshot():
                self.status = event.status
            case o.Answered(message=m.ResultMessage() | m.Status() as message):
                self._settle(event.request.rid, message)
            case o.NotAnswered():
                if (waiting := self._asked.get(event.request.rid)) is not None and not waiting.done():
                    waiting.set_exception(OutageError(f"NinjaTrader did not answer: {event.reason}"))
            case o.Logged():
                # the link stores the log; here it is only let go of, so that a new connection replays little
                assert self._link is not None
                self._link.session.stored(event.event.epoch, event.event.seq)
            case o.LinkLost() | o.Waiting() | o.LinkStopped():
                self.reason = event.reason
                if isinstance(event, o.LinkLost):
                    self._log.warning("guardian.ninja_lost", group=self.address.group, reason=event.reason)
                self._fail(event.reason)
            case o.Alarm():
                self._log.error(
                    "guardian.ninja_alarm", group=self.address.group, code=event.code.value, detail=event.detail
                )
            case _:
                return

    def _settle(self, rid: str, message: m.ResultMessage | m.Status) -> None:
        waiting = self._asked.get(rid)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _fail(self, reason: str) -> None:
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(OutageError(f"the connection to NinjaTrader was lost: {reason}"))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
