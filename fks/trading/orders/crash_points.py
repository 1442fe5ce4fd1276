"""Labelled points of the order path, at which a chaos test ends the process, or takes PostgreSQL away.

The order manager calls its `at` with a label wherever a crash would leave another state behind. In production `at` is
`nowhere`, which does nothing. A test gives a `CrashPoints` (`tests/support/crash_points.py`). The order of the labels
is that of one order's life:

    place.before   checked and reserved in memory; the durable statement has not been sent
    place.after    the order is on disk, in state SENDING; nothing else has happened
    send.before    checked again; the next statement writes the first byte
    send.after     the venue's answer, or the lack of one, is in memory only
    ack.before     what the answer means is worked out; the journal does not know it
    ack.after      the answer is on disk
    fill.before    an execution is worked out, with the position it makes; the journal does not know it
    fill.after     execution, position and order are on disk

A split of shares that are held has two:

    split.before   entries have ended; the position in the new shares is worked out, and the journal does not know it
    split.after    the split, positions and orders are on disk; the protection at the venue is in the old shares

With PostgreSQL away, the side journal takes its place (`fks.trading.order_manager.side_journal`), and is written to it
later:

    aside.before   what happened, or what is to be sent, is worked out; the side journal does not know it
    aside.after    it is a line of the side journal
    drain.before   PostgreSQL is back; a line of the side journal is about to be written to it
    drain.after    the line is in PostgreSQL, and still in the file
"""

from __future__ import annotations

from collections.abc import Callable

#: What the order path is given: it is called with a label, returns at once and never raises.
At = Callable[[str], None]


def nowhere(label: str) -> None:
    """Do nothing: the `at` of production."""
