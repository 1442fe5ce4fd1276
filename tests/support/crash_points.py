"""Acts of a test at the labelled points of the order path (`fks.trading.orders.crash_points`)."""

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
SPLIT_LABELS = ("split.before", "split.after")
#: the labels of an outage of PostgreSQL
SIDE_LABELS = ("aside.before", "aside.after", "drain.before", "drain.after")


class CrashPoints:
    """An `At` that calls `act` once: at the `count`th time that `label` is passed. `passed` counts every label."""

    def __init__(self, label: str, count: int, act: Callable[[], None]) -> None:
        """Errors: InputError when there is no such label, or `count` is below 1."""
        labels = (*LABELS, *SPLIT_LABELS, *SIDE_LABELS)
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
