"""Actor of the supervisor: one `TreeSupervisor`, with the deployment and machine it was started for."""

from __future__ import annotations

from fks.system.runtime import Component
from fks.system.supervision import SupervisorSpec
from fks.system.supervision.ports import World
from fks.system.supervisor.tree_supervisor import TreeSupervisor, Want


class SupervisorActor(TreeSupervisor):
    """`args`: the number of the deployment and the id of the machine that is its head; empty without a head."""

    def __init__(
        self,
        component: Component,
        args: tuple[str, ...],
        *,
        tree: SupervisorSpec,
        world: World,
        want: Want | None = None,
    ) -> None:
        deployment, machine = (int(args[0]), args[1]) if args else (None, "")
        super().__init__(component, tree, world, want=want, deployment=deployment, machine=machine)

    async def start(self) -> None:
        """Nothing that can fail: a supervisor whose start fails would be dead for good."""
