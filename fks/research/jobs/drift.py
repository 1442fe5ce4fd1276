"""Drift of live strategies, as a job: each instance against a backtest on the bars that it decided on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from fks.config.settings import Settings
from fks.model.cash_flows import InstrumentEvents
from fks.model.errors import unprocessable
from fks.model.json_fields import json_fields
from fks.model.order import Role, Side
from fks.model.timeframe import NS, TIMEFRAMES, iso, to_datetime, to_ns
from fks.research.backtest import Setup, run
from fks.research.backtest.drift import Compared, DecidedFill, Drift, compare, expected_steps
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.result import plain
from fks.research.jobs.backtest import BarsRequest, LoadedBars
from fks.research.jobs.bars import load_stored_joined
from fks.research.jobs.challenge import came_from_challenger, demote
from fks.research.jobs.instances import instance_of
from fks.research.jobs.spec import checked_spec
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.strategies import Instance, StrategyStore
from fks.strategies.registry import Catalogue
from fks.trading.matching import CostModel
from fks.trading.risk.sizing import Sizing

KIND = "drift"
_HUGE = Decimal(10) ** 12  # cash of the backtest: what the account could pay is a denial's reason, not the backtest's
_COMPARED = Decimal(1000)  # quote of an entry whose quantity is not compared
_US = 1_000  # the database counts microseconds: the smallest step after a bar
_BPS = Decimal("0.01")
#: why a signal in this state has no fill
_STATE_REASONS = {
    "nothing": "nothing was held",
    "pending": "waits for approval",
    "declined": "a person declined it",
    "ordered": "its order has no fill",
}


class DriftSpec(BaseModel):
    """The instance, and the start of the comparison (default: since its parameters are in force). `is_watched`: hold
    the result to the limits of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: str
    since: datetime | None = None
    is_watched: bool = False


def parse_spec(spec: Mapping[str, Any]) -> DriftSpec:
    """Return a checked spec. Errors: InputError SPEC_WRONG."""
    return checked_spec(DriftSpec, spec, "drift", remedy="see 'fks strategies drift --help'")


async def run_drift(
    spec: Mapping[str, Any], db: Database, settings: Settings, catalogue: Catalogue, *, now_ns: int
) -> dict[str, Any]:
    """Compare one instance and return the document; with `is_watched` an excess opens an alert, and pauses entries when
    `strategies.drift_pause` is set. Errors: InputError INSTANCE_UNKNOWN, NO_DATA, of the strategy; OutageError."""
    wanted = parse_spec(spec)
    instance = await instance_of(db, wanted.instance)
    drift, loaded = await measure(db, instance, settings, catalogue, since=wanted.since)
    document = document_of(instance, drift, loaded)
    document["excess"] = excess_of(drift, settings)
    document["is_paused"], document["is_demoted"] = False, False
    if wanted.is_watched and document["excess"]:
        is_swapped = await _came_from_challenger(db, instance)
        if is_swapped and settings.strategies.challenger_swap == "paper":
            document["is_demoted"] = await _demote(db, instance, document, catalogue)
        document["is_paused"] = await _report(db, instance, document, settings, is_swapped=is_swapped)
    document["at"] = iso(now_ns)
    return document


async def measure(
    db: Database, instance: Instance, settings: Settings, catalogue: Catalogue, *, since: datetime | None
) -> tuple[Drift, LoadedBars]:
    """Return the drift of an instance under its present parameters, and the bars of the comparison."""
    if instance.cursor_ns is None or instance.anchor_ns is None:
        raise unprocessable("NO_DATA", f"instance {instance.id} has not decided on a bar yet", "try again later")
    strategy = catalogue.make(instance.strategy, instance.params)
    request = BarsRequest(
        instance.symbol,
        instance.exchange,
        instance.timeframe,
        instance.anchor_ns,
        instance.cursor_ns + _US,
        0,
        features=strategy.features(),
    )
    loaded = await load_stored_joined(db, request, strategy.inputs())
    can_short = instance.venue == "paper" and settings.paper.can_short
    costs = CostModel.of(settings.costs, loaded.instrument)
    costs = replace(costs, fee_in="quote") if can_short else costs
    sizing, size, lot_step = instance.sizing, instance.size, loaded.instrument.lot_step
    if Sizing.parse(sizing).needs_equity:  # the past equity of the account is not stored: quantities are not compared
        sizing, size, lot_step = "notional", _COMPARED, _HUGE
    setup = Setup(
        loaded.instrument,
        costs,
        sizing,
        size,
        _HUGE,
        can_short,
        allow_gaps=True,
        limits=UNLIMITED,
        collar_pct=settings.collar_pct,
        events=InstrumentEvents(is_funding_left_out=True),  # live books no funding either
    )
    # what was filled live is in shares of its day
    finer = None if loaded.finer is None else loaded.finer.as_traded
    result = await asyncio.to_thread(run, strategy, loaded.bars.as_traded, setup, check=False, finer=finer)
    begun = await db.fetchval("drift.version_since", instance.id, instance.params_version)
    bar_ns = TIMEFRAMES[instance.timeframe] * NS
    starts = [int(result.bars.time_ns[min(result.first, len(result.bars) - 1)])]
    starts += [to_ns(moment) - bar_ns for moment in (begun, since) if moment is not None]
    from_ns = max(starts)
    # the fill of the newest decision is in a bar that is still open
    to_ = instance.cursor_ns
    rows = await db.fetch(
        "drift.made",
        instance.id,
        instance.params_version,
        to_datetime(from_ns),
        to_datetime(to_),
        loaded.instrument.base,
        loaded.instrument.quote,
    )
    made, reasons = _made(rows)
    expected = expected_steps(result, from_ns)
    for row in await db.fetch("drift.missed", instance.id):
        missed_from, missed_to = (to_ns(datetime.fromisoformat(row["payload"][end])) for end in ("from", "to"))
        for step in expected:
            if missed_from <= step.decided_ns <= missed_to:
                reasons.setdefault(step.key, "decided too late: the worker was away")
    drift = compare(expected, made, reasons, from_ns=from_ns, to_ns=to_, lot_step=lot_step)
    unvalued = sum(row["unvalued"] or 0 for row in rows)
    return replace(drift, fees_unvalued=unvalued), replace(loaded, bars=result.bars)


def _made(rows: Any) -> tuple[list[DecidedFill], dict[tuple[int, Role], str]]:
    """Return the fills of decisions, and why decisions without a fill have none."""
    steps: list[DecidedFill] = []
    reasons: dict[tuple[int, Role], str] = {}
    for row in rows:
        decided_ns, role = to_ns(row["ts_event"]), Role(row["role"])
        if row["quantity"]:
            at_ns = to_ns(row["at"])
            steps.append(
                DecidedFill(
                    decided_ns, role, Side(row["side"]), row["quantity"], row["price"], row["fee"] or Decimal(0), at_ns
                )
            )
        else:
            reasons[decided_ns, role] = row["code"] or _STATE_REASONS.get(row["state"], str(row["state"]))
    return steps, reasons


def excess_of(drift: Drift, settings: Settings) -> list[str]:
    """Return which limits of the settings a drift exceeds, in words."""
    limits, found = settings.strategies, []
    if limits.drift_slippage_max_bps is not None and drift.slippage_bps > Decimal(repr(limits.drift_slippage_max_bps)):
        found.append(f"slippage of {drift.slippage_bps:.1f} bps, limit {limits.drift_slippage_max_bps:g}")
    if limits.drift_mismatch_max is not None and drift.mismatch > Decimal(repr(limits.drift_mismatch_max)):
        share = f"{drift.mismatch:.1%} of the steps differ, limit {limits.drift_mismatch_max:.1%}"
        found.append(share)
    return found


async def _came_from_challenger(db: Database, instance: Instance) -> bool:
    versions = await StrategyStore(db).versions(instance.id)
    return any(
        one.version == instance.params_version and came_from_challenger(one.provenance) is not None for one in versions
    )


async def _demote(db: Database, instance: Instance, document: Mapping[str, Any], catalogue: Catalogue) -> bool:
    """Let an instance on a paper account have the parameters again that its challenger replaced, once it is flat."""
    if await StrategyStore(db).mode(instance.id) != "paper":
        return False
    await demote(db, instance.id, catalogue, by="drift", reason="; ".join(document["excess"]))
    return True


async def _report(
    db: Database, instance: Instance, document: Mapping[str, Any], settings: Settings, *, is_swapped: bool
) -> bool:
    """Open an alert, and in the same transaction pause the entries when the settings say so: no pause without its page.
    Return whether they were paused now."""
    what = "; ".join(document["excess"])
    async with db.transaction() as tx:
        is_paused = settings.strategies.drift_pause and await tx.fetchrow("drift.pause", instance.id) is not None
        then = " Its entries now wait for approval." if is_paused else ""
        if document["is_demoted"]:
            then += " The parameters that its challenger replaced are swapped in again once it is flat."
        elif is_swapped:
            then += f" Its parameters came from a challenger: 'fks strategies challengers demote {instance.id}'."
        await FactStore(tx).note_alert(
            "page" if is_paused else "warning",
            "strategy.drift",
            f"strategy {instance.id} drifts from its backtest: {what}.{then} See 'fks strategies drift {instance.id}'.",
            component="jobs",
            payload={"instance": instance.id, "excess": document["excess"]},
        )
    return is_paused


def job_id_of(instance: str, day: str) -> uuid.UUID:
    """Return the id of the watch of an instance on one day: submitted twice, it is one job."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"drift|{instance}|{day}")


def document_of(instance: Instance, drift: Drift, loaded: LoadedBars) -> dict[str, Any]:
    """Return the drift as JSON values; money as exact text."""
    return {
        "instance": instance.id,
        **json_fields(instance, "strategy", "params_version", "symbol", "timeframe"),
        "currency": loaded.instrument.quote,
        "from": iso(drift.from_ns),
        "to": iso(drift.to_ns),
        "bars": int(((loaded.bars.time_ns >= drift.from_ns) & (loaded.bars.time_ns < drift.to_ns)).sum()),
        **json_fields(drift, "expected", "made", "matched", "fees_unvalued"),
        "mismatch": plain(drift.mismatch.quantize(Decimal("0.0001"))),
        "slippage": plain(drift.slippage.quantize(Decimal("1e-8"))),
        "slippage_bps": plain(drift.slippage_bps.quantize(_BPS)),
        "fees_above_expected": plain(drift.fees.quantize(Decimal("1e-8"))),
        "cost": plain(drift.cost.quantize(Decimal("1e-8"))),
        "steps": [_row(step) for step in drift.steps],
    }


def _row(row: Compared) -> dict[str, Any]:
    step = row.expected or row.made
    assert step is not None
    return {
        "decided": iso(step.decided_ns),
        **json_fields(step, "role", "side"),
        **json_fields(row, "difference", "reason"),
        "expected_quantity": None if row.expected is None else plain(row.expected.quantity),
        "expected_price": None if row.expected is None else plain(row.expected.price),
        "quantity": None if row.made is None else plain(row.made.quantity),
        "price": None if row.made is None else plain(row.made.price.quantize(Decimal("1e-8"))),
        "slippage_bps": None if row.made is None or row.expected is None else plain(row.slippage_bps.quantize(_BPS)),
        "time": None if row.made is None else iso(row.made.time_ns),
    }
