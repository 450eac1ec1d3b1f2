"""What a configuration of transformers 4 left out: it wrote down only what differs from the class's defaults.

Vision-language checkpoints of that time hold a text part of a few keys, and the sizes of a 7B model nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "ministral3": _LLAMA
    | {
        "vocab_size": 131072,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
    "phi3": _LLAMA
    | {
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
}
"""By model type of the text backbone; the rotary base is 10,000 for all of them."""

_THETA = 10000.0


def with_defaults(text: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """The text part of a configuration with what it leaves out. A key that is null is not left out.

    Args:
        text: the part as it was read.
        kind: its model type.
        where: where it stands, for errors.

    Raises:
        ConfigError: for a backbone that is not known.
    """
    if kind not in DEFAULTS:
        raise ConfigError(f"{where}: model_type {kind!r} is not supported, only {', '.join(DEFAULTS)}")
    complete = DEFAULTS[kind] | dict(text)
    rope = Keys(complete, where).get("rope_parameters", dict, {})
    if rope.get("rope_theta") is None and complete.get("rope_theta") is None:
        complete["rope_theta"] = _THETA
    return complete
