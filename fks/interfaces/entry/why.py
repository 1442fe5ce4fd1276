"""History of one decision from the journal: bar, strategy values, signal, checks, order events, answers, fills."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from fks.model.codes import MEANING, Code
from fks.model.decimals import plain
from fks.model.errors import InputError, not_found
from fks.model.signal import AGENT
from fks.model.timeframe import bar_end, iso, to_ns
from fks.research.backtest.trace import request_of
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.input_bars import InputBars
from fks.store.reading import ReadingStore
from fks.strategies.registry import package_places
from fks.system.process.confinement import confined_command, environment
from fks.trading.risk.explain import rules

#: Limits of a strategy's own code: its duration, and the evaluations at a time in one replica.
TRACE_S, TRACES_AT_ONCE = 12.0, 2
_ROWS_MAX = 50_000  # bars that a strategy is evaluated on, as in its worker
_ROWS_LEAST = 5_000  # when the anchor has moved past the bar
_US = 1_000
Story = dict[str, Any]


class Why:
    """Reads decisions. A strategy's code runs in a process of its own. Errors: InputError, OutageError."""

    def __init__(self, db: Database, strategies: Path) -> None:
        self._db = db
        self._strategies = strategies
        self._bars = BarStore(db)
        self._inputs = InputBars(db)
        self._evaluations = asyncio.Semaphore(TRACES_AT_ONCE)

    async def of_id(self, text: str) -> list[Story]:
        """Return the history of an order (its client order id) or a signal."""
        id = _uuid(text)
        signal = None if id is None else await self._row("why.signal", id)
        if signal is None:
            order = await self._row("why.order", text.lower(), id)
            if order is None:
                raise not_found(
                    "DECISION_UNKNOWN",
                    f"there is no order and no signal {text[:64]}",
                    "see GET /orders and GET /signals; of a symbol, give a time",
                )
            if order["signal_id"] is None or (signal := await self._row("why.signal", order["signal_id"])) is None:
                return [await self._of_order_alone(order)]
        return [await self._of_signal(signal)]

    async def of_symbol(self, symbol: str, exchange: str | None, at: datetime, instance: str | None) -> list[Story]:
        """Return the decision of every strategy instance in a symbol at the bar that contains a moment."""
        listed = await ReadingStore(self._db).find(symbol, exchange)
        rows = await self._rows("why.instances", listed.exchange, listed.symbol, instance)
        if not rows:
            which = f"instance {instance}" if instance else "strategy instance"
            raise not_found(
                "DECISION_UNKNOWN",
                f"no {which} trades {listed.symbol}",
                "see GET /strategies; of a person's order, give its id",
            )
        return list(await asyncio.gather(*(self._at_bar(row, at) for row in rows)))

    # ── the three kinds of stories ───────────────────────────────────────────────────────────────
    async def _of_order_alone(self, order: Mapping[str, Any]) -> Story:
        """Return the history of an order without a signal: the kill switch's, or a protection of one."""
        orders = await self._orders([order])
        return _story("order", order, orders=orders, verdict=f"the {order['role']} order is {order['state']}")

    async def _of_signal(self, signal: Mapping[str, Any]) -> Story:
        orders = await self._orders(await self._rows("why.orders_of_signal", signal["id"]))
        story = _story("signal", signal, signal=_signal(signal), orders=orders, checks=_checks(orders))
        if signal["timeframe"] is not None and signal["instance"]:
            instance = await self._row("why.instance", signal["instance"])
            story["bar"] = await self._bar(signal, signal["timeframe"], signal["ts_event"])
            if instance is not None and story["bar"] is not None:
                version = signal["params_version"]
                story["decision"] = await self._decision(instance, signal["timeframe"], signal["ts_event"], version)
        story["verdict"] = _verdict_of_signal(signal, orders)
        return story

    async def _at_bar(self, instance: Mapping[str, Any], at: datetime) -> Story:
        """Return the decision of an instance at the bar that contains `at`, with or without a signal."""
        timeframe = instance["timeframe"]
        bar = await self._bar(instance, timeframe, at)
        if bar is None or bar_end(to_ns(bar["time"]), timeframe) <= to_ns(at):
            story = _story("bar", {**instance, "instance": instance["id"]})
            story["verdict"] = (
                f"there is no {timeframe} bar of {instance['symbol']} at {_text(at)}: nothing was decided"
            )
            return story
        signals = await self._rows(
            "why.signals_at", instance["id"], instance["exchange"], instance["symbol"], timeframe, bar["time"]
        )
        if signals:
            stories = [await self._of_signal(signal) for signal in signals]
            first = stories[0]
            first["also"] = [str(signal["id"]) for signal in signals[1:]]
            if len(stories) > 1:
                first["verdict"] += f"; then {stories[-1]['verdict']}"
            return first
        story = _story("bar", {**instance, "instance": instance["id"]}, bar=bar)
        story["decision"] = await self._decision(instance, timeframe, bar["time"], None)
        missed = await self._row("why.missed", instance["id"], bar["time"])
        story["verdict"] = _verdict_without_signal(instance, bar, story["decision"], missed)
        return story

    async def _row(self, query: str, *args: object) -> dict[str, Any] | None:
        row = await self._db.fetchrow(query, *args)
        return None if row is None else dict(row)

    async def _rows(self, query: str, *args: object) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._db.fetch(query, *args)]

    # ── parts ────────────────────────────────────────────────────────────────────────────────────
    async def _bar(self, of: Mapping[str, Any], timeframe: str, at: datetime) -> dict[str, Any] | None:
        row = await self._row("why.bar", of["exchange"], of["symbol"], timeframe, at)
        return None if row is None else {"timeframe": timeframe, **dict(row)}

    async def _orders(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        names = [row["client_order_id"] for row in rows]
        found = [{**_order(row), "events": [], "fills": []} for row in rows]
        by_name = {order["client_order_id"]: order for order in found}
        for event in await self._rows("why.events", names):
            by_name[event["client_order_id"]]["events"].append(_without_id(event))
        for fill in await self._rows("why.fills", names):
            by_name[fill["client_order_id"]]["fills"].append(_without_id(fill))
        return found

    async def _decision(
        self, instance: Mapping[str, Any], timeframe: str, at: datetime, version: int | None
    ) -> dict[str, Any]:
        """Evaluate the instance's strategy on the stored bars up to one, from its anchor."""
        used = await self._row("why.parameters", instance["id"], version, at)
        name, params = (
            (instance["strategy"], instance["params"]) if used is None else (used["strategy"], used["params"])
        )
        found: dict[str, Any] = {
            "strategy": name,
            "params": params,
            "params_version": version if used is None else used["version"],
            "note": "",
        }
        at_ns, anchor = to_ns(at), instance["anchor_time"]
        from_ns, limit = (0, _ROWS_LEAST) if anchor is None or anchor > at else (to_ns(anchor), _ROWS_MAX)
        bars = await self._bars.read(
            instance["symbol"], timeframe, from_ns, at_ns + _US, limit, exchange=instance["exchange"], is_newest=True
        )
        if not len(bars):
            return found | {"note": "the bars of that time are not stored any more"}
        if anchor is not None and anchor > at:
            found["note"] = "the instance's history starts later by now; it was evaluated on older bars instead"
        answer = await self._trace(request_of(name, params, bars, self._strategies))
        if "inputs" in answer:  # only its own process loads the strategy, and knows that it reads further symbols
            exchange, reading = instance["exchange"], ReadingStore(self._db)
            try:
                places = {name: (await reading.find(name, exchange)).symbol for name in answer["inputs"]}
            except InputError as error:
                return found | {"note": f"the strategy could not be evaluated: {error}"}
            bars = await self._inputs.joined(exchange, bars, places)
            answer = await self._trace(request_of(name, params, bars, self._strategies))
        if "error" in answer:
            return found | {"note": f"the strategy could not be evaluated: {answer['error']}"}
        return found | answer

    async def _trace(self, request: bytes) -> dict[str, Any]:
        async with self._evaluations:
            process = await asyncio.create_subprocess_exec(
                *confined_command(
                    "fks.research.backtest.trace", [*package_places(), *filter(None, [self._strategies])]
                ),
                env=environment(),
                cwd="/",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(TRACE_S):
                    out, _ = await process.communicate(request)
            except TimeoutError:
                return {"error": f"no answer within {TRACE_S:g} s"}
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        try:
            answer = orjson.loads(out.rstrip().rpartition(b"\n")[2])
        except orjson.JSONDecodeError:
            return {"error": f"its process ended with {process.returncode}"}
        return answer if isinstance(answer, dict) else {"error": "no answer"}


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────
def _verdict_of_signal(signal: Mapping[str, Any], orders: Sequence[Mapping[str, Any]]) -> str:
    what = f"{signal['kind']} {signal['side']} {signal['symbol']}"
    owner, source = signal["instance"], signal["source"]
    if source.startswith(AGENT):
        owner = f"the agent {source.removeprefix(AGENT)}"
        if signal["state"] != "declined" and signal["decided_by"]:
            owner += f", approved by {signal['decided_by']},"
    owner = owner or source.removeprefix("principal:")
    state, main = signal["state"], orders[0] if orders else None
    if state == "denied":
        code = signal["code"] or ""
        meaning = MEANING[Code[code]] if code in Code.__members__ else ""
        return f"{owner} wanted {what}; denied {code}: {meaning} ({signal['detail'] or ''})"
    if main is None and signal["ended_by"]:
        return f"{owner} wanted {what}; {signal['detail']}"
    if main is None:
        ends = {
            "pending": "a person has not approved it yet",
            "ready": "the order manager has not decided yet",
            "expired": "its time was over before it could be used",
            "declined": f"{signal['decided_by']} declined it",
            "nothing": "there was nothing to do",
        }
        detail = f" ({signal['detail']})" if signal["detail"] else ""
        return f"{owner} wanted {what}; {ends.get(state, state)}{detail}"
    filled = plain(main["filled"])
    verdict = f"{owner} wanted {what}; the order is {main['state']}, filled {filled} of {plain(main['quantity'])}"
    if signal["ended_by"]:
        verdict += f"; {signal['detail'] or signal['ended_by'] + ' asked for the end of the exit'}"
    return verdict


def _verdict_without_signal(
    instance: Mapping[str, Any], bar: Mapping[str, Any], decision: Mapping[str, Any], missed: Mapping[str, Any] | None
) -> str:
    owner, names = instance["id"], {-1.0: "short", 0.0: "flat", 1.0: "long"}
    if not bar["is_complete"]:
        return f"{owner} gave no signal: the bar was not whole, and strategies see whole bars only"
    if "target" not in decision:
        return f"{owner} gave no signal; {decision['note']}"
    before, target = decision["target_before"], decision["target"]
    if decision["bars"] <= decision["warmup"]:
        return f"{owner} gave no signal: it was warming up ({decision['bars']} of {decision['warmup']} bars)"
    if before == target:
        return f"{owner} gave no signal: it wanted to be {names[target]} before and at this bar"
    change = f"its target went from {names[before]} to {names[target]}"
    if missed is not None:
        return f"{owner} gave no signal though {change}: it was away, and decided on this bar too late to use it"
    started = instance["created_at"]
    if started is not None and bar["time"] < started:
        return f"{owner} gave no signal though {change}: the instance did not exist yet"
    if not instance["is_enabled"]:
        return f"{owner} gave no signal though {change}: the instance is switched off now, and may have been then"
    return f"{owner} gave no signal though {change}: it did not run then, or ran with other bars or parameters"


def _checks(orders: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks of the signal's own order, from its first events: the denial, or the answer to the send."""
    for order in orders:
        for event in order["events"][:6]:
            payload, meanings = event["payload"], rules()
            if "checks" in payload:
                return [
                    {
                        "code": code,
                        "outcome": outcome,
                        "limit": limit,
                        "observed": observed,
                        "rule": _rule(code, meanings),
                    }
                    for code, outcome, limit, observed in payload["checks"]
                ]
            if event["event"] == "Denied":
                return [
                    {
                        "code": payload.get("code"),
                        "outcome": "failed",
                        "limit": payload.get("limit", ""),
                        "observed": payload.get("observed", ""),
                        "rule": _rule(str(payload.get("code")), meanings),
                    }
                ]
    return []


def _rule(code: str, meanings: Mapping[Code, str]) -> str:
    return meanings.get(Code[code], MEANING[Code[code]]) if code in Code.__members__ else ""


# ── values ───────────────────────────────────────────────────────────────────────────────────────
def _story(kind: str, of: Mapping[str, Any], **parts: Any) -> Story:
    names = ("exchange", "symbol", "instance")
    empty: Story = {"bar": None, "decision": None, "signal": None, "checks": [], "orders": [], "also": []}
    return {"kind": kind, **{name: of[name] for name in names}, "verdict": "", **empty, **parts}


_SIGNAL = (
    "id",
    "source",
    "instance",
    "params_version",
    "account",
    "venue",
    "exchange",
    "symbol",
    "timeframe",
    "ts_event",
    "kind",
    "side",
    "type",
    "size",
    "limit_price",
    "stop_price",
    "stop_loss",
    "take_profit",
    "time_in_force",
    "reference_price",
    "valid_until",
    "reason",
    "state",
    "code",
    "detail",
    "client_order_id",
    "decided_by",
    "decided_at",
    "trace_id",
    "created_at",
    "ended_by",
    "ended_at",
)
_ORDER = (
    "client_order_id",
    "account",
    "venue",
    "exchange",
    "symbol",
    "instance",
    "role",
    "attempt",
    "side",
    "type",
    "time_in_force",
    "quantity",
    "price",
    "stop_price",
    "stop_loss",
    "take_profit",
    "state",
    "filled",
    "average_price",
    "venue_order_id",
    "parent_id",
    "code",
    "detail",
    "is_late",
    "created_at",
    "sent_at",
    "updated_at",
)


def _signal(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _SIGNAL}


def _order(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _ORDER}


def _without_id(row: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(row).items() if name != "client_order_id"}


def _text(at: datetime) -> str:
    return iso(to_ns(at))


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
