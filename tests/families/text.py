"""Text backbones alone, with every kind of rotary scaling and sliding window.

The prompt has 20 tokens, so that original contexts of 8 and windows of 6 to 12 end within it; the greedy answer of 16
tokens crosses the 28 of one case of longrope.
"""

from __future__ import annotations

import copy

from families import Case

SIZES = {
    "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "eos_token_id": 2, "bos_token_id": 1,
    "pad_token_id": 0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
CONVERSATION = "text"


def case(name, kind, rope, old_scaling=None, **changes):
    """A case with `rope` as transformers 5 writes it and (`old_scaling`) as transformers 4 wrote the rest of it.

    Nothing is shared between cases: transformers writes into the dictionaries that it is given.
    """
    rope = copy.deepcopy(rope)
    config = {"model_type": kind, **SIZES, **changes}
    old = config | {"rope_theta": rope["rope_theta"], "rope_scaling": old_scaling}
    return Case(name, config | {"rope_parameters": rope}, image_text="", conversations=(CONVERSATION,), old_config=old)


def scaled(name, kind, rope, **changes):
    """A case with a rope scaling, whose keys are the same in both eras but for the base and the name of the kind."""
    old = {k: v for k, v in rope.items() if k not in ("rope_theta", "rope_type")} | {"type": rope["rope_type"]}
    return case(name, kind, rope, old, **changes)


def rope(kind="default", theta=5000.0, **rest):
    """rope_parameters."""
    return {"rope_type": kind, "rope_theta": theta, **rest}


SHORT, LONG = [1.0 + 0.1 * i for i in range(8)], [1.5 + 0.9 * i for i in range(8)]
LONGROPE = rope("longrope", short_factor=SHORT, long_factor=LONG)
CASES = [
    case("llama", "llama", rope()),
    case("llama-tied", "llama", rope(), tie_word_embeddings=True, head_dim=24, num_key_value_heads=1),
    case("mistral", "mistral", rope(), sliding_window=None, head_dim=16),
    case("mistral-sliding", "mistral", rope(), sliding_window=6, head_dim=16),
    case("qwen2", "qwen2", rope(), use_sliding_window=False, sliding_window=6, max_window_layers=1),
    case("qwen2-sliding", "qwen2", rope(), use_sliding_window=True, sliding_window=6, max_window_layers=2),
    case("qwen3", "qwen3", rope(), head_dim=32, num_key_value_heads=4),
    case(
        "qwen3-sliding", "qwen3", rope(), head_dim=32, use_sliding_window=True, sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    case(
        "qwen3_moe", "qwen3_moe", rope(), head_dim=32, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=32,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1], use_sliding_window=False,
    ),
    case(
        "qwen2_moe", "qwen2_moe", rope(), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=40,
        shared_expert_intermediate_size=56, norm_topk_prob=False, decoder_sparse_step=2, qkv_bias=True,
    ),
    case("phi3", "phi3", rope(partial_rotary_factor=1.0), sliding_window=11, tie_word_embeddings=False),
    scaled("phi3-longrope-short", "phi3", LONGROPE, original_max_position_embeddings=28, sliding_window=None),
    scaled("phi3-longrope-long", "phi3", LONGROPE, original_max_position_embeddings=8, sliding_window=None),
    scaled("llama-linear", "llama", rope("linear", factor=4.0)),
    scaled(
        "llama-llama3", "llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
    ),
    scaled("qwen2-yarn", "qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=8)),
    scaled(
        "llama-yarn-mscale", "llama",
        rope(
            "yarn", factor=40.0, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=0.8, beta_fast=8,
            beta_slow=0.5, truncate=False,
        ),
    ),
]  # fmt: skip
