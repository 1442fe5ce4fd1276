"""Run the parts of the suite, run again alone what failed, and print one summary.

Usage: `python scripts/run_tests.py [--slow | --all] [arguments of pytest]`, in the root of the checkout. Without an
option the tests of `tests/support/slow.py` are left out; `--slow` runs them alone, `--all` both.

Each part also runs when an earlier one fails. FKS_TEST_WORKERS (3) is the number of processes of the first part,
FKS_TEST_SYSTEMS (one for each four cores, at least one) that of the second, whose tests start whole systems and have
bounds in seconds. FKS_TEST_S is the longest time for all of it, in seconds: a run that takes longer is stopped, and
rejected. No longest time without it.

A failed test runs again by itself in a fresh process, twice at most. Where it passes then, it raced with the machine:
it is FLAKY, is listed in ~/.cache/fks/ci/flaky.tsv, and does not reject. Rejected are: a test that failed three
times, a broken guarantee (`tests/support/invariants.py`) at any time, a test that was collected and never ended, a
file that could not be collected, an exit code of pytest that no failed test explains, more than FLAKY_MAX flaky
tests, and more than FAILURES_MAX failures. Tests that fail by the same error of one session fixture are one failure,
and are repeated together.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fks.system.process.confinement import ends_with_parent

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = str(max((os.cpu_count() or 1) // 4, 1))
SPREAD = ("--dist", "loadfile", "--no-loadscope-reorder", "-n")
PARTS = {
    "unit, contract, meta": (
        *("tests/unit", "tests/contract", "tests/meta"),
        *(*SPREAD, os.environ.get("FKS_TEST_WORKERS", "3")),
    ),
    "acceptance": ("tests/acceptance", *SPREAD, os.environ.get("FKS_TEST_SYSTEMS", SYSTEMS)),
}
#: option -> name of the target of make, marks of its tests
TARGETS = {
    "": ("make test", "not slow and not soak"),
    "--slow": ("make test-slow", "slow and not soak"),
    "--all": ("make test-all", "not soak"),
}
PASSED, FAILED, NO_TESTS = 0, 1, 5
REPEATS_MAX = 2
REPEATS_S = 600.0  # all repeats together; what is untried then counts as failed
FLAKY_MAX = 5
FAILURES_MAX = 15  # more is no flakiness, and would take longer than `REPEATS_S`
NAMED_MAX = 20
LONG_S = 5.0  # a case that takes longer belongs to the slow ones
END_S = 30.0  # in which a repeat whose time is over ends its own servers
PHASES = {"setup", "call", "teardown"}


@dataclass(slots=True)
class Failure:
    """A test that failed: the first line of its error, and what `run_record` knows of it. `tries` counts its runs."""

    id: str
    text: str
    worker: str
    before: str
    fixture: str | None
    is_broken: bool
    tries: int = 1


@dataclass(slots=True)
class Run:
    """One run of pytest, by its record."""

    code: int
    seconds: float
    collected: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    uncollected: dict[str, str] = field(default_factory=dict)  # file -> error
    phases: dict[str, dict[str, str]] = field(default_factory=dict)  # id -> phase -> outcome
    skipped: dict[str, str] = field(default_factory=dict)  # id -> reason
    failures: dict[str, Failure] = field(default_factory=dict)
    crashed: set[str] = field(default_factory=set)  # tests whose worker died; xdist begins some of them again
    seconds_of: dict[str, float] = field(default_factory=dict)  # of all phases of a test that is not marked slow
    has_end: bool = False
    is_stopped: bool = False  # its time was over

    @staticmethod
    def read(code: int, seconds: float, record: Path) -> Run:
        """Return the run that wrote `record`. A line that a dying process did not finish is left out."""
        run = Run(code, seconds)
        for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
            try:
                run._take(json.loads(line))
            except ValueError:
                break
        return run

    def _take(self, line: dict[str, object]) -> None:
        match line:
            case {"collected": list(ids)}:
                self.collected |= set(ids)
            case {"uncollected": str(name), "text": str(text)}:
                self.uncollected[name] = text
            case {"ended": str(id)}:
                self.ended.add(id)
            case {"end": True}:
                self.has_end = True
            case {"id": str(id), "when": str(when), "outcome": str(outcome)}:
                self.phases.setdefault(id, {})[when] = outcome
                if not line.get("slow"):
                    self.seconds_of[id] = self.seconds_of.get(id, 0.0) + float(str(line["seconds"]))
                if when not in PHASES:
                    self.crashed.add(id)
                text, broken = str(line.get("text", "")), line.get("broken")
                if outcome == "failed":
                    known = self.failures.setdefault(
                        id, Failure(id, text, str(line["worker"]), str(line["before"]), None, is_broken=False)
                    )
                    known.fixture = known.fixture or (str(line["fixture"]) if line["fixture"] else None)
                    if broken is not None:
                        known.is_broken, known.text = True, str(broken) or text
                elif outcome != "passed":
                    self.skipped[id] = text if outcome == "skipped" else f"xfail: {text}"

    @property
    def unended(self) -> set[str]:
        """The tests that were collected and did not end, and those whose process crashed."""
        return (self.collected - self.ended) | self.crashed

    def faults(self, *, may_be_empty: bool) -> list[str]:
        """Return what no repetition forgives, beside broken guarantees."""
        found = [f"{name} could not be collected: {text}" for name, text in self.uncollected.items()]
        unended = sorted(self.unended)
        found += [f"{id} never ended, or its process crashed" for id in unended[:NAMED_MAX]]
        found += [f"{len(unended) - NAMED_MAX} more never ended"] if len(unended) > NAMED_MAX else []
        is_explained = self.code == FAILED and bool(self.failures)
        is_empty = self.code == NO_TESTS and may_be_empty
        if not (self.code == PASSED or is_explained or is_empty or self.uncollected):
            found.append(f"pytest ended with {self.code}, and no failed test explains it")
        if not self.has_end or (self.code == PASSED and not self.ended):
            found.append(f"pytest ended with {self.code} and left no complete record")
        if self.is_stopped:
            found.append(f"stopped after {self.seconds:.0f} s: all parts together have FKS_TEST_S")
        return found

    def forgives(self, id: str) -> bool:
        """Return whether the test passed here in every phase, or failed as its strict xfail demands."""
        phases = self.phases.get(id, {})
        return (
            self.code == PASSED
            and self.has_end
            and id in self.ended
            and phases.keys() == PHASES
            and all(
                outcome == "passed" or (when == "call" and outcome == "xfailed") for when, outcome in phases.items()
            )
        )


def run_pytest(arguments: Sequence[str], record: Path, timeout_s: float) -> tuple[Run, bool]:
    """Run pytest; return the run, and whether a person interrupted it. A run whose time is over is ended.

    pytest leads a process group, which a stopped run ends with it; it dies with this process.
    """
    began_s, is_interrupted, is_stopped = time.monotonic(), False, False
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.run_record", f"--record={record}", *arguments]
    with subprocess.Popen(command, start_new_session=True, preexec_fn=ends_with_parent) as child:
        while True:
            left_s = max(began_s + timeout_s - time.monotonic(), 0.0)
            try:
                code = child.wait(left_s if math.isfinite(left_s) else None)
                break
            except KeyboardInterrupt:  # the terminal sends it to our group alone; pytest ends in order
                is_interrupted = True
                _signal_group(child, signal.SIGINT)
            except subprocess.TimeoutExpired:
                code, is_stopped = _end(child), True
                break
    run = Run.read(code, time.monotonic() - began_s, record)
    run.is_stopped = is_stopped
    return run, is_interrupted


def _end(child: subprocess.Popen[bytes]) -> int:
    """End pytest as Ctrl-C does, so that its fixtures stop their servers; then kill what is left of its group."""
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_S)
    _signal_group(child, signal.SIGKILL)
    return child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # no process of it is left
        os.killpg(child.pid, number)


def groups_of(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Return the failures, those by the same error of the same session fixture together."""
    found: dict[tuple[str, ...], list[Failure]] = {}
    for failure in failures:
        key = (failure.id,) if failure.fixture is None else (failure.fixture, failure.text)
        found.setdefault(key, []).append(failure)
    return list(found.values())


def repeat(groups: Sequence[list[Failure]], folder: Path, end_s: float) -> list[list[Failure]]:
    """Run each group again alone, twice at most and none after `end_s`; return the groups that are forgiven."""
    forgiven: list[list[Failure]] = []
    end_s = min(end_s, time.monotonic() + REPEATS_S)
    for number, group in enumerate(groups):
        ids = [failure.id for failure in group]
        for attempt in range(REPEATS_MAX):
            left_s = end_s - time.monotonic()
            if left_s <= 0 or any(failure.is_broken for failure in group):
                break
            print(
                f"\n== run {attempt + 2} of {ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}", flush=True
            )
            record = folder / f"repeat-{number}-{attempt}.jsonl"
            run, is_interrupted = run_pytest([*ids, "-p", "no:xdist", "-m", "not soak"], record, left_s)
            if is_interrupted:
                return forgiven
            for failure in group:
                failure.tries += 1
                if found := run.failures.get(failure.id):
                    failure.text, failure.is_broken = found.text, found.is_broken
            if all(run.forgives(id) for id in ids):
                forgiven.append(group)
                break
    return forgiven


def note(flaky: Sequence[Failure]) -> None:
    """Append the flaky tests to the list of this machine: date, commit, load, worker, test before, test, error."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    place = Path.home() / ".cache" / "fks" / "ci" / "flaky.tsv"
    place.parent.mkdir(parents=True, exist_ok=True)
    when, load = datetime.now(UTC).isoformat(timespec="seconds"), f"{os.getloadavg()[0]:.1f}"
    with place.open("a", encoding="utf-8") as file:
        for one in flaky:
            row = (when, git.stdout.strip(), load, one.worker, one.before, one.id, one.text)
            file.write("\t".join(text.replace("\t", " ") for text in row) + "\n")


def line_of(name: str, run: Run, forgiven: set[str]) -> tuple[str, Counter[str]]:
    """Return the line of the summary, and the numbers in it."""
    bad, out = run.failures.keys() - forgiven, run.skipped.keys() - run.failures.keys()
    counts = Counter(failed=len(bad), skipped=len(out), passed=len(run.phases) - len(bad) - len(out))
    return f"{name}: {_counted(counts)} in {run.seconds:.0f} s", counts


def _long(runs: Iterable[Run]) -> list[str]:
    """Return a line for each test that took long and is not marked slow, the longest first."""
    found = sorted(((s, id) for run in runs for id, s in run.seconds_of.items() if s > LONG_S), reverse=True)
    return [f"over {LONG_S:.0f} s and not in tests/support/slow.py: {seconds:.1f} s {id}" for seconds, id in found]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[what]} {what}" for what in ("passed", "failed", "skipped"))


def main(parts: Mapping[str, tuple[str, ...]], more: Sequence[str], name_of_run: str = "make test") -> int:
    """Run each part with `more` arguments, repeat what failed, print the summary and return the exit code."""
    runs: dict[str, Run] = {}
    is_interrupted = False
    end_s = time.monotonic() + float(os.environ.get("FKS_TEST_S") or math.inf)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, arguments) in enumerate(parts.items()):
            record = Path(folder) / f"{number}.jsonl"
            runs[name], is_interrupted = run_pytest([*arguments, *more], record, end_s - time.monotonic())
            if is_interrupted or runs[name].is_stopped:
                break
        rejected = [f"{name}: {fault}" for name, run in runs.items() for fault in run.faults(may_be_empty=bool(more))]
        failures = [failure for run in runs.values() for failure in run.failures.values()]
        groups = groups_of(one for run in runs.values() for one in run.failures.values() if one.id not in run.unended)
        races: list[list[Failure]] = []
        if is_interrupted:
            rejected.append("interrupted")
        elif len(groups) > FAILURES_MAX:
            rejected.append(f"{len(groups)} failures, more than {FAILURES_MAX}: none was repeated")
        else:
            races = repeat(groups, Path(folder), end_s)
    flaky = [failure for group in races for failure in group]
    forgiven = {failure.id for failure in flaky}
    if len(races) > FLAKY_MAX:
        rejected.append(f"{len(races)} flaky tests, more than {FLAKY_MAX}")
    if not sum(len(run.phases) for run in runs.values()):
        rejected.append("no test ran")
    lines, total, skipped = [], Counter[str](), Counter[str]()
    for name, run in runs.items():
        line, counts = line_of(name, run, forgiven)
        lines.append(line)
        total += counts
        skipped.update(reason for id, reason in run.skipped.items() if id not in run.failures)
    lines += [f"skipped {count}: {reason}" for reason, count in skipped.most_common()]
    lines += _long(runs.values())
    lines += [f"FLAKY {one.id}: failed {one.tries - 1} of {one.tries}: {one.text}" for one in flaky]
    lines += [f"{len(races)} flaky, {FLAKY_MAX} at most"] if races else []
    for failure in failures:
        if failure.id not in forgiven:
            kind = "BROKEN GUARANTEE" if failure.is_broken else "FAILED"
            lines.append(f"{kind} {failure.id}: failed {failure.tries} of {failure.tries}: {failure.text}")
    lines += [f"REJECTED {text}" for text in rejected]
    print("", f"== {name_of_run}", *lines, _counted(total), sep="\n", flush=True)
    if flaky:
        note(flaky)
    return int(bool(rejected) or any(failure.id not in forgiven for failure in failures))


def run_target(arguments: Sequence[str]) -> int:
    """Run the target of make that the first argument names, with the others as arguments of pytest."""
    option = arguments[0] if arguments and arguments[0] in TARGETS else ""
    name_of_run, marks = TARGETS[option]
    parts = {name: (*part, "-m", marks) for name, part in PARTS.items()}
    return main(parts, arguments[1:] if option else arguments, name_of_run)


if __name__ == "__main__":
    sys.exit(run_target(sys.argv[1:]))
