"""`make test` runs every part, repeats alone what failed, and forgives a race with the machine but no broken guarantee."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fks.system.process.handle import start_mark
from scripts import run_tests
from tests.support.invariant_error import InvariantError
from tests.support.run_record import broken_in
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
GOOD = "def test_good() -> None: ...\n"
BAD = "def test_bad() -> None: raise AssertionError('the rule\\nand more')\n"
SKIPPED = "import pytest\ndef test_out() -> None: pytest.skip('no rsync')\n"
#: `run()` returns which run of its test this is; each run is a process of its own
COUNTING = """
import asyncio, os, pathlib, signal, pytest
from tests.support.invariant_error import InvariantError
def run(name):
    place = pathlib.Path(__file__).with_name(name)
    place.open("a").write("x")
    return len(place.read_text())
"""
#: `run_sleep()` starts a process that ignores Ctrl-C, and writes its pid
SLEEP = """
import pathlib, signal, subprocess, time
def run_sleep():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "30"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pathlib.Path("sleep").write_text(f"{child.pid}\\n")
"""
SECOND = "def test_second() -> None: assert run('second') >= 2\n"
PARALLEL = ("-p", "xdist", "-n", "1", "--dist", "loadfile")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run pytest in a project without this one's settings and plugins, with a home of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -q --import-mode=importlib\nmarkers =\n soak: x\n slow: x\n"
    )


def run(capsys: pytest.CaptureFixture[str], tests: str, arguments: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Return the exit code and the summary of a suite of one file."""
    Path("test_one.py").write_text(COUNTING + tests)
    code = run_tests.main({"one": ("test_one.py", *arguments)}, [])
    return code, summary(capsys)


def summary(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of the summary, without the seconds."""
    lines = capsys.readouterr().out.partition("== make test\n")[2].splitlines()
    return [line.partition(" in ")[0] if " skipped in " in line else line for line in lines]


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
                "FAILED test_one.py::test_bad: failed 3 of 3: AssertionError: the rule",
                "2 passed, 1 failed, 1 skipped",
            ],
        ),
        (
            SKIPPED,
            "",
            0,
            [
                "one: 0 passed, 0 failed, 1 skipped",
                "two: 0 passed, 0 failed, 0 skipped",
                "skipped 1: no rsync",
                "0 passed, 0 failed, 1 skipped",
            ],
        ),
    ],
    ids=["first fails", "none fails"],
)
def test_each_part_runs_and_the_summary_has_what_failed(
    capsys: pytest.CaptureFixture[str], first: str, second: str, code: int, lines: list[str]
) -> None:
    for name, text in (("one", first), ("two", second)):
        Path(f"test_{name}.py").write_text(text)
    parts = {name: (f"test_{name}.py",) for name in ("one", "two")}
    assert run_tests.main(parts, ["-p", "no:cacheprovider"]) == code
    assert summary(capsys) == lines


def test_a_part_without_tests_rejects_unless_tests_were_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "")[0] == 1
    Path("test_two.py").write_text(GOOD)
    parts = {"one": ("test_one.py",), "two": ("test_two.py",)}
    assert (run_tests.main(parts, []), run_tests.main(parts, ["-k", "good"])) == (1, 0)


def test_a_failure_is_forgiven_by_a_pass_alone_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    tests = (
        GOOD
        + SECOND
        + "def test_third() -> None: assert run('third') >= 3\n"
        + "def test_never() -> None: assert run('never') == 0\n"
        + "def test_skipped() -> None:\n  assert run('skipped') > 1\n  pytest.skip('not now')\n"
        + "def test_excused() -> None:\n  assert run('excused') > 1\n  pytest.xfail('not now')\n"
        + "def test_gone() -> None:\n  assert run('gone') > 1\n  os._exit(0)\n"
        + "def test_twice() -> None:\n  assert run('twice') > 1\n  raise InvariantError('sent twice')\n"
        + "@pytest.mark.xfail(strict=True)\ndef test_expected() -> None: assert run('expected') < 2\n"
    )
    code, lines = run(capsys, tests, arguments=PARALLEL)
    assert (code, lines) == (
        1,
        [
            "one: 4 passed, 5 failed, 0 skipped",
            "FLAKY test_one.py::test_second: failed 1 of 2: AssertionError: assert 1 >= 2",
            "FLAKY test_one.py::test_third: failed 2 of 3: AssertionError: assert 2 >= 3",
            "FLAKY test_one.py::test_expected: failed 1 of 2: [XPASS(strict)]",
            "3 flaky, 5 at most",
            "FAILED test_one.py::test_never: failed 3 of 3: AssertionError: assert 3 == 0",
            "FAILED test_one.py::test_skipped: failed 3 of 3: AssertionError: assert 1 > 1",
            "FAILED test_one.py::test_excused: failed 3 of 3: AssertionError: assert 1 > 1",
            "FAILED test_one.py::test_gone: failed 3 of 3: AssertionError: assert 1 > 1",
            "BROKEN GUARANTEE test_one.py::test_twice: failed 2 of 2: sent twice",
            "4 passed, 5 failed, 0 skipped",
        ],
    )
    rows = [line.split("\t") for line in Path("home/.cache/fks/ci/flaky.tsv").read_text().splitlines()]
    assert [(row[3][:2], *row[4:6]) for row in rows] == [
        ("gw", "test_one.py::test_good", "test_one.py::test_second"),
        ("gw", "test_one.py::test_second", "test_one.py::test_third"),
        ("gw", "test_one.py::test_twice", "test_one.py::test_expected"),
    ]


def test_a_test_that_is_not_found_again_stays_failed(capsys: pytest.CaptureFixture[str]) -> None:
    named = "import time\n@pytest.mark.parametrize('n', [time.time_ns()])\ndef test_n(n) -> None: assert 0\n"
    assert run(capsys, GOOD + named)[0] == 1


@pytest.mark.parametrize("arguments", [(), PARALLEL], ids=["alone", "xdist"])
def test_a_crash_of_the_process_rejects(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, lines = run(capsys, GOOD + "def test_crash() -> None:\n  if run('c') < 2: os._exit(1)\n", arguments=arguments)
    assert code == 1
    assert "REJECTED one: test_one.py::test_crash never ended, or its process crashed" in lines


@pytest.mark.parametrize("arguments", [(), PARALLEL], ids=["alone", "xdist"])
def test_a_file_that_cannot_be_imported_rejects(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    Path("test_two.py").write_text(GOOD)
    code, lines = run(capsys, "import not_there\n", arguments=("test_two.py", *arguments))
    assert code == 1
    found = [line for line in lines if line.startswith("REJECTED")]
    assert found
    assert "test_one.py could not be collected: ModuleNotFoundError: No module named 'not_there'" in found[0]


def test_more_failures_than_a_limit_reject_and_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    case = "@pytest.mark.parametrize('n', range(16))\ndef test_n(n) -> None: assert run(str(n)) >= 2\n"
    code, lines = run(capsys, case)
    assert (code, lines[-2:]) == (
        1,
        ["REJECTED 16 failures, more than 15: none was repeated", "0 passed, 16 failed, 0 skipped"],
    )


def test_errors_of_one_session_fixture_are_one_flaky_test(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "FLAKY_MAX", 0)
    shared = "@pytest.fixture(scope='session')\ndef shared():\n  assert run('shared') >= 2\n"
    # the first repeat fails by errors of each test's own
    case = "@pytest.mark.parametrize('n', range(20))\ndef test_n(n, shared) -> None: assert run('n') > 20\n"
    code, lines = run(capsys, shared + case)
    assert (code, lines[-2:]) == (1, ["REJECTED 1 flaky tests, more than 0", "20 passed, 0 failed, 0 skipped"])


BROKEN = """
def test_once() -> None:
    raise InvariantError("twice")
async def _both():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(_one())
async def _one():
    try:
        raise InvariantError("in a group")
    except InvariantError as error:
        raise ValueError("of another kind") from error
def test_group() -> None:
    asyncio.run(_both())
@pytest.fixture
def checked():
    yield
    raise InvariantError("at the end")
def test_teardown(checked) -> None:
    assert run("t") < 0
"""


def test_a_broken_guarantee_is_rejected_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, BROKEN, arguments=PARALLEL)
    assert (code, lines) == (
        1,
        [
            "one: 0 passed, 3 failed, 0 skipped",
            "BROKEN GUARANTEE test_one.py::test_once: failed 1 of 1: twice",
            "BROKEN GUARANTEE test_one.py::test_group: failed 1 of 1: in a group",
            "BROKEN GUARANTEE test_one.py::test_teardown: failed 1 of 1: at the end",
            "0 passed, 3 failed, 0 skipped",
        ],
    )


def test_a_broken_guarantee_is_found_behind_the_error_that_hid_it() -> None:
    hidden = InvariantError("hidden")
    error = ValueError()
    error.__context__ = BaseExceptionGroup("group", [KeyError(), ExceptionGroup("inner", [hidden])])
    hidden.__cause__ = error  # a circle ends, too
    assert list(broken_in(error)) == [hidden]
    assert list(broken_in(AssertionError())) == []


def test_what_the_time_left_untried_counts_as_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "REPEATS_S", 0.0)
    code, lines = run(capsys, SECOND)
    assert code == 1
    assert "FAILED test_one.py::test_second: failed 1 of 1: AssertionError: assert 1 >= 2" in lines


def test_a_run_that_takes_too_long_is_stopped_and_rejected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_TEST_S", "3")
    hangs = "def test_hangs() -> None:\n  run_sleep()\n  time.sleep(600)\n"
    Path("test_one.py").write_text(GOOD + SLEEP + hangs)
    Path("test_two.py").write_text(GOOD)
    parts = {"one": ("test_one.py",), "two": ("test_two.py",)}
    began_s = time.monotonic()
    assert run_tests.main(parts, []) == 1
    assert time.monotonic() - began_s < 60.0
    lines = summary(capsys)
    assert "REJECTED one: test_one.py::test_hangs never ended, or its process crashed" in lines
    assert any("stopped after" in line and "FKS_TEST_S" in line for line in lines)
    assert not any(line.startswith("two:") for line in lines)
    wait_until(lambda: start_mark(int(Path("sleep").read_text())) is None, deadline_s=5.0)


@pytest.mark.parametrize(("number", "is_in_order"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_pytest_ends_with_a_run_that_a_person_ends(tmp_path: Path, number: int, is_in_order: bool) -> None:
    Path("test_one.py").write_text(
        "import os, time\n"
        "def test_hangs() -> None:\n"
        "  try: print(os.getpid(), file=open('pid', 'w'), flush=True), time.sleep(600)\n"
        "  finally: open('end', 'w')\n"
    )
    code = "from scripts import run_tests; run_tests.main({'one': ('test_one.py',)}, [])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as child:
        wait_until(lambda: Path("pid").exists() and Path("pid").read_text().endswith("\n"), deadline_s=20.0)
        pytest_pid = int(Path("pid").read_text())
        child.send_signal(number)
        out = child.communicate(timeout=20.0)[0].decode()
    wait_until(lambda: start_mark(pytest_pid) is None, deadline_s=5.0)
    assert (Path("end").exists(), "REJECTED interrupted" in out) == (is_in_order, is_in_order)


def test_a_long_test_is_named_unless_it_is_marked_slow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "LONG_S", 0.2)
    takes_long = "def test_{}() -> None: time.sleep(0.3)\n"
    tests = f"import time\n{takes_long.format('long')}@pytest.mark.slow\n{takes_long.format('slow')}"
    code, lines = run(capsys, tests + GOOD, arguments=PARALLEL)
    assert code == 0
    found = [line for line in lines if line.startswith("over ")]
    assert [line.split()[-1] for line in found] == ["test_one.py::test_long"]


@pytest.mark.parametrize(
    ("option", "target", "count"),
    [((), "make test", 1), (("--slow",), "make test-slow", 2), (("--all",), "make test-all", 3)],
)
def test_each_target_runs_its_tests_under_its_name(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    target: str,
    count: int,
) -> None:
    """One test is quick, two are slow, and one is for the soak, which no target runs."""
    monkeypatch.setattr(run_tests, "PARTS", {"one": ("test_one.py",)})
    marked = "@pytest.mark.slow\n@pytest.mark.parametrize('n', [1, 2])\ndef test_slow(n) -> None: ...\n"
    soak = "@pytest.mark.slow\n@pytest.mark.soak\ndef test_soak() -> None: ...\n"
    Path("test_one.py").write_text(f"import pytest\n{GOOD}{marked}{soak}")
    assert run_tests.run_target(option) == 0
    heading, *_, last = capsys.readouterr().out.partition("\n== ")[2].splitlines()
    assert (heading, last) == (target, f"{count} passed, 0 failed, 0 skipped")
