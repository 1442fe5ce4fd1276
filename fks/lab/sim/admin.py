"""Admin API for tests and auditors, on loopback only: the request log, the true state, and the faults to inject."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from fks.lab.sim.atoms import parse, show
from fks.lab.sim.calls import NEW_ID_NAMES
from fks.lab.sim.endpoints import AS_REST
from fks.lab.sim.errors import ApiError
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import IMMEDIATE, KINDS, Fault
from fks.lab.sim.front import Front
from fks.lab.sim.handlers import Handlers
from fks.lab.sim.keys import KeyRule
from fks.lab.sim.options import Options
from fks.model.errors import InputError, conflict, invalid, not_found
from fks.model.timeframe import iso

Handler = Callable[[web.Request], Awaitable[object]]


class Admin:
    """The handlers under /sim/."""

    def __init__(self, exchange: LocalExchange, handlers: Handlers, front: Front | None) -> None:
        self._exchange = exchange
        self._front = front
        self._handlers = handlers
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/sim/info"): self._info,
            ("GET", "/sim/received"): self._received,
            ("GET", "/sim/account"): self._account,
            ("POST", "/sim/transfers"): self._transfer,
            ("POST", "/sim/keys"): self._key,
            ("GET", "/sim/state"): self._state,
            ("GET", "/sim/faults"): self._faults,
            ("POST", "/sim/faults"): self._add_fault,
            ("DELETE", "/sim/faults"): self._clear_faults,
            ("POST", "/sim/filters"): self._set_filters,
            ("GET", "/sim/tape"): self._tape,
            ("POST", "/sim/tape/advance"): self._advance,
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request; an error is one line of text."""
        try:
            self._check_caller(request)
            handler = self._routes.get((request.method, request.path))
            if handler is None:
                known = ", ".join(f"{method} {path}" for method, path in self._routes)
                raise not_found("NOT_FOUND", f"no {request.method} {request.path}", f"there are {known}")
            body = await handler(request)
        except InputError as error:
            problem = {"code": error.code, "message": error.message, "remedy": error.remedy}
            return web.Response(status=error.status, body=orjson.dumps(problem), content_type="application/json")
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    @staticmethod
    def _check_caller(request: web.Request) -> None:
        """Refuse requests from other machines, and from pages in a browser on this one."""
        address = ipaddress.ip_address(request.remote or "0.0.0.0")  # noqa: S104
        if not address.is_loopback or "Origin" in request.headers:
            raise InputError("the admin surface is for this machine only", code="FORBIDDEN", status=403)

    async def _info(self, _request: web.Request) -> object:
        exchange = self._exchange
        return {
            "seed": exchange.options.seed,
            "network_epoch": exchange.network_epoch,
            "symbols": list(exchange.states),
            "fills": exchange.options.fills,
            "mode": "tape" if exchange.pace is not None else "generated",
            "server_time": exchange.wall_ms(),
            "market_time": {s: d.market.now_ms for s, d in exchange.states.items()},
            "sockets": len(self._handlers.sockets),
            "user_streams": len(exchange.users.sockets()),
            "fault_kinds": KINDS,
            "settings": list(Options.__dataclass_fields__),
        }

    async def _received(self, request: web.Request) -> object:
        """Return the log: path=, method=, since= (ms), client_order_id=, after= (seq), all=1, limit=."""
        query = request.query
        where, values = ["1"], list[object]()
        if query.get("all") != "1":
            where.append("is_private = 1")
        for name, part in (("method", 0), ("path", 1)):
            if name in query:  # a method of the WebSocket API is also found under its REST request
                same = [method for method, rest in AS_REST.items() if rest[part] == query[name]]
                where.append(f"({name} = ? OR path IN ({', '.join('?' * len(same))}))")
                values += [query[name], *same]
        for name, column in (("since", "time_ms >= ?"), ("after", "seq > ?")):
            if name in query:
                where.append(column)
                values.append(_whole(query[name], name))
        if "client_order_id" in query:
            where.append("(client_order_id = ? OR instr(params, ?) > 0)")
            values += [query["client_order_id"], f'"{query["client_order_id"]}"']
        limit = _whole(query.get("limit", "100000"), "limit")
        rows = self._exchange.store.received(" AND ".join(where), tuple(values), limit)
        return {"items": [_logged(row, self._front) for row in rows]}

    async def _account(self, _request: web.Request) -> object:
        exchange = self._exchange
        return {
            "balances": exchange.engine.ledger.rows(),
            "open_orders": [order.row() for state in exchange.states.values() for order in state.orders.values()],
            "open_lists": [pair.row() for pair in exchange.engine.lists.values()],
            "orders": [order.row() for order in exchange.store.orders()],
            "fills": [fill.row() | {"wallTime": fill.wall_ms} for fill in exchange.store.fills()],
        }

    async def _key(self, request: web.Request) -> object:
        """Make a key of the account, or change or revoke one: {"api_key"?, "may_withdraw"?, "is_address_bound"?,
        "is_revoked"?}."""
        body, keyring = await _json(request), self._exchange.keyring
        key, secret = str(body.get("api_key", "")), ""
        if not key:
            key, secret = keyring.add()
        if body.get("is_revoked") is True:
            keyring.revoke(key)
        keyring.rights[key] = KeyRule(body.get("may_withdraw") is True, body.get("is_address_bound") is not False)
        return {"api_key": key, "api_secret": secret}

    async def _transfer(self, request: web.Request) -> object:
        """Deposit or withdraw: {"kind", "asset", "amount", "fee"?, "is_listed"?}; unlisted moves the balance alone."""
        body = await _json(request)
        kind, asset = body.get("kind"), str(body.get("asset", "")).upper()
        if kind not in ("deposit", "withdrawal") or not asset:
            raise invalid(
                "INVALID",
                "a transfer has a kind and an asset",
                'send {"kind": "deposit", "asset": "BTC", "amount": "1"}',
            )
        try:
            amount, fee = parse(str(body.get("amount", ""))), parse(str(body.get("fee", "0")))
        except ValueError as error:
            raise invalid("INVALID", "amount or fee is no plain decimal", 'send "amount": "1.5"') from error
        try:
            number = self._exchange.engine.transfer(
                str(kind), asset, amount, fee, is_listed=body.get("is_listed", True) is not False
            )
        except ApiError as error:
            raise conflict("REFUSED", str(error)) from error
        return {"id": number, "balances": self._exchange.engine.ledger.rows(omit_zero=True)}

    async def _state(self, request: web.Request) -> object:
        """Return the present state in one cheap call: balances, open orders, and since a moment (ms) the fills made and
        the reports that a fault struck (kept in memory only)."""
        exchange, since = self._exchange, _whole(request.query.get("since", "0"), "since")
        return {
            "time": exchange.wall_ms(),
            "balances": exchange.engine.ledger.rows(),
            "open_orders": [order.row() for state in exchange.states.values() for order in state.orders.values()],
            "fills": [
                fill.row() | {"wallTime": fill.wall_ms, "clientOrderId": client_id}
                for fill, client_id in exchange.store.fills_since(since)
            ],
            "struck_reports": [row for row in exchange.users.struck if int(str(row["wallTime"])) >= since],
            "prices": {name: show(state.market.last_price) for name, state in exchange.states.items()},
        }

    async def _faults(self, request: web.Request) -> object:
        number = request.query.get("id")
        return self._exchange.faults.rows(_whole(number, "id") if number else None)

    async def _add_fault(self, request: web.Request) -> object:
        body = await _json(request)
        fault = self._exchange.faults.add(body, self._exchange.clock.monotonic())
        if fault.kind in IMMEDIATE:
            await self._strike_now(fault)
        return {"id": fault.id, "kind": fault.kind, "struck": fault.struck}

    async def _strike_now(self, fault: Fault) -> None:
        reach = [s for s in list(self._handlers.sockets) if not fault.path or s.path.startswith(fault.path)]
        fault.struck = len(reach)
        if fault.kind == "stream_terminated":
            fault.struck = len(self._exchange.users.sockets())
            self._exchange.users.terminate()
        for socket in reach:
            if fault.kind == "half_open":
                socket.dead_by = socket.dead_by or fault.id
            elif fault.kind == "cut_stream":
                socket.abort()
            elif fault.kind == "server_shutdown":
                binance = {"event": {"e": "serverShutdown", "E": self._exchange.wall_ms()}}
                socket.send(socket.shutdown_frame or orjson.dumps(binance))
                await socket.shut(1001)

    async def _clear_faults(self, request: web.Request) -> object:
        """End one fault, or all; connections that another fault made half open stay so."""
        number = request.query.get("id")
        fault_id = _whole(number, "id") if number else None
        for socket in self._handlers.sockets:
            if socket.is_dead and fault_id in (None, socket.dead_by):
                socket.abort()
        return {"cleared": len(self._exchange.faults.clear(fault_id))}

    async def _set_filters(self, request: web.Request) -> object:
        """Change a symbol's filters, also for later starts: {"symbol": …, "market_qty_max": "0.5", "orders_max": 3}."""
        body = await _json(request)
        symbol = str(body.pop("symbol", ""))
        self._exchange.set_filters(symbol, body)
        return self._exchange.states[symbol].market.listing.filters()

    async def _tape(self, _request: web.Request) -> object:
        pace = self._exchange.pace
        if pace is None:
            raise conflict("NO_TAPE", "there is no tape", "start with --tape PATH")
        return {
            "row": pace.row,
            "rows": len(pace.grid),
            "time": int(pace.grid[pace.row]),
            "market_time": pace.now_ms,
            "ended": pace.is_ended,
            "hold": pace.hold,
        }

    async def _advance(self, request: web.Request) -> object:
        """Complete `bars` bars, the open one first; return when every frame is written."""
        exchange, pace = self._exchange, self._exchange.pace
        if pace is None or not pace.hold:
            raise conflict("NO_HOLD", "the tape is not on hold", "start with --tape PATH --hold")
        bars = (await _json(request)).get("bars", 1)
        if not isinstance(bars, int) or bars < 1:
            raise invalid("INVALID", f"bars {bars!r} is no positive number", 'send {"bars": 1}')
        for _ in range(bars):
            if pace.is_ended:
                break
            exchange.next_bar()
            await exchange.flushed()
        return await self._tape(request)


def _logged(row: dict[str, object], front: Front | None) -> dict[str, object]:
    """Return a log row; `client_order_ids` are the ids of the orders that the request asked to make (an amendment
    makes none)."""
    params: dict[str, str] = orjson.loads(str(row.pop("params")))
    time_ms = row.pop("time_ms")
    assert isinstance(time_ms, int)
    rest = AS_REST.get(str(row["path"]))
    is_amendment = "PUT" in (row["method"], *(rest or ()))
    made = [params[name] for name in NEW_ID_NAMES if name in params and not is_amendment]
    if front is not None:
        made += front.made(str(row["path"]), params)
    place = {"method": rest[0], "path": rest[1], "socket_method": row["path"]} if rest is not None else {}
    return (
        {"time": iso(time_ms * 1_000_000), "time_ms": time_ms}
        | row
        | place
        | {"client_order_ids": made, "params": params}
    )


async def _json(request: web.Request) -> dict[str, object]:
    raw = await request.read()
    try:
        found = orjson.loads(raw) if raw else {}
    except ValueError as error:
        raise invalid("INVALID", "the body is no JSON", f"send an object ({error})") from error
    if not isinstance(found, dict):
        raise invalid("INVALID", "the body is no JSON object", "send an object")
    return found


def _whole(text: str, name: str) -> int:
    if not text.isdigit():
        raise invalid("INVALID", f"{name} {text!r} is no whole number", "send digits only")
    return int(text)
