"""Open the monitor page of the running system in a browser, where there is a screen; print its address in any case."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import webbrowser
from pathlib import Path

NOT_RUNNING = 3


def has_screen() -> bool:
    """Return whether a browser can be seen: a text browser would take the terminal over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main() -> int:
    fks = Path(sys.executable).parent / "fks"
    status = subprocess.run([fks, "status"], capture_output=True, text=True).stdout
    found = re.search(r"monitor page: +(\S+)", status)
    if found is None:
        print("the pages are off: web.enabled is false" if "gateway: " in status else "not running: make up")
        return NOT_RUNNING
    print(found[1])
    if has_screen():
        webbrowser.open(found[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
