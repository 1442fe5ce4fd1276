"""Forecasts: the newest prediction of each model, its versions, and the training of models as durable jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.jobs import Again, Key, Priority, plain, submit_once, view
from fks.interfaces.api.query import Body, Gate, JsonObject, Limit, Reader, Signaller, moment
from fks.interfaces.api.routing import Router, takes
from fks.model.timeframe import to_ns
from fks.store.forecasts import ForecastStore
from fks.store.jobs import JobStore

router = Router(tags=["forecasts"])


class ForecastBody(Body):
    """Specification of a model, for OpenAPI; `fks.ai.forecast.ForecastSpec` checks it."""

    name: str = Field(description="of the model: small letters, digits and _; strategies declare forecast:<name>")
    symbols: list[str] = Field(description="BTCUSDT, BTC/USDT or BTC-USDT")
    exchange: str | None = Field(None, description="whose bars; default the one that is collected, or has bars")
    timeframe: str = "1h"
    from_: str | None = Field(None, alias="from", description="first bar, ISO 8601; default all that is stored")
    to: str | None = Field(None, description="exclusive")
    features: list[dict[str, Any]] | None = Field(
        None, description="indicators: name, params, output, relative (to the close), shift (bars ago)"
    )
    label: str = Field("return", description="return, direction or triple_barrier")
    barrier: float = Field(1.0, description="of triple_barrier: standard deviations of a bar times sqrt(horizon)")
    horizon: int = Field(1, description="bars")
    quantiles: list[float] = Field([0.1, 0.5, 0.9], description="the outer two make the interval")
    folds: int = Field(5, description="test windows of the walk-forward")
    train_windows: int = Field(3, description="length of the first training window, in test windows")
    purge: int | None = Field(None, description="bars before a test window that train nothing; default the horizon")
    embargo: int = Field(0, description="further such bars")
    trainer: str = Field("lightgbm", description="or the name of an installed one")
    trainer_params: dict[str, bool | int | float | str] | None = Field(None, description="of another trainer")
    trees: int = Field(100, description="of each booster of lightgbm")
    seed: int = 1


@router.post("/forecasts", status_code=202, openapi_extra=takes(ForecastBody))
async def submit(
    gate: Gate, caller: Signaller, body: JsonObject, key: Key = None, again: Again = False, priority: Priority = 0
) -> ExactJson:
    """Queue the training of a model and return the job's id. Its result is a candidate version with its evaluation and
    the checks for leakage; it predicts once a person promotes it. The same one on the same data was trained before: its
    job is returned, with `is_stored`; posted again it shows how far it is."""
    from fks.research.jobs.forecast import KIND, find_market, forecast_fingerprint, parse_forecast

    spec = await find_market(gate.db, parse_forecast(plain(body)))
    fingerprint = await forecast_fingerprint(gate.db, spec)
    job_id, is_stored = await submit_once(
        gate, caller, KIND, spec.as_json(), fingerprint=fingerprint, key=key, again=again, priority=priority
    )
    job = await JobStore(gate.db).get(job_id)
    assert job is not None
    return ExactJson({**view(job), "is_stored": is_stored}, status_code=202)


@router.get("/ai/models")
async def models(
    gate: Gate, caller: Reader, model: Annotated[str | None, Query(max_length=64, description="of this model")] = None
) -> ExactJson:
    """List the versions of models of forecasts, newest first: stage, spec, hashes, evaluation, checks for leakage, the
    drift that was measured last, and what follows when a live one drifts (`on_drift`)."""
    return ExactJson({"items": [one.shown() for one in await ForecastStore(gate.db).versions(model)], "next": None})


@router.get("/forecasts")
async def forecasts(gate: Gate, caller: Reader, limit: Limit = 100) -> ExactJson:
    """Return the newest prediction of each model and symbol: value, 80 % interval, version, state, and the end of the
    bar that it was made from (`time`)."""
    return ExactJson({"items": await ForecastStore(gate.db).latest(limit=limit), "next": None})


@router.get("/forecasts/{symbol}")
async def forecasts_of(
    gate: Gate,
    caller: Reader,
    symbol: Annotated[str, Path(max_length=64)],
    model: Annotated[
        str | None,
        Query(
            max_length=64,
            description="the predictions of this one, newest first; NAME.shadow: of its version in shadow",
        ),
    ] = None,
    from_: Annotated[str | None, Query(alias="from", max_length=64, description="with model: ISO 8601")] = None,
    limit: Limit = 100,
) -> ExactJson:
    """Return the newest prediction of each model of a symbol, or the newest ones of one model."""
    store = ForecastStore(gate.db)
    if model is None:
        return ExactJson({"items": await store.latest(symbol, limit=limit), "next": None})
    start = moment(from_, "from")
    items = await store.of_model(model, symbol, from_ns=0 if start is None else to_ns(start), limit=limit)
    return ExactJson({"items": items, "next": None})
