"""Flow control of one `WS /ws` client: how far it may be behind the messages sent to it.

A successful write does not mean that the client has read: the buffers of a proxy lie between. So the client is sent
checks, in order with its data: `{"type": "check", "n": 7}`, and answers `{"type": "checked", "n": 7}` when it has read
them. A client that has answered once takes part: with CHECKS_MAX checks unanswered it is sent no more until it answers,
and one that leaves a check unanswered for too long is late. A client that never acknowledges may have read nothing: it
is sent SILENT_BYTES_S at most, which bounds the unread bytes here, until the proxy's own ping ends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: A check follows after so many messages, or bytes, and after so long in any case.
CHECK_MESSAGES = 200
CHECK_BYTES = 64 * 1024
CHECK_S = 5.0
#: Checks that may be unanswered: 256 KiB, or 800 messages, and no more than the last message beyond.
CHECKS_MAX = 4
#: Bytes sent at once to a client that never answered (the answer to one large `subscribe` is 5 MB), and then a second.
SILENT_BYTES, SILENT_BYTES_S = 8_000_000, 500_000
_LOOK_S = 0.2  # between two looks at least
_STEP_S = 0.05  # of one that never answered, some messages at a time


class ClientWindow:
    """The checks of one socket. Pure but for the clock, seconds that never go back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.takes_part = False
        self.is_deaf = False  # we are busy with one of its requests: its answer may lie unread behind that
        self._monotonic = monotonic
        self._number = 0
        self._unanswered: deque[tuple[int, float]] = deque(maxlen=CHECKS_MAX)  # with when it was sent, oldest first
        self._messages = 0  # since the last check, like the two below
        self._bytes = 0
        self._checked_s = self._sent_s = monotonic()
        self._left = float(SILENT_BYTES)  # bytes that it may be sent as of `_sent_s`, as long as it never answered

    @property
    def is_full(self) -> bool:
        """Return whether nothing may be sent before the client answers or, if it never does, some time has passed."""
        return len(self._unanswered) >= CHECKS_MAX if self.takes_part else self._allowance() <= 0

    @property
    def is_due(self) -> bool:
        """Return whether a check is to be sent now."""
        is_much = self._messages >= CHECK_MESSAGES or self._bytes >= CHECK_BYTES
        return not self.is_full and (is_much or self._monotonic() - self._checked_s >= CHECK_S)

    def is_late(self, late_s: float) -> bool:
        """Return whether a check has been unanswered for `late_s`, while this process was reading."""
        is_old = bool(self._unanswered) and self._monotonic() - self._unanswered[0][1] >= late_s
        return self.takes_part and is_old and not self.is_deaf

    def wait_s(self, late_s: float) -> float:
        """Return the time until the next change here, unless a message is sent or answered."""
        ends = [] if self.is_full else [self._checked_s + CHECK_S]
        if self.takes_part and self._unanswered:
            ends.append(self._unanswered[0][1] + late_s)
        if not self.takes_part and self.is_full:
            ends.append(self._monotonic() - self._allowance() / SILENT_BYTES_S + _STEP_S)
        wait_s = min(ends) - self._monotonic()
        return wait_s if wait_s > 0 else _LOOK_S

    def note_sent(self, size: int) -> None:
        """Record a sent message of so many bytes."""
        self._left, self._sent_s = self._allowance() - size, self._monotonic()
        self._messages += 1
        self._bytes += size

    def _allowance(self) -> float:
        """Return the bytes that a client without answers may be sent now; below zero it was one large message."""
        return min(float(SILENT_BYTES), self._left + (self._monotonic() - self._sent_s) * SILENT_BYTES_S)

    def check(self) -> int:
        """Record that a check is sent, and return its number."""
        self._number += 1
        self._messages, self._bytes, self._checked_s = 0, 0, self._monotonic()
        self._unanswered.append((self._number, self._checked_s))
        return self._number

    def answer(self, number: int) -> None:
        """Record the answer to a check, and to all before it. Errors: ValueError when it was never sent."""
        if not 0 < number <= self._number:
            raise ValueError(f"no check {number} was sent")
        while self._unanswered and self._unanswered[0][0] <= number:
            self._unanswered.popleft()
        if not self.takes_part:  # its answers were not expected so far
            self.takes_part = True
            now_s = self._monotonic()
            self._unanswered = deque(((n, now_s) for n, _ in self._unanswered), maxlen=CHECKS_MAX)
