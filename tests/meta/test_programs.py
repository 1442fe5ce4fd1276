"""Programs that tests run are those of a bare machine, or stand in the table of which `.ci/run` installs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import PACKAGES, require
from tests.support.recorded import DATA, frames_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))
#: of the shell, of Debian's essential packages, python3, make and git; and our own
BARE = {"cd", "exec", "set", "echo", "fks", "git", "make", "python", "python3"}
BARE |= {
    "bash",
    "cp",
    "env",
    "find",
    "grep",
    "head",
    "hostname",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mount",
    "sleep",
    "tail",
    "touch",
    "umount",
}
STARTS = {
    *("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "shutil.which", "require"),
}
NAME = re.compile(r"[a-z][\w.+-]*")
#: in a line of shell: the first of a command, with an argument or at the end of a pipe
COMMAND = re.compile(r"(?:^|[|;&(]\s*)([a-z][\w.+-]*)(?=\s+[-/{$\"']|\s+http)|\|\s*([a-z]\w*)\s*$")


def programs_in(text: str) -> Iterator[str]:
    """Yield the programs that a module starts or looks for, as far as it names them itself."""
    if not any(name in text for name in STARTS):
        return
    nodes = list(ast.walk(ast.parse(text)))
    assigned: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(ast.unparse(target), []).append(node.value)

    def first_of(node: ast.expr) -> Iterator[str]:
        if isinstance(node, ast.Constant) and NAME.fullmatch(str(node.value)):
            yield str(node.value)
        elif isinstance(node, ast.List | ast.Tuple) and node.elts:
            yield from first_of(node.elts[0])
        elif isinstance(node, ast.Starred):
            yield from first_of(node.value)
        elif isinstance(node, ast.BinOp):
            yield from first_of(node.left)
        elif isinstance(node, ast.Name | ast.Attribute):
            for value in assigned.pop(ast.unparse(node), ()):
                yield from first_of(value)

    texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for call in nodes:
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = ast.unparse(call.func)
        if name not in STARTS:
            continue
        for argument in call.args if name == "require" else call.args[:1]:
            yield from first_of(argument)
        if name.endswith("_shell") or "'bash', '-c'" in ast.unparse(call.args[0]):
            yield from (name for text in texts for pair in COMMAND.findall(text) for name in pair if name)


def test_programs_that_tests_run_are_installed_by_ci() -> None:
    found = {name: file.name for file in FILES for name in programs_in(file.read_text())}
    missing = {name: file for name, file in found.items() if name not in BARE | PACKAGES.keys()}
    assert missing == {}, "add them to PACKAGES in tests/support/programs.py, and require() them in the test"
    assert {"rsync", "ssh", "curl", "jq", "chromium", "mcs", "promtool"} <= set(found)
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.index("export FKS_REQUIRE_ALL=1\n") < ci.index("tests/support/programs.py") < ci.index("make test-all\n")


def test_ci_refuses_at_once_where_the_data_set_is_missing(tmp_path: Path) -> None:
    place = tmp_path / "checkout"
    shutil.copytree(ROOT / ".ci", place / ".ci")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "empty")):
        subprocess.run(["git", *command], cwd=place, check=True)
    done = subprocess.run([place / ".ci" / "run"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"some need the data set in {tmp_path}/" in done.stderr


def test_a_test_is_left_out_by_one_function_which_fails_in_ci() -> None:
    skips = re.compile(r"pytest\.(mark\.)?(import)?(or)?skip(if)?")
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}"
        for file in FILES
        if file.name not in ("programs.py", "test_programs.py")
        if "skip" in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and skips.fullmatch(ast.unparse(node))
    ]
    assert found == [], "call leave_out() of tests/support/programs.py in the test: under FKS_REQUIRE_ALL it fails"


def test_missing_data_set_is_named_in_a_skip_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, end in (("", pytest.skip.Exception), ("1", pytest.fail.Exception)):
        monkeypatch.setenv("FKS_REQUIRE_ALL", variable)
        with pytest.raises(end, match=f"^no data set in {ROOT.parent / 'shared' / 'data'}"):
            frames_of(DATA / "frames" / "no-such.hft.gz")


@pytest.mark.parametrize("variable", ["", "1"])
def test_missing_program_is_named_in_a_skip_and_fails_in_ci(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FKS_REQUIRE_ALL", variable)
    monkeypatch.setattr("tests.support.programs.PATH", "/nowhere")
    ends = (pytest.skip.Exception, pytest.fail.Exception)
    with pytest.raises(ends, match="rsync openssh-client") as ended:
        require("rsync", "ssh", "ssh-keygen")
    assert ended.type is ends[bool(variable)]


@pytest.mark.parametrize(
    "text",
    [
        'subprocess.run(["xdotool", "-v"])',
        'shutil.which("xdotool")',
        'asyncio.create_subprocess_exec("xdotool", "-v")',
        'command = ("xdotool", "-v")\ndef f():\n    subprocess.Popen([*command, "x"])',
        'asyncio.create_subprocess_shell("sleep 1 | xdotool")',
        'subprocess.run(["bash", "-c", "cd / && xdotool -v"])',
    ],
)
def test_program_that_a_test_runs_is_found(text: str) -> None:
    assert "xdotool" in set(programs_in(text))
