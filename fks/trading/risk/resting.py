"""Entries that rest at a venue while a check would deny them now: which end, and when. Pure."""

from __future__ import annotations

from collections.abc import Collection

from fks.model.codes import ENDS_RESTING, Code, Denial
from fks.trading.risk.check import RiskDenied, check
from fks.trading.risk.intent import Intent
from fks.trading.risk.view import RiskView


class RestingEntries:
    """Remembers since when each resting entry would be denied, by code (`ENDS_RESTING`). Soft state.

    A code that ends entries only after some time is not counted before `others_start_s` (seconds, monotonic): a system
    that starts has no feed and no guardian yet, and its order manager may be the first of its processes.
    """

    def __init__(self, others_start_s: float) -> None:
        self._others_start_s = others_start_s
        self._since: dict[str, dict[Code, float]] = {}

    def keep(self, client_order_ids: Collection[str]) -> None:
        """Forget all orders but these."""
        self._since = {name: since for name, since in self._since.items() if name in client_order_ids}

    def due(self, intent: Intent, view: RiskView, now_s: float) -> Denial | None:
        """Return why the entry ends now, None when it rests on. `view` is without the order itself."""
        verdict = check(intent, view, explain=True, only=ENDS_RESTING)
        failures = {denial.code: denial for denial in verdict.all} if isinstance(verdict, RiskDenied) else {}
        before = self._since.get(intent.client_order_id, {})
        first_s = max(now_s, self._others_start_s)
        since = self._since[intent.client_order_id] = {
            code: before.get(code, first_s if ENDS_RESTING[code] else now_s) for code in failures
        }
        return next((no for code, no in failures.items() if now_s - since[code] >= ENDS_RESTING[code]), None)
