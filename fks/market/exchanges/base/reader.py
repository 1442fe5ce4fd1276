"""Typed decoding of messages that counts unknown fields.

Decoding into a type skips unknown fields, so a new field of an exchange would stay unnoticed. A strict decoder is as
fast and fails at an unknown field. That field is counted, and the next strict decoder takes it too: so each further one
is noticed. After LEARNED_MAX of them only the tolerant decoder is used: then their names are no names.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from fks.model.market import ConnectionCounters

T = TypeVar("T")
LEARNED_MAX = 32  # unknown fields of one kind of message

#: errors of a malformed frame: those of msgspec (not JSON, wrong type), and of Decimal for text that is no number
BROKEN = (msgspec.MsgspecError, ArithmeticError, ValueError, UnicodeError)


class MessageReader(Generic[T]):
    """Callable: bytes to `kind`. Unknown fields are counted as `name.field`, each once. Errors: those of BROKEN."""

    def __init__(self, name: str, kind: type[T], counters: ConnectionCounters) -> None:
        self._name, self._kind, self._counters = name, kind, counters
        self._forgiving = msgspec.json.Decoder(kind)
        self._learned: frozenset[str] = frozenset()
        #: the decoder alone, for hot paths: its errors (those of BROKEN) may mean an unknown field, which a call
        #: survives
        self.decode: Callable[[bytes | msgspec.Raw], T] = self._strict_decoder()

    def __call__(self, frame: bytes | msgspec.Raw) -> T:
        try:
            return self.decode(frame)
        except msgspec.ValidationError as error:
            if "unknown field" not in str(error):
                raise
        found = self._forgiving.decode(frame)
        fields = set(_unknown(self._kind, msgspec.json.decode(frame))) - self._learned
        for field in fields:
            self._counters.unknown[f"{self._name}.{field}"] += 1
        self._learned |= fields
        self.decode = self._forgiving.decode if len(self._learned) > LEARNED_MAX else self._watching()
        return found

    def _watching(self) -> Callable[[bytes | msgspec.Raw], T]:
        """Return a decoder that fails at fields which are still unknown; values have none of the learned ones."""
        check, decode = self._strict_decoder(), self._forgiving.decode

        def watching(frame: bytes | msgspec.Raw) -> T:
            check(frame)
            return decode(frame)

        return watching

    def _strict_decoder(self) -> Callable[[bytes | msgspec.Raw], T]:
        return msgspec.json.Decoder(cast(type[T], _strict(cast(Any, self._kind), self._learned))).decode


@lru_cache(maxsize=256)
def _strict(kind: Any, learned: frozenset[str] = frozenset()) -> Any:
    """Return `kind` with every struct in it refusing unknown fields, except those that were `learned`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        changed: list[tuple[str, Any, Any]] = []
        known = {field.encode_name for field in msgspec.structs.fields(kind)}
        for number, name in enumerate(sorted(learned - known)):
            changed.append((f"learned_{number}", msgspec.Raw, msgspec.field(name=name, default=msgspec.Raw())))
        for field in msgspec.structs.fields(kind):
            to = _strict(field.type, learned)
            if to is not field.type:
                changed.append((field.name, to, _same_default(field)))
        # a subclass moves the fields that it redefines to the end; no struct here is constructed by position
        return msgspec.defstruct(kind.__name__, changed, bases=(kind,), forbid_unknown_fields=True, kw_only=True)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if not args or origin not in (list, tuple, typing.Union, types.UnionType):
        return kind
    strict = tuple(_strict(arg, learned) for arg in args)
    if strict == args:
        return kind
    return typing.Union[strict] if origin in (typing.Union, types.UnionType) else origin[strict]  # noqa: UP007


def _same_default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return msgspec.field(name=field.encode_name, default=field.default)
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(name=field.encode_name, default_factory=field.default_factory)
    return msgspec.field(name=field.encode_name)


def _unknown(kind: Any, value: Any) -> Iterator[str]:
    """Yield the names of fields in `value` that `kind` has not, at any depth."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        for name, inner in value.items():
            if name in known:
                yield from _unknown(known[name], inner)
            else:
                yield name
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        for arg in typing.get_args(kind):
            yield from _unknown(arg, value)
    elif isinstance(value, list):
        args = [arg for arg in typing.get_args(kind) if arg is not Ellipsis]
        for item in value:
            for arg in args:
                yield from _unknown(arg, item)
