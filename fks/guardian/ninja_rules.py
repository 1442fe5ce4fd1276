"""The prop firm's rules over open positions at NinjaTrader: an account that must be flat is flattened.

The bridge keeps the same rules by itself; this is the second look, by another program, with link and order manager dead
or not. Entries are locked by the bridge, and denied by the order manager while a rule demands to be flat.
"""

from __future__ import annotations

from collections.abc import Callable

from fks.guardian.context import GuardianContext
from fks.guardian.ninja_session import NinjaSession
from fks.model.errors import OutageError
from fks.ninja import messages as m
from fks.ninja.fields import written
from fks.prop_rules import RequiredAction, WorkingEntry, required_action
from fks.prop_rules.snapshot import state_of

_LOOK_S = 2.0
_AGAIN_S = 60.0  # the bridge gives a flatten 30 s, and repeats one that a lost connection stopped
_ENDED = frozenset({"Filled", "Cancelled", "Rejected"})
_REASON_MAX = 120


class RuleWatch:
    """`run` until cancelled. The rules are those of the session's present address. `may_act` is asked before each
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
            await self._clock.sleep(_LOOK_S)

    async def look(self) -> None:
        """Read the accounts once, and flatten those of which the rules demand it. Errors: OutageError."""
        if not self._session.address.has_rules or not self._session.is_open or not self._may_act():
            return
        status = await self._session.ask(lambda rid: m.GetStatus(rid=rid))
        welcome = self._session.welcome
        if not isinstance(status, m.Status) or welcome is None:
            return
        traded = {account.name for account in welcome.accounts if account.mode == "auto"}
        for account in status.accounts:
            if account.name in traded and (action := self._action(account)) is not None:
                await self._flatten(account.name, action)

    def _action(self, account: m.AccountStatus) -> RequiredAction | None:
        """Return what the rules demand of an account with something to close, or None."""
        rules = self._session.address.rules_of(account.name)
        if rules is None:
            return None
        working = any(order.ours and order.state not in _ENDED and ":E" in order.name for order in account.orders)
        state = state_of(written(account), (WorkingEntry("", 1, None),) if working else ())
        return required_action(rules, state, self._clock.now_ns()) if state.has_risk else None

    async def _flatten(self, account: str, action: RequiredAction) -> None:
        now, key = self._clock.monotonic(), (account, action.code)
        before = self._demanded.get(key)
        if (before is not None and now - before < _AGAIN_S) or not self._may_act():
            return
        self._demanded[key] = now
        group, why = self._session.address.group, f"{action.code}: {action.detail}"
        self._log.error("guardian.rule_flattens", group=group, account=account, code=action.code, detail=action.detail)
        rules = self._session.address.rules_of(account)
        named = rules.group if rules is not None else "its firm"
        self._page("prop.flatten", f"account {account} is flattened by the rules of {named}: {why}")
        reason = why.encode("ascii", "replace").decode()[:_REASON_MAX]
        answer = await self._session.ask(
            lambda rid: m.FlattenRequest(rid=rid, account=account, instruments="all", reason=reason)
        )
        if not isinstance(answer, m.ResultMessage) or not answer.flat:
            left = getattr(answer, "code", None) or "not flat"
            self._page("prop.not_flat", f"account {account} is not flat: {left}; close it in NinjaTrader now")
