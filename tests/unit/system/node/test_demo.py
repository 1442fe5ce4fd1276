"""The demo's strategies protect their entries."""

from __future__ import annotations

from fks.strategies.base import Protected
from fks.strategies.registry import load_builtin
from fks.system.node.prepare import INSTANCES


def test_each_entry_of_the_demo_has_a_stop_loss() -> None:
    catalogue = load_builtin()
    made = [catalogue.make(strategy, params) for _, strategy, params, *_ in INSTANCES]
    protected = [strategy for strategy in made if isinstance(strategy, Protected)]
    assert len(protected) == len(INSTANCES)
    assert all(strategy.sl_pct for strategy in protected)
    assert any(strategy.trail_pct for strategy in protected)
