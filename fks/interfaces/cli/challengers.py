"""`fks strategies challengers`: variants of an instance that decide in shadow, their tests, and their swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, named, result, settings_of
from fks.interfaces.cli.catalogue import catalogue_of, in_database, params_of, params_text
from fks.interfaces.cli.shown import time_of
from fks.model.errors import FksError, InputError, not_found
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.store.db import Database


@click.group()
def challengers() -> None:
    """Run variants of an instance in shadow, test them against it, swap one in.

    A challenger decides on the same sealed bars as its instance, the champion, with parameters of its own. Its
    decisions are recorded, and nothing is sent for them.
    """


def _tested(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: "" if row["evaluation"] is None else f"{row['evaluation'][name]:.2f}"


_CHALLENGER: Columns = {
    **named("id", "stage", "state"),
    "PARAMETERS": lambda row: params_text(row["params"]),
    "DECISIONS": "decisions",
    "BARS": lambda row: "" if row["evaluation"] is None else row["evaluation"]["bars"],
    "PROFIT": _tested("profit"),
    "CHAMPION'S": _tested("champion_profit"),
    "DEFLATED": _tested("deflated_sharpe"),
    "WHY NOT": lambda row: row["error"] or "; ".join((row["evaluation"] or {}).get("findings", ())),
}


@challengers.command("list")
@click.argument("instance", required=False)
@click.option("--ended", is_flag=True, help="Also those that were swapped in or removed.")
@result("fks.challengers/1", _CHALLENGER, empty="no challengers")
def list_(ctx: click.Context, instance: str | None, ended: bool) -> Any:
    """List challengers with the result of their last test: of INSTANCE, or of all."""
    from fks.store.challengers import ChallengerStore, shown

    return [shown(one) for one in in_database(ctx, lambda db: ChallengerStore(db).list(instance, with_ended=ended))]


@challengers.command()
@click.argument("instance")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter that differs; repeatable.")
@click.option("--search", type=click.UUID, help="Take the best parameters of this search (fks optimize list).")
@result("fks.challenger/1", "{0[id]} decides in shadow from the next bar on")
def add(ctx: click.Context, instance: str, pairs: tuple[str, ...], search: Any) -> Any:
    """Add a challenger to INSTANCE; a running system starts it within seconds. It is checked first.

    Each challenger that is ever added counts as a trial in the tests of all of them.
    """
    from fks.research.jobs.challenge import add_challenger, best_of
    from fks.store.challengers import shown

    if bool(pairs) == bool(search):
        raise click.UsageError("give --set NAME=VALUE, or --search ID")
    catalogue = catalogue_of(ctx)

    async def insert(db: Database) -> dict[str, Any]:
        params, provenance = params_of(pairs), None
        if search is not None:
            params, provenance = await best_of(db, search, instance)
        return shown(await add_challenger(db, instance, params, catalogue, by="cli", provenance=provenance))

    return in_database(ctx, insert)


@challengers.command()
@click.argument("id")
@result("fks.challenger.removed/1", "{id} decides no more")
def remove(ctx: click.Context, id: str) -> Any:
    """End challenger ID. Its decisions stay, and it stays counted as a trial."""
    from fks.store.challengers import ChallengerStore

    if not in_database(ctx, lambda db: ChallengerStore(db).remove(id, by="cli")):
        raise InputError(
            f"there is no challenger {id!r}, or it has ended", remedy="see 'fks strategies challengers list --ended'"
        )
    return {"id": id, "state": "removed"}


@challengers.command()
@click.argument("id")
@as_json
@click.pass_context
def propose(ctx: click.Context, id: str, as_json: bool) -> None:
    """Test challenger ID against its champion now, and propose it when it passes. Exit 1 when it does not.

    The system tests each challenger by itself after strategies.challenger_bars_min bars and at each doubling of them.
    Each further test makes a good result by chance likelier, and counts as a trial.
    """
    from fks.clock import RealClock
    from fks.research.jobs.challenge import run_challenge
    from fks.store.challengers import ChallengerStore

    catalogue, settings = catalogue_of(ctx), settings_of(ctx)

    async def test(db: Database) -> dict[str, Any]:
        known = await ChallengerStore(db).get(id)
        spec = {"instance": "" if known is None else known.instance_id, "challenger": id}
        if known is None:
            raise not_found(
                "CHALLENGER_UNKNOWN", f"there is no challenger {id!r}", "see 'fks strategies challengers list'"
            )
        return await run_challenge(spec, db, settings, catalogue, now_ns=RealClock().now_ns())

    document = in_database(ctx, test)
    emit(document, as_json=as_json, schema="fks.challenge/1")
    (found,) = document["tested"]
    result = found["evaluation"]
    if not as_json:
        click.echo(
            f"{click.style(id, bold=True)} against {document['instance']} v{result['champion_version']}, "
            f"{result['bars']} bars from {time_of(result['from'])} to {time_of(result['to'])}, "
            f"{result['trades']} trades"
        )
        click.echo(
            f"  profit {result['profit']:.2f}, the champion's {result['champion_profit']:.2f}; yearly Sharpe ratio "
            f"{result['sharpe']:.2f}, the champion's {result['champion_sharpe']:.2f}, "
            f"of the excess {result['excess_sharpe']:.2f}"
        )
        click.echo(f"  deflated by {result['trials']} trials: {result['deflated_sharpe']:.2f}")
    if result["findings"]:
        raise FksError(f"{id} is not proposed: {'; '.join(result['findings'])}", remedy="it goes on in shadow")
    if not as_json:
        click.echo(f"  it is {found['stage']}: 'fks strategies challengers swap {id}' swaps it in")


def _show(found: dict[str, Any], **_: Any) -> None:
    if "version" not in found:
        click.echo(f"{found['challenger']} goes on in shadow, and its instance enters again")
    elif found["version"] is not None:
        click.echo(f"{found['instance']} runs version {found['version']} from the next bar on")
    elif found["waits_for"] is not None:
        click.echo(f"{found['challenger']} waits: {found['instance']} is not flat, {found['waits_for']}")
        click.echo(
            f"until then {found['instance']} sends exits alone; undo: fks strategies challengers swap "
            f"{found['challenger']} --cancel"
        )
    else:
        click.echo(f"{found['challenger']} was swapped in before")


@challengers.command()
@click.argument("id")
@click.option("--despite-findings", is_flag=True, help="Swap although no test speaks for it.")
@click.option("--no-wait", is_flag=True, help="Refuse when the instance is not flat, instead of waiting for its exit.")
@click.option("--cancel", is_flag=True, help="Let a challenger that waits go on in shadow.")
@result("fks.swap/1", _show)
def swap(ctx: click.Context, id: str, despite_findings: bool, no_wait: bool, cancel: bool) -> Any:
    """Give the instance of challenger ID its parameters, as the next version, once the instance is flat.

    While it waits, the instance sends exits alone. 'demote' or 'fks optimize rollback' leads back.
    """
    from fks.research.jobs.challenge import swap_in
    from fks.store.challengers import ChallengerStore

    if cancel:
        if not in_database(ctx, lambda db: ChallengerStore(db).stop_waiting(id)):
            raise InputError(f"challenger {id!r} does not wait", remedy="see 'fks strategies challengers list'")
        return {"challenger": id, "stage": "shadow"}
    catalogue = catalogue_of(ctx)
    done = in_database(
        ctx,
        lambda db: swap_in(db, id, catalogue, by="cli", may_wait=not no_wait, despite_findings=despite_findings),
    )
    return json_fields(done)


@challengers.command()
@click.argument("instance")
@result("fks.swap/1", _show)
def demote(ctx: click.Context, instance: str) -> Any:
    """Give INSTANCE the parameters back that its challenger replaced, once it is flat."""
    from fks.research.jobs.challenge import demote

    catalogue = catalogue_of(ctx)
    done = in_database(ctx, lambda db: demote(db, instance, catalogue, by="cli", reason="a person's command"))
    return json_fields(done)
