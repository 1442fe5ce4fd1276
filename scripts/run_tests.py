"""Run both halves of the suite and print one summary: `python scripts/run_tests.py [arguments of pytest]`.

The second half runs also when the first fails. FKS_TEST_WORKERS (3) is the number of processes of the first half,
FKS_TEST_SYSTEMS (one for each four cores, at least one) that of the second, whose tests start whole systems and have
bounds in seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

SYSTEMS = str(max((os.cpu_count() or 1) // 4, 1))
SPREAD = ("--dist", "loadfile", "--no-loadscope-reorder", "-n")
HALVES = {
    "unit, contract, meta": (
        *("tests/unit", "tests/contract", "tests/meta"),
        *(*SPREAD, os.environ.get("FKS_TEST_WORKERS", "3")),
    ),
    "acceptance": ("tests/acceptance", *SPREAD, os.environ.get("FKS_TEST_SYSTEMS", SYSTEMS)),
}
NO_TESTS, INTERRUPTED = 5, 2
WIDTH_MAX = 200


def run(arguments: Sequence[str], report: Path) -> int:
    """Run pytest; return its exit code. `report`: where it writes a report in JUnit's format."""
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments, f"--junit-xml={report}"]) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # pytest has the signal, too, and ends in order
                continue


def summary(reports: Mapping[str, tuple[int, Path]]) -> tuple[list[str], int]:
    """Return the lines of the summary and the exit code. `reports`: name -> exit code of pytest, its report."""
    lines: list[str] = []
    failed: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    is_bad, total = False, 0
    for name, (code, report) in reports.items():
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []  # noqa: S314  pytest's own
        bad = [(case, why) for case in cases if (why := _why(case)) is not None]
        out = [found for case in cases if (found := case.find("skipped")) is not None]
        for case, why in bad:
            failed.setdefault(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}", why)
        skipped.update((found.get("message") or "")[:WIDTH_MAX] for found in out)
        end = "" if code in (0, 1, NO_TESTS) else f"; pytest ended with {code}"
        good = len(cases) - len(bad) - len(out)
        lines.append(f"{name}: {good} passed, {len(bad)} failed, {len(out)} skipped{end}")
        is_bad, total = is_bad or code not in (0, NO_TESTS), total + len(cases)
    lines += [f"skipped {count}: {reason}" for reason, count in skipped.most_common()]
    lines += [f"FAILED {name}{f': {why}' if why else ''}" for name, why in failed.items()]
    return lines, int(is_bad or not total)


def _why(case: ElementTree.Element) -> str | None:
    """Return the first line of the message that a test failed with, None if it did not fail."""
    found = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
    return None if found is None else (found.get("message") or "").strip().partition("\n")[0][:WIDTH_MAX]


def main(halves: Mapping[str, tuple[str, ...]], more: Sequence[str]) -> int:
    """Run each half with `more` arguments, print the summary and return the exit code."""
    reports: dict[str, tuple[int, Path]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, arguments) in enumerate(halves.items()):
            report = Path(folder) / f"{number}.xml"
            reports[name] = (run([*arguments, *more], report), report)
            if reports[name][0] == INTERRUPTED:
                break
        lines, code = summary(reports)
    print("", "== make test", *lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(HALVES, sys.argv[1:]))
