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


#: of the variables above, those that a process without credentials is given. SPT_NOENV, which Ray sets, keeps the title
#: of a process from overwriting its environment as the kernel shows it
_NEUTRAL = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "VIRTUAL_ENV"),
    *(
        "FKS_HOME",
        "RAY_",
        "LC_",
        "LD_",
        "PYTHON",
        "COVERAGE_",
        "XDG_",
        "CUDA",
        "NVIDIA_",
        "OMP_",
        "MALLOC_",
        "SPT_NOENV",
    ),
)


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to be emptied in a process that is given no credential: names of ours that hold one, and
    all of this environment but those that programs need to run. An empty value, as Ray can set variables and not
    remove them."""
    named = {*DIRECT, *POSTGRES, *REDIS, "FKS_DATABASE_URL", "FKS_REDIS_URL"}
    named |= {f"FKS_{section}_{name}".upper() for section, name in DIRECT.values()}
    return dict.fromkeys(sorted(named | {name for name in environment if not name.startswith(_NEUTRAL)}), "")
