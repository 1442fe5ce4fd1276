"""Files of ONNX models, read without loading them: an encoder of sentence-transformers with those of its folder, the
weights beside a model, and the inputs and outputs that a graph declares."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fks.model.errors import PeerError

PROMPTS: Final = "config_sentence_transformers.json"


def model_file(folder: Path) -> Path:
    """Return the ONNX file of an encoder's folder."""
    return next(
        (file for file in (folder / "model.onnx", folder / "onnx/model.onnx") if file.exists()), folder / "model.onnx"
    )


def encoder_files(folder: Path) -> list[Path]:
    """Return the files that an encoder is loaded from, by name: those of its folder, and the weights that its ONNX file
    names beside itself.

    Errors: PeerError for a folder without an encoder, a file that is no ONNX model, files outside the folder, and names
    that stand for no file.
    """
    return _readable(folder, _encoder_files)


def graph_files(model: Path) -> list[Path]:
    """Return the files that an ONNX model without a tokenizer is loaded from, by name: its own, and the weights that it
    names beside itself. Errors: as `encoder_files`."""
    return _readable(model, _graph_files)


def _readable(place: Path, files: Callable[[Path], list[Path]]) -> list[Path]:
    try:
        return files(place)
    except (OSError, ValueError, RuntimeError) as error:  # too long, links in a circle, a name with NUL, no right
        raise PeerError(f"{place} cannot be read: {str(error)[:200]}") from error


def _encoder_files(folder: Path) -> list[Path]:
    root, model = folder.resolve(), model_file(folder)
    if not folder.is_absolute() or not model.is_file() or not (folder / "tokenizer.json").is_file():
        raise PeerError(f"{folder} is no folder with model.onnx and tokenizer.json")
    optional = [folder / name for name in ("1_Pooling/config.json", PROMPTS, "sentence_bert_config.json")]
    return _with_weights(model, root, folder / "tokenizer.json", *(file for file in optional if file.exists()))


def _graph_files(model: Path) -> list[Path]:
    if not model.is_absolute() or not model.is_file():
        raise PeerError(f"{model} is no file here")
    return _with_weights(model, model.resolve().parent)


def _with_weights(model: Path, root: Path, *others: Path) -> list[Path]:
    with _mapped(model) as data:
        weights = [model.parent / name for name in external_weights(data)]
    found = sorted({model, *others, *weights})
    for file in found:
        if not file.resolve().is_relative_to(root):
            raise PeerError(f"{file} is outside of the folder {root}: copy the model's files into one folder")
        if not file.is_file():
            raise PeerError(f"{file} is missing")
    return found


@contextlib.contextmanager
def _mapped(model: Path) -> Iterator[mmap.mmap]:
    if not model.stat().st_size:
        raise PeerError(f"{model} is empty")
    with model.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


#: (message, field) of ONNX's format -> the message in it. Tensors may stand in any graph of a model
_ONNX: Final = {
    ("model", 7): "graph", ("model", 20): "training", ("model", 25): "function",
    ("training", 1): "graph", ("training", 2): "graph", ("function", 7): "node", ("function", 11): "attribute",
    ("graph", 1): "node", ("graph", 5): "tensor", ("graph", 15): "sparse", ("node", 5): "attribute",
    ("attribute", 5): "tensor", ("attribute", 6): "graph", ("attribute", 10): "tensor", ("attribute", 11): "graph",
    ("attribute", 22): "sparse", ("attribute", 23): "sparse", ("sparse", 1): "tensor", ("sparse", 2): "tensor",
    ("tensor", 13): "entry",
}  # fmt: skip


def external_weights(data: bytes | mmap.mmap) -> set[str]:
    """Return the paths of the files in which an ONNX model keeps tensors. Errors: PeerError for another format."""
    found: set[str] = set()
    left = [("model", 0, len(data))]
    while left:
        kind, begin, end = left.pop()
        entry: dict[int, bytes] = {}
        for field, wire, at, until in _fields(data, begin, end):
            if wire == 2 and (kind, field) in _ONNX:
                left.append((_ONNX[kind, field], at, until))
            elif kind == "entry" and wire == 2:
                entry[field] = data[at:until]
        if entry.get(1) == b"location":
            found.add(entry.get(2, b"").decode(errors="replace"))
    return found


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """An input or output as a graph declares it. `kind`: number of its element type, 0 without one; `sides`: None where
    a side is free; the whole is None where the graph leaves the shape open."""

    name: str
    kind: int
    sides: tuple[int | None, ...] | None


def declared_tensors(model: Path) -> tuple[list[DeclaredTensor], list[DeclaredTensor]]:
    """Return the inputs and the outputs of the graph in an ONNX file; an input with a value of its own is none.

    Errors: PeerError for another format, or a file that cannot be read. Source: onnx.proto3 of ONNX 1.16.
    """
    try:
        with _mapped(model) as data:
            inputs, outputs, own = list[DeclaredTensor](), list[DeclaredTensor](), set[str]()
            for begin, end in _messages(data, [(0, len(data))], 7):
                inputs += [_declared(data, part) for part in _messages(data, [(begin, end)], 11)]
                outputs += [_declared(data, part) for part in _messages(data, [(begin, end)], 12)]
                own |= {_text(data, part, 8) for part in _messages(data, [(begin, end)], 5)}
            return [one for one in inputs if one.name not in own], outputs
    except OSError as error:
        raise PeerError(f"{model} cannot be read: {error.strerror}") from error


def _declared(data: mmap.mmap, part: tuple[int, int]) -> DeclaredTensor:
    tensor = _messages(data, _messages(data, [part], 2), 1)
    kind = next((at for one in tensor for field, wire, at, _ in _fields(data, *one) if (field, wire) == (1, 0)), 0)
    shapes = _messages(data, tensor, 2)
    sides = tuple(
        next((at for field, wire, at, _ in _fields(data, *side) if (field, wire) == (1, 0)), None)
        for side in _messages(data, shapes, 1)
    )
    return DeclaredTensor(_text(data, part, 1), kind, sides if shapes else None)


def _messages(data: mmap.mmap, parts: list[tuple[int, int]], number: int) -> list[tuple[int, int]]:
    """Return begin and end of the messages that are a field of messages."""
    return [
        (at, until) for part in parts for field, wire, at, until in _fields(data, *part) if (field, wire) == (number, 2)
    ]


def _text(data: mmap.mmap, part: tuple[int, int], number: int) -> str:
    return next((data[at:until].decode(errors="replace") for at, until in _messages(data, [part], number)), "")


def _fields(data: bytes | mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, begin and end of each field of a message; of an integer its value in place of the begin.

    Errors: PeerError.
    """
    while at < end:
        tag, at = _varint(data, at)
        field, wire, size = tag >> 3, tag & 7, 0
        if wire == 0:
            value, at = _varint(data, at)
            yield field, wire, value, at
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise PeerError("the file is no ONNX model")
        if at + size > end:
            raise PeerError("the file is no ONNX model, or a truncated one")
        yield field, wire, at, at + size
        at += size


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise PeerError("the file is no ONNX model, or a truncated one")
