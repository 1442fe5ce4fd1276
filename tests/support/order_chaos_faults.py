"""Faults of an order chaos run beside those of its plan.

Each comes in a share of the lives, drawn from the seed by a generator of its own: a new fault moves no draw of the plan
or of another fault. Each counts what it struck; a fault that struck nothing proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from fks.model.errors import InputError
from fks.trading.orders.absence import STEADY_S
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.order_chaos import OrderChaos

MARK_DIVISOR = 10**7  # by which a bad mark is too low: all that is held looks like dust
SWEEPS = 2  # account answers without balances in a row, at the least
STEP_S = 60.0  # of the wall clock
LATE_S = 2.5  # more than an order is old that counts as absent, were it not for a step of the clock
QUIET_S = 1.0  # after which a life has done what waited for it
_HIDDEN = 2 * SWEEPS  # a start reads the balances, too

#: A fault: it runs up to its first yield before a life begins, up to the second once that is ready, and on when it is
#: over.
Fault = Callable[["OrderChaos", random.Random], AsyncIterator[None]]


async def vanishing_balances(run: OrderChaos, dice: random.Random) -> AsyncIterator[None]:
    """Account answers have no balances while an instance is to exit: from the start of the life on, or after it."""
    is_early = dice.random() < 0.5
    fault = await run.fault("hide_balances", count=_HIDDEN) if is_early else 0
    yield
    fault = fault or await run.fault("hide_balances", count=_HIDDEN)
    await run.exit_one(dice)
    yield
    struck = await run.struck_by(fault)
    run.struck["vanishing balances"] += struck >= SWEEPS


async def bad_mark(run: OrderChaos, dice: random.Random) -> AsyncIterator[None]:
    """The feed's last price of a symbol is far too low while an instance in it is to exit."""
    symbol = await run.held_symbol(dice)
    run.bad_marks.add(symbol)
    (row,) = await run.db.sql(
        "UPDATE feeds SET last_price = last_price / $2 WHERE symbol = $1 AND timeframe = 'trades' RETURNING now() AS at",
        symbol,
        Decimal(MARK_DIVISOR),
    )
    yield
    await run.exit_one(dice, symbol)
    yield
    (sent,) = await run.db.sql(
        "SELECT count(*) AS n FROM orders WHERE role = 'exit' AND symbol = $1 AND created_at >= $2", symbol, row["at"]
    )
    run.struck["bad marks"] += sent["n"]
    await run.db.sql(
        "UPDATE feeds SET last_price = last_price * $2 WHERE symbol = $1 AND timeframe = 'trades'",
        symbol,
        Decimal(MARK_DIVISOR),
    )
    run.bad_marks.clear()


async def clock_step(run: OrderChaos, dice: random.Random) -> AsyncIterator[None]:
    """The order manager's wall clock is set, forward or back, while an instance is to exit."""
    run.step = {"step_s": dice.choice([STEP_S, -STEP_S]), "step_after_s": dice.random() / 4}
    yield
    run.step = {}
    await run.exit_one(dice)
    yield
    run.struck["clock steps"] += run.lives.has_sent("stepped")


async def programs(run: OrderChaos, dice: random.Random) -> AsyncIterator[None]:
    """A webhook and a person's session trade beside the strategies, in their symbols."""
    yield
    await run.act(dice)
    yield


async def stepped_exits(run: OrderChaos, dice: random.Random) -> None:
    """The exchange executes exits later than it answers, and the order manager's wall clock is set in between: no exit
    is absent within a minute of that, so none is sent again."""
    async with run.long_life(step_s=dice.choice([STEP_S, -STEP_S]), step_after_s=LATE_S / 5):
        await run.fault("accept_late", path="/api/v3/order", method="POST", count=3, seconds=LATE_S)
        leaving = await run.exit_all(await run.held_symbols())
        if stepped := await run.newest_event():
            with contextlib.suppress(AssertionError):
                await until(lambda: run.are_flat(leaving), deadline_s=STEADY_S - 15.0, every_s=0.2)
            await run.note_absent(after=stepped)
            # what never arrived is proven absent a minute after the step
            name = f"exits of {', '.join(leaving)} after a clock step"
            await run.wait_until(name, lambda: run.are_flat(leaving), 55.0)
            run.struck["stepped exits"] += len(leaving)


async def refused_exits(run: OrderChaos, dice: random.Random) -> None:
    """The exchange refuses new orders for `run.refusal_s` while instances are to exit; half way the order manager dies.
    Each of them is flat in the end."""
    async with run.long_life():
        refusal = await run.refuse(dice)
        leaving = await run.exit_all(refusal.symbols)
        await refusal.wait(half=True)
        await run.begin_again()
        await refusal.wait()
        await run.wait_until(f"exits of {', '.join(leaving)} after a refusal", lambda: run.are_flat(leaving))
    run.struck["refused exits"] += await refused(run, "exit", refusal)


async def refused_kill(run: OrderChaos, dice: random.Random) -> None:
    """The exchange refuses new orders while a kill that flattens is engaged; half way the order manager dies. The kill
    is never done while the exchange shows something held."""
    async with run.long_life(), run.guardian() as guardian:
        refusal = await run.refuse(dice)
        await guardian.kill(reason="chaos", by="test", wait_s=0.0)

        async def is_done() -> bool:
            is_announced = bool(guardian.report()["is_done"])
            if is_announced and (left := await run.left_at_exchange()):
                run.dropped["kill"] = f"the kill was done, and the exchange shows {left}"
            return is_announced

        await refusal.wait(half=True, look=is_done)
        await run.begin_again()
        await refusal.wait(look=is_done)

        async def is_resumed() -> bool:
            try:
                await guardian.resume(by="test")
            except InputError as error:  # a round that failed, as reads do on a busy machine, is at work again
                if error.code != "KILL_WORKING":
                    raise
                return False
            return True

        await run.wait_until("a kill after a refusal", is_done)
        await run.wait_until("a resume after a refusal", is_resumed)
    run.struck["refused kills"] += await refused(run, "kill", refusal)


async def killed_after_fill(run: OrderChaos, dice: random.Random) -> None:
    """PostgreSQL is killed when an execution of an entry is on disk, before its stop can be. The stop follows."""
    assert run.postgres is not None
    async with run.long_life(postgres=run.postgres.pid, postgres_at="fill", postgres_after_s=QUIET_S):
        await asyncio.sleep(QUIET_S)
        signal_id = await run.enter_one(dice)
        killed_at = await run.without_database()
        rows = await run.db.sql(
            "SELECT o.signal_id FROM order_events e JOIN orders o USING (client_order_id)"
            " WHERE e.event = 'FillSeen' AND e.recv_time <= $1 ORDER BY e.id DESC LIMIT 1",
            killed_at,
        )
        if rows and rows[0]["signal_id"] == signal_id:
            run.struck["database killed after a fill"] += 1
            await run.wait_until("a stop after an outage", lambda: run.has_stop(signal_id))
            run.note_gap(killed_at)


async def killed_after_cancel(run: OrderChaos, dice: random.Random) -> None:
    """PostgreSQL is killed when an exit's cancel of a leg is acknowledged, before its close can be. The close follows."""
    assert run.postgres is not None
    async with run.long_life(postgres=run.postgres.pid, postgres_at="cancel"):
        leaving = await run.exit_all(await run.held_symbols())
        killed_at = await run.without_database()
        await run.wait_until(f"exits of {', '.join(leaving)} after an outage", lambda: run.are_flat(leaving))
        if killed_at is not None:
            run.struck["database killed after a cancel"] += 1
            run.note_gap(killed_at)


async def refused(run: OrderChaos, role: str, refusal: Refusal) -> int:
    """Return how many orders of a role the exchange refused in the meantime."""
    (row,) = await run.db.sql(
        "SELECT count(*) AS n FROM orders WHERE role = $1 AND state = 'REJECTED' AND symbol = ANY($2::text[])"
        " AND created_at >= $3",
        role,
        refusal.symbols,
        refusal.since,
    )
    return int(row["n"])


class Refusal:
    """Symbols in which the exchange takes no new order for a time."""

    def __init__(self, symbols: list[str], since: datetime, seconds: float) -> None:
        self.symbols, self.since = symbols, since
        self._seconds, self._began_s = seconds, time.monotonic()

    async def wait(self, *, half: bool = False, look: Callable[[], Awaitable[object]] | None = None) -> None:
        """Return when it is over, or half of it; look meanwhile."""
        until_s = self._began_s + self._seconds / (2 if half else 1)
        while (left_s := until_s - time.monotonic()) > 0:
            if look is not None:
                await look()
            await asyncio.sleep(min(left_s, 0.2))


#: each in a long life of its own, once in the run or as often as that is told
LONG: dict[str, Callable[[OrderChaos, random.Random], Awaitable[None]]] = {
    "refused exits": refused_exits,
    "refused kills": refused_kill,
    "stepped exits": stepped_exits,
    "database killed after a fill": killed_after_fill,
    "database killed after a cancel": killed_after_cancel,
}


def plan_long(seed: int, lives: int, times: int) -> dict[int, list[tuple[str, random.Random]]]:
    """Return the long lives that come after some of the `lives`, each with its dice."""
    found: dict[int, list[tuple[str, random.Random]]] = {}
    for name in LONG:
        dice = random.Random(f"{seed}:{name}")
        for life in dice.sample(range(lives // 4, lives), times):
            found.setdefault(life, []).append((name, dice))
    return found


#: each with the share of the lives in which it comes
FAULTS: dict[str, tuple[float, Fault]] = {
    "vanishing balances": (0.4, vanishing_balances),
    "bad marks": (0.4, bad_mark),
    "clock steps": (0.25, clock_step),
    "programs": (0.6, programs),
}


class LifeFaults:
    """Those of one life that the run has, in the order of the table."""

    def __init__(self, run: OrderChaos, life: int) -> None:
        self._faults: list[AsyncIterator[None]] = []
        for name, (share, fault) in FAULTS.items():
            dice = random.Random(f"{run.seed}:{name}:{life}")
            if name in run.beside and dice.random() < share:
                self._faults.append(fault(run, dice))

    async def go_on(self) -> None:
        """Take each fault to its next stage."""
        for fault in self._faults:
            await anext(fault, None)
