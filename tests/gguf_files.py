"""GGUF files as llama.cpp's converter writes them, from the tiny checkpoints of `families`."""

from __future__ import annotations

import json
import math

import gguf
import mlx.core as mx
import numpy as np
from families import draw, golden

from rave_mlx.checkpoint.directory import BUILT_IN

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}  # fmt: skip
TEMPLATE = (BUILT_IN / "chat_template.jinja").read_text()


def permuted(weights, heads):
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(
        weights.shape
    )  # fmt: skip


def tensors(case):
    """The case's weights under llama.cpp's names and in its order."""
    return text_tensors(case.config, {name: draw(name, shape) for name, shape in golden(case)[0].items()})


def text_tensors(config, weights):
    """Weights of a text model under llama.cpp's names and in its order."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for name, array in weights.items():
        short = name
        for part, count in heads.items():
            if part in name and config["model_type"] == "llama":
                array = permuted(array, count)  # noqa: PLW2901
        for long, replacement in NAMES.items():
            short = short.replace(long, replacement)
        found[short] = mx.array(np.ascontiguousarray(array))
    return found


def metadata(case, **changes):
    """The case's settings, and the built-in model's tokenizer."""
    found = {**settings(case.config, case.config["model_type"]), **vocabulary(), "tokenizer.chat_template": TEMPLATE}
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def vocabulary(special=(), size=0):
    """The tokens of the built-in model's tokenizer, further control tokens, and unused ones up to `size`."""
    tokenizer = json.loads((BUILT_IN / "tokenizer.json").read_text())
    tokens = [token for token, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])]
    kinds = [1] * len(tokens)
    for token in tokenizer["added_tokens"]:
        kinds[token["id"]] = 3 if token["special"] else 4
    tokens[7], kinds[7] = "ab", 1  # instead of <|video_pad|>: there has to be a merge
    tokens += special
    kinds += [3] * len(special)
    unused = max(size - len(tokens), 0)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{i}]" for i in range(unused)],
        "tokenizer.ggml.token_type": mx.array(np.array(kinds + [5] * unused, np.int32)),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": mx.array(2, mx.uint32),
        "tokenizer.ggml.bos_token_id": mx.array(1, mx.uint32),
    }


def settings(config, kind):
    """A text model's settings, under the architecture `kind`."""
    rope = config["rope_parameters"]
    heads = {"head_count": "num_attention_heads", "head_count_kv": "num_key_value_heads"}
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    found = {
        "general.architecture": kind,
        f"{kind}.embedding_length": mx.array(config["hidden_size"], mx.uint32),
        f"{kind}.feed_forward_length": mx.array(config["intermediate_size"], mx.uint32),
        f"{kind}.block_count": mx.array(config["num_hidden_layers"], mx.uint32),
        f"{kind}.context_length": mx.array(config["max_position_embeddings"], mx.uint32),
        f"{kind}.attention.layer_norm_rms_epsilon": mx.array(config["rms_norm_eps"], mx.float32),
        f"{kind}.attention.key_length": mx.array(width, mx.uint32),
        f"{kind}.rope.freq_base": mx.array(rope["rope_theta"], mx.float32),
        **{f"{kind}.attention.{name}": mx.array(config[key], mx.uint32) for name, key in heads.items()},
    }
    if rope["rope_type"] in ("linear", "yarn"):
        found[f"{kind}.rope.scaling.type"] = rope["rope_type"]
        found[f"{kind}.rope.scaling.factor"] = mx.array(rope["factor"], mx.float32)
    if rope["rope_type"] == "yarn":
        original = rope["original_max_position_embeddings"]
        found[f"{kind}.rope.scaling.original_context_length"] = mx.array(original, mx.uint32)
    if "mrope_section" in rope:
        found[f"{kind}.rope.dimension_sections"] = mx.array([*rope["mrope_section"], 0], mx.int32)
    if config["model_type"] in ("mistral", "phi3"):
        found[f"{kind}.attention.sliding_window"] = mx.array(config["sliding_window"] or 0, mx.uint32)
    return found


def write(path, case, weights=None, **changes):
    """A GGUF file of a case."""
    arrays = tensors(case) if weights is None else weights
    rope = case.config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        arrays["rope_freqs.weight"] = mx.array(llama3_divisors(rope))
    if rope["rope_type"] == "longrope":
        arrays["rope_factors_short.weight"] = mx.array(rope["short_factor"], mx.float32)
        arrays["rope_factors_long.weight"] = mx.array(rope["long_factor"], mx.float32)
        changes = longrope(case.config) | changes
    mx.save_gguf(str(path), arrays, metadata(case, **changes))
    return path


def longrope(config):
    """What llama.cpp's converter writes for a long Phi-3: conversion/phi.py, `generate_extra_tensors`."""
    original, longest = config["original_max_position_embeddings"], config["max_position_embeddings"]
    scale = longest / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    return {
        "phi3.rope.scaling.original_context_length": mx.array(original, mx.uint32),
        "phi3.rope.scaling.attn_factor": mx.array(factor, mx.float32),
    }


def llama3_divisors(rope, head_dim=16):
    """What llama.cpp's converter writes for Llama 3.1: `generate_extra_tensors` of `LlamaModel`."""
    original, low, high = (
        rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )  # fmt: skip
    factors = []
    for frequency in rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < original / high:
            factors.append(1)
        elif wavelength > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def add(writer, name, value):
    """One setting, in the type that llama.cpp's converter gives it."""
    kinds = gguf.GGUFValueType
    if isinstance(value, str):
        writer.add_key_value(name, value, kinds.STRING)
    elif isinstance(value, list):
        writer.add_array(name, value)
    elif value.ndim:
        writer.add_array(name, value.tolist())
    elif value.dtype == mx.bool_:
        writer.add_key_value(name, value.item(), kinds.BOOL)
    elif value.dtype == mx.uint32:
        writer.add_key_value(name, value.item(), kinds.UINT32)
    else:
        writer.add_key_value(name, value.item(), kinds.FLOAT32)


def save(path, weights, found):
    """A GGUF file with the package's writer, which knows more types than MLX."""
    writer = gguf.GGUFWriter(path, found["general.architecture"])
    for name, value in found.items():
        if name != "general.architecture":
            add(writer, name, value)
    for name, array in weights.items():
        writer.add_tensor(name, np.array(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
