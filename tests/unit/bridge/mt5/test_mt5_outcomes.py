"""The table of return codes: every row, and what no row names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.bridge.mt5.platform import NOT_SENT, RETCODES, SendOutcome, classify_send

DONE, AMBIGUOUS, REFUSED = SendOutcome.DONE, SendOutcome.AMBIGUOUS, SendOutcome.REFUSED
ROWS = {
    10004: (REFUSED, "requote"), 10006: (REFUSED, "rejected"), 10007: (REFUSED, "rejected"), 10008: (DONE, ""),
    10009: (DONE, ""), 10010: (DONE, ""), 10011: (AMBIGUOUS, ""), 10012: (AMBIGUOUS, ""),
    10013: (REFUSED, "bad_request"), 10014: (REFUSED, "qty_limit"), 10015: (REFUSED, "bad_price"),
    10016: (REFUSED, "bad_bracket"), 10017: (REFUSED, "symbol_disabled"), 10018: (REFUSED, "market_closed"),
    10019: (REFUSED, "not_enough_money"), 10020: (REFUSED, "requote"), 10021: (REFUSED, "no_quote"),
    10022: (REFUSED, "bad_request"), 10023: (REFUSED, "rejected"), 10024: (REFUSED, "rate_limited"),
    10025: (SendOutcome.UNCHANGED, ""), 10026: (SendOutcome.DISABLED, "trading_disabled"),
    10027: (SendOutcome.DISABLED, "trading_disabled"), 10028: (REFUSED, "rejected"), 10029: (REFUSED, "frozen"),
    10030: (REFUSED, "bad_filling"), 10031: (AMBIGUOUS, ""), 10032: (REFUSED, "rejected"),
    10033: (REFUSED, "position_limit"), 10034: (REFUSED, "position_limit"), 10035: (REFUSED, "bad_request"),
    10036: (REFUSED, "position_closed"), 10038: (REFUSED, "qty_limit"), 10039: (REFUSED, "rejected"),
    10040: (REFUSED, "position_limit"), 10041: (REFUSED, "rejected"), 10042: (REFUSED, "symbol_disabled"),
    10043: (REFUSED, "symbol_disabled"), 10044: (REFUSED, "symbol_disabled"), 10045: (REFUSED, "rejected"),
    10046: (REFUSED, "opposite_position"),
}  # fmt: skip


@pytest.mark.parametrize("code", sorted(ROWS | RETCODES))
def test_a_return_code_has_its_outcome(code: int) -> None:
    found = classify_send(code, 1)
    assert (found.outcome, found.code) == ROWS[code]
    assert found.text


@pytest.mark.parametrize("error", range(-10_005, -9_999))
def test_no_result_with_an_internal_error_is_ambiguous(error: int) -> None:
    assert classify_send(None, error).outcome is AMBIGUOUS


def test_no_result_before_the_request_left_is_no_order() -> None:
    assert classify_send(None, -2).outcome is REFUSED
    assert classify_send(None, -8).outcome is SendOutcome.DISABLED


@given(st.one_of(st.none(), st.integers()), st.integers())
def test_only_a_named_code_is_anything_but_ambiguous(code: int | None, error: int) -> None:
    found = classify_send(code, error)
    is_named = code in RETCODES if code is not None else error in NOT_SENT
    assert is_named or found.outcome is AMBIGUOUS
    assert bool(found.code) == (found.outcome in (REFUSED, SendOutcome.DISABLED))
