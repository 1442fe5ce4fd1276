"""Virtualenvs of peers whose packages cannot be installed beside ours: each is made at its first use, and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: programs that run in these virtualenvs
PROGRAMS = ROOT / "benchmarks" / "peers"


def environment(requirement: str, *pythons: str) -> Path:
    """Return the interpreter of a virtualenv that holds one package, made by the first of `pythons` that starts.
    Errors: SystemExit when none starts; CalledProcessError when the package cannot be installed."""
    folder = ROOT / ".fks-peers" / requirement
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        found = (shutil.which(name) for name in pythons)
        base = next(
            (path for path in found if path and not subprocess.run([path, "-V"], capture_output=True).returncode), ""
        )
        if not base:
            sys.exit(f"{requirement} needs {' or '.join(pythons)}, and PATH has none that starts; install one")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
        complete.touch()
    return python
