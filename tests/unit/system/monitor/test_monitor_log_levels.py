"""Levels of log lines that libraries write."""

from __future__ import annotations

import json
import logging

import pytest

from fks.system.process.log import JsonFormatter, Redactor


def _line(message: str, error: BaseException, logger: str = "asyncio") -> dict[str, object]:
    record = logging.LogRecord(logger, logging.ERROR, "x.py", 1, message, (), (type(error), error, None))
    found: dict[str, object] = json.loads(JsonFormatter("orders", Redactor()).format(record))
    return found


def test_a_network_error_that_a_library_forgot_is_no_error_of_ours() -> None:
    lost = type("NetworkError", (Exception,), {"__module__": "ccxt.base.errors"})("1006")
    line = _line("Future exception was never retrieved", lost)
    assert (line["level"], "traceback" in line) == ("INFO", False)
    assert line["error"] == "NetworkError: 1006"
    assert _line("Task exception was never retrieved", ConnectionResetError("x"))["level"] == "INFO"


@pytest.mark.parametrize(
    ("message", "error", "logger"),
    [
        ("Future exception was never retrieved", KeyError("price"), "asyncio"),
        ("something else broke", ConnectionResetError("x"), "asyncio"),
        ("Future exception was never retrieved", ConnectionResetError("x"), "fks"),
    ],
)
def test_every_other_error_stays_one(message: str, error: BaseException, logger: str) -> None:
    assert _line(message, error, logger)["level"] == "ERROR"
