"""Errors of Ray are reported by their cause: without a traceback, colours, a process id or an address."""

from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from actors.system import cause
from fks.model.errors import OutageError


@pytest.mark.parametrize(
    ("raised", "reported"),
    [
        (OutageError("inference:small:0 has not started"), "inference:small:0 has not started"),
        (AttributeError("no such field\nfurther lines"), "AttributeError: no such field"),
        (KeyError(), "KeyError"),
    ],
)
def test_error_raised_in_a_process_is_reported_by_its_text(raised: Exception, reported: str) -> None:
    trace = "Traceback (most recent call last):\n  File 'x.py', line 1, exit\n"
    found = RayTaskError("Inference.call", trace, raised, "ray::Inference", 12615, "10.0.0.1").as_instanceof_cause()
    assert cause(found) == reported
