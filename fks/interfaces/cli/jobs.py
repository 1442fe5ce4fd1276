"""Parts that the commands of durable jobs share: options of the queue, waiting with a progress bar, the commands
of each kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, options
from fks.interfaces.cli.client import GatewaySession, gateway_of, gateway_result
from fks.interfaces.cli.shown import at
from fks.model.errors import FksError

POLL_S = 0.3

queue_options = options(
    click.option(
        "--priority",
        type=click.IntRange(-10, 10),
        default=0,
        show_default=True,
        help="Of queued jobs the highest is started first.",
    ),
    click.option("--again", is_flag=True, help="Run it although the same one on the same data is stored."),
)


@dataclass(frozen=True, slots=True)
class JobCommands:
    """One kind of durable job: its commands `list`, `logs` and `cancel`, and the printing of a job and its result.

    `kind` names it in messages, `job` and `jobs` in help texts.
    """

    group: click.Group
    kind: str
    job: str
    jobs: str
    path: str
    schema_of: Callable[[dict[str, Any]], str]  # of a result
    show_result: Callable[[dict[str, Any]], None]

    def add(self, columns: Columns | None = None) -> None:
        """Add the commands to the group; `columns` stand before the state."""
        shown: Columns = {
            "SUBMITTED": at("created_at"),
            "ID": "id",
            "STRATEGY": lambda item: _series(item["spec"])[0],
            "SYMBOL": lambda item: _series(item["spec"])[1],
            "TF": lambda item: _series(item["spec"])[2],
            **(columns or {}),
            "STATE": "state",
            "DONE": lambda item: f"{100 * item['progress']:.0f} %",
            "ERROR": "error",
        }

        @self.group.command("list", help=f"List submitted {self.jobs}, newest first.")
        @click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
        @gateway_result("fks.jobs/1", shown, empty=f"no {self.jobs} yet")
        def list_(gateway: GatewaySession, limit: int) -> Any:
            return gateway.get(self.path, limit=limit)["items"]

        @self.group.command(help=f"Show what the system logged about a submitted {self.job}: starts, lost runners.")
        @click.argument("id", type=click.UUID)
        @click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
        @as_json
        @click.pass_context
        def logs(ctx: click.Context, id: object, follow: bool, as_json: bool) -> None:
            from fks.interfaces.cli.logs import logs

            ctx.invoke(logs, component=(), follow=follow, lines=1000, level="DEBUG", trace=str(id), as_json=as_json)

        @self.group.command(help=f"End a queued {self.job}, or ask a running one to end.")
        @click.argument("id", type=click.UUID)
        @as_json
        @click.pass_context
        def cancel(ctx: click.Context, id: object, as_json: bool) -> None:
            with gateway_of(ctx) as gateway:
                job = gateway.delete(f"{self.path}/{id}")
            self.show({**job, "result": None}, as_json=as_json)

    def submit(
        self, ctx: click.Context, spec: dict[str, Any], *, wait: bool, priority: int, again: bool, as_json: bool
    ) -> dict[str, Any]:
        """Queue a job and print it; with `wait` at its end, with its result."""
        with gateway_of(ctx) as gateway:
            job: dict[str, Any] = gateway.post(f"{self.path}?priority={priority}&again={str(again).lower()}", spec)
            if wait:
                job = wait_for(gateway, f"{self.path}/{job['id']}", is_quiet=as_json)
        self.show(job, as_json=as_json, with_result=wait)
        return job

    def status(self, ctx: click.Context, id: object, *, as_json: bool, watch: bool = False) -> None:
        """Print how far a job is; with `watch` at its end."""
        with gateway_of(ctx) as gateway:
            job = gateway.get(f"{self.path}/{id}")
            if watch:
                job = wait_for(gateway, f"{self.path}/{id}", is_quiet=as_json)
        self.show({**job, "result": None}, as_json=as_json)

    def result(self, ctx: click.Context, id: object, *, as_json: bool) -> dict[str, Any]:
        """Print the result of a job; return the job. Errors: FksError when there is no result."""
        with gateway_of(ctx) as gateway:
            job: dict[str, Any] = gateway.get(f"{self.path}/{id}")
        if job["state"] != "done":
            raise FksError(
                f"{self.kind} {id} is {job['state']}{': ' + job['error'] if job['error'] else ''}",
                remedy=f"see 'fks {self.group.name} status'"
                if job["state"] in ("queued", "running")
                else "submit it again",
            )
        self.show(job, as_json=as_json, with_result=True)
        return job

    def show(self, job: dict[str, Any], *, as_json: bool, with_result: bool = False) -> None:
        """Print a job, or its result. Errors: FksError when it failed."""
        found = job["result"] if with_result else None
        if as_json:
            emit(found or job, as_json=True, schema=self.schema_of(found) if found else "fks.job/1")
        elif found:
            self.show_result(found)
        else:
            more = more_of(job)
            rest = f", {more}" if more else ""
            asked = " (cancel asked for)" if job["is_cancel_requested"] and job["state"] == "running" else ""
            stored = " (stored before)" if job.get("is_stored") else ""
            click.echo(f"{self.kind} {job['id']}: {job['state']}, {100 * job['progress']:.0f} %{rest}{asked}{stored}")
        if job["state"] == "failed":
            raise FksError(f"{self.kind} {job['id']} failed: {job['error']}")


def _series(spec: dict[str, Any]) -> tuple[str, str, str]:
    """Return strategy, symbol and timeframe of a spec; of an account those of its members, of a portfolio its
    symbols."""
    if "instruments" in spec:
        return "portfolio", " ".join(one["symbol"] for one in spec["instruments"]), spec["timeframe"]
    if "members" not in spec:
        return spec["strategy"], spec["symbol"], spec["timeframe"]
    symbol, timeframe = (
        " ".join(dict.fromkeys(member[name] for member in spec["members"])) for name in ("symbol", "timeframe")
    )
    return f"account of {len(spec['members'])}", symbol, timeframe


def wait_for(gateway: GatewaySession, path: str, *, is_quiet: bool) -> dict[str, Any]:
    """Return a job when it has ended, with a progress bar on a terminal. Ctrl-C ends the wait, not the job."""
    if is_quiet:
        return _ended(gateway, path, lambda job: None)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("queued", total=1.0, more="")
        return _ended(
            gateway,
            path,
            lambda job: bar.update(task, completed=job["progress"], description=job["state"], more=more_of(job)),
        )


def _ended(gateway: GatewaySession, path: str, look: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = gateway.get(path)
        look(job)
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(POLL_S)


def more_of(job: dict[str, Any]) -> str:
    """Return how fast a search is and how long it will take, in words; empty for other jobs."""
    counts = job.get("trials") or {}
    if not counts.get("per_s"):
        return ""
    ended = counts["done"] + counts["pruned"] + counts["failed"]
    left = counts.get("left_s")
    return f"{ended} trials, {counts['per_s']:.1f}/s" + ("" if left is None else f", {duration(left)} left")


def duration(seconds: float) -> str:
    """Return seconds as people write them: 45 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
