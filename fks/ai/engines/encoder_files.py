"""Files of an encoder of sentence-transformers in ONNX: those of its folder, and the weights beside its model."""

from __future__ import annotations

import mmap
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
    try:
        return _encoder_files(folder)
    except (OSError, ValueError, RuntimeError) as error:  # too long, links in a circle, a name with NUL, no right
        raise PeerError(f"{folder} cannot be read: {str(error)[:200]}") from error


def _encoder_files(folder: Path) -> list[Path]:
    root, model = folder.resolve(), model_file(folder)
    if not folder.is_absolute() or not model.is_file() or not (folder / "tokenizer.json").is_file():
        raise PeerError(f"{folder} is no folder with model.onnx and tokenizer.json")
    optional = [folder / name for name in ("1_Pooling/config.json", PROMPTS, "sentence_bert_config.json")]
    if not model.stat().st_size:
        raise PeerError(f"{model} is empty")
    with model.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        weights = [model.parent / name for name in external_weights(data)]
    found = sorted({model, folder / "tokenizer.json", *weights, *(file for file in optional if file.exists())})
    for file in found:
        if not file.resolve().is_relative_to(root):
            raise PeerError(f"{file} is outside of the folder {folder}: copy the model's files into one folder")
        if not file.is_file():
            raise PeerError(f"{file} is missing")
    return found


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
        kind, at, end = left.pop()
        entry: dict[int, bytes] = {}
        while at < end:
            tag, at = _varint(data, at)
            field, wire = tag >> 3, tag & 7
            size = 0
            if wire == 0:
                _, at = _varint(data, at)
            elif wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise PeerError("the file is no ONNX model")
            if at + size > end:
                raise PeerError("the file is no ONNX model, or a truncated one")
            if wire == 2 and (kind, field) in _ONNX:
                left.append((_ONNX[kind, field], at, at + size))
            elif kind == "entry" and wire == 2:
                entry[field] = data[at : at + size]
            at += size
        if entry.get(1) == b"location":
            found.add(entry.get(2, b"").decode(errors="replace"))
    return found


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
