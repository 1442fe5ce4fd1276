"""Trace context, request ids, aliases and ETags: how they are read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.interfaces.api.aliases import resolved, route_path
from fks.interfaces.api.conditional import etag_of, is_known
from fks.interfaces.api.tracing import request_id_of, trace_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_trace_of_a_caller_goes_on_with_a_new_span() -> None:
    found = trace_of(f"00-{TRACE}-00f067aa0ba902b7-01")
    assert (found.trace_id, found.flags) == (TRACE, "01")
    assert found.span_id != "00f067aa0ba902b7"
    assert found.header == f"00-{TRACE}-{found.span_id}-01"
    assert trace_of(f"01-{TRACE}-00f067aa0ba902b7-00-later").trace_id == TRACE


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
    ],
)
def test_invalid_traceparent_starts_a_new_trace(text: str | None) -> None:
    found = trace_of(text)
    assert found.trace_id != TRACE
    assert trace_of(found.header).trace_id == found.trace_id


@given(st.text())
def test_any_text_gives_a_valid_trace_and_request_id(text: str) -> None:
    assert trace_of(trace_of(text).header).trace_id
    found = request_id_of(text)
    assert request_id_of(found) == found


def test_request_id_of_a_caller_is_kept_when_it_is_plain() -> None:
    assert request_id_of("abc-1.2_3") == "abc-1.2_3"
    for text in (None, "", "a b", "x" * 65, "a\tb"):
        assert len(request_id_of(text)) == 16


def _scope(path: str, method: str = "GET", root: str = "") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": root}


def test_alias_is_the_route_below_a_root_path() -> None:
    assert route_path(resolved(_scope("/api/v1/orders/x"))) == "/orders/x"
    assert resolved(_scope("/api/v1/orders"))["path"] == "/api/v1/orders"
    assert route_path(resolved(_scope("/fks/api/v1/orders", root="/fks"))) == "/orders"
    for path in ("/orders", "/api/v1", "/api/v10/orders", "/api/health"):
        assert resolved(_scope(path)) == _scope(path)


def test_renamed_alias_means_its_own_route() -> None:
    renamed = {("POST", "/signals"): "/signals/send"}
    assert route_path(resolved(_scope("/api/v1/signals", "POST"), renamed)) == "/signals/send"
    assert route_path(resolved(_scope("/api/v1/signals"), renamed)) == "/signals"


def test_etag_is_compared_weakly() -> None:
    tag = etag_of(b"{}")
    assert tag == etag_of(b"{}") != etag_of(b"[]")
    assert is_known([f"W/{tag}"], tag)
    assert is_known(['"x"', f'"y", {tag}'], tag)
    assert is_known(["*"], tag)
    assert not is_known(['"x"', ""], tag)
    assert not is_known([], tag)
