"""The build of a process, and whether it is still the one on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fks

PROGRAM = """
import sys
from pathlib import Path
import fks.config.version as version
print(version.is_installed())
source = Path(version.__file__)
text = source.read_text()
source.write_text(text + "# another build\\n")
print(version.is_installed())
source.write_text(text)  # the same build, installed again
print(version.is_installed())
source.unlink()
print(version.is_installed())
"""


def test_process_knows_whether_another_build_was_installed(tmp_path: Path) -> None:
    place = tmp_path / "fks"
    for name in ("config", "model"):
        (place / name).mkdir(parents=True)
    parts = ("config/builds.py", "config/version.py", "model/errors.py")
    for name in ("__init__.py", "config/__init__.py", "model/__init__.py", *parts):
        shutil.copy(Path(fks.__file__).parent / name, place / name)
    for name in ("actors", "serve_app.py"):
        (tmp_path / name).touch() if name.endswith(".py") else (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == ["True", "False", "True", "False"]
