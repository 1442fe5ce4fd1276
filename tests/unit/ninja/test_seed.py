"""The seed dialect."""

from __future__ import annotations

from typing import Any

import pytest

from fks.ninja import strict_json
from fks.ninja.fields import FieldError
from fks.ninja.messages import as_object, from_client
from fks.ninja.seed import accepted, is_seed, parse_seed, refused, seed_id, to_signal

LINE = b'{"action":"buy","instrument":"ES 03-25","price":4500.25,"tp_points":20,"sl_points":10}'
NOW_MS = 1738594800000


def test_the_line_becomes_a_signal() -> None:
    found = strict_json.loads(LINE)
    assert is_seed(found)
    signal = to_signal(parse_seed(found), account="Sim101", arrived_ms=NOW_MS)
    assert from_client(strict_json.loads(strict_json.dumps(as_object(signal)).strip())) == signal
    assert (signal.action, signal.type, signal.qty, signal.tif, signal.account) == ("buy", "limit", 1, "day", "Sim101")
    assert signal.valid_until == NOW_MS + 30_000
    assert signal.id.endswith(f"-{NOW_MS // 1000:x}")
    assert len(f"FKS:{signal.id}:E") <= 50


@pytest.mark.parametrize(("action", "side"), [("buy", "buy"), ("long", "buy"), ("sell", "sell"), ("short", "sell")])
def test_long_is_buy_and_short_is_sell(action: str, side: str) -> None:
    seed = parse_seed({**strict_json.loads(LINE), "action": action})
    assert to_signal(seed, account="Sim101", arrived_ms=NOW_MS).action == side


def test_a_market_entry_has_no_price() -> None:
    signal = to_signal(parse_seed(strict_json.loads(LINE)), account="Sim101", arrived_ms=NOW_MS, entry_type="market")
    assert (signal.type, signal.price) == ("market", None)


def test_quantity_and_account_of_the_line_are_used() -> None:
    seed = parse_seed({**strict_json.loads(LINE), "quantity": 3, "account": "Sim102"})
    signal = to_signal(seed, account="Sim101", arrived_ms=NOW_MS)
    assert (signal.qty, signal.account) == (3, "Sim102")


def test_the_same_content_has_the_same_id_however_it_is_written() -> None:
    other = b'{"sl_points":10,"instrument":"ES 03-25","action":"buy","price":4500.250,"tp_points":20.0}'
    first, second = (parse_seed(strict_json.loads(line)) for line in (LINE, other))
    assert seed_id(first, NOW_MS) == seed_id(second, NOW_MS + 999) == "s756185be5371-67a0d9f0"
    assert seed_id(first, NOW_MS) != seed_id(first, NOW_MS + 1000)


@pytest.mark.parametrize("change", [{"qyt": 1}, {"action": "hold"}, {"price": "x"}, {"quantity": 0}, {"t": "signal"}])
def test_a_wrong_line_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        parse_seed({**strict_json.loads(LINE), **change})


def test_replies() -> None:
    assert accepted("FKS:s1:E", "s1").to_line() == b'{"success":true,"message":"submitted FKS:s1:E","signal_id":"s1"}\n'
    assert accepted("FKS:s1:E", "s1", is_duplicate=True).message.startswith("duplicate")
    assert refused("auth_required", "no secret").as_object() == {
        "success": False, "message": "auth_required: no secret", "signal_id": None,
    }  # fmt: skip
