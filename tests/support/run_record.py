"""Record of a run of pytest, a JSON line for each event: `-p tests.support.run_record --record FILE`.

`scripts/run_tests.py` loads this plugin and decides by its record. The controlling process writes the record, the processes
that run tests add properties to their reports: an exception does not cross from one of xdist's workers, a property does.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.invariant_error import InvariantError

#: Properties of reports.
BROKEN, STRICT_XFAIL, FIXTURE = "broken guarantee", "strict xfail", "session fixture"
FIRST_LINE_MAX = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`."""
    parser.addoption("--record", metavar="FILE", help="write a line for each event of this run")


def pytest_configure(config: pytest.Config) -> None:
    """Start the record, where this process is no worker."""
    config.pluginmanager.register(_Properties())
    if config.option.record and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(Path(config.option.record)))


class _Properties:
    """Adds to a report what its text does not have, in the process that runs the test."""

    def __init__(self) -> None:
        self._failed_fixtures: list[tuple[BaseException, str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Keep the error of a session fixture: pytest raises the same object again for each test that asks for it."""
        try:
            return (yield)
        except BaseException as error:
            if fixturedef.scope == "session":
                self._failed_fixtures.append((error, fixturedef.argname))
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Name a broken guarantee, a session fixture that failed, and a test that is expected to fail."""
        report = yield
        marks = item.iter_markers("xfail")
        if any(mark.kwargs.get("strict") is True for mark in marks):
            report.user_properties.append((STRICT_XFAIL, True))
        if call.excinfo is not None and report.failed:
            raised = call.excinfo.value
            report.user_properties += [(BROKEN, _first_line(str(error))) for error in broken_in(raised)]
            report.user_properties += [(FIXTURE, name) for error, name in self._failed_fixtures if error is raised]
        return report


def broken_in(error: BaseException) -> Iterator[InvariantError]:
    """Yield the broken guarantees among an error, its causes, and the members of groups of errors."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, InvariantError):
            yield one
        left += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]


class _Recorder:
    """Writes the record, in the process that has the reports of all workers."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._ended: dict[str, str] = {}  # worker -> the test that ended last there
        self._before: dict[str, str] = {}  # worker -> the test before the one that runs there

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # what was written stays, however this process ends

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Iterable[str]) -> None:
        """Record what a worker has collected."""
        self._write(collected=list(ids))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record what this process has collected; a controller of workers collects nothing."""
        self._write(collected=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that could not be collected."""
        if report.failed:
            self._write(uncollected=report.nodeid, text=_text(report))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a phase of a test. The one of a worker that crashed is "???"."""
        worker = getattr(report, "worker_id", "main")
        if report.when == "setup":
            self._before[worker] = self._ended.get(worker, "")
        properties = dict(report.user_properties)
        outcome: str = report.outcome
        if report.skipped and hasattr(report, "wasxfail"):
            outcome = "xfailed" if STRICT_XFAIL in properties else "xfailed unstrictly"
        if report.when == "teardown":
            self._ended[worker] = report.nodeid
        line: dict[str, Any] = {"id": report.nodeid, "when": report.when, "outcome": outcome}
        line |= {"seconds": round(report.duration, 3), "slow": "slow" in report.keywords}
        if outcome != "passed":
            line |= {"text": _text(report), "worker": worker, "before": self._before.get(worker, "")}
            line |= {"broken": properties.get(BROKEN), "fixture": properties.get(FIXTURE)}
        self._write(**line)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Record the end of a test."""
        self._write(ended=nodeid)

    def pytest_unconfigure(self) -> None:
        """Record that pytest itself came to its end."""
        self._write(end=True)
        self._file.close()


def _text(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return the first line of what was raised."""
    found: Any = report.longrepr
    if isinstance(found, tuple):  # file, line and reason of a skip
        return _first_line(str(found[2]).removeprefix("Skipped: "))
    if reason := getattr(report, "wasxfail", ""):
        return _first_line(reason)
    crash = getattr(found, "reprcrash", None)
    if crash is not None:
        return _first_line(crash.message)
    errors = [line[1:] for line in str(found).splitlines() if line.startswith("E ")]  # of a file that was not imported
    return _first_line(errors[-1] if errors else str(found))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:FIRST_LINE_MAX]
