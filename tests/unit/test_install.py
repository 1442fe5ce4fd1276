"""`make install` names the real cause of a failure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import install


@pytest.mark.parametrize(
    ("output", "here", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "3.11", "the disk is full"),
        (
            "WARNING: Retrying (Retry(total=4)) … Temporary failure in name resolution\n"
            "ERROR: No matching distribution found for ray==2.60.0",
            "3.12",
            "the package index cannot be reached",
        ),
        ("ERROR: No matching distribution found for ray==2.60.0", "3.14", "ray==2.60.0 has no wheel for Python 3.14"),
        (
            "ERROR: No matching distribution found for ray==2.60.0",
            "3.11",
            "the package index does not have ray==2.60.0",
        ),
        ("fatal error: Python.h: No such file or directory", "3.11", "cannot be compiled"),
        ("ssl.SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED", "3.11", "certificate"),
        ("PermissionError: [Errno 13] Permission denied: '.venv/lib'", "3.11", "a file cannot be written"),
        ("something new", "3.11", "see the lines above"),
    ],
)
def test_failure_is_named_by_its_cause(output: str, here: str, expected: str) -> None:
    assert expected in install.cause_of(output, here)


def test_output_is_passed_on_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"]
    status, output = install.run(command)
    assert status == 3
    assert sorted(output.split()) == ["one", "two"]
    assert capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("here", "machine", "known"),
    [("3.11", "x86_64", True), ("3.13", "aarch64", True), ("3.14", "x86_64", False), ("3.11", "riscv64", False)],
)
def test_hashes_are_asked_for_where_they_are_known(here: str, machine: str, known: bool) -> None:
    assert install.has_hashes(here, machine) is known


def test_no_package_is_built_by_one_that_was_not_checked() -> None:
    for hashed in (True, False):
        commands = install.pip_commands("python", ["ai", "dev"], Path("/checkout"), hashed=hashed)
        assert ["--no-build-isolation" in one for one in commands] == ([True] * 3 if hashed else [False])
        assert ["--require-hashes" in one for one in commands] == ([True, True, False] if hashed else [False])
    assert commands == [[*commands[0][:-3], "/checkout/constraints.txt", "-e", "/checkout[ai,dev]"]]
