"""One request from arrival to answer, over REST or the WebSocket API: log, limits, security, handler, faults."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from fks.lab.sim.auth import check_time
from fks.lab.sim.endpoints import AS_REST, ORDER_METHODS, ORDER_PATHS, Endpoint
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import Fault, Target
from fks.lab.sim.params import Params
from fks.lab.sim.store import DiskFull

#: faults that strike before the handler runs; those in _ANSWERS may run it all the same (`accept`)
_BEFORE = ("latency", "drop", "disconnect", "reset", "hang", "busy_1008", "error", "429", "418", "skew")
_LATE = ("accept_late",)
_LATE_S = 5.0
_ANSWERS = ("html_200", "html_502", "http_500", "503", "504_1007")
_AFTER = ("answer_after", "accept_then_cut", "truncate", "without_id")
#: parameters that name the orders a request asks to make
NEW_ID_NAMES = (
    "newClientOrderId",
    "workingClientOrderId",
    "pendingClientOrderId",
    "pendingAboveClientOrderId",
    "pendingBelowClientOrderId",
    "aboveClientOrderId",
    "belowClientOrderId",
    "limitClientOrderId",
    "stopClientOrderId",
)
#: parameters that identify the subject of a request, most specific first
_ID_NAMES = ("origClientOrderId", "cancelOrigClientOrderId", *NEW_ID_NAMES, "listClientOrderId")
_HTML = b"<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n<center><h1>%s</h1></center>\r\n</body>\r\n</html>\r\n"


class RequestRules:
    """Binance's rules of a request: the ids and the symbol in it, its limits, its credentials, the form of a refusal.

    Another wire has rules of its own. `id_name` is the name of the exchange's id of an order in answers.
    """

    id_name = "orderId"

    def ids(self, params: Params) -> list[str]:
        """Return the client order ids that identify the subject of a request, most specific first."""
        values = dict(params.items())
        return [values[name] for name in _ID_NAMES if values.get(name)]

    def symbol(self, params: Params) -> str:
        """Return the exchange's symbol that the request names, "" for none."""
        return dict(params.items()).get("symbol", "")

    def spend(self, exchange: LocalExchange, call: Call) -> None:
        """Count a request. Errors: ApiError over a limit."""
        exchange.limits.spend(call.endpoint.cost(call.params))

    def check(self, exchange: LocalExchange, call: Call) -> None:
        """Refuse credentials that are missing or wrong. Errors: ApiError."""
        if not call.endpoint.security:
            return
        exchange.keyring.check_key(call.api_key)
        if call.endpoint.security == "signed":
            call.params.text("timestamp")
            call.check_signature()
            check_time(call.params, exchange.wall_ms())

    def refused(self, error: ApiError, path: str) -> ApiError:
        """Return a refusal of a request to `path` as this wire writes it."""
        return error

    def headers(self, exchange: LocalExchange, call: Call) -> dict[str, str]:
        """Return the headers of an answer that show what is used of the limits."""
        return exchange.limits.headers(with_orders=call.path in ORDER_PATHS or call.path in ORDER_METHODS)


_BINANCE = RequestRules()


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `check_signature` raises what the transport's signature scheme refuses."""

    method: str
    path: str
    params: Params
    endpoint: Endpoint
    api_key: str
    check_signature: Callable[[], None]
    rules: RequestRules = _BINANCE


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `how` is "", or what a fault does to it: "cut" (no answer), "reset", "truncate"."""

    status: int
    body: object
    headers: dict[str, str] = field(default_factory=dict)
    how: str = ""
    raw: bytes | None = None

    def bytes(self) -> bytes:
        """Return the body as sent."""
        return self.raw if self.raw is not None else orjson.dumps(self.body)


async def answer(exchange: LocalExchange, call: Call) -> Reply:
    """Return the answer to a request; its effects are on disk before.

    On a full disk a private request is refused: −1008, nothing was done. One whose effects found no space is answered
    −1007, outcome unknown.
    """
    ids = call.rules.ids(call.params)
    shown = {name: value for name, value in call.params.items() if name not in ("signature", "apiKey")}
    security = call.endpoint.security
    try:
        if not exchange.journal.settle():
            raise DiskFull
        seq = exchange.store.note_received(
            exchange.wall_ms(),
            call.method,
            call.path,
            ids[0] if ids else "",
            orjson.dumps(shown).decode(),
            bool(security),
        )
    except DiskFull:
        if security:
            return _refused(call, refusal("busy"))
        seq = 0  # a request for public data is answered without a row
    at = Target(
        path=call.path,
        method=call.method,
        symbol=call.rules.symbol(call.params),
        client_order_id=ids[0] if ids else "",
        rest=AS_REST.get(call.path),
    )
    if (ban := exchange.faults.holds("ban", exchange.clock.monotonic(), at)) is not None:
        exchange.store.note_outcome(seq, "fault:ban")
        return _banned(exchange, call, ban)
    exchange.faults.holds("clock_jump", exchange.clock.monotonic(), Target())  # answered by that clock
    before = exchange.faults.strike((*_BEFORE, *_ANSWERS, *_LATE), at)
    if before is not None and before.kind in _LATE:
        return _accept_late(exchange, call, seq, before)
    if before is not None:
        done = f"{_outcome(await _do(exchange, call))} " if before.accept and before.kind in _ANSWERS else ""
        exchange.store.note_outcome(seq, f"{done}fault:{before.kind}")
        replaced = await _before(exchange, call, before)
        if replaced is not None:
            return replaced
    reply = await _do(exchange, call)
    after = exchange.faults.strike(_AFTER, at)
    exchange.store.note_outcome(seq, _outcome(reply) + (f" fault:{after.kind}" if after else ""))
    return await _after(call, reply, after) if after is not None else reply


def _refused(call: Call, error: ApiError) -> Reply:
    error = call.rules.refused(error, call.path)
    return Reply(error.status, error.body(), error.headers)


def _banned(exchange: LocalExchange, call: Call, fault: Fault) -> Reply:
    """Return the 418 of an address that is banned: until the fault ends, else for two minutes more."""
    left_s = 120.0 if fault.until is None else max(0.0, fault.until - exchange.clock.monotonic())
    now_ms = exchange.wall_ms()
    return _refused(call, exchange.limits.banned(now_ms + int(left_s * 1000), now_ms))


def _accept_late(exchange: LocalExchange, call: Call, seq: int, fault: Fault) -> Reply:
    """Answer −1007 now and run the request later; it is checked now, while its signature is valid.

    A restart of the exchange meanwhile loses it, as it would lose what waits in a queue of the real one.
    """
    try:
        call.rules.spend(exchange, call)
        call.rules.check(exchange, call)
    except ApiError as error:
        reply = _refused(call, error)
        exchange.store.note_outcome(seq, _outcome(reply))
        return reply
    exchange.store.note_outcome(seq, "fault:accept_late")

    async def later() -> None:
        await exchange.clock.sleep(_LATE_S if fault.seconds is None else fault.seconds)
        try:
            result = call.endpoint.handler(exchange, call.params)
            if inspect.isawaitable(result):
                await result
            outcome = "200"
        except ApiError as error:
            outcome = _outcome(_refused(call, error))
        exchange.store.note_outcome(seq, f"{outcome} fault:accept_late")

    exchange.spawn(later())
    return _refused(call, refusal("timeout"))


def _outcome(reply: Reply) -> str:
    """Return the status of an answer with the code or the texts of its refusal."""
    body = reply.body if isinstance(reply.body, dict) else {}
    texts = body.get("error", ())
    code = body.get("code", "") if reply.status != 200 else ", ".join(texts) if isinstance(texts, list) else ""
    return f"{reply.status} {code}".strip()


async def _do(exchange: LocalExchange, call: Call) -> Reply:
    headers: dict[str, str] = {}
    try:
        call.rules.spend(exchange, call)
        call.rules.check(exchange, call)
        result = call.endpoint.handler(exchange, call.params)
        status, body = 200, await result if inspect.isawaitable(result) else result
        if exchange.journal.is_pending:
            raise refusal("timeout")
    except ApiError as error:
        refused = call.rules.refused(error, call.path)
        status, body, headers = refused.status, refused.body(), refused.headers
    return Reply(status, body, call.rules.headers(exchange, call) | headers)


async def _before(exchange: LocalExchange, call: Call, fault: Fault) -> Reply | None:
    """Return the answer of a fault that replaces the real one; None to go on."""
    kind, seconds = fault.kind, fault.seconds
    if kind == "latency":
        await asyncio.sleep(seconds or 0)
        return None
    if kind == "hang":
        await asyncio.sleep(3600 if seconds is None else seconds)
    if kind in ("drop", "hang", "disconnect", "reset"):
        return Reply(0, None, how="reset" if kind in ("disconnect", "reset") else "cut")
    html = {
        "html_200": (200, b"Please wait"),
        "html_502": (502, b"502 Bad Gateway"),
        "http_500": (500, b"500 Internal Server Error"),
        "503": (503, b"503 Service Unavailable"),
    }
    if kind in html:
        status, title = html[kind]
        return Reply(status, None, {"Content-Type": "text/html"}, raw=_HTML % (title, title))
    errors = {
        "504_1007": lambda: refusal("timeout"),
        "busy_1008": lambda: refusal("busy"),
        "skew": lambda: refusal("skewed"),
        "429": lambda: exchange.limits.too_much(int(seconds or 1)),
        "418": lambda: exchange.limits.banned(exchange.wall_ms() + int((seconds or 120) * 1000), exchange.wall_ms()),
        "error": lambda: ApiError(int(fault.code), str(fault.msg), status=int(fault.status)),
    }
    return _refused(call, errors[kind]())


async def _after(call: Call, reply: Reply, fault: Fault) -> Reply:
    if fault.kind == "answer_after":
        await asyncio.sleep(fault.seconds or 0)
        return reply
    if fault.kind == "without_id":
        return Reply(reply.status, _without(reply.body, call.rules.id_name), reply.headers)
    return Reply(reply.status, reply.body, reply.headers, how="cut" if fault.kind == "accept_then_cut" else "truncate")


def _without(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: _without(item, name) for key, item in value.items() if key != name}
    return value
