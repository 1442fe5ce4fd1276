"""State that every child of the keeper has, be it a service or the actor tree."""

from __future__ import annotations

from collections.abc import Callable


class SupervisedChild:
    """One child of the keeper. `on_change` is called after each change of its state."""

    def __init__(self, name: str, on_change: Callable[[SupervisedChild], None]) -> None:
        self.name = name
        self.state = "starting"
        self.error = ""  # why it is not ready
        self.failures = 0  # starts in a row that did not succeed
        self.times_ready = 0
        self._on_change = on_change

    @property
    def is_ready(self) -> bool:
        """Return whether it has come up and lives, even if it does not answer at the moment."""
        return self.state in ("ready", "degraded")

    def _move(self, state: str, error: str | None = None) -> None:
        """Change the state, and the error if one is given."""
        before = self.state, self.error
        self.state, self.error = state, self.error if error is None else error
        if state != before[0] or (error is not None and error != before[1]):
            self._on_change(self)
