"""Texts in the memory of a process that runs."""

from __future__ import annotations

import contextlib
from typing import Final

#: in the environment of a process that sees no GPU
NO_GPU: Final = "CUDA_VISIBLE_DEVICES=\0"


def held_in_memory(pid: int, texts: list[str]) -> list[str]:
    """Return which texts the writable memory of a process holds, its environment among them."""
    found = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, rights, _, device = line.split()[:4]
            if rights.startswith("rw") and device == "00:00":
                begin, end = (int(part, 16) for part in span.split("-"))
                with contextlib.suppress(OSError, OverflowError):
                    memory.seek(begin)
                    part = memory.read(end - begin)
                    found |= {text for text in texts if text.encode() in part}
    return sorted(found)
