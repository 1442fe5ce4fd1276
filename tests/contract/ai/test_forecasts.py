"""Forecasts in the database: training that resumes, stages, predictions as columns that backtests and live share."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tracemalloc
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest

from fks.ai.forecast import LinearModel, features, inputs_hashes, panel_of
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.interfaces.cli.base import OK, USAGE
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, iso, to_datetime, to_ns
from fks.research.jobs.backtest import run_job
from fks.research.jobs.bars import load_stored
from fks.research.jobs.forecast import (
    KIND,
    Forecaster,
    backfill,
    load_model,
    measure_drift,
    parse_forecast,
    run_forecast,
)
from fks.research.jobs.runner import run_one
from fks.research.jobs.scheduler import gpus_of
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.feature_values import FeatureStore
from fks.store.forecasts import ForecastStore, ModelVersion, OnDrift, promote, rollback, set_on_drift
from fks.store.jobs import JobStore
from fks.strategies.registry import load_catalogue
from fks.system.monitor.alerts import settle_what_is_over
from tests.support.api_fixtures import Fks
from tests.support.forecasts import START_NS, TRAINER_MODULE, autoregression, install_trainer
from tests.support.gateway import Running
from tests.support.ports import CollectingLog
from tests.support.strategies import seal

MINUTE_NS = 60 * NS
BARS = autoregression(900, 0.5, 1, timeframe_s=60)
SPEC: dict[str, Any] = {"name": "ar", "symbols": ["BTC/USDT"], "timeframe": "1m", "folds": 2, "trees": 10}
STRATEGY = """
import numpy as np
from fks.strategies.base import Decisions, Strategy, feature

class Follow(Strategy):
    name = "follow"
    def warmup(self):
        return 2
    def features(self):
        return ("forecast:ar",)
    def decide(self, bars):
        return Decisions(np.where(feature(self, bars, "forecast:ar").values > 0, 1.0, 0.0))
"""


class Killed(Exception):
    """Stands for a kill between two folds."""


async def trained(db: Database, models: Path, rows: int = 800, **given: Any) -> ModelVersion:
    """Store bars, train on them, and return the version."""
    await seal(db, BARS[:rows])
    made = await run_forecast({**SPEC, **given}, db, models, by="test")
    return await ForecastStore(db).find(made["model"], made["version"])


async def in_stage(db: Database, version: ModelVersion) -> ModelVersion:
    """Promote a version to shadow, have it predict there for long enough, and promote it to live."""
    await promote(db, version.model, version.version, now_ns=0, by="test")
    ends = [to_datetime(START_NS + version.version * 10**13 + k * MINUTE_NS) for k in range(20)]
    await db.sql(
        "INSERT INTO feature_values (feature, symbol, time, known_at, value, version, label_end, origin, state)"
        " SELECT 'forecast:ar.shadow', 'BTCUSDT', t, t, 0.1, $1, t, 'live', 'ok' FROM unnest($2::timestamptz[]) AS t",
        version.version,
        ends,
    )
    staged = await ForecastStore(db).find(version.model, version.version)
    return await promote(db, version.model, version.version, now_ns=staged.staged_ns + 86_401 * NS, by="test")


async def test_a_training_that_was_stopped_resumes_with_the_same_hashes(
    seeded: Database, as_jobs: Database, tmp_path: Path
) -> None:
    await seal(seeded, BARS[:800])
    shares: list[float] = []

    def kill(share: float) -> None:
        shares.append(share)
        if len(shares) == 2:
            raise Killed

    with pytest.raises(Killed):
        await run_forecast(SPEC, as_jobs, tmp_path / "a", by="test", advance=kill)
    assert await ForecastStore(seeded).versions() == []
    (folder,) = (tmp_path / "a").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert sorted(before) == ["0.json", "1.json"]
    resumed = await run_forecast(SPEC, as_jobs, tmp_path / "a", by="test")
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir() if file.name in before} == before
    assert len(list(folder.iterdir())) == 3
    again = await run_forecast(SPEC, as_jobs, tmp_path / "b", by="test")
    assert again == resumed  # the same fingerprint is the same version
    await seeded.sql("DELETE FROM ai_model_versions")
    whole = await run_forecast(SPEC, as_jobs, tmp_path / "b", by="test")
    names = ("fingerprint", "artifact_hash", "data_hash", "folds", "metrics", "checks")
    assert {name: whole[name] for name in names} == {name: resumed[name] for name in names}
    assert whole["checks"] == {"prefix": None, "noise": None, "shuffled": None}
    assert whole["stage"] == "candidate"
    assert whole["metrics"]["beats_naive"]
    assert set(whole["libraries"]) == {"fks", "lightgbm", "numpy"}
    assert (whole["licence"], len(whole["code_hash"])) == ("MIT", 64)


async def test_bars_with_gaps_train_nothing_and_leave_nothing(seeded: Database, tmp_path: Path) -> None:
    await seal(seeded, BARS[:400])
    await seal(seeded, BARS[440:800])
    with pytest.raises(InputError, match=r"misses 5.00 % of its bars") as refused:
        await run_forecast(SPEC, seeded, tmp_path, by="test")
    assert (refused.value.code, refused.value.status) == ("TAPE_GAPS", 422)
    assert "fks data sync" in str(refused.value.remedy)
    assert "--allow-gaps" not in str(refused.value.remedy)
    assert await ForecastStore(seeded).versions() == []
    assert os.listdir(tmp_path) == []


async def test_a_training_runs_as_a_durable_job(seeded: Database, as_jobs: Database, tmp_path: Path) -> None:
    await seal(seeded, BARS[:800])
    id = await JobStore(seeded).submit(KIND, SPEC, submitted_by="anna")
    assert (await JobStore(seeded).claim([KIND])) is not None
    await run_one(as_jobs, id, tmp_path / "strategies", settings=Settings(home=tmp_path))
    job = await JobStore(seeded).get(id)
    assert job is not None
    assert (job.state, job.error) == ("done", None)
    (version,) = await ForecastStore(seeded).versions("ar")
    assert (version.version, version.created_by) == (1, "anna")
    assert (Paths.of(tmp_path).models / version.fingerprint / "2.json").exists()
    await seeded.sql("UPDATE ai_models SET timeframe = '5m'")  # a column is of one timeframe
    with pytest.raises(InputError) as refused:
        await run_forecast({**SPEC, "seed": 2}, as_jobs, tmp_path, by="test")
    assert refused.value.code == "FORECAST_MARKET"


async def test_going_live_needs_a_shadow_period_and_rollback_goes_back(seeded: Database, tmp_path: Path) -> None:
    one = await trained(seeded, tmp_path)
    shadow = await promote(seeded, "ar", None, now_ns=0, by="anna")
    assert shadow.stage == "shadow"
    with pytest.raises(InputError, match=r"it predicted 0 bars in 0\.0 h of shadow"):
        await promote(seeded, "ar", 1, now_ns=shadow.staged_ns, by="anna")
    await seeded.sql("UPDATE ai_model_versions SET stage = 'candidate'")
    assert (await in_stage(seeded, one)).stage == "live"
    two = await in_stage(seeded, await trained(seeded, tmp_path, seed=2))
    three = await in_stage(seeded, await trained(seeded, tmp_path, seed=3))
    assert (two.replaced, three.replaced) == (1, 2)

    async def stages() -> list[str]:
        return [version.stage for version in reversed(await ForecastStore(seeded).versions("ar"))]

    assert await stages() == ["retired", "retired", "live"]
    back = await rollback(seeded, "ar", by="anna")
    assert back is not None
    assert (back.version, await stages()) == (2, ["retired", "live", "retired"])
    assert await rollback(seeded, "ar", by="anna") is not None
    assert await stages() == ["live", "retired", "retired"]
    assert await rollback(seeded, "ar", by="anna") is None
    with pytest.raises(InputError) as refused:
        await rollback(seeded, "ar", by="anna")
    assert refused.value.code == "PROMOTION_REFUSED"
    rows = await seeded.sql("SELECT actor, action, object FROM audit_log WHERE action LIKE 'forecast.%' ORDER BY id")
    assert [(row["action"], row["object"]) for row in rows][-5:] == [
        ("forecast.retired", "ar 3"),
        ("forecast.live", "ar 2"),
        ("forecast.retired", "ar 2"),
        ("forecast.live", "ar 1"),
        ("forecast.retired", "ar 1"),
    ]
    assert rows[-1]["actor"] == "anna"


@pytest.mark.parametrize("check", ["prefix", "noise", "shuffled"])
async def test_a_failed_leakage_check_blocks_promotion(seeded: Database, tmp_path: Path, check: str) -> None:
    await trained(seeded, tmp_path)
    await seeded.sql("UPDATE ai_model_versions SET checks = checks || $1", {check: "feature 1 differs"})
    with pytest.raises(InputError, match=f"{check}: feature 1 differs") as refused:
        await promote(seeded, "ar", 1, now_ns=0, by="anna")
    assert refused.value.code == "PROMOTION_REFUSED"
    await seeded.sql("UPDATE ai_model_versions SET checks = '{}'")
    with pytest.raises(InputError, match="it was not evaluated"):
        await promote(seeded, "ar", 1, now_ns=0, by="anna")


async def test_a_backtest_reads_predictions_of_folds_trained_before_a_bar(seeded: Database, tmp_path: Path) -> None:
    version = await trained(seeded, tmp_path / "models")
    await seal(seeded, BARS[800:850])  # bars after the training are predicted by the final model
    done = await backfill(seeded, tmp_path / "models", version)
    assert done["rows"] >= done["new"] > 300
    rows = await seeded.sql("SELECT * FROM feature_values WHERE feature = 'forecast:ar' ORDER BY time")
    assert len(rows) == done["new"]
    assert {(row["origin"], row["state"], row["version"]) for row in rows} == {("backfill", "ok", 1)}
    assert all(row["label_end"] <= row["time"] == row["known_at"] for row in rows)
    assert all(row["lower"] < row["upper"] for row in rows)
    assert len({row["label_end"] for row in rows}) == 3
    assert to_ns(rows[-1]["time"]) == int(BARS.time_ns[849]) + MINUTE_NS
    assert (await backfill(seeded, tmp_path / "models", version))["new"] == 0
    bars = await FeatureStore(seeded).aligned(["forecast:ar"], "BTCUSDT", BARS[:850])
    values = bars.features["forecast:ar"].values
    assert np.isnan(values[: 850 - len(rows)]).all()
    assert values[850 - len(rows) :].tolist() == [row["value"] for row in rows]
    # a prediction holds for one bar: without the next row there is none
    await seeded.sql("DELETE FROM feature_values WHERE time = $1", rows[-1]["time"])
    held = await FeatureStore(seeded).aligned(["forecast:ar"], "BTCUSDT", BARS[:850])
    assert np.isnan(held.features["forecast:ar"].values[-1])
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "follow.py").write_text(STRATEGY)
    spec = {"strategy": "follow", "symbol": "BTCUSDT", "timeframe": "1m", "size": "1000"}
    loaded = await load_stored(seeded, _request(spec, ("forecast:ar",)))
    result = run_job(spec, lambda _: loaded, catalogue=load_catalogue(tmp_path / "strategies"))
    assert result["statistics"]["trades"] > 20
    with pytest.raises(InputError) as refused:
        await FeatureStore(seeded).ensure(["forecast:other"], "BTCUSDT")
    assert "fks forecast predict" in refused.value.remedy


def _request(spec: Mapping[str, Any], features: tuple[str, ...]) -> Any:
    from fks.research.jobs.backtest import BarsRequest

    return BarsRequest(spec["symbol"], None, spec["timeframe"], None, None, 0, features=features)


async def test_the_table_refuses_a_prediction_before_its_label_end(seeded: Database) -> None:
    moment = to_datetime(START_NS)
    insert = (
        "INSERT INTO feature_values (feature, symbol, time, known_at, value, version, label_end, origin, state)"
        " VALUES ($1, 'BTCUSDT', $2, $2, 1, 1, $3, 'backfill', $4)"
    )
    late = moment + timedelta(seconds=1)
    for values in (
        ("forecast:ar", moment, late, "ok"),
        ("forecast:ar", moment, None, "ok"),
        ("mood", moment, None, "ok"),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await seeded.sql(insert, *values)
    with pytest.raises(asyncpg.CheckViolationError):
        await seeded.sql(insert, "forecast:ar", moment, moment, None)
    await seeded.sql(insert, "forecast:ar", moment, moment, "ok")


async def test_a_sealed_bar_is_predicted_once_by_live_and_shadow(seeded: Database, tmp_path: Path) -> None:
    live = await in_stage(seeded, await trained(seeded, tmp_path))
    await promote(seeded, "ar", (await trained(seeded, tmp_path, seed=2)).version, now_ns=0, by="test")
    log = CollectingLog()
    forecaster = Forecaster(seeded, tmp_path, log)
    await seal(seeded, BARS[800:801])
    assert await forecaster.advance() == 2
    assert await forecaster.advance() == 0
    assert await Forecaster(seeded, tmp_path, log).advance() == 0  # after a restart the first row stays
    end = to_datetime(int(BARS.time_ns[800]) + MINUTE_NS)
    rows = await seeded.sql("SELECT * FROM feature_values WHERE time = $1 ORDER BY feature", end)
    assert [(row["feature"], row["version"], row["state"], row["origin"]) for row in rows] == [
        ("forecast:ar", 1, "ok", "live"),
        ("forecast:ar.shadow", 2, "ok", "live"),
    ]
    # the row of the live prediction is what a backfill of the same version would have written
    await seeded.sql("DELETE FROM feature_values WHERE feature = 'forecast:ar'")
    await backfill(seeded, tmp_path, live)
    (again,) = await seeded.sql("SELECT * FROM feature_values WHERE feature = 'forecast:ar' AND time = $1", end)
    assert again["value"] == pytest.approx(rows[0]["value"], rel=1e-6)
    # a rollback counts from the next bar on
    assert await rollback(seeded, "ar", by="test") is None
    await seal(seeded, BARS[801:802])
    assert await forecaster.advance() == 1
    # an artifact that is missing, or another one, refuses
    await seeded.sql("UPDATE ai_model_versions SET stage = 'retired'")
    await in_stage(seeded, await trained(seeded, tmp_path, seed=3))
    (tmp_path / (await ForecastStore(seeded).find("ar", 3)).fingerprint / "2.json").write_bytes(b"{}")
    await seal(seeded, BARS[802:803])
    assert await Forecaster(seeded, tmp_path, log).advance() == 1
    (row,) = await seeded.sql(
        "SELECT * FROM feature_values WHERE feature = 'forecast:ar' AND time = $1",
        to_datetime(int(BARS.time_ns[802]) + MINUTE_NS),
    )
    assert (row["state"], np.isnan(row["value"]), row["lower"]) == ("refused", True, None)
    assert log.events("error") == ["forecast.refused"]


async def test_the_inputs_hash_of_a_row_is_that_of_the_stored_bars(seeded: Database, tmp_path: Path) -> None:
    live = await in_stage(seeded, await trained(seeded, tmp_path))
    spec, stored = parse_forecast(live.spec), BarStore(seeded)
    await backfill(seeded, tmp_path, live)
    bars = await stored.read("BTCUSDT", "1m", 0)
    panel = panel_of(dict.fromkeys(spec.symbols, bars), spec)
    known = dict(zip(panel.end_ns.tolist(), inputs_hashes(panel.x, spec), strict=True))
    read = "SELECT time, inputs_hash FROM feature_values WHERE feature = 'forecast:ar' AND origin = $1 ORDER BY time"
    rows = await seeded.sql(read, "backfill")
    assert len(rows) > 300
    assert [row["inputs_hash"] for row in rows] == [known[to_ns(row["time"])] for row in rows]
    assert len({row["inputs_hash"] for row in rows}) == len(rows)
    # live, from the bars that a prediction needs, as they were when it was made
    forecaster = Forecaster(seeded, tmp_path, CollectingLog())
    hashes = []
    for number in (800, 801):
        await seal(seeded, BARS[number : number + 1])
        assert await forecaster.advance() == 1
        bars = await stored.read("BTCUSDT", "1m", 0, limit=spec.bars, is_newest=True)
        hashes += inputs_hashes(features(bars, spec)[-1:], spec)
    assert [row["inputs_hash"] for row in await seeded.sql(read, "live")] == hashes
    await seeded.sql("UPDATE ohlcv_data SET close = close * 1.01 WHERE time = $1", to_datetime(int(BARS.time_ns[801])))
    bars = await stored.read("BTCUSDT", "1m", 0, limit=spec.bars, is_newest=True)
    assert inputs_hashes(features(bars, spec)[-1:], spec) != hashes[-1:], "the row shows that a bar was corrected"
    # without features there is none
    (tmp_path / live.fingerprint / "2.json").unlink()
    await seal(seeded, BARS[802:803])
    assert await Forecaster(seeded, tmp_path, CollectingLog()).advance() == 1
    assert (await seeded.sql(read, "live"))[-1]["inputs_hash"] is None


async def predicted(db: Database, models: Path, version: ModelVersion, bars: Bars) -> None:
    """Store bars, and the predictions that a version would have made live."""
    await seal(db, bars)
    model = load_model(models, version, len(version.folds) - 1)
    x = features(bars, model.spec)
    is_complete = np.isfinite(x).all(axis=1)
    made = model.predict(x[is_complete])
    await ForecastStore(db).add(
        version,
        "forecast:ar" if version.stage == "live" else "forecast:ar.shadow",
        "BTC/USDT",
        end_ns=bars.time_ns[is_complete] + MINUTE_NS,
        value=made.value,
        interval=made.intervals[0.8],
        label_end_ns=version.label_end_ns,
        origin="live",
        artifact_hash=version.artifact_hash,
        inputs=inputs_hashes(x[is_complete], model.spec),
    )


async def alerts_of(db: Database) -> list[tuple[str, str, bool]]:
    rows = await db.sql("SELECT event, payload, resolved_at FROM alerts WHERE event LIKE 'forecast.%' ORDER BY id")
    return [(row["event"], row["payload"].get("condition", ""), row["resolved_at"] is None) for row in rows]


def turned(seed: int, after: Bars, rows: int = 270) -> Bars:
    """Return bars behind others whose law has the other sign."""
    bars = autoregression(rows, -0.5, seed, timeframe_s=60)
    return replace(bars, time_ns=bars.time_ns + (int(after.time_ns[-1]) + MINUTE_NS - START_NS))


@pytest.mark.parametrize("on_drift", ["alert", "demote"])
async def test_a_live_version_that_drifts_alerts_until_it_ends_and_is_demoted_by_its_row(
    seeded: Database, tmp_path: Path, on_drift: OnDrift
) -> None:
    live = await in_stage(seeded, await trained(seeded, tmp_path))
    await set_on_drift(seeded, "ar", on_drift, by="anna")
    assert await measure_drift(seeded) == "1 versions measured, 0 drift"
    await predicted(seeded, tmp_path, live, turned(7, BARS[:800]))
    for _ in range(2):  # looked at twice, a condition has one alert
        assert await measure_drift(seeded) == "1 versions measured, 1 drift"
        over = await settle_what_is_over(seeded, datetime.now(UTC) + timedelta(days=2))
        assert "forecast.drift" not in [alert["event"] for alert in over]
    found = await ForecastStore(seeded).find("ar", 1)
    assert found.drift is not None
    assert sorted(found.drift["findings"]) == ["error", "features"]
    assert found.drift["error"]["low"] > 1.1 * found.drift["error"]["evaluated"]
    is_demoted = on_drift == "demote"
    assert found.stage == ("shadow" if is_demoted else "live")
    drifting = [("forecast.drift", name, True) for name in ("features", "error")]
    assert await alerts_of(seeded) == [*drifting, *([("forecast.demoted", "", False)] if is_demoted else [])]
    audited = await seeded.sql("SELECT detail FROM audit_log WHERE actor = 'drift' AND action = 'forecast.shadow'")
    assert [row["detail"]["from"] for row in audited] == ["live"] * is_demoted
    # from the next bar on the column of the live version is empty
    await seal(seeded, turned(7, BARS[:800], 271)[270:])
    assert await Forecaster(seeded, tmp_path, CollectingLog()).advance() == 1
    (row,) = await seeded.sql("SELECT feature FROM feature_values ORDER BY time DESC LIMIT 1")
    assert row["feature"] == ("forecast:ar.shadow" if is_demoted else "forecast:ar")
    # bars of the old law again: the alerts end
    last = turned(7, BARS[:800], 271)
    back = autoregression(400, 0.5, 30, timeframe_s=60)
    shift_ns = int(last.time_ns[-1]) + MINUTE_NS - START_NS
    await predicted(seeded, tmp_path, found, replace(back, time_ns=back.time_ns + shift_ns))
    assert await measure_drift(seeded) == "1 versions measured, 0 drift"
    assert [is_open for event, _, is_open in await alerts_of(seeded) if event == "forecast.drift"] == [False, False]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ai_model_versions SET spec = jsonb_set(spec, '{features,0,name}', '\"gone\"')",
        "UPDATE ai_model_versions SET metrics = jsonb_set(metrics, '{mase,model,value}', 'null')",
    ],
)
async def test_a_version_that_cannot_be_judged_hides_no_other_drift(
    seeded: Database, tmp_path: Path, damage: str
) -> None:
    live = await in_stage(seeded, await trained(seeded, tmp_path))
    await predicted(seeded, tmp_path, live, turned(7, BARS[:800]))
    assert await measure_drift(seeded) == "1 versions measured, 1 drift"
    await trained(seeded, tmp_path, name="other")
    await promote(seeded, "other", 1, now_ns=0, by="test")
    await seeded.sql(f"{damage} WHERE model = 'ar'")
    done = await measure_drift(seeded)
    assert ("ar 1 is not measured" in done) == ("gone" in damage), done
    assert (await ForecastStore(seeded).find("other", 1)).drift is not None
    assert ("forecast.drift", "features", True) in await alerts_of(seeded), "an unknown drift is not over"


async def test_a_drifting_version_leaves_the_shadow_to_the_one_that_is_there(seeded: Database, tmp_path: Path) -> None:
    live = await in_stage(seeded, await trained(seeded, tmp_path))
    await promote(seeded, "ar", (await trained(seeded, tmp_path, seed=2)).version, now_ns=0, by="test")
    await set_on_drift(seeded, "ar", "demote", by="anna")
    await predicted(seeded, tmp_path, live, turned(7, BARS[:800]))
    assert await measure_drift(seeded) == "2 versions measured, 0 drift"
    assert [version.stage for version in await ForecastStore(seeded).versions("ar")] == ["shadow", "retired"]
    assert [is_open for event, _, is_open in await alerts_of(seeded) if event == "forecast.drift"] == [False, False]
    with pytest.raises(InputError) as refused:
        await set_on_drift(seeded, "other", "demote", by="anna")
    assert refused.value.code == "FORECAST_UNKNOWN"


async def test_a_training_by_schedule_makes_a_candidate_beside_the_live_version(
    seeded: Database, as_jobs: Database, tmp_path: Path
) -> None:
    await in_stage(seeded, await trained(seeded, Paths.of(tmp_path).models))
    await seal(seeded, BARS[800:900])
    id = await JobStore(seeded).submit(KIND, SPEC, submitted_by="schedule")
    assert (await JobStore(seeded).claim([KIND])) is not None
    await run_one(as_jobs, id, tmp_path / "strategies", settings=Settings(home=tmp_path))
    found = await ForecastStore(seeded).versions("ar")
    assert [(one.version, one.stage, one.created_by) for one in found] == [
        (2, "candidate", "schedule"),
        (1, "live", "test"),
    ]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install_trainer(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    sys.modules.pop("trainers_of_mine", None)  # another test's
    yield
    sys.modules.pop("trainers_of_mine", None)


@pytest.mark.usefixtures("trainer")
async def test_a_trainer_of_another_package_is_loaded_by_the_job_alone(
    gateway: Running, seeded: Database, as_jobs: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(seeded, BARS[:800])
    spec = {**SPEC, "trainer": "linear"}
    async with gateway.client("signal") as client:
        wrong = await client.post("/forecasts", json={**spec, "trainer": "other"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "TRAINER_UNKNOWN")
        assert "lightgbm, linear" in wrong.json()["detail"]
        made = await client.post("/forecasts", json=spec)
        assert made.status_code == 202
    assert "trainers_of_mine" not in sys.modules
    id = uuid.UUID(made.json()["id"])
    assert (await JobStore(seeded).claim([KIND])) is not None
    await run_one(as_jobs, id, tmp_path / "strategies", settings=Settings(home=tmp_path))
    job = await JobStore(seeded).get(id)
    assert job is not None
    assert (job.state, job.error) == ("done", None)
    assert "trainers_of_mine" in sys.modules
    async with gateway.client("signal") as client:
        assert (await client.post("/forecasts", json=spec)).json()["id"] == str(id)
        with (tmp_path / "site" / "trainers_of_mine.py").open("a") as file:
            file.write("# changed\n")
        assert (await client.post("/forecasts", json=spec)).json()["id"] != str(id), "it is other work"
    (version,) = await ForecastStore(seeded).versions("ar")
    assert version.checks == {"prefix": None, "noise": None, "shuffled": None}
    assert version.metrics["beats_naive"]
    assert (version.libraries["trainers-of-mine"], version.licence) == ("1.2", "Apache-2.0")
    artifact = (Paths.of(tmp_path).models / version.fingerprint / "2.json").read_bytes()
    assert hashlib.sha256(artifact).hexdigest() == version.artifact_hash
    # the process that predicts needs the artifact alone
    await in_stage(seeded, version)
    del sys.modules["trainers_of_mine"]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path / "site")])
    await seal(seeded, BARS[800:801])
    assert await Forecaster(seeded, Paths.of(tmp_path).models, CollectingLog()).advance() == 1
    (row,) = await seeded.sql("SELECT * FROM feature_values WHERE feature = 'forecast:ar'")
    assert (row["state"], row["lower"] < row["value"] < row["upper"]) == ("ok", True)
    assert "trainers_of_mine" not in sys.modules
    # a graph that the installed library cannot evaluate refuses, and stops no other prediction
    monkeypatch.setattr("fks.ai.forecast.onnx_session", lambda graph: 1 / 0)
    await seal(seeded, BARS[801:802])
    log = CollectingLog()
    assert await Forecaster(seeded, Paths.of(tmp_path).models, log).advance() == 1
    assert log.events("error") == ["forecast.refused"]


@pytest.mark.parametrize("name", ["linear", "ridge"])
async def test_a_linear_model_in_npz_is_kept_as_json_and_predicts(
    seeded: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "forecasts.md").read_text()
    (ridge,) = [block for block in page.split("```python\n") if "np.savez" in block]
    install_trainer(tmp_path / "site", name, TRAINER_MODULE if name == "linear" else ridge.partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "trainers_of_mine", raising=False)
    params = {"mode": "npz"} if name == "linear" else {"penalty": 2}
    version = await trained(seeded, tmp_path, trainer=name, trainer_params=params)
    monkeypatch.delitem(sys.modules, "trainers_of_mine")
    assert version.checks == {"prefix": None, "noise": None, "shuffled": None}
    assert version.metrics["beats_naive"]
    artifact = (tmp_path / version.fingerprint / "2.json").read_bytes()
    assert hashlib.sha256(artifact).hexdigest() == version.artifact_hash
    kept = json.loads(artifact)["linear"]
    model = load_model(tmp_path, version, 2)
    x = features(BARS[:100], model.spec)[60:]
    outputs = np.array([[np.nan] * 4 if not np.isfinite(row).all() else row @ kept["weights"] for row in x])
    made = model.predict(x)
    np.testing.assert_allclose(made.value, model.scale * (outputs[:, 0] + kept["bias"][0]), rtol=1e-9)
    assert (made.intervals[0.8][0] < made.intervals[0.8][1]).all()
    await backfill(seeded, tmp_path, version)
    (row,) = await seeded.sql("SELECT count(*) AS rows, bool_and(state = 'ok') AS ok FROM feature_values")
    assert (row["rows"] > 300, row["ok"]) == (True, True)


async def test_a_trainer_that_needs_a_gpu_is_never_trained_without_one(
    seeded: Database, as_jobs: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_trainer(tmp_path / "site", "net", extra=" [gpu]")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "trainers_of_mine", raising=False)
    await seal(seeded, BARS[:800])
    spec = {**SPEC, "trainer": "net"}
    for gpus, state in ((0, "failed"), (1, "done")):
        id = await JobStore(seeded).submit(KIND, spec, submitted_by="anna")
        claimed = await JobStore(seeded).claim([KIND])
        assert claimed is not None
        assert gpus_of(claimed) == 1
        await run_one(as_jobs, id, tmp_path / "strategies", settings=Settings(home=tmp_path), gpus=gpus)
        job = await JobStore(seeded).get(id)
        assert job is not None
        assert (job.state, len(await ForecastStore(seeded).versions())) == (state, gpus)
        assert gpus or "trainer net needs a GPU" in str(job.error)
        assert ("trainers_of_mine" in sys.modules) is bool(gpus)


def test_a_small_npz_file_that_unpacks_to_much_is_refused_unread() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, weights=np.zeros(2_000_000), bias=np.zeros(4))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="16,000,"):
            LinearModel.read(file.getvalue(), 3, 4)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("trainer")
async def test_other_code_of_a_trainer_makes_another_version(seeded: Database, tmp_path: Path) -> None:
    first = await trained(seeded, tmp_path / "models", trainer="linear")
    assert await trained(seeded, tmp_path / "models", trainer="linear") == first
    with (tmp_path / "site" / "trainers_of_mine.py").open("a") as file:
        file.write("# changed\n")
    second = await trained(seeded, tmp_path / "models", trainer="linear")
    assert (second.version, second.libraries, second.data_hash) == (2, first.libraries, first.data_hash)
    assert second.code_hash != first.code_hash


@pytest.mark.usefixtures("trainer")
async def test_a_trainer_that_prints_leaves_the_output_of_the_command_alone(
    seeded: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await trained(seeded, tmp_path, trainer="linear", trainer_params={"mode": "prints"})
    out, err = capsys.readouterr()
    assert (out, "noise" in err) == ("", True)


@pytest.mark.usefixtures("trainer")
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("raises", "OSError: no such GPU"),
        ("pickle", "INVALID_PROTOBUF"),
        ("outside", "tensors lie in other files"),
        ("narrow", "output of the shape"),
        ("text", "no text for each of 0.1, 0.5, 0.9, mean"),
        ("mean", "not finite"),
        ("objects", "Object arrays cannot be loaded"),
        ("turned", "weights and bias of the shapes"),
        ("more", "not bias and weights"),
        ("infinite", "not finite"),
    ],
)
async def test_a_trainer_that_makes_no_allowed_model_fails_and_leaves_no_version(
    seeded: Database, tmp_path: Path, mode: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as refused:
        await trained(seeded, tmp_path, trainer="linear", trainer_params={"mode": mode})
    assert refused.value.code == "TRAINER_FAILED"
    assert await ForecastStore(seeded).versions() == []


async def test_bars_that_are_kept_follow_corrections_and_gaps(
    seeded: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_stage(seeded, await trained(seeded, tmp_path))
    await seal(seeded, BARS[800:810])
    kept, reads, read = Forecaster(seeded, tmp_path, CollectingLog()), list[str](), BarStore.read

    async def counted(store: BarStore, symbol: str, *args: Any, **options: Any) -> Bars:
        reads.append(symbol)
        return await read(store, symbol, *args, **options)

    monkeypatch.setattr(BarStore, "read", counted)
    assert await kept.advance() == 1

    async def predicted_by(forecaster: Forecaster) -> tuple[float, float, float]:
        await seeded.sql("DELETE FROM feature_values WHERE time > $1", to_datetime(int(BARS.time_ns[809]) + MINUTE_NS))
        assert await forecaster.advance() == 1
        (row,) = await seeded.sql("SELECT value, lower, upper FROM feature_values ORDER BY time DESC LIMIT 1")
        return row["value"], row["lower"], row["upper"]

    corrected = "UPDATE ohlcv_data SET close = close * 1.02, high = high * 1.03 WHERE time = $1"
    for number, change, is_read in (
        (810, None, 0),
        (811, corrected, 1),
        (812, None, 0),
        (814, None, 1),
        (815, None, 0),
    ):
        if change is not None:
            await seeded.sql(change, to_datetime(int(BARS.time_ns[808])))
        await seal(seeded, BARS[number : number + 1])
        reads.clear()
        mine = await predicted_by(kept)
        assert len(reads) == is_read, number
        assert mine == await predicted_by(Forecaster(seeded, tmp_path, CollectingLog()))


async def test_a_bar_sealed_long_ago_is_not_predicted_as_live(seeded: Database, tmp_path: Path) -> None:
    await in_stage(seeded, await trained(seeded, tmp_path))
    await seal(seeded, BARS[800:801])
    forecaster = Forecaster(seeded, tmp_path, CollectingLog())
    aged = "UPDATE ohlcv_data SET updated_at = now() - interval '3 s'"
    await seeded.sql(aged)
    assert (await forecaster.advance(), forecaster.late) == (0, 0), "it began after that bar"
    # later ones are counted: a bar that was stored too long ago, and one that has a row
    await seal(seeded, BARS[801:802])
    await seeded.sql(aged)
    assert (await forecaster.advance(), forecaster.late) == (0, 1)
    await seal(seeded, BARS[802:803])
    end_ns = int(BARS.time_ns[802]) + MINUTE_NS
    missed = {"after_ns": end_ns - MINUTE_NS, "through_ns": end_ns}
    await ForecastStore(seeded).miss(["forecast:ar"], "binance", "BTCUSDT", **missed)
    assert (await forecaster.advance(), forecaster.late) == (0, 2)


async def test_forecasts_over_http_and_commands(
    gateway: Running,
    fks: Fks,
    seeded: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    await seal(seeded, BARS[:800])
    async with gateway.client("signal") as client:
        made = await client.post("/forecasts", json=SPEC)
        assert made.status_code == 202
        assert (made.json()["state"], made.json()["is_stored"]) == ("queued", False)
        assert (await client.post("/forecasts", json=SPEC)).json()["id"] == made.json()["id"]
        wrong = await client.post("/forecasts", json={**SPEC, "horizon": 0})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "SPEC_WRONG")
        unknown = await client.post("/forecasts", json={**SPEC, "symbols": ["NONSENSE"]})
        assert unknown.json()["code"] == "SYMBOL_UNKNOWN"
        assert (await client.get("/forecasts")).json()["items"] == []
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"folds": 2, "trees": 10}))
    train = ("forecast", "train", "ar", "-s", "BTCUSDT", "-t", "1m", "--spec", str(spec), "--json")
    code, _, err = await fks("ai", "train", "ar", "--spec", str(spec))
    assert (code, "give --symbol" in err) == (USAGE, True), err
    code, out, err = await fks(*train)
    assert (code, err) == (OK, "")
    assert json.loads(out)["version"] == 1
    code, out, _ = await fks("forecast", "list")
    assert (code, "candidate" in out, "passed" in out) == (OK, True, True)
    code, out, _ = await fks("ai", "evaluate", "ar")
    assert code == OK
    for words in ("skill against naive", "hit rate", "coverage of the 95% interval", "noise: passed", "licence MIT"):
        assert words in out
    code, out, _ = await fks("ai", "predict", "ar", "--json")
    assert (code, json.loads(out)["version"]) == (OK, 1)
    async with gateway.client("read") as client:
        for path in ("/forecasts", "/forecasts/BTC-USDT"):
            (item,) = (await client.get(path)).json()["items"]
            assert (item["model"], item["symbol"], item["origin"], item["state"]) == ("ar", "BTCUSDT", "backfill", "ok")
            assert item["time"] == iso(int(BARS.time_ns[799]) + MINUTE_NS)
            assert float(item["lower"]) < float(item["upper"])
        assert (await client.get("/forecasts/ETHUSDT")).json()["items"] == []
        (shown,) = (await client.get("/ai/models", params={"model": "ar"})).json()["items"]
        assert (shown["version"], shown["stage"], shown["drift"], shown["on_drift"]) == (1, "candidate", None, "alert")
        assert "reference" not in shown
    code, out, _ = await fks("forecast", "on-drift", "ar", "demote")
    assert (code, out.strip()) == (OK, "ar: when its live version drifts, demote")
    code, out, _ = await fks("forecast", "promote", "ar")
    assert (code, out.strip()) == (OK, "ar version 1 is shadow from the next bar on")
    await measure_drift(seeded)
    code, out, _ = await fks("forecast", "evaluate", "ar")
    assert (code, "drift of 0 of 200 predictions: none" in out) == (OK, True)
    await seeded.sql(
        "UPDATE ai_model_versions SET drift = drift || $1", {"findings": {"error": "error is 1.20", "coverage": "60 %"}}
    )
    code, out, _ = await fks("forecast", "list")
    assert (code, "error coverage" in out) == (OK, True)
    code, out, _ = await fks("ai", "models", "--json")
    (row,) = json.loads(out)["items"]
    assert (row["kind"], row["name"], row["state"]) == ("forecast", "ar 1", "shadow")
    await seal(seeded, BARS[800:801])
    await Forecaster(seeded, Paths.of(tmp_path).models, CollectingLog()).advance()
    async with gateway.client("read") as client:
        (item,) = (await client.get("/forecasts/BTCUSDT", params={"model": "ar.shadow"})).json()["items"]
        assert (item["feature"], item["model"], item["state"]) == ("forecast:ar.shadow", "ar", "ok")
        assert len((await client.get("/forecasts/BTCUSDT", params={"model": "ar"})).json()["items"]) > 1
    assert row["reason"] == "drifts: error is 1.20; 60 %"
    code, out, _ = await fks("ai", "models")
    assert (code, "ar 1" in out) == (OK, True)
    code, _, err = await fks("forecast", "promote", "ar")
    assert code == USAGE
    assert "of shadow" in err
    code, _, err = await fks("forecast", "rollback", "ar")
    assert code == USAGE
    assert "no version of it is live" in err
