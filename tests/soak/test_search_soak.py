"""Long searches: 2,000 combinations under kills, and the memory of 60,000 trials."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fks.research.search import Search, Trial, Validation, task_of
from tests.support.no_skill import Coin, free_setup, walk
from tests.support.searching import SPEC, survive_deaths


@pytest.mark.soak
async def test_two_thousand_combinations_survive_kill_9(tmp_path: Path) -> None:
    await survive_deaths({**SPEC, "space": {"fast": "2:51", "slow": "60:99"}, "workers": 3}, 2000, tmp_path)


@pytest.mark.soak
def test_memory_does_not_grow_with_the_number_of_trials() -> None:
    peaks = []
    for count in (20_000, 60_000):
        task = task_of(
            Coin, {"seed": f"1:{count}"}, walk(1500, seed=3), free_setup(), validation=Validation(kind="none")
        )
        driver, dice = Search(task), np.random.Generator(np.random.PCG64(1))
        tracemalloc.start()
        while asked := driver.ask():
            for fold, proposal in asked:
                ratio = float(dice.normal())
                metrics = {"trades": 3.0, "sharpe_period": ratio, "periods": 60.0, "skew": 0.0, "kurtosis": 3.0}
                sums = dice.normal(size=(3, 16))
                driver.record(Trial(fold, proposal.number, proposal.params, "done", (ratio,), metrics, (), sums))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert driver.done == count
    assert peaks[1] <= peaks[0] < 10e6
