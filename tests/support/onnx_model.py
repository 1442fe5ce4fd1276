"""Small ONNX models, written without a library of the format: encoders with a table of word vectors, and models that
predict from named inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from fks.ai.engines.deployment import Deployment, facts_of_model

WIDTH = 64


def write_encoder(
    folder: Path, words: Sequence[str], *, seed: int = 1, is_noise: bool = False, weights_in: str = ""
) -> Path:
    """Write an encoder whose tokens are words; an unknown one is all but zero. With `is_noise` all vectors are equal.

    `weights_in`: the file beside the model that holds the table.
    """
    folder.mkdir()
    table = np.random.default_rng(seed).standard_normal((len(words) + 1, WIDTH), np.float32)
    table[0] = 1e-3
    if is_noise:
        table[:] = 1.0
    vocabulary = {"[UNK]": 0, **{word: number for number, word in enumerate(words, 1)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    data = table.tobytes()
    (folder / "model.onnx").write_bytes(_model(table.shape[0], data))
    if weights_in:
        (folder / weights_in).write_bytes(data)
        (folder / "model.onnx").write_bytes(_model(table.shape[0], None, weights_in))
    return folder


def external(model: bytes, place: str) -> bytes:
    """Return a model with its table at `place`."""
    return _model(1, None, place)


def encoder(folder: Path, name: str = "words") -> Deployment:
    """Return the deployment of a folder."""
    wanted = Deployment(name, "onnx", str(folder), purpose="embed")
    digest, size = facts_of_model(wanted)
    return Deployment(name, "onnx", str(folder), sha256=digest, size_bytes=size, purpose="embed")


def write_predictor(
    file: Path,
    inputs: Mapping[str, int],
    *,
    columns: int = 1,
    operation: str = "Identity",
    seed: int = 1,
    bias: float = 0.0,
    is_silent: bool = False,
    is_double: bool = False,
) -> Path:
    """Write a model of named inputs with so many columns each: operation(all columns @ weights + bias), as `y`.

    `is_silent`: it declares no number of columns; `is_double`: all is of double, in place of float.
    """
    total, kind, dtype = sum(inputs.values()), 11 if is_double else 1, np.float64 if is_double else np.float32
    weights = np.random.default_rng(seed).standard_normal((total, columns)).astype(dtype)
    tensors = [("weights", weights), ("bias", np.full(columns, bias, dtype))]
    nodes = [
        [*(_field(1, name) for name in inputs), _field(2, "joined"), _field(4, "Concat"), _field(5, _axis(1))],
        [*(_field(1, name) for name in ("joined", "weights", "bias")), _field(2, "made"), _field(4, "Gemm")],
        [_field(1, "made"), _field(2, "y"), _field(4, operation)],
    ]
    graph = b"".join(_field(1, b"".join(node)) for node in nodes) + _field(2, "predictor")
    for name, values in tensors:
        sides = b"".join(_field(1, side) for side in values.shape)
        graph += _field(5, sides + _field(2, kind) + _field(8, name) + _field(9, values.tobytes()))
    for name, width in inputs.items():
        graph += _field(11, _value(name, kind, "rows", "columns" if is_silent else width))
    graph += _field(12, _value("y", kind, "rows", "columns" if is_silent else columns))
    file.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return file


def _axis(value: int) -> bytes:
    return _field(1, "axis") + _field(3, value) + _field(20, 2)


def _field(number: int, value: int | str | bytes) -> bytes:
    """Return a field of a protocol buffer."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _model(rows: int, data: bytes | None, place: str = "") -> bytes:
    """Return the model: Gather(table, input_ids). Numbers of fields as in onnx.proto."""
    table = _field(1, rows) + _field(1, WIDTH) + _field(2, 1) + _field(8, "table")
    if data is None:
        table += _field(13, _field(1, "location") + _field(2, place)) + _field(14, 1)
    else:
        table += _field(9, data)
    node = _field(1, "table") + _field(1, "input_ids") + _field(2, "last_hidden_state") + _field(4, "Gather")
    graph = _field(1, node) + _field(2, "encoder") + _field(5, table)
    for name in ("input_ids", "attention_mask"):
        graph += _field(11, _value(name, 7, "batch", "length"))
    graph += _field(12, _value("last_hidden_state", 1, "batch", "length", WIDTH))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


def _value(name: str, kind: int, *shape: str | int) -> bytes:
    sides = b"".join(_field(1, _field(2 if isinstance(side, str) else 1, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, sides)))
