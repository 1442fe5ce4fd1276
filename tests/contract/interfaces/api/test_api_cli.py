"""The command line through the gateway: its JSON, its tables, its exit codes."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from fks.config.endpoints import NodeEndpoints, load_node, save_node
from fks.config.load import load_settings
from fks.config.machine import process_space
from fks.config.paths import Paths
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import DENIED, FAILED, NOT_RUNNING, OK, USAGE, run
from fks.interfaces.cli.client import error_of
from fks.interfaces.cli.screen import first_screen
from fks.interfaces.cli.up import print_running
from fks.model.errors import ConfigError
from fks.store.db import Database
from fks.store.tokens import TokenStore, ensure_local_token
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running


async def test_a_token_made_here_works_there(fks: Fks, gateway: Running) -> None:
    code, out, _ = await fks("token", "create", "--name", "bot", "--scope", "read", "--json")
    assert code == OK
    made = json.loads(out)
    assert made["schema"] == "fks.token/1"
    async with gateway.client(None) as client:
        headers = {"Authorization": f"Bearer {made['token']}"}
        assert (await client.get("/orders", headers=headers)).status_code == 200
    code, out, _ = await fks("token", "list", "--json")
    assert {row["name"] for row in json.loads(out)["items"]} >= {"bot", "cli"}
    assert made["token"] not in out
    code, _, err = await fks("token", "create", "--name", "bot", "--scope", "read")
    assert (code, "TOKEN_EXISTS" in err) == (USAGE, True)
    assert (await fks("token", "revoke", "bot"))[0] == OK
    assert (await fks("token", "revoke", "bot"))[0] == USAGE
    code, _, err = await fks("token", "revoke", "cli")
    assert "own token" in err
    assert (await fks("token", "create", "--name", "x", "--scope", "root"))[0] == USAGE


async def test_a_generated_password_is_in_the_json(fks: Fks) -> None:
    code, _, _ = await fks("users", "add", "ann", "--scope", "read", "--generate", "--json")
    assert code == OK
    code, out, _ = await fks("users", "password", "ann", "--generate", "--json")
    assert code == OK
    assert len(json.loads(out)["password"]) >= 24, "nothing else shows it"


LISTS = [
    (("signals", "list"), "fks.signals/1"),
    (("orders", "list"), "fks.orders/1"),
    (("orders", "list", "--open", "--symbol", "BTC-USDT"), "fks.orders/1"),
    (("fills",), "fks.fills/1"),
    (("positions",), "fks.positions/1"),
    (("positions", "BTC/USDT"), "fks.positions/1"),
    (("accounts", "list"), "fks.accounts/1"),
    (("token", "list"), "fks.tokens/1"),
]


async def test_every_list_has_json_with_a_version_and_a_table(fks: Fks) -> None:
    for argv, schema in LISTS:
        code, out, _ = await fks(*argv, "--json")
        assert code == OK, argv
        document = json.loads(out)
        assert document["schema"] == schema
        assert isinstance(document["items"], list)
        code, out, err = await fks(*argv)
        assert (code, err) == (OK, ""), argv
        assert out.strip()


async def test_orders_fills_and_signals_are_shown(fks: Fks, seeded: Database) -> None:
    order, signal = uuid.uuid4().hex, uuid.uuid4()
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, role, side, type, "
        "quantity,"
        " state) VALUES ($1, $2, $3, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'market', 0.5, 'FILLED')",
        order,
        uuid.uuid4(),
        signal,
    )
    await seeded.sql(
        "INSERT INTO order_events (client_order_id, event_id, event, to_state, source) VALUES ($1, 'a', 'Created', "
        "'SENDING', 'us')",
        order,
    )
    await seeded.sql(
        "INSERT INTO trades (fill_id, client_order_id, account_id, venue, symbol, trade_type, quantity, price, time)"
        " VALUES ($1, $2, 1, 'paper', 'BTCUSDT', 'BUY', 0.5, 64000.5, now())",
        uuid.uuid4(),
        order,
    )
    await seeded.sql(
        "INSERT INTO signals (id, source, account_id, venue, symbol, ts_event, kind, side, state, valid_until)"
        " VALUES ($1, 'principal:me', 1, 'paper', 'BTCUSDT', now(), 'order', 'buy', 'pending', now() + interval '1 "
        "min')",
        signal,
    )
    assert order in (await fks("orders", "list"))[1].replace("\n", "")
    assert json.loads((await fks("orders", "show", order, "--json"))[1])["quantity"] == "0.5"
    assert "Created" in (await fks("orders", "events", order))[1]
    [fill] = json.loads((await fks("fills", "--order", order, "--json"))[1])["items"]
    assert (fill["side"], fill["price"]) == ("buy", "64000.5")
    await seeded.sql(
        "INSERT INTO trades (fill_id, account_id, venue, source, symbol, trade_type, quantity, price, time)"
        " VALUES ($1, 1, 'manual', 'manual', 'BTCUSDT', 'BUY', 0.1, 45000, now())",
        uuid.uuid4(),
    )
    assert "by hand" in (await fks("fills"))[1], "it is part of no position"
    assert (await fks("signals", "approve", str(signal)))[1].strip().endswith("ready")
    code, _, err = await fks("signals", "reject", str(signal))
    assert (code, "SIGNAL_NOT_PENDING" in err) == (USAGE, True)
    assert (await fks("orders", "show", "nonsense"))[0] == USAGE


async def test_a_bracket_is_sent_amended_and_cancelled_with_its_symbol(fks: Fks, seeded: Database) -> None:
    targets = ("--target", "70000:0.5", "--target", "80000:0.5", "--break-even-after", "1")
    sent = ("bracket", "buy", "0.1", "BTC/USDT", "--stop-loss", "50000", *targets, "--key", "b1")
    code, out, _ = await fks("orders", *sent, "--json")
    assert code == OK, out
    [plan] = await seeded.sql("SELECT plan FROM parent_orders")
    assert [target["share"] for target in plan["plan"]["targets"]] == ["0.5", "0.5"]
    assert (await fks("orders", "bracket", "buy", "1", "BTCUSDT", "--stop-loss", "1", "--target", "5"))[0] == USAGE
    order, signal = uuid.uuid4().hex, json.loads(out)["id"]
    await seeded.sql(
        "INSERT INTO orders (client_order_id, intent_id, signal_id, account_id, venue, symbol, role, side, type, "
        "quantity, price, stop_loss, state) VALUES "
        "($1, $2, $3, 1, 'paper', 'BTCUSDT', 'order', 'buy', 'limit', 0.1, 60000, 50000, 'WORKING')",
        order,
        uuid.uuid4(),
        signal,
    )
    shown = json.loads((await fks("orders", "show", order, "--json"))[1])
    assert shown["plan"]["break_even"] == {"after_target": 1, "at_risk": None, "offset_ticks": 0}
    assert "amendment requested" in (await fks("orders", "amend", order, "--price", "61000"))[1]
    code, _, err = await fks("orders", "amend", order, "--price", "62000")
    assert (code, "AMENDMENT_OPEN" in err) == (USAGE, True)
    assert (await fks("orders", "amend", "0" * 32, "--price", "1"))[0] == USAGE
    assert "cancel requested of 1 orders" in (await fks("orders", "cancel-all", "BTC-USDT"))[1]
    [row] = await seeded.sql("SELECT request FROM orders WHERE client_order_id = $1", order)
    assert row["request"] == "cancel_wanted"


async def test_an_order_with_an_end_shows_the_process_that_ends_it(fks: Fks, seeded: Database) -> None:
    """NinjaTrader's bridge and Kraken end it by themselves; elsewhere no process does while FKS is down. Kraken does so
    only of orders with a limit."""
    names = dict[tuple[str, str, str, str], str]()
    for given in (
        ("paper", "binance", "limit", "WORKING"),
        ("ninja:sim", "ninja", "limit", "WORKING"),
        ("ccxt", "binance", "limit", "WORKING"),
        ("ccxt", "kraken", "limit", "WORKING"),
        ("ccxt", "kraken", "stop", "ACCEPTED"),
        ("paper", "binance", "limit", "CANCELLED"),
        ("paper", "binance", "market", "SENDING"),
    ):
        venue, exchange, type, state = given
        names[given] = uuid.uuid4().hex
        await seeded.sql(
            "INSERT INTO orders (client_order_id, intent_id, account_id, venue, symbol, role, side, type, quantity,"
            " state, valid_until, exchange) VALUES ($1, $2, 1, $3, 'BTCUSDT', 'order', 'buy', $4, 0.5, $5,"
            " now() + interval '1 hour', $6)",
            names[given],
            uuid.uuid4(),
            venue,
            type,
            state,
            exchange,
        )
    shown = {
        order["client_order_id"]: order for order in json.loads((await fks("orders", "list", "--json"))[1])["items"]
    }
    assert [shown[name]["expires_by"] for name in names.values()] == [
        "order_manager",
        "venue",
        "order_manager",
        "venue",
        "order_manager",
        None,
        None,
    ]
    first, second, *_ = names.values()
    text = (await fks("orders", "show", first))[1]
    assert "FKS must be running" in text
    assert "FKS must be running" not in (await fks("orders", "show", second))[1]
    assert json.loads((await fks("orders", "show", second, "--json"))[1])["expires_by"] == "venue"


async def test_an_account_is_made(fks: Fks) -> None:
    code, out, _ = await fks("accounts", "create", "mine", "--initial-balance", "10000.10", "--json")
    assert (code, json.loads(out)["initial_balance"]) == (OK, "10000.1")
    code, _, err = await fks("accounts", "create", "mine")
    assert (code, "ACCOUNT_EXISTS" in err) == (USAGE, True)


async def test_without_a_system_every_command_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["orders", "list"],
        ["signals", "list"],
        ["fills"],
        ["positions"],
        ["accounts", "list"],
        ["token", "list"],
    ):
        assert run(cli, ["--home", str(tmp_path), *argv, "--json"]) == NOT_RUNNING
        out = capsys.readouterr()
        assert out.out == ""
        assert "fks up" in out.err
        assert out.err.count("\n") == 1


async def test_a_gateway_that_does_not_answer_is_exit_3(
    fks: Fks, tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    save_node(Paths.of(tmp_path), NodeEndpoints("", "", "", {"host": "127.0.0.1", "port": unused_tcp_port_factory()}))
    code, _, err = await fks("orders", "list")
    assert (code, "does not answer" in err) == (NOT_RUNNING, True)


async def test_a_wrong_token_is_exit_4_and_a_readable_token_file_is_refused(fks: Fks, tmp_path: Path) -> None:
    file = Paths.of(tmp_path).cli_token_file
    file.write_text("fks_" + "x" * 43)
    assert (await fks("orders", "list"))[0] == DENIED
    file.chmod(0o644)
    code, _, err = await fks("orders", "list")
    assert (code, str(file) in err) == (USAGE, True)


async def test_the_local_token_is_made_once_kept_and_admitted(seeded: Database, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    await ensure_local_token(seeded, paths)
    token = paths.cli_token_file.read_text().strip()
    assert stat.S_IMODE(paths.cli_token_file.stat().st_mode) == 0o600
    await ensure_local_token(seeded, paths)
    assert paths.cli_token_file.read_text().strip() == token
    principal = await TokenStore(seeded).find(token)
    assert principal is not None
    assert (principal.name, principal.scope) == ("cli", "admin")
    await seeded.sql("DELETE FROM api_tokens")  # as after fks reset: the file is still there
    await ensure_local_token(seeded, paths)
    assert await TokenStore(seeded).find(token)
    paths.cli_token_file.chmod(0o640)
    with pytest.raises(ConfigError):
        await ensure_local_token(seeded, paths)


@pytest.mark.parametrize(
    ("status", "problem", "code"),
    [
        (422, {"code": "FEED_STALE", "detail": "the feed is stale"}, DENIED),
        (422, {"code": "INVALID", "detail": "quantity: must be positive"}, USAGE),
        (403, {"code": "SCOPE_MISSING", "detail": "no"}, DENIED),
        (503, {"code": "UNAVAILABLE", "detail": "away"}, NOT_RUNNING),
        (404, None, NOT_RUNNING),
        (500, None, FAILED),
    ],
)
def test_every_gateway_error_has_an_exit_code(status: int, problem: object, code: int) -> None:
    from fks.interfaces.cli.base import exit_code

    assert exit_code(error_of(status, problem)) == code


async def test_restart_now_kills_only_on_its_own_machine(fks: Fks, seeded: Database) -> None:
    """A host name proves nothing: containers share one, and a pid is another process's there."""
    await seeded.sql(
        "INSERT INTO component_health (name, kind, state, pid, node, beat_at, detail)"
        " VALUES ('orders', 'actor', 'ready', 1, $1, now(), '{\"space\": \"another boot:pid:[1]\"}')",
        socket.gethostname(),
    )
    code, _, err = await fks("restart", "orders", "--now")
    assert (code, "not on this machine" in err) == (USAGE, True)
    await seeded.sql(
        "UPDATE component_health SET node = 'renamed', detail = jsonb_build_object('space', $1::text)", process_space()
    )
    code, _, err = await fks("restart", "orders", "--now")
    assert (code, "pid 1 is no process of Ray's any more" in err) == (USAGE, True), err


@pytest.mark.parametrize("is_on", [True, False])
async def test_address_of_the_monitor_is_printed_while_pages_are_on(
    is_on: bool,
    fks: Fks,
    gateway: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FKS_WEB_ENABLED", str(is_on).lower())
    paths, page = Paths.of(tmp_path), f"{gateway.url}/app/monitor"
    status = (await fks("status"))[1]
    print_running(paths, 1, is_json=False)
    running = capsys.readouterr().out
    settings = load_settings(tmp_path)
    lines = await asyncio.to_thread(
        first_screen, paths, load_node(paths), settings, market="paper", took_s=1.0, is_detached=True
    )
    for name, shown in (("status", status), ("up again", running), ("up", "\n".join(lines))):
        assert (gateway.url in shown, page in shown) == (True, is_on), (name, shown)
        assert f"{gateway.url}/monitor" not in shown, name
    print_running(paths, 1, is_json=True)
    assert json.loads(capsys.readouterr().out)["monitor"] == (page if is_on else None)
