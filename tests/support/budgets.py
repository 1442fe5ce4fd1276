"""Budgets without patience, and requests that must not wait."""

from __future__ import annotations

from contextvars import ContextVar

from fks.clock import RealClock
from fks.system.rate_limits.budgets import (
    RedisBudget,
)

in_a_hurry: ContextVar[bool] = ContextVar("in_a_hurry", default=False)


class NoLeaveError(Exception):
    """A request would have to wait."""


class Impatient(RealClock):
    """A clock that raises instead of waiting for hurried callers."""

    async def sleep(self, seconds: float) -> None:
        if in_a_hurry.get():
            raise NoLeaveError
        await super().sleep(seconds)


async def at_once(budget: RedisBudget, weight: int = 1) -> bool:
    """Take if there is leave now; a request that would wait is withdrawn."""
    token = in_a_hurry.set(True)
    try:
        await budget.take(weight)
    except NoLeaveError:
        return False
    finally:
        in_a_hurry.reset(token)
    return True


async def connect_at_once(budget: RedisBudget) -> bool:
    """Return whether a socket may be dialled now."""
    token = in_a_hurry.set(True)
    try:
        await budget.take_connect()
    except NoLeaveError:
        return False
    finally:
        in_a_hurry.reset(token)
    return True
