"""A kill at one group of NinjaTrader or MetaTrader 5: the bridge's own kill latch, and a look whether all is flat.

The bridge flattens every account that it trades by itself, cancels entries, and refuses new ones until a person lifts
the latch on the Windows side. So the guardian sends `kill`, whatever the tables or the link know, until the status
shows the latch engaged, no position and no order of ours. A kill that keeps positions cancels entries only: the latch
would close them.

Each request is in the kill's file before its bytes leave. Sending `kill` again does no harm: the latch stays, and what
is left is flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fks.bridge.ninja import messages as m
from fks.model.errors import OutageError
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.flatten import line_of
from fks.trading.guardian.journal import KillJournal
from fks.trading.guardian.kill_work import KillWork
from fks.trading.guardian.ninja_session import NinjaSession, sent_reason

_CONNECTED = "Connected"


class NinjaKill(KillWork):
    """The work of one kill at one group. `why_not` is asked before each request."""

    def __init__(
        self,
        context: GuardianContext,
        session: NinjaSession,
        journal: KillJournal,
        *,
        why_not: Callable[[], str],
        is_settled: bool = False,
    ) -> None:
        super().__init__(context, session.name, is_settled=is_settled)
        self._session, self._journal, self._why_not = session, journal, why_not

    async def _round(self) -> bool:
        if why := self._why_not():
            self.state, self.detail = "looks_on", why
            return False
        record = self._journal.record
        assert record is not None
        status = await self._status()
        if not record.flatten:
            return await self._end_entries(status)
        self.state, self.detail, self.remaining = "working", "", list(self._left(status))
        if status.halted and not self._pending():
            self.state = "flat"
            return True
        reason = sent_reason(f"fks kill: {record.reason}")
        answer = await self._request("kill", lambda rid: m.Kill(rid=rid, reason=reason))
        status = await self._status()
        self.remaining = list(self._left(status))
        is_quiet = status.halted and not self._pending()
        self.state = "flat" if is_quiet else "working"
        self.detail = "" if is_quiet else str(answer.code or answer.detail or "")
        return is_quiet

    async def _end_entries(self, status: m.Status) -> bool:
        """Cancel the entries that work; protection, exits and positions stay."""
        entries = sorted({order.name.split(":")[1] for order in _entries(status)})
        self.remaining = []
        for id in entries:
            if self._why_not():
                return False
            await self._request("cancel", partial(_cancel, id), id)
        self.state, self.detail = ("working" if entries else "cancelled"), ""
        return not entries

    async def _status(self) -> m.Status:
        answer = await self._session.ask(lambda rid: m.GetStatus(rid=rid))
        if not isinstance(answer, m.Status):
            raise OutageError(f"{self._session.title} refused a status: {answer.code}")
        return answer

    async def _request(self, kind: str, make: Callable[[str], m.LinkRequest], about: str = "") -> m.ResultMessage:
        """Send a request that changes something, its line in the file first. Errors: OutageError."""
        self._journal.asked(self.name, kind, about, now_ns=self._clock.now_ns())
        try:
            answer = await self._session.ask(make)
        except OutageError as error:
            self._journal.answered(self.name, kind, about, "unknown", str(error), now_ns=self._clock.now_ns())
            raise
        assert isinstance(answer, m.ResultMessage)
        outcome = "ok" if answer.ok else "refused"
        detail = str(answer.code or answer.detail or "")
        self._journal.answered(self.name, kind, about, outcome, detail, now_ns=self._clock.now_ns())
        return answer

    # ── what is left ─────────────────────────────────────────────────────────────────────────────
    def _pending(self) -> bool:
        return any(line["kind"] != "elsewhere" for line in self.remaining)

    def _left(self, status: m.Status) -> Iterator[dict[str, str]]:
        """Yield positions and orders that are left, and accounts of which that is not known."""
        known, welcome = {account.name: account for account in status.accounts}, self._session.welcome
        accounts = m.accounts_after(() if welcome is None else welcome.accounts, status)
        modes = {name: account.mode for name, account in accounts.items()}
        for name in sorted({*known, *modes}):
            account, is_traded = known.get(name), modes.get(name, "auto") == "auto"
            if is_traded and (account is None or account.status != _CONNECTED):
                yield self._line("pending", f"account {name} is not connected: the bridge flattens it when it is", "")
            if account is None:
                continue
            for position in account.positions:
                if position.side == "flat" or not position.qty:
                    continue
                kind = "pending" if is_traded else "elsewhere"
                why = "is being closed" if is_traded else f"is in mode {modes[name]}, which the bridge does not close"
                held = f"{position.side} {position.qty}"
                yield self._line(kind, f"{held} of account {name} {why}", position.instrument)
            for order in account.orders:
                if order.ours and order.state not in m.ENDED:
                    yield self._line("pending", f"order {order.name} of account {name} is {order.state}", "")

    def _line(self, kind: str, why: str, symbol: str) -> dict[str, str]:
        return line_of(kind, why, symbol=symbol, venue=self.name)


def _cancel(id: str, rid: str) -> m.LinkRequest:
    return m.Cancel(rid=rid, id=id)


def _entries(status: m.Status) -> Iterator[m.OrderStatus]:
    """Yield our working orders that may open or add: an exit of ours bears an entry's name, and only reduces.

    An AddOn that does not report the action of a signal leaves one sign of an exit: it is always a market order.
    """
    actions = {signal.id: signal.action for signal in status.signals_open}
    for account in status.accounts:
        for order in account.orders:
            parts = order.name.split(":")
            if not order.ours or len(parts) != 3 or not parts[2].startswith("E") or order.state in m.ENDED:
                continue
            action = actions.get(parts[1])
            is_exit = action == "exit" if action is not None else order.type == "Market"
            if not is_exit:
                yield order
