"""Limits of the accounts, and how far each is from them."""

from __future__ import annotations

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Gate, Reader, page
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import LimitsView, Page
from fks.interfaces.entry.account_limits import AccountLimits

router = Router(tags=["accounts"])


@router.get("/limits", response_model=Page[LimitsView])
async def limits(gate: Gate, caller: Reader) -> ExactJson:
    """List each account's limits with the amounts used and left, the rules of its prop firm with their distances, and
    the fees of today and of 30 days. An unknown value is null."""
    deps = gate.deps
    return ExactJson(
        page(await AccountLimits(gate.db, deps.clock, deps.settings, deps.paths.home, gate.metrics_text).document())
    )
