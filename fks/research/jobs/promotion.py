"""Promotion of a search's parameters to a strategy instance, and the way back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fks.model.errors import InputError, conflict, not_found
from fks.research.jobs.checking import CHECK_S, checked_in_thread
from fks.research.jobs.instances import change_params, ensure_collected, held_instance, unknown_instance
from fks.store.db import Database, Transaction
from fks.store.jobs import JobRow, JobStore
from fks.store.strategies import Instance, ParameterVersion, StrategyStore
from fks.strategies.check import ensure_checked
from fks.strategies.registry import Catalogue

_REFUSED = "PROMOTION_REFUSED"
PAPER_S = 86_400.0  # parameters run on paper for so long before a live instance may have them


async def promote(
    db: Database,
    catalogue: Catalogue,
    search_id: uuid.UUID,
    instance_id: str,
    *,
    by: str,
    despite_findings: bool = False,
    request: uuid.UUID | None = None,
    check_s: float = CHECK_S,
) -> dict[str, Any]:
    """Give the best parameters of a search to an instance as its next version, and return it as JSON values.

    `request`: the caller's id of this request; made again, the version of the first time is returned.
    Errors: InputError OPTIMIZATION_UNKNOWN, INSTANCE_UNKNOWN, PROMOTION_REFUSED, IDEMPOTENCY_CONFLICT,
    STRATEGY_SLOW after `check_s` seconds; of the strategy.
    """
    job = await JobStore(db).get(search_id)
    if job is None:
        raise not_found("OPTIMIZATION_UNKNOWN", f"there is no optimization {search_id}", "see 'fks optimize list'")
    made: dict[str, Any] | None = None
    while True:
        async with db.transaction() as tx:
            row, mode = await _held(tx, instance_id)
            done = await _done(tx, request, instance_id, lambda kept: kept.get("optimization") == str(search_id))
            if done is not None:
                return _document(instance_id, mode, done)
            params = ((job.result or {}).get("best") or {}).get("all_params") or {}
            on_paper_s = await StrategyStore(tx).on_paper_s(str(search_id), params)
            found, provenance = promotable(
                job, row, mode=mode, on_paper_s=on_paper_s, despite_findings=despite_findings
            )
            if made is not None:  # of the search's strategy, which is the instance's: `promotable` compared them
                return await _write(tx, row, mode, made, provenance, by=by, request=request)
        made, inputs = await checked_in_thread(
            row.strategy, partial(_checked, catalogue, row.strategy, found), limit_s=check_s
        )
        await ensure_collected(db, inputs, row.exchange)


def _checked(catalogue: Catalogue, strategy: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of a strategy that passed its check, and the further symbols that it reads."""
    made = catalogue.make(strategy, params)
    ensure_checked(made)
    return made.model_dump(mode="json"), made.inputs()


async def rollback(
    db: Database, catalogue: Catalogue, instance_id: str, *, by: str, request: uuid.UUID | None = None
) -> dict[str, Any]:
    """Give an instance the parameters back that the ones in force replaced, as its next version, and return it as JSON
    values. `request` and errors: as `promote`."""
    async with db.transaction() as tx:
        row, mode = await _held(tx, instance_id)
        done = await _done(tx, request, instance_id, lambda kept: "rolled_back_to" in kept)
        if done is not None:
            return _document(instance_id, mode, done)
        before = version_before(await StrategyStore(tx).versions(instance_id))
        made = catalogue.make(row.strategy, before.params)
        await ensure_collected(tx, made.inputs(), row.exchange)
        provenance = {"rolled_back_to": before.version, "from": row.params_version}
        return await _write(tx, row, mode, made.model_dump(mode="json"), provenance, by=by, request=request)


async def _held(tx: Transaction, instance_id: str) -> tuple[Instance, str]:
    """Return an instance, whose row is held until the transaction ends, and the mode of its account."""
    row, mode = await held_instance(tx, instance_id), await StrategyStore(tx).mode(instance_id)
    if mode is None:
        raise unknown_instance(instance_id)
    return row, mode


async def _done(
    tx: Transaction, request: uuid.UUID | None, instance_id: str, is_same: Callable[[Mapping[str, Any]], bool]
) -> ParameterVersion | None:
    """Return the version that a request made before. Errors: InputError IDEMPOTENCY_CONFLICT: it was another one."""
    known = None if request is None else await StrategyStore(tx).version_of_request(str(request))
    if known is None:
        return None
    owner, version = known
    if owner != instance_id or not is_same(version.provenance or {}):
        raise conflict(
            "IDEMPOTENCY_CONFLICT",
            "the Idempotency-Key was used for another change of parameters",
            "use a new key for a new change",
        )
    return version


async def _write(
    tx: Transaction,
    row: Instance,
    mode: str,
    params: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    by: str,
    request: uuid.UUID | None,
) -> dict[str, Any]:
    kept = dict(provenance) if request is None else {**provenance, "request": str(request)}
    version = await change_params(tx, row, params, by=by, provenance=kept, code=_REFUSED)
    return _document(row.id, mode, ParameterVersion(version, params, by, 0, kept))


def _document(instance_id: str, mode: str, made: ParameterVersion) -> dict[str, Any]:
    provenance = dict(made.provenance or {})
    return {
        "instance": instance_id,
        "version": made.version,
        "mode": mode,
        "params": dict(made.params),
        "back_to": provenance.get("rolled_back_to"),
        "provenance": provenance,
    }


def promotable(
    job: JobRow, instance: Instance, *, mode: str, on_paper_s: float | None, despite_findings: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters for `instance` and their provenance. Only parameters change: never account nor venue.

    `mode`: of the instance's account; `on_paper_s`: for how long an instance on paper has had these parameters.
    Errors: InputError PROMOTION_REFUSED: no result, another strategy or market, findings against the parameters, or a
    live account before the parameters ran on paper for a day.
    """
    document = job.result
    if job.kind != "optimization" or job.state != "done" or document is None:
        raise _refused(f"{job.kind} {job.id} is {job.state}", "promote a finished search: 'fks optimize list'")
    for name, here in (("strategy", instance.strategy), ("symbol", instance.symbol), ("timeframe", instance.timeframe)):
        if document[name] != here:
            raise _refused(
                f"the search is of {name} {document[name]}, and instance {instance.id} has {here}",
                "promote to an instance of the same strategy and market",
            )
    findings: Sequence[str] = document["findings"]
    if findings and not despite_findings:
        raise _refused(
            f"{len(findings)} finding(s) speak against these parameters: {'; '.join(findings)}",
            "search with more bars or fewer trials; or --despite-findings, at your own risk",
        )
    if mode != "paper" and (on_paper_s is None or on_paper_s < PAPER_S):
        ran = "never ran on paper" if on_paper_s is None else f"have run on paper for {on_paper_s / 3600:.1f} h"
        raise _refused(
            f"instance {instance.id} trades live, and these parameters {ran}",
            "promote them to an instance on a paper account first, and wait a day",
        )
    params = dict(document["best"]["all_params"])
    overfitting, outside = document["overfitting"], document["out_of_sample"]
    provenance = {
        "optimization": str(job.id),
        "inputs_hash": document["inputs_hash"],
        "replaced": instance.params_version,
        "objectives": document["objectives"],
        "trials": overfitting["trials"],
        "from": document["from"],
        "to": document["to"],
        "deflated_sharpe": overfitting["deflated_sharpe"],
        "pbo": None if overfitting["cross_validation"] is None else overfitting["cross_validation"]["pbo"],
        "value_test_mean": None if outside is None else outside["value_test_mean"],
        "findings": list(findings),
    }
    return params, provenance


def version_before(versions: Sequence[ParameterVersion]) -> ParameterVersion:
    """Return the version that a roll back returns to: the one that the parameters in force replaced.

    `versions`: newest first. Rolling back twice goes back two steps. Errors: InputError PROMOTION_REFUSED when there
    is none.
    """
    by_number = {one.version: one for one in versions}
    current = versions[0] if versions else None
    while current is not None and "rolled_back_to" in (current.provenance or {}):
        current = by_number.get(_whole(current.provenance, "rolled_back_to"))
    if current is not None:
        replaced = _whole(current.provenance, "replaced") if current.provenance else current.version - 1
        if replaced in by_number:
            return by_number[replaced]
    raise _refused("there is no version before the one in force", "see 'fks optimize versions INSTANCE'")


def _whole(provenance: Mapping[str, Any] | None, name: str) -> int:
    return int((provenance or {})[name])


def _refused(message: str, remedy: str) -> InputError:
    return conflict(_REFUSED, message, remedy)
