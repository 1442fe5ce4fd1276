"""GGUF files with random weights: real files that llama.cpp loads in milliseconds, whose text is noise.

The vocabulary is GPT-2's bytes with two merges: a SentencePiece vocabulary of bytes cannot be constrained by a grammar.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from fks.ai.engines.deployment import Deployment, facts_of_file

_SURE = 50.0  # a weight beside which the random ones do not count


def _bytes() -> list[str]:
    """Return the character by which GPT-2's vocabulary writes each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def write_model(
    path: Path,
    *,
    seed: int = 1,
    width: int = 64,
    layers: int = 2,
    context: int = 32_768,
    is_terse: bool = False,
    words_by: str = "gpt-2",
) -> Path:
    """Write a model of 0.5 MB with weights of `seed`; more `width` makes each token slower. `is_terse`: each of its
    strings is the letter a, so that an answer has few tokens; else most are as long as the schema allows. `words_by`:
    the rule of llama.cpp that parts a text into words."""
    weights = np.random.default_rng(seed)
    words = [*_bytes(), "<|end|>", "th", "he"]

    def random(*shape: int) -> np.ndarray:
        return (weights.standard_normal(shape, np.float32) * (2.4 / shape[-1] ** 0.5)).astype(np.float32)

    embeddings, output = random(len(words), width), random(len(words), width)
    if is_terse:
        quote, letter = ord('"'), ord("a")
        embeddings[:, :2] = np.where(np.arange(len(words)) == quote, [[_SURE], [0.0]], [[0.0], [_SURE]]).T
        output[letter, 0] = output[quote, 1] = _SURE
        output[ord("]"), 1] = _SURE / 2  # one citation
        output[[ord(space) for space in " \t\n\r"], :2] = -_SURE

    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(context)
    file.add_embedding_length(width)
    file.add_block_count(layers)
    file.add_feed_forward_length(2 * width)
    file.add_head_count(4)
    file.add_head_count_kv(4)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(width // 4)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(words_by)
    file.add_token_list(words)
    file.add_token_types([1] * 256 + [3, 1, 1])
    file.add_token_merges(["t h", "h e"])
    file.add_eos_token_id(256)
    file.add_bos_token_id(256)
    file.add_vocab_size(len(words))
    file.add_tensor("token_embd.weight", embeddings)
    file.add_tensor("output_norm.weight", np.ones(width, np.float32))
    file.add_tensor("output.weight", output)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            file.add_tensor(f"blk.{layer}.{name}.weight", random(width, width))
        file.add_tensor(f"blk.{layer}.ffn_gate.weight", random(2 * width, width))
        file.add_tensor(f"blk.{layer}.ffn_up.weight", random(2 * width, width))
        file.add_tensor(f"blk.{layer}.ffn_down.weight", random(width, 2 * width))
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def deployed(path: Path, name: str = "noise", **fields: object) -> Deployment:
    """Return the deployment of a GGUF file."""
    digest, size = facts_of_file(path)
    given = {"sha256": digest, "size_bytes": size, **fields}
    return Deployment(name, "llama_cpp", str(path), **given)  # type: ignore[arg-type]
