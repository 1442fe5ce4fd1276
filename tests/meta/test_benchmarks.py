"""Every benchmark compares results, and ends with an exit status that says when they differ."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _results

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if not path.name.startswith("_"))
#: what compares: two results, or the whole system by the auditor
COMPARES = {"same", "near", "audit_evidence"}


def called(tree: ast.Module) -> set[str]:
    """Return the plain names that a module calls."""
    return {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    } | {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def last_block(tree: ast.Module) -> str:
    """Return the code that runs when the file is started."""
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    return ast.unparse(block)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_compares_results_and_has_an_exit_status(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert called(tree) & COMPARES
    assert re.search(r"\b(run|run_benchmark)\(|sys\.exit\(", last_block(tree))
    if "audit_evidence" not in called(tree):
        assert "from benchmarks._results import" in path.read_text()


def test_every_benchmark_is_looked_at() -> None:
    assert len(BENCHMARKS) >= 19


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("same('a', 1, 1)", 0, "1 results compared"),
        ("same('a', 1, 2)", 1, "DIFFERS: a differs: 1 against 2"),
        ("same('a', np.array([1.0, np.nan]), np.array([1.0, np.nan]))", 0, "1 results compared"),
        ("same('a', np.array([1, 2]), np.array([1, 3]))", 1, "DIFFERS"),
        ("near('a', [1.0, 2.0], [1.0, 2.1], atol=0.05)", 1, "DIFFERS"),
        ("near('a', [1.0, 2.0], [1.0], atol=0.05)", 1, "DIFFERS"),
        ("near('a', [float('nan')], [1.0], atol=0.05)", 1, "DIFFERS"),
        ("same('a', 1, 1) or True", 1, "1 results compared"),
        ("None", 1, "NO PROOF: nothing was compared"),
    ],
)
def test_a_benchmark_exits_1_when_results_differ(
    body: str, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"same": _results.same, "near": _results.near, "np": np}
    with pytest.raises(SystemExit) as ended:
        _results.run(lambda: eval(body, names))
    assert ended.value.code == status
    assert text in capsys.readouterr().err
