"""Forecasts as durable work: training with a checkpoint per fold, backfill of predictions, and live predictions.

Each fold's artifact is a file `FKS_HOME/models/<fingerprint>/<fold>.json`, and so is the final model's, the last one. A
file that is there is not trained again: a killed job goes on behind its last fold, and ends with the same hashes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import orjson

import fks
from fks.ai.forecast import (
    BUILTIN,
    LEVELS,
    VOLATILITY_BARS,
    Fold,
    ForecastModel,
    ForecastSpec,
    MarketSpec,
    code_of,
    data_hash,
    features,
    inputs_hashes,
    panel_of,
    train,
    trainer_gpus,
    trainer_point,
)
from fks.ai.forecast_evaluation import drift, drift_rows, evaluation, leakage, reference, tested
from fks.model.bar import Bars, Ints
from fks.model.errors import InputError, OutageError, PeerError, conflict, unprocessable
from fks.model.features import column_of, forecast_wait_s
from fks.model.instrument import folded
from fks.model.timeframe import NS, iso, to_ns
from fks.research.backtest.gaps import ensure_whole, find_gaps
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored
from fks.research.jobs.predictions import ModelProcesses, NoAnswerError, add_predictions, no_row, parse_predictor
from fks.research.jobs.spec import checked_spec
from fks.research.search.splits import walk_forward
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.forecasts import ForecastStore, ModelVersion, Serving, add_version, end_drift, note_drift
from fks.store.reading import ReadingStore

if TYPE_CHECKING:
    from fks.model.ports import Log

KIND: Final = "forecast"
_CHECKS = 3  # of leakage, each about as much work as a fold
_INLINE_S = 0.005  # of a prediction: more of it is done in a thread
_COLUMNS = ("open", "high", "low", "close", "volume")
_FILL = "fill the gaps ('fks data sync'), or leave them out (--from, --to)"
_US = 1_000  # the database counts microseconds: the smallest step after a bar

Advance = Callable[[float], None]
S = TypeVar("S", bound=MarketSpec)


def parse_forecast(spec: Mapping[str, Any]) -> ForecastSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG naming the field, TIMEFRAME_UNKNOWN, INDICATOR_UNKNOWN,
    INDICATOR_PARAM."""
    return checked_spec(ForecastSpec, spec, "forecast", remedy="see docs/forecasts.md")


async def find_market(db: Database, spec: S) -> S:
    """Return a spec with its exchange, and its symbols as that exchange spells them. Errors: InputError
    SYMBOL_UNKNOWN; TRAINER_UNKNOWN when its trainer is not installed here."""
    if isinstance(spec, ForecastSpec) and spec.trainer != BUILTIN:
        trainer_point(spec.trainer)  # a wrong name is refused before a job is queued; nothing is loaded
    found = [await ReadingStore(db).find(symbol, spec.exchange) for symbol in spec.symbols]
    exchanges = sorted({one.exchange for one in found})
    if len(exchanges) > 1:
        raise unprocessable("SPEC_WRONG", f"the symbols are of {' and '.join(exchanges)}", "name one exchange")
    symbols = tuple(dict.fromkeys(one.symbol for one in found))
    return spec.model_copy(update={"exchange": exchanges[0], "symbols": symbols})


async def forecast_fingerprint(db: Database, spec: ForecastSpec) -> str:
    """Return the SHA-256 of a spec, of the code that trains it, and of the state of its stored bars, without reading
    these: for submission. Errors: as `code_of`."""
    code_hash, _, libraries = await asyncio.to_thread(code_of, spec)
    series = []
    for symbol in spec.symbols:
        found = await BarStore(db).series(symbol, spec.timeframe, exchange=str(spec.exchange))
        if found is not None and found.newest_ns is not None:
            newest = found.newest_ns if spec.end is None else min(found.newest_ns, to_ns(spec.end))
            series.append([symbol, found.revision, newest])
    versions = {"fks": fks.__version__, **libraries}
    document = {"spec": spec.as_json(), "series": series, "code": code_hash, "libraries": versions}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def _load(db: Database, spec: ForecastSpec, *, is_open: bool = False) -> dict[str, Bars]:
    """Return the stored bars of each symbol; with `is_open` those after the end of the spec, too."""
    start_ns = None if spec.start is None else to_ns(spec.start)
    end_ns = None if spec.end is None or is_open else to_ns(spec.end)
    found = {}
    for symbol in spec.symbols:
        request = BarsRequest(symbol, spec.exchange, spec.timeframe, start_ns, end_ns, 0)
        found[symbol] = (await load_stored(db, request)).bars
    return found


def folds_of(end_ns: Ints, spec: ForecastSpec) -> list[Fold]:
    """Return the walk-forward of the ends of all bars, and last the fold that trains the final model on all of them.

    Errors: InputError SPLITS_WRONG for too few bars.
    """
    times = np.unique(end_ns).tolist()
    splits = walk_forward(len(times), spec.folds, anchored=True, train_windows=spec.train_windows, gap=spec.gap)
    made = [Fold(times[s.train[0][1] - 1], times[s.test[0][0]], times[s.test[0][1] - 1]) for s in splits]
    return [*made, Fold(times[-1], times[-1], None)]


def trained(
    spec: ForecastSpec, series: Mapping[str, Bars], folder: Path, advance: Advance
) -> tuple[list[ForecastModel], dict[str, Any], dict[str, str | None], list[dict[str, Any]]]:
    """Return the models of all folds, the final one last, the evaluation, the checks for leakage, and the reference
    for drift.

    Models that `folder` has are not trained again, the others are written there as they are made. `advance` is called
    with the share that is done. Errors: InputError NO_DATA, SPLITS_WRONG, AI_NOT_INSTALLED; what `advance` raises.
    """
    panel = panel_of(series, spec)
    folds = folds_of(panel.end_ns, spec)
    work, models, parts = len(folds) + _CHECKS, list[ForecastModel](), []
    for number, fold in enumerate(folds):
        before = models[-1] if models else None
        file = folder / f"{number}.json"
        if file.exists():
            artifact = file.read_bytes()
            model = ForecastModel.load(artifact, hashlib.sha256(artifact).hexdigest())
        else:
            model = train(panel, spec, fold, before, folds[number - 1].test(panel) if before else None)
            _write(file, model.dump())
        models.append(model)
        if fold.test_end_ns is not None:
            parts.append(tested(panel, spec, fold, model))
        advance((number + 1) / work)
    metrics = evaluation(parts, spec)
    return models, metrics, leakage(series, spec, folds[:-1]), reference(folds[-1].train(panel), spec)


def _write(file: Path, data: bytes) -> None:
    """Write a file whole: a process that is killed leaves the file, or none of that name."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


async def run_forecast(
    spec: Mapping[str, Any],
    db: Database,
    models: Path,
    *,
    by: str,
    advance: Advance = lambda share: None,
    gpus: int = 0,
) -> dict[str, Any]:
    """Train, evaluate and check a model, add it as a version, and return that as JSON values (`fks.forecast/1`).

    The same spec, data, code and libraries again are the same version. `gpus`: reserved for this process. Errors:
    InputError SPEC_WRONG, SYMBOL_UNKNOWN, NO_DATA, TAPE_GAPS, SPLITS_WRONG, FORECAST_MARKET, AI_NOT_INSTALLED,
    TRAINER_UNKNOWN, TRAINER_FAILED; TRAINER_UNSCHEDULABLE for one that needs a GPU without any; OutageError; what
    `advance` raises.
    """
    wanted = await find_market(db, parse_forecast(spec))
    if trainer_gpus(wanted.trainer) > gpus:
        raise conflict(
            "TRAINER_UNSCHEDULABLE",
            f"trainer {wanted.trainer} needs a GPU, and no machine of the cluster has a free one for this process",
            "train by a job (POST /forecasts) while a machine has a free GPU: see 'fks ai doctor'",
        )
    series = await _load(db, wanted)
    for bars in series.values():  # a label counts bars: over a gap it is of another horizon
        ensure_whole(find_gaps(bars), _FILL)
    code_hash, licence, libraries = code_of(wanted)
    hash_of_data, versions = data_hash(series), {"fks": fks.__version__, **libraries}
    document = {"spec": wanted.as_json(), "data": hash_of_data, "code": code_hash, "libraries": versions}
    fingerprint = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    known = await ForecastStore(db).of_fingerprint(wanted.name, fingerprint)
    if known is not None:
        return known.shown()
    made, metrics, checks, known_rows = await asyncio.to_thread(trained, wanted, series, models / fingerprint, advance)
    panel_ends = np.concatenate([bars.time_ns for bars in series.values()]) + wanted.bar_ns
    folds = [
        {
            "hash": model.hash,
            "label_end": iso(model.label_end_ns),
            "from": iso(fold.test_ns),
            "to": None if fold.test_end_ns is None else iso(fold.test_end_ns),
        }
        for model, fold in zip(made, folds_of(panel_ends, wanted), strict=True)
    ]
    async with db.transaction() as tx:
        version = await add_version(
            tx,
            wanted.as_json(),
            exchange=str(wanted.exchange),
            timeframe=wanted.timeframe,
            bar_s=wanted.bar_ns // NS,
            fingerprint=fingerprint,
            data_hash=hash_of_data,
            artifact_hash=made[-1].hash,
            label_end_ns=made[-1].label_end_ns,
            libraries=versions,
            code_hash=code_hash,
            licence=licence,
            folds=folds,
            metrics=metrics,
            checks=checks,
            reference=known_rows,
            by=by,
        )
    return version.shown()


def load_model(models: Path, version: ModelVersion, number: int) -> ForecastModel:
    """Return the model of a fold from its file. Errors: InputError ARTIFACT_WRONG when it is missing or another one."""
    file = models / version.fingerprint / f"{number}.json"
    try:
        artifact = file.read_bytes()
    except OSError as error:
        raise conflict(
            "ARTIFACT_WRONG",
            f"the artifact of {version.model} version {version.version} cannot be read: {error}",
            "train the model again, or copy FKS_HOME/models from the machine that trained it",
        ) from None
    return ForecastModel.load(artifact, version.folds[number]["hash"])


async def backfill(db: Database, models: Path, version: ModelVersion) -> dict[str, Any]:
    """Predict the stored bars of the past, each by the fold that was trained before it and those after the last one by
    the final model, and return how many rows are new. Bars that have a prediction keep it.

    Errors: InputError ARTIFACT_WRONG, NO_DATA, AI_NOT_INSTALLED; OutageError. Of a version that is deployed
    `fks.research.jobs.predictions.fill_history` does it.
    """
    spec = parse_forecast(version.spec)
    series = await _load(db, spec, is_open=True)
    panel = await asyncio.to_thread(panel_of, series, spec)
    store, rows, new = ForecastStore(db), 0, 0
    for number, fold in enumerate(version.folds):
        model = load_model(models, version, number)
        first, last = (
            None if fold[edge] is None else to_ns(datetime.fromisoformat(fold[edge])) for edge in ("from", "to")
        )
        part = Fold(0, first or 0, last).test(panel)
        part = part.where(part.is_complete & (part.end_ns >= model.label_end_ns))
        made = await asyncio.to_thread(model.predict, part.x)
        low, high = made.intervals[LEVELS[0]]
        for place, symbol in enumerate(spec.symbols):
            own = part.symbol == place
            rows += int(own.sum())
            new += await store.add(
                version,
                column_of(version.model),
                symbol,
                end_ns=part.end_ns[own],
                value=made.value[own],
                interval=(low[own], high[own]),
                label_end_ns=model.label_end_ns,
                origin="backfill",
                artifact_hash=model.hash,
                inputs=inputs_hashes(part.x[own], spec),
            )
    return {"model": version.model, "version": version.version, "rows": rows, "new": new}


async def measure_drift(db: Database) -> str:
    """Measure the drift of each version in shadow or live on the newest predictions that it made live, and return how
    many drift. Alerts and demotions: `note_drift`; those of a version that cannot be measured stay as they are. Errors:
    OutageError."""
    store, lasting, count, faults = ForecastStore(db), list[tuple[str, int, str]](), 0, ""
    for version in await store.versions():
        if version.stage not in ("shadow", "live") or version.is_deployed:  # the rows that trained it are not known
            continue
        try:
            found = await _drift_of(db, version)
        except InputError as error:  # e.g. another build knows its indicators no more
            faults += f"; {version.model} {version.version} is not measured: {error.message}"
            before = {} if version.drift is None else version.drift["findings"]
            lasting += [(version.model, version.version, name) for name in before]
            continue
        stage = await note_drift(db, version.model, version.version, found)
        count += 1
        if stage != "retired":
            lasting += [(version.model, version.version, name) for name in found["findings"]]
    await end_drift(db, lasting)
    return f"{count} versions measured, {len({key[:2] for key in lasting})} drift{faults}"


async def _drift_of(db: Database, version: ModelVersion) -> dict[str, Any]:
    spec = parse_forecast(version.spec)
    columns = [column_of(version.model), column_of(version.model, is_shadow=True)]
    names = {folded(symbol): number for number, symbol in enumerate(spec.symbols)}
    limit = drift_rows(spec) + spec.horizon * len(spec.symbols)  # the newest have no label yet
    rows = await ForecastStore(db).predictions(columns, version.version, list(names), limit)
    made = {(names[symbol], to_ns(time)): figures for symbol, time, *figures in reversed(rows)}
    first_ns = min((end_ns for _, end_ns in made), default=version.created_ns)
    first_ns -= max(spec.bars, VOLATILITY_BARS + 1) * spec.bar_ns
    series = {
        symbol: await BarStore(db).read(symbol, version.timeframe, first_ns, exchange=version.exchange)
        for symbol in spec.symbols
    }

    def measured() -> dict[str, Any]:
        panel = panel_of(series, spec)
        keys = list(zip(panel.symbol.tolist(), panel.end_ns.tolist(), strict=True))
        part = panel.where(np.array([key in made for key in keys], dtype=bool))
        figures = np.array([made[key] for key in keys if key in made], dtype=np.float64).reshape(-1, 3)
        value, low, high = figures.T
        return drift(part, value, (low, high), spec, version.reference, version.metrics)

    return await asyncio.to_thread(measured)


class Forecaster:
    """Predicts each sealed bar with the versions in shadow and live; runs in the scheduler. Soft state: loaded models,
    up to which bar each version has predicted a symbol, the bars that it was predicted from, and the requests to the
    processes of deployed models, which delay nothing else."""

    def __init__(self, db: Database, models: Path, log: Log, processes: ModelProcesses | None = None) -> None:
        """`processes`: of deployed models; None where they cannot be reached."""
        self._store, self._bars = ForecastStore(db), BarStore(db)
        self._models, self._log, self._processes = models, log, processes
        self._asked: set[asyncio.Task[None]] = set()
        self._loaded: dict[str, tuple[ForecastModel, bool]] = {}  # and whether its predictions need a thread
        self._done: dict[tuple[str, int, str], int] = {}
        self._read: dict[tuple[str, int, str], tuple[int | None, Bars]] = {}  # with the revision of the series
        self.reads: frozenset[tuple[str, str]] = frozenset()  # symbol and timeframe of the bars that are predicted
        self.late = 0  # bars since the first of a version that it did not predict in time: nothing was stored
        self.failed = 0  # bars of which a deployed model made no value: nothing was stored

    async def advance(self) -> int:
        """Predict the bars that were sealed since the last call, and return how many rows are new, without those of
        deployed models, whose processes are asked meanwhile. A bar that was sealed longer ago than strategies wait is
        left out. Errors: OutageError."""
        serving = await self._store.serving()
        self.reads = frozenset((one.symbol, one.version.timeframe) for one in serving)
        keys = {(one.version.model, one.version.version, one.symbol) for one in serving}
        self._done = {key: bar for key, bar in self._done.items() if key in keys}
        self._read = {key: kept for key, kept in self._read.items() if key in keys}
        hashes = {one.version.artifact_hash for one in serving}
        self._loaded = {hash: loaded for hash, loaded in self._loaded.items() if hash in hashes}
        new = 0
        for one in serving:
            key = one.version.model, one.version.version, one.symbol
            if self._done.get(key, -1) >= one.sealed_ns:
                continue
            made, left_s = 0, forecast_wait_s(one.version.bar_s) - one.age_s
            if left_s >= 0 and one.version.is_deployed:
                asking = asyncio.create_task(self._ask(one, left_s, is_first=key not in self._done))
                self._asked.add(asking)
                asking.add_done_callback(self._asked.discard)
                self._done[key] = one.sealed_ns
                continue
            if left_s >= 0:
                made = await self._predict(one)
            else:
                self._log.debug("forecast.late", model=one.version.model, symbol=one.symbol, age_s=round(one.age_s, 1))
            new += made
            self.late += made == 0 and key in self._done
            self._done[key] = one.sealed_ns
        return new

    async def settle(self) -> None:
        """Wait until each deployed model that was asked has answered, or its time is over."""
        await asyncio.gather(*self._asked)

    def close(self) -> None:
        """Give up the requests to deployed models."""
        for asking in self._asked:
            asking.cancel()

    async def _ask(self, serving: Serving, left_s: float, *, is_first: bool) -> None:
        """Store the prediction of a deployed model that answers in time; a later one is not stored."""
        version, made, loop = serving.version, 0, asyncio.get_running_loop()
        deadline_s = loop.time() + left_s
        try:
            spec = parse_predictor(version.spec)
            end_ns = serving.sealed_ns + spec.bar_ns
            async with asyncio.timeout_at(deadline_s):
                bars = await self._bars_of(serving, spec.bars)
                is_newest = len(bars) > 0 and int(bars.time_ns[-1]) == serving.sealed_ns
                row = await asyncio.to_thread(spec.row, bars) if is_newest else None
            if row is None:
                raise no_row(spec, bars, end_ns)
            if self._processes is None:
                raise OutageError("processes of models cannot be reached from here")
            values = await self._processes.predict(version, spec, [row], deadline_s - loop.time())
            if not isfinite(values[0]):
                raise PeerError(f"the output of the bar that ended {iso(end_ns)} is not finite")
            made = await add_predictions(
                self._store, version, spec, serving.symbol, [end_ns], [row], values, is_live=True
            )
        except (NoAnswerError, OutageError, TimeoutError) as error:
            reason = str(error) or f"its bars were not read within {left_s:.3g} s"
            self._log.warning("forecast.unanswered", model=version.model, symbol=serving.symbol, error=reason)
        except (PeerError, InputError) as error:  # its answer, or a spec of another build
            self.failed += 1
            self._log.warning("forecast.failed", model=version.model, symbol=serving.symbol, error=str(error))
            return
        self.late += made == 0 and not is_first

    async def _predict(self, serving: Serving) -> int:
        version = serving.version
        value = low = high = np.full(1, np.nan)
        inputs: list[str | None] = [None]
        try:
            if version.artifact_hash not in self._loaded:
                self._loaded[version.artifact_hash] = await asyncio.to_thread(_loaded, self._models, version)
            model, is_slow = self._loaded[version.artifact_hash]
            bars = await self._bars_of(serving, model.spec.bars)
            x = features(bars, model.spec)[-1:]
            is_newest = len(bars) > 0 and int(bars.time_ns[-1]) == serving.sealed_ns
            if is_newest:
                inputs = [*inputs_hashes(x, model.spec)]
            if is_newest and np.isfinite(x).all():
                made = await asyncio.to_thread(model.predict, x) if is_slow else model.predict(x)
                value, (low, high) = made.value, made.intervals[LEVELS[0]]
        except InputError as error:
            self._log.error("forecast.refused", model=version.model, version=version.version, error=str(error))
        return await self._store.add(
            version,
            column_of(version.model, is_shadow=version.stage == "shadow"),
            serving.symbol,
            end_ns=np.array([serving.sealed_ns + version.bar_s * NS]),
            value=value,
            interval=(low, high),
            label_end_ns=version.label_end_ns,
            origin="live",
            artifact_hash=version.artifact_hash,
            inputs=inputs,
        )

    async def _bars_of(self, serving: Serving, count: int) -> Bars:
        """Return the newest bars up to the sealed one: those of the bar before with it behind them, where nothing else
        changed; else they are read."""
        version, prices = serving.version, [price for price in serving.bar or () if price is not None]
        key = version.model, version.version, serving.symbol
        revision, bars = self._read.get(key, (None, None))
        is_next = bars is not None and len(bars) and int(bars.time_ns[-1]) + version.bar_s * NS == serving.sealed_ns
        if bars is not None and is_next and revision == serving.revision is not None and len(prices) == len(_COLUMNS):
            columns = [np.append(getattr(bars, name), price) for name, price in zip(_COLUMNS, prices, strict=True)]
            bars = Bars(bars.symbol, bars.timeframe, np.append(bars.time_ns, serving.sealed_ns), *columns)[-count:]
        else:
            bars = await self._bars.read(
                serving.symbol,
                version.timeframe,
                0,
                serving.sealed_ns + _US,
                count,
                exchange=version.exchange,
                is_newest=True,
            )
        self._read[key] = serving.revision, bars
        return bars


def _loaded(models: Path, version: ModelVersion) -> tuple[ForecastModel, bool]:
    """Return the model of a version, ready to predict, and whether a prediction takes so long that it must not hold up
    the loop. Errors: as `load_model`; ARTIFACT_WRONG for one that the installed libraries cannot evaluate."""
    model = load_model(models, version, len(version.folds) - 1)
    row = np.zeros((1, len(model.spec.features)))
    try:
        model.predict(row)  # parses it
        begun = time.perf_counter()
        model.predict(row)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own
        text = f"the artifact of {version.model} version {version.version} cannot be evaluated: {error}"
        raise conflict(
            "ARTIFACT_WRONG", text[:500], "train the model again with the libraries of this machine"
        ) from None
    return model, time.perf_counter() - begun > _INLINE_S
