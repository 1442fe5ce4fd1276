"""The guardian's own session with the bridge of one group of a platform, in role `guardian`.

It is another socket than the control session of the link: a kill reaches the platform with that process dead. The
session is open while this guardian may act, so that two guardians do not take each other's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.fields import written
from fks.bridge.ninja.machine import LIVE
from fks.bridge.ninja.session import REQUEST_S, ClientSession, Identity
from fks.bridge.ninja_link.link import Link, ports_of, system_draws
from fks.clock.waiting import end_task
from fks.model.errors import OutageError
from fks.model.ninja import NINJA, BridgePlatform, LineMacRule
from fks.trading.guardian.context import GuardianContext
from fks.trading.prop_rules import RequiredAction, RuleGroup, WorkingEntry, required_action
from fks.trading.prop_rules.snapshot import state_of

_LOOK_S = 0.5  # between looks whether this guardian may act
_AGAIN_S = 15.0  # after the session has ended for good: another guardian took its place, or the group is another one
_MARGIN_S = 1.0  # an answer is waited for so much longer than the session itself waits


_RULES_LOOK_S = 2.0
_FLATTEN_AGAIN_S = 60.0  # the bridge gives a flatten 30 s, and repeats one that a lost connection stopped
_REASON_MAX = 120


@dataclass(frozen=True, slots=True)
class GroupBridge:
    """A group of a platform and where its bridge listens. `is_required`: a missing session is a fault of the system.
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
    platform: BridgePlatform = NINJA
    line_mac: LineMacRule = "auto"

    @property
    def key(self) -> str:
        """Name of the group in tables and logs."""
        return self.platform.key(self.group)

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
        self.address, self.name, self.title = address, address.platform.link(address.group), address.platform.title
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
            await end_task(self._connecting)
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
            raise OutageError(f"no session with {self.title}: {self.reason}")
        request = make(link.session.new_rid())
        refusal = link.session.request(request)
        if refusal is not None:
            raise OutageError(f"nothing was sent to {self.title}: {refusal.value}")
        answer: asyncio.Future[m.ResultMessage | m.Status] = asyncio.get_running_loop().create_future()
        self._asked[request.rid] = answer
        link.flush()
        try:
            async with asyncio.timeout(REQUEST_S.get(type(request), self.address.timeout_s) + _MARGIN_S):
                return await answer
        except TimeoutError:
            raise OutageError(f"{self.title} did not answer {request.t}") from None
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
                        await end_task(running)
                        self._ended(running)
                    running, again_s = None, 0.0
                if running is None and is_allowed and now >= again_s:
                    running = self._opened()
                elif running is not None and not is_allowed:
                    await end_task(running)
                    self._ended(running)
                    running = None
                    self.reason = "this guardian must not act"
                if not self.address.secret:
                    self.reason = "its secret cannot be used"
                await self._clock.sleep(_LOOK_S)
        finally:
            if running is not None:
                await end_task(running)
                self._ended(running)

    def _look_for_change(self) -> None:
        try:
            found = self._changed()
        except Exception as error:  # a file must not end the session
            self._log.error("guardian.ninja_unusable", fault=f"{self.address.key}: {type(error).__name__}: {error}")
            return
        if found is not None:
            self.address = found
            self._log.info("guardian.ninja_changed", group=found.key)

    def _opened(self) -> asyncio.Task[None]:
        address = self.address
        self._secret = address.secret
        identity = Identity(
            address.group, "guardian", self._new_instance(), address.secret, "fks guardian", address.platform,
            address.line_mac,
        )  # fmt: skip
        session = ClientSession(
            identity, self._clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s
        )
        self._link = Link(session, address.host, self._clock, self._take)
        return asyncio.create_task(self._link.run(), name=f"{self.name} link")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._link = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.reason = f"{type(error).__name__}: {error}"
            self._log.error("guardian.ninja_failed", group=self.address.key, error=self.reason)
        self._fail(self.reason)

    def _take(self, event: o.Event) -> None:
        match event:
            case o.Welcomed():
                self.welcome, self.reason = event.welcome, ""
                self._log.info("guardian.ninja_connected", group=self.address.key, port=event.port)
            case o.Snapshot():
                self.status = event.status
            case o.Answered(message=m.ResultMessage() | m.Status() as message):
                self._settle(event.request.rid, message)
            case o.NotAnswered():
                if (waiting := self._asked.get(event.request.rid)) is not None and not waiting.done():
                    waiting.set_exception(OutageError(f"{self.title} did not answer: {event.reason}"))
            case o.Logged():
                # the link stores the log; here it is only let go of, so that a new connection replays little
                assert self._link is not None
                self._link.session.stored(event.event.epoch, event.event.seq)
            case o.LinkLost() | o.Waiting() | o.LinkStopped():
                self.reason = event.reason
                if isinstance(event, o.LinkLost):
                    self._log.warning("guardian.ninja_lost", group=self.address.key, reason=event.reason)
                self._fail(event.reason)
            case o.Alarm():
                self._log.error(
                    "guardian.ninja_alarm", group=self.address.key, code=event.code.value, detail=event.detail
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
                waiting.set_exception(OutageError(f"the connection to {self.title} was lost: {reason}"))


def sent_reason(text: str) -> str:
    """Return a reason as a request to a bridge has it."""
    return text.encode("ascii", "replace").decode()[:_REASON_MAX]


class RuleWatch:
    """The prop firm's rules over open positions: an account that must be flat is flattened.

    The bridge keeps the same rules by itself; this is the second look, by another program, with link and order manager
    dead or not. Entries are locked by the bridge, and denied by the order manager while a rule demands to be flat.

    `run` until cancelled. The rules are those of the session's present address. `may_act` is asked before each
    request; `page` gets an event, a message and its group."""

    def __init__(
        self,
        context: GuardianContext,
        session: NinjaSession,
        *,
        may_act: Callable[[], bool],
        page: Callable[[str, str], None],
    ) -> None:
        self._clock, self._log = context.clock, context.log
        self._session = session
        self._may_act, self._page = may_act, page
        self._demanded: dict[tuple[str, str], float] = {}  # (account, code) -> monotonic time of the last request

    async def run(self) -> None:
        """Look every two seconds. A surprise is logged: it must not end the watch."""
        while True:
            try:
                await self.look()
            except OutageError as error:
                self._log.debug("guardian.rules_unread", group=self._session.address.group, error=str(error))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                self._log.error("guardian.rules_failed", group=self._session.address.group, error=reason)
            await self._clock.sleep(_RULES_LOOK_S)

    async def look(self) -> None:
        """Read the accounts once, and flatten those of which the rules demand it. Errors: OutageError."""
        if not self._session.address.has_rules or not self._session.is_open or not self._may_act():
            return
        status = await self._session.ask(lambda rid: m.GetStatus(rid=rid))
        welcome = self._session.welcome
        if not isinstance(status, m.Status) or welcome is None:
            return
        accounts = m.accounts_after(welcome.accounts, status)
        traded = {name for name, account in accounts.items() if account.mode == "auto"}
        for account in status.accounts:
            if account.name in traded and (action := self._action(account)) is not None:
                await self._flatten(account.name, action)

    def _action(self, account: m.AccountStatus) -> RequiredAction | None:
        """Return what the rules demand of an account with something to close, or None."""
        rules = self._session.address.rules_of(account.name)
        if rules is None:
            return None
        working = any(order.ours and order.state not in m.ENDED and ":E" in order.name for order in account.orders)
        state = state_of(written(account), (WorkingEntry("", 1, None),) if working else ())
        return required_action(rules, state, self._clock.now_ns()) if state.has_risk else None

    async def _flatten(self, account: str, action: RequiredAction) -> None:
        now, key = self._clock.monotonic(), (account, action.code)
        before = self._demanded.get(key)
        if (before is not None and now - before < _FLATTEN_AGAIN_S) or not self._may_act():
            return
        self._demanded[key] = now
        group, why = self._session.address.group, f"{action.code}: {action.detail}"
        self._log.error("guardian.rule_flattens", group=group, account=account, code=action.code, detail=action.detail)
        rules = self._session.address.rules_of(account)
        named = rules.group if rules is not None else "its firm"
        self._page("prop.flatten", f"account {account} is flattened by the rules of {named}: {why}")
        answer = await self._session.ask(
            lambda rid: m.FlattenRequest(rid=rid, account=account, instruments="all", reason=sent_reason(why))
        )
        if not isinstance(answer, m.ResultMessage) or not answer.flat:
            left = getattr(answer, "code", None) or "not flat"
            self._page("prop.not_flat", f"account {account} is not flat: {left}; close it in NinjaTrader now")
