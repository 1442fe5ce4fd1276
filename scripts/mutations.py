"""Mutations of the code, each with the test that fails because of it: the table at the end of docs/guarantees.md.

    python scripts/mutations.py                  # apply each in a copy of the tree, run its test: about ten minutes
    python scripts/mutations.py --only G4        # those of one guarantee
    python scripts/mutations.py --fast           # those whose test is a unit test: about four minutes
    python scripts/mutations.py --system         # those whose test is an acceptance or soak test: hours
    python scripts/mutations.py --all --rest     # those not killed yet with their code and their test as they are now
    python scripts/mutations.py --check          # each place and text is there, each test exists, the docs are current
    python scripts/mutations.py --docs           # write the table into docs/guarantees.md

A mutation is killed when its test fails with it; it survives when the test passes. A test that fails without any
mutation, or a mutation that keeps the test from being collected, or its system from starting, is an error. Exit 1 at
a survivor or an error. A mutation against a system test costs a whole system: those run with --system or --all alone,
file by file. Of each row that was killed the day is kept, with a hash of its place and its test, in
scripts/mutations_killed.json; the count is written into docs/guarantees.md. `scripts/mutants.py` makes mutants of
whole modules instead.

A row names the place of its change: a file, and in it a function, a method (`Class.method`), a class, a constant or a
statement of SQL. Its text is looked up there alone, so code around it, or a move to another file, changes no other
part of the row.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
TABLE = ROOT / "scripts" / "mutations.toml"
BEGIN, END = "<!-- mutations -->", "<!-- end of mutations -->"
#: for each row that was killed when it ran last: the hash of its place and its test then, and the day
KILLED = ROOT / "scripts" / "mutations_killed.json"
#: what a copy needs to run tests
PARTS = (
    *("fks", "actors", "tests", "benchmarks", "docs", "nt8", "scripts", "deploy", "shims"),
    *("serve_app.py", "pyproject.toml", "constraints.txt", "cluster.yaml", "Makefile", "README.md"),
)
#: of one test that states no limit of its own, and of all that run together: what hangs has failed
TEST_S = {"fast": 30.0, "slow": 60.0, "system": 180.0}
LIMIT_S = {"fast": 600.0, "slow": 600.0, "system": 6000.0}
COPY = "MUTATION_COPY"  # in the environment of every process that a test starts


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of the code that breaks a claim, and the test that has to fail. `what`: the change in words; `old`
    occurs exactly once in the place that `name` has in `file` (empty: in the whole file); `test`: a node id of pytest
    below tests/, of one case where that is enough."""

    guarantee: str
    claim: str
    what: str
    file: str
    name: str
    old: str
    new: str
    test: str

    @property
    def place(self) -> str:
        """Return the file and the name of the place, as the table writes them."""
        return f"{self.file} {self.name}".strip()

    @property
    def kind(self) -> str:
        """Return `fast` (a unit test), `system` (an acceptance or soak test) or `slow` (the others)."""
        return {"unit": "fast", "acceptance": "system", "soak": "system"}.get(self.test.partition("/")[0], "slow")

    @property
    def digest(self) -> str:
        """Return a digest of the change and its test. It covers no path, so that files can be moved."""
        parts = (self.name, self.old, self.new, self.test.partition("::")[2])
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def code(self, root: Path = ROOT) -> str:
        """Return a hash of the place that is changed and of the file of the test, both without their imports."""
        file, test = root / self.file, root / "tests" / self.test.partition("::")[0]
        text = _without_imports(file, *source_of(file).span(self.name)) + _without_imports(test)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def changed(self, text: str, span: tuple[int, int]) -> str:
        """Return the text of the file with the change. `span`: of the place, in characters."""
        begin, end = span
        return text[:begin] + text[begin:end].replace(self.old, self.new, 1) + text[end:]


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file, and the places in it: name -> first and last character."""

    text: str
    places: Mapping[str, tuple[int, int]]

    def span(self, name: str) -> tuple[int, int]:
        """Return first and last character of a place. Errors: KeyError if the file has no place of that name."""
        return self.places[name] if name else (0, len(self.text))


@functools.cache
def _source(file: Path, changed_ns: int) -> Source:
    text = file.read_text()
    return Source(text, {".py": _python, ".sql": _statements}.get(file.suffix, lambda _: {})(text))


def source_of(file: Path) -> Source:
    """Return a file as it is now, with its places."""
    return _source(file, file.stat().st_mtime_ns)


def _python(text: str) -> dict[str, tuple[int, int]]:
    """Return the functions, classes, methods and constants of a module. What has one name twice (a property and its
    setter) is one place, from the first to the last."""
    places: dict[str, tuple[int, int]] = {}
    starts = _line_starts(text)

    def add(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names = [name]
                case ast.Assign(targets=targets):
                    names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
                case ast.AnnAssign(target=ast.Name(id=name)):
                    names = [name]
                case _:
                    names = []
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            for name in names:
                begin, end = places.get(prefix + name, (starts[first - 1], 0))
                places[prefix + name] = (begin, max(end, starts[node.end_lineno or first]))
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{prefix}{node.name}.")

    add(ast.parse(text).body, "")
    return places


def _statements(text: str) -> dict[str, tuple[int, int]]:
    """Return the statements of a file of SQL, each from its `-- name:` to the next."""
    heads = [*re.finditer(r"^-- name: (\w+)$", text, re.M)]
    spans = itertools.pairwise([*(head.start() for head in heads), len(text)])
    return {head[1]: span for head, span in zip(heads, spans, strict=True)}


def _line_starts(text: str) -> list[int]:
    """Return where each line begins, and the end of the text. Python's parser counts lines as `\\n` ends them."""
    return [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]


def _without_imports(file: Path, begin: int = 0, end: int | None = None) -> str:
    text = source_of(file).text
    lines = text[begin:end]
    if file.suffix != ".py":
        return lines
    starts = _line_starts(text)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        first, last = starts[node.lineno - 1] - begin, starts[node.end_lineno or node.lineno] - begin
        if first >= 0 and last <= len(lines):
            lines = lines[:first] + "\n" * (last - first) + lines[last:]
    return lines.replace("\n", "")


def load() -> tuple[Mutation, ...]:
    """Return the mutations of scripts/mutations.toml."""
    return tuple(
        Mutation(guarantee, row["claim"], row["what"], *_place(row["in"]), row["old"], row["new"], row["test"])
        for guarantee, rows in tomllib.loads(TABLE.read_text()).items()
        for row in rows
    )


def _place(text: str) -> tuple[str, str]:
    file, _, name = text.partition(" ")
    return file, name


MUTATIONS = load()


def problems(mutations: Sequence[Mutation] = MUTATIONS, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the table: a place that is not there, a text that does not occur in it exactly once, a
    test that is not there."""
    found = []
    tests: dict[str, set[str]] = {}
    for mutation in mutations:
        file = root / mutation.file
        if not file.exists() or (mutation.name and mutation.name not in source_of(file).places):
            found.append(f"{mutation.guarantee} {mutation.claim!r}: there is no {mutation.place}")
            continue
        source = source_of(file)
        if (count := source.text.count(mutation.old, *source.span(mutation.name))) != 1:
            found.append(f"{mutation.guarantee} {mutation.claim!r}: its text is {count} times in {mutation.place}")
        if mutation.new == mutation.old:
            found.append(f"{mutation.guarantee} {mutation.claim!r} changes nothing")
        path, _, name = mutation.test.partition("::")
        if path not in tests:
            test = root / "tests" / path
            tests[path] = _names(test) if test.exists() else set()
        if re.split(r"::|\[", name)[0] not in tests[path]:
            found.append(f"{mutation.guarantee} {mutation.claim!r}: there is no test {mutation.test}")
    if len({(m.place, m.old, m.new) for m in mutations}) < len(mutations):
        found.append("a mutation is there twice")
    if len({m.digest for m in mutations}) < len(mutations):
        found.append("two mutations have one digest")
    return found


def _names(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)} | {
        target.id for target in targets if isinstance(target, ast.Name)
    }


def killed() -> dict[str, list[str]]:
    """Return the rows of the table that were killed when they ran last: digest -> hash of place and test, day."""
    kept = json.loads(KILLED.read_text()) if KILLED.exists() else {}
    known = {mutation.digest for mutation in MUTATIONS}
    return {digest: found for digest, found in sorted(kept.items()) if digest in known}


def note(mutation: Mutation, verdict: str, now: datetime) -> None:
    """Keep that a row was killed, or, if it survived, that it is not."""
    rows = killed()
    rows.pop(mutation.digest, None)
    if verdict == "killed":
        rows[mutation.digest] = [mutation.code(), f"{now:%Y-%m-%d}"]
    KILLED.write_text(_lines(rows))


def _lines(rows: Mapping[str, Sequence[str]]) -> str:
    """Return the rows as JSON, one on each line, so that two branches that kill different rows merge."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(rows.items())) + "\n}\n"


def rest(rows: Mapping[str, Sequence[str]], mutations: Sequence[Mutation] = MUTATIONS) -> list[Mutation]:
    """Return those that were not killed yet with their place and test as they are."""
    return [mutation for mutation in mutations if rows.get(mutation.digest, [""])[0] != mutation.code()]


def table(rows: Mapping[str, Sequence[str]], mutations: Sequence[Mutation] = MUTATIONS) -> str:
    """Return the table of the docs. `rows`: those that were killed."""
    days = sorted(day for _, day in rows.values())
    run = f", {len(rows)} of them killed when they ran last, from {days[0]} to {days[-1]}" if days else ""
    lines = [f"{len(mutations)} mutations{run}.", "", "| | Claim | Mutation | in | Fails |", "|---|---|---|---|---|"]
    for mutation in mutations:
        path, _, name = mutation.test.partition("::")
        lines.append(
            f"| {mutation.guarantee} | {mutation.claim} | {mutation.what} | `{mutation.file.removeprefix('fks/')}` "
            f"| `tests/{path}{'' if name.startswith('Test') else '::' + name}` |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with the table in its place."""
    before, _, after = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(killed())}\n{END}{after.partition(END)[2]}"


def copy_tree(into: Path) -> None:
    """Copy what the tests need."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("node_modules", "bin", "obj", "figures")
            shutil.copytree(source, into / part, ignore=ignored, symlinks=True)
        elif source.exists():
            shutil.copy2(source, into / part)


def run_test(tree: Path, rows: Sequence[Mutation]) -> tuple[int, str]:
    """Return pytest's exit code for the tests of these rows in a copy of the tree, and its last lines."""
    tests, kinds = dict.fromkeys(row.test for row in rows), {row.kind for row in rows}
    test_s, limit_s = (max(limit[kind] for kind in kinds) for limit in (TEST_S, LIMIT_S))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-o", "addopts=--import-mode=importlib", "-o", f"timeout={test_s:g}"]
    command += [f"tests/{test}" for test in tests]
    # no compiled file is written: two mutations of one file may be of the same second
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", COPY: str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED: not done after {limit_s:g} s"
    finally:
        end_processes(tree)
    return done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])


def end_processes(tree: Path) -> None:
    """End what a test in this copy left running: a mutated system may not stop by itself."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(COPY) == str(tree):
                process.kill()


def verdict_of(tree: Path, mutation: Mutation) -> tuple[str, str]:
    """Return `killed`, `SURVIVED` or `ERROR` for a mutation, and what its test printed."""
    file = tree / mutation.file
    source = source_of(file)
    text = source.text
    file.write_text(mutation.changed(text, source.span(mutation.name)))
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    try:
        code, output = run_test(tree, [mutation])
    finally:
        file.write_text(text)
    if code == 1 and mutation.kind == "system" and "FAILED" not in output:
        return "ERROR", output  # the system did not start: that says nothing about the test
    return {0: "SURVIVED", 1: "killed"}.get(code, "ERROR"), output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="guarantees, or words of claims")
    parser.add_argument("--fast", action="store_true", help="unit tests only")
    parser.add_argument("--slow", action="store_true", help="those between unit tests and system tests only")
    parser.add_argument("--system", action="store_true", help="acceptance and soak tests only")
    parser.add_argument("--all", action="store_true", help="every one, those of acceptance and soak tests too")
    parser.add_argument("--rest", action="store_true", help="without those that were killed with this code and test")
    parser.add_argument("--check", action="store_true", help="check the table, run nothing")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/guarantees.md")
    options = parser.parse_args()
    wrong = problems()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if options.docs:
        PAGE.write_text(page(PAGE.read_text()))
    if options.check and page(PAGE.read_text()) != PAGE.read_text():
        wrong.append("docs/guarantees.md is out of date: python scripts/mutations.py --docs")
        print(wrong[-1])
    if options.check or options.docs or wrong:
        return int(bool(wrong))
    kinds = {kind for kind in ("fast", "slow", "system") if options.all or getattr(options, kind)} or {"fast", "slow"}
    named = [
        mutation
        for mutation in (rest(killed()) if options.rest else MUTATIONS)
        if not options.only or any(only == mutation.guarantee or only in mutation.claim for only in options.only)
    ]
    chosen = [mutation for mutation in named if mutation.kind in kinds]
    if not chosen:
        print(
            f"nothing to run: {len(named)} mutations fit, of kind {', '.join(sorted({m.kind for m in named})) or '-'}"
        )
        return int(bool(named))
    # the tests of a group run together once without a mutation: all that are cheap, and each file of system tests
    chosen.sort(key=_group)
    counts: dict[str, int] = {}
    for _, rows in itertools.groupby(chosen, _group):
        for mutation, verdict in run_group(list(rows)):
            counts[verdict] = counts.get(verdict, 0) + 1
            if verdict != "ERROR":
                note(mutation, verdict, datetime.now(UTC))
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    PAGE.write_text(page(PAGE.read_text()))
    return int(set(counts) != {"killed"})


def _group(mutation: Mutation) -> str:
    return mutation.test.partition("::")[0] if mutation.kind == "system" else ""


def run_group(rows: Sequence[Mutation]) -> Iterator[tuple[Mutation, str]]:
    """Run the tests of these rows without a mutation, then each with its own; yield the verdicts."""
    with tempfile.TemporaryDirectory(prefix="fks-mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        code, output = run_test(tree, rows)
        if code:
            print(f"the tests fail without a mutation:\n{output}", flush=True)
            yield from ((row, "ERROR") for row in rows)
            return
        for mutation in rows:
            began_s = time.monotonic()
            verdict, output = verdict_of(tree, mutation)
            print(
                f"{verdict:8} {time.monotonic() - began_s:5.1f} s  {mutation.guarantee:4} {mutation.claim}: "
                f"{mutation.what}",
                flush=True,
            )
            if verdict == "ERROR":
                print(output)
            elif mutation.kind == "system":  # for what reason: a busy machine fails a system test, too
                print(*re.findall(r"^FAILED.*$", output, re.M)[:1], sep="\n", flush=True)
            yield mutation, verdict


if __name__ == "__main__":
    sys.exit(main())
