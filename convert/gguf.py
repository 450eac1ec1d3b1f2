"""GGUF files (llama.cpp's format): one file with settings, tokenizer and weights.

A file is presented as a checkpoint of transformers would be, packed by MLX where the file is packed (`gguf_blocks`).
llama.cpp stores the rows of queries and keys in another order for its `llama` architecture, which is undone. MLX's own
reader is not used: it knows fewer types, and gives wrong numbers for Q4_K (MLX 0.32).
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from rave_mlx.checkpoint import directory
from rave_mlx.convert.gguf_blocks import GROUP, parts
from rave_mlx.convert.gguf_file import Stored, read_file
from rave_mlx.convert.gguf_tokenizer import build_tokenizer
from rave_mlx.convert.source import Source
from rave_mlx.errors import ModelError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_OTHER = {
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "vocab_size",
}  # fmt: skip
"""Settings of an architecture that are read, besides the sizes. Any other (experts, say) changes the model."""
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FREQUENCIES = "rope_freqs.weight"
"""Divisors of the rotary frequencies (Llama 3.1 and later)."""


@dataclass(frozen=True)
class GgufSource(Source):
    """A GGUF file as a checkpoint. `metadata` holds its settings; `path` is the file."""

    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def files(self) -> list[Path]:
        return [self.path]

    def hub_files(self) -> dict[str, bytes]:
        """Configuration files such as transformers would have written, to be kept for an export."""
        tokens = self.metadata["tokenizer.ggml.tokens"]
        named = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "pad_token_id"}
        names = {name: tokens[self.config[key]] for name, key in named.items() if self.config.get(key) is not None}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
        files = {
            "config.json": self.config,
            "generation_config.json": self.generation,
            "tokenizer_config.json": settings,
        }
        return {name: (json.dumps(data, indent=2) + "\n").encode() for name, data in files.items()}

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    @cached_property
    def tokenizer(self) -> Path:
        """The tokenizer in a file of its own, which lives as long as the source."""
        file = Path(self._folder.name) / directory.TOKENIZER
        build_tokenizer(self.metadata, str(self.path)).save(str(file))
        return file

    @property
    def template(self) -> str:
        """The chat template."""
        template = self.metadata.get("tokenizer.chat_template")
        if not isinstance(template, str):
            raise ModelError(
                f"{self.path}: has no chat template (tokenizer.chat_template); this is a base model, which does not "
                "answer: take its chat or instruct version"
            )
        return template


def read_gguf(path: Path) -> GgufSource:
    """Open a GGUF file.

    Raises:
        ModelError: when it is incomplete, or of an architecture or with settings that are not supported.
    """
    metadata, stored = read_file(path)
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path}: GGUF architecture {architecture!r} is not supported, only {', '.join(ARCHITECTURES)}; "
            "convert the original checkpoint instead"
        )
    config = _config(path, architecture, metadata, stored)
    tensors = dict(_tensors(path, config, stored))
    ids = [_token(path, metadata, name) for name in ("eos", "eot", "eom")]
    stops = list(dict.fromkeys(i for i in ids if i is not None))
    return GgufSource(path, config, {"eos_token_id": stops} if stops else {}, {}, tensors, metadata)


def _config(path: Path, architecture: str, metadata: Mapping[str, Any], stored: Mapping[str, Stored]) -> dict[str, Any]:
    """What config.json would say."""
    stem = f"{architecture}."
    given = {name.removeprefix(stem): value for name, value in metadata.items() if name.startswith(stem)}
    unknown = sorted(given.keys() - _OTHER - set(_SIZES.values()))
    if unknown:
        raise ModelError(f"{path}: settings that are not supported: {', '.join(stem + name for name in unknown)}")
    missing = sorted(set(_SIZES.values()) - given.keys())
    if missing or "token_embd.weight" not in stored:
        raise ModelError(f"{path}: {', '.join(missing) or 'token_embd.weight'} is missing; download it again")
    config = {name: _integer(path, stem + key, given[key]) for name, key in _SIZES.items()}
    heads = config["num_attention_heads"]
    head_dim = given.get("attention.key_length", given.get("rope.dimension_count", config["hidden_size"] // heads))
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if given.get(key, head_dim) != head_dim:
            raise ModelError(f"{path}: {stem}{key} {given[key]} differs from the width of a head, {head_dim}")
    ids = {key: _token(path, metadata, name) for key, name in _IDS.items()}
    return {
        "model_type": architecture,
        "architectures": [f"{architecture.capitalize()}ForCausalLM"],
        **config,
        "num_key_value_heads": _integer(
            path, f"{stem}attention.head_count_kv", given.get("attention.head_count_kv", heads)
        ),
        "head_dim": _integer(path, "the width of a head", head_dim),
        "hidden_act": "silu",
        "rms_norm_eps": given.get("attention.layer_norm_rms_epsilon", 1e-6),
        "vocab_size": stored["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in stored,
        **{key: value for key, value in ids.items() if value is not None},
        "rope_parameters": _rope(path, given, stored.get(_FREQUENCIES)),
        **_quantization(stored),
    }


_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def _token(path: Path, metadata: Mapping[str, Any], name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    index = metadata.get(key)
    if index is not None and (
        not isinstance(index, int) or not 0 <= index < len(metadata.get("tokenizer.ggml.tokens", ()))
    ):
        raise ModelError(f"{path}: {key} is {index!r}, which is no token; download it again")
    return index


def _integer(path: Path, name: str, value: Any) -> int:
    if isinstance(value, list):
        raise ModelError(f"{path}: {name} differs from layer to layer, which is not supported")
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"{path}: {name} is {value!r}, which makes no sense; download it again")
    return value


def _rope(path: Path, given: Mapping[str, Any], divisors: Stored | None) -> dict[str, Any]:
    """rope_parameters. Divisors of the frequencies are a longrope whose factors never change."""
    theta = {"rope_theta": given.get("rope.freq_base", 10000.0)}
    kind, length = given.get("rope.scaling.type", "none"), given["context_length"]
    if divisors is not None:
        if kind not in ("none", "longrope"):
            raise ModelError(f"{path}: has both {_FREQUENCIES} and rope scaling {kind!r}")
        factors = parts(divisors.block, divisors.shape, divisors.data)["weight"].tolist()
        long = {"short_factor": factors, "long_factor": factors, "factor": 1.0, "attention_factor": 1.0}
        return {"rope_type": "longrope", **theta, **long, "original_max_position_embeddings": length}
    if kind == "none":
        return {"rope_type": "default", **theta}
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{path}: rope scaling {kind!r} is not supported, only linear and yarn")
    original = {"original_max_position_embeddings": given.get("rope.scaling.original_context_length", length)}
    return {
        "rope_type": kind,
        **theta,
        "factor": given.get("rope.scaling.factor", 1.0),
        **(original if kind == "yarn" else {}),
    }


def _quantization(stored: Mapping[str, Stored]) -> dict[str, Any]:
    """The packing as MLX packages declare it: the commonest width in bits, and the modules that have another."""
    packed = {name: tensor for name, tensor in stored.items() if tensor.block.bits is not None}
    if not packed:
        return {}
    widths = [tensor.block.bits for tensor in packed.values()]
    common = max(set(widths), key=widths.count)
    others = {
        _module(name): {"group_size": GROUP, "bits": tensor.block.bits}
        for name, tensor in packed.items()
        if tensor.block.bits != common
    }
    return {"quantization": {"group_size": GROUP, "bits": common, **others}}


def _tensors(path: Path, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> Iterator[tuple[str, mx.array]]:
    """Tensors by transformers' names, in its order of rows."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in stored.items():
        if name == _FREQUENCIES:
            continue
        stem, _, leaf = name.rpartition(".")
        part = stem.rpartition(".")[2]
        if part not in _NAMES or leaf not in ("weight", "bias"):
            raise ModelError(f"{path}: tensor {name} is not known; convert the original checkpoint instead")
        rows = None
        if config["model_type"] == "llama" and part in heads:
            rows = _paired_rows(tensor.shape[0], heads[part])
        for kind, array in parts(tensor.block, tensor.shape, tensor.data).items():
            yield f"{_module(name)}.{leaf if kind == 'weight' else kind}", array if rows is None else array[rows]


def _paired_rows(rows: int, heads: int) -> mx.array:
    """Where each row of queries or keys lies: llama.cpp interleaves the halves of a head that rotate together."""
    order = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return mx.array(order.astype(np.int32))


def _module(name: str) -> str:
    """transformers' module of a tensor."""
    start, _, part = name.rpartition(".")[0].rpartition(".")
    return f"model.layers.{start.removeprefix('blk.')}.{_NAMES[part]}" if start else _NAMES[part]
