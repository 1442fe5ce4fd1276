"""Bare machines on this one: Debian's own files made by mmdebstrap, each in mount, pid, UTS, IPC, control group and (unless it
shares ours) network namespaces of its own, and the steps of deploy/Dockerfile run in such machines."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.namespaces import UNSHARE, require_namespaces
from tests.support.programs import require
from tests.support.waiting import wait_until
from tests.support.wheel import ROOT

PYTHON = ("python-is-python3", "python3-venv", "ca-certificates")
SYSTEMD = ("systemd-sysv", "dbus", "libpam-systemd")
#: First processes: bash takes in the children of processes that ended; systemd does what it does on a machine.
BASH = ("bash", "-c", "while :; do sleep 60; done")
INIT = ("/lib/systemd/systemd", "--show-status=no", "--log-target=journal")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BOOT = """
set -e
mount --make-rprivate /
hostname {name}
mount -t overlay overlay -o lowerdir={base},upperdir={place}/files,workdir={place}/work {root}
cd {root}
mount -t proc proc proc && mount -t sysfs sysfs sys && mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run && mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev && mkdir dev/pts dev/shm && mount -t tmpfs -o size=4g,mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts && ln -s pts/ptmx dev/ptmx
for device in null zero full random urandom tty; do touch dev/$device && mount --bind /dev/$device dev/$device; done
while read -r source target; do
  if [ -d "$source" ]; then mkdir -p ".$target"; else mkdir -p ".${{target%/*}}" && touch ".$target"; fi
  mount --bind "$source" ".$target"
done <{place}/given
if {is_apart}; then ip link set lo up; else cp --remove-destination /etc/resolv.conf /etc/hosts etc/; fi
exec env -i container=fks PATH={path} chroot . "$@"
"""


def require_bare_machines() -> None:
    """Skip the test where such machines cannot be made."""
    require_namespaces()
    require("mmdebstrap", "ip", "nsenter")


def debian(folder: Path, suite: str, packages: Sequence[str]) -> Path:
    """Return `folder` with the files of a minimal Debian and these packages, from the mirror that mmdebstrap knows."""
    options = ("--quiet", "--variant=minbase", f"--include={','.join(packages)}")
    done = subprocess.run(["mmdebstrap", *options, suite, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def package_settings() -> tuple[dict[str, str], dict[Path, str]]:
    """Return the settings of pip and npm of this machine as variables, and the files and folders that they name."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {
        f"PIP_{m[1].upper().replace('-', '_')}": m[2] for m in re.finditer(r"(?m)^[\w:]+\.([\w-]+)='(.*)'$", shown)
    }
    kept = re.compile(r"(?i)^(npm_config_.*|ssl_cert_file|node_extra_ca_certs|(https?|all|no)_proxy)$")
    found |= {name: value for name, value in os.environ.items() if kept.match(name)}
    found = {name: value.replace("\\n", " ") for name, value in found.items()}
    words = [part.removeprefix("file://") for value in found.values() for part in value.split()]
    given = {path: str(path) for path in (CERTIFICATES, *map(Path, words)) if path.is_absolute() and path.exists()}
    # an index, whose files may lie beside it
    given |= {path.parent: str(path.parent) for path in list(given) if path.name == "simple"}
    npm = Path.home() / ".npmrc"
    return found, given | ({npm: "/root/.npmrc"} if npm.is_file() else {})


@dataclass
class BareMachine:
    """Debian's files, those that were written since, and the first process; `given` are files of ours, by their place there."""

    name: str
    place: Path
    base: str  # folders of files, the topmost first, as overlayfs takes them
    init: Sequence[str] = BASH
    is_apart: bool = True
    given: Mapping[Path, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> BareMachine:
        """Switch it on; its files are those of before, if it ran already."""
        root = self.place / "root"
        for part in ("files", "work", "root"):
            (self.place / part).mkdir(parents=True, exist_ok=True)
        (self.place / "given").write_text("".join(f"{source} {target}\n" for source, target in self.given.items()))
        script = _BOOT.format(
            name=self.name,
            base=self.base,
            place=self.place,
            root=root,
            path=PATH,
            is_apart=str(self.is_apart).lower(),
        )
        unshare = [part for part in UNSHARE if self.is_apart or part != "--net"] + ["--ipc", "--cgroup"]
        with (self.place / "console").open("ab") as log:
            self.process = subprocess.Popen(
                [*unshare, "bash", "-c", script, "boot", *self.init], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        here = Path("/").stat().st_dev
        wait_until(lambda: self._pid and self.files.stat().st_dev != here)
        return self

    @property
    def _pid(self) -> int:
        """Return the pid, here, of its first process: the child of `unshare`."""
        assert self.process is not None
        assert self.process.poll() is None, (self.place / "console").read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    @property
    def files(self) -> Path:
        """Return its file system as it is seen here while it runs."""
        return Path(f"/proc/{self._pid}/root")

    def command(self, argv: Sequence[str], *, user: str = "root", cwd: str = "/", **env: str) -> list[str]:
        """Return the command, here, that runs `argv` there without privileges that `user` has not."""
        enter = ["nsenter", "-t", str(self._pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root"]
        accounts = (line.split(":") for line in (self.files / "etc/passwd").read_text().splitlines())
        known = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": next(row[5] for row in accounts if row[0] == user)} | env
        account = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        # as in deploy/compose.yaml
        account += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if account else []
        return [
            *enter,
            "--wd=/",
            "env",
            "-i",
            *(f"{k}={v}" for k, v in known.items()),
            *account,
            "env",
            "-C",
            cwd,
            *argv,
        ]

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        cwd: str = "/",
        check: bool = True,
        timeout_s: float = 300.0,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there and return how it ended."""
        command = self.command(argv, user=user, cwd=cwd, **env)
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s)
        assert done.returncode == 0 or not check, (
            f"{argv}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done

    def cut_power(self) -> None:
        """End all its processes at once; its files stay."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


# ── the image ────────────────────────────────────────────────────────────────────────────────────
def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile; continued lines are one."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "deploy" / name).read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def build_context() -> list[str]:
    """Return the files of the repository that `COPY . .` copies: those that .dockerignore does not name."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]

    def is_ignored(name: str) -> bool:
        parents = [name, *(str(parent) for parent in Path(name).parents)]
        return any(
            fnmatch.fnmatchcase(f"/{part}", f"/{pattern}".replace("/**/", "*/"))
            for part in parents
            for pattern in patterns
        )

    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.split("\0") if name and not is_ignored(name)]
    return [name for name in names if (ROOT / name).is_symlink() or (ROOT / name).is_file()]


@dataclass
class Image:
    """The result of the Dockerfile: the machine with its files, and the settings of its processes."""

    machine: BareMachine
    env: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    cwd: str = "/"
    settings: dict[str, str] = field(default_factory=dict)

    def run(self, argv: Sequence[str], **options: float | bool) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker run` would, by the image's user in its directory."""
        return self.machine.run(argv, user=self.user, cwd=self.cwd, **(self.env | options))  # type: ignore[arg-type]

    def list_of(self, instruction: str) -> list[str]:
        """Return the command that an instruction holds."""
        found: list[str] = json.loads(self.settings[instruction].partition("CMD ")[2] or self.settings[instruction])
        return found


def build_image(place: Path, base: str) -> Image:
    """Run the steps of the Dockerfile; the image that FROM names is not here: `base` takes its place."""
    settings, given = package_settings()
    stages: dict[str, Image] = {}
    stage = Image(BareMachine("none", place, base))
    for name, text in instructions():
        match name:
            case "FROM":
                label = text.partition(" AS ")[2] or "image"
                machine = BareMachine(label, place / label, base, is_apart=False, given=given)
                stage = stages[label] = Image(machine.start())
            case "WORKDIR":
                stage.cwd = text
                stage.machine.run(["mkdir", "-p", text])
            case "COPY" if text.startswith("--from="):
                source, where, target = text.removeprefix("--from=").split()
                origin = stages[source].machine.place / "files" / where[1:]
                stage.machine.run(["mkdir", "-p", str(Path(target).parent)])
                subprocess.run(["cp", "-a", str(origin), f"{stage.machine.files}{target}"], check=True)
            case "COPY":
                assert text == ". .", text
                for part in build_context():
                    copy = Path(f"{stage.machine.files}{stage.cwd}", part)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / part, copy, follow_symlinks=False)
            case "RUN":
                stage.machine.run(
                    ["sh", "-ec", text], cwd=stage.cwd, user=stage.user, timeout_s=1800.0, **settings, **stage.env
                )
            case "ENV":
                known = {"PATH": PATH} | stage.env
                for pair in text.split():
                    key, _, value = pair.partition("=")
                    stage.env[key] = string.Template(value).substitute(known)
            case "USER":
                stage.user = text
            case _:
                stage.settings[name] = text
    for other in stages.values():
        if other is not stage:
            other.machine.cut_power()
    return stage
