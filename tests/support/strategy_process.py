"""A strategy worker in a process of its own, to be killed.

It prints "started", then a dot a beat: a silent one hangs. With a home, faulthandler writes into
`HOME/run/<lease>.crash`, from where the test's supervisor moves it to `.dump` before it starts a successor.
"""

from __future__ import annotations

import asyncio
import faulthandler
from pathlib import Path

from fks.store.bus import Bus
from fks.store.challengers import SHADOW_WORKER
from fks.store.db import Database
from fks.trading.strategy_worker import crash_attribution, sandbox
from fks.trading.strategy_worker import worker as worker_module
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support.runtimes import runtime
from tests.support.servers import role_url
from tests.support.strategies import hold

BEAT_S = 0.1


def lease_name(only: str | None) -> str:
    """Return the name of the worker, and of its lease."""
    return "strategy:0" if only is None else f"strategy:solo:{only}"


async def main(
    database_url: str,
    redis_url: str,
    epoch: int,
    home: Path | None = None,
    only: str | None = None,
    is_shadow: bool = False,
    evaluate_s: float = sandbox.EVALUATE_S,
) -> None:
    name, dump = SHADOW_WORKER if is_shadow else lease_name(only), None
    if home is not None:
        run = home / "run"
        run.mkdir(exist_ok=True)
        dump = run / f"{name}.dump"
        faulthandler.enable((run / f"{name}.crash").open("w"))
    crash_attribution.EXIT_WAIT_S = 0.1  # no supervisor writes how a predecessor ended
    sandbox.EVALUATE_S = worker_module.EVALUATE_S = evaluate_s
    owner = await Database.connect(database_url)
    db, bus = await Database.connect(role_url(database_url, "strategy")), await Bus.connect(redis_url)
    context = runtime(db, bus, await hold(owner, epoch, name))
    worker = StrategyWorker(context, 0, home=home, only=only, is_shadow=is_shadow, crash_file=dump)
    beat = asyncio.create_task(_beat()) if home is not None else None
    await worker.start()
    print("started", flush=True)
    await worker.run()
    assert beat is None or not beat.done()


async def _beat() -> None:
    while True:
        print(".", flush=True)
        await asyncio.sleep(BEAT_S)
