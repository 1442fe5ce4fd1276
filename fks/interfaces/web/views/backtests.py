"""Backtests and searches of parameters: started, watched, read, compared, promoted."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.schemas import PREFIX, fields_of, params_of
from fks.interfaces.web.views.strategies import entry_of
from fks.interfaces.web.visits import ReadResult, Visit
from fks.model.timeframe import TIMEFRAMES

_ID = re.compile(r"[0-9a-fA-F-]{32,36}")
_KEY = re.compile(r"[0-9a-f]{32}")
SIZINGS = ("notional", "quantity", "equity_pct", "risk_pct", "atr_pct", "stdev_pct")
METHODS = ("tpe", "random", "grid", "cmaes", "nsga2")
OBJECTIVES = (
    "sharpe",
    "sortino",
    "calmar",
    "return",
    "profit",
    "profit_factor",
    "average_trade",
    "win_rate",
    "drawdown",
)
VALIDATIONS = ("none", "holdout", "walk_forward", "k_fold", "combinatorial")
_COMPARED_MAX = 6
#: Shades of a heat map.
_PARTS = 6


async def load(visit: Visit) -> dict[str, Any]:
    """Return the newest jobs, and the form of a new one for the chosen strategy."""
    found = await visit.read_all(
        backtests=("/backtests", {"limit": 50}),
        searches=("/optimizations", {"limit": 30}),
        strategies="/strategies",
        listed="/assets",
    )
    wanted = visit.request.query_params.get("strategy", "")
    names = [entry["name"] for entry in found["strategies"].get("catalogue", []) if not entry["error"]]
    chosen = wanted if wanted in names else next(iter(names), "")
    kind = entry_of(found["strategies"].data, chosen)
    fields = fields_of(kind["params"]) if kind else []
    choices = {"timeframes": tuple(TIMEFRAMES), "sizings": SIZINGS, "methods": METHODS, "objectives": OBJECTIVES}
    return {
        **found,
        **choices,
        "validations": VALIDATIONS,
        "names": names,
        "chosen": chosen,
        "kind": kind,
        "fields": fields,
        "key": uuid.uuid4().hex,
    }


async def load_report(visit: Visit) -> dict[str, Any]:
    """Return one backtest."""
    id = visit.request.path_params["id"]
    found = await visit.read_all(job=f"/backtests/{_checked(id)}", listed="/assets")
    places = places_by_symbol(found["listed"].items)
    return {**found, "id": id, "places": places, **_parts(found["job"])}


async def load_search(visit: Visit) -> dict[str, Any]:
    """Return one search with its trials, and the instances that may take its parameters."""
    id = _checked(visit.request.path_params["id"])
    found = await visit.read_all(
        job=f"/optimizations/{id}",
        trials=(f"/optimizations/{id}/trials", {"limit": 1000}),
        strategies="/strategies",
    )
    spec = found["job"].get("spec") or {}
    instances = [
        row["id"] for row in found["strategies"].get("instances", []) if row["strategy"] == spec.get("strategy")
    ]
    ended = [row for row in found["trials"].items if row["values"]]
    best = sorted(ended, key=lambda row: row["values"][0], reverse=True)[:20]
    parts = _parts(found["job"])
    shown = {"best": best, "instances": instances, "map": heat_map(parts["result"])}
    return {**found, **shown, **parts, "id": id, "key": uuid.uuid4().hex}


def heat_map(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the objective of a search by its first two parameters as rows of cells; None where it has no such values.

    A cell has the best value of its trials, their mean and number, `part` (0 to _PARTS) of the largest value, and
    whether the winner is among them; None: no trial was there.
    """
    values = (result.get("stability") or {}).get("map")
    if not values or not values["best"]:
        return None
    names = [name for name in values if name not in ("mean", "best", "count")]
    x, y = names[-1], names[0] if len(names) > 1 else None
    down = values[y] if y else [None] * len(values[x])
    won = result["best"]["params"]
    most = max(map(abs, values["best"])) or 1.0
    cells = {
        place: {
            "best": best,
            "mean": mean,
            "count": count,
            "part": math.ceil(_PARTS * abs(best) / most),
            "is_winner": place == (won.get(x), won.get(y) if y else None),
        }
        for place, best, mean, count in zip(
            zip(values[x], down, strict=True), values["best"], values["mean"], values["count"], strict=True
        )
    }
    columns = list(dict.fromkeys(values[x]))
    rows = [(row, [cells.get((column, row)) for column in columns]) for row in dict.fromkeys(down)]
    return {"x": x, "y": y, "columns": columns, "rows": rows}


async def load_comparison(visit: Visit) -> dict[str, Any]:
    """Return up to six backtests side by side."""
    asked = [id for id in visit.request.query_params.getlist("id") if _ID.fullmatch(id)][:_COMPARED_MAX]
    found = await visit.read_all(**{f"job{place}": f"/backtests/{id}" for place, id in enumerate(asked)})
    jobs = [{"id": id, "job": found[f"job{place}"], **_parts(found[f"job{place}"])} for place, id in enumerate(asked)]
    whole = [job for job in jobs if job["result"]]
    rows = {name for job in whole for name in job["figures"]}
    return {"jobs": jobs, "whole": whole, "figures_of_all": sorted(rows)}


def _parts(job: ReadResult) -> dict[str, Any]:
    """Return the parts of a job's result that the templates show."""
    result = job.get("result") or {}
    statistics = {**(result.get("statistics") or {}), **(result.get("metrics") or {})}
    figures = {name: value for name, value in statistics.items() if isinstance(value, str | int | float)}
    return {"result": result, "figures": figures, "spec": job.get("spec") or {}}


def _checked(id: str) -> str:
    return id if _ID.fullmatch(id) else str(uuid.UUID(int=0))


# ── actions ──────────────────────────────────────────────────────────────────────────────────────
async def start(visit: Visit, form: Form) -> ActionResult:
    """Queue a backtest."""
    visit.ensure("signal")
    body, key = await _body(visit, form), _key(form)
    answer = (await visit.change("POST", "/backtests", body, csrf=form.text("csrf"), key=key)).body
    stored = "The same one was done before: its report is there." if answer.get("is_stored") else "It is queued."
    return ActionResult(stored, kind="good", links=(("Its report", f"/backtests/{answer['id']}"),))


async def search(visit: Visit, form: Form) -> ActionResult:
    """Queue a search of parameters; its space is the fields with a range `LOW:HIGH` or `LOW:HIGH:STEP`."""
    visit.ensure("signal")
    kind = await _kind(visit, form)
    space, fixed = {}, Form({})
    for name, text in form.fields.items():
        if name.startswith(PREFIX) and re.fullmatch(r"\s*[^:\[{]+:[^:]+(:[^:]+)?\s*", text):
            space[name.removeprefix(PREFIX)] = text.strip()
        else:
            fixed.fields[name] = text
    if not space:
        raise GatewayRefusal(
            422, "SPACE_MISSING", "no parameter has a range", "write LOW:HIGH or LOW:HIGH:STEP in a field, like 10:50:5"
        )
    body = {**_common(form), "params": params_of(fixed, kind["params"]), "space": space}
    body["plan"] = {"method": form.text("method") or "tpe"}
    if form.text("trials"):
        body["plan"]["trials"] = form.whole("trials", "number of trials", "write 100")
    body["objectives"] = [form.text("objective") or "sharpe"]
    body["validation"] = {"kind": form.text("validation") or "holdout"}
    answer = (await visit.change("POST", "/optimizations", body, csrf=form.text("csrf"), key=_key(form))).body
    return ActionResult("The search is queued.", kind="good", links=(("Its progress", f"/searches/{answer['id']}"),))


async def cancel(visit: Visit, form: Form) -> ActionResult:
    """End a backtest or a search."""
    id = form.needed("id", "the job")
    if not _ID.fullmatch(id):
        raise GatewayRefusal(422, "JOB_UNKNOWN", "this is no job's id", "use the buttons of the page")
    path = "/optimizations" if form.text("kind") == "search" else "/backtests"
    answer = (await visit.change("DELETE", f"{path}/{id}", csrf=form.text("csrf"))).body
    return ActionResult(f"Its state is {answer['state']}; a running one ends within seconds.")


async def promote(visit: Visit, form: Form) -> ActionResult:
    """Give the best parameters of a search to an instance."""
    id = form.needed("id", "the search")
    if not _ID.fullmatch(id):
        raise GatewayRefusal(422, "OPTIMIZATION_UNKNOWN", "this is no search's id", "use the buttons of the page")
    body = {"instance": form.needed("instance", "the instance"), "despite_findings": form.is_ticked("despite")}
    path = f"/optimizations/{id}/promote"
    answer = (await visit.change("POST", path, body, csrf=form.text("csrf"), key=_key(form))).body
    plain = tuple((name, str(value)) for name, value in answer.items() if isinstance(value, str | int | float))
    return ActionResult(f"{body['instance']} has the parameters of this search.", kind="good", details=plain)


async def _kind(visit: Visit, form: Form) -> Mapping[str, Any]:
    name = form.needed("strategy", "the strategy")
    kind = entry_of(await visit.read("/strategies"), name)
    if kind is None:
        raise GatewayRefusal(404, "STRATEGY_UNKNOWN", f"there is no strategy {name!r}", "choose one of the list")
    return kind


async def _body(visit: Visit, form: Form) -> dict[str, Any]:
    kind = await _kind(visit, form)
    return {**_common(form), "params": params_of(form, kind["params"])}


#: fields of a request whose defaults are the settings'
_COSTS = ("fee_rate", "slippage", "commission", "margin", "borrow")


def _common(form: Form) -> dict[str, Any]:
    """Return the fields that backtests and searches share; an empty one is left to the gateway's default."""
    body: dict[str, Any] = {"strategy": form.needed("strategy"), "symbol": form.needed("symbol", "the symbol")}
    for name in ("exchange", "timeframe", "from", "to", "sizing", "size", "cash", *_COSTS):
        if text := form.text(name):
            body[name] = f"{text}T00:00:00Z" if name in ("from", "to") and len(text) == 10 else text
    for name in ("allow_short", "allow_gaps", "limits"):
        body[name] = form.is_ticked(name)
    return body


def _key(form: Form) -> str:
    key = form.text("key")
    if not _KEY.fullmatch(key):
        raise GatewayRefusal(422, "FIELD_MISSING", "the form has no key", "load the page again")
    return key
