"""Small order requests sent throughout a run, each repeated under one Idempotency-Key until it is answered.

A request that the gateway accepted (202) or denied with a code (422) was promised an outcome: the auditor compares
every such answer with the journal. Half of the requests are repeated after their answer: a repeat may return another
state, never another order.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import replace
from typing import Any

from fks.chaos.auditor import OrderRequest
from fks.chaos.outside import Outside
from fks.model.errors import OutageError

EVERY_S = 2.0
PAUSE_S = 0.5  # between two attempts of one request
PATIENCE_S = 90.0  # then a request stays unanswered: nothing was promised
QUANTITY = "0.001"
_ANSWERS = frozenset({202, 422})
_ACCOUNT = """
SELECT a.name, i.symbol FROM accounts a JOIN strategy_instances i ON i.account_id = a.id
 WHERE a.is_enabled AND a.venue = 'ccxt' ORDER BY i.id LIMIT 1"""


class OrderRequester:
    """Sends a request every EVERY_S, buying and selling in turn, with the local command line's token."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._is_over = False
        self.requests: dict[str, OrderRequest] = {}

    def end(self) -> None:
        """Start no new request; `run` returns when the last one is answered or given up."""
        self._is_over = True

    async def run(self) -> None:
        """Send requests until `end`; none when no account can trade. Errors: OutageError."""
        body = await self._body()
        if body is None:
            return
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                if self._is_over:
                    break
                key, side = f"chaos-{uuid.uuid4()}", "buy" if number % 2 == 0 else "sell"
                self.requests[key] = OrderRequest(key)
                group.create_task(self._ask(key, body | {"side": side}, times=1 + number // 2 % 2))
                await self._outside.clock.sleep(EVERY_S)

    async def _body(self) -> dict[str, Any] | None:
        rows = await self._outside.sql(_ACCOUNT)
        if not rows:
            return None
        return {"account": rows[0]["name"], "symbol": rows[0]["symbol"], "type": "market", "quantity": QUANTITY}

    async def _ask(self, key: str, body: dict[str, Any], *, times: int) -> None:
        clock = self._outside.clock
        end_s = clock.monotonic() + PATIENCE_S
        while times and clock.monotonic() < end_s:
            try:
                status, answer = await self._outside.gateway("POST", "/orders", body, key=key)
            except OutageError:
                status, answer = 0, {}  # the outcome is unknown: the key makes the repeat safe
            request = self.requests[key]
            if status in _ANSWERS and "id" in answer:
                times -= 1
                self.requests[key] = replace(request, promised=tuple({*request.promised, str(answer["id"])}))
            elif 400 <= status < 500 and status != 429:
                self.requests[key] = replace(request, refused=f"{status} {answer.get('code', '')}")
                return
            else:
                await clock.sleep(PAUSE_S)
