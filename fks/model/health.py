"""Results of self-checks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """One failed self-check, as it is now. Its duration is kept by `fks.process.self_checks`.

    `kind`: database, feed, venue, queue, memory, loop, disk, redis, schedule. `about` distinguishes checks of one kind
    (a
    symbol, a venue); kind and about stay the same while it lasts, `text` may change.
    `is_mended_by_restart`: a new process of this component may pass the check; False where the cause lies elsewhere.
    """

    kind: str
    text: str
    about: str = ""
    is_mended_by_restart: bool = False
