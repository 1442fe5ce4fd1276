"""Order entry under the paths of the replaced execution service, and the emergency stop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.problems import MEDIA_TYPE, document
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, JsonObject, Reader, Time, Trader, body_of
from fks.interfaces.api.routes.orders import Key, Positive, checked_key, key_headers, within_limit
from fks.interfaces.api.routing import Router, takes

router = Router(tags=["execution"])


class ExecutionBody(Body):
    """A signal to execute, for OpenAPI; `fks.interfaces.entry.execution.ExecutionRequest` checks it."""

    symbol: str = Field(description="BTCUSDT, BTC/USDT or BTC-USDT")
    action: Literal["buy", "sell", "long", "short", "close", "exit", "flat"] = Field(
        description="close, exit and flat close all that the caller's instance holds, whatever sizes and prices say"
    )
    quantity: Positive | None = Field(None, description="in base; or risk")
    risk: Positive | None = Field(None, description="in quote: what is lost at the stop_loss, fees aside; or quantity")
    order_type: Literal["market", "limit", "stop", "stop_limit"] | None = Field(
        None, description="default market, with a price limit"
    )
    price: Positive | None = Field(
        None, description="of limit and stop_limit; on a market order what a size by risk is computed from"
    )
    stop_price: Positive | None = None
    stop_loss: Positive | None = Field(None, description="or sl")
    take_profit: Positive | None = Field(None, description="or tp")
    time_in_force: Literal["gtc", "ioc", "fok"] = "gtc"
    account: str | int | None = Field(
        None, description="name or number; default by GET /venue-routes, else the first enabled one"
    )
    venue: str | None = None
    exchange: str | None = None
    valid_until: Time | None = Field(None, description="ISO 8601; after it the signal is given up")
    reduce_only: bool = Field(False, description="deny it unless it only brings the position nearer to zero")
    strategy_id: str | None = Field(None, max_length=200)
    signal_id: str | None = Field(None, max_length=200)


Scope = Annotated[
    str,
    Field(
        max_length=240,
        description="system: everything; venue:NAME, account:NAME (or its number), strategy:NAME (or that of one "
        "instance): only the orders and positions there",
    ),
]


class EmergencyBody(Body):
    """The scope of a stop, and its reason."""

    scope: Scope = "system"
    reason: str = Field(min_length=1, max_length=500, description="kept with the kill")
    flatten: bool = Field(True, description="also close the positions; false keeps them and what protects them")


class ReleaseBody(Body):
    """The scope of the stop that is released."""

    scope: Scope = "system"


@router.get("/execute/signal")
async def example(gate: Gate, caller: Reader) -> ExactJson:
    """Return an example body of POST /execute/signal. Nothing is sent."""
    from fks.interfaces.entry.execution import EXAMPLE

    return ExactJson(dict(EXAMPLE))


@router.post("/execute/signal", status_code=202, openapi_extra=takes(ExecutionBody))
async def execute(gate: Gate, caller: Trader, request: Request, body: JsonObject, key: Key = None) -> ExactJson:
    """Commit a signal and wait up to a second for its order: success, order_id, filled_quantity, average_price,
    timestamp and error, with signal_id, client_order_id and state.

    202 when it is committed (success true: the order may still be open), 422 with the code when it is denied. Keys and
    repeats are those of POST /orders.
    """
    from fks.interfaces.entry.execution import ExecutionRequest

    async def submit(must_reduce: bool) -> Any:
        return await gate.execution.submit(
            ExecutionRequest.parse(body),
            caller.name,
            checked_key(key),
            arrived_ns=request.state.arrived_ns,
            must_reduce=must_reduce,
            trace_id=request.state.trace_id,
            instance=caller.instance,
        )

    return execution_answer(await within_limit(request, submit), gate.deps.clock.now_ns())


@router.post("/emergency-stop")
async def emergency_stop(gate: Gate, caller: Trader, body: BodyOf[EmergencyBody]) -> ExactJson:
    """Engage the kill switch: cancel every open order, close our positions, deny entries until it is released; those of
    a venue, an account or a strategy alone, if `scope` says so (422 SCOPE_UNKNOWN). Several scopes may be engaged.

    200 with what became of it so far; repeating it joins the kill that is engaged. `through` is `database` when the
    guardian could not be asked directly: it takes the kill over from there, and `beside` names the kills that it found
    engaged. `POST /emergency-stop/release` releases it.
    """
    reason = body.reason.strip() or "no reason given"
    done = await gate.emergency_stop.engage(scope=body.scope, reason=reason, by=caller.name, flatten=body.flatten)
    gate.deps.log.warning("kill.requested", by=caller.name, scope=body.scope, reason=reason, through=done["through"])
    return ExactJson(done)


@router.post("/emergency-stop/release")
async def release(
    gate: Gate, caller: Admin, body: Annotated[ReleaseBody, Depends(body_of(ReleaseBody, is_optional=True))]
) -> ExactJson:
    """Release the kill switch of a scope, without a body that of the whole system: its entries are allowed again.

    Kills of other scopes stay engaged (`beside`). Only the guardian of this machine releases it, and not while there is
    still something to cancel or close (409 KILL_WORKING). NinjaTrader groups in `still_halted` keep a latch of their
    own.
    """
    done = await gate.emergency_stop.release(by=caller.name, scope=body.scope)
    gate.deps.log.warning("kill.release_requested", by=caller.name, scope=body.scope)
    return ExactJson(done)


def execution_answer(answer: Any, now_ns: int) -> ExactJson:
    """Return order entry's answer as an ExecutionResult; a refusal is a problem document with its members."""
    from fks.interfaces.entry.execution import result_of, status_of

    result, status = result_of(answer, now_ns), status_of(answer)
    headers = {"Location": f"/orders/{result['signal_id']}", **key_headers(answer)}
    if status < 400:
        return ExactJson(result, status_code=status, headers=headers)
    code = str(result.pop("code") or answer.body.get("signal_state") or "refused").upper()
    problem = document(status, code, str(result["error"]), **result)
    return ExactJson(problem, status_code=status, headers=headers, media_type=MEDIA_TYPE)
