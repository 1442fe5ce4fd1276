"""Fold of a session's events into the row of its link: connected, able to trade, halted, accounts, alarm. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from fks.model.ninja import EXIT_ENTRIES, LinkReport
from fks.ninja import messages as m
from fks.ninja import outputs as o
from fks.ninja.fields import written
from fks.ninja.machine import LIVE, LinkState
from fks.ninja.outputs import AlarmCode

_CLOCK: Final = (AlarmCode.CLOCK_OFFSET, AlarmCode.CLOCK_SKEW, AlarmCode.CLOCK_OK)


class LinkView:
    """The state of the platform behind a link. `apply` each event of the session, in order."""

    def __init__(self) -> None:
        self.is_halted = False
        self._features: tuple[str, ...] = ()
        self.skew = ""  # text of the alarm about the clocks, while there is one
        self.is_skewed = False  # so far off that no signal is sent
        self.journal_error = ""  # why the bridge cannot write its journal, while it cannot: it takes exits, no entries
        self.alarm = ""
        self.snapshot_ns: int | None = None
        self._is_platform_ready = False
        self._accounts: dict[str, m.AccountInfo] = {}
        self._status: m.Status | None = None

    @property
    def accounts(self) -> tuple[m.AccountInfo, ...]:
        """Return the accounts of the group, as last reported."""
        return tuple(self._accounts.values())

    def apply(self, event: o.Event, now_ns: int) -> bool:
        """Take in one event; return whether the row changes by it."""
        match event:
            case o.Welcomed(welcome=welcome):
                self.is_halted, self._is_platform_ready = welcome.halted, welcome.ready
                self.journal_error, self._features = welcome.journal_error or "", welcome.features or ()
                self._accounts = {account.name: account for account in welcome.accounts}
            case o.Ready(is_first=True):
                self.alarm = ""
            case o.Snapshot(status=status):
                self._status, self.snapshot_ns = status, now_ns
                self.is_halted, self._is_platform_ready = status.halted, status.ready
                self.journal_error = status.journal_error or ""
                for account in status.accounts:
                    self._connect(account.name, is_connected=account.status == "Connected")
            case o.Logged(event=m.LogEvent(body=m.Halt(on=is_on))):
                self.is_halted = is_on
            case o.Logged():
                return False
            case o.Alarm(code=code, detail=detail) if code in _CLOCK:
                self.is_skewed = code is AlarmCode.CLOCK_SKEW
                self.skew = "" if code is AlarmCode.CLOCK_OK else f"{code.value}: {detail}"
            case o.Alarm(code=code, detail=detail):
                self.alarm = f"{code.value}: {detail}"
            case o.LinkStopped(reason=reason):
                self.alarm = f"stopped: {reason}"
            case o.Ready() | o.LinkSuspect() | o.LinkLost() | o.Waiting():
                pass
            case _:
                return False
        return True

    @property
    def alarms(self) -> str:
        """Return what a person should know of the link now."""
        return " | ".join(text for text in (self.alarm, self.skew, self.journal_error) if text)

    def is_ready(self, state: LinkState) -> bool:
        """Return whether a signal may be sent now, the kill latch apart."""
        return state is LinkState.READY and self._is_platform_ready and not self.is_skewed

    def report(self, state: LinkState, offset_ms: int, *, has_snapshot: bool) -> LinkReport:
        """Return the row; with the last status when `has_snapshot`."""
        status = self._status if has_snapshot else None
        can_name = EXIT_ENTRIES in self._features
        accounts: list[dict[str, Any]] = [{**written(account), EXIT_ENTRIES: can_name} for account in self.accounts]
        if state not in LIVE:
            accounts = [{**account, "connected": False} for account in accounts]
        return LinkReport(
            state=state.value,
            is_ready=self.is_ready(state),
            is_halted=self.is_halted,
            accounts=tuple(accounts),
            offset_ms=offset_ms,
            alarm=self.alarms,
            snapshot=None if status is None else m.as_object(status),
            snapshot_ns=None if status is None else self.snapshot_ns,
        )

    def _connect(self, name: str, *, is_connected: bool) -> None:
        if name in self._accounts:
            self._accounts[name] = dataclasses.replace(self._accounts[name], connected=is_connected)
