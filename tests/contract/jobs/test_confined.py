"""Code of users in a confined process: it decides as in ours, and it reaches nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fks.jobs.backtest import run_job
from fks.jobs.bars import load_tape, read_tape
from fks.jobs.catalogue import describe, item_of
from fks.model.errors import InputError
from fks.process import confinement
from fks.process.confined_strategies import ConfinedCatalogue
from fks.search.space import space_of
from fks.strategies.base import StrategyError, evaluate
from fks.strategies.check import check_strategy, ensure_causal, ensure_checked, synthetic
from fks.strategies.registry import load_catalogue, source_hash

HONEST = '''
"""Strategies of a person."""
import numpy as np
from pydantic import Field, model_validator

from fks.indicators import ema, sma
from fks.strategies.base import BarStrategy, Decisions, Protected, Strategy


class Cross(Protected):
    """Long while the fast average is above the slow one."""

    name = "cross"
    fast: int = Field(5, ge=2, le=50, description="bars of the fast average")
    slow: int = Field(20, ge=3, le=200)

    @model_validator(mode="after")
    def _ordered(self):
        if self.fast >= self.slow:
            raise ValueError("fast must be below slow")
        return self

    def warmup(self):
        return self.slow

    def decide(self, bars):
        return self.protect(bars, np.where(sma(bars.close, self.fast) > sma(bars.close, self.slow), 1.0, 0.0))


class PerBar(BarStrategy):
    """Buys above its average with a stop, closes half in profit."""

    name = "per_bar"

    def warmup(self):
        return 60

    def indicators(self, bars):
        return {"mean": sma(bars.close, 20)}

    def on_bar(self, ctx, bar):
        if not ctx.position and bar.close > bar.mean:
            ctx.buy(stop_loss=bar.close * 0.99)
        elif ctx.position and ctx.kept == 1.0 and ctx.profit > 0.002:
            ctx.reduce(0.5)
        elif ctx.position and bar.close < bar.mean:
            ctx.close()


class Cheat(Strategy):
    """Looks one bar ahead."""

    name = "cheat"

    def warmup(self):
        return 1

    def decide(self, bars):
        return Decisions(np.where(np.append(bars.close[1:], 0.0) > bars.close, 1.0, 0.0))


class Broken(Strategy):
    """Raises."""

    name = "broken"

    def warmup(self):
        return 1

    def decide(self, bars):
        return 1 / 0
'''
#: name -> what a hostile file does, as the body of a function that returns its loot
ATTACKS = {
    "secrets": "return open({secret!r}).read()",
    "secrets_by_descriptor": "import os\nfd = os.open({secret!r}, os.O_RDONLY)\nreturn os.read(fd, 99)",
    "home": "import os\nreturn os.listdir({home!r})",
    "environment": "import os\nreturn os.environ['FKS_TEST_SECRET']",
    "parents_environment": "import os\nreturn open(f'/proc/{{os.getppid()}}/environ').read()",
    "parents_memory": "import os\nreturn open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "tcp": "import socket\nreturn socket.create_connection(('127.0.0.1', {port}), 1)",
    "udp": "import socket\nreturn socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix_socket": "import socket\nreturn socket.socket(socket.AF_UNIX).connect({unix!r})",
    "io_uring": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfd = libc.syscall(425, 4, bytes(120))\n"
    "assert fd >= 0, ctypes.get_errno()\nreturn fd",
    "write_beside": "return open({home!r} + '/planted', 'w').write('x')",
    "write_own_file": "return open(__file__, 'a').write('#')",
    "write_package": "import fks\nreturn open(fks.__path__[0] + '/planted.py', 'w').write('x')",
    "program": "import subprocess\nreturn subprocess.run(['/bin/true'], check=True)",
    "fork": "import os\npid = os.fork()\nif pid == 0: os._exit(0)\nreturn pid",
    "signal": "import os\nreturn os.kill({victim}, 9)",
    "ptrace": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.ptrace(16, {victim}, 0, 0) == 0, ctypes.get_errno()\nreturn 'attached'",
    "limits": "import resource\nreturn resource.prlimit({victim}, resource.RLIMIT_NOFILE, (3, 3))",
    "modes": "import os\nreturn os.chmod({secret!r}, 0o777)",
    "memory": "return len(bytearray(10**13))",
    "shared_memory": "return open('/dev/shm/fks_planted', 'w').write('x')",
    "namespace": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "assert libc.unshare(0x10000000) == 0, ctypes.get_errno()\nreturn 'new'",
}
HOSTILE = """
from fks.strategies.base import Strategy

def attempt():
{body}

def outcome():
    try:
        return f"REACHED {{attempt()!r}}"
    except BaseException as error:
        return f"refused {{type(error).__name__}}: {{error}}"

class Hostile(Strategy):
    __doc__ = outcome()
    name = "{name}"

    def warmup(self):
        return 1

    def decide(self, bars):
        raise ValueError(outcome())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "home" / "strategies"
    found.mkdir(parents=True)
    return found


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_this_machine_can_confine_code_of_users() -> None:
    assert confinement.missing() == ""


def test_hostile_files_reach_nothing(
    folder: Path, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted = Path("/dev/shm/fks_planted")
    planted.unlink(missing_ok=True)
    secret = folder.parent / "secrets.toml"
    secret.write_text("key = 'the key of the venue'")
    secret.chmod(0o600)
    monkeypatch.setenv("FKS_TEST_SECRET", "the key of the venue")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        for listener in (tcp, unix):
            listener.setblocking(False)
        places = {"secret": str(secret), "home": str(folder.parent), "port": tcp.getsockname()[1]}
        places |= {"unix": str(tmp_path / "s"), "victim": victim.pid}
        files = []
        for name, body in ATTACKS.items():
            lines = "\n".join(f"    {line}" for line in body.format(**places).splitlines())
            files.append(write(folder, name, HOSTILE.format(body=lines, name=name)))
        texts = [path.read_text() for path in files]
        limits = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)

        rows = [row for found, _ in asyncio.run(describe([item_of(path) for path in files])).values() for row in found]
        assert [row["name"] for row in rows] == list(ATTACKS)
        assert [row["summary"] for row in rows if not row["summary"].startswith("refused ")] == []
        catalogue = ConfinedCatalogue(folder)
        bars = synthetic(50)
        for name in ATTACKS:
            with pytest.raises(StrategyError, match="refused ") as raised:
                evaluate(catalogue.make(name), bars)
            assert "the key of the venue" not in str(raised.value)
        for listener in (tcp, unix):
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert victim.poll() is None
    assert resource.prlimit(victim.pid, resource.RLIMIT_NOFILE) == limits
    assert [path.read_text() for path in files] == texts
    assert sorted(path.name for path in folder.parent.iterdir()) == ["secrets.toml", "strategies"]
    assert secret.stat().st_mode & 0o777 == 0o600
    assert not Path("/dev/shm/fks_planted").exists()
    assert "the key of the venue" not in json.dumps(rows)


@pytest.mark.parametrize("name", ["cross", "per_bar"])
def test_a_backtest_is_the_same_as_in_our_own_process(folder: Path, name: str) -> None:
    write(folder, "honest", HONEST)
    tape, where = read_tape("sample")
    spec: dict[str, Any] = {"strategy": name, "symbol": "BTCUSDT", "timeframe": "15m", "params": {}}

    def run(catalogue: Any) -> dict[str, Any]:
        return run_job(spec, lambda request: load_tape(tape, where, request), catalogue=catalogue)

    ours, theirs = run(load_catalogue(folder)), run(ConfinedCatalogue(folder))
    assert theirs == ours
    assert ours["metrics"]["trades"] > 20


def test_checks_errors_and_parameters_are_the_same(folder: Path) -> None:
    write(folder, "honest", HONEST)
    bars = synthetic(3000)
    ours, theirs = load_catalogue(folder), ConfinedCatalogue(folder)
    for name in ("cross", "per_bar", "cheat"):
        one, other = ours.make(name), theirs.make(name)
        assert check_strategy(other, [bars]) == check_strategy(one, [bars])
        assert other.model_dump(mode="json") == one.model_dump(mode="json")
        assert source_hash(other) == source_hash(one)
        assert theirs.kind(name).model_json_schema() == ours.kind(name).model_json_schema()
    for refused in (ensure_checked, lambda strategy: ensure_causal(strategy, bars)):
        texts = []
        for catalogue in (ours, theirs):
            with pytest.raises(StrategyError) as raised:
                refused(catalogue.make("cheat"))
            texts.append((raised.value.code, str(raised.value)))
        assert texts[0] == texts[1]
    for params in ({"fast": 1}, {"fast": 30}, {"quick": 1}, {"fast": "many"}):
        errors = []
        for catalogue in (ours, theirs):
            with pytest.raises(InputError) as wrong:
                catalogue.make("cross", params)
            errors.append((wrong.value.code, wrong.value.status, str(wrong.value)))
        assert errors[0] == errors[1]
    raised_texts = []
    for catalogue in (ours, theirs):
        with pytest.raises(StrategyError) as wrong:
            evaluate(catalogue.make("broken"), bars)
        raised_texts.append((wrong.value.code, str(wrong.value)))
    assert raised_texts[0] == raised_texts[1]
    assert "line" in raised_texts[0][1]


def test_combinations_and_searches_take_confined_strategies(folder: Path) -> None:
    write(folder, "honest", HONEST)
    bars = synthetic(3000)
    ours, theirs = load_catalogue(folder), ConfinedCatalogue(folder)
    wanted = {"members": "cross sma_cross", "regime": "per_bar"}
    one, other = ours.make("combination", wanted), theirs.make("combination", wanted)
    assert (evaluate(one, bars).target == evaluate(other, bars).target).all()
    assert check_strategy(other) == check_strategy(one) == []
    with pytest.raises(InputError, match="sl_pct"):
        theirs.make("combination", {"members": [{"strategy": "cross", "params": {"sl_pct": 1}}]})
    spaces = [space_of(c.kind("cross"), {"fast": "5:25:10", "slow": "20:30:10"}) for c in (ours, theirs)]
    assert spaces[0].dimensions == spaces[1].dimensions
    made = [[space.make(space.at(index)) is None for index in range(space.size)] for space in spaces]
    assert made[0] == made[1]
    assert any(made[0])


def test_a_process_that_ends_is_an_error_and_the_next_request_has_another(folder: Path) -> None:
    write(folder, "leaves", HONEST.replace("return 1 / 0", "import os; os._exit(7)"))
    catalogue, bars = ConfinedCatalogue(folder), synthetic(100)
    for _ in range(2):
        with pytest.raises(StrategyError, match="status 7") as raised:
            evaluate(catalogue.make("broken"), bars)
        assert raised.value.code == "STRATEGY_RAISED"
        assert evaluate(catalogue.make("cross"), bars).target.sum() > 0


def test_a_forged_answer_is_an_error(folder: Path) -> None:
    """Code of users may write to the pipe of the answers: no shape of an answer is trusted."""
    forged = "import os\n        for fd in range(3, 20):\n            try: os.write(fd, {data!r})\n            except OSError: pass"
    heads = (
        b"[]",
        b"{}",
        b'{"columns": []}',
        b'{"columns": ["target", "gains"]}',
        b'{"columns": ["target", "target"]}',
    )
    bodies = [bytes(800 * head.count(b'"')) for head in heads]
    answers = [
        len(head).to_bytes(4, "little") + len(body).to_bytes(4, "little") + head + body
        for head, body in zip(heads, bodies, strict=True)
    ]
    answers += [b"\xff" * 64, b"\x02\0\0\0\xff\xff\xff\x7f{}"]
    for number, data in enumerate(answers):
        name = f"forger{number}"
        text = HONEST.replace("return 1 / 0", forged.format(data=data)).replace('name = "broken"', f'name = "{name}"')
        write(folder, name, text.replace('"cross"', f'"cross{number}"').replace('"per_bar"', f'"per{number}"'))
        with pytest.raises(StrategyError) as raised:
            evaluate(ConfinedCatalogue(folder).make(name), synthetic(100))
        assert "Error" not in str(raised.value)


def test_a_confined_process_ends_with_its_catalogue(folder: Path) -> None:
    write(folder, "honest", HONEST)
    before = psutil.Process().children()
    catalogue = ConfinedCatalogue(folder)
    catalogue.make("cross")
    (process,) = set(psutil.Process().children()) - set(before)
    scratch = process.cmdline()[-1]
    assert os.path.isdir(scratch)
    del catalogue
    gc.collect()  # classes made by pydantic are in cycles
    psutil.wait_procs([process], timeout=5)
    assert not process.is_running()
    assert not os.path.exists(scratch)
