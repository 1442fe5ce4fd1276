"""Actor of the scheduler: cron rows, durable jobs, rebalancings and reports of portfolios."""

from __future__ import annotations

from fks.ai.engines.port import InferenceCall
from fks.interfaces.entry.rebalancing import RebalanceDriver, RebalanceTrigger
from fks.interfaces.entry.reporting import PortfolioReports
from fks.research.jobs.scheduler import EndJob, RunJob, Scheduler
from fks.system.runtime import Component


class SchedulerActor(Scheduler):
    """One `Scheduler`; `run_job` runs a claimed job in a process of its own, `end_job` ends that process, `inference`
    asks the process of a model."""

    MODULES = ("fks.research.jobs.schedule", "fks.store.jobs")

    def __init__(
        self,
        component: Component,
        args: tuple[str, ...],
        *,
        run_job: RunJob,
        end_job: EndJob | None = None,
        inference: InferenceCall | None = None,
    ) -> None:
        c = component
        driver = RebalanceDriver(c.db, c.bus, c.clock, c.settings, c.log, c.lease)
        trigger = RebalanceTrigger(c.db, c.bus, c.clock, c.settings, c.log, c.lease)

        reports = PortfolioReports(c.db, c.clock, c.settings, c.log)

        async def advance() -> int:
            await trigger.look()
            advanced = await driver.advance()
            await reports.look()
            return advanced

        super().__init__(component, run_job, end_job, advance, inference)

    async def start(self) -> None:
        """Nothing to open."""
