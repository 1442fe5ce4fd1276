"""`fks chaos`: injects faults into a demo system by a plan drawn from a seed, then audits the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import FAILED, OK, as_json, emit, paths_of, settings_of, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fks.lab.chaos.plan import Injection
    from fks.lab.chaos.run import ChaosResult

FAULTS_A_MINUTE = 8


@click.group()
def chaos() -> None:
    """Inject faults into a demo system and audit the result (docs/chaos.md)."""


@chaos.command()
@click.option("--seed", type=int, help="The plan's seed; drawn and printed when it is not given.")
@click.option("--minutes", type=click.FloatRange(0.1, 1440), default=2.0, show_default=True, help="How long.")
@click.option("--faults", type=click.IntRange(1, 10_000), help=f"How many (default {FAULTS_A_MINUTE} a minute).")
@click.option(
    "--scenario", "names", multiple=True, metavar="NAME|FILE", help="What goes wrong; repeatable (default all)."
)
@click.option("--plan", "only_plan", is_flag=True, help="Print what would be injected, and end.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    seed: int | None,
    minutes: float,
    faults: int | None,
    names: tuple[str, ...],
    only_plan: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Inject faults into the running demo, then audit it. The same seed injects the same faults.

    Refuses on anything that could touch real money. Exit 1 when a signal is lost, an order doubled, a position wrong
    or something did not come back, and when the run exercised too little to be a proof.
    """
    import asyncio
    import secrets

    chosen = secrets.randbelow(2**31) if seed is None else seed
    count = faults or max(1, round(minutes * FAULTS_A_MINUTE))
    return asyncio.run(
        _run(ctx, chosen, minutes, count, names or ("all",), only_plan=only_plan, is_sure=yes, is_json=as_json)
    )


async def _run(
    ctx: click.Context,
    seed: int,
    minutes: float,
    count: int,
    names: tuple[str, ...],
    *,
    only_plan: bool,
    is_sure: bool,
    is_json: bool,
) -> int:
    from fks.clock import RealClock
    from fks.lab.chaos.outside import Outside
    from fks.lab.chaos.plan import find_scenario, make_plan
    from fks.lab.chaos.report import document, plan_rows
    from fks.lab.chaos.run import run_plan

    scenarios = [find_scenario(name) for name in names]
    outside = Outside(paths_of(ctx), RealClock())
    try:
        await outside.refuse_unless_demo(settings_of(ctx))
        plan = make_plan(seed=seed, minutes=minutes, count=count, scenarios=scenarios, roster=await outside.roster())
        if only_plan:
            _show_plan(plan, seed, is_json=is_json, rows=plan_rows(plan))
            return OK
        if not is_sure:
            click.confirm(f"hurt the system in {outside.paths.home} with {len(plan)} faults?", abort=True, err=True)
        progress = _Progress(len(plan), seed, is_quiet=is_json)
        outcome = await run_plan(outside, plan, progress.say, seed=seed)
        progress.end()
    finally:
        await outside.close()
    if is_json:
        found = document(outcome, plan, seed=seed, minutes=minutes, scenarios=names)
        emit(found, as_json=True, schema="fks.chaos/1")
    else:
        _show(outcome, seed)
    return OK if outcome.is_sound else FAILED


def _show_plan(plan: Sequence[Injection], seed: int, *, is_json: bool, rows: list[dict[str, object]]) -> None:
    if is_json:
        emit({"seed": seed, "plan": rows}, as_json=True, schema="fks.chaos-plan/1")
        return
    click.echo(f"seed {seed}")
    for injection in plan:
        click.echo(injection.line())


def _show(outcome: ChaosResult, seed: int) -> None:
    from fks.lab.chaos.report import FAULT_HEADERS, check_rows, exercise_rows, fault_rows, summary, violation_lines

    table(fault_rows(outcome), FAULT_HEADERS)
    click.echo()
    rows = [
        (name, click.style(count, fg="green" if count == "0" else "red")) for name, count in check_rows(outcome.audit)
    ]
    table(rows, ("audit", "found"))
    click.echo()
    table(exercise_rows(outcome.exercise), ("exercised", "count"))
    click.echo()
    for attempt in outcome.attempts:
        if attempt.error:
            click.echo(f"not injected: {attempt.injection.line().strip()}: {attempt.error}")
        elif not attempt.is_injected:
            click.echo(f"struck nothing: {attempt.injection.line().strip()}")
        elif attempt.recovered_s is None:
            click.echo(click.style(f"not back: {attempt.injection.line().strip()}", fg="red"))
    for line in violation_lines(outcome):
        click.echo(click.style(line, fg="red"))
    click.echo(click.style(summary(outcome, seed=seed), fg="green" if outcome.is_sound else "red", bold=True))


class _Progress:
    """Progress of a run: a bar on a terminal, a line a fault elsewhere; always on stderr."""

    def __init__(self, count: int, seed: int, *, is_quiet: bool) -> None:
        import sys

        self._is_quiet = is_quiet
        self._bar: Any = None
        if not is_quiet:
            click.echo(f"seed {seed}, {count} faults", err=True)
        if not is_quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("waiting until all is well", total=count)

    def say(self, what: str, about: Any) -> None:
        """Show one step of the run."""
        if self._is_quiet:
            return
        if self._bar is not None:
            if what == "done":
                self._bar.advance(self._task)
            elif what in ("settling", "auditing"):
                self._bar.update(self._task, description=what)
            elif about is not None:
                self._bar.update(self._task, description=f"{about.kind} {about.target}"[:40])
        elif what == "done":
            click.echo(f"{about.injection.line()}: {_described(about)}", err=True)
        elif what in ("settling", "auditing"):
            click.echo(what, err=True)

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def _described(attempt: Any) -> str:
    if attempt.error:
        return f"not injected: {attempt.error}"
    if not attempt.is_injected:
        return "struck nothing"
    seen = "" if attempt.detected_s is None else f"detected {attempt.detected_s:.2f} s, "
    return seen + ("not back" if attempt.recovered_s is None else f"recovered {attempt.recovered_s:.2f} s")


@chaos.command()
@as_json
def scenarios(as_json: bool) -> None:
    """List the scenarios and the kinds of fault."""
    from fks.lab.chaos.kinds import KINDS, SCENARIOS

    if as_json:
        emit(
            {
                "scenarios": {s.name: {"help": s.help, "weights": s.weights} for s in SCENARIOS.values()},
                "kinds": {
                    k.name: {"help": k.help, "weight": k.weight, "on": k.on, "seconds": k.seconds}
                    for k in KINDS.values()
                },
            },
            as_json=True,
            schema="fks.chaos-scenarios/1",
        )
        return
    table([(s.name, s.help) for s in SCENARIOS.values()], ("scenario", "what goes wrong"))
    click.echo()
    table(
        [(k.name, f"{k.weight:g}", _on(k.on), k.help) for k in KINDS.values()], ("fault", "weight", "on", "what it is")
    )


def _on(on: str | tuple[str, ...]) -> str:
    return on if isinstance(on, str) else ", ".join(on[:3]) + (", …" if len(on) > 3 else "")
