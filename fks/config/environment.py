"""Variables of the environment that processes of the node are given.

What FKS reads, what programs and libraries need to run, and what `node.environment` names; not the rest: credentials
of other programs (clouds, version control, agents) have no business in the process of a strategy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from fks.config.aliases import DIRECT, POSTGRES, REDIS

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "VIRTUAL_ENV"),
        *("NO_COLOR", "PGPASSFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "WSL_DISTRO_NAME"),
        *_PROXIES,
        *(name.lower() for name in _PROXIES),
        *DIRECT,
        *POSTGRES,
        *REDIS,
    }
)
_PREFIXES = (
    *("FKS_", "RAY_", "LC_", "LD_", "PYTHON", "COVERAGE_", "SSL_CERT_", "XDG_"),
    "PGSSL",  # certificates of a PostgreSQL of one's own: PGSSLROOTCERT, …
    *("CUDA", "NVIDIA_", "NCCL_", "NUMBA_", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_"),
)


def passed_on(environment: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that a child process is given. `named`: more names, with `*` and `?` as in file names."""
    patterns = tuple(named)
    return {
        name: value
        for name, value in environment.items()
        if name in _NAMES or name.startswith(_PREFIXES) or any(fnmatchcase(name, pattern) for pattern in patterns)
    }
