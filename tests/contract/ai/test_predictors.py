"""Deployed models that predict sealed bars: live and history by one file, late values, faults, and their refusals."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.scheduler import SchedulerActor
from fks.ai.engines import engine_of
from fks.ai.engines.deployment import Deployment, facts_of_model
from fks.ai.engines.encoder_files import DeclaredTensor
from fks.ai.engines.port import FeatureRows
from fks.ai.engines.queue import InferenceQueue
from fks.ai.predictor import check_tensors
from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.cli.base import OK, USAGE
from fks.interfaces.entry.replicas import ModelReplicas
from fks.model.errors import InputError, OutageError, PeerError
from fks.model.timeframe import NS, iso, to_datetime
from fks.research.jobs import predictions, schedule
from fks.research.jobs.backtest import BarsRequest, run_job
from fks.research.jobs.bars import load_stored
from fks.research.jobs.forecast import Forecaster, measure_drift
from fks.research.jobs.predictions import ModelProcesses, fill_history, parse_predictor, submit_history
from fks.research.jobs.runner import run_one
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.deployments import DeploymentStore
from fks.store.documents import DocumentStore
from fks.store.feature_values import FeatureStore
from fks.store.forecasts import ForecastStore, add_version, promote, rollback
from fks.store.jobs import JobStore
from fks.strategies.registry import load_catalogue
from tests.support.ai_process import call_of, replica, socket_of
from tests.support.api_fixtures import Fks
from tests.support.children import Child
from tests.support.forecasts import autoregression
from tests.support.gateway import Running
from tests.support.onnx_model import write_predictor
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.strategies import seal
from tests.support.waiting import until

MINUTE_NS = 60 * NS
AN_HOUR_S = 3600.0
BARS = autoregression(260, 0.5, 1, timeframe_s=60)
INPUTS: dict[str, Any] = {
    "returns": [{"name": "rocp", "params": {"period": 1}}, {"name": "rocp", "params": {"period": 5}}],
    "levels": [{"name": "ema", "params": {"period": 9}, "relative": True}],
}
PREDICT: dict[str, Any] = {
    "symbols": ["BTC/USDT"],
    "timeframe": "1m",
    "trained_to": iso(int(BARS.time_ns[0])),
    "inputs": INPUTS,
}
WIDTHS = {"returns": 2, "levels": 1}
STRATEGY = """
import numpy as np
from fks.strategies.base import Decisions, Strategy, feature

class Follow(Strategy):
    name = "follow"
    def warmup(self):
        return 2
    def features(self):
        return ("forecast:net",)
    def decide(self, bars):
        return Decisions(np.where(feature(self, bars, "forecast:net").values > 0, 1.0, 0.0))
"""
Message = Mapping[str, Any]


class Served:
    """The processes of deployed models, by the id of the child. `delay_s` before each answer; those of `lost` end with
    the request that they are sent, or are busy; those of `hangs` never answer."""

    def __init__(self) -> None:
        self.queues: dict[str, InferenceQueue] = {}
        self.delay_s = 0.0
        self.lost = 0
        self.asked = 0
        self.is_busy = False
        self.hangs: set[str] = set()

    async def start(self, db: Database, name: str = "net") -> None:
        """Load the file of a deployment, and have its process be ready."""
        (wanted,) = (one for one in await DeploymentStore(db).wanted() if one.name == name)
        engine = engine_of(wanted)
        await engine.load()
        for number in range(wanted.replicas):
            self.queues[wanted.child(number)] = InferenceQueue(engine)
        await ready(db, wanted)

    async def call(self, child: str, message: Message) -> Mapping[str, Any]:
        self.asked += 1
        if self.lost:
            self.lost -= 1
            if self.is_busy:
                return {"refused": "busy"}
            raise OutageError(f"{child} ended")
        await asyncio.sleep(3600.0 if child in self.hangs else self.delay_s)
        return await self.queues[child].call(message)


async def ready(db: Database, wanted: Deployment) -> None:
    """Have the table show the processes of a deployment as ready."""
    await db.sql(
        "INSERT INTO component_health (name, kind, state, beat_at)"
        " SELECT name, 'actor', 'ready', now() + '1 hour' FROM unnest($1::text[]) AS name ON CONFLICT (name) DO NOTHING",
        [wanted.child(number) for number in range(wanted.replicas)],
    )


@pytest.fixture
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a short path, as sockets need
        yield Path(folder)


@pytest.fixture
def served() -> Served:
    return Served()


async def deploy(gateway: Running, file: Path, name: str = "net", *, replicas: int = 1, **given: Any) -> dict[str, Any]:
    """Deploy a file over HTTP, and return the answer. `given`: fields of `predict`."""
    body = {"name": name, "engine": "onnx", "purpose": "predict", "model": str(file), "predict": PREDICT | given}
    body |= {"replicas": replicas}
    async with gateway.client("admin") as client:
        answer = await client.post("/ai/deployments", json=body)
    return {"status": answer.status_code, **answer.json()}


async def net(gateway: Running, db: Database, served: Served, folder: Path, *, replicas: int = 1) -> None:
    """Seal 200 bars, and serve a model that predicts the next ones."""
    await seal(db, BARS[:200])
    await deploy(gateway, write_predictor(folder / "net.onnx", WIDTHS), replicas=replicas)
    await served.start(db)


def forecaster(db: Database, served: Served, log: CollectingLog | None = None) -> Forecaster:
    return Forecaster(db, Path("none"), log or CollectingLog(), ModelProcesses(db, served.call, RealClock()))


async def sealed(db: Database, number: int) -> None:
    """Seal a bar; until it is asked for, no time passes for it: a machine under load does not make it late."""
    await seal(db, BARS[number : number + 1])
    end = to_datetime(int(BARS.time_ns[number]))
    await db.sql("UPDATE ohlcv_data SET updated_at = now() + interval '1 h' WHERE time = $1", end)


async def predicted(made: Forecaster) -> None:
    """Predict what is sealed, and wait for the models that are asked."""
    await made.advance()
    await made.settle()


async def rows_of(db: Database, column: str = "forecast:net") -> list[Any]:
    return await db.sql("SELECT * FROM feature_values WHERE feature = $1 ORDER BY time", column)


async def test_live_values_equal_those_of_history_bit_for_bit(
    gateway: Running, seeded: Database, as_jobs: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    made = await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS))
    assert made["status"] == 201, made
    await served.start(seeded)
    live = forecaster(seeded, served)
    for number in range(200, 220):
        await sealed(seeded, number)
        await predicted(live)
        await predicted(live)
    first = await rows_of(seeded)
    assert [row["time"] for row in first] == [to_datetime(int(BARS.time_ns[n]) + MINUTE_NS) for n in range(200, 220)]
    assert {(row["origin"], row["state"], row["version"], row["lower"]) for row in first} == {("live", "ok", 1, None)}
    assert all(row["known_at"] == row["time"] for row in first)
    assert (live.late, live.failed) == (0, 0)
    job = await JobStore(as_jobs).claim(("predictions",))
    assert job is not None
    assert str(job.id) == made["job"]
    await run_one(as_jobs, job.id, tmp_path, inference=served.call)
    done = await JobStore(seeded).get(job.id)
    assert done is not None
    assert (done.state, done.error) == ("done", None)
    (version,) = await ForecastStore(seeded).versions("net")
    rows = 221 - parse_predictor(version.spec).bars
    assert 60 < rows < 215
    assert done.result == {"model": "net", "version": 1, "new": rows - 20, "without": 0}
    assert [dict(row) for row in (await rows_of(seeded))[-20:]] == [dict(row) for row in first], "the first row stays"
    before = served.asked
    filled = await fill_history(seeded, ModelProcesses(seeded, served.call, RealClock()), version)
    assert (filled["new"], served.asked) == (0, before), "bars that have a row are not asked for again"
    await seeded.sql("DELETE FROM feature_values")
    await fill_history(seeded, ModelProcesses(seeded, served.call, RealClock()), version)
    again = (await rows_of(seeded))[-20:]
    assert [(row["time"], row["value"], row["inputs_hash"]) for row in again] == [
        (row["time"], row["value"], row["inputs_hash"]) for row in first
    ]
    assert {row["origin"] for row in again} == {"backfill"}
    assert len({row["value"] for row in again}) == 20
    bars = await FeatureStore(seeded).aligned(["forecast:net"], "BTCUSDT", BARS[:220])
    assert bars.features["forecast:net"].values[-20:].tolist() == [row["value"] for row in first]
    (tmp_path / "strategies").mkdir(exist_ok=True)
    (tmp_path / "strategies" / "follow.py").write_text(
        STRATEGY.replace("> 0,", f"> {np.median([row['value'] for row in await rows_of(seeded)])!r},")
    )
    loaded = await load_stored(seeded, BarsRequest("BTCUSDT", None, "1m", None, None, 0, features=("forecast:net",)))
    spec = {"strategy": "follow", "symbol": "BTCUSDT", "timeframe": "1m", "size": "1000"}
    result = run_job(spec, lambda _: loaded, catalogue=load_catalogue(tmp_path / "strategies"))
    assert result["statistics"]["trades"] >= 5


async def test_history_begins_after_the_data_that_trained_the_model(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    end_ns = int(BARS.time_ns[150])
    await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS), trained_to=iso(end_ns))
    await served.start(seeded)
    (version,) = await ForecastStore(seeded).versions("net")
    done = await fill_history(seeded, ModelProcesses(seeded, served.call, RealClock()), version)
    assert done["new"] == 51
    assert (await rows_of(seeded))[0]["time"] == to_datetime(end_ns)
    # bars of a longer timeframe are made of the minutes, until they are collected themselves
    inputs = {"x": [{"name": "rocp", "params": {"period": 1}}]}
    await deploy(gateway, write_predictor(tmp_path / "five.onnx", {"x": 1}), "five", timeframe="5m", inputs=inputs)
    await served.start(seeded, "five")
    (version,) = await ForecastStore(seeded).versions("five")
    done = await fill_history(seeded, ModelProcesses(seeded, served.call, RealClock()), version)
    assert done["new"] == 39


async def test_an_answer_after_the_deadline_of_a_bar_is_not_stored(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await net(gateway, seeded, served, tmp_path)
    log = CollectingLog()
    live = forecaster(seeded, served, log)
    await sealed(seeded, 199)
    await predicted(live)
    before = len(await rows_of(seeded))
    served.delay_s = 60.0
    await sealed(seeded, 200)
    await live.advance()  # it returns: a model that hangs holds up no other
    assert len(await rows_of(seeded)) == before
    await live.settle()
    assert (len(await rows_of(seeded)), live.late, live.failed) == (before, 1, 0)
    ((_, event, given),) = [line for line in log.lines if line[0] == "warning"]
    assert (event, "inference:net:0: no answer" in given["error"]) == ("forecast.unanswered", True), given
    # a row that a strategy recorded as missing stays, though the answer came in time
    served.delay_s = 0.0
    await sealed(seeded, 201)
    end_ns = int(BARS.time_ns[201]) + MINUTE_NS
    await ForecastStore(seeded).miss(
        ["forecast:net"], "binance", "BTCUSDT", after_ns=end_ns - MINUTE_NS, through_ns=end_ns
    )
    restarted = forecaster(seeded, served)
    for one in (live, restarted):
        await predicted(one)
    last = (await rows_of(seeded))[-1]
    assert (last["state"], np.isnan(last["value"]), live.late) == ("missing", True, 2)
    assert restarted.late == 0, "the first bar after a start may be one of before"


@pytest.mark.parametrize("fault", ["not finite", "another count", "no number"])
async def test_an_output_that_is_not_one_number_leaves_no_row(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path, fault: str
) -> None:
    await seal(seeded, BARS[:200])
    file = write_predictor(tmp_path / "net.onnx", WIDTHS, operation="Sqrt", bias=-100.0)
    assert (await deploy(gateway, file))["status"] == 201
    await served.start(seeded)

    async def of_another_build(child: str, message: Message) -> Mapping[str, Any]:
        return {"values": [1.0, 2.0] if fault == "another count" else [None for _ in message["predict"]["rows"]]}

    log, call = CollectingLog(), served.call if fault == "not finite" else of_another_build
    processes = ModelProcesses(seeded, call, RealClock())
    live = Forecaster(seeded, tmp_path, log, processes)
    await sealed(seeded, 200)
    await predicted(live)
    assert (await rows_of(seeded), live.failed, live.late) == ([], 1, 0)
    assert log.events("warning") == ["forecast.failed"]
    await predicted(live)
    assert live.failed == 1, "it is not asked again"
    (version,) = await ForecastStore(seeded).versions("net")
    if fault == "not finite":
        done = await fill_history(seeded, processes, version)
        assert (done["new"], done["without"] > 100) == (0, True)
    else:
        with pytest.raises(PeerError, match="other values than one number for each row"):
            await fill_history(seeded, processes, version)
    assert await rows_of(seeded) == []


async def test_too_few_bars_give_no_row(gateway: Running, seeded: Database, served: Served, tmp_path: Path) -> None:
    await seal(seeded, BARS[:5])
    await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS))
    await served.start(seeded)
    live = forecaster(seeded, served)
    await predicted(live)
    assert (await rows_of(seeded), live.failed, served.asked) == ([], 1, 0)


async def test_a_bar_that_is_not_complete_is_not_predicted(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await net(gateway, seeded, served, tmp_path)
    log = CollectingLog()
    live = forecaster(seeded, served, log)
    await seal(seeded, BARS[200:201], is_complete=False)
    await seeded.sql("UPDATE ohlcv_data SET updated_at = now() + interval '1 h'")
    await predicted(live)
    assert (await rows_of(seeded), live.failed, served.asked) == ([], 1, 0)
    assert "is not complete" in str(log.lines[-1])
    (version,) = await ForecastStore(seeded).versions("net")
    shares: list[float] = []
    done = await fill_history(seeded, ModelProcesses(seeded, served.call, RealClock()), version, shares.append)
    assert done["new"] == len(await rows_of(seeded))
    assert shares == sorted(shares)
    assert (shares[0], 0.5 < shares[-1] < 1.0) == (0.0, True)


async def test_a_killed_process_gives_a_bar_one_row_once_it_is_back(
    gateway: Running, seeded: Database, sockets: Path, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS), "net")
    (wanted,) = await DeploymentStore(seeded).wanted()
    await ready(seeded, wanted)
    processes = ModelProcesses(seeded, call_of(sockets), RealClock())
    live = Forecaster(seeded, tmp_path, CollectingLog(), processes)
    place = socket_of(sockets, wanted.child(0))
    process = Child(replica, sockets, wanted, wanted.child(0))
    try:
        await until(place.exists, deadline_s=30)
        await sealed(seeded, 200)
        await predicted(live)
        assert len(await rows_of(seeded)) == 1
    finally:
        process.kill()
        process.wait()
    # dead: the bar is asked for until its time is over, and left out
    await sealed(seeded, 201)
    await predicted(live)
    assert (len(await rows_of(seeded)), live.late) == (1, 1)
    # back within the time of a bar: one row
    await sealed(seeded, 202)
    process = Child(replica, sockets, wanted, wanted.child(0))
    try:
        while len(await rows_of(seeded)) < 2:
            live = Forecaster(seeded, tmp_path, CollectingLog(), processes)
            await live.advance()
            await live.advance()
            await live.settle()
    finally:
        process.kill()
        process.wait()
    assert [row["time"] for row in await rows_of(seeded)] == [
        to_datetime(int(BARS.time_ns[n]) + MINUTE_NS) for n in (200, 202)
    ]


@pytest.mark.parametrize("fault", ["ended", "busy"])
async def test_a_request_that_a_process_does_not_answer_is_sent_again(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path, fault: str
) -> None:
    await net(gateway, seeded, served, tmp_path)
    live = forecaster(seeded, served)
    served.lost, served.is_busy = 2, fault == "busy"
    await sealed(seeded, 200)
    await predicted(live)
    assert (len(await rows_of(seeded)), served.asked, live.late) == (1, 3, 0)


async def test_a_replica_that_hangs_leaves_time_for_another(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await net(gateway, seeded, served, tmp_path, replicas=2)
    served.hangs.add("inference:net:0")
    live = forecaster(seeded, served)
    await sealed(seeded, 200)
    await predicted(live)
    assert (len(await rows_of(seeded)), served.asked, live.late) == (1, 2, 0)


async def test_the_process_of_the_file_before_is_not_taken_for_a_fault(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    first, second = (write_predictor(tmp_path / f"{n}.onnx", WIDTHS, seed=n) for n in (1, 2))
    await deploy(gateway, first)
    await served.start(seeded)
    await deploy(gateway, second)
    log = CollectingLog()
    live = forecaster(seeded, served, log)
    await sealed(seeded, 200)
    await live.advance()
    await until(lambda: served.asked >= 2)  # until the new one is there
    await served.start(seeded)
    await live.settle()
    assert ([row["version"] for row in await rows_of(seeded)], live.failed, log.events()) == ([2], 0, [])


async def test_bars_that_trained_the_model_are_not_predicted(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    file, end_ns = write_predictor(tmp_path / "net.onnx", WIDTHS), int(BARS.time_ns[202])
    refused = await deploy(gateway, file, trained_to="2999-01-01")
    assert (refused["status"], "trained_to" in refused["detail"]) == (422, True), refused
    await deploy(gateway, file, trained_to=iso(end_ns))
    await served.start(seeded)
    live = forecaster(seeded, served)
    for number in (199, 200, 201, 202):
        await sealed(seeded, number)
        await predicted(live)
    assert [row["time"] for row in await rows_of(seeded)] == [to_datetime(end_ns), to_datetime(end_ns + MINUTE_NS)]


async def test_history_is_filled_by_the_live_version_alone(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    file = write_predictor(tmp_path / "net.onnx", WIDTHS)
    await deploy(gateway, file)
    await served.start(seeded)
    store, processes = ForecastStore(seeded), ModelProcesses(seeded, served.call, RealClock())
    first = await store.find("net", 1)
    later: list[dict[str, Any]] = []

    async def call(child: str, message: Message) -> Mapping[str, Any]:
        answer = await served.call(child, message)
        if not later:  # the features were wrong: the same file is deployed with others, while history is filled
            later.append(await deploy(gateway, file, trained_to=iso(int(BARS.time_ns[50]))))
        return answer

    with pytest.raises(PeerError, match="version 1 of net is retired"):
        await fill_history(seeded, ModelProcesses(seeded, call, RealClock()), first)
    assert (served.asked, len(await rows_of(seeded))) == (1, 64)
    with pytest.raises(InputError, match="version 1 of net is retired"):
        await submit_history(seeded, await store.find("net", 1), by="me")
    done = await fill_history(seeded, processes, await store.find("net", 2))
    assert {row["version"] for row in await rows_of(seeded)} == {1, 2}
    assert done["new"] == len(await rows_of(seeded)) - 64
    async with gateway.client("admin") as client:
        await client.delete("/ai/deployments/net")
    with pytest.raises(PeerError, match="version 2 of net is retired"):
        await processes.predict(await store.find("net", 2), parse_predictor(first.spec), [], AN_HOUR_S)


async def test_history_of_a_model_without_a_process_fails_and_says_so(
    gateway: Running,
    seeded: Database,
    as_jobs: Database,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictions, "AWAY_S", 0.2)
    await seal(seeded, BARS[:200])
    await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS))
    job = await JobStore(as_jobs).claim(("predictions",))
    assert job is not None
    await run_one(as_jobs, job.id, tmp_path, inference=served.call)
    done = await JobStore(seeded).get(job.id)
    assert done is not None
    assert (done.state, "no replica serves" in str(done.error)) == ("failed", True), done.error


async def test_a_model_is_deployed_with_the_job_of_its_history_or_not_at_all(
    gateway: Running, seeded: Database, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    await seeded.sql("ALTER TABLE jobs ADD CONSTRAINT refused CHECK (kind <> 'predictions')")
    assert (await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS)))["status"] >= 400
    assert (await DeploymentStore(seeded).all(), await ForecastStore(seeded).versions()) == ([], [])


async def test_a_model_that_predicts_writes_no_answers_and_no_vectors(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await net(gateway, seeded, served, tmp_path)
    replicas = ModelReplicas(seeded, served.call, RealClock(), 1.0)
    assert (await replicas.serving(None), await replicas.deployed()) == (None, [])
    with pytest.raises(InputError, match="no model 'net'"):
        await replicas.find("net")
    documents = DocumentStore(seeded, call=served.call)
    await documents.store_pages({"cash.txt": "# Cash\n\nAn account has cash and positions.\n"})
    await documents.embed()
    assert served.asked == 0


async def test_the_scheduler_asks_the_processes_of_deployed_models(
    gateway: Running, seeded: Database, bus: Bus, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(schedule.TASKS, "documents")
    await seal(seeded, BARS[:200])
    made = await deploy(gateway, write_predictor(tmp_path / "net.onnx", WIDTHS))
    await deploy(gateway, write_predictor(tmp_path / "ill.onnx", WIDTHS, operation="Sqrt", bias=-100.0), "ill")
    for name in ("net", "ill"):
        await served.start(seeded, name)
    meter, paths = RecordingMeter(), Paths.of(tmp_path)
    component: Any = SimpleNamespace(
        db=seeded,
        bus=bus,
        clock=RealClock(),
        settings=Settings(),
        log=CollectingLog(),
        meter=meter,
        paths=paths,
        lease=None,
    )

    claimed: list[str] = []

    async def run_job(home: str, job_id: str, gpus: int) -> None:
        claimed.append(job_id)
        await asyncio.Event().wait()

    await sealed(seeded, 200)
    running = asyncio.create_task(SchedulerActor(component, (), run_job=run_job, inference=served.call).run())
    try:
        await until(lambda: meter.total("fks_forecasts_failed_total") >= 1)

        async def is_stored() -> bool:
            return len(await rows_of(seeded)) == 1

        await until(is_stored)
        await until(lambda: claimed)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (claimed, await rows_of(seeded, "forecast:ill")) == ([made["job"]], [])


@pytest.mark.parametrize(
    ("inputs", "given", "reason"),
    [
        (WIDTHS, {"inputs": {"returns": INPUTS["returns"]}}, "has the inputs levels, returns, and the spec returns"),
        (WIDTHS, {"inputs": INPUTS | {"more": INPUTS["levels"]}}, "and the spec levels, more, returns"),
        ({"returns": 3, "levels": 1}, {}, "the input returns has the shape rows × 3, not rows × 2"),
        (WIDTHS, {"output": "z"}, "has the outputs y; the spec means z"),
        (WIDTHS, {"symbols": ["NONSENSE"]}, "NONSENSE"),
        (WIDTHS, {"inputs": {"returns": [{"name": "unheard"}]}}, "unheard"),
        (WIDTHS, {"horizon": 1}, "horizon"),
    ],
)
async def test_inputs_that_do_not_fit_the_file_are_refused(
    gateway: Running, seeded: Database, tmp_path: Path, inputs: dict[str, int], given: dict[str, Any], reason: str
) -> None:
    await seal(seeded, BARS[:20])
    refused = await deploy(gateway, write_predictor(tmp_path / "net.onnx", inputs), **given)
    assert refused["status"] in (400, 404, 422), refused
    assert reason in refused["detail"]
    assert await DeploymentStore(seeded).all() == []
    assert await ForecastStore(seeded).versions() == []


async def test_files_and_names_that_cannot_predict_are_refused(
    gateway: Running, seeded: Database, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:20])
    pickle = tmp_path / "net.pkl"
    pickle.write_bytes(b"\x80\x04}.")
    two = write_predictor(tmp_path / "two.onnx", WIDTHS, columns=2)
    for file, name, reason in (
        (pickle, "net", "no ONNX model"),
        (tmp_path / "none.onnx", "net", "is no file here"),
        (two, "net", "the output y has the shape rows × 2, not rows × 1"),
        (write_predictor(tmp_path / "net.onnx", WIDTHS), "net-1", "small letters, digits"),
    ):
        refused = await deploy(gateway, file, name)
        assert (refused["status"], reason in refused["detail"]) == (422, True), refused
    async with gateway.client("admin") as client:
        body = {"name": "net", "engine": "onnx", "purpose": "predict", "model": str(tmp_path / "net.onnx")}
        assert (await client.post("/ai/deployments", json=body)).status_code == 422, "without its features"
        gguf = body | {"engine": "llama_cpp", "predict": PREDICT}
        assert "predicts no bars" in (await client.post("/ai/deployments", json=gguf)).json()["detail"]
    assert await DeploymentStore(seeded).all() == []


def pinned(file: Path, gpus: float = 0.0) -> Deployment:
    """Return the deployment of a file with its hash."""
    wanted = Deployment("net", "onnx", str(file), gpus=gpus, purpose="predict")
    digest, size = facts_of_model(wanted)
    return replace(wanted, sha256=digest, size_bytes=size)


@pytest.mark.parametrize(
    ("given", "made", "reason"),
    [
        (DeclaredTensor("x", 7, (None, 1)), ("y", 1, (None, 1)), "the input x is of neither float nor double"),
        (DeclaredTensor("x", 1, (5, 1)), ("y", 1, (None, 1)), "the input x has the shape 5 × 1, not rows × 1"),
        (DeclaredTensor("x", 1, (None,)), ("y", 1, (None, 1)), "the input x has the shape rows, not rows × 1"),
        (DeclaredTensor("x", 1, (None, 3, 1)), ("y", 1, (None, 1)), "the input x has the shape rows × 3 × 1"),
        (DeclaredTensor("x", 11, (1, 1)), ("y", 7, (None,)), "the output y is of neither float nor double"),
        (DeclaredTensor("x", 11, (1, 1)), ("y", 1, (None, 3)), "the output y has the shape rows × 3, not rows × 1"),
        (DeclaredTensor("x", 11, (1, 1)), ("y", 11, (None,)), ""),
        (DeclaredTensor("x", 1, None), ("y", 1, None), ""),
    ],
)
def test_declared_types_and_shapes_are_checked(
    given: DeclaredTensor, made: tuple[str, int, tuple[int | None, ...] | None], reason: str
) -> None:
    spec = parse_predictor(PREDICT | {"name": "net", "inputs": {"x": INPUTS["levels"]}})
    output = DeclaredTensor(*made)
    if not reason:
        check_tensors(spec, [given], [output])
        return
    with pytest.raises(InputError, match=reason) as refused:
        check_tensors(spec, [given], [output])
    assert refused.value.code == "AI_DEPLOYMENT"


async def test_shapes_that_a_file_leaves_open_fail_in_its_process(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="onnxruntime"):
        await engine_of(pinned(write_predictor(tmp_path / "net.onnx", WIDTHS, is_silent=True))).load()
    two = write_predictor(tmp_path / "two.onnx", {"x": 1}, columns=2, is_silent=True)
    with pytest.raises(PeerError, match=r"the output y of a row has the shape \(1, 2\)"):
        await engine_of(pinned(two)).load()
    double = pinned(write_predictor(tmp_path / "double.onnx", WIDTHS, is_double=True))
    engine = engine_of(double)
    await engine.load()
    row = {"returns": [0.1, 0.2], "levels": [0.3]}
    assert len(await engine.predict(FeatureRows([row], "", double.sha256, 1.0))) == 1
    whole = write_predictor(tmp_path / "whole.onnx", WIDTHS)
    wanted = pinned(whole)
    digest, engine = wanted.sha256, engine_of(wanted)
    await engine.load()
    assert len(await engine.predict(FeatureRows([row, row], "", digest, 1.0))) == 2
    for rows, sha256, reason in (
        ([{"returns": [0.1, 0.2]}], digest, "has the inputs levels, returns, not returns"),
        ([{"returns": [0.1], "levels": [0.3]}], digest, "onnxruntime"),
        ([row], "0" * 64, "serves another model"),
    ):
        with pytest.raises(PeerError, match=reason):
            await engine.predict(FeatureRows(rows, "", sha256, 1.0))
    await engine.close()
    write_predictor(whole, WIDTHS, seed=2)
    with pytest.raises(PeerError, match="another SHA-256"):
        await engine_of(wanted).load()
    with pytest.raises(PeerError, match="CUDAExecutionProvider"):
        await engine_of(pinned(whole, gpus=0.5)).load()


async def test_a_deployment_replaces_and_ends_the_live_version(
    gateway: Running, seeded: Database, served: Served, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:200])
    first, second = (write_predictor(tmp_path / f"{n}.onnx", WIDTHS, seed=n) for n in (1, 2))
    for file in (first, first, second):
        assert (await deploy(gateway, file))["status"] == 201
    store = ForecastStore(seeded)
    found = await store.versions()
    assert [(one.version, one.stage, one.replaced) for one in found] == [(2, "live", 1), (1, "retired", None)]
    await served.start(seeded)
    live = forecaster(seeded, served)
    await predicted(live)
    assert [(row["version"], row["state"]) for row in await rows_of(seeded)] == [(2, "ok")]
    for move in (promote(seeded, "net", None, now_ns=0, by="me"), rollback(seeded, "net", by="me")):
        with pytest.raises(InputError, match="it is deployed") as refused:
            await move
        assert refused.value.code == "PROMOTION_REFUSED"
    assert await measure_drift(seeded) == "0 versions measured, 0 drift"
    async with gateway.client("admin") as client:
        assert (await client.delete("/ai/deployments/net")).status_code == 200
    assert {one.stage for one in await store.versions()} == {"retired"}
    await sealed(seeded, 200)
    await predicted(live)
    assert len(await rows_of(seeded)) == 1, "its predictions stay, and no more are made"
    await deploy(gateway, first)
    assert [(one.version, one.stage) for one in await store.versions()] == [(2, "retired"), (1, "live")]
    await deploy(gateway, first, trained_to=iso(int(BARS.time_ns[50])))
    assert [one.stage for one in await store.versions()] == ["live", "retired", "retired"], "another spec"
    assert (await deploy_text(gateway, "net"))["status"] == 201
    assert {one.stage for one in await store.versions()} == {"retired"}


async def deploy_text(gateway: Running, name: str) -> dict[str, Any]:
    """Deploy a language model over HTTP, and return the answer."""
    body = {"name": name, "engine": "ollama", "model": "words", "url": "http://127.0.0.1:9"}
    async with gateway.client("admin") as client:
        answer = await client.post("/ai/deployments", json=body)
    return {"status": answer.status_code, **answer.json()}


async def test_a_trained_model_and_a_deployed_one_share_no_name(
    gateway: Running, seeded: Database, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:20])
    file = write_predictor(tmp_path / "net.onnx", WIDTHS)
    await add_trained(seeded, "ar")
    refused = await deploy(gateway, file, "ar")
    assert (refused["status"], refused["code"]) == (409, "FORECAST_MARKET")
    assert await DeploymentStore(seeded).all() == []
    await seeded.sql("UPDATE ai_model_versions SET stage = 'live'")
    assert (await deploy_text(gateway, "ar"))["status"] == 201
    assert [one.stage for one in await ForecastStore(seeded).versions()] == ["live"], "a text retires no forecasts"
    assert (await deploy(gateway, file))["status"] == 201
    with pytest.raises(InputError, match="are deployed") as conflict:
        await add_trained(seeded, "net")
    assert conflict.value.code == "FORECAST_MARKET"
    moved = await deploy(gateway, file, timeframe="5m")
    assert (moved["status"], moved["code"]) == (409, "FORECAST_MARKET"), "a column has one timeframe"


async def add_trained(db: Database, name: str) -> None:
    """Add a version as a training does."""
    async with db.transaction() as tx:
        await add_version(
            tx,
            {"name": name, "symbols": ["BTCUSDT"], "seed": 1},
            exchange="binance",
            timeframe="1m",
            bar_s=60,
            fingerprint="f",
            data_hash="d",
            artifact_hash="a",
            label_end_ns=0,
            libraries={},
            code_hash=None,
            licence=None,
            folds=[{"hash": "a"}],
            metrics={},
            checks={},
            reference=[],
            by="me",
        )


async def test_commands_deploy_a_model_that_predicts(
    gateway: Running, seeded: Database, fks: Fks, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    await seal(seeded, BARS[:200])
    file, spec = write_predictor(tmp_path / "net.onnx", WIDTHS), tmp_path / "net.json"
    spec.write_text(json.dumps(PREDICT))
    code, out, err = await fks("ai", "deploy", "net", "--file", str(file), "--predict", str(spec))
    assert (code, err) == (OK, "")
    assert f"net: 1 × {file} on CPU; job " in out
    assert "fills forecast:net" in out
    (row,) = await DeploymentStore(seeded).all()
    assert (row["engine"], row["purpose"], row["model"]) == ("onnx", "predict", str(file))
    code, out, _ = await fks("ai", "models")
    assert (code, out.count("predict"), "candidate" in out) == (OK, 1, False)
    code, out, _ = await fks("forecast", "list")
    assert (code, "not evaluated" in out, "live" in out) == (OK, True, True)
    code, out, _ = await fks("ai", "evaluate", "net")
    assert (code, "deployed, not evaluated here" in out) == (OK, True)
    code, out, _ = await fks("ai", "predict", "net")
    assert (code, "fills forecast:net by version 1" in out) == (OK, True)
    other = write_predictor(tmp_path / "other.onnx", WIDTHS, seed=2)
    for served in (other, file):
        await fks("ai", "deploy", "net", "--file", str(served), "--predict", str(spec))
    code, out, _ = await fks("ai", "predict", "net")
    assert (code, "fills forecast:net by version 1" in out) == (OK, True), "the live version, not the newest"
    code, _, err = await fks("ai", "predict", "net", "2")
    assert (code, "version 2 of net is retired" in err) == (USAGE, True)
    jobs = await seeded.sql("SELECT kind, spec FROM jobs WHERE spec->>'version' = '1'")
    assert [(job["kind"], job["spec"]) for job in jobs] == [("predictions", {"model": "net", "version": 1})] * 4
    spec.write_text("{")
    code, _, err = await fks("ai", "deploy", "net", "--file", str(file), "--predict", str(spec))
    assert (code, "not JSON" in err) == (USAGE, True)
    code, _, err = await fks("ai", "deploy", "net", "--file", str(file), "--predict", str(spec), "--embed")
    assert (code, "--embed or --predict" in err) == (USAGE, True)
    code, _, err = await fks("ai", "deploy", "net", "--file", str(file))
    assert (code, "served with --predict" in err) == (USAGE, True)
