"""Models of forecasts, their versions and stages, and predictions, which are rows of own columns.

Stages: candidate → shadow → live → retired; a model has at most one version in shadow and one live. The live version
writes the column `forecast:<model>`, the one in shadow `forecast:<model>.shadow`. Of a bar the first row stays.
A model that is deployed (`fks.store.deployments`) has one version for each file and spec: live, and retired later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

from fks.model.bar import Floats, Ints
from fks.model.errors import InputError, conflict, not_found
from fks.model.features import column_of
from fks.model.instrument import folded
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.audit import AuditEntry, AuditStore
from fks.store.base import SqlStore, reads
from fks.store.db import Database, Querier, Row
from fks.store.facts import FactStore

#: a version predicts so many bars in shadow, and for so long, before it may go live
SHADOW_ROWS: Final = 20
SHADOW_S: Final = 86_400.0
_AT_ONCE = 10_000  # rows that one statement stores

Origin = Literal["live", "backfill"]
OnDrift = Literal["alert", "demote"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A row of ai_model_versions with the market of its model. `folds`: of the walk-forward, each with the `hash` of
    its artifact, `label_end`, and its test window `from` and `to` (None: of the final model). `reference` and `drift`:
    of `fks.ai.forecast_evaluation`, the latter None until it is measured. `code_hash`: of the sources that trained it,
    None for a version of before it was kept; `licence`: that the trainer's distribution states. `on_drift` is of the
    model."""

    model: str
    version: int
    stage: str
    fingerprint: str
    data_hash: str
    artifact_hash: str
    label_end_ns: int
    symbols: tuple[str, ...]
    spec: Mapping[str, Any]
    seed: int
    libraries: Mapping[str, str]
    folds: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    checks: Mapping[str, str | None]
    created_by: str
    created_ns: int
    staged_ns: int
    replaced: int | None
    reference: Sequence[Mapping[str, Any]]
    drift: Mapping[str, Any] | None
    code_hash: str | None
    licence: str | None
    exchange: str
    timeframe: str
    bar_s: int
    on_drift: OnDrift

    @property
    def is_deployed(self) -> bool:
        """Return whether the process of a deployment predicts, by a file that was trained elsewhere: without folds."""
        return not self.folds

    def shown(self) -> dict[str, Any]:
        """Return it as JSON values."""
        without = ("label_end_ns", "replaced", "reference", "bar_s")
        return json_fields(self, without=without, label_end=iso(self.label_end_ns))


_version = reads(ModelVersion, label_end_ns="label_end")


@dataclass(frozen=True, slots=True)
class Serving:
    """A version that predicts, a symbol, the open time of its newest sealed bar, and for how long that is stored.

    `bar`: its open, high, low, close and volume; None while it is not whole. Bars that were read at the same `revision`
    of the series are as they were.
    """

    version: ModelVersion
    symbol: str
    sealed_ns: int
    age_s: float
    revision: int | None
    bar: Sequence[float | None] | None


reads(Serving, sealed_ns="sealed_through")


class ForecastStore(SqlStore[Querier], queries="forecasts"):
    """The tables `ai_models` and `ai_model_versions`, and predictions in `feature_values`. Errors: OutageError."""

    async def versions(self, model: str | None = None) -> list[ModelVersion]:
        """Return the versions of a model, or of all, newest first."""

    async def find(self, model: str, version: int | None = None) -> ModelVersion:
        """Return a version of a model (None: the newest). Errors: InputError FORECAST_UNKNOWN."""
        found = [one for one in await self.versions(model) if version in (None, one.version)]
        if not found:
            what = f"model {model!r}" if version is None else f"version {version} of model {model!r}"
            raise not_found("FORECAST_UNKNOWN", f"there is no {what}", "see 'fks forecast list'")
        return found[0]

    async def of_fingerprint(self, model: str, fingerprint: str) -> ModelVersion | None:
        """Return the version that was trained with these inputs, or None."""

    async def serving(self) -> list[Serving]:
        """Return the versions in shadow and live by symbol with a live feed."""

    async def add(
        self,
        version: ModelVersion,
        column: str,
        symbol: str,
        *,
        end_ns: Ints,
        value: Floats,
        interval: tuple[Floats, Floats],
        label_end_ns: int,
        origin: Origin,
        artifact_hash: str,
        inputs: Sequence[str | None],
    ) -> int:
        """Store predictions of bars by their ends, and return how many are new. One whose value is NaN is `refused`.
        Of a bar that has a row that one stays. `inputs`: of each, the hash of its row of features
        (`fks.ai.forecast.inputs_hashes`), None for one that had none."""
        added = 0
        for start in range(0, len(value), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            is_ok = np.isfinite(value[part])
            bounds = ([None if np.isnan(x) else x for x in one[part].tolist()] for one in interval)
            rows = await self._db.fetch(
                "forecasts.add",
                column,
                folded(symbol),
                artifact_hash[:12],
                version.version,
                to_datetime(label_end_ns),
                origin,
                [to_datetime(one) for one in end_ns[part].tolist()],
                value[part].tolist(),
                *bounds,
                ["ok" if one else "refused" for one in is_ok.tolist()],
                list(inputs[part]),
            )
            added += len(rows)
        return added

    async def awaited(
        self, columns: Sequence[str], exchange: str, symbol: str, *, after_ns: int, through_ns: int
    ) -> int | None:
        """Return the end of the first sealed bar that ended in (after, through] and of which a column has no row yet;
        None when all have one."""
        row = await self._db.fetchrow(
            "forecasts.awaited",
            list(columns),
            exchange,
            symbol,
            folded(symbol),
            *map(to_datetime, (after_ns, through_ns)),
        )
        return None if row is None or row["first"] is None else to_ns(row["first"])

    async def miss(self, columns: Sequence[str], exchange: str, symbol: str, *, after_ns: int, through_ns: int) -> None:
        """Record that columns had no prediction of the bars that ended in (after, through] when they were needed."""
        await self._db.execute(
            "forecasts.miss", list(columns), exchange, symbol, folded(symbol), *map(to_datetime, (after_ns, through_ns))
        )

    async def set_stage(self, model: str, version: int, stage: str, replaced: int | None) -> None:
        """Move a version to a stage; `replaced`: the live version whose place it takes."""

    async def set_drift(self, model: str, version: int, drift: Mapping[str, Any]) -> None:
        """Keep the drift of a version."""

    async def predictions(
        self, columns: Sequence[str], version: int, symbols: Sequence[str], limit: int
    ) -> list[tuple[str, datetime, float, float, float]]:
        """Return the newest predictions that a version made live: folded symbol, end of the bar, value and interval."""

    async def ends_of(self, column: str, symbol: str) -> Ints:
        """Return the ends of the bars of which a column has a row. Shape: (rows,)."""
        return np.array(await self._db.fetchval("forecasts.ends_of", column, folded(symbol)), dtype=np.int64) * 1_000

    async def note(self, entry: AuditEntry) -> None:
        """Add a row to the audit, in the transaction of the change."""
        await AuditStore(self._db).add(entry)

    async def latest(self, symbol: str | None = None, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest prediction of each model and symbol, or of one symbol, as JSON values."""
        return _predictions(await self._db.fetch("forecasts.latest", None if symbol is None else folded(symbol), limit))

    async def of_model(self, model: str, symbol: str, *, from_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return the newest predictions of a model and symbol from a time on, newest first, as `latest` does."""
        rows = await self._db.fetch("forecasts.of_model", model, folded(symbol), to_datetime(from_ns), limit)
        return _predictions(rows)


def _predictions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    times = ("time", "label_end", "recorded_at")
    return [
        {key: iso(to_ns(value)) if key in times and value is not None else value for key, value in row.items()}
        | {"value": None if np.isnan(row["value"]) else row["value"]}
        for row in rows
    ]


async def add_version(
    tx: Querier,
    spec: Mapping[str, Any],
    *,
    exchange: str,
    timeframe: str,
    bar_s: int,
    fingerprint: str,
    data_hash: str,
    artifact_hash: str,
    label_end_ns: int,
    libraries: Mapping[str, str],
    code_hash: str | None,
    licence: str | None,
    folds: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    checks: Mapping[str, str | None],
    reference: Sequence[Mapping[str, Any]],
    by: str,
) -> ModelVersion:
    """Add the next version of a model, a candidate; return that of the fingerprint if there is one. `tx`: a
    transaction.

    Errors: InputError FORECAST_MARKET for a model of another exchange or timeframe, or one that is deployed where the
    new version was trained here, or the other way round.
    """
    model, store = str(spec["name"]), ForecastStore(tx)
    row = await tx.fetchrow("forecasts.add_model", model, exchange, timeframe, bar_s, by)
    assert row is not None
    if (row["exchange"], row["timeframe"]) != (exchange, timeframe):
        raise conflict(
            "FORECAST_MARKET",
            f"model {model} is of {row['timeframe']} bars of {row['exchange']}, not {timeframe} of {exchange}",
            "give the model of another market another name",
        )
    if any(one.is_deployed != (not folds) for one in await store.versions(model)):
        others, own = ("trained here", "deployed") if not folds else ("deployed", "trained here")
        raise conflict(
            "FORECAST_MARKET",
            f"the versions of model {model} are {others}, and this one is {own}",
            "give it another name",
        )
    await tx.execute(
        "forecasts.add_version",
        model,
        fingerprint,
        data_hash,
        artifact_hash,
        to_datetime(label_end_ns),
        list(spec["symbols"]),
        dict(spec),
        int(spec.get("seed", 0)),
        dict(libraries),
        list(folds),
        dict(metrics),
        dict(checks),
        list(reference),
        code_hash,
        licence,
        by,
    )
    made = await store.of_fingerprint(model, fingerprint)
    assert made is not None
    return made


async def promote(db: Database, model: str, version: int | None, *, now_ns: int, by: str) -> ModelVersion:
    """Move a version to its next stage, candidate to shadow or shadow to live, and return it; the one there retires.

    Errors: InputError FORECAST_UNKNOWN; PROMOTION_REFUSED for a failed check, before it was long enough in shadow, or
    for a version that is live or retired.
    """
    async with db.transaction() as tx:
        store = ForecastStore(tx)
        await tx.fetchrow("forecasts.hold", model)
        found = await store.find(model, version)
        _ensure_trained(found)
        failed = [f"{name}: {reason}" for name, reason in found.checks.items() if reason is not None]
        if not found.checks or not found.metrics:
            raise _refused(found, "it was not evaluated", "train it again")
        if failed:
            raise _refused(found, "; ".join(failed), "a feature or label uses bars of the future: correct the spec")
        if found.stage == "candidate":
            return await _enter(store, found, "shadow", by=by)
        if found.stage != "shadow":
            raise _refused(found, f"it is {found.stage}", "promote a candidate or a version in shadow")
        rows = await tx.fetchval("forecasts.predicted", model, found.version, column_of(model, is_shadow=True))
        hours = (now_ns - found.staged_ns) / 3.6e12
        if rows < SHADOW_ROWS or hours * 3600 < SHADOW_S:
            raise _refused(
                found,
                f"it predicted {rows} bars in {hours:.1f} h of shadow",
                f"wait for {SHADOW_ROWS} bars and {SHADOW_S / 3600:.0f} h",
            )
        return await _enter(store, found, "live", by=by)


async def _enter(store: ForecastStore, version: ModelVersion, stage: str, *, by: str) -> ModelVersion:
    """Move a version to a stage that one version has, and retire the one that is there."""
    there = next((one for one in await store.versions(version.model) if one.stage == stage), None)
    if there is not None:
        await _stage(store, there, "retired", by=by)
    replaced = None if there is None or stage != "live" else there.version
    return await _stage(store, version, stage, by=by, replaced=replaced)


async def rollback(db: Database, model: str, *, by: str) -> ModelVersion | None:
    """Retire the live version of a model and make the one that it replaced live again, from the next bar on; return
    that one, or None when there was none. Errors: InputError FORECAST_UNKNOWN; PROMOTION_REFUSED when none is live."""
    async with db.transaction() as tx:
        store = ForecastStore(tx)
        await tx.fetchrow("forecasts.hold", model)
        versions = await store.versions(model)
        live = next((one for one in versions if one.stage == "live"), None)
        if live is None:
            raise _refused(await store.find(model), "no version of it is live", "see 'fks forecast list'")
        _ensure_trained(live)
        await _stage(store, live, "retired", by=by)
        before = next((one for one in versions if one.version == live.replaced), None)
        return None if before is None else await _stage(store, before, "live", by=by)


async def enter_live(tx: Querier, version: ModelVersion, *, by: str) -> ModelVersion:
    """Have a deployed version predict in place of the one before, and return it as it is now. `tx`: a transaction."""
    return version if version.stage == "live" else await _enter(ForecastStore(tx), version, "live", by=by)


async def retire_deployed(tx: Querier, model: str, *, by: str) -> None:
    """Have the live version of a deployed model predict no more; other models stay as they are. `tx`: a transaction."""
    store = ForecastStore(tx)
    for one in await store.versions(model):
        if one.is_deployed and one.stage == "live":
            await _stage(store, one, "retired", by=by)


async def set_on_drift(db: Database, model: str, on_drift: OnDrift, *, by: str) -> ModelVersion:
    """Set what follows when the live version of a model drifts: an alert alone, or that it is moved to shadow, too.
    Return its newest version. Errors: InputError FORECAST_UNKNOWN."""
    async with db.transaction() as tx:
        store = ForecastStore(tx)
        found = await store.find(model)
        await tx.execute("forecasts.set_on_drift", model, on_drift)
        await store.note(AuditEntry("", by, "user", "forecast.on_drift", model, detail={"on_drift": on_drift}))
        return await store.find(model, found.version)


async def note_drift(db: Database, model: str, version: int, drift: Mapping[str, Any]) -> str | None:
    """Keep the drift of a version in shadow or live, with one open alert for each of its `findings` (a text by
    condition), which ends with it. Where its model's row says so, a live one that drifts leaves the stage in the same
    transaction. Return the stage to which it was moved, else None.

    It goes to shadow; where another version is in shadow, that one stays there and this one retires.
    """
    findings: Mapping[str, str] = drift["findings"]
    async with db.transaction() as tx:
        store, facts = ForecastStore(tx), FactStore(tx)
        await tx.fetchrow("forecasts.hold", model)
        found = await store.find(model, version)
        if found.stage not in ("shadow", "live"):
            return None  # it was retired since it was measured
        await store.set_drift(model, version, drift)
        for condition, text in findings.items():
            about = {"model": model, "version": version, "condition": condition}
            message = (
                f"model {model} version {version} ({found.stage}) drifts: {text}. See 'fks forecast evaluate {model}'."
            )
            key = _drift_key(model, version, condition)
            await facts.note_alert("warning", "forecast.drift", message, "scheduler", about, key)
        if not findings or found.stage != "live" or found.on_drift != "demote":
            return None
        has_shadow = any(one.stage == "shadow" for one in await store.versions(model))
        stage = "retired" if has_shadow else "shadow"
        await _stage(store, found, stage, by="drift", reason="; ".join(findings.values()))
        message = (
            f"model {model} has no live version from the next bar on: version {version} drifts and is {stage} now."
        )
        about = {"model": model, "version": version}
        await facts.note_alert("warning", "forecast.demoted", message, "scheduler", about)
        return stage


async def end_drift(db: Database, lasting: Collection[tuple[str, int, str]]) -> None:
    """End the alerts of drift but those of `lasting`: model, version and condition."""
    facts, kept = FactStore(db), {_drift_key(*one) for one in lasting}
    over = [key for key in await facts.open_conditions("forecast.drift") if key not in kept]
    if over:
        await facts.end_alert("the model no longer drifts, or predicts no more", *over)


def _drift_key(model: str, version: int, condition: str) -> str:
    return f"forecast.drift:{model}:{version}:{condition}"


async def _stage(
    store: ForecastStore, version: ModelVersion, stage: str, *, by: str, replaced: int | None = None, reason: str = ""
) -> ModelVersion:
    """Move a version to a stage and record it in the audit."""
    await store.set_stage(version.model, version.version, stage, replaced)
    about, detail = f"{version.model} {version.version}", {"from": version.stage}
    if reason:
        detail["reason"] = reason
    await store.note(AuditEntry("", by, "user", f"forecast.{stage}", about, detail=detail))
    return await store.find(version.model, version.version)


def _ensure_trained(version: ModelVersion) -> None:
    if version.is_deployed:
        raise _refused(
            version, "it is deployed", "deploy another file ('fks ai deploy'), or end it ('fks ai undeploy')"
        )


def _refused(version: ModelVersion, why: str, remedy: str) -> InputError:
    text = f"{version.model} version {version.version} ({version.stage}) is not moved: {why}"
    return conflict("PROMOTION_REFUSED", text, remedy)
