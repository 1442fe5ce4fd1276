"""HTTPS with the certificate that is in the files now: one that was renewed is presented from the next connection on,
without a restart."""

from __future__ import annotations

import functools
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fks.clock import Clock
from fks.config.machine_http import certificate_fault
from fks.model.timeframe import to_datetime

_LOG = logging.getLogger("ray.serve")  # of the proxy's process: its file is Serve's own

Made = Callable[..., ssl.SSLContext]


class CertificateFiles:
    """A server's certificate and key, read again when either file has changed.

    Files that cannot be used (half of them replaced, a key of another certificate) change nothing until they change
    again: the certificate before them goes on.
    """

    def __init__(self, cert: Path, key: Path, make: Made, clock: Clock) -> None:
        """`make` returns the context of the files as they are. Errors: as `make`."""
        self._files, self._clock = (cert, key), clock
        self._make = make
        self._seen = self._state()
        self._present = self.context = make()
        # for each connection, also of a client that names no host
        self.context.sni_callback = self._choose

    def _state(self) -> list[tuple[int, int, int]] | None:
        """Return what shows that a file was replaced or written; None while one is missing."""
        try:
            found = [os.stat(file) for file in self._files]
        except OSError:
            return None
        return [(item.st_ino, item.st_mtime_ns, item.st_size) for item in found]

    def _choose(self, connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        state = self._state()
        if state is not None and state != self._seen:
            self._seen = state
            # first: a key with a password would be asked for on a terminal, and hold up every request
            fault = certificate_fault(*self._files, to_datetime(self._clock.now_ns()))
            try:
                if fault is None:
                    self._present = self._make()
                    _LOG.info("the certificate %s was renewed", self._files[0])
            except (OSError, ValueError) as error:  # replaced again meanwhile; SSLError is an OSError
                fault = str(error), ""
            if fault is not None:
                _LOG.warning("the changed certificate is not used: %s", fault[0])
        if self._present is not first:
            connection.context = self._present


def follow_files(create: Made, clock: Clock) -> Made:
    """Return uvicorn's `create_ssl_context` such that a context presents what its files hold at each connection."""

    @functools.wraps(create)
    def created(certfile: Any, keyfile: Any, *args: Any, **options: Any) -> ssl.SSLContext:
        if keyfile is None:  # both in one file: FKS has two settings for them
            return create(certfile, keyfile, *args, **options)
        return CertificateFiles(
            Path(certfile), Path(keyfile), lambda: create(certfile, keyfile, *args, **options), clock
        ).context

    return created
