"""Labelled points of the order path, at which a chaos test ends the process, or takes PostgreSQL away.

The order manager calls its `at` with a label wherever a crash would leave another state behind. In production `at` is
`nowhere`, which does nothing. A test gives a `CrashPoints`. The order of the labels is that of one order's life:

    place.before   checked and reserved in memory; the durable statement has not been sent
    place.after    the order is on disk, in state SENDING; nothing else has happened
    send.before    checked again; the next statement writes the first byte
    send.after     the venue's answer, or the lack of one, is in memory only
    ack.before     what the answer means is worked out; the journal does not know it
    ack.after      the answer is on disk
    fill.before    an execution is worked out, with the position it makes; the journal does not know it
    fill.after     execution, position and order are on disk

With PostgreSQL away, the side journal takes its place (`fks.order_manager.side_journal`), and is written to it later:

    aside.before   what happened, or what is to be sent, is worked out; the side journal does not know it
    aside.after    it is a line of the side journal
    drain.before   PostgreSQL is back; a line of the side journal is about to be written to it
    drain.after    the line is in PostgreSQL, and still in the file
"""

from __future__ import annotations

from collections.abc import Callable

from fks.model.errors import InputError

#: the labels, in the order of an order's life
LABELS = (
    "place.before",
    "place.after",
    "send.before",
    "send.after",
    "ack.before",
    "ack.after",
    "fill.before",
    "fill.after",
)
#: the labels of an outage of PostgreSQL
SIDE_LABELS = ("aside.before", "aside.after", "drain.before", "drain.after")
#: What the order path is given: it is called with a label, returns at once and never raises.
At = Callable[[str], None]


def nowhere(label: str) -> None:
    """Do nothing: the `at` of production."""


class CrashPoints:
    """An `At` that calls `act` once: at the `count`th time that `label` is passed. `passed` counts every label."""

    def __init__(self, label: str, count: int, act: Callable[[], None]) -> None:
        """Errors: InputError when there is no such label, or `count` is below 1."""
        labels = (*LABELS, *SIDE_LABELS)
        if label not in labels or count < 1:
            raise InputError(
                f"no crash point {label}:{count}", remedy=f"use one of {', '.join(labels)} and a count of 1 or more"
            )
        self._label, self._count, self._act = label, count, act
        self.passed: dict[str, int] = dict.fromkeys(LABELS, 0)

    def __call__(self, label: str) -> None:
        """Count the label, and act when it is the one."""
        self.passed[label] = self.passed.get(label, 0) + 1
        if label == self._label and self.passed[label] == self._count:
            self._act()
