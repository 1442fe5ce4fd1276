"""The error tree. The class names the cause, and so the consequence.

FksError
├── BugError          our code                      crash the actor, restart, count it
├── PeerError         an exchange, venue or peer    keep the frame, drop the connection, reconnect
├── OutageError       expected failures             back off, not a crash
├── ConfigError       the operator                  refuse to start; names key, value and remedy
├── InputError        the caller                    4xx / exit 2; carries a code and the remedy
├── Problem           the caller                    an InputError with headers and members of its own
├── StaleEpochError   an older instance of us       stop at once: a newer one is in charge
└── FailoverError     another database              stop, reconcile, start again: committed rows may be missing
"""

from __future__ import annotations


class FksError(Exception):
    """Root of everything FKS raises on purpose. `remedy` is the next step for a person."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class BugError(FksError):
    """A state that only an error in our code can cause."""


class PeerError(FksError):
    """A peer broke its protocol."""


class OutageError(FksError):
    """An expected failure: a timeout, a refused connection, a rate limit. `wait_s`: the pause that the peer demands.

    `detail` is for logs and the command line, never for a caller of the gateway: queries, addresses, texts of drivers.
    """

    def __init__(self, message: str, *, remedy: str = "", wait_s: float = 0.0, detail: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.wait_s = wait_s
        self.detail = detail

    def __str__(self) -> str:
        text = f"{self.message} ({self.detail})" if self.detail else self.message
        return f"{text}; {self.remedy}" if self.remedy else text


class KeyRefusedError(OutageError):
    """A venue refused the API key of a read, and so will it every other one."""


class ConfigError(FksError):
    """A wrong setting: the message names the key, the value and a correct form."""


class InputError(FksError):
    """The caller's input is wrong. `code` is stable and documented, `status` is the HTTP status that fits."""

    def __init__(self, message: str, *, code: str = "INVALID", status: int = 400, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.status = status


def invalid(code: str, message: str, remedy: str = "") -> InputError:
    """Return the error for input that is malformed or out of range: HTTP 400."""
    return InputError(message, code=code, remedy=remedy)


def not_found(code: str, message: str, remedy: str = "") -> InputError:
    """Return the error for an object that does not exist: HTTP 404."""
    return InputError(message, code=code, status=404, remedy=remedy)


def conflict(code: str, message: str, remedy: str = "") -> InputError:
    """Return the error for a request that the object's present state does not allow: HTTP 409."""
    return InputError(message, code=code, status=409, remedy=remedy)


def unprocessable(code: str, message: str, remedy: str = "") -> InputError:
    """Return the error for well-formed input that breaks a rule: HTTP 422."""
    return InputError(message, code=code, status=422, remedy=remedy)


class Problem(FksError):
    """A refusal with its whole HTTP response: status, code, headers, and further members of the document."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        remedy: str = "",
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.members = members


class StaleEpochError(FksError):
    """A newer epoch owns the role: this process must stop and may not write."""


class FailoverError(FksError):
    """PostgreSQL is another server, or an older state of it: committed rows may be missing. The process starts
    again."""
