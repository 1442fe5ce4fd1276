"""The process that predicts the sealed bars of a replay, to be killed and stopped."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

from fks.research.jobs.forecast import Forecaster
from fks.store.db import Database
from tests.support.ports import CollectingLog


async def predict(url: str, models: str) -> None:
    """Predict each sealed bar until killed; prints "ready" before the first one."""
    forecaster = Forecaster(await Database.connect(url, application="test"), Path(models), CollectingLog())
    importlib.import_module("lightgbm")  # not in the time of the first bar
    print("ready", flush=True)
    while True:
        await forecaster.advance()
        await asyncio.sleep(0.02)
