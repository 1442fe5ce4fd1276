"""`fks sim nt8`: a simulated NinjaTrader 8 with the bridge in it, on a port of this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.model.errors import InputError

if TYPE_CHECKING:
    from fks.sim.nt8.server import ServerOptions

_MODES = ("auto", "relay", "off")


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the journal and the secret live (default: sim-nt8 in the home).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port; 0 takes any free one.")
@click.option("--seed", default=1, show_default=True, help="Seed of the market and of the faults.")
@click.option("--group", default="sim", show_default=True, help="The account group.")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME[:MODE[:live]]",
    help="An account, its mode (auto, relay, off), and live for no simulation; repeatable. Default: Sim101:auto.",
)
@click.option("--instrument", "instruments", multiple=True, metavar="NAME", help="Default: the current ES contract.")
@click.option("--unkind", "behaviours", multiple=True, metavar="NAME", help="Switch a bad behaviour on; repeatable.")
@click.option("--hostile", is_flag=True, help="Draw the bad behaviours from the seed.")
@click.option("--chance", default=0.3, show_default=True, help="Probability of a behaviour, each time it could happen.")
@click.option("--strike-seconds", default=5.0, show_default=True, help="How often feeds may be lost.")
@click.option("--crash-seconds", default=0.0, help="Kill and restart the bridge so often; 0: never.")
@click.option("--list", "is_list", is_flag=True, help="Explain the bad behaviours and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.pass_context
def nt8(ctx: click.Context, /, as_json: bool, is_list: bool, **given: Any) -> None:
    """Run a simulated NinjaTrader 8 until SIGTERM or Ctrl-C."""
    from fks.sim.nt8.unkindness import KINDS

    if is_list:
        lines = [f"{name:<24} {text}" for name, text in KINDS.items()]
        click.echo(json.dumps(KINDS) if as_json else "\n".join(lines))
        return
    import asyncio

    given["data_dir"] = given["data_dir"] or Path(ctx.obj["home"]) / "sim-nt8"
    asyncio.run(_serve(_options(given), as_json=as_json))


def _options(given: dict[str, Any]) -> ServerOptions:
    from fks.sim.nt8.bridge import BridgeConfig
    from fks.sim.nt8.server import ServerOptions, check_instruments
    from fks.sim.nt8.unkindness import KINDS, drawn, only

    if unknown := [name for name in given["behaviours"] if name not in KINDS]:
        raise InputError(f"no behaviour {unknown[0]!r}", remedy="see fks sim nt8 --list")
    if not 0 <= given["chance"] <= 1:
        raise InputError(f"chance {given['chance']} is no probability", remedy="write a number from 0 to 1")
    instruments = given["instruments"] or (_current_contract(),)
    if unknown := check_instruments(instruments):
        raise InputError(f"no instrument {unknown[0]!r}", remedy="write NinjaTrader's name, such as 'ES 03-25'")
    unkind = drawn(given["seed"]) if given["hostile"] else only(*given["behaviours"])
    return ServerOptions(
        given["data_dir"],
        host=given["host"],
        port=given["port"],
        seed=given["seed"],
        accounts=tuple(_account(text) for text in given["accounts"]) or (("Sim101", "auto", True),),
        instruments=tuple(instruments),
        unkind=replace(unkind, chance=given["chance"], on=unkind.on | set(given["behaviours"])),
        strike_s=given["strike_seconds"],
        crash_s=given["crash_seconds"],
        config=BridgeConfig(group=given["group"]),
    )


def _current_contract() -> str:
    from fks.clock import RealClock
    from fks.sim.nt8.server import front_contract

    return front_contract("ES", RealClock().now_ns() // 1_000_000)


def _account(text: str) -> tuple[str, str, bool]:
    name, _, rest = text.partition(":")
    mode, _, kind = rest.partition(":")
    if not name or (mode or "auto") not in _MODES or kind not in ("", "live", "sim"):
        raise InputError(
            f"account {text!r} is not NAME[:MODE[:live]]", remedy="for example Sim101:auto or APEX-1:relay"
        )
    return name, mode or "auto", kind != "live"


async def _serve(options: ServerOptions, *, as_json: bool) -> None:
    from fks.cli.sim_serving import serve_until, stop_signal
    from fks.sim.nt8.server import start

    stopped = stop_signal()
    server = await start(options)
    info = server.info()
    behaviours = ", ".join(options.unkind.switched_on()) or "none"
    text = (
        f"simulated NinjaTrader 8 on {options.host}:{server.port}, group {options.config.group}, "
        f"secret in {info['secret_file']}\nseed {options.seed}, bad behaviours: {behaviours}\nCtrl-C stops it"
    )
    await serve_until(stopped, server, json.dumps(info) if as_json else text, "the simulated NinjaTrader")
