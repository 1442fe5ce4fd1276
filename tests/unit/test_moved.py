"""Modules that were moved can be imported by their old names, also in a process that began before the move."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fks
from fks.moved import TABLE, MovedFinder, new_name, read

ROOT = Path(fks.__file__).resolve().parents[1]


@pytest.mark.parametrize("old", sorted(read()))
def test_an_old_name_gives_the_module_of_the_new_one(old: str) -> None:
    assert importlib.import_module(old) is importlib.import_module(read()[old])
    path = ROOT / old.replace(".", "/")
    found = [*path.rglob("*.py"), *path.parent.glob(f"{path.name}.py")]  # a folder of caches may be left behind
    assert found == ([ROOT / "fks/backtest.py"] if old == "fks.backtest" else [])


def test_the_file_for_editors_gives_the_package_of_backtests() -> None:
    """A process that began before the move has no line for `fks.backtest` and finds the file."""
    program = (
        "import sys, fks\n"
        "sys.meta_path[:] = [one for one in sys.meta_path if type(one).__name__ != 'MovedFinder']\n"
        "import fks.backtest as bt\n"
        "assert bt is sys.modules['fks.research.backtest'], bt\n"
        "from fks.backtest import sample\n"
        "from fks.backtest.statistics import statistics_of\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60.0)


def test_a_submodule_of_a_moved_package_is_no_copy() -> None:
    assert importlib.import_module("fks.futures.specs") is importlib.import_module("fks.model.futures.specs")
    assert importlib.import_module("fks.futures.specs").__spec__.name == "fks.model.futures.specs"


def test_names_that_only_begin_alike_are_not_moved() -> None:
    moved = {"fks.bars": "fks.market.bars", "fks.bars.splits": "fks.model.splits"}
    names = ("fks.bars", "fks.bars.outliers", "fks.bars.splits", "fks.barsx", "fks", "other.bars")
    assert [new_name(name, moved) for name in names] == [
        "fks.market.bars",
        "fks.market.bars.outliers",
        "fks.model.splits",
        None,
        None,
        None,
    ]


def test_a_module_that_is_nowhere_is_not_found() -> None:
    for name in ("fks.nowhere", "fks.model.futures.nowhere", "fks.futures.nowhere"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_a_table_that_is_broken_or_missing_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "moved.txt").write_text("fks.bars\n")
    for table in (tmp_path / "moved.txt", tmp_path / "none.txt"):
        assert MovedFinder(table).find_spec("fks.bars") is None


OLD_PROCESS = """
import sys
import fks.part
print("started", flush=True)
input()
from fks.part.late import VALUE
assert sys.modules["fks.part.late"] is sys.modules["fks.district.part.late"]
print(VALUE, fks.part.VALUE, flush=True)
"""


def test_a_process_that_began_before_a_move_imports_what_it_needs_later(tmp_path: Path) -> None:
    """An upgrade in place moves a package while a process of the old build runs that has imported a part of it."""
    package = tmp_path / "fks"
    part = package / "part"
    part.mkdir(parents=True)
    for name in ("__init__.py", "moved.py"):
        (package / name).write_bytes((TABLE.parent / name).read_bytes())
    (part / "__init__.py").write_text("VALUE = 'old'\n")
    (part / "late.py").write_text("VALUE = 'old'\n")
    with subprocess.Popen(
        [sys.executable, "-B", "-S", "-c", OLD_PROCESS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        (package / "district").mkdir()
        (package / "district" / "__init__.py").touch()
        part.rename(package / "district" / "part")
        (package / "district" / "part" / "late.py").write_text("VALUE = 'new'\n")
        (package / "moved.txt").write_text("fks.part fks.district.part\n")
        output, _ = process.communicate("\n", timeout=30.0)
    assert (output, process.returncode) == ("new old\n", 0)


def test_a_moved_program_runs_under_its_old_name(tmp_path: Path) -> None:
    """A keeper of the old build starts its children by the names that it knows."""
    part = tmp_path / "fks" / "district" / "part"
    part.mkdir(parents=True)
    for name in ("__init__.py", "moved.py"):
        (tmp_path / "fks" / name).write_bytes((TABLE.parent / name).read_bytes())
    (tmp_path / "fks" / "moved.txt").write_text("fks.part fks.district.part\n")
    (part.parent / "__init__.py").touch()
    (part / "__init__.py").touch()
    (part / "child.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    (part / "__main__.py").write_text("from fks.part import child\nprint(__name__, child.__name__)\n")
    printed = {
        name: subprocess.run(
            [sys.executable, "-B", "-S", "-m", name, "a"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30.0,
        ).stdout
        for name in ("fks.part.child", "fks.part", "fks.part.nowhere")
    }
    assert printed == {
        "fks.part.child": "__main__ ['a']\n",
        "fks.part": "fks.district.part.child ['a']\n__main__ fks.district.part.child\n",
        "fks.part.nowhere": "",
    }
