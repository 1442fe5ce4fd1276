"""The AddOn's pure parts and its journal, run under mono with the German culture."""

from __future__ import annotations

import re

import pytest

from tests.support import mono

CLASSES = sorted(
    name
    for path in (mono.NT8 / "tests").glob("*.cs")
    for name in re.findall(r"public static class (\w+Tests)\b", path.read_text())
)


@pytest.mark.parametrize("name", CLASSES)
def test_addon_unit_tests_pass(nt8_build: mono.Build, name: str) -> None:
    done = nt8_build.run("tests.exe", name)
    assert done.returncode == 0, done.stdout + done.stderr
