"""Port of the engines: a request, its answer, and the methods that every engine has."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from fks.ai.engines.deployment import Deployment
from fks.model.errors import InputError, PeerError

#: sends a message to the process of a replica and returns its answer; OutageError when the process is gone
InferenceCall = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, Any]]]
#: requests that one process works on at the same time
SLOTS: Final = 2
#: of llama.cpp's threads: trading has three times as much of a processor that both want
NICE: Final = 5


#: of a request for any JSON object
ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat that a model continues. `messages`: each with `role` (system, user, assistant or tool) and `content`;
    `timeout_s`: how long it may take in all; `tokens_max`: of the text, None: as many as fit; `schema`: the JSON schema
    of the text; `stop`: texts before which it ends. None of another field is the engine's default.
    """

    messages: Sequence[Mapping[str, str]]
    timeout_s: float
    tokens_max: int | None = None
    schema: Mapping[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """Texts that are to become vectors. `sha256`: of the model that is meant; another one refuses; `timeout_s`: how
    long it may take in all; `collection`: of the documents that they are from, "" for none."""

    texts: tuple[str, ...]
    sha256: str
    is_question: bool
    timeout_s: float
    collection: str = ""

    def message(self) -> dict[str, object]:
        """Return it as a message to a process."""
        return {"embed": asdict(self)}


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Rows of features of which a model is to predict one value each. `rows`: the values of each input by its name;
    `output`: the name of the output that is meant, "" for the only one. `sha256`: of the model that is meant; another
    one refuses; `timeout_s`: how long it may take in all."""

    rows: Sequence[Mapping[str, Sequence[float]]]
    output: str
    sha256: str
    timeout_s: float

    def message(self) -> dict[str, object]:
        """Return it as a message to a process."""
        return {"predict": asdict(self)}


@dataclass(frozen=True, slots=True)
class Completed:
    """The text of a model. `is_whole`: it ended by itself, not at a limit of tokens; `tokens` and `prompt_tokens`: 0
    where nothing counts them."""

    text: str
    tokens: int
    is_whole: bool
    prompt_tokens: int = 0


#: called with each part of a text as it is made, on a thread of the engine
TextTaker = Callable[[str], None]


class ModelEngine(Protocol):
    """One loaded model. Its methods may be called `SLOTS` times at once; cancelled, they stop the work."""

    async def load(self) -> None:
        """Make the model ready. Errors: PeerError for a model that cannot be served here; OutageError while the server
        of the model is away."""

    async def complete(self, asked: Completion, take: TextTaker | None = None) -> Completed:
        """Return the continuation of a chat. `take` is given its text before that, as it is made. Errors: InputError
        for a request that the model cannot take; PeerError, OutageError."""

    async def embed(self, asked: Embedding) -> list[list[float]]:
        """Return a vector for each text, as the model gives it. Errors: PeerError."""

    async def predict(self, asked: FeatureRows) -> list[float]:
        """Return a value for each row of features, which may not be finite and does not depend on the other rows.
        Errors: PeerError."""

    async def close(self) -> None:
        """Free the model."""


# marks of turns (ChatML, Llama, Mistral, Gemma, DeepSeek): a text must not begin one
_CONTROL = re.compile(r"<\|[^|>]*\|?>|<\uff5c[^\uff5c>]*\uff5c>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")


def unmarked(text: str) -> str:
    return _CONTROL.sub(" ", text)


def unmarked_messages(asked: Completion) -> list[dict[str, str]]:
    return [{"role": one["role"], "content": unmarked(one["content"])} for one in asked.messages]


def too_long(message: str) -> InputError:
    return InputError(message, code="CONTEXT_LENGTH_EXCEEDED", remedy="send less, or deploy with more (--context)")


class AnotherModelError(PeerError):
    """The process serves another model than the one that is meant: another will be in its place soon, or serves it."""


def check_meant(asked: Embedding | FeatureRows, served: Deployment) -> None:
    """Refuse a request that means another model than the one that is served. Errors: AnotherModelError."""
    purpose = "embed" if isinstance(asked, Embedding) else "predict"
    if (served.purpose, served.sha256) != (purpose, asked.sha256):
        wanted = "vectors" if purpose == "embed" else "predictions"
        raise AnotherModelError(f"{served.name} serves another model than the one whose {wanted} are wanted")
