"""The two numbers of a restart: may there be one more, and how long to wait before it. Pure; seconds are arguments."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from fks.system.supervision.spec import Intensity, RestartBackoff

DEATHS = frozenset({"restarted", "escalated"})  # the notes of the history that count as one


def note_restart(history: tuple[float, ...], now_s: float, limit: Intensity) -> tuple[tuple[float, ...], bool]:
    """Return the restarts still in the window, newest first, and whether to go on. `now_s` is monotonic.

    OTP's rule: with more than `restarts_max` restarts in the last `period_s`, this one included, the supervisor ends.
    """
    kept = (now_s, *(t for t in history if t >= now_s - limit.period_s))
    return kept, len(kept) <= limit.restarts_max


def death_ages(life: Sequence[tuple[str, float]]) -> tuple[float, ...]:
    """Return the ages of the deaths in a child's history, youngest first. `life`: (event, age in s), oldest first."""
    return tuple(age for event, age in reversed(life) if event in DEATHS)


def row_ages(life: Sequence[tuple[str, float]], lasting_s: float, *, until_s: float = 0.0) -> tuple[float, ...]:
    """Return the ages of the last deaths in a row between which the child was never up for `lasting_s`, youngest first.

    `life`: (event, age in s), oldest first; a start that is not known to have come up does not end the row. `until_s`:
    the age at which the history ends.
    """
    row: list[float] = []
    up: float | None = None
    for event, age in life:
        if event == "started":
            up = age
        elif event == "cleared":
            row, up = [], None
        elif event in DEATHS:
            if up is not None and up - age >= lasting_s:
                row = []
            row.append(age)
            up = None
    if up is not None and up - until_s >= lasting_s:
        row = []
    return tuple(reversed(row))


def backoff_s(tries: int, backoff: RestartBackoff, *, draw: float) -> float:
    """Return the wait before the n-th restart in a row: none before the first, then that of the backoff.

    `draw`: see `Backoff.wait_s`.
    """
    return backoff.wait_s(tries - 1, draw=draw)


def jitter_draw(child: str, tries: int, now_s: float) -> float:
    """Return a number in [0, 1) that differs between children and between tries: the same for the same arguments."""
    return zlib.crc32(f"{child}/{tries}/{now_s!r}".encode()) / 2**32
