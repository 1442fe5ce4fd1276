"""Limits of each account with the distance to it, rules of its prop firm, and the fees that it paid.

The profit of the day and the exposure are the order manager's own gauges, the figures that its checks use; they are not
known while it does not report.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.config.risk import Risk
from fks.config.settings import Settings
from fks.model.codes import Code
from fks.model.errors import FksError
from fks.model.ninja import LinkRecord
from fks.model.timeframe import NS, iso
from fks.store.db import Database
from fks.store.ninja import NinjaStore
from fks.store.risk import RiskStore
from fks.trading.prop_rules import Mode, distances, find_group, mode_of, problems_of, required_action
from fks.trading.prop_rules.groups import FOLDER, stored_groups
from fks.trading.prop_rules.snapshot import account_in, state_of
from fks.trading.risk.valuation import day_start_ns

PROFIT, EXPOSURE = "fks_account_pnl_day", "fks_account_exposure"
SNAPSHOT_AGE_MAX_S = 60.0  # of a prop account's values; the order manager denies entries beyond it
_LINE = re.compile(r"^(fks_account_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_ACCOUNT = re.compile(r'(?:^|,)account="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_ZERO = Decimal(0)


def gauges_of(text: str) -> dict[tuple[str, str], Decimal]:
    """Return the accounts' gauges of a Prometheus text by (metric, account)."""
    found = {}
    for name, labels, value in _LINE.findall(text):
        account = _ACCOUNT.search(labels)
        if account is None:
            continue
        plain = _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], account[1])
        try:
            number = Decimal(value)
        except InvalidOperation:
            continue
        if number.is_finite():
            found[name, plain] = number
    return found


def limits_of(
    risk: Risk,
    currency: str,
    *,
    profit: Decimal | None,
    loss_seen: Decimal,
    exposure: Decimal | None,
    orders_open: int,
    orders_minute: int,
) -> list[dict[str, Any]]:
    """Return the limits of one account. `used` and `left` are null where the value is not known, or each order has the
    limit for itself. `loss_seen`: the greatest loss of the day that was stored; once it reached the limit it holds."""
    loss = None if profit is None else max(-profit, _ZERO)
    if loss_seen >= risk.loss_day_max:
        loss = max(loss or _ZERO, loss_seen)
    return [
        _limit(risk, Code.LOSS_DAY, "loss_day_max", loss, currency),
        _limit(risk, Code.EXPOSURE_ACCOUNT, "exposure_max_account", exposure, currency),
        _limit(risk, Code.EXPOSURE_INSTRUMENT, "exposure_max_instrument", None, currency),
        _limit(risk, Code.NOTIONAL_MAX_ORDER, "notional_max_order", None, currency),
        _limit(risk, Code.ORDER_COUNT, "orders_open_max", Decimal(orders_open), "orders"),
        _limit(risk, Code.RATE_ACCOUNT, "orders_per_minute", Decimal(orders_minute), "orders a minute"),
    ]


def _limit(risk: Risk, code: Code, setting: str, used: Decimal | None, unit: str) -> dict[str, Any]:
    most = Decimal(getattr(risk, setting))
    return {
        "code": code.value,
        "setting": f"risk.{setting}",
        "text": str(Risk.model_fields[setting].description),
        "limit": most,
        "used": used,
        "left": None if used is None else most - used,
        "unit": unit,
    }


def snapshot_of(link: LinkRecord | None, account: str, now_ns: int) -> Mapping[str, Any] | None:
    """Return an account's values of a link, None when they are not there or too old to judge by."""
    if link is None or not link.is_fresh or link.report.snapshot_ns is None:
        return None
    if now_ns - link.report.snapshot_ns > SNAPSHOT_AGE_MAX_S * NS:
        return None
    return account_in(link.report.snapshot, account)


class AccountLimits:
    """Reads what `GET /limits` answers. Errors: OutageError."""

    def __init__(
        self, db: Database, clock: Clock, settings: Settings, home: Path, metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        """`metrics` answers the text of the actors' metrics."""
        self._db = db
        self._clock = clock
        self._settings = settings
        self._home = home
        self._metrics = metrics

    async def document(self) -> list[dict[str, Any]]:
        """Return every account, in the order of their ids."""
        risk, now_ns = self._settings.risk, self._clock.now_ns()
        accounts = await self._db.fetch("gateway.accounts", None)
        gauges = gauges_of((await self._metrics()).decode(errors="replace"))
        losses = await RiskStore(self._db).losses(day_start_ns(now_ns, risk.day_zone, risk.day_start_hour))
        counts = {row["account_id"]: row for row in await self._db.fetch("gateway.order_counts")}
        fees: dict[int, list[dict[str, Any]]] = {}
        for row in await self._db.fetch("gateway.account_fees"):
            fees.setdefault(row["account_id"], []).append(
                {name: row[name] for name in ("currency", "today", "days_30")}
            )
        firm = await self._prop(now_ns, {row["venue"] for row in accounts})
        found = []
        for row in accounts:
            count = dict(counts.get(row["id"]) or {})
            limits = limits_of(
                risk,
                row["currency"],
                profit=gauges.get((PROFIT, row["name"])),
                loss_seen=losses.get(row["id"], _ZERO),
                exposure=gauges.get((EXPOSURE, row["name"])),
                orders_open=count.get("orders_open", 0),
                orders_minute=count.get("orders_minute", 0),
            )
            kept = {name: row[name] for name in ("venue", "currency", "mode", "is_enabled")}
            body = {"account_id": row["id"], "account": row["name"], **kept, "limits": limits}
            found.append(body | {"fees": fees.get(row["id"], []), "prop": firm.get(row["venue"])})
        return found

    async def _prop(self, now_ns: int, venues: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the prop firm's rules of the accounts that have some, by venue."""
        settings = self._settings.ninja
        named = {
            venue: (link, account, name)
            for venue, (link, account) in settings.sessions().items()
            if venue in set(venues) and (name := settings.rules_of(link, account)) is not None
        }
        store, found = NinjaStore(self._db), {}
        for venue, (link, account, name) in named.items():
            snapshot = snapshot_of(await store.link(link), account, now_ns)
            found[venue] = self._rules(name, snapshot, now_ns) | {"group": name, "is_known": snapshot is not None}
        return found

    def _rules(self, name: str, snapshot: Mapping[str, Any] | None, now_ns: int) -> dict[str, Any]:
        today = datetime.fromtimestamp(now_ns // NS, UTC).date()
        try:
            groups = [group for group, _ in stored_groups(self._home / FOLDER)]
            group, state = find_group(groups, name), state_of(snapshot)
            action = required_action(group, state, now_ns)
            shown = [asdict(distance) for distance in distances(group, state, now_ns)]
        except (FksError, OSError, UnicodeDecodeError) as error:
            # rules that are not known are broken: every entry of the account is denied
            return {"mode": Mode.OFF, "reasons": [str(error)], "required_action": None, "rules": []}
        return {
            "mode": mode_of(Mode.AUTO, group, today),
            "reasons": [why for _, why in problems_of(group, today)],
            "required_action": None
            if action is None
            else f"{action.code}: {action.detail}; entries blocked until {iso(action.block_until_ns)}",
            "rules": shown,
        }
