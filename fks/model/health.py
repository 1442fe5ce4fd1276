"""What a part of the system finds wrong with itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One failed self-check, as it is now. Since when it lasts is kept by whoever asks (`fks.process.self_checks`).

    `kind` says what is wrong: database, feed, venue, queue, memory, loop, disk, redis, schedule. `about` tells problems
    of one kind apart (a symbol, a venue); kind and about stay the same while it lasts, `text` may change.
    `is_mended_by_restart`: a new process of this part may well be rid of it; False where the cause lies elsewhere.
    """

    kind: str
    text: str
    about: str = ""
    is_mended_by_restart: bool = False
