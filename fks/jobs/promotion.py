"""Promotion of a search's parameters to a strategy instance, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fks.model.errors import InputError
from fks.store.jobs import Job
from fks.store.strategies import Instance, ParameterVersion

PAPER_S = 86_400.0  # parameters run on paper for so long before a live instance may have them


def promotable(
    job: Job, instance: Instance, *, mode: str, on_paper_s: float | None, despite_findings: bool
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
    return InputError(message, code="PROMOTION_REFUSED", status=409, remedy=remedy)
