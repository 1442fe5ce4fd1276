"""`make test` runs both halves, and its summary names what failed in either."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import run_tests

GOOD = "def test_good() -> None: ...\n"
BAD = "def test_bad() -> None: raise AssertionError('the rule\\nand more')\n"
SKIPPED = "import pytest\ndef test_out() -> None: pytest.skip('no rsync')\n"


@pytest.mark.parametrize(
    ("first", "second", "code", "lines"),
    [
        (
            GOOD + BAD,
            GOOD + SKIPPED,
            1,
            [
                "one: 1 passed, 1 failed, 0 skipped",
                "two: 1 passed, 0 failed, 1 skipped",
                "skipped 1: no rsync",
                "FAILED test_one.py::test_bad: AssertionError: the rule",
            ],
        ),
        (
            "",
            BAD,
            1,
            [
                "one: 0 passed, 0 failed, 0 skipped",
                "two: 0 passed, 1 failed, 0 skipped",
                "FAILED test_two.py::test_bad: AssertionError: the rule",
            ],
        ),
        (
            SKIPPED,
            "",
            0,
            ["one: 0 passed, 0 failed, 1 skipped", "two: 0 passed, 0 failed, 0 skipped", "skipped 1: no rsync"],
        ),
    ],
    ids=["first fails", "second fails", "none fails"],
)
def test_both_halves_run_and_the_summary_has_what_failed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    second: str,
    code: int,
    lines: list[str],
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    halves = {}
    for name, text in (("one", first), ("two", second)):
        (tmp_path / f"test_{name}.py").write_text(text)
        halves[name] = (str(tmp_path / f"test_{name}.py"),)
    assert run_tests.main(halves, ["-c", "/dev/null", f"--rootdir={tmp_path}"]) == code
    assert capsys.readouterr().out.splitlines() == ["", "== make test", *lines]
