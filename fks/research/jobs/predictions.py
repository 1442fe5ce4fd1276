"""Predictions by the processes of deployed models: the request to a replica, and the durable job that fills history.

A sealed bar and history ask the same process, with rows of the same bars, one row at a time: their values are equal
bit for bit. `fks.research.jobs.forecast.Forecaster` predicts the sealed bars.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from fks.ai.engines.port import FeatureRows, InferenceCall
from fks.ai.forecast import inputs_hashes
from fks.ai.predictor import PredictorSpec
from fks.clock import Clock
from fks.model.bar import Bars, Floats
from fks.model.errors import OutageError, PeerError, unprocessable
from fks.model.features import column_of
from fks.model.timeframe import iso
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored
from fks.research.jobs.spec import checked_spec
from fks.store.bars import BarStore
from fks.store.db import Database, Querier
from fks.store.deployments import DeploymentStore
from fks.store.forecasts import ForecastStore, ModelVersion
from fks.store.jobs import JobStore

KIND: Final = "predictions"
_COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")
_AGAIN_S = 0.05  # between two looks for a replica that serves
_ROWS: Final = 64  # of one request for history: those of sealed bars wait for no more
AWAY_S: Final = 600.0  # for how long a job waits for an answer: a large file loads for minutes


class NoAnswerError(PeerError):
    """No process of the model answered in time."""


def parse_predictor(spec: Mapping[str, Any]) -> PredictorSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field, TIMEFRAME_UNKNOWN, INDICATOR_UNKNOWN,
    INDICATOR_PARAM."""
    return checked_spec(PredictorSpec, spec, "predict", remedy="see docs/ai.md#models-that-trade")


class ModelProcesses:
    """The processes of deployed models that predict. Holds nothing."""

    def __init__(self, db: Database, call: InferenceCall, clock: Clock) -> None:
        self._deployments, self._versions = DeploymentStore(db), ForecastStore(db)
        self._call, self._clock = call, clock

    async def predict(
        self, version: ModelVersion, spec: PredictorSpec, rows: Sequence[Floats], timeout_s: float
    ) -> list[float]:
        """Return the value of each row, which may not be finite. A request whose process dies, is busy or serves the
        file before goes to another replica, or to the same one later, until the time is over. One that hangs leaves the
        others their share of it.

        Errors: PeerError for rows that the model cannot take; NoAnswerError, at once for a version that is retired;
        OutageError of the database.
        """
        loop, reason = asyncio.get_running_loop(), "no replica serves"
        end_s, inputs = loop.time() + timeout_s, [spec.named(row) for row in rows]
        try:
            async with asyncio.timeout_at(end_s):
                while True:
                    ready = await self._ready(version)
                    for number, child in enumerate(ready):
                        share_s = (end_s - loop.time()) / (len(ready) - number)
                        asked = FeatureRows(inputs, spec.output, version.artifact_hash, share_s)
                        reason = f"{child}: no answer"
                        try:
                            async with asyncio.timeout(share_s):
                                return _values(await self._call(child, asked.message()), len(rows))
                        except OutageError as error:
                            reason = f"{child}: {error}"
                        except TimeoutError:
                            pass  # the next one, if there is time
                    await self._clock.sleep(_AGAIN_S)
        except TimeoutError:
            raise NoAnswerError(f"no prediction of {version.model} within {timeout_s:.3g} s: {reason}") from None

    async def _ready(self, version: ModelVersion) -> list[str]:
        """Return the replicas of a model that are ready; one may have the file before still."""
        if reason := _retired(await self._versions.find(version.model, version.version)):
            raise NoAnswerError(reason)
        rows = await self._deployments.all()
        return [child for row in rows if row["name"] == version.model for child in row["ready"]]


def _retired(version: ModelVersion) -> str:
    """Return that a version predicts no more; "" for one that does."""
    return "" if version.stage == "live" else f"version {version.version} of {version.model} is {version.stage}"


def _values(answer: Mapping[str, Any], count: int) -> list[float]:
    if "refused" in answer:  # busy, too late there, or another model
        raise OutageError(str(answer["refused"]))
    values = answer.get("values")
    if not isinstance(values, list) or [type(value) for value in values] != [float] * count:
        raise PeerError(str(answer.get("error") or "the process sent other values than one number for each row"))
    return values


async def submit_history(db: Querier, version: ModelVersion, *, by: str) -> dict[str, Any]:
    """Queue the job that fills the history of a deployed model, and return it. `db`: a database, or a transaction.

    Errors: InputError AI_DEPLOYMENT for a version that is retired.
    """
    if reason := _retired(version):
        raise unprocessable("AI_DEPLOYMENT", reason, "deploy its file and features again ('fks ai deploy')")
    job_id = await JobStore(db).submit(KIND, {"model": version.model, "version": version.version}, submitted_by=by)
    return {"model": version.model, "version": version.version, "job": str(job_id)}


async def fill_history(
    db: Database,
    processes: ModelProcesses,
    version: ModelVersion,
    advance: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Predict the stored bars since the end of the data that trained a deployed model, and return how many rows are
    new. Bars that have a row are not asked for again. A bar has none where a feature or the value is not finite
    (`without`).

    Errors: InputError NO_DATA; those of `ModelProcesses.predict`; what `advance` raises.
    """
    spec, store, new, without = parse_predictor(version.spec), ForecastStore(db), 0, 0
    for place, symbol in enumerate(spec.symbols):
        bars = await _stored(db, version, symbol)
        ends = bars.time_ns + spec.bar_ns
        have = await store.ends_of(column_of(version.model), symbol)
        is_wanted = (ends >= version.label_end_ns) & ~np.isin(ends, have)
        wanted = np.flatnonzero(is_wanted[spec.bars - 1 :]) + spec.bars - 1
        for start in range(0, len(wanted), _ROWS):
            advance((place + start / len(wanted)) / len(spec.symbols))
            asked = wanted[start : start + _ROWS].tolist()
            found = await asyncio.to_thread(_rows, spec, bars, asked)
            values = await processes.predict(version, spec, [*found.values()], AWAY_S) if found else []
            kept = [item for item in zip(found.items(), values, strict=True) if isfinite(item[1])]
            without += len(asked) - len(kept)
            numbers, rows = [number for (number, _), _ in kept], [row for (_, row), _ in kept]
            new += await add_predictions(
                store, version, spec, symbol, ends[numbers], rows, [value for _, value in kept], is_live=False
            )
    return {"model": version.model, "version": version.version, "new": new, "without": without}


async def _stored(db: Database, version: ModelVersion, symbol: str) -> Bars:
    """Return the stored bars as a sealed one is predicted from them, and bars made of minutes before the first one."""
    request = BarsRequest(symbol, version.exchange, version.timeframe, None, None, 0)
    older = (await load_stored(db, request)).bars
    newer = await BarStore(db).read(symbol, version.timeframe, 0, exchange=version.exchange)
    if len(newer):
        older = older[: int(np.searchsorted(older.time_ns, newer.time_ns[0]))]
    columns = [np.concatenate([getattr(part, name) for part in (older, newer)]) for name in _COLUMNS]
    return Bars(symbol, version.timeframe, *columns)


def _rows(spec: PredictorSpec, bars: Bars, numbers: Sequence[int]) -> dict[int, Floats]:
    """Return the rows of features of bars by their number, without those that are not complete."""
    found = {number: spec.row(bars[: number + 1]) for number in numbers}
    return {number: row for number, row in found.items() if row is not None}


async def add_predictions(
    store: ForecastStore,
    version: ModelVersion,
    spec: PredictorSpec,
    symbol: str,
    end_ns: Any,
    rows: Sequence[Floats],
    values: Sequence[float],
    *,
    is_live: bool,
) -> int:
    """Store the values of bars by their ends, and return how many are new."""
    none = np.full(len(values), np.nan)
    return await store.add(
        version,
        column_of(version.model),
        symbol,
        end_ns=np.asarray(end_ns),
        value=np.asarray(values),
        interval=(none, none),
        label_end_ns=version.label_end_ns,
        origin="live" if is_live else "backfill",
        artifact_hash=version.artifact_hash,
        inputs=inputs_hashes(np.array(rows), spec),
    )


def no_row(spec: PredictorSpec, bars: Bars, end_ns: int) -> PeerError:
    """Return the error for a bar without a row of features. `bars`: the stored ones, up to it."""
    if not len(bars) or int(bars.time_ns[-1]) + spec.bar_ns != end_ns:
        return PeerError(f"the bar that ended {iso(end_ns)} is not complete")
    if len(bars) < spec.bars:
        return PeerError(f"{len(bars)} bars are stored up to {iso(end_ns)}, and its features need {spec.bars}")
    return PeerError(f"a feature of the bar that ended {iso(end_ns)} is not finite")
