"""Code of users in a confined process: it decides as in ours, and it reaches nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fks.model.bar import Feature
from fks.model.errors import InputError, OutageError
from fks.research.jobs.backtest import run_job
from fks.research.jobs.bars import load_tape, read_tape
from fks.research.jobs.catalogue import CatalogueReader, describe, item_of, items_of, merged
from fks.research.search.space import space_of
from fks.store.db import Database
from fks.strategies.base import StrategyError, evaluate, group_of
from fks.strategies.check import check_strategy, ensure_causal, ensure_checked, synthetic
from fks.strategies.registry import load_catalogue, private_group, source_hash
from fks.system.process import confinement, scratch
from fks.system.process.confined_strategies import ConfinedCatalogue
from tests.support.fitted import SCALED
from tests.support.programs import leave_out

HONEST = '''
"""Strategies of a person."""
import numpy as np
from pydantic import Field, model_validator

from fks.indicators import ema, sma
from fks.strategies.base import BarStrategy, Decisions, EntryGroup, Protected, Strategy


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

    def group(self, symbol):
        return EntryGroup(f"cross {self.fast}", (symbol, "ETHUSDT")) if symbol != "SOLUSDT" else None

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


@pytest.mark.parametrize("name", ["cross", "per_bar", "scaled"])
def test_a_backtest_is_the_same_as_in_our_own_process(folder: Path, name: str) -> None:
    write(folder, "honest", HONEST)
    write(folder, "scaled", SCALED)
    tape, where = read_tape("sample")
    spec: dict[str, Any] = {"strategy": name, "symbol": "BTCUSDT", "timeframe": "15m", "params": {}}

    def run(catalogue: Any) -> dict[str, Any]:
        return run_job(spec, lambda request: load_tape(tape, where, request), catalogue=catalogue)

    ours, theirs = run(load_catalogue(folder)), run(ConfinedCatalogue(folder))
    assert theirs == ours
    assert ours["metrics"]["trades"] > 20


def test_checks_errors_and_parameters_are_the_same(folder: Path) -> None:
    write(folder, "honest", HONEST)
    write(folder, "scaled", SCALED)
    bars = synthetic(3000)
    ours, theirs = load_catalogue(folder), ConfinedCatalogue(folder)
    for symbol in ("BTCUSDT", "SOLUSDT"):
        groups = [group_of(catalogue.make("cross"), symbol) for catalogue in (ours, theirs)]
        assert groups[0] == groups[1]
        assert (groups[0] is None) is (symbol == "SOLUSDT")
    for name in ("cross", "per_bar", "scaled", "cheat"):
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


MORE = '''
import ctypes, fcntl, json, os, struct, time
import numpy as np
from pydantic import Field, PrivateAttr, computed_field, field_validator
from fks.strategies.base import Decisions, Strategy

libc = ctypes.CDLL(None, use_errno=True)

def forge(head):
    data = json.dumps(head).encode()
    for fd in range(3, 12):
        try:
            if os.fstat(fd).st_mode & 0o170000 == 0o010000:
                os.write(fd, struct.pack("<II", len(data), 0) + data)
        except OSError:
            pass

def tried(call):
    result = call()
    return "REACHED" if result >= 0 else f"refused {ctypes.get_errno()}"


class Doubled(Strategy):
    """Its validator changes what it is given."""

    name = "doubled"
    after: int = Field(5)

    @field_validator("after", mode="before")
    @classmethod
    def _twice(cls, value):
        return int(value) * 2

    @computed_field
    @property
    def more(self) -> int:
        return self.after + 1

    def warmup(self):
        return 1

    def decide(self, bars):
        return Decisions((np.arange(len(bars)) >= self.after) * 1.0)


class Hidden(Strategy):
    name = "hidden"
    after: int = Field(5, exclude=True)
    pair: tuple[int, int] = Field((1, 2), strict=True)

    def warmup(self):
        return 1

    def decide(self, bars):
        return Decisions((np.arange(len(bars)) >= self.after) * 1.0)


class Fitted(Strategy):
    """Keeps the last close of the first bars that it is given."""

    name = "fitted"
    _kept: float = PrivateAttr(0.0)

    def warmup(self):
        return 1

    def decide(self, bars):
        self._kept = self._kept or float(bars.close[-1])
        return Decisions(np.where(bars.close > self._kept, 1.0, 0.0))


class Mean(Strategy):
    name = "mean"

    def warmup(self):
        return 0

    def features(self):
        return ("x",)

    def decide(self, bars):
        late = bars.features["x"].time_ns > 50 if "x" in bars.features else bars.close > np.mean(bars.close)
        return Decisions(late * 1.0)


class Deaf(Strategy):
    """Answers for itself, and reads no more requests."""

    name = "deaf"

    def warmup(self):
        forge({"result": {"params": {}, "warmup": 1, "inputs": [], "features": [], "entries_max": 1, "source": "x",
                          "has_protections": False}})
        time.sleep(60)

    def decide(self, bars):
        return Decisions(np.zeros(len(bars)))


class Loud(Strategy):
    name = "loud"

    def warmup(self):
        return 1

    def decide(self, bars):
        forge({"error": {"code": "PARAM_WRONG", "status": 200, "message": "m\\0\\ud800\\x1b" + "m" * 10**6}})
        time.sleep(60)


class Calls(Strategy):
    """Tries calls of the system."""

    name = "calls"

    def warmup(self):
        return 1

    def decide(self, bars):
        value = ctypes.create_string_buffer(b"x")
        given = (ctypes.c_uint64 * 2)(ctypes.addressof(value), 1)
        own = os.open(__file__, os.O_RDONLY)
        calls = {
            "stay": lambda: libc.prctl(1, 0, 0, 0, 0),
            "leave": lambda: libc.syscall({"x86_64": 112}.get(os.uname().machine, 157)),
            "memory": lambda: libc.syscall({"x86_64": 319}.get(os.uname().machine, 279), b"x", 0),
            "watch": lambda: libc.inotify_init(),
            "user": lambda: libc.setuid(os.getuid()),
            "attribute": lambda: libc.syscall(463, -100, SECRET, 0, b"user.x", given, 16),
            "flags": lambda: libc.ioctl(own, 0x40086602, bytes(8)),
        }
        raise ValueError(str({name: tried(call) for name, call in calls.items()}))


class Stays(Strategy):
    name = "stays"

    def warmup(self):
        return 1

    def decide(self, bars):
        libc.prctl(1, 0, 0, 0, 0)
        time.sleep(60)
'''


def test_parameters_and_state_are_those_of_the_strategy_itself(folder: Path) -> None:
    write(folder, "more", MORE)
    bars, first = synthetic(2000), synthetic(2000)[:50]
    for name, params in (("doubled", {"after": 7}), ("hidden", {"after": 50}), ("hidden", {}), ("fitted", {})):
        found = []
        for catalogue in (load_catalogue(folder), ConfinedCatalogue(folder)):
            evaluate(catalogue.make(name, params), first)
            again = catalogue.make(name, params)
            checks = [str(one) for one in check_strategy(catalogue.make(name, params))]
            found.append((evaluate(again, bars).target.tolist(), again.model_dump(mode="json"), checks))
        assert found[0] == found[1]


def test_a_tape_is_never_taken_for_another_one(folder: Path) -> None:
    write(folder, "more", MORE)
    bars, ours, theirs = synthetic(400), load_catalogue(folder).make("mean"), ConfinedCatalogue(folder).make("mean")
    values, times = np.arange(400.0), np.arange(400)
    tapes = [bars[:200], bars[::2]]
    tapes += [bars.with_features({"x": Feature(values, known)}) for known in (times, times[::-1].copy())]
    for tape in tapes:
        assert (evaluate(theirs, tape).target == evaluate(ours, tape).target).all()


def test_a_process_that_reads_no_request_is_ended_in_time(folder: Path) -> None:
    write(folder, "more", MORE)
    strategy = ConfinedCatalogue(folder, limit_s=1.0).make("deaf")
    with pytest.raises(StrategyError) as raised:
        evaluate(strategy, synthetic(20_000))
    assert raised.value.code == "STRATEGY_SLOW"


def test_texts_of_the_process_are_short_and_printable(folder: Path) -> None:
    write(folder, "more", MORE)
    with pytest.raises(InputError) as raised:
        evaluate(ConfinedCatalogue(folder).make("loud"), synthetic(100))
    assert raised.value.status == 422
    assert raised.value.message[:5] == "m???m"
    assert len(raised.value.message) < 5000


def test_calls_beside_landlock_are_refused(folder: Path) -> None:
    secret = folder.parent / "secrets.toml"
    secret.write_text("key")
    write(folder, "more", f"SECRET = {str(secret).encode()!r}\n{MORE}")
    with pytest.raises(StrategyError) as raised:
        evaluate(ConfinedCatalogue(folder).make("calls"), synthetic(100))
    assert str(raised.value).count("refused") == 7, str(raised.value)
    assert os.listxattr(secret) == []


def test_links_make_strategies_readable_and_nothing_else(folder: Path) -> None:
    secret, elsewhere = folder.parent / "secrets.toml", folder.parent / "mine"
    secret.write_text("key = 'the key of the venue'")
    elsewhere.mkdir()
    write(elsewhere, "honest", HONEST)
    write(folder, "reader", HOSTILE.format(body=f"    return open({str(secret)!r}).read()", name="reader"))
    (folder / "honest.py").symlink_to(elsewhere / "honest.py")
    (folder / "secret.py").symlink_to("../secrets.toml")
    found = asyncio.run(describe(items_of(folder)))
    rows = {row["name"]: row["summary"] for entries, _ in found.values() for row in entries}
    assert "no .py file" in rows["secret"]
    assert rows["reader"].startswith("refused ")
    assert evaluate(ConfinedCatalogue(folder).make("cross"), synthetic(100)).target.sum() > 0


def test_a_file_of_the_accounts_own_group_is_run(folder: Path) -> None:
    write(folder, "honest", HONEST).chmod(0o664)  # what umask 002, of many systems, makes
    if private_group() is None:
        leave_out("this account has no group of its own")
    assert ConfinedCatalogue(folder).make("cross").name == "cross"


def test_a_process_and_its_folder_do_not_outlive_a_killed_parent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "more", MORE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        f"import sys\nfrom pathlib import Path\nfrom fks.system.process.confined_strategies import ConfinedCatalogue\n"
        "from fks.strategies.base import evaluate\nfrom fks.strategies.check import synthetic\n"
        f"made = ConfinedCatalogue(Path({str(folder)!r})).make('stays')\n"
        "print('made', flush=True)\nevaluate(made, synthetic(100))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"made\n"
        (child,) = psutil.Process(parent.pid).children()
        time.sleep(0.5)
        parent.kill()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()
    monkeypatch.setattr(scratch, "NEW_S", 0.0)
    catalogue = ConfinedCatalogue(folder)
    catalogue.make("mean")
    assert len(list(tmp_path.glob("fks-strategy-*"))) == 1


def test_without_a_folder_for_files_it_is_an_outage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "honest", HONEST)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    with pytest.raises(OutageError, match="TMPDIR"):
        ConfinedCatalogue(folder).make("cross")


async def test_a_text_that_no_database_takes_is_a_row_of_the_catalogue(folder: Path, database: Database) -> None:
    rude = HONEST.replace("Raises.", "a\\0b")
    write(folder, "rude", rude)
    write(folder, "fails", 'raise ValueError("a\\ud800b")')
    rows = {row["name"]: row["summary"] for row in await CatalogueReader(database, folder).read()}
    assert rows["broken"] == "a?b"
    assert "a?b" in rows["fails"]
    assert "cross" in rows


async def test_forged_and_endless_rows_of_a_catalogue_are_errors_of_their_file(folder: Path) -> None:
    rows = ('[{"name": 5}]', "[5]", "[" * 100_000, "x" * 17_000_000)
    forged = "import os\nfor fd in range(3, 12):\n    try:\n        if os.fstat(fd).st_mode & 0o170000 == 0o010000:\n"
    forged += "            data = {row}\n            while data: data = data[os.write(fd, data):]\n"
    forged += "    except OSError: pass\nos._exit(0)\n"
    for number, row in enumerate(rows):
        text = f"({row[:20]!r} * {len(row[20:]) // 20 + 1} + chr(10)).encode()"
        write(folder, f"forger{number}", forged.format(row=text))
    write(folder, "honest", HONEST)
    found = merged(row for entries, _ in (await describe(items_of(folder))).values() for row in entries)
    assert [row["name"] for row in found if row["error"]] == [f"forger{number}" for number in range(len(rows))]
    assert "cross" in [row["name"] for row in found]


def test_a_kernel_without_filters_or_landlock_runs_files_all_the_same(folder: Path) -> None:
    """A missing facility is left out, as docs/security.md has it; `missing` names it."""
    path = write(folder, "one", "one = 1")
    code = (
        "from fks.system.process import confinement as c\nc._has_filters = lambda: False\nc.landlock_version = lambda: 0\n"
        f"print(c.missing())\nc.confine([])\nprint(open({str(path)!r}).read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no landlock" in done.stdout
    assert "no seccomp" in done.stdout
    assert done.stdout.endswith("one = 1\n")


def test_code_that_hangs_ends_once_its_job_is_stopped(folder: Path) -> None:
    write(folder, "more", MORE)
    stop = threading.Event()
    strategy = ConfinedCatalogue(folder, stop=stop).make("stays")
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(StrategyError, match="was stopped"):
        evaluate(strategy, synthetic(100))


def test_an_interrupted_request_leaves_no_answer_to_the_next_one(folder: Path) -> None:
    slow = HONEST.replace("return 1 / 0", "import time; time.sleep(1.0); return Decisions(np.full(len(bars), -1.0))")
    write(folder, "honest", slow)
    catalogue, bars = ConfinedCatalogue(folder), synthetic(100)
    broken, cross = catalogue.make("broken"), catalogue.make("cross")
    wanted = evaluate(cross, bars).target

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            evaluate(broken, bars)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (evaluate(cross, bars).target == wanted).all()
