"""Self-checks of a strategy worker: instances that stand still although a newer sealed bar exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fks.model.health import Check, failed


class StalledInstances:
    """Self-check: instances that stand still although a newer sealed bar exists, and since when. For one loop."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int | None, float]] = {}

    def problems(
        self,
        cursors: Iterable[tuple[str, int | None, int | None]],
        now_s: float,
        *,
        wait_max_s: float,
        behind: Mapping[str, str] | None = None,
    ) -> list[Check]:
        """Return the instances behind for longer than `wait_max_s`, of (id, cursor, newest sealed bar).

        One that moves, however slowly, is catching up and is no problem. `behind`: the symbol that an instance waits
        for, by id; a new process would wait for it, too.
        """
        behind = behind or {}
        since: dict[str, tuple[int | None, float]] = {}
        for id, cursor_ns, sealed_ns in cursors:
            if sealed_ns is None or (cursor_ns is not None and cursor_ns >= sealed_ns):
                continue
            known = self._since.get(id)
            since[id] = known if known is not None and known[0] == cursor_ns else (cursor_ns, now_s)
        self._since = since
        return [
            failed(
                "queue",
                f"sealed bars wait for {id} for {now_s - began_s:.0f} s"
                + (f": bars of {behind[id]} are not sealed" if id in behind else ""),
                id,
                is_mended_by_restart=id not in behind,
            )
            for id, (_, began_s) in since.items()
            if now_s - began_s > wait_max_s
        ]
