"""A service small enough to start by the dozen: `small_service.py READY [--stop-s S] [--deaf] [--dies FILE] [--children
N]`.

READY is a file that gets our pid once we are up, and our name and the time (appended to READY.log) when we are asked to
stop. --deaf ignores SIGTERM. --dies FILE: end at once while FILE exists. --children N: so many helpers in our session.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ready", type=Path)
    parser.add_argument("--stop-s", type=float, default=0.0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--dies", type=Path)
    parser.add_argument("--children", type=int, default=0)
    parser.add_argument("--marker", default="")
    options = parser.parse_args()
    if options.dies and options.dies.exists():
        sys.stderr.write("password=hunter2hunter2 does not fit\nI cannot go on\n")
        sys.exit(3)
    helpers = [
        subprocess.Popen([sys.executable, "-S", "-c", "import time\nwhile True: time.sleep(60)"])
        for _ in range(options.children)
    ]

    def stop(number: int, frame: object) -> None:
        with options.ready.with_suffix(".log").open("a") as file:
            file.write(f"{options.ready.stem} {time.monotonic()}\n")
        time.sleep(options.stop_s)
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else stop)
    draft = options.ready.with_suffix(".draft")
    draft.write_text(" ".join(str(pid) for pid in (os.getpid(), *(helper.pid for helper in helpers))))
    draft.rename(options.ready)
    while True:
        signal.pause()


main()
