"""Rules about the C# sources that the compiler does not hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import mono

SOURCES = sorted(path for part in mono.PARTS for path in (mono.NT8 / part).glob("*.cs"))
ALL = sorted(mono.NT8.rglob("*.cs"))
ORDER_CALLS = re.compile(r"\.(CreateOrder|Submit|Change|Cancel|CancelAllOrders|Flatten|FlattenEverything)\s*\(")
# accepted by mcs -langversion:5 although they are C# 6 (checked with mono 6.8)
GETTER_ONLY = re.compile(r"\{\s*get;\s*\}")
AWAIT_IN_CATCH = re.compile(r"\b(catch|finally)\b[^{]*\{[^}]*\bawait\b")


def _code(text: str) -> str:
    """The text without comments and strings."""
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r'@"(?:[^"]|"")*"|"(?:\\.|[^"\\\n])*"', '""', text)


def _names(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", ALL, ids=_names)
def test_source_uses_only_csharp_5(path: Path) -> None:
    code = _code(path.read_text())
    interfaces = re.sub(r"interface\s+\w+\s*\{.*?\n    \}", "", code, flags=re.DOTALL)
    assert not GETTER_ONLY.search(interfaces)
    assert not AWAIT_IN_CATCH.search(code)


@pytest.mark.parametrize("path", SOURCES, ids=_names)
def test_only_the_order_part_calls_the_platform(path: Path) -> None:
    code = _code(path.read_text())
    if path.name == "FKSOrders.cs":
        assert ORDER_CALLS.search(code)
        return
    own = re.sub(r"\borders\.(Cancel|Flatten)\(", "", code)
    assert not ORDER_CALLS.search(own)


def test_the_order_part_holds_no_lock_of_its_own() -> None:
    code = _code((mono.NT8 / "AddOns" / "FKSOrders.cs").read_text())
    assert set(re.findall(r"\block \(([^)]*)\)", code)) <= {"account.Orders", "account.Executions", "account.Positions"}


@pytest.mark.parametrize("path", SOURCES, ids=_names)
def test_scripts_never_wait_for_the_user_interface(path: Path) -> None:
    code = _code(path.read_text())
    assert ".Invoke(" not in code.replace("handler.Invoke(", "")
    assert "LogLevel.Alert" not in code
