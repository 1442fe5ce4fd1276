"""The seed dialect: one JSON object with `action`, as simple programs send it, and its reply.

    {"action":"buy","instrument":"ES 03-25","price":4500.25,"tp_points":20,"sl_points":10}
    {"success":true,"message":"submitted FKS:s1f0c…:E","signal_id":"s1f0c…"}

It carries no secret. On a connection without authentication the bridge accepts it only from the same machine and only
for a simulation account.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Literal

from fks.ninja import strict_json
from fks.ninja.fields import ACCOUNT, INSTRUMENT, NUMBER, QTY, FieldError, Record, may, need, one_of, read, written
from fks.ninja.messages import Signal

VALID_MS = 30_000  # a signal of this dialect expires so long after its arrival
SAME_MS = 2_000  # the same content again within this time is the same signal


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSignal(Record):
    is_closed: ClassVar[bool] = True
    action: Literal["buy", "sell", "long", "short"] = need(one_of("buy", "sell", "long", "short"))
    instrument: str = need(INSTRUMENT)
    price: Decimal = need(NUMBER)
    tp_points: Decimal | None = may(NUMBER)
    sl_points: Decimal | None = may(NUMBER)
    quantity: int | None = may(QTY)
    account: str | None = may(ACCOUNT)


@dataclass(frozen=True, slots=True)
class SeedReply:
    """`message` of a failure begins with a code and a colon. `signal_id` is None if no id was made."""

    is_success: bool
    message: str
    signal_id: str | None

    def as_object(self) -> dict[str, object]:
        return {"success": self.is_success, "message": self.message, "signal_id": self.signal_id}

    def to_line(self) -> bytes:
        return strict_json.dumps(self.as_object())


def is_seed(found: Mapping[str, object]) -> bool:
    """Whether a JSON object is of this dialect: it has `action` and no `t`."""
    return "t" not in found and "action" in found


def parse_seed(found: Mapping[str, object]) -> SeedSignal:
    """Return the signal in a JSON object. Errors: FieldError; a key that is not of the dialect is one."""
    if "t" in found:
        raise FieldError("unknown_field", "t")
    return read(SeedSignal, found)


def seed_id(seed: SeedSignal, arrived_ms: int) -> str:
    """Return the id of a signal that arrived at `arrived_ms`: `s`, 12 hex of its content, `-`, the second in hex.

    The content is hashed as JSON with sorted keys, no spaces and plain numbers, so that `4500.250` is `4500.25`.
    """
    content = written(seed)
    digest = hashlib.sha256(strict_json.dumps(dict(sorted(content.items()))).rstrip(b"\n")).hexdigest()
    return f"s{digest[:12]}-{arrived_ms // 1000:x}"


def to_signal(
    seed: SeedSignal, *, account: str, arrived_ms: int, entry_type: Literal["limit", "market"] = "limit"
) -> Signal:
    """Return the fks1 signal that a seed signal stands for. `account` applies where the seed names none."""
    return Signal(
        id=seed_id(seed, arrived_ms),
        account=seed.account or account,
        instrument=seed.instrument,
        action="buy" if seed.action in ("buy", "long") else "sell",
        qty=seed.quantity or 1,
        type=entry_type,
        price=seed.price if entry_type == "limit" else None,
        tif="day",
        sl_points=seed.sl_points,
        tp_points=seed.tp_points,
        created_ms=arrived_ms,
        valid_until=arrived_ms + VALID_MS,
    )


def accepted(order: str, signal_id: str, *, is_duplicate: bool = False) -> SeedReply:
    """Return the reply to a signal that was submitted as `order`."""
    return SeedReply(True, f"{'duplicate, ' if is_duplicate else ''}submitted {order}", signal_id)


def refused(code: str, detail: str, signal_id: str | None = None) -> SeedReply:
    """Return the reply to a signal that is not executed."""
    return SeedReply(False, f"{code}: {detail}", signal_id)
