"""The wheel of this checkout, built as `make wheel` does, from a copy: pip leaves a folder build/ beside its source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("fks", "actors", "nt8", "docs", "pyproject.toml", "README.md", "LICENSE", "serve_app.py")


def build_wheel(folder: Path, *, appended: str = "") -> Path:
    """Build the wheel in `folder`, with a text appended to a module, and return its file. Symbolic links stay links in
    its source."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    with (source / "fks" / "__init__.py").open("a") as file:
        file.write(appended)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(folder), str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("fks-*.whl")
    return wheel
