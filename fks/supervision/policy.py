"""What to do when a child exits or falls silent: pure decisions, monotonic seconds as arguments."""

from __future__ import annotations

from dataclasses import dataclass

from fks.supervision.spec import ChildSpec, Intensity, RestartType


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the child again, `after_s` from now. `history` is what to remember."""

    after_s: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Too many restarts in the window: page, leave the child down, run on degraded; try again after `retry_s`."""

    retry_s: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """The child ended as it should: leave it."""


Decision = Restart | GiveUp | Wait


def note_restart(history: tuple[float, ...], now_s: float, limit: Intensity) -> tuple[tuple[float, ...], bool]:
    """Return the restarts still in the window, newest first, and whether to go on. `now_s` is monotonic."""
    kept = (now_s, *(t for t in history if t >= now_s - limit.period_s))
    return kept, len(kept) <= limit.restarts_max


def backoff_s(restarts: int, *, first_s: float, max_s: float) -> float:
    """Return the wait before the n-th restart in the window: none before the first, then doubling, capped."""
    if restarts <= 1:
        return 0.0
    return min(first_s * 2.0 ** min(restarts - 2, 30), max_s)


def decide_exit(
    spec: ChildSpec, history: tuple[float, ...], now_s: float, *, is_normal: bool, first_s: float, max_s: float
) -> Decision:
    """Return what to do after `spec`'s child ended, normally (it was asked or was done) or not."""
    if spec.restart is RestartType.TEMPORARY or (spec.restart is RestartType.TRANSIENT and is_normal):
        return Wait()
    kept, may_go_on = note_restart(history, now_s, spec.limit)
    if not may_go_on:
        return GiveUp(retry_s=spec.limit.period_s, history=kept)
    return Restart(after_s=backoff_s(len(kept), first_s=first_s, max_s=max_s), history=kept)


def is_hung(*, beat_age_s: float, misses: int, heartbeat_s: float, misses_max: int) -> bool:
    """Return whether a child counts as hung: its loop's beat is too old, or its health calls went unanswered.

    The limit is `misses_max` heartbeats for both, so that a slow answer and a stuck loop mean the same.
    """
    return misses >= misses_max or beat_age_s > heartbeat_s * misses_max
