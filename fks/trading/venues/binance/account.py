"""Conversion of Binance's answers about the session's owner, deposits and withdrawals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fks.config.urls import is_test_host
from fks.model.account import Environment, Transfer, TransferKind, VenueIdentity
from fks.model.decimals import number_of
from fks.model.errors import PeerError
from fks.model.timeframe import to_ns

_MS = 1_000_000
_CREDITED = frozenset({1, 6})  # success; credited, but not to be withdrawn yet
_RETURNED = frozenset({1, 3, 5})  # cancelled, rejected, failed: what was taken came back


def identity_of(answer: Mapping[str, Any], rest_url: str | None) -> VenueIdentity:
    """Return the owner that an account answer describes. Errors: PeerError without a uid."""
    uid = answer.get("uid")
    if uid is None or str(uid) == "":
        raise PeerError("the account answer carries no uid")
    if answer.get("environment") == Environment.SIM.value:
        return VenueIdentity(Environment.SIM, str(uid), str(answer.get("networkEpoch") or ""))
    return VenueIdentity(Environment.TEST if is_test_host(rest_url) else Environment.LIVE, str(uid))


def deposits_of(rows: Sequence[Mapping[str, Any]]) -> list[Transfer]:
    """Return the credited deposits of `capital/deposit/hisrec`. Errors: PeerError."""
    try:
        return [
            Transfer(
                TransferKind.DEPOSIT,
                str(row["id"]),
                str(row["coin"]),
                number_of(row["amount"]),
                int(row["insertTime"]) * _MS,
            )
            for row in rows
            if int(row["status"]) in _CREDITED
        ]
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise PeerError(f"deposits cannot be read ({type(error).__name__}: {error})") from error


def withdrawals_of(rows: Sequence[Mapping[str, Any]]) -> list[Transfer]:
    """Return the withdrawals of `capital/withdraw/history`, counted from their request on, when the exchange takes the
    amount; one that failed later is followed by a deposit that brings it back. Errors: PeerError."""
    found: list[Transfer] = []
    try:
        for row in rows:
            reference, asset, amount = str(row["id"]), str(row["coin"]), number_of(row["amount"])
            fee, at = number_of(row.get("transactionFee") or "0"), _moment(str(row["applyTime"]))
            found.append(Transfer(TransferKind.WITHDRAWAL, reference, asset, amount, at, fee))
            if int(row["status"]) in _RETURNED:
                found.append(Transfer(TransferKind.DEPOSIT, f"returned:{reference}", asset, amount + fee, at))
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise PeerError(f"withdrawals cannot be read ({type(error).__name__}: {error})") from error
    return found


def _moment(text: str) -> int:
    """Return "2026-11-21 12:00:00" (UTC), or milliseconds as text, in ns."""
    if text.isdigit():
        return int(text) * _MS
    return to_ns(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC))
