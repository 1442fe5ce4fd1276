"""Jobs of trainers that need a GPU, on a cluster of Ray with a logical one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.system import NAMESPACE, JobProcesses
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.model.errors import OutageError
from fks.research.jobs.forecast import KIND
from fks.research.jobs.scheduler import gpus_of
from fks.store.db import Database
from fks.store.forecasts import ForecastStore
from fks.store.jobs import JobRow, JobStore
from tests.support.forecasts import autoregression, install_trainer
from tests.support.strategies import seal

#: a trainer that looks at the GPU of its process, as libraries do
SEES_GPU = """
import os
from tests.support.forecasts import linear_graph
import numpy as np

def train(x, y, spec):
    if os.environ["CUDA_VISIBLE_DEVICES"] != "0":
        raise OSError("no GPU")
    bias = np.array([0.0, *np.quantile(y, spec.quantiles)])
    return linear_graph(np.zeros((x.shape[1], len(bias))), bias)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install_trainer(tmp_path / "site", "net", SEES_GPU, "[gpu]")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    places = [str(tmp_path / "site"), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))  # of the processes of jobs
    ray.init(
        "local", namespace=NAMESPACE, num_cpus=1, num_gpus=1, resources={"research": 2}, include_dashboard=False,
        log_to_driver=False, object_store_memory=80_000_000,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("cluster")
async def test_a_trainer_with_a_gpu_is_trained_on_one_or_not_at_all(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    save_node(Paths.of(tmp_path), NodeEndpoints(database_url, "", "", {}))
    await seal(database, autoregression(800, 0.5, 1, timeframe_s=60))
    spec = {"name": "ar", "symbols": ["BTC/USDT"], "timeframe": "1m", "folds": 2, "trainer": "net"}
    jobs, processes = JobStore(database), JobProcesses()

    async def ended() -> JobRow:
        id = await jobs.submit(KIND, spec)
        claimed = await jobs.claim([KIND])
        assert claimed is not None
        assert gpus_of(claimed) == 1
        with contextlib.suppress(OutageError):  # its process may end before it answers; the row counts
            await processes.run(str(tmp_path), str(id), gpus_of(claimed))
        found = await jobs.get(id)
        assert found is not None
        return found

    class Holder:  # of the GPU
        def ready(self) -> None:
            """Return once it holds it."""

    holder = ray.remote(num_gpus=1, num_cpus=0)(Holder).remote()
    await holder.ready.remote()
    refused = await ended()
    assert refused.state == "failed"
    assert "trainer net needs a GPU, and no machine of the cluster has a free one" in str(refused.error)
    assert await ForecastStore(database).versions() == []
    ray.kill(holder)
    while ray.available_resources().get("GPU", 0.0) < 1:
        await asyncio.sleep(0.1)
    done = await ended()
    assert (done.state, done.error) == ("done", None)
    (version,) = await ForecastStore(database).versions()
    assert version.spec["trainer"] == "net"
