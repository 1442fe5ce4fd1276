"""The tree of a system, from its settings."""

from __future__ import annotations

from actors.tree import tree_of
from fks.config.settings import Mt5, Ninja, NinjaGroup, Settings, Strategies, Supervision
from fks.system.supervision import SupervisorSpec


def branches(tree: SupervisorSpec) -> dict[str, list[str]]:
    return {
        child.id: [worker.id for worker in child.workers()]
        for child in tree.children
        if isinstance(child, SupervisorSpec)
    }


def test_every_child_is_contained_and_no_death_is_another_ones() -> None:
    tree = tree_of(Settings(strategies=Strategies(workers=2)))
    assert branches(tree) == {
        "safety": ["guardian"],
        "trading": ["orders"],
        "data": ["collector:binance"],
        "strategies": ["strategy:0", "strategy:1"],
        "core": ["scheduler", "monitor"],
    }
    assert all(child.containment for child in tree.children if isinstance(child, SupervisorSpec))
    by_id = {worker.id: worker for worker in tree.workers()}
    assert {worker.after for worker in by_id.values()} == {()}
    assert [id for id, worker in by_id.items() if not worker.is_leased] == ["guardian"]  # it starts without a database


def test_isolated_strategy_has_a_worker_and_budget_of_its_own() -> None:
    tree = tree_of(Settings(), ["ema", "rsi"])
    assert branches(tree)["isolated"] == ["strategy:solo:ema", "strategy:solo:rsi"]
    solo = next(worker for worker in tree.workers() if worker.id == "strategy:solo:ema")
    assert (solo.role, solo.args) == ("strategy", ("solo", "ema"))


def test_each_collected_exchange_has_a_collector_in_its_own_branch() -> None:
    tree = tree_of(Settings(), exchanges=["kraken", "binance"])
    assert branches(tree)["data"] == ["collector:binance"]
    assert branches(tree)["data:kraken"] == ["collector:kraken"]
    assert next(w for w in tree.workers() if w.id == "collector:kraken").args == ("kraken",)


def test_placement_selects_a_node_and_never_limits_the_number() -> None:
    placed = Supervision(placement={"collector:*": "worker", "guardian": "head", "orders": "head"}, memory_max_mb=512)
    by_id = {worker.id: worker for worker in tree_of(Settings(supervision=placed)).workers()}
    assert by_id["collector:binance"].resources == {"worker": 0.001}
    assert by_id["orders"].resources == {"head": 0.001}
    assert by_id["monitor"].resources == {}
    assert {worker.memory_max_mb for worker in by_id.values()} == {512}


def test_challengers_have_one_worker_in_a_branch_of_its_own() -> None:
    plain, tree = tree_of(Settings()), tree_of(Settings(), has_challengers=True)
    added = [branch for branch in tree.children if branch not in plain.children]
    assert [branch.id for branch in added] == ["challengers"]
    (worker,) = added[0].children
    assert (worker.id, worker.role, worker.args, worker.is_leased) == ("strategy:shadow", "strategy", ("shadow",), True)


def test_each_enabled_ninjatrader_group_has_a_link_in_its_own_branch() -> None:
    assert not [id for id in branches(tree_of(Settings())) if id.startswith("link")]
    groups = {"topstep": NinjaGroup(port=9001), "apex": NinjaGroup(port=9002), "old": NinjaGroup(enabled=False)}
    tree = tree_of(Settings(ninja=Ninja(enabled=True, groups=groups)))
    links = {id: children for id, children in branches(tree).items() if id.startswith("link")}
    assert links == {"link:apex": ["ninja:apex"], "link:sim": ["ninja:sim"], "link:topstep": ["ninja:topstep"]}
    child = next(worker for worker in tree.workers() if worker.id == "ninja:apex")
    assert (child.role, child.args, child.is_leased) == ("ninja", ("apex",), True)


def test_link_to_metatrader_is_there_while_an_account_has_it() -> None:
    settings = Settings(ninja=Ninja(enabled=True), mt5=Mt5(enabled=True, group="demo"))
    assert not [id for id in branches(tree_of(settings)) if id.startswith("link:mt5")]
    tree = tree_of(settings, has_mt5=True)
    links = {id: children for id, children in branches(tree).items() if id.startswith("link")}
    assert links == {"link:sim": ["ninja:sim"], "link:mt5:demo": ["mt5:demo"]}
    child = next(worker for worker in tree.workers() if worker.id == "mt5:demo")
    assert (child.role, child.args, child.is_leased) == ("mt5", ("demo",), True)
    assert not [id for id in branches(tree_of(Settings(), has_mt5=True)) if id.startswith("link")]
