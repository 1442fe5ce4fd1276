"""Programs outside the virtualenv that tests run, and the Debian packages they come in.

`.ci/run` installs what `python3 tests/support/programs.py` prints: the packages of the programs that are missing here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

#: Beside those of a bare machine: Debian's essential packages, python3, make and git.
PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "ip": "iproute2",
    "jq": "jq",
    "mcs": "mono-mcs libmono-system-core4.0-cil",
    "mmdebstrap": "mmdebstrap",
    "mono": "mono-runtime",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "promtool": "prometheus",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def packages_of(programs: Iterable[str]) -> str:
    """Return the packages of those programs that are not installed, separated by blanks; "" when none is missing."""
    missing = [PACKAGES[name] for name in programs if shutil.which(name, path=PATH) is None]
    return " ".join(dict.fromkeys(" ".join(missing).split()))


def require(*programs: str) -> None:
    """Skip the test where one of the programs is not installed; fail it where FKS_REQUIRE_ALL is set."""
    if packages := packages_of(programs):
        leave_out(f"not installed here: apt-get install --no-install-recommends {packages}")


def leave_out(reason: str) -> None:
    """Skip the test; fail it where FKS_REQUIRE_ALL is set."""
    import pytest  # not needed, and not there, where the packages are printed

    if os.environ.get("FKS_REQUIRE_ALL"):
        pytest.fail(f"{reason} (FKS_REQUIRE_ALL is set)")
    pytest.skip(reason)


if __name__ == "__main__":
    print(packages_of(PACKAGES))
