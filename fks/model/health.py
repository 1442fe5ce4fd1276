"""What a component says of itself, and how the parts of a system add up."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One beat. `age_s` is the age of the work loop's own beat when asked: a hung loop shows here.

    `is_ready` says the inputs are good enough to act on; `detail` is small, JSON-able and goes to status;
    `metrics` is the process's metric snapshot: (name, sorted label pairs) -> value.
    """

    component: str
    pid: int
    node: str
    epoch: int
    age_s: float
    is_ready: bool
    state: str  # starting | ready | degraded | stopping
    detail: dict[str, object] = field(default_factory=dict)
    metrics: dict[str, object] = field(default_factory=dict)
