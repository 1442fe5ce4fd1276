"""The schedules of persons in a process of its own, to be killed in the middle of a run.

It has the action `endless`: prints "begun" and never ends. Prints a dot a look.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.research.jobs import actions
from fks.research.jobs.actions import NoParams, PersonalSchedules
from fks.store.db import Database
from tests.support.ports import CollectingLog


async def endless(component: Any, params: Any, id: Any) -> str:
    print("begun", flush=True)
    await asyncio.Event().wait()
    return "never"


async def main(database_url: str, epoch: int) -> None:
    actions.ACTIONS["endless"] = (NoParams, endless)
    component: Any = SimpleNamespace(
        db=await Database.connect(database_url),
        clock=RealClock(),
        log=CollectingLog(),
        settings=Settings(),
        lease=SimpleNamespace(name="scheduler", epoch=epoch),
    )
    schedules = PersonalSchedules(component)
    while True:
        await schedules.run_due()
        print(".", flush=True)
        await asyncio.sleep(0.05)
