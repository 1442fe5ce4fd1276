"""Looks at the invariant of protection twice a second while a chaos run goes on, at the exchange's admin port and the
alerts.

Time counts only while both can be asked and the order manager beats: a position cannot be covered by a system that is
away, and how long that lasts is measured elsewhere.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fks.chaos.cover import CoverWatch, Sample
from fks.chaos.evidence import rules_of
from fks.chaos.outside import Outside
from fks.model.errors import FksError

EVERY_S = 0.5
ALIVE_S = 3.0  # a beat this young is taken for a working order manager
_ORDERS = """
SELECT client_order_id, role, symbol, instance, state, quantity, filled, is_reduce_only, stop_loss, take_profit,
       side, created_at
FROM orders
 WHERE venue = 'ccxt' AND (client_order_id = ANY($1::text[])
    OR state IN ('SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING', 'PARTIAL'))"""
#: open pages; one about several symbols (`kill.stuck`) is a row for each
OPEN_PAGES = """
SELECT coalesce(s #>> '{}', payload->>'symbol', '') AS symbol, coalesce(payload->>'instance', '') AS instance
  FROM alerts LEFT JOIN LATERAL jsonb_path_query(payload, '$.symbols[*]') AS s ON true
 WHERE severity = 'page' AND resolved_at IS NULL"""
_WORKS = """
SELECT (SELECT pid FROM component_health WHERE name = 'orders' AND state IN ('ready', 'running', 'degraded')
   AND beat_at > clock_timestamp() - make_interval(secs => $1)) AS pid,
 EXISTS (SELECT FROM kill_switch WHERE is_engaged) AS is_killed"""


class CoverSampler:
    """Samples until cancelled. `watch` holds what was found."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self.watch = CoverWatch()
        self._fills: dict[tuple[str, int], Any] = {}
        self._since_ms = 0
        self._clock_s = 0.0

    async def run(self) -> None:
        """Look again and again; a part of the system that is away is looked at the next time."""
        clock = self._outside.clock
        last_s = clock.monotonic()
        while True:
            await clock.sleep(EVERY_S)
            now_s = clock.monotonic()
            with contextlib.suppress(FksError):
                rows = await self._outside.sql(_WORKS, ALIVE_S)
                if rows[0]["pid"] is not None and not rows[0]["is_killed"]:
                    self._clock_s += min(now_s - last_s, 2 * EVERY_S)
                    self.watch.look(await self._sample(rows[0]["pid"]))
            last_s = now_s

    async def _sample(self, process: int) -> Sample:
        state = await self._outside.exchange("GET", f"/sim/state?since={self._since_ms}")
        for fill in state["fills"]:
            self._fills[fill["symbol"], fill["id"]] = fill
            self._since_ms = max(self._since_ms, fill["wallTime"])
        names = {row["clientOrderId"] for row in (*self._fills.values(), *state["open_orders"])}
        orders = await self._outside.sql(_ORDERS, list(names))
        pages = await self._outside.sql(OPEN_PAGES)
        rules = await rules_of(self._outside, state["prices"])
        return Sample(self._clock_s, state["open_orders"], list(self._fills.values()), orders, pages, rules, process)
