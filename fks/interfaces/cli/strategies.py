"""`fks strategies`: the catalogue, checks, a template for your own, and instances."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, named, paths_of, result, settings_of, table
from fks.interfaces.cli.catalogue import SIZE_HELP, SIZING_HELP, SizingType, catalogue_of, in_database, params_of
from fks.interfaces.cli.challengers import challengers
from fks.interfaces.cli.shown import at, time_of
from fks.model.errors import FksError, InputError, invalid
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.store.db import Database
    from fks.store.strategies import Instance, StrategyStore

_CHANGE = "fks.strategy.change/1"
_WANTS = {-1.0: "short", 0.0: "flat", 1.0: "long"}


@click.group()
def strategies() -> None:
    """List, show, check and make strategies; add and switch instances."""


strategies.add_command(challengers)


@strategies.command("list")
@result(
    "fks.strategies/1",
    {
        "NAME": "name",
        "FROM": "origin",
        "STATE": lambda r: "broken" if r["error"] else "ok",
        "WHAT": lambda r: r["error"] or r["summary"],
    },
)
def list_(ctx: click.Context) -> Any:
    """List every strategy: built-in, installed, and your own files."""
    from fks.research.jobs.catalogue import catalogue_rows

    return [_shown(row) for row in catalogue_rows(paths_of(ctx).strategies)]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the catalogue with its parameters as `fields_of` describes them."""
    found = {name: row[name] for name in ("name", "origin", "where", "summary", "error")}
    return {**found, "summary": "" if row["error"] else row["summary"], "params": row["fields"]}


@strategies.command()
@click.argument("name")
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one strategy: description, parameters, warm-up."""
    from fks.research.jobs.catalogue import described

    catalogue = catalogue_of(ctx)
    strategy = catalogue.make(name)
    found = {**_shown(described(catalogue.entries[name])), "warmup": strategy.warmup()}
    emit(found, as_json=as_json, schema="fks.strategy/1")
    if not as_json:
        click.echo(
            f"{click.style(name, bold=True)} ({found['where']}), warm-up {found['warmup']} bars with the defaults"
        )
        click.echo(f"{found['summary']}\n")
        limits = strategy.model_json_schema().get("properties", {})
        table(
            (
                (key, p["default"], _limits_of(limits.get(key, {})), p["description"])
                for key, p in found["params"].items()
            ),
            ("PARAMETER", "DEFAULT", "RANGE", "MEANING"),
            empty="no parameters",
        )


def _limits_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " ".join(map(str, schema["enum"]))
    for part in (schema, *schema.get("anyOf", ())):
        low = part.get("minimum", part.get("exclusiveMinimum"))
        high = part.get("maximum", part.get("exclusiveMaximum"))
        if low is not None or high is not None:
            open_, close = "(" if "exclusiveMinimum" in part else "[", ")" if "exclusiveMaximum" in part else "]"
            return f"{open_}{'' if low is None else low}, {'' if high is None else high}{close}"
    return ""


@strategies.command()
@click.argument("names", nargs=-1)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter to check with; repeatable.")
@as_json
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...], pairs: tuple[str, ...], as_json: bool) -> None:
    """Prove by prefixes that strategies do not look ahead and that their warm-up suffices. NAMES or files; default
    all."""
    from fks.research.jobs.bars import read_tape
    from fks.research.jobs.catalogue import catalogue_rows
    from fks.strategies.base import StrategyError
    from fks.strategies.check import check_strategy, remedy_of

    files = [_existing(Path(name)) for name in names if name.endswith(".py")]
    catalogue = catalogue_of(ctx, files)
    wanted = [name for name in names if not name.endswith(".py")] + catalogue.of_files
    tape, _ = read_tape("sample")
    bars = tape.bars()
    rows = []
    for name in wanted or [str(row["name"]) for row in catalogue_rows(paths_of(ctx).strategies)]:
        warmup: int | None = None
        try:
            strategy = catalogue.make(name, params_of(pairs))
            warmup = strategy.warmup()
            findings = check_strategy(strategy, [bars[: max(3000, 4 * warmup) + strategy.training()]])
            why = "".join(f"{finding}; {remedy_of(strategy, finding)}" for finding in findings)
        except StrategyError as error:  # one broken strategy does not keep the others from being checked
            why = str(error)
        rows.append({"name": name, "warmup": warmup, "ok": not why, "finding": why})
    emit(rows, as_json=as_json, schema="fks.strategy-checks/1")
    if not as_json:
        table(
            ((r["name"], "ok" if r["ok"] else "refused", r["warmup"], r["finding"]) for r in rows),
            ("NAME", "CHECK", "WARM-UP", "WHY"),
        )
    bad = [str(r["name"]) for r in rows if not r["ok"]]
    if bad:
        raise FksError(f"refused: {', '.join(bad)}", remedy="correct decide() or the warm-up, then check again")


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise invalid("STRATEGY_UNKNOWN", f"no file {file}", "give a strategy's name or its .py file")
    return file.absolute()


def _written(made: dict[str, str], name: str) -> None:
    click.echo(f"wrote {made['file']}\n  and {made['test']}")
    click.echo(
        f"next: fks strategies check {name}; fks backtest run {name}; python -m pytest {made['test']} (needs pytest)"
    )
    click.echo(f"trade it on paper: fks up; fks strategies add my-{name} {name} --symbol BTC/USDT --account demo")


@strategies.command()
@click.argument("name")
@result("fks.strategy-new/1", _written)
def new(ctx: click.Context, name: str) -> Any:
    """Write a strategy file to start from, and tests for it, into this node's strategies folder."""
    from fks.research.jobs.catalogue import catalogue_rows
    from fks.strategies.template import TEMPLATE, TEST

    if not name.isidentifier() or name != name.lower() or name.startswith("_"):
        raise InputError(
            f"{name!r} is no name for a strategy", remedy="use lower-case letters, digits and _, as in my_idea"
        )
    if name in (row["name"] for row in catalogue_rows(paths_of(ctx).strategies)):
        raise InputError(f"there is a strategy {name} already", remedy="choose another name")
    kind = "".join(part.title() for part in name.split("_"))
    file = paths_of(ctx).strategies / f"{name}.py"
    test = file.parent / "tests" / f"test_{name}.py"
    for path in (file, test):
        if path.exists():
            raise InputError(f"there is a file {path} already", remedy="move it away, or choose another name")
    title = name.replace("_", " ").capitalize()
    test.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TEMPLATE.format(title=title, kind=kind, name=name))
    test.write_text(TEST.format(name=name, file=test))
    return {"name": name, "file": str(file), "test": str(test)}


# ── instances ────────────────────────────────────────────────────────────────────────────────────
def _instance(row: Instance) -> dict[str, Any]:
    from fks.model.timeframe import iso

    names = (
        "id", "strategy", "params", "params_version", "symbol", "timeframe", "venue", "sizing", "size", "pyramiding",
        "approval", "is_enabled", "state", "error", "is_isolated", "crashes", "crashed_ns",
    )  # fmt: skip
    cursor = None if row.cursor_ns is None else iso(row.cursor_ns)
    return json_fields(row, *names, target=row.last_target, cursor=cursor)


def _state_of(shown: Mapping[str, Any]) -> str:
    """Return the state of an instance as the table shows it: DISABLED is set by the system, off by a person."""
    if not shown["is_enabled"]:
        return "DISABLED" if shown["state"] == "DISABLED" else "off"
    return f"{shown['state']} apart" if shown["is_isolated"] else str(shown["state"])


@strategies.command()
@result(
    "fks.instances/1",
    {
        **named("id", "strategy", "symbol"),
        "TF": "timeframe",
        "VENUE": "venue",
        "STATE": _state_of,
        "WANTS": lambda r: _WANTS.get(r["target"], ""),
        "APPROVAL": "approval",
        "DECIDED TO": at("cursor"),
        "ERROR": "error",
    },
    empty="no instances yet",
)
def instances(ctx: click.Context) -> Any:
    """List the instances that run, or would: symbol, parameters, state, last decided bar."""
    from fks.store.strategies import StrategyStore

    return [_instance(row) for row in in_database(ctx, lambda db: StrategyStore(db).list())]


def _show_instance(shown: dict[str, Any], id: str) -> None:
    click.echo(
        f"{click.style(id, bold=True)} {shown['strategy']} v{shown['params_version']} on {shown['symbol']} "
        f"{shown['timeframe']}: {_state_of(shown)}"
    )
    if shown["error"]:
        click.echo(f"  {shown['error']}")
    for item in shown["holds"]:
        count = item["protections"]
        guard = f"{count} protective order(s)" if count else "no stop-loss or take-profit"
        click.echo(f"  holds {format(item['quantity'], 'f')} {item['symbol']} on {item['venue']}, {guard}")
    if shown["crashes"]:
        where = "a worker of its own" if shown["is_isolated"] else "the worker it shares"
        click.echo(
            f"  took its worker down {shown['crashes']} times, last {time_of(shown['crashed_at'])}; it runs in {where}"
        )
        click.echo(f"\n{shown['traceback'] or 'it left no traceback'}")


@strategies.command()
@click.argument("id")
@result("fks.instance/1", _show_instance)
def instance(ctx: click.Context, id: str) -> Any:
    """Show one instance: state, crashes of its worker, the last traceback, holdings."""
    from fks.store.strategies import StrategyStore

    async def read(db: Database) -> tuple[Any, list[Any]]:
        return await StrategyStore(db).get(id), await StrategyStore(db).exposure(id)

    row, held = in_database(ctx, read)
    if row is None:
        raise InputError(f"there is no instance {id!r}", remedy="see 'fks strategies instances'")
    holds = [{"symbol": h.symbol, "quantity": h.quantity, "venue": h.venue, "protections": h.protections} for h in held]
    return {**_instance(row), "traceback": row.traceback, "holds": holds}


@strategies.command()
@click.argument("id")
@click.argument("strategy")
@click.option("--symbol", required=True, help="In any spelling: BTC/USDT.")
@click.option("--timeframe", default="1m", show_default=True)
@click.option("--account", required=True, help="Name of the account it trades on (fks accounts list).")
@click.option(
    "--exchange", help="Where its bars come from (default: the account's; on paper the one that is collected)."
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; repeatable.")
@click.option("--sizing", type=SizingType(), default="notional", show_default=True, help=SIZING_HELP)
@click.option("--size", default="1000", show_default=True, help=SIZE_HELP)
@click.option(
    "--approval",
    type=click.Choice(["auto", "manual", "all"]),
    default="auto",
    show_default=True,
    help="manual: entries wait for a person; all: exits as well.",
)
@click.option(
    "--pyramiding",
    type=click.IntRange(1),
    help="Most entries that one position may have (default: as many as the strategy makes).",
)
@click.option("--disabled", is_flag=True, help="Add it switched off.")
@result(_CHANGE, "added {id}")
def add(
    ctx: click.Context, /, id: str, strategy: str, pairs: tuple[str, ...], size: str, disabled: bool, **options: Any
) -> Any:
    """Add instance ID of STRATEGY; a running system starts it within a second. It is checked first."""
    from fks.model.timeframe import check_timeframe
    from fks.research.jobs.instances import ensure_collected, fitted_now
    from fks.store.accounts import AccountStore
    from fks.store.feature_values import FeatureStore
    from fks.store.reading import ReadingStore
    from fks.store.strategies import NewInstance, StrategyStore
    from fks.strategies.check import ensure_checked

    made = catalogue_of(ctx).make(strategy, params_of(pairs))
    ensure_checked(made)
    check_timeframe(options["timeframe"])
    options["pyramiding"] = options["pyramiding"] or made.entries_max()
    quantity, symbol, exchange = _positive(size), options.pop("symbol"), options.pop("exchange")

    async def insert(db: Database) -> bool:
        from fks.interfaces.entry.routing import exchange_for

        account = next((one for one in await AccountStore(db).page() if one.name == options["account"]), None)
        at = exchange if account is None else exchange_for(account, symbol, exchange, settings_of(ctx))
        known = await ReadingStore(db).find(symbol, at, listed=True)
        await ensure_collected(db, made.inputs(), known.exchange)
        await FeatureStore(db).ensure(made.features(), known.symbol)
        fitted = await fitted_now(db, made, known.exchange, known.symbol, options["timeframe"])
        new = NewInstance(
            id,
            strategy,
            fitted.model_dump(mode="json"),
            exchange=known.exchange,
            symbol=known.symbol,
            size=quantity,
            is_enabled=not disabled,
            **options,
        )
        async with db.transaction() as tx:
            return await StrategyStore(tx).add(new, by="cli")

    if not in_database(ctx, insert):
        raise InputError(
            f"instance {id!r} exists already, or there is no account {options['account']!r}",
            remedy="see 'fks strategies instances' and 'fks accounts list'",
        )
    return {"id": id, "is_enabled": not disabled}


def _positive(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not (value.is_finite() and value > 0):
        raise InputError(f"size {text!r} is not a positive number", remedy="see --help for its unit: --size 500")
    return value


def _made(quantity: str, price: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda step: "" if step[quantity] is None else f"{step[quantity]} @ {step[price]}"


_STEP: Columns = {
    "DECIDED": at("decided"),
    "STEP": "role",
    "SIDE": "side",
    "DIFFERENCE": lambda step: "" if step["difference"] == "none" else step["difference"],
    "BACKTEST": _made("expected_quantity", "expected_price"),
    "LIVE": _made("quantity", "price"),
    "BPS": lambda step: step["slippage_bps"] or "",
    "WHY": "reason",
}


def _show_drift(found: dict[str, Any], id: str, each: bool, **_: Any) -> None:
    click.echo(
        f"{click.style(id, bold=True)} {found['strategy']} v{found['params_version']} on {found['symbol']} "
        f"{found['timeframe']}, {found['bars']} bars from {time_of(found['from'])} to {time_of(found['to'])}"
    )
    click.echo(
        f"  {found['expected']} steps expected, {found['made']} made, {found['matched']} the same; "
        f"{float(found['mismatch']):.1%} differ"
    )
    click.echo(
        f"  slippage {found['slippage_bps']} bps ({found['slippage']} {found['currency']}), fees above the backtest's "
        f"{found['fees_above_expected']}: together they cost {found['cost']} {found['currency']}"
    )
    for text in found["excess"]:
        click.echo(click.style(f"  beyond the limit: {text}", fg="red"))
    shown = [step for step in found["steps"] if each or step["difference"] != "none"]
    if shown or each:
        table(shown, _STEP, empty="no step yet")


@strategies.command()
@click.argument("id")
@click.option("--since", metavar="TIME", help="From when on: 2h, 7d, or ISO (default: since its parameters hold).")
@click.option("--each", is_flag=True, help="Show each step, not only those that differ.")
@result("fks.drift/1", _show_drift)
def drift(ctx: click.Context, id: str, since: str | None, each: bool) -> Any:
    """Compare an instance's live signals and fills with a backtest on the same bars.

    A step is a fill that a decision led to. Slippage is positive where live paid more, or received less, than the
    backtest. Steps that live did not make are shown with the reason: a denial code, or that the worker was away.
    """
    from fks.clock import RealClock
    from fks.interfaces.cli.events import moment
    from fks.research.jobs.drift import run_drift

    at = moment(since)
    spec = {"instance": id, **({} if at is None else {"since": at.isoformat()})}
    catalogue, settings = catalogue_of(ctx), settings_of(ctx)

    async def compare(db: Database) -> dict[str, Any]:
        return await run_drift(spec, db, settings, catalogue, now_ns=RealClock().now_ns())

    return in_database(ctx, compare)


@strategies.command()
@click.argument("id")
@result(_CHANGE, "{id} is on")
def enable(ctx: click.Context, id: str) -> Any:
    """Switch an instance on; a crashed one starts again, an isolated one returns to its shard."""
    return _change(ctx, id, lambda store: store.set_enabled(id, True), is_enabled=True)


@strategies.command()
@click.argument("id")
@result(_CHANGE, "{id} is off")
def disable(ctx: click.Context, id: str) -> Any:
    """Switch an instance off, or acknowledge a DISABLED one. It sends no more signals; its position stays."""
    return _change(ctx, id, lambda store: store.set_enabled(id, False), is_enabled=False)


def _change(
    ctx: click.Context, id: str, work: Callable[[StrategyStore], Awaitable[bool]], **changed: object
) -> dict[str, object]:
    """Return the fields that `work` changed. Errors: InputError when there is no such instance."""
    from fks.store.strategies import StrategyStore

    if not in_database(ctx, lambda db: work(StrategyStore(db))):
        raise InputError(f"there is no instance {id!r}", remedy="see 'fks strategies instances'")
    return {"id": id, **changed}


_APPROVAL = {
    "auto": "signals go out at once",
    "manual": "entries wait for fks signals approve",
    "all": "signals wait for fks signals approve",
}


@strategies.command()
@click.argument("id")
@click.argument("by", type=click.Choice(list(_APPROVAL)))
@result(_CHANGE, lambda _, id, by: f"{id}: {_APPROVAL[by]} from the next bar on")
def approval(ctx: click.Context, id: str, by: str) -> Any:
    """Set the approval of instance ID: at once (auto), by a person for entries (manual), or for exits too (all)."""
    return _change(ctx, id, lambda store: store.set_approval(id, by), approval=by)


def _show_set(changed: dict[str, Any], id: str, pairs: tuple[str, ...], pyramiding: int | None) -> None:
    if pyramiding is not None:
        click.echo(f"{id}: a position may have {pyramiding} {'entry' if pyramiding == 1 else 'entries'}")
    if pairs:
        click.echo(f"{id} runs version {changed['params_version']} from the next bar on")


@strategies.command("set")
@click.argument("id")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE…]")
@click.option("--pyramiding", type=click.IntRange(1), help="Most entries that one position may have, from now on.")
@result(_CHANGE, _show_set)
def set_(ctx: click.Context, id: str, pairs: tuple[str, ...], pyramiding: int | None) -> Any:
    """Give an instance new parameters as its next version, from the next bar on; or another pyramiding, at once.

    New parameters are refused while an order that enters is open, or a signal to enter waits. An estimator is fitted
    again, on the newest stored bars; state= alone does that.
    """
    from fks.research.jobs.instances import change_params, ensure_collected, fitted_now, held_instance, instance_of
    from fks.store.strategies import StrategyStore
    from fks.strategies.base.fitted import is_state
    from fks.strategies.check import ensure_checked

    if not pairs and pyramiding is None:
        raise click.UsageError("give NAME=VALUE, or --pyramiding N")
    catalogue = catalogue_of(ctx)

    async def update(db: Database) -> int:
        before = await instance_of(db, id)
        kept = {name: value for name, value in before.params.items() if not is_state(value)}  # it is of the old ones
        made = catalogue.make(before.strategy, {**kept, **params_of(pairs)}) if pairs else None
        if made is not None:
            ensure_checked(made)
            await ensure_collected(db, made.inputs(), before.exchange)
            made = await fitted_now(db, made, before.exchange, before.symbol, before.timeframe)
        async with db.transaction() as tx:
            row = await held_instance(tx, id)
            if pyramiding is not None:
                await StrategyStore(tx).set_pyramiding(id, pyramiding)
            if made is None:
                return row.params_version
            if row.params_version != before.params_version:
                raise invalid("INSTANCE_CHANGED", f"the parameters of instance {id} changed meanwhile", "try again")
            return await change_params(tx, row, made.model_dump(mode="json"), by="cli")

    changed = {"id": id, "params_version": in_database(ctx, update)}
    return changed if pyramiding is None else {**changed, "pyramiding": pyramiding}
