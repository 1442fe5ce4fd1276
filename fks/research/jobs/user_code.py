"""Requests that need the code of a strategy: built-in ones are served in the caller's process, those of packages and of
users' files in a process of its own.

A user's file may hang, end its process or crash it; the gateway must survive that. The process gets the request on
standard input, with the address of the database, and does the whole operation there, its transaction included: a
deadline that kills it rolls an open transaction back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from fks.config.settings import Costs, DatabaseSettings, Risk
from fks.model.errors import FksError, InputError, OutageError, conflict
from fks.model.json_fields import json_fields
from fks.store.db import Database
from fks.strategies.base import StrategyError
from fks.strategies.registry import Catalogue, files_of, load_builtin, packages
from fks.system.process.confined_strategies import ConfinedCatalogue
from fks.system.process.isolated import answers, started

#: Seconds for one operation, and operations at a time of one process.
LIMIT_S: Final = 45.0
AT_ONCE: Final = 2
Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OperationServices:
    """Services of an operation."""

    db: Database
    catalogue: Catalogue
    costs: Costs
    risk: Risk
    collar_pct: Decimal | None


Operation = Callable[[OperationServices, Any], Awaitable[Any]]


class UserCode:
    """Carries out operations for one process. Soft state: the operations under way."""

    def __init__(self, db: Database, database_url: str, settings: Any, folder: Path) -> None:
        self._db, self._url, self._folder = db, database_url, folder
        self._database: DatabaseSettings = settings.database
        self._costs: Costs = settings.costs
        self._risk: Risk = settings.risk
        self._collar_pct: Decimal | None = settings.collar_pct
        self._builtin: Catalogue | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, operation: str, **arguments: Any) -> Any:
        """Return the result of an operation, JSON values. `arguments` are JSON values as well.

        Errors: those of the operation; InputError STRATEGY_UNKNOWN; StrategyError STRATEGY_SLOW past the deadline,
        STRATEGY_RAISED when the code ended its process; OutageError.
        """
        if self._builtin is None:
            self._builtin = await asyncio.to_thread(load_builtin)
        try:
            context = OperationServices(self._db, self._builtin, self._costs, self._risk, self._collar_pct)
            return await OPERATIONS[operation](context, arguments)
        except InputError as error:
            if error.code != "STRATEGY_UNKNOWN" or not (packages() or files_of(self._folder)):
                raise
        async with self._slots:
            return await self._run_outside(operation, arguments)

    async def _run_outside(self, operation: str, arguments: Arguments) -> Any:
        request = {
            "operation": operation,
            "arguments": arguments,
            "database_url": self._url,
            "database": self._database.model_dump(mode="json", exclude={"url"}),
            "costs": self._costs.model_dump(mode="json"),
            "risk": self._risk.model_dump(mode="json"),
            "collar_pct": self._collar_pct,
            "folder": str(self._folder),
        }
        async with started(__name__, json.dumps(request, default=str).encode()) as process:
            try:
                answer = await process.line(LIMIT_S)
            except TimeoutError:
                raise StrategyError(
                    f"the strategy's code took longer than {LIMIT_S:g} s",
                    code="STRATEGY_SLOW",
                    remedy="make decide() faster: 'fks strategies check' shows where it stands",
                ) from None
            if not isinstance(answer, dict):
                raise StrategyError(
                    f"the strategy's code {process.end}",
                    code="STRATEGY_RAISED",
                    remedy="see 'fks strategies list'; raise an error, or decide",
                )
        if "error" in answer:
            raise _raised(answer["error"])
        return answer["result"]


def _raised(error: Mapping[str, Any]) -> FksError:
    """Return the error of the other process as it would have been raised here."""
    if error["kind"] == "input":
        kind = StrategyError if error["code"].startswith("STRATEGY_") else InputError
        return kind(error["message"], code=error["code"], status=error["status"], remedy=error["remedy"])
    if error["kind"] == "outage":
        return OutageError(error["message"], remedy=error["remedy"])
    return StrategyError(error["message"], code="STRATEGY_RAISED", remedy=error["remedy"])


# ── the operations ───────────────────────────────────────────────────────────────────────────────
async def _backtest(c: OperationServices, a: Arguments) -> Any:
    """Return the checked spec of a backtest, and its fingerprint."""
    from fks.research.jobs.account import parse_account
    from fks.research.jobs.backtest import parse_spec, with_costs

    wanted = with_costs(a["body"], c.costs, c.collar_pct)
    if "members" in wanted:
        account = parse_account(wanted)
        for member in account.members:
            await asyncio.to_thread(c.catalogue.make, member.strategy, member.params)
        return await _named(c, "backtest", account.model_dump(mode="json", by_alias=True))
    if "instruments" in wanted:
        from fks.research.jobs.portfolio_backtest import parse_portfolio  # not needed by other backtests

        portfolio = parse_portfolio(wanted)
        return await _named(c, "backtest", portfolio.model_dump(mode="json", by_alias=True))
    spec = parse_spec(wanted)
    await asyncio.to_thread(c.catalogue.make, spec.strategy, spec.params)
    return await _named(c, "backtest", spec.model_dump(mode="json", by_alias=True))


async def _optimization(c: OperationServices, a: Arguments) -> Any:
    """Return the checked spec of a search, and its fingerprint."""
    from fks.research.jobs.backtest import with_costs
    from fks.research.jobs.optimization import KIND, parse_optimization
    from fks.research.search import planner_of, space_of

    spec = parse_optimization(with_costs(a["body"], c.costs, c.collar_pct))

    def check() -> None:
        kind = c.catalogue.kind(spec.strategy)
        planner_of(spec.plan, space_of(kind, spec.space, spec.params), len(spec.objectives))

    await asyncio.to_thread(check)
    return await _named(c, KIND, spec.model_dump(mode="json", by_alias=True))


async def _named(c: OperationServices, kind: str, spec: dict[str, Any]) -> Any:
    """Return a spec with the symbols as they are stored, and its fingerprint."""
    from fks.model.futures import continuous_root
    from fks.research.jobs.bars import find_continuous
    from fks.research.jobs.fingerprint import fingerprint
    from fks.store.reading import ReadingStore

    for one in spec.get("members") or spec.get("instruments") or (spec,):
        if continuous_root(one["symbol"].rpartition(":")[2]) is not None:
            one["exchange"], one["symbol"] = await find_continuous(c.db, one["symbol"], one["exchange"])
            continue
        item = await ReadingStore(c.db).find(one["symbol"], one["exchange"])
        one.update(symbol=item.symbol, exchange=item.exchange)
    return {"spec": spec, "fingerprint": await fingerprint(c.db, kind, spec, c.catalogue, c.risk)}


async def _promote(c: OperationServices, a: Arguments) -> Any:
    from fks.research.jobs.promotion import promote

    return await promote(
        c.db,
        c.catalogue,
        uuid.UUID(a["search"]),
        a["instance"],
        by=a["by"],
        despite_findings=a["despite_findings"],
        request=_id(a["request"]),
    )


async def _change_params(c: OperationServices, a: Arguments) -> Any:
    """Give an instance parameters as its next version, and return that."""
    from fks.research.jobs.instances import change_params, ensure_collected, fitted_now, held_instance, instance_of
    from fks.strategies.check import ensure_checked

    before = await instance_of(c.db, a["instance"])
    made = await asyncio.to_thread(c.catalogue.make, before.strategy, a["params"])
    await asyncio.to_thread(ensure_checked, made)
    await ensure_collected(c.db, made.inputs(), before.exchange)
    made = await fitted_now(c.db, made, before.exchange, before.symbol, before.timeframe)
    params = made.model_dump(mode="json")
    async with c.db.transaction() as tx:
        row = await held_instance(tx, a["instance"])
        if row.params_version != a["base_version"]:
            raise conflict(
                "INSTANCE_CHANGED",
                f"the parameters of instance {row.id} are of version {row.params_version} meanwhile",
                "load them again, and repeat the change",
            )
        version = await change_params(tx, row, params, by=a["by"])
    return {"id": row.id, "version": version, "params": params}


async def _rollback(c: OperationServices, a: Arguments) -> Any:
    from fks.research.jobs.promotion import rollback

    return await rollback(c.db, c.catalogue, a["instance"], by=a["by"], request=_id(a["request"]))


async def _add_challenger(c: OperationServices, a: Arguments) -> Any:
    from fks.research.jobs.challenge import add_challenger

    provenance = a["provenance"]
    found = await add_challenger(c.db, a["instance"], a["params"], c.catalogue, by=a["by"], provenance=provenance)
    return found.id


async def _swap(c: OperationServices, a: Arguments) -> Any:
    from fks.research.jobs.challenge import swap_in

    may_wait, despite = a["may_wait"], a["despite_findings"]
    done = await swap_in(c.db, a["challenger"], c.catalogue, by=a["by"], may_wait=may_wait, despite_findings=despite)
    return json_fields(done)


async def _demote(c: OperationServices, a: Arguments) -> Any:
    from fks.research.jobs.challenge import demote

    return json_fields(await demote(c.db, a["instance"], c.catalogue, by=a["by"], reason=a["reason"]))


def _id(text: str | None) -> uuid.UUID | None:
    return None if text is None else uuid.UUID(text)


OPERATIONS: Final[Mapping[str, Operation]] = {
    "backtest": _backtest,
    "optimization": _optimization,
    "promote": _promote,
    "rollback": _rollback,
    "change_params": _change_params,
    "add_challenger": _add_challenger,
    "swap": _swap,
    "demote": _demote,
}


# ── in a process of its own ──────────────────────────────────────────────────────────────────────
async def answer_to(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a request, or its error, as JSON values."""
    catalogue = ConfinedCatalogue(Path(request["folder"]))
    settings = DatabaseSettings.model_validate(request["database"])
    db = await Database.lazy(request["database_url"], settings, application="user code", is_api=True)
    try:
        collar_pct = None if request["collar_pct"] is None else Decimal(request["collar_pct"])
        costs, risk = Costs.model_validate(request["costs"]), Risk.model_validate(request["risk"])
        context = OperationServices(db, catalogue, costs, risk, collar_pct)
        return {"result": await OPERATIONS[request["operation"]](context, request["arguments"])}
    finally:
        await db.close()


def main() -> None:
    """Answer the one request on standard input."""
    send = answers()
    request = json.loads(sys.stdin.buffer.readline())
    try:
        answer = asyncio.run(answer_to(request))
    except InputError as error:
        members = {"kind": "input", "code": error.code, "status": error.status}
        answer = {"error": {"message": error.message, "remedy": error.remedy, **members}}
    except OutageError as error:
        answer = {"error": {"kind": "outage", "message": error.message, "remedy": error.remedy}}
    except (Exception, SystemExit) as error:  # code of users may raise anything
        text = f"the strategy's code raised {type(error).__name__}: {error}"
        answer = {"error": {"kind": "raised", "message": text[:500], "remedy": "correct the strategy"}}
    send(answer)


if __name__ == "__main__":
    main()
