"""The order manager's side journal: a file for what happens to protection and exits while PostgreSQL is away.

Events of orders (fills that were seen, answers, reports) and new protective legs and exits are lines of the file, on
disk before what they allow. When PostgreSQL is back the lines are written to it in their order, and the file is emptied
(`Ledger`). Each line may be written twice: an execution is booked once by its id, an order is inserted once by its own.

The lines are those of `fks.trading.orders.side_lines`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.model.errors import OutageError
from fks.model.kill import KillMode
from fks.model.order import Order
from fks.model.ports import Lease
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.system.process.journal_file import JournalFile, read_lines
from fks.trading.orders import events as e
from fks.trading.orders.side_lines import Happened, PlacedOrders, happened_line, parse_line, placed_line
from fks.trading.risk.policy import Action, Allow, Circumstances, JournalState, allowed

_RETRY_S = 0.5  # a file that took no line takes none for so long
_LOCKED: dict[Path, JournalFile] = {}  # one writer a process, however often its order manager is made again


class SideJournal:
    """The one writer of the file, and the right to send by it.

    `hold_s`: how long after its lease ran out this process may go on sending; None = without end, where no other
    machine could run an order manager. `kill_file` reads the guardian's file on this machine.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease: Lease,
        clock: Clock,
        kill_file: Callable[[], KillMode],
        hold_s: float | None = None,
        reserve: Path | None = None,
    ) -> None:
        self._file = _LOCKED.get(path) or JournalFile(path, reserve)
        self._lease, self._clock, self._kill_file, self._hold_s = lease, clock, kill_file, hold_s
        self.depth = len(read_lines(path))  # lines that are not in PostgreSQL yet
        self.error: str | None = None  # of the last line; None once one was written
        self._retry_at_s = 0.0

    def lock(self) -> bool:
        """Be the only order manager of this file until the process ends; False while another process is.

        A disk that takes no lock file keeps no order manager from its work, but takes the right to send by this one.
        """
        if not self._file.lock():
            return False
        if self._file.is_locked:
            _LOCKED[self._file.path] = self._file
        self.depth = len(read_lines(self._file.path))  # the guardian may have written since this object was made
        return True

    @property
    def is_usable(self) -> bool:
        """Return whether lines may be written: after one that could not be, the next is tried a moment later."""
        return self._file.is_locked and self._clock.monotonic() >= self._retry_at_s

    def may_send(self) -> bool:
        """Return whether protection and exits may be sent now by this file alone: the lease was held lately enough, and
        no kill is engaged on this machine. From a kill on, the guardian alone cancels and closes."""
        if not (self.is_usable and self._lease.held_within(self._hold_s)):
            return False
        return isinstance(allowed(Action.LEG, Circumstances(self._kill_file(), journal=JournalState.SIDE)), Allow)

    def place(self, orders: Sequence[Order], events: Sequence[e.Event], signal_id: uuid.UUID | None) -> None:
        """Write new orders with their first events. Returned: they are on disk. Errors: OutageError when not."""
        self._write(placed_line(orders, events, signal_id))

    def note(self, events: Sequence[tuple[str, e.Event]]) -> None:
        """Write events of orders. Returned: they are on disk. Errors: OutageError when not."""
        self._write(happened_line(events))

    def read(self) -> Iterator[PlacedOrders | Happened]:
        """Yield what the file holds, oldest first. Errors: OutageError when the file cannot be read."""
        try:
            lines = read_lines(self._file.path)
        except OSError as error:
            raise OutageError(f"the side journal cannot be read: {error}", remedy="repair the disk") from error
        for line in lines:
            if (content := parse_line(line)) is not None:
                yield content

    def empty(self) -> None:
        """Remove every line: all of them are in PostgreSQL. Errors: OutageError."""
        try:
            self._file.empty()
        except OSError as error:
            raise OutageError(f"the side journal cannot be emptied: {error}", remedy="repair the disk") from error
        self.depth = 0

    def _write(self, line: dict[str, Any]) -> None:
        self._file.append({"at": iso(to_ns(to_datetime(self._clock.now_ns()))), **line})
        if self._file.error is not None:
            self._file.drop_unwritten()  # its caller writes it again, or to PostgreSQL
            self.error, self._retry_at_s = self._file.error, self._clock.monotonic() + _RETRY_S
            raise OutageError(f"the side journal takes nothing: {self.error}", remedy="free space on the disk")
        self.error = None
        self.depth += 1
