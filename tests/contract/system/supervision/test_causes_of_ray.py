"""Errors of Ray are reported by their cause: without a traceback, colours, a process id or an address."""

from __future__ import annotations

import pytest
from ray.exceptions import RayError, RayTaskError

from actors.system import cause, failure_of_call
from fks.model.errors import OutageError, PeerError


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (OutageError("inference:small:0 has not started"), "inference:small:0 has not started"),
        (AttributeError("no such field\nfurther lines"), "AttributeError: no such field"),
        (KeyError(), "KeyError"),
    ],
)
def test_error_raised_in_a_process_is_reported_by_its_text(raised: Exception, reported: str) -> None:
    assert cause(raised_in_a_process(raised)) == reported


def test_call_of_a_child_fails_as_an_outage_or_as_its_own_fault() -> None:
    waits, broke = OutageError("inference:small:0 has not started"), RuntimeError("/home/me/secret")
    for error, kind, message in (
        (raised_in_a_process(waits), OutageError, "inference:small:0 has not started"),
        (raised_in_a_process(broke), PeerError, "inference:small:0 failed: RuntimeError"),
        (RayError("no such process"), OutageError, "inference:small:0: no such process"),
        (ValueError("no actor of this name"), OutageError, "inference:small:0: no actor of this name"),
    ):
        failure = failure_of_call("inference:small:0", error)
        assert (type(failure), failure.message) == (kind, message)


def raised_in_a_process(error: Exception) -> RayTaskError:
    trace = "Traceback (most recent call last):\n  File 'x.py', line 1, exit\n"
    return RayTaskError("Inference.call", trace, error, "ray::Inference", 12615, "10.0.0.1").as_instanceof_cause()
