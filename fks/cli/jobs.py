"""Parts that the commands of durable jobs share: options of the queue, waiting with a progress bar, the list and the
logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from fks.cli.base import Columns, as_json, options
from fks.cli.client import Gateway, gateway_result
from fks.cli.shown import at
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


def add_list_and_logs(group: click.Group, jobs: str, job: str, path: str, more: Columns | None = None) -> None:
    """Add the commands `list` and `logs` of one kind of job to its group; `more` columns stand before the state."""
    columns: Columns = {
        "SUBMITTED": at("created_at"),
        "ID": "id",
        "STRATEGY": lambda item: _series(item["spec"])[0],
        "SYMBOL": lambda item: _series(item["spec"])[1],
        "TF": lambda item: _series(item["spec"])[2],
        **(more or {}),
        "STATE": "state",
        "DONE": lambda item: f"{100 * item['progress']:.0f} %",
        "ERROR": "error",
    }

    @group.command("list", help=f"List submitted {jobs}, newest first.")
    @click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
    @gateway_result("fks.jobs/1", columns, empty=f"no {jobs} yet")
    def list_(gateway: Gateway, limit: int) -> Any:
        return gateway.get(path, limit=limit)["items"]

    @group.command(help=f"Show what the system logged about a submitted {job}: starts, lost runners.")
    @click.argument("id", type=click.UUID)
    @click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
    @as_json
    @click.pass_context
    def logs(ctx: click.Context, id: object, follow: bool, as_json: bool) -> None:
        from fks.cli.logs import logs

        ctx.invoke(logs, component=(), follow=follow, lines=1000, level="DEBUG", trace=str(id), as_json=as_json)


def _series(spec: dict[str, Any]) -> tuple[str, str, str]:
    """Return strategy, symbol and timeframe of a spec; of an account those of its members."""
    if "members" not in spec:
        return spec["strategy"], spec["symbol"], spec["timeframe"]
    symbol, timeframe = (
        " ".join(dict.fromkeys(member[name] for member in spec["members"])) for name in ("symbol", "timeframe")
    )
    return f"account of {len(spec['members'])}", symbol, timeframe


def ensure_done(job: dict[str, Any], kind: str, command: str) -> None:
    """Errors: FksError when a job has no result."""
    if job["state"] != "done":
        raise FksError(
            f"{kind} {job['id']} is {job['state']}{': ' + job['error'] if job['error'] else ''}",
            remedy=f"see 'fks {command} status'" if job["state"] in ("queued", "running") else "submit it again",
        )


def wait_for(gateway: Gateway, path: str, *, is_quiet: bool) -> dict[str, Any]:
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


def _ended(gateway: Gateway, path: str, look: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
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
