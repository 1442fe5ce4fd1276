"""Portfolios: holdings, weights beside their targets, equity, risk, and rebalancings from the preview to the steps."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web import formats
from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult, ConfirmForm
from fks.interfaces.web.visits import Visit

DAYS = (1, 7, 30, 365)


async def load(visit: Visit) -> dict[str, Any]:
    """Return the portfolios, and all about the chosen one."""
    listed = (await visit.read_all(portfolios="/portfolios"))["portfolios"]
    names = [row["name"] for row in listed.items]
    query = visit.request.query_params
    wanted, asked, run = query.get("portfolio"), query.get("days", ""), query.get("run", "")
    chosen = wanted if wanted in names else names[0] if names else None
    days = int(asked) if asked in {str(number) for number in DAYS} else 30
    common = {"portfolios": listed, "chosen": chosen, "days": days, "spans": DAYS}
    if chosen is None:
        return common
    path = _path(chosen)
    found = await visit.read_all(
        holdings=f"{path}/holdings",
        drift=f"{path}/drift",
        points=(f"{path}/equity", {"days": days}),
        performance=(f"{path}/performance", {"days": days}),
        risk=f"{path}/risk",
        runs=(f"{path}/runs", {"limit": 20}),
        listed="/assets",
    )
    shown = run or next((str(row["id"]) for row in found["runs"].items), "")
    steps = await visit.read_all(run=f"{path}/runs/{quote(shown, safe='')}") if shown else {"run": None}
    return {**common, **found, **steps, "places": formats.places_by_symbol(found["listed"].items)}


async def preview(visit: Visit, form: Form) -> ActionResult:
    """Plan a rebalancing, and offer to start it by its hash."""
    name = form.needed("name", "the portfolio")
    found = (await visit.change("POST", f"{_path(name)}/preview?lots=true", csrf=form.text("csrf"))).body
    if found["plan_hash"] is None:
        return ActionResult(f"There is nothing to trade in {name}.", details=_reasons(found))
    currency = found["currency"]
    trades = tuple(
        (
            f"{row['step']}. {row['side']} {row['symbol']}",
            f"{formats.at_step(row['quantity'], None)} at {formats.at_step(row['price'], None)}"
            + (f", limit {formats.at_step(row['limit_price'], None)}" if row["limit_price"] is not None else "")
            + f", fee {formats.money(row['fee'], currency)}, slippage {formats.money(row['slippage'], currency)}"
            + (f"; gain {formats.money(row['gain'], currency)}" if row["gain"] is not None else "")
            + (f"; would be denied now: {row['denial']['code']}" if row["denial"] else ""),
        )
        for row in found["trades"]
    )
    text = (
        f"Rebalancing of {name}: {len(trades)} order{'' if len(trades) == 1 else 's'}, turnover "
        f"{formats.money(found['turnover'], currency)}, fees {formats.money(found['fees'], currency)}. "
        "The plan is valid for a minute. Nothing is traded yet."
    )
    fields = (("csrf", form.text("csrf")), ("name", name), ("plan_hash", found["plan_hash"]))
    return ActionResult(
        text,
        details=(*trades, *_reasons(found)),
        confirm=ConfirmForm("/portfolios/rebalance", "Send these orders", fields),
    )


def _reasons(found: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the distances that the plan leaves, with their reasons."""
    return tuple(
        (f"{row['symbol']} afterwards", f"{formats.percent(float(row['weight_after']) * 100)}, {row['reason']}")
        for row in found["items"]
        if row["reason"] and row["weight_after"] is not None
    )


async def rebalance(visit: Visit, form: Form) -> ActionResult:
    """Start the plan that was shown, by its hash."""
    name, plan_hash = form.needed("name", "the portfolio"), form.needed("plan_hash", "the plan")
    path = f"{_path(name)}/rebalance"
    answer = (await visit.change("POST", path, {"plan_hash": plan_hash}, csrf=form.text("csrf"))).body
    link = f"/portfolios?portfolio={quote(name, safe='')}&run={quote(str(answer['id']), safe='')}"
    return ActionResult(
        f"The rebalancing of {name} is {answer['state']}: its steps are below.",
        kind="good",
        links=(("Its steps", link),),
    )


async def cancel(visit: Visit, form: Form) -> ActionResult:
    """Cancel a rebalancing; fills stay."""
    name, run = form.needed("name", "the portfolio"), form.needed("id", "the rebalancing")
    path = f"{_path(name)}/runs/{quote(run, safe='')}/cancel"
    answer = (await visit.change("POST", path, csrf=form.text("csrf"))).body
    return ActionResult(f"The rebalancing is {answer['state']}: it sends no more orders.", kind="good")


def _path(name: str) -> str:
    if not name.strip("."):
        raise GatewayRefusal(422, "FIELD_WRONG", f"{name!r} is no portfolio", "choose one of the list")
    return f"/portfolios/{quote(name, safe='')}"
