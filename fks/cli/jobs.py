"""Parts that the commands of durable jobs share: options of the queue, waiting with a progress bar, logs of one job."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from fks.cli.base import emit, table
from fks.cli.client import Gateway, gateway_of
from fks.cli.shown import time_of

POLL_S = 0.3


def queue_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a job's place in the queue."""
    for option in (
        click.option("--again", is_flag=True, help="Run it although the same one on the same data is stored."),
        click.option(
            "--priority",
            type=click.IntRange(-10, 10),
            default=0,
            show_default=True,
            help="Of queued jobs the highest is started first.",
        ),
    ):
        command = option(command)
    return command


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a job's logs."""
    return click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")(command)


def show_logs(ctx: click.Context, id: str, *, follow: bool, as_json: bool) -> None:
    """Print the lines of this node's logs that name a job. Errors: OutageError when there are no logs."""
    from fks.cli.logs import logs

    ctx.invoke(logs, component=(), follow=follow, lines=1000, level="DEBUG", trace=id, as_json=as_json)


def show_list(
    ctx: click.Context, path: str, limit: int, *, as_json: bool, empty: str, has_method: bool = False
) -> None:
    """Print the newest jobs of one kind. `has_method`: with the column of a search's method."""
    with gateway_of(ctx) as gateway:
        items = gateway.get(path, limit=limit)["items"]
    emit(items, as_json=as_json, schema="fks.jobs/1")
    if as_json:
        return
    rows = [
        (
            time_of(item["created_at"]),
            item["id"],
            *_series(item["spec"]),
            *([item["spec"]["plan"]["method"]] if has_method else []),
            item["state"],
            f"{100 * item['progress']:.0f} %",
            item["error"],
        )
        for item in items
    ]
    titles = ("METHOD",) if has_method else ()
    table(rows, ("SUBMITTED", "ID", "STRATEGY", "SYMBOL", "TF", *titles, "STATE", "DONE", "ERROR"), empty=empty)


def _series(spec: dict[str, Any]) -> tuple[str, str, str]:
    """Return strategy, symbol and timeframe of a spec; of an account those of its members."""
    if "members" not in spec:
        return spec["strategy"], spec["symbol"], spec["timeframe"]
    symbol, timeframe = (
        " ".join(dict.fromkeys(member[name] for member in spec["members"])) for name in ("symbol", "timeframe")
    )
    return f"account of {len(spec['members'])}", symbol, timeframe


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
