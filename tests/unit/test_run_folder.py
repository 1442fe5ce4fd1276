"""Temporary files of a run of tests are in one folder, which ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import subprocess, tempfile
from multiprocessing.util import get_temp_dir
def test_leaves_folders() -> None:
    get_temp_dir()
    subprocess.run(["mktemp", "-d"], check=True)
    assert tempfile.mkdtemp().rpartition("/")[0].rpartition("/")[2].startswith("fkst")
"""


def test_run_leaves_only_the_folders_of_its_cases(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(TEST)
    (place := tmp_path / "temporary").mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_DEBUG_TEMPROOT"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path / "test_one.py")],
        cwd=Path(__file__).parents[2],
        env=kept | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert [path.name for path in place.iterdir() if not path.name.startswith("pytest-of-")] == []
